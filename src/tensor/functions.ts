/**
 * The public functions of tensors. Each takes tensors, variables, numbers, nested arrays or typed arrays and is named
 * like the plain function behind it, in math.ts, statistics.ts, arrange.ts, pick.ts, convolution.ts and their kin.
 */
import { matmul as plainMatmul } from "../graph/contraction.ts";
import type { DType } from "../graph/dtype.ts";
import * as bitwise from "../graph/elementwise.ts";
import { stopGradient as plainStopGradient } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import * as arrange from "./arrange.ts";
import * as convolution from "./convolution.ts";
import { asIndex, asTensor, type TensorLike } from "./create.ts";
import { dispatched, type OfOne, ofList, ofOne, ofPair, ofTriple, ofTwo, withExtras } from "./dispatch.ts";
import { einsum as plainEinsum } from "./einsum.ts";
import { type IndexItem, at as plainAt } from "./index-expression.ts";
import * as math from "./math.ts";
import { type PrintOptions, print as plainPrint } from "./print.ts";
import * as named from "./rearrange.ts";
import * as statistics from "./statistics.ts";

// arithmetic; a number beside a tensor takes its dtype
/**
 * x + y, broadcast; a number beside a tensor takes its dtype.
 * @throws {ShapeError} when the shapes do not broadcast, as in all functions of two tensors
 * @example
 * add([[1, 2], [3, 4]], [10, 20])
 * // [[11 22]
 * //  [13 24]] float32 [2, 2]
 */
export const add = ofTwo("add", math.add);
/** x − y, broadcast. */
export const sub = ofTwo("sub", math.sub);
/** x · y, element by element, broadcast; for matrices see `matmul`. */
export const mul = ofTwo("mul", math.mul);
/**
 * x / y, broadcast; integers are widened to float32 first.
 * @example
 * div([1, 2], 4)   // [0.25 0.50] float32 [2]
 */
export const div = ofTwo("div", math.div);
/**
 * x − ⌊x/y⌋·y: what is left after division, with the sign of y, as in Python.
 * @example
 * mod([5, -5], 3)   // [2 1] float32 [2]
 */
export const mod = ofTwo("mod", math.mod);
/** The larger of x and y at every element; NaN if either is. Equal ones share the gradient. */
export const maximum = ofTwo("maximum", math.maximum);
/** The smaller of x and y at every element; NaN if either is. Equal ones share the gradient. */
export const minimum = ofTwo("minimum", math.minimum);
/**
 * xʸ; a number as exponent is done exactly where products and roots can.
 * @example
 * pow([2, 3], 2)   // [4 9] float32 [2]
 */
export const pow = dispatched("pow", () => ({
  "Tensor, Tensor": math.pow,
  "Tensor, number": math.powScalar,
  "number, Tensor": (x: number, y: Tensor) => math.pow(math.scalarLike(y, x), y),
})) as (x: TensorLike, y: TensorLike) => Tensor;
/** x < y, as bool. */
export const less = ofTwo("less", math.less);
/** x ≤ y, as bool. */
export const lessEqual = ofTwo("lessEqual", math.lessEqual);
/** x > y, as bool. */
export const greater = ofTwo("greater", math.greater);
/** x ≥ y, as bool. */
export const greaterEqual = ofTwo("greaterEqual", math.greaterEqual);
/** x = y, element by element, as bool; NaN equals nothing. */
export const equal = ofTwo("equal", math.equal);
/** x ≠ y, as bool. */
export const notEqual = ofTwo("notEqual", math.notEqual);
/** Where both are not zero, as bool. */
export const logicalAnd = ofTwo("logicalAnd", math.logicalAnd);
/** Where one of them is not zero, as bool. */
export const logicalOr = ofTwo("logicalOr", math.logicalOr);
/** Where just one of them is not zero, as bool. */
export const logicalXor = ofTwo("logicalXor", math.logicalXor);
/** Where x is zero, as bool. */
export const logicalNot = ofOne("logicalNot", math.logicalNot);
/**
 * x and y, bit by bit.
 * @throws {DTypeError} for floating-point values, as in all functions of bits
 */
