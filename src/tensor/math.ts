/**
 * Elementwise mathematics: plain functions of tensors. Arguments broadcast; unless said otherwise the result has the dtype of
 * the argument, functions of real analysis need a floating-point one, and meaning and derivative are PyTorch's.
 */
import { withVjp } from "../autograd/custom.ts";
import { ConfigError, checkOptions, requireKind } from "../errors.ts";
import { isFloat, promote, requireFloat } from "../graph/dtype.ts";
import {
  add,
  and,
  cast,
  equal,
  erf,
  exp,
  floor,
  less,
  log,
  max,
  mod,
  mul,
  neg,
  or,
  pow,
  recip,
  sin,
  sqrt,
  sub,
  tanh,
  where,
  xor,
} from "../graph/elementwise.ts";
import { reshape } from "../graph/movement.ts";
import { requireTensors, type Tensor } from "../graph/node.ts";
import { constant, iota, number } from "../graph/source.ts";

export {
  add,
  cast,
  div,
  equal,
  erf,
  exp,
  floor,
  less,
  log,
  mod,
  mul,
  neg,
  pow,
  recip,
  sin,
  sqrt,
  sub,
  tanh,
  where,
} from "../graph/elementwise.ts";

/** `value` without axes, in a dtype that leaves that of `x` as it is: 0.5 or 2³¹ beside integers is float32, 2 beside bool int32. */
export function scalarLike(x: Tensor, value: number): Tensor {
  if (isFloat(x.dtype)) return number(x, value);
  if (!Number.isInteger(value) || value !== (value | 0)) return constant(value);
  return constant(value, [], x.dtype === "bool" || (x.dtype === "uint8" && (value < 0 || value > 255)) ? "int32" : x.dtype);
}

/** A function of one floating-point tensor with a derivative dy/dx given by hand. */
export function real(
  name: string,
  forward: (x: Tensor) => Tensor,
  derivative: (x: Tensor, y: Tensor) => Tensor,
): (x: Tensor) => Tensor {
  const f = withVjp(forward, (g, y, x) => [mul(g, derivative(x!, y))]);
  return (x) => {
    requireTensors(name, { x });
    requireFloat(name, x.dtype);
    return f(x);
  };
}

/** The larger of x and y; where they are equal each gets half of the gradient. NaN if either is. */
export const maximum = max;

/** The smaller of x and y; where they are equal each gets half of the gradient. NaN if either is. */
export function minimum(x: Tensor, y: Tensor): Tensor {
  const dtype = promote(x.dtype, y.dtype);
  // widened first: the negative of what has no sign would be another number
  return isFloat(dtype) ? neg(max(neg(cast(x, dtype)), neg(cast(y, dtype)))) : where(less(x, y), x, y);
}

/** −1, 0 or 1. No gradient. */
export function sign(x: Tensor): Tensor {
  const zero = number(x, 0);
  return sub(cast(less(zero, x), x.dtype), cast(less(x, zero), x.dtype));
}

const absolute = withVjp(
  (x) => max(x!, neg(x!)),
  (g, _y, x) => [mul(g, sign(x!))],
);
/** |x|; gradient 0 at 0. */
export const abs = (x: Tensor): Tensor => (x.dtype === "bool" || x.dtype === "uint8" ? x : absolute(x));

/** x². */
export const square = (x: Tensor): Tensor => mul(x, x);

/** 1 / x. */
export const reciprocal = recip;

/** 1 / √x. */
export const rsqrt = real(
  "rsqrt",
  (x) => recip(sqrt(x)),
  (_x, y) => mul(number(y, -0.5), mul(y, mul(y, y))),
);

/** cos x = 1 − 2·sin²(x/2): halving is exact, so this is as accurate as the sine for large x too, which sin(x + π/2) is not. */
export const cos = real(
  "cos",
  (x) => {
    const s = sin(mul(number(x, 0.5), x));
    return sub(number(x, 1), mul(number(x, 2), mul(s, s)));
  },
  (x) => neg(sin(x)),
);

/** sin x / cos x. */
export const tan = real(
  "tan",
  (x) => mul(sin(x), recip(cos(x))),
  (_x, y) => add(number(y, 1), mul(y, y)),
);

/** eˣ − 1 = tanh(x/2)·(eˣ + 1), which keeps all digits near 0. */
export const expm1 = real(
  "expm1",
  (x) => mul(tanh(mul(number(x, 0.5), x)), add(exp(x), number(x, 1))),
  (x) => exp(x),
);

/** ln(1 + x), keeping all digits near 0: what 1 + x loses in rounding is added back, divided by 1 + x. */
export const log1p = real("log1p", accurateLog1p, (x) => recip(add(number(x, 1), x)));

