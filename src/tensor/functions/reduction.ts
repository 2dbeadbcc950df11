/** Public functions that fold axes: sums, extremes, norms, softmax. */
import type { Tensor } from "../../graph/node.ts";
import type { TensorLike } from "../create.ts";
import * as curve from "../curve.ts";
import { dispatched, ofOne, ofPair, ofTriple } from "../dispatch.ts";
import * as along from "../running.ts";
import * as statistics from "../statistics.ts";

/**
 * Σ x over `axes`: one, several, or all when absent; negative ones count from the back. Folded axes are dropped unless
 * `keepDims`. bool and uint8 are counted in int32.
 * @throws {ShapeError} for an axis that is not there, as in all functions that fold axes
 * @example
 * sum([[1, 2], [3, 4]], 0)         // [4 6] float32 [2]
 * sum([[1, 2], [3, 4]], -1, true)
 * // [[3]
 * //  [7]] float32 [2, 1]
 */
export const sum = ofOne("sum", statistics.sum, 2);
/** Σ x / n over `axes`; integers become float32. NaN when there is nothing to average. */
export const mean = ofOne("mean", statistics.mean, 2);
/** Π x over `axes`. */
export const prod = ofOne("prod", statistics.prod, 2);
/**
 * The largest x over `axes`; where several are, they share the gradient. NaN if any is.
 * @throws {ShapeError} when there is nothing to compare, as in all functions that look for extremes
 */
export const amax = ofOne("amax", statistics.amax, 2);
/** The smallest x over `axes`; where several are, they share the gradient. NaN if any is. */
export const amin = ofOne("amin", statistics.amin, 2);
/** True where any x along `axes` is not zero. */
export const any = ofOne("any", statistics.any, 2);
/** True where no x along `axes` is zero. */
export const all = ofOne("all", statistics.all, 2);
/**
 * Index of the first largest element along `axis`, or in row-major order of all; NaN counts as largest. int32.
 * @example
 * argmax([[1, 5], [7, 2]], 1)   // [1 0] int32 [2]
 */
export const argmax = ofOne("argmax", statistics.argmax, 2);
/** Index of the first smallest element along `axis`, or in row-major order of all; NaN counts as smallest. int32. */
export const argmin = ofOne("argmin", statistics.argmin, 2);
/** Σ (x − mean)² / (n − correction) over `axes`; `correction` is 1 by default. */
export const variance = ofOne("variance", statistics.variance, 1);
/** √variance; where all x are equal, 0 with a gradient of 0. */
export const std = ofOne("std", statistics.std, 1);
/**
 * (Σ |x|ᵖ)^(1/p) over `axes`; p is 2 by default, and may be 0 (how many are not zero), ±∞ or any other number.
 * @example
 * norm([3, 4])             // 5 float32 []
 * norm([3, 4], { p: 1 })   // 7 float32 []
 */
export const norm = ofOne("norm", statistics.norm, 1);
/** ln Σ eˣ over `axes`, without overflow; −∞ when all x are, ∞ when one is. */
export const logSumExp = ofOne("logSumExp", statistics.logSumExp, 2);
/**
 * eˣ / Σ eˣ along `axis` (the last by default), without overflow. A row of nothing but −∞ gives zeros (PyTorch: NaN).
 * @example
 * softmax([0, Math.log(3)])   // [0.25 0.75] float32 [2]
 */
export const softmax = ofOne("softmax", statistics.softmax, 1);
/** x − ln Σ eˣ along `axis` (the last by default), without overflow. A row of nothing but −∞ stays as it is (PyTorch: NaN). */
export const logSoftmax = ofOne("logSoftmax", statistics.logSoftmax, 1);
/**
 * Running sum along `axis`.
 * @example
 * cumsum([1, 2, 3], 0)   // [1 3 6] float32 [3]
 */
export const cumsum = ofOne("cumsum", statistics.cumsum, 1);
/** Running product along `axis`. */
export const cumprod = ofOne("cumprod", along.cumprod, 1);
/**
 * The largest up to each place along `axis`, and the last place so far where it stands. The gradient goes to that place alone.
 * @example
 * cummax([1, 3, 2], 0).indices   // [0 1 1] int32 [3]
 */
