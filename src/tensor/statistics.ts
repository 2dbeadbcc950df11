/**
 * Folding axes: sums, extremes, moments, softmax. `axes` is one axis, a list, or nothing for all of them; negative axes count
 * from the back. The folded axes are dropped unless `keepDims`. Meaning and derivative are PyTorch's.
 */
import { withVjp } from "../autograd/custom.ts";
import { checkOptions, ShapeError, wordShape } from "../errors.ts";
import { sizeValue } from "../graph/composite.ts";
import { isFloat, requireFloat } from "../graph/dtype.ts";
import {
  add,
  cast,
  div,
  equal,
  exp,
  less,
  log,
  max as maximum,
  mul,
  neg,
  or,
  recip,
  sqrt,
  sub,
  where,
  xor,
} from "../graph/elementwise.ts";
import { cumulativeSum } from "../graph/indexing.ts";
import { expand, reshape, stopGradient, transpose } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { reduceMax, reduceProduct, reduceSum, shareOut } from "../graph/reduction.ts";
import { normalizeAxes, normalizeAxis } from "../graph/shape.ts";
import { constant, number } from "../graph/source.ts";
import { abs, isNan, logicalNot, notEqual, powScalar, sign } from "./math.ts";
import { positionsAlong } from "./pick.ts";

/** Which axes to fold: one, several, or all when absent. */
export type Axes = number | readonly number[] | null | undefined;

/** Which axes are folded, and whether they stay. */
export interface FoldOptions {
  readonly axes?: Axes;
  /** Leaves the folded axes in the shape, with size 1. */
  readonly keepDims?: boolean;
}

/** Integers as float32. */
export const toFloat = (x: Tensor): Tensor => (isFloat(x.dtype) ? x : cast(x, "float32"));
const countOf = (x: Tensor, axes: readonly number[]): number => axes.reduce((count, axis) => count * x.shape[axis]!, 1);

/** Drops folded axes, which have size 1. */
const drop = (x: Tensor, axes: readonly number[], keepDims: boolean): Tensor =>
  keepDims
    ? x
    : reshape(
        x,
        x.shape.filter((_, axis) => !axes.includes(axis)),
      );

/** Σ x. bool and uint8 are counted in int32. */
export function sum(x: Tensor, axes?: Axes, keepDims = false): Tensor {
  const list = normalizeAxes("sum", axes, x.rank);
  return drop(reduceSum(x, list), list, keepDims);
}

/** Σ x / n; integers become float32. NaN when there is nothing to average. */
export function mean(x: Tensor, axes?: Axes, keepDims = false): Tensor {
  const list = normalizeAxes("mean", axes, x.rank);
  const z = toFloat(x);
  return drop(div(reduceSum(z, list), cast(sizeValue(countOf(x, list)), z.dtype)), list, keepDims);
}

/** Π x. */
export function prod(x: Tensor, axes?: Axes, keepDims = false): Tensor {
  const list = normalizeAxes("prod", axes, x.rank);
  return drop(reduceProduct(x, list), list, keepDims);
}

function requireElements(operation: string, x: Tensor, axes: readonly number[]): void {
  if (countOf(x, axes) === 0)
    throw new ShapeError(`nothing to compare along axes ${wordShape(axes)} of ${wordShape(x.shape)}.`, {
      operation,
      got: x.shape,
    });
}

/** The largest x; where several are, they share the gradient. */
export function amax(x: Tensor, axes?: Axes, keepDims = false): Tensor {
  const list = normalizeAxes("amax", axes, x.rank);
  requireElements("amax", x, list);
  return drop(largest(x, list), list, keepDims);
}

/** The smallest x; where several are, they share the gradient. */
export function amin(x: Tensor, axes?: Axes, keepDims = false): Tensor {
  const list = normalizeAxes("amin", axes, x.rank);
  requireElements("amin", x, list);
  return drop(smallest(x, list), list, keepDims);
}

/** bool and uint8 as int32, in which they are compared and counted. */
export const asInteger = (x: Tensor): Tensor => (x.dtype === "bool" || x.dtype === "uint8" ? cast(x, "int32") : x);
const largest = (x: Tensor, axes: readonly number[]): Tensor => cast(top(asInteger(x), axes), x.dtype);
const smallest = (x: Tensor, axes: readonly number[]): Tensor => {
  const turn = isFloat(x.dtype) ? neg : (z: Tensor) => xor(z, constant(-1, [], "int32")); // −x − 1: −2³¹ has no negative
  return cast(turn(top(turn(asInteger(x)), axes)), x.dtype);
};