function accurateLog1p(x: Tensor): Tensor {
  const one = number(x, 1);
  const u = add(one, x);
  const lost = mul(sub(x, sub(u, one)), recip(u));
  return add(log(u), where(and(less(number(x, -0.5), x), less(x, one)), lost, number(x, 0)));
}

const rectified = withVjp(
  (x) => max(x!, constant(0, [], x!.dtype)),
  (g, _y, x) => [where(less(number(x!, 0), x!), g, number(g, 0))],
);
/** max(x, 0); gradient 0 at 0. */
export const relu = (x: Tensor): Tensor => (x.dtype === "bool" || x.dtype === "uint8" ? x : rectified(x));

/** σ(x) = 1 / (1 + e⁻ˣ). With the derivative y·(1 − y), since that of the composition is 0·∞ far out. */
export const sigmoid = real(
  "sigmoid",
  // where e⁻ˣ overflows the quotient is 0, as it should be
  (x) => recip(add(number(x, 1), exp(neg(x)))),
  (_x, y) => mul(y, sub(number(y, 1), y)),
);

/** x·σ(βx) and its derivative s·(1 + βx·(1 − s)). */
function swish(name: string, beta: number): (x: Tensor) => Tensor {
  const scaled = (x: Tensor) => (beta === 1 ? x : mul(number(x, beta), x));
  return real(
    name,
    (x) => mul(x, sigmoid(scaled(x))),
    (x) => {
      const s = sigmoid(scaled(x));
      return mul(s, add(number(x, 1), mul(scaled(x), sub(number(x, 1), s))));
    },
  );
}

/** x·σ(x), also called swish. @see https://arxiv.org/abs/1702.03118 */
export const silu = swish("silu", 1);

/** x·σ(1.702·x), the GELU of CLIP. */
export const quickGelu = swish("quickGelu", 1.702);

/** Φ(x), the normal distribution function, through erf: exact to rounding of 1, not in the far left tail. */
const normalCdf = (x: Tensor): Tensor => add(number(x, 0.5), mul(number(x, 0.5), erf(mul(number(x, Math.SQRT1_2), x))));

/** x·Φ(x) with the normal distribution function Φ. @see https://arxiv.org/abs/1606.08415 */
export const gelu = real(
  "gelu",
  (x) => mul(x, normalCdf(x)),
  (x) => add(normalCdf(x), mul(x, mul(number(x, 1 / Math.sqrt(2 * Math.PI)), exp(mul(number(x, -0.5), mul(x, x)))))),
);

/** √(8/π)·(x + 0.044715·x³), as x·(a + b·x²). */
const tanhGeluSlope = Math.sqrt(8 / Math.PI);
const tanhGeluCubic = tanhGeluSlope * 0.044715;
const tanhGeluGate = (x: Tensor): Tensor =>
  sigmoid(mul(x, add(number(x, tanhGeluSlope), mul(number(x, tanhGeluCubic), mul(x, x)))));

/** ½x·(1 + tanh(√(2/π)(x + 0.044715x³))), written as x·σ(√(8/π)(…)): one exponential, and exact tails. */
export const geluTanh = real(
  "geluTanh",
  (x) => mul(x, tanhGeluGate(x)),
  (x) => {
    // past ±16 the gate is 0 or 1 to every digit; without the limits x² could overflow into 0·∞
    const t = max(number(x, -16), neg(max(number(x, -16), neg(x))));
    const s = tanhGeluGate(t);
    const slope = add(number(x, tanhGeluSlope), mul(number(x, 3 * tanhGeluCubic), mul(t, t)));
    return mul(s, add(number(x, 1), mul(t, mul(slope, sub(number(x, 1), s)))));
  },
);

/** ln(1 + eˣ) = max(x, 0) + ln(1 + e^−|x|). */
export const softplus = real("softplus", (x) => add(max(x, number(x, 0)), accurateLog1p(exp(neg(max(x, neg(x)))))), sigmoid);

/** x where it is positive, else slope·x. */
export function leakyRelu(x: Tensor, slope = 0.01): Tensor {
  requireKind("leakyRelu", "a number", { slope });
  requireFloat("leakyRelu", x.dtype);
  const positive = less(number(x, 0), x);
  return mul(x, where(positive, number(x, 1), number(x, slope)));
}

/** x where it is positive, else alpha·(eˣ − 1). */
export function elu(x: Tensor, alpha = 1): Tensor {
  requireKind("elu", "a number", { alpha });
  return real(
    "elu",
    (z) => where(less(number(z, 0), z), z, mul(number(z, alpha), expm1(minimum(z, number(z, 0))))),
    (z) => where(less(number(z, 0), z), number(z, 1), mul(number(z, alpha), exp(minimum(z, number(z, 0))))),
  )(x);
}