export const bitwiseAnd = ofTwo("bitwiseAnd", bitwise.and);
/** x or y, bit by bit. */
export const bitwiseOr = ofTwo("bitwiseOr", bitwise.or);
/** x exclusive-or y, bit by bit. */
export const bitwiseXor = ofTwo("bitwiseXor", bitwise.xor);
/** x·2ʸ in 32 bits: what is pushed out is lost. */
export const shiftLeft = ofTwo("shiftLeft", bitwise.shiftLeft);
/** x as 32 unsigned bits, divided by 2ʸ. */
export const shiftRight = ofTwo("shiftRight", bitwise.shiftRight);

// functions of each element
/** −x. */
export const neg = ofOne("neg", math.neg);
/** |x|; gradient 0 at 0. */
export const abs = ofOne("abs", math.abs);
/** −1, 0 or 1. No gradient. */
export const sign = ofOne("sign", math.sign);
/** x². */
export const square = ofOne("square", math.square);
/**
 * √x; NaN below 0.
 * @throws {DTypeError} for integers, as in all functions of real analysis: cast them
 */
export const sqrt = ofOne("sqrt", math.sqrt);
/** 1 / √x. */
export const rsqrt = ofOne("rsqrt", math.rsqrt);
/** 1 / x. */
export const reciprocal = ofOne("reciprocal", math.reciprocal);
/** eˣ. */
export const exp = ofOne("exp", math.exp);
/** eˣ − 1, keeping all digits near 0. */
export const expm1 = ofOne("expm1", math.expm1);
/** ln x; −∞ at 0, NaN below. */
export const log = ofOne("log", math.log);
/** ln(1 + x), keeping all digits near 0. */
export const log1p = ofOne("log1p", math.log1p);
/** sin x, x in radians. */
export const sin = ofOne("sin", math.sin);
/** cos x, x in radians. */
export const cos = ofOne("cos", math.cos);
/** sin x / cos x. */
export const tan = ofOne("tan", math.tan);
/** tanh x. */
export const tanh = ofOne("tanh", math.tanh);
/** The error function (2/√π)·∫₀ˣ e^(−t²) dt. */
export const erf = ofOne("erf", math.erf);
/** ⌊x⌋. No gradient. */
export const floor = ofOne("floor", math.floor);
/** ⌈x⌉. No gradient. */
export const ceil = ofOne("ceil", math.ceil);
/**
 * To the nearest whole number, halves to the even one. No gradient.
 * @example
 * round([0.5, 1.5, 2.5])   // [0 2 2] float32 [3]
 */
export const round = ofOne("round", math.round);
/** x without its fraction. No gradient. */
export const trunc = ofOne("trunc", math.trunc);
/** max(x, 0); gradient 0 at 0. */
export const relu = ofOne("relu", math.relu);
/** σ(x) = 1 / (1 + e⁻ˣ). */
export const sigmoid = ofOne("sigmoid", math.sigmoid);
/** x·σ(x), also called swish. @see https://arxiv.org/abs/1702.03118 */
export const silu = ofOne("silu", math.silu);
/** x·Φ(x) with the normal distribution function Φ. @see https://arxiv.org/abs/1606.08415 */
export const gelu = ofOne("gelu", math.gelu);
/** ½x·(1 + tanh(√(2/π)(x + 0.044715x³))): GPT-2's form of `gelu`. */
export const geluTanh = ofOne("geluTanh", math.geluTanh);
/** x·σ(1.702·x): CLIP's form of `gelu`. */
export const quickGelu = ofOne("quickGelu", math.quickGelu);
/** ln(1 + eˣ), without overflow. */
export const softplus = ofOne("softplus", math.softplus);
/** x·clamp(x + 3, 0, 6)/6. @see https://arxiv.org/abs/1905.02244 */
export const hardswish = ofOne("hardswish", math.hardswish);
/** x·tanh(softplus(x)). @see https://arxiv.org/abs/1908.08681 */
export const mish = ofOne("mish", math.mish);
/** x where it is positive, else slope·x (0.01 by default). */
export const leakyRelu = ofOne("leakyRelu", math.leakyRelu, 1);
/** x where it is positive, else alpha·(eˣ − 1) (alpha is 1 by default). @see https://arxiv.org/abs/1511.07289 */
export const elu = ofOne("elu", math.elu, 1);
/**
 * x moved into [min, max]; the gradient passes where x was inside, edges included.
 * @throws {ConfigError} when `min` is above `max`
 * @example
 * clamp([-2, 0, 2], { min: -1 })   // [-1  0  2] float32 [3]
 */