/** The largest, whose derivative all that are as large share, also where the axes are folded in several steps. */
const top = (x: Tensor, axes: readonly number[]): Tensor =>
  axes.length < 2
    ? reduceMax(x, axes)
    : withVjp(
        (z) => reduceMax(z, axes),
        (g, y, z) => [shareOut(g, y, z!)],
      )(x);

/** Values and where they were found, as int32. */
export interface Extremes {
  readonly values: Tensor;
  readonly indices: Tensor;
}

/** The largest along one axis and the first index where it stands. The gradient goes to that index alone. */
export const max = (x: Tensor, axis = -1, keepDims = false): Extremes => extremes("max", x, axis, keepDims, argmax);

/** The smallest along one axis and the first index where it stands. The gradient goes to that index alone. */
export const min = (x: Tensor, axis = -1, keepDims = false): Extremes => extremes("min", x, axis, keepDims, argmin);

function extremes(operation: string, x: Tensor, axis: number, keepDims: boolean, find: typeof argmax): Extremes {
  const at = normalizeAxis(operation, axis, x.rank);
  requireElements(operation, x, [at]);
  const indices = find(x, at, true);
  const picked = where(equal(positionsAlong(x.shape, at), indices), x, number(x, 0));
  const values = cast(reduceSum(picked, [at]), x.dtype);
  return { values: drop(values, [at], keepDims), indices: drop(indices, [at], keepDims) };
}

/** Index of the first largest element along `axis`, or in row-major order of all; NaN counts as largest. int32. */
export const argmax = (x: Tensor, axis?: number | null, keepDims = false): Tensor =>
  firstExtreme("argmax", x, axis, keepDims, largest);

/** Index of the first smallest element along `axis`, or in row-major order of all; NaN counts as smallest. int32. */
export const argmin = (x: Tensor, axis?: number | null, keepDims = false): Tensor =>
  firstExtreme("argmin", x, axis, keepDims, smallest);

function firstExtreme(
  operation: string,
  x: Tensor,
  axis: number | null | undefined,
  keepDims: boolean,
  fold: typeof largest,
): Tensor {
  if (axis === undefined || axis === null) {
    const index = firstExtreme(operation, reshape(x, [x.size]), 0, false, fold);
    return keepDims
      ? reshape(
          index,
          x.shape.map(() => 1),
        )
      : index;
  }
  const at = normalizeAxis(operation, axis, x.rank);
  requireElements(operation, x, [at]);
  const extreme = equal(x, fold(x, [at]));
  const hit = isFloat(x.dtype) ? or(extreme, isNan(x)) : extreme;
  const N = constant(x.shape[at]!, [], "int32");
  // the largest of N − index over the hits is at the first of them
  const first = sub(N, reduceMax(where(hit, sub(N, positionsAlong(x.shape, at)), constant(0, [], "int32")), [at]));
  return drop(first, [at], keepDims);
}

/** True where any x is not zero. */
export function any(x: Tensor, axes?: Axes, keepDims = false): Tensor {
  return less(constant(0, [], "int32"), sum(cast(x, "bool"), axes, keepDims));
}

/** True where no x is zero. */
export function all(x: Tensor, axes?: Axes, keepDims = false): Tensor {
  return equal(sum(logicalNot(x), axes, keepDims), constant(0, [], "int32"));
}

/** What `variance` and `std` divide by. */
export interface VarianceOptions extends FoldOptions {
  /** Divides by n − correction: 1 (the default) for the unbiased estimate of a sample, 0 for a whole population. */
  readonly correction?: number;
}