/** x·clamp(x + 3, 0, 6)/6. @see https://arxiv.org/abs/1905.02244 */
export const hardswish = real(
  "hardswish",
  (x) => mul(x, mul(number(x, 1 / 6), minimum(max(add(x, number(x, 3)), number(x, 0)), number(x, 6)))),
  (x) => {
    const middle = add(mul(number(x, 1 / 3), x), number(x, 0.5));
    return where(less(x, number(x, -3)), number(x, 0), where(less(number(x, 3), x), number(x, 1), middle));
  },
);

/** tanh(ln(1 + eˣ)) = n / (n + 2) with n = eˣ(eˣ + 2); past 20 it is 1 to every digit. */
function mishGate(x: Tensor): { t: Tensor; n: Tensor } {
  const e = exp(minimum(x, number(x, 20)));
  const n = mul(e, add(e, number(x, 2)));
  return { t: mul(n, recip(add(n, number(x, 2)))), n };
}

/** x·tanh(softplus(x)). @see https://arxiv.org/abs/1908.08681 */
export const mish = real(
  "mish",
  (x) => mul(x, mishGate(x).t),
  (x) => {
    const { t, n } = mishGate(x);
    const r = recip(add(n, number(x, 2)));
    // 1 − t² = 4(n + 1)/(n + 2)²
    return add(t, mul(mul(minimum(x, number(x, 20)), sigmoid(x)), mul(mul(number(x, 4), add(n, number(x, 1))), mul(r, r))));
  },
);

/** x moved into [min, max]; the gradient passes where x was inside, edges included. */
export function clamp(x: Tensor, limits: { readonly min?: number; readonly max?: number }): Tensor {
  checkOptions("clamp", limits, { min: "a number", max: "a number" });
  const { min: low, max: high } = limits;
  if (low !== undefined && high !== undefined && low > high)
    throw new ConfigError(`\`min\` (= ${low}) is above \`max\` (= ${high}).`, { operation: "clamp", got: [low, high] });
  const limit = (z: Tensor) => {
    const raised = low === undefined ? z : max(z, scalarLike(z, low));
    return high === undefined ? raised : minimum(raised, scalarLike(raised, high));
  };
  return withVjp(limit, (g, y, z) => [where(equal(y, z!), g, number(g, 0))])(x);
}

/** To the nearest whole number, halves to the even one. No gradient. */
export function round(x: Tensor): Tensor {
  if (!isFloat(x.dtype)) return x;
  const f = floor(x);
  const above = sub(x, f);
  const half = number(x, 0.5);
  const odd = sub(f, mul(number(x, 2), floor(mul(half, f))));
  return where(less(half, above), add(f, number(x, 1)), where(equal(above, half), add(f, odd), f));
}

/** ⌈x⌉. No gradient. */
export const ceil = (x: Tensor): Tensor => (isFloat(x.dtype) ? neg(floor(neg(x))) : x);

/** x without its fraction. No gradient. */
export const trunc = (x: Tensor): Tensor => (isFloat(x.dtype) ? where(less(x, number(x, 0)), ceil(x), floor(x)) : x);

/** x ≤ y, bool. */
export const lessEqual = (x: Tensor, y: Tensor): Tensor => or(less(x, y), equal(x, y));
/** x > y, bool. */
export const greater = (x: Tensor, y: Tensor): Tensor => less(y, x);
/** x ≥ y, bool. */
export const greaterEqual = (x: Tensor, y: Tensor): Tensor => lessEqual(y, x);
/** x ≠ y, bool; NaN is not equal to itself. */
export const notEqual = (x: Tensor, y: Tensor): Tensor => logicalNot(equal(x, y));

/** True where x is zero. */
export const logicalNot = (x: Tensor): Tensor => xor(cast(x, "bool"), constant(1, [], "bool"));
/** True where neither is zero. */
export const logicalAnd = (x: Tensor, y: Tensor): Tensor => and(cast(x, "bool"), cast(y, "bool"));
/** True where one is not zero. */
export const logicalOr = (x: Tensor, y: Tensor): Tensor => or(cast(x, "bool"), cast(y, "bool"));
/** True where one is zero and the other is not. */
export const logicalXor = (x: Tensor, y: Tensor): Tensor => xor(cast(x, "bool"), cast(y, "bool"));

/** True where x is NaN. */
export const isNan = (x: Tensor): Tensor => notEqual(x, x);
/** True where x is +∞ or −∞. */
export const isInfinite = (x: Tensor): Tensor =>
  isFloat(x.dtype) ? equal(abs(x), number(x, Number.POSITIVE_INFINITY)) : constant(0, x.shape, "bool");

/** `value` where `mask` is true, else x. */
export function maskedFill(x: Tensor, mask: Tensor, value: number): Tensor {
  requireKind("maskedFill", "a number", { value });
  return where(mask, number(x, value), x);
}