export const clamp = ofOne("clamp", math.clamp, 1);
/** Where x is not a number, as bool. */
export const isNan = ofOne("isNan", math.isNan);
/** Where x is +∞ or −∞, as bool. */
export const isInfinite = ofOne("isInfinite", math.isInfinite);
/**
 * The same numbers in another dtype: towards zero to integers (wrapping in 32 or 8 bits), to the nearest value in 16-bit
 * floats, to x ≠ 0 in
 * bool. The gradient passes between floating-point types.
 * @throws {DTypeError} for a dtype that is not known
 * @example
 * cast([1.7, -1.7], "int32")   // [ 1 -1] int32 [2]
 */
export const cast = ofOne("cast", math.cast, 1);
/**
 * The lower triangle of the last two axes, zeros above `diagonal` (0 the main one, positive above it).
 * @example
 * tril(ones([2, 2]))
 * // [[1 0]
 * //  [1 1]] float32 [2, 2]
 */
export const tril = ofOne("tril", math.tril, 1);
/** The upper triangle of the last two axes, zeros below `diagonal`. */
export const triu = ofOne("triu", math.triu, 1);
/**
 * `value` where `mask` is true, else x.
 * @example
 * maskedFill([1, 2, 3], [false, true, false], -1)   // [ 1 -1  3] float32 [3]
 */
export const maskedFill = ofPair("maskedFill", math.maskedFill, 1);
/** `x` where the condition holds, else `y`; a number beside a tensor takes its dtype. */
export const where = dispatched("where", () => ({
  "Tensor, Tensor, Tensor": math.where,
  "Tensor, Tensor, number": (c: Tensor, x: Tensor, y: number) => math.where(c, x, math.scalarLike(x, y)),
  "Tensor, number, Tensor": (c: Tensor, x: number, y: Tensor) => math.where(c, math.scalarLike(y, x), y),
})) as (condition: TensorLike, x: TensorLike, y: TensorLike) => Tensor;
/** x + weight·(y − x). */
export const lerp = ofTriple("lerp", math.lerp);
/** The same value, through which no derivative passes. */
export const stopGradient = ofOne("stopGradient", plainStopGradient);

// folding axes
/**
 * Σ x over `axes`: one, several, or all when absent; negative ones count from the back. Folded axes are dropped unless
 * `keepDims`. bool
 * and uint8 are counted in int32.
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
/** √variance. */
export const std = ofOne("std", statistics.std, 1);
/**
 * (Σ |x|ᵖ)^(1/p) over `axes`; p is 2 by default, and may be 0 (how many are not zero), ±∞ or any other number.
 * @example
 * norm([3, 4])             // 5 float32 []
 * norm([3, 4], { p: 1 })   // 7 float32 []
 */
export const norm = ofOne("norm", statistics.norm, 1);
/** ln Σ eˣ over `axes`, without overflow; −∞ when all x are. */
export const logSumExp = ofOne("logSumExp", statistics.logSumExp, 2);
/**
 * eˣ / Σ eˣ along `axis` (the last by default), without overflow. A row of nothing but −∞ gives zeros (PyTorch: NaN).
 * @example
 * softmax([0, Math.log(3)])   // [0.25 0.75] float32 [2]
 */
export const softmax = ofOne("softmax", statistics.softmax, 1);
/** x − ln Σ eˣ along `axis` (the last by default), without overflow. */
export const logSoftmax = ofOne("logSoftmax", statistics.logSoftmax, 1);
/**
 * Running sum along `axis`.
 * @example
 * cumsum([1, 2, 3], 0)   // [1 3 6] float32 [3]
 */
export const cumsum = ofOne("cumsum", statistics.cumsum, 1);
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

