/** Folds of everything up to a place, differences between neighbours, and what stands where in order. */
import { checkOptions, requireKind, ShapeError, wordShape } from "../errors.ts";
import { isFloat, requireFloat } from "../graph/dtype.ts";
import { add, equal, exp, less, max, mul, neg, or, sub, where } from "../graph/elementwise.ts";
import { reshape, sliceAxis } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { reduceSum } from "../graph/reduction.ts";
import { normalizeAxis } from "../graph/shape.ts";
import { constant, number } from "../graph/source.ts";
import { concatenate, gather, positionsAlong, type Sorted, sort, squeeze } from "./arrange.ts";
import { abs, isNan, lerp, lessEqual, log1p, minimum } from "./math.ts";
import { any, asInteger, type Extremes } from "./statistics.ts";

/** ⌈log₂ n⌉ steps over the whole axis: after each, a place has what stands up to twice as far before it. */
function running(operation: string, x: Tensor, axis: number, combine: (x: Tensor, y: Tensor) => Tensor): Tensor {
  const at = normalizeAxis(operation, axis, x.rank);
  const n = x.shape[at]!;
  let y = x;
  for (let by = 1; by < n; by *= 2)
    y = concatenate([sliceAxis(y, at, 0, by), combine(sliceAxis(y, at, by, n), sliceAxis(y, at, 0, n - by))], at);
  return y;
}

/** Running product along `axis`. bool and uint8 are counted in int32. */
export function cumprod(x: Tensor, axis: number): Tensor {
  return running("cumprod", asInteger(x), axis, mul);
}

/** The largest up to each place along `axis`, and the last place so far where it stands. The gradient goes to that place alone. */
export const cummax = (x: Tensor, axis: number): Extremes => runningExtremes("cummax", x, axis, max);

/** The smallest up to each place along `axis`, and the last place so far where it stands. The gradient goes to that place alone. */
export const cummin = (x: Tensor, axis: number): Extremes => runningExtremes("cummin", x, axis, minimum);

function runningExtremes(operation: string, x: Tensor, axis: number, combine: typeof max): Extremes {
  const at = normalizeAxis(operation, axis, x.rank);
  const reached = equal(x, running(operation, x, at, combine));
  const hit = isFloat(x.dtype) ? or(reached, isNan(x)) : reached;
  const indices = running(operation, where(hit, positionsAlong(x.shape, at), constant(0, [], "int32")), at, max);
  return { values: gather(x, indices, at), indices };
}

/** ln(eˣ + eʸ), without overflow. */
function logAddExp(x: Tensor, y: Tensor): Tensor {
  const apart = where(equal(x, y), number(x, 0), sub(x, y)); // also where both are −∞
  return add(max(x, y), log1p(exp(neg(abs(apart)))));
}

/** ln of the running sum of eˣ along `axis`, without overflow. */
export function logCumSumExp(x: Tensor, axis: number): Tensor {
  requireFloat("logCumSumExp", x.dtype);
  return running("logCumSumExp", x, axis, logAddExp);
}

/** Each value less the one before it along `axis`; one value fewer. */
export function diff(x: Tensor, axis = -1): Tensor {
  const at = normalizeAxis("diff", axis, x.rank);
  const n = x.shape[at]!;
  return n === 0 ? x : sub(sliceAxis(x, at, 1, n), sliceAxis(x, at, 0, n - 1));
}

/** All along an axis in order, and where there is NaN. */
function inOrder(operation: string, x: Tensor, axis: number): { sorted: Sorted; at: number; n: number; unknown: Tensor } {
  requireFloat(operation, x.dtype);
  const at = normalizeAxis(operation, axis, x.rank);
  const n = x.shape[at]!;
  if (n === 0) throw new ShapeError(`nothing along the axis of ${wordShape(x.shape)}.`, { operation, got: x.shape });
  return { sorted: sort(x, at), at, n, unknown: any(isNan(x), at, true) };
}

/** The value below which a share `q` of all lies, along `axis` or of all; in between it goes in a straight line. NaN where one is. */
export function quantile(x: Tensor, q: number, axis?: number | null, keepDims = false): Tensor {
  requireKind("quantile", "a number from 0 to 1", { q });
  requireKind("quantile", "true or false", { keepDims });
  if (axis === null || axis === undefined)
    return reshape(quantile(reshape(x, [x.size]), q, 0), keepDims ? x.shape.map(() => 1) : []);
  const { sorted, at, n, unknown } = inOrder("quantile", x, axis);
  const place = q * (n - 1);
  const [low, share] = [Math.floor(place), place % 1];
  const near = (i: number) => sliceAxis(sorted.values, at, i, i + 1);
  const y = share === 0 ? near(low) : lerp(near(low), near(low + 1), number(x, share));
  const known = where(unknown, number(x, Number.NaN), y);
  return keepDims ? known : squeeze(known, at);
}

/** The middle value along `axis` and where it stands; the lower one of two, as in PyTorch. NaN where one is. */
export function median(x: Tensor, axis = -1, keepDims = false): Extremes {
  requireKind("median", "true or false", { keepDims });
  const { sorted, at, n, unknown } = inOrder("median", x, axis);
  const near = (i: number) => sliceAxis(sorted.indices, at, i, i + 1);
  // NaN is sorted behind all others
  const indices = where(unknown, near(n - 1), near(Math.floor((n - 1) / 2)));
  const values = gather(x, indices, at);
  return keepDims ? { values, indices } : { values: squeeze(values, at), indices: squeeze(indices, at) };
}

/** The middle value of all. */
export const medianOfAll = (x: Tensor): Tensor => median(reshape(x, [x.size]), 0).values;

/**
 * Where each value would go into a row that is in order: how many stand before it, int32. Compares with all of them.
 *
 * @param sorted  [n], or [..., n] with a row for each row of values
 * @param options.right behind equal ones instead of before them
 */
export function searchSorted(sorted: Tensor, values: Tensor, options: { readonly right?: boolean } = {}): Tensor {
  const { right = false } = checkOptions("searchSorted", options, { right: "true or false" });
  const n = sorted.shape.at(-1);
  if (n === undefined || (sorted.rank > 1 && sorted.rank !== values.rank))
    throw new ShapeError(`${wordShape(sorted.shape)} has no row for each row of ${wordShape(values.shape)}.`, {
      operation: "searchSorted",
      got: sorted.shape,
    });
  const rows = sorted.rank === 1 ? sorted : reshape(sorted, [...sorted.shape.slice(0, -1), 1, n]);
  const each = reshape(values, [...values.shape, 1]);
  const before = reduceSum((right ? lessEqual : less)(rows, each), [values.rank]);
  return reshape(before, before.shape.slice(0, -1));
}