/** Σ (x − mean)² / (n − correction), to the last digits also where x is far from 0 and hardly spread. */
export function variance(x: Tensor, options: VarianceOptions = {}): Tensor {
  checkOptions("variance", options, { axes: null, correction: "a finite number", keepDims: "true or false" });
  const { axes, correction = 1, keepDims = false } = options;
  requireFloat("variance", x.dtype);
  const list = normalizeAxes("variance", axes, x.rank);
  const count = countOf(x, list);
  const scale = 1 / Math.max(count - correction, 0);
  // the mean is a source of its own without a cotangent: what would go through it is Σ (x − mean) = 0, but for the mean's rounding,
  // which is taken out of the squares: it is more than the spread of values that are close together and far from 0
  const spread = withVjp(
    (z, m) => {
      const d = sub(z!, m!);
      const rounding = reduceSum(d, list);
      const squares = sub(reduceSum(mul(d, d), list), mul(mul(rounding, rounding), number(z!, 1 / count)));
      return mul(maximum(squares, number(z!, 0)), number(z!, scale));
    },
    (g, _y, z, m) => [mul(expand(mul(g, number(g, 2 * scale)), z!.shape), sub(z!, m!)), null],
  );
  return drop(spread(x, mean(x, list, true)), list, keepDims);
}

/** √variance; where all x are equal, 0 with a gradient of 0. */
export const std = (x: Tensor, options: VarianceOptions = {}): Tensor => root(variance(x, options));

/** √x, with 0 for the derivative that there is not at 0, as in PyTorch's norms. */
const root = withVjp(
  (x) => sqrt(x!),
  (g, y) => [mul(g, where(equal(y, number(y, 0)), number(y, 0), mul(number(y, 0.5), recip(y))))],
);

/** Which norm. */
export interface NormOptions extends FoldOptions {
  /** Order of the norm: 2 by default; 1, Infinity, −Infinity, 0 (how many are not zero), or any other number. */
  readonly p?: number;
}

const euclidean = (axes: readonly number[]) =>
  withVjp(
    (x) => sqrt(reduceSum(mul(x!, x!), axes)),
    // at the origin, where there is no derivative, 0 as in PyTorch
    (g, y, x) => [mul(x!, where(equal(y, number(y, 0)), number(y, 0), mul(g, recip(y))))],
  );

/** Any other p: the derivative is ±(|x| / y)ᵖ⁻¹, and 0 where x or y is 0, as in PyTorch. */
const powers = (p: number, axes: readonly number[]) =>
  withVjp(
    (x) => powScalar(reduceSum(powScalar(abs(x!), p), axes), 1 / p),
    (g, y, x) => {
      const [zero, one] = [number(y, 0), number(y, 1)];
      const none = or(equal(x!, zero), equal(y, zero));
      const ratio = where(none, one, div(abs(x!), where(equal(y, zero), one, y)));
      return [mul(g, where(none, zero, mul(sign(x!), powScalar(ratio, p - 1))))];
    },
  );

/** (Σ |x|ᵖ)^(1/p). */
export function norm(x: Tensor, options: NormOptions = {}): Tensor {
  checkOptions("norm", options, { p: "a number", axes: null, keepDims: "true or false" });
  const { p = 2, axes, keepDims = false } = options;
  requireFloat("norm", x.dtype);
  const list = normalizeAxes("norm", axes, x.rank);
  const folded = (): Tensor => {
    if (p === 2) return euclidean(list)(x);
    if (p === 1) return reduceSum(abs(x), list);
    if (!Number.isFinite(p)) requireElements("norm", x, list);
    if (p === Number.POSITIVE_INFINITY) return largest(abs(x), list);
    if (p === Number.NEGATIVE_INFINITY) return smallest(abs(x), list);
    if (p === 0) return reduceSum(cast(notEqual(x, number(x, 0)), x.dtype), list);
    return powers(p, list)(x);
  };
  return drop(folded(), list, keepDims);
}

/** The largest, or 0 where it is not a number to subtract (−∞ in a row that is masked entirely): what keeps exponents ≤ 0. */
function shift(x: Tensor, axes: readonly number[]): Tensor {
  const m = stopGradient(reduceMax(x, axes));
  return where(less(number(x, Number.NEGATIVE_INFINITY), m), m, number(x, 0));
}

/**
 * Σ e^(x − m), which is at least 1 unless every x is −∞; 1 then, so that nothing is divided by 0. Not the larger of both: where one x
 * stands far above the others the sum is 1 too, and a tie would halve its derivative.
 */
function partition(e: Tensor, axes: readonly number[]): Tensor {
  const total = reduceSum(e, axes);
  return where(less(total, number(e, 1)), number(e, 1), total);
}