// products
/**
 * Matrix product over the last two axes: [..., M, K] · [..., K, N] → [..., M, N]; leading axes broadcast. A vector counts as a
 * row on the
 * left, as a column on the right, and its axis is dropped. 16-bit floats give float32.
 * @throws {ShapeError} when the inner sizes differ; @throws {DTypeError} for integers
 * @example
 * matmul([[1, 2], [3, 4]], [1, 10])   // [21 43] float32 [2]
 */
export const matmul = ofPair("matmul", plainMatmul);
/** xᵢ·yⱼ of two vectors: [M, N]. */
export const outer = ofPair("outer", arrange.outer);
/** Kronecker product: every element of x times the whole of y. */
export const kron = ofPair("kron", arrange.kron);
/**
 * Sums of products over named axes, as in numpy.
 * @throws {FormatError} for an equation that cannot be read; @throws {ShapeError} when sizes under one letter differ
 * @example
 * einsum("ik,kj->ij", [[1, 2]], [[3], [4]])   // [[11]] float32 [1, 1]
 */
export const einsum = dispatched("einsum", () => ({
  "string, ...Tensor": (equation: string, tensors: Tensor[]) => plainEinsum(equation, ...tensors),
})) as (equation: string, ...tensors: readonly TensorLike[]) => Tensor;
/**
 * Cross-correlation: x [N, C, T], weight [O, C / groups, K], bias [O] or null → [N, O, T′], T′ = ⌊(T + 2·padding − dilation·(K
 * − 1) − 1) / stride⌋ + 1.
 * @throws {ShapeError} when the sizes do not fit; @throws {ConfigError} for options out of range
 * @example
 * conv1d([[[1, 2, 3, 4]]], [[[1, -1]]], null, { stride: 2 })   // [[[-1 -1]]] float32 [1, 1, 2]
 */
export const conv1d = ofPair("conv1d", convolutionOf(convolution.conv1d), 2);
/**
 * Cross-correlation: x [N, C, H, W], weight [O, C / groups, KH, KW], bias [O] or null; options as in `conv1d`, one number or
 * one per axis.
 */
export const conv2d = ofPair("conv2d", convolutionOf(convolution.conv2d), 2);
/** Cross-correlation: x [N, C, D, H, W], weight [O, C / groups, KD, KH, KW], bias [O] or null; options as in `conv1d`. */
export const conv3d = ofPair("conv3d", convolutionOf(convolution.conv3d), 2);
/**
 * The largest of each window of the last axis; padding is −∞. Equal ones share the gradient.
 * @example
 * maxPool1d([[1, 3, 2, 0]], { kernelSize: 2 })   // [[3 2]] float32 [1, 2]
 */
export const maxPool1d = ofOne("maxPool1d", convolution.maxPool1d, 1);
/** The largest of each window of the last two axes; padding is −∞. Equal ones share the gradient. */
export const maxPool2d = ofOne("maxPool2d", convolution.maxPool2d, 1);
/** The mean of each window of the last axis; padding counts as zeros. */
export const avgPool1d = ofOne("avgPool1d", convolution.avgPool1d, 1);
/** The mean of each window of the last two axes; padding counts as zeros. */
export const avgPool2d = ofOne("avgPool2d", convolution.avgPool2d, 1);

function convolutionOf(plain: typeof convolution.conv1d) {
  return (x: Tensor, weight: Tensor, bias?: TensorLike | null, options?: convolution.ConvolutionOptions): Tensor =>
    plain(x, weight, bias === null || bias === undefined ? null : asTensor(bias), options);
}

// arranging
/**
 * The same elements in row-major order in another shape; one size may be −1.
 * @throws {ShapeError} when they do not fill it
 * @example
 * reshape([1, 2, 3, 4], [2, -1])   // float32 [2, 2]
 */