/** True at [row, column] where column − row ≤ `diagonal`: the lower triangle. */
export function triangle(rows: number, columns: number, diagonal = 0): Tensor {
  return less(reshape(iota([columns]), [1, columns]), add(reshape(iota([rows]), [rows, 1]), constant(diagonal + 1, [], "int32")));
}

/** The lower triangle of the last two axes, zeros above `diagonal` (0 the main one, positive above it). */
export function tril(x: Tensor, diagonal = 0): Tensor {
  return where(triangle(x.shape.at(-2) ?? 1, x.shape.at(-1) ?? 1, diagonal), x, number(x, 0));
}

/** The upper triangle of the last two axes, zeros below `diagonal`. */
export function triu(x: Tensor, diagonal = 0): Tensor {
  return where(triangle(x.shape.at(-2) ?? 1, x.shape.at(-1) ?? 1, diagonal - 1), number(x, 0), x);
}

/** x + weight·(y − x). */
export const lerp = (x: Tensor, y: Tensor, weight: Tensor): Tensor => add(x, mul(weight, sub(y, x)));

/** xⁿ for a number n: products for whole n up to 16, roots for ±½, otherwise `pow`. Integers stay integers for whole n ≥ 0, wrapping. */
export function powScalar(x: Tensor, n: number): Tensor {
  const z = isFloat(x.dtype) || (Number.isInteger(n) && n >= 0) ? x : cast(x, "float32");
  if (n === 1) return z;
  if (n === 2) return square(z);
  if (n === 0) return constant(1, z.shape, z.dtype);
  if (n === 0.5) return sqrt(z);
  if (n === -0.5) return rsqrt(z);
  if (n === -1) return recip(z);
  const forward = (t: Tensor): Tensor => {
    if (isFloat(t.dtype) && (!Number.isInteger(n) || Math.abs(n) > 16)) return pow(t, number(t, n));
    return n < 0 ? recip(product(t, -n)) : product(t, n);
  };
  return withVjp(forward, (g, _y, t) => [mul(g, mul(number(g, n), powScalar(t!, n - 1)))])(z);
}

/** xⁿ by repeated squaring. */
function product(x: Tensor, n: number): Tensor {
  if (n === 1) return x;
  const half = product(x, Math.floor(n / 2));
  const even = mul(half, half);
  return n % 2 === 0 ? even : mul(even, x);
}

/** What division towards zero leaves: x − trunc(x/y)·y, with the sign of x. */
export function fmod(x: Tensor, y: Tensor): Tensor {
  const unsigned = (z: Tensor) => z.dtype === "bool" || z.dtype === "uint8";
  const side = (z: Tensor) =>
    unsigned(z) ? constant(1, [], z.dtype) : where(less(z, number(z, 0)), number(z, -1), number(z, 1));
  return mul(side(x), mod(mul(side(x), x), mul(side(y), y)));
}

/** x with these in place of NaN (0) and of ±∞ (the largest numbers of the dtype); the gradient passes where x was finite. */
export function nanToNum(
  x: Tensor,
  options: { readonly nan?: number; readonly posInf?: number; readonly negInf?: number } = {},
): Tensor {
  const known = checkOptions("nanToNum", options, { nan: "a number", posInf: "a number", negInf: "a number" });
  if (!isFloat(x.dtype)) return x;
  const largest =
    { float16: 65504, bfloat16: 2 ** 127 * (2 - 2 ** -7), float64: Number.MAX_VALUE }[x.dtype as string] ??
    2 ** 127 * (2 - 2 ** -23);
  const { nan = 0, posInf = largest, negInf = -largest } = known;
  const infinite = where(less(x, number(x, 0)), number(x, negInf), number(x, posInf));
  return where(isInfinite(x), infinite, where(isNan(x), number(x, nan), x));
}

/** How close is close. */
export interface CloseOptions {
  readonly rtol?: number;
  readonly atol?: number;
  readonly equalNan?: boolean;
}

/** True where |x − y| ≤ atol + rtol·|y| (1e-8, 1e-5), or both are the same infinity, or with `equalNan` both are NaN. */
export function isClose(x: Tensor, y: Tensor, options: CloseOptions = {}): Tensor {
  const {
    rtol = 1e-5,
    atol = 1e-8,
    equalNan = false,
  } = checkOptions("isClose", options, {
    rtol: "a number from 0",
    atol: "a number from 0",
    equalNan: "true or false",
  });
  const wide = promote(x.dtype, y.dtype);
  const dtype = isFloat(wide) ? wide : "float32";
  const [a, b] = [cast(x, dtype), cast(y, dtype)];
  const near = lessEqual(abs(sub(a, b)), add(number(b, atol), mul(number(b, rtol), abs(b))));
  const close = or(equal(a, b), and(near, logicalNot(isInfinite(b))));
  return equalNan ? or(close, and(isNan(a), isNan(b))) : close;
}
