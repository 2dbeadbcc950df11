/** Public functions of each element: arithmetic, comparisons, bits, real analysis, activations. */
import * as bitwise from "../../graph/elementwise.ts";
import { stopGradient as plainStopGradient } from "../../graph/movement.ts";
import type { Tensor } from "../../graph/node.ts";
import * as angle from "../angle.ts";
import type { TensorLike } from "../create.ts";
import { dispatched, ofOne, ofPair, ofTriple, ofTwo } from "../dispatch.ts";
import * as math from "../math.ts";
import { all } from "../statistics.ts";

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
/**
 * x − trunc(x/y)·y: what is left after division towards zero, with the sign of x, as in C.
 * @example
 * fmod([5, -5], 3)   // [ 2 -2] float32 [2]
 */
export const fmod = ofTwo("fmod", math.fmod);
/** The larger of x and y at every element; NaN if either is. Equal ones share the gradient. */
export const maximum = ofTwo("maximum", math.maximum);
/** The smaller of x and y at every element; NaN if either is. Equal ones share the gradient. */
export const minimum = ofTwo("minimum", math.minimum);
/**
 * xʸ; a number as exponent is done exactly where products and roots can, and integers stay integers where it is whole and not below 0.
 * Otherwise they are widened to float32.
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
/** The angle whose tangent is x, in (−π/2, π/2). */
export const atan = ofOne("atan", angle.atan);
/** The angle whose sine is x, in [−π/2, π/2]; NaN outside of [−1, 1]. */
export const asin = ofOne("asin", angle.asin);
/** The angle whose cosine is x, in [0, π]; NaN outside of [−1, 1]. */
export const acos = ofOne("acos", angle.acos);
/**
 * The angle of the point (x, y), in [−π, π]; −0 counts as 0, and the gradient is 0 where both are.
 * @example
 * atan2([1, 1, 0], [1, -1, -1])   // [0.7854 2.3562 3.1416] float32 [3]
 */
export const atan2 = ofTwo("atan2", angle.atan2);
/**
 * √(x² + y²), where the squares alone would be too large or too small, too; gradient 0 where both are 0.
 * @example
 * hypot(3, [4])   // [5] float32 [1]
 */
export const hypot = ofTwo("hypot", angle.hypot);
/** (eˣ − e⁻ˣ)/2. */
export const sinh = ofOne("sinh", angle.sinh);
/** (eˣ + e⁻ˣ)/2. */
export const cosh = ofOne("cosh", angle.cosh);
/** The number whose sinh is x. */
export const asinh = ofOne("asinh", angle.asinh);
/** The number from 0 whose cosh is x; NaN below 1. */
export const acosh = ofOne("acosh", angle.acosh);
/** The number whose tanh is x; ±∞ at ±1, NaN outside. */
export const atanh = ofOne("atanh", angle.atanh);
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
/**
 * x with these in place of NaN (`nan`, 0) and of ±∞ (`posInf`, `negInf`, the largest numbers of the dtype).
 * @example
 * nanToNum([1, Number.NaN, Infinity], { posInf: 9 })   // [1 0 9] float32 [3]
 */
export const nanToNum = ofOne("nanToNum", math.nanToNum, 1);
/**
 * Where |x − y| ≤ atol + rtol·|y| (1e-8 and 1e-5), or both are the same infinity, or with `equalNan` both are NaN, as bool.
 * @example
 * isClose([1, 2], [1.000001, 2.1])   // [ true false] bool [2]
 */
export const isClose = ofPair("isClose", math.isClose, 1);
/** Whether all of them are, as one bool. */
export const allClose = ofPair(
  "allClose",
  (x: Tensor, y: Tensor, options?: math.CloseOptions) => all(math.isClose(x, y, options)),
  1,
);
/** Where x is +∞ or −∞, as bool. */
export const isInfinite = ofOne("isInfinite", math.isInfinite);
/**
 * The same numbers in another dtype: towards zero to integers (wrapping in 32 or 8 bits), to the nearest value in 16-bit
 * floats, to x ≠ 0 in bool. The gradient passes between floating-point types.
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