export const reshape = ofOne("reshape", arrange.reshape, 1);
/** Axes in another order: axis i of the result is axis `axes[i]` of x. */
export const permute = ofOne("permute", arrange.permute, 1);
/** Swaps two axes, by default the last two. */
export const transpose = ofOne("transpose", arrange.transpose, 2);
/** Repeats axes of size 1, and adds axes in front, up to `shape`; −1 keeps a size. Costs no memory. */
export const broadcastTo = ofOne("broadcastTo", arrange.broadcastTo, 1);
/** Drops the named axes, or every axis, whose size is 1; others stay. */
export const squeeze = ofOne("squeeze", arrange.squeeze, 1);
/** A new axis of size 1 at `axis`; −1 puts it last. */
export const unsqueeze = ofOne("unsqueeze", arrange.unsqueeze, 1);
/** Merges axes start … end, both included, into one; all of them by default. */
export const flatten = ofOne("flatten", arrange.flatten, 2);
/** Splits `axis` into axes of `sizes`; one may be −1. */
export const unflatten = ofOne("unflatten", arrange.unflatten, 2);
/** Moves one axis to another place; the others keep their order. */
export const moveAxis = ofOne("moveAxis", arrange.moveAxis, 2);
/** Swaps two axes. */
export const swapAxes = ofOne("swapAxes", arrange.swapAxes, 2);
/** Reverses the order along `axes`, all of them when absent. */
export const flip = ofOne("flip", arrange.flip, 1);
/**
 * Moves elements by `shifts` along `axes`; what leaves at the end comes back at the start. Without axes: in row-major order.
 * @example
 * roll([1, 2, 3], 1)   // [3 1 2] float32 [3]
 */
export const roll = ofOne("roll", arrange.roll, 2);
/**
 * More elements around a tensor: [before, after] per axis, for the last axes when there are fewer pairs; negative amounts cut
 * off. Modes:
 * `constant` (`value`, 0 by default), `reflect`, `replicate`, `circular`.
 * @example
 * pad([1, 2, 3], [[1, 2]])                        // [0 1 2 3 0 0] float32 [6]
 * pad([1, 2, 3], [[1, 2]], { mode: "reflect" })   // [2 1 2 3 2 1] float32 [6]
 */
export const pad = ofOne("pad", arrange.padding, 2);
/** Every element `repeats` times in a row along `axis`, or of the flattened tensor. */
export const repeatInterleave = ofOne("repeatInterleave", arrange.repeatInterleave, 2);
/**
 * Parts along `axis`: of the given sizes, or of one size with a smaller last one.
 * @example
 * split([1, 2, 3], 2)[1]   // [3] float32 [1]
 */
export const split = ofOne("split", arrange.split, 2);
/** At most `chunks` equal parts along `axis`, the last one smaller where the size does not divide. */
export const chunk = ofOne("chunk", arrange.chunk, 2);
/** Elements [i, i + offset] of two axes (the first two by default), as a new last axis. */
export const diagonal = ofOne("diagonal", arrange.diagonal, 3);
/** Vectors as diagonals of matrices: [..., L] → [..., L + |offset|, L + |offset|]. */
export const diagEmbed = ofOne("diagEmbed", arrange.diagEmbed, 1);
/**
 * Joins tensors along an axis that is there (the first by default); other sizes are equal.
 * @example
 * concatenate([[1, 2], [3]])   // [1 2 3] float32 [3]
 */
export const concatenate = ofList("concatenate", arrange.cat, 1);
/** PyTorch's name for `concatenate`. */
export const cat = ofList("cat", arrange.cat, 1);
/**
 * Joins tensors of one shape along a new axis (the first by default).
 * @example
 * stack([[1, 2], [3, 4]])   // float32 [2, 2]
 */
export const stack = ofList("stack", arrange.stack, 1);
/**
 * Axes split, merged and moved as a pattern says, as in einops.
 * @throws {FormatError} for a pattern that cannot be read; @throws {ShapeError} when x is not as it says
 * @example
 * rearrange(zeros([2, 5, 24]), "b t (h d) -> b h t d", { h: 8 })   // float32 [2, 8, 5, 3]
 */
export const rearrange = ofOne("rearrange", named.rearrange, 2);
/**
 * Folds ("sum", "mean", "max", "min", "prod") the axes that are not on the right of a pattern, as in einops.
 * @example
 * reduce([[1, 2], [3, 4]], "a b -> b", "mean")   // [2 3] float32 [2]
 */