/** eˣ / Σ eˣ, times what is the same along the axes. */
function shares(x: Tensor, axes: readonly number[], factor?: Tensor): Tensor {
  const e = exp(sub(x, shift(x, axes)));
  const inverse = recip(partition(e, axes));
  return mul(e, factor ? mul(factor, inverse) : inverse);
}

/** ln Σ eˣ; NaN where one x is ∞, as the cross-entropy of such a row is. The axes stay. */
const logSums = (x: Tensor, axes: readonly number[]): Tensor => {
  const m = shift(x, axes);
  return add(log(reduceSum(exp(sub(x, m)), axes)), m);
};

/** A way to ln Σ eˣ, with the derivative that all have: not e^(x − y), since in one launch the exponentials are there already, and y is rounded. */
const logSumBy = (way: (x: Tensor, axes: readonly number[]) => Tensor, axes: readonly number[]) =>
  withVjp(
    (x) => way(x!, axes),
    (g, _y, x) => [shares(x!, axes, g)],
  );

/** ln Σ eˣ along the last axis, which stays; of rows without ∞. */
export const logSumOfRows = (x: Tensor): Tensor => logSumBy(logSums, [x.rank - 1])(x);

const withInfinity = (x: Tensor, axes: readonly number[]): Tensor => {
  const m = reduceMax(x, axes);
  return where(equal(m, number(m, Number.POSITIVE_INFINITY)), m, logSums(x, axes));
};

/** ln Σ eˣ, without overflow; −∞ when all x are, ∞ when one is. */
export function logSumExp(x: Tensor, axes?: Axes, keepDims = false): Tensor {
  requireFloat("logSumExp", x.dtype);
  const list = normalizeAxes("logSumExp", axes, x.rank);
  return drop(logSumBy(withInfinity, list)(x), list, keepDims);
}

const softmaxOver = (axes: readonly number[]) =>
  withVjp(
    (x) => shares(x!, axes),
    (g, y) => [mul(y, sub(g, reduceSum(mul(g, y), axes)))],
  );

/**
 * eˣ / Σ eˣ along `axis`, without overflow; −∞ gives 0. A row of nothing but −∞ gives zeros and no gradient (PyTorch: NaN),
 * so that a padded row does no harm.
 */
export function softmax(x: Tensor, axis = -1): Tensor {
  requireFloat("softmax", x.dtype);
  return softmaxOver([normalizeAxis("softmax", axis, x.rank)])(x);
}

const logSoftmaxOver = (axes: readonly number[]) =>
  withVjp(
    (x) => {
      const z = sub(x!, shift(x!, axes));
      return sub(z, log(partition(exp(z), axes)));
    },
    (g, y) => [sub(g, mul(exp(y), reduceSum(g, axes)))],
  );

/** x − ln Σ eˣ along `axis`, without overflow. A row of nothing but −∞ stays as it is (PyTorch: NaN). */
export function logSoftmax(x: Tensor, axis = -1): Tensor {
  requireFloat("logSoftmax", x.dtype);
  return logSoftmaxOver([normalizeAxis("logSoftmax", axis, x.rank)])(x);
}

/** Running sum along `axis`. bool and uint8 are counted in int32. */
export function cumsum(x: Tensor, axis: number): Tensor {
  const at = normalizeAxis("cumsum", axis, x.rank);
  return transpose(cumulativeSum(transpose(asInteger(x), at, -1)), at, -1);
}

/** x / ‖x‖ along `axis`; norms below `epsilon` count as `epsilon`. @param operation in errors */
export function unitVectors(operation: string, x: Tensor, axis: number, epsilon: number): Tensor {
  const at = normalizeAxis(operation, axis, x.rank);
  return mul(x, recip(maximum(norm(x, { axes: at, keepDims: true }), number(x, epsilon))));
}

/** Σ x·y / (‖x‖·‖y‖) along `axis`; norms below `epsilon` count as `epsilon`. */
export function cosineSimilarity(
  x: Tensor,
  y: Tensor,
  options: { readonly axis?: number; readonly epsilon?: number } = {},
): Tensor {
  checkOptions("cosineSimilarity", options, { axis: "a whole number", epsilon: "a number from 0" });
  const { axis = -1, epsilon = 1e-8 } = options;
  const unit = (z: Tensor) => unitVectors("cosineSimilarity", z, axis, epsilon);
  return sum(mul(unit(x), unit(y)), axis);
}