export const cummax = ofOne("cummax", along.cummax, 1);
/** The smallest up to each place along `axis`, and the last place so far where it stands. */
export const cummin = ofOne("cummin", along.cummin, 1);
/** ln of the running sum of eˣ along `axis`, without overflow. */
export const logCumSumExp = ofOne("logCumSumExp", along.logCumSumExp, 1);
/**
 * Each value less the one before it along `axis` (the last by default).
 * @example
 * diff([1, 4, 9])   // [3 5] float32 [2]
 */
export const diff = ofOne("diff", along.diff, 1);
/**
 * The value below which a share `q` lies, along `axis` or of all; between two values in a straight line. NaN where one is.
 * @example
 * quantile([1, 2, 4, 8], 0.5)   // 3 float32 []
 */
export const quantile = ofOne("quantile", along.quantile, 3);
/**
 * Where each value would go into `sorted`, [n] or a row for each row of values: how many stand before it, int32. `right` puts it behind
 * equal ones.
 * @example
 * searchSorted([1, 3, 5], [0, 3, 9])   // [0 1 3] int32 [3]
 */
export const searchSorted = ofPair("searchSorted", along.searchSorted, 1);
/**
 * How many values lie in each of `bins` (100) equal parts of a `range`, which holds both of its ends; without one it goes from the smallest
 * value to the largest. `weights` say what each counts.
 * @example
 * histc([0, 1, 1, 4], { bins: 4, range: [0, 4] })   // [1 2 0 1] float32 [4]
 */
export const histc = ofOne("histc", curve.histc, 1);
/**
 * The value at each x of straight lines through points [n] in order and their values [n]; outside of them the first or the last one, as in
 * numpy.
 * @example
 * interp([0.5, 3], [0, 1, 2], [0, 10, 30])   // [ 5 30] float32 [2]
 */
export const interp = ofTriple("interp", curve.interp);
/**
 * Powers of the last axis in columns: xⁿ⁻¹, …, x, 1, or from 1 upwards when `increasing`; n is its size unless `columns` says otherwise.
 * @example
 * vander([2, 3], { columns: 3 })
 * // [[4 2 1]
 * //  [9 3 1]] float32 [2, 3]
 */
export const vander = ofOne("vander", curve.vander, 1);
/**
 * The area below a curve through values along `axis` (the last by default), which stand `dx` apart or at `x`.
 * @example
 * trapezoid([1, 2, 3])   // 4 float32 []
 */
export const trapezoid = ofOne("trapezoid", curve.trapezoid, 1);
/**
 * Distances of every row of x [..., P, M] from every row of y [..., R, M]: (Σ |x − y|ᵖ)^(1/p), p being 2 by default.
 * @example
 * cdist([[0, 0]], [[3, 4], [0, 1]])   // [[5 1]] float32 [1, 2]
 */
export const cdist = ofPair("cdist", curve.cdist, 1);
/** Σ x·y / (‖x‖·‖y‖) along `axis` (the last by default); norms below `epsilon` (1e-8) count as `epsilon`. */
export const cosineSimilarity = ofPair("cosineSimilarity", statistics.cosineSimilarity, 1);

/** Without an axis the largest value of all; along an axis the largest values and where they stand, as in PyTorch. */
export interface Extreme {
  (x: TensorLike): Tensor;
  (x: TensorLike, axis: number, keepDims?: boolean): statistics.Extremes;
}
const extreme = (name: string, all: (x: Tensor) => Tensor, along: typeof statistics.max): Extreme =>
  dispatched(name, () => ({
    Tensor: (x: Tensor) => all(x),
    "Tensor, number": along,
    "Tensor, number, boolean": along,
  })) as Extreme;
/**
 * The largest of all; with an axis, the largest along it and where they stand, as in PyTorch. The gradient goes to that index
 * alone.
 * @example
 * max([[1, 5], [7, 2]])             // 7 float32 []
 * max([[1, 5], [7, 2]], 0).values   // [7 5] float32 [2]
 */
export const max = extreme("max", statistics.amax, statistics.max);
/** The smallest of all; with an axis, the smallest along it and where they stand, as in PyTorch. */
export const min = extreme("min", statistics.amin, statistics.min);
/**
 * The middle value of all; with an axis, the middle values along it and where they stand. Of two the lower one, as in PyTorch. NaN where one is.
 * @example
 * median([[1, 5, 2], [7, 2, 9]], 1).values   // [2 7] float32 [2]
 */
export const median = extreme("median", along.medianOfAll, along.median);