export const reduce = ofOne("reduce", named.reduce, 3);
/** By counts per axis, `repeat(x, [2, 1])`, or by a pattern, `repeat(x, "h w -> h w c", { c: 3 })`. */
export interface Repeat {
  (x: TensorLike, counts: readonly number[]): Tensor;
  (x: TensorLike, pattern: string, sizes?: named.AxisSizes): Tensor;
}
export const repeat = dispatched("repeat", () => ({
  "Tensor, Array": arrange.repeat,
  "Tensor, string": named.repeatPattern,
  "Tensor, string, Object": named.repeatPattern,
})) as Repeat;

// picking
/** Part of a tensor by Python-like indices: `at(x, "1:3, ..., None")`, `at(x, 0, { step: 2 })`. */
export const at = dispatched("at", () => ({
  "Tensor, ...any": (x: Tensor, items: readonly IndexItem[]) => plainAt(x, ...items),
})) as (x: TensorLike, ...index: readonly IndexItem[]) => Tensor;
/** Rows of a table: x [rows, ...], index [...] → [...index, ...row]. Use `at` for indices from the back. */
export const take = indexed("take", (x: Tensor, index: Tensor) => arrange.take(x, index), 0);
/** y[i, j, k] = x[i, index[i, j, k], k] (for axis 1): y has the shape of `index`. An index outside is an error when it runs. */
export const gather = indexed("gather", arrange.gather, 1);
/** Slices of x at the given indices along `axis`. */
export const indexSelect = indexed("indexSelect", arrange.indexSelect, 1);
/** x with `source` put in at `index` along `axis`; of a repeated index the last one counts. */
export const scatter = indexedWith("scatter", arrange.scatter);
/** x with `source` added at `index` along `axis`; repeated indices add up. */
export const scatterAdd = indexedWith("scatterAdd", arrange.scatterAdd);
/** x with slices of `source` added at the given indices along `axis`; repeated indices add up. */
export const indexAdd = indexedWith("indexAdd", arrange.indexAdd);
/**
 * 1 at the index, 0 elsewhere, along a new last axis of `classes`; an index outside gives zeros.
 * @example
 * oneHot([2, 0], 3)
 * // [[0 0 1]
 * //  [1 0 0]] float32 [2, 3]
 */
export const oneHot = dispatched("oneHot", () => {
  const f = (index: TensorLike, classes: number, dtype?: DType) => arrange.oneHot(asIndex("oneHot", index), classes, dtype);
  return { "any, number": f, "any, number, string": f };
}) as OfOne<typeof arrange.oneHot>;
/**
 * Values along `axis` (the last by default) in order, and where they stood; equal ones keep their order, NaN counts as largest.
 * @example
 * sort([3, 1, 2]).indices   // [1 2 0] int32 [3]
 */
export const sort = ofOne("sort", arrange.sort, 2);
/** The `k` largest (or smallest) along `axis`, in order, and where they stood. */
export const topk = ofOne("topk", arrange.topk, 3);

/** A tensor, an index (whole numbers in arrays will do), and up to `extra` other arguments. */
function indexed<Rest extends unknown[]>(
  name: string,
  f: (x: Tensor, index: Tensor, ...rest: Rest) => Tensor,
  extra: number,
): (x: TensorLike, index: TensorLike, ...rest: Rest) => Tensor {
  return dispatched(name, () =>
    withExtras("Tensor, any", extra, (x: Tensor, index: TensorLike, ...rest: Rest) => f(x, asIndex(name, index), ...rest)),
  ) as (x: TensorLike, index: TensorLike, ...rest: Rest) => Tensor;
}

/** A tensor, an index, another tensor, and an axis. */
function indexedWith<Rest extends [axis?: number]>(
  name: string,
  f: (x: Tensor, index: Tensor, source: Tensor, ...rest: Rest) => Tensor,
): (x: TensorLike, index: TensorLike, source: TensorLike, ...rest: Rest) => Tensor {
  return dispatched(name, () =>
    withExtras("Tensor, any, Tensor", 1, (x: Tensor, index: TensorLike, source: Tensor, ...rest: Rest) =>
      f(x, asIndex(name, index), source, ...rest),
    ),
  ) as (x: TensorLike, index: TensorLike, source: TensorLike, ...rest: Rest) => Tensor;
}

/** Values, dtype and shape as text. */
export const print = (x: TensorLike, options?: PrintOptions): string => plainPrint(asTensor(x), options);
