/** Einstein summation, contracted pair by pair as batched matrix products. */
import { FormatError, ShapeError, wordShape } from "../errors.ts";
import { matmul } from "../graph/contraction.ts";
import { isFloat } from "../graph/dtype.ts";
import { mul } from "../graph/elementwise.ts";
import { expand, permute, reshape } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { reduceSum } from "../graph/reduction.ts";
import { sizeOf } from "../graph/shape.ts";
import { diagonal } from "./arrange.ts";

/** A tensor whose axes have names: a letter, or "…0", "…1" for those behind an ellipsis, counted from the last. */
interface Named {
  readonly x: Tensor;
  readonly labels: readonly string[];
}

interface Equation {
  readonly inputs: readonly (readonly string[])[];
  readonly output: readonly string[];
}

function parse(equation: string, tensors: readonly Tensor[]): Equation {
  const fail = (problem: string, hint?: string): never => {
    throw new FormatError(`${problem} in "${equation}".`, { operation: "einsum", got: equation, ...(hint && { hint }) });
  };
  const compact = equation.replace(/\s+/g, "");
  const [left = "", right, ...more] = compact.split("->");
  if (more.length) fail('more than one "->"');
  const terms = left.split(",");
  if (terms.length !== tensors.length) fail(`${terms.length} terms for ${tensors.length} tensors`);
  const letters = (term: string): string[] => {
    const parts = term.split("...");
    if (parts.length > 2 || !/^[A-Za-z]*$/.test(parts.join("")))
      fail(`"${term}" is not a list of axes`, 'Use letters and "...".');
    return parts.length === 1 ? [...term] : [...parts[0]!, "...", ...parts[1]!];
  };
  const inputs = terms.map((term, i) => {
    const names = letters(term);
    const { shape } = tensors[i]!;
    const dots = names.includes("...");
    const hidden = shape.length - names.length + (dots ? 1 : 0);
    if (hidden < 0 || (!dots && hidden !== 0))
      throw new ShapeError(`"${term}" names ${names.length - (dots ? 1 : 0)} axes, tensor ${i} is ${wordShape(shape)}.`, {
        operation: "einsum",
        expected: names.length,
        got: shape,
      });
    return names.flatMap((name) => (name === "..." ? Array.from({ length: hidden }, (_, k) => `…${hidden - 1 - k}`) : [name]));
  });
  const all = inputs.flat();
  const ellipsis = [...new Set(all.filter((name) => name.startsWith("…")))].sort(
    (a, b) => Number(b.slice(1)) - Number(a.slice(1)),
  );
  // without "->": the ellipsis, then every letter that stands once, in alphabetical order
  const once = [...new Set(all.filter((name) => !name.startsWith("…") && all.indexOf(name) === all.lastIndexOf(name)))].sort();
  const output =
    right === undefined ? [...ellipsis, ...once] : letters(right).flatMap((name) => (name === "..." ? ellipsis : [name]));
  for (const name of output) if (!all.includes(name)) fail(`the result's axis "${name}" is in no term`);
  if (new Set(output).size !== output.length) fail("the result names an axis twice");
  return { inputs, output };
}

/** Repeated letters of one term become its diagonal. */
function takeDiagonals({ x, labels }: Named): Named {
  const twice = labels.findIndex((label, i) => labels.indexOf(label) !== i);
  if (twice < 0) return { x, labels };
  const label = labels[twice]!;
  const first = labels.indexOf(label);
  if (x.shape[first] !== x.shape[twice])
    throw new ShapeError(`axes "${label}" of ${wordShape(x.shape)} differ (${x.shape[first]} ≠ ${x.shape[twice]}).`, {
      operation: "einsum",
      got: x.shape,
    });
  return takeDiagonals({
    x: diagonal(x, 0, first, twice),
    labels: [...labels.filter((_, i) => i !== first && i !== twice), label],
  });
}

/** Sums over the axes that are not in `wanted`. */
function sumOut({ x, labels }: Named, wanted: ReadonlySet<string>): Named {
  const axes = labels.flatMap((label, axis) => (wanted.has(label) ? [] : [axis]));
  if (axes.length === 0) return { x, labels };
  const kept = labels.filter((label) => wanted.has(label));
  return {
    x: reshape(
      reduceSum(x, axes),
      kept.map((label) => x.shape[labels.indexOf(label)]!),
    ),
    labels: kept,
  };
}

