/** Reductions: fold axes to size 1. The primitive keeps the folded axes; callers drop them with a reshape. */
import { isFloat } from "./dtype.ts";
import { cast, equal, less, mul, recip, where } from "./elementwise.ts";
import { expand, flip, pad, permute, reshape, sliceAxis } from "./movement.ts";
import { Tensor } from "./node.ts";
import type { Draw, Reduction, Sample } from "./primitive.ts";
import { type Shape, sizeOf } from "./shape.ts";
import { constant, iota, number } from "./source.ts";

const samples =
  (apply: (x: Tensor, axes: readonly number[]) => Tensor) =>
  (draw: Draw): Sample[] => {
    const shape = draw.shape(3, 5, 1);
    const axes = shape.flatMap((_, axis) => (draw.integer(0, 1) ? [axis] : []));
    return [{ inputs: [{ shape, domain: [0.4, 2] }], apply: (x) => apply(x, axes.length ? axes : [shape.length - 1]) }];
  };

/** See {@link reduceSum}. */
export const sumOp: Reduction = {
  kind: "reduction",
  name: "sum",
  formula: "Σ x",
  identity: 0,
  js: (accumulator, x) => `${accumulator} + ${x}`,
  vjp: (g, _y, x) => [expand(g, x!.shape)],
  samples: samples((x, axes) => reduceSum(x, axes)),
};

/** See {@link reduceMax}. */
export const maxReduceOp: Reduction = {
  kind: "reduction",
  name: "maxReduce",
  formula: "the largest x",
  identity: Number.NEGATIVE_INFINITY,
  js: (accumulator, x) => `Math.max(${accumulator}, ${x})`,
  vjp: (g, y, x) => [shareOut(g, y, x!)],
  samples: samples((x, axes) => reduceMax(x, axes)),
};

/** The axes that were folded from x to y, or would not have needed to be. */
const foldedAxes = (x: Tensor, y: Tensor): number[] =>
  x.shape.flatMap((extent, axis) => (extent !== y.shape[axis] ? [axis] : []));

/** The cotangent g of the largest of x, y, at every x that is as large: they share, as in PyTorch's amax. */
export function shareOut(g: Tensor, y: Tensor, x: Tensor): Tensor {
  const hit = cast(equal(x, expand(y, x.shape)), g.dtype);
  return mul(expand(mul(g, recip(reduceSum(hit, foldedAxes(x, y)))), x.shape), hit);
}

/**
 * For every x the product of all others along `axes`. Without a division, which zeros would forbid, and made of products only, so
 * that all further derivatives are right where there are zeros: neighbours are multiplied in pairs, and pairs of pairs.
 */
function productOfOthers(x: Tensor, axes: readonly number[]): Tensor {
  const order = [...x.shape.map((_, axis) => axis).filter((axis) => !axes.includes(axis)), ...axes];
  const moved = permute(x, order);
  const lead = moved.shape.slice(0, x.rank - axes.length);
  const n = sizeOf(axes.map((axis) => x.shape[axis]!));
  const rows = reshape(moved, [...lead, n]);
  const others = reshape(sliceAxis(othersInRow(rows), lead.length, 0, n), moved.shape);
  return permute(
    others,
    order.map((_, axis) => order.indexOf(axis)),
  );
}

/** The same along the last axis; with an even number behind, and what is added there is 1. */
function othersInRow(x: Tensor): Tensor {
  const lead = x.shape.slice(0, -1);
  const n = x.shape.at(-1)!;
  const one = number(x, 1);
  if (n < 2) return constant(1, x.shape, x.dtype);
  const none = lead.map(() => 0);
  const even = n % 2 === 0 ? x : where(less(iota([n + 1]), constant(n, [], "int32")), pad(x, [...none, 0], [...none, 1]), one);
  const pairs = reshape(even, [...lead, Math.ceil(n / 2), 2]);
  const part = (i: number) => reshape(sliceAxis(pairs, lead.length + 1, i, i + 1), pairs.shape.slice(0, -1));
  const outside = othersInRow(mul(part(0), part(1)));
  const others = mul(
    reshape(sliceAxis(outside, lead.length, 0, pairs.shape.at(-2)!), [...pairs.shape.slice(0, -1), 1]),
    flip(pairs, lead.length + 1),
  );
  return reshape(others, even.shape);
}

const productOp: Reduction = {
  kind: "reduction",
  name: "product",
  formula: "Π x",
  identity: 1,
  js: (accumulator, x) => `${accumulator} * ${x}`,
  vjp: (g, y, x) => [mul(expand(g, x!.shape), productOfOthers(x!, foldedAxes(x!, y)))],
  samples: samples((x, axes) => reduceProduct(x, axes)),
};

/**
 * Folds `axes`, keeping them with size 1. A device sees one of two forms: the last axis alone, or any axes but the last;
 * other wishes are put together from these two, on a tensor without axes of size 1.
 */
function reduce(op: Reduction, x: Tensor, axes: readonly number[]): Tensor {
  const folded = new Set(axes);
  const kept = x.shape.map((extent, axis) => (folded.has(axis) ? 1 : extent));
  const numeric = x.dtype === "bool" || x.dtype === "uint8" ? "int32" : x.dtype;
  const source = op === maxReduceOp ? x : cast(x, numeric);
  if (x.size === 0 || sizeOf(kept) === 0)
    return constant(op === maxReduceOp && !isFloat(x.dtype) ? -(2 ** 31) : op.identity, kept, source.dtype);
  const wide = x.shape.flatMap((extent, axis) => (extent === 1 ? [] : [axis]));
  const narrow = wide.flatMap((axis, i) => (folded.has(axis) ? [i] : []));
  if (narrow.length === 0) return reshape(source, kept);
  let result = reshape(
    source,
    wide.map((axis) => x.shape[axis]!),
  );
  const last = wide.length - 1;
  if (narrow.includes(last)) result = fold(op, result, [last]);
  const others = narrow.filter((axis) => axis !== last);
  // once the last axis is folded away the one before it is last
  if (others.length) {
    if (narrow.includes(last)) return reshape(reduce(op, reshape(result, result.shape.slice(0, last)), others), kept);
    result = fold(op, result, others);
  }
  return reshape(result, kept);
}

const fold = (op: Reduction, x: Tensor, axes: readonly number[]): Tensor =>
  new Tensor(op, [x], x.shape.map((extent, axis) => (axes.includes(axis) ? 1 : extent)) as Shape, x.dtype, { axes: [...axes] });

/** Σ over `axes`, which stay with size 1. bool and uint8 are summed as int32. */
export const reduceSum = (x: Tensor, axes: readonly number[]): Tensor => reduce(sumOp, x, axes);
/** The largest over `axes`, which stay with size 1. */
export const reduceMax = (x: Tensor, axes: readonly number[]): Tensor => reduce(maxReduceOp, x, axes);
/** Π over `axes`, which stay with size 1. */
export const reduceProduct = (x: Tensor, axes: readonly number[]): Tensor => reduce(productOp, x, axes);

/** The entries of this family, by name. */
export const reductions = { sum: sumOp, maxReduce: maxReduceOp, product: productOp } as const satisfies Record<string, Reduction>;