/** Axes in the order of `labels`; those that are missing come with size 1. */
const arrangeAs = ({ x, labels: own }: Named, labels: readonly string[]): Tensor => {
  const there = labels.filter((label) => own.includes(label));
  const ordered = permute(
    x,
    there.map((label) => own.indexOf(label)),
  );
  return reshape(
    ordered,
    labels.map((label) => (own.includes(label) ? x.shape[own.indexOf(label)]! : 1)),
  );
};

/** Product of two terms, summed over everything that is not in `wanted`. */
function contract(a: Named, b: Named, sizes: ReadonlyMap<string, number>, wanted: ReadonlySet<string>): Named {
  const inBoth = new Set(a.labels.filter((label) => b.labels.includes(label)));
  const kept = new Set([...wanted, ...inBoth]);
  const [left, right] = [sumOut(a, kept), sumOut(b, kept)];
  const shared = [...inBoth];
  const batch = shared.filter((label) => wanted.has(label));
  const summed = shared.filter((label) => !wanted.has(label));
  const onlyLeft = left.labels.filter((label) => !inBoth.has(label));
  const onlyRight = right.labels.filter((label) => !inBoth.has(label));
  const labels = [...batch, ...onlyLeft, ...onlyRight];
  if (summed.length === 0 || !isFloat(left.x.dtype) || !isFloat(right.x.dtype)) {
    const all = [...labels, ...summed];
    return sumOut({ x: mul(arrangeAs(left, all), arrangeAs(right, all)), labels: all }, wanted);
  }
  const extents = ({ x, labels: own }: Named, names: readonly string[]) => names.map((name) => x.shape[own.indexOf(name)]!);
  // sizes of 1 that stand for more are spread over the summed axes; over the batch axes the product does it
  const spread = (term: Named, order: readonly string[]) => {
    const arranged = arrangeAs(term, order);
    return expand(
      arranged,
      order.map((label, axis) => (summed.includes(label) ? sizes.get(label)! : arranged.shape[axis]!)),
    );
  };
  const K = summed.reduce((product, label) => product * sizes.get(label)!, 1);
  const batched = (x: Tensor) => x.shape.slice(0, batch.length);
  const A = spread(left, [...batch, ...onlyLeft, ...summed]);
  const B = spread(right, [...batch, ...summed, ...onlyRight]);
  const y = matmul(
    reshape(A, [...batched(A), sizeOf(extents(left, onlyLeft)), K]),
    reshape(B, [...batched(B), K, sizeOf(extents(right, onlyRight))]),
  );
  return { x: reshape(y, [...batched(y), ...extents(left, onlyLeft), ...extents(right, onlyRight)]), labels };
}

/**
 * Sums of products over named axes, as in numpy: axes with a letter that is not in the result are summed over, equal letters
 * run together, `...` stands for axes that are not named. Several tensors are contracted from left to right.
 *
 * @throws {FormatError} for an equation that cannot be read; @throws {ShapeError} when sizes under one letter differ
 * @example
 * einsum("bqhd,bkhd->bhqk", q, k)                   // attention scores: float32 [B, H, Tq, Tk]
 * einsum("ii->i", tensor([[1, 2], [3, 4]]))         // [1 4] float32 [2]
 * einsum("i,j->ij", tensor([1, 2]), tensor([1, 10]))
 * // [[ 1 10]
 * //  [ 2 20]] float32 [2, 2]
 */
export function einsum(equation: string, ...tensors: readonly Tensor[]): Tensor {
  const { inputs, output } = parse(equation, tensors);
  const sizes = new Map<string, number>();
  inputs.forEach((labels, i) => {
    labels.forEach((label, axis) => {
      const extent = tensors[i]!.shape[axis]!;
      const known = sizes.get(label) ?? 1;
      if (known !== 1 && extent !== 1 && known !== extent)
        throw new ShapeError(
          `axis "${label}" is ${known} in one term and ${extent} in tensor ${i} ${wordShape(tensors[i]!.shape)}.`,
          {
            operation: "einsum",
            expected: known,
            got: extent,
          },
        );
      if (known === 1) sizes.set(label, extent);
    });
  });
  const terms = inputs.map((labels, i) => takeDiagonals({ x: tensors[i]!, labels }));
  const needed = (from: number) => new Set([...output, ...terms.slice(from).flatMap(({ labels }) => labels)]);
  let result = sumOut(terms[0]!, needed(1));
  for (let i = 1; i < terms.length; i++) result = contract(result, terms[i]!, sizes, needed(i + 1));
  return arrangeAs(result, output);
}
