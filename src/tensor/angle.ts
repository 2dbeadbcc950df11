/**
 * Angles from sides, hyperbolic functions, and the way back from them: compositions that keep the digits of float32 near 0, near the ends
 * of their domains and far out. Meaning and derivative are PyTorch's.
 */
import { withVjp } from "../autograd/custom.ts";
import { isFloat, promote } from "../graph/dtype.ts";
import { add, cast, div, equal, exp, less, log, max, mul, neg, or, recip, sqrt, sub, where } from "../graph/elementwise.ts";
import { expand } from "../graph/movement.ts";
import { requireTensors, type Tensor } from "../graph/node.ts";
import { broadcastShapes } from "../graph/shape.ts";
import { number } from "../graph/source.ts";
import { abs, isInfinite, log1p, real, square } from "./math.ts";

/** Coefficients from the highest power down, at x. */
const polynomial = (x: Tensor, coefficients: readonly number[]): Tensor =>
  coefficients.slice(1).reduce((sum, next) => add(mul(sum, x), number(x, next)), number(x, coefficients[0] as number));

/** −y where x is below 0. */
const signedAs = (x: Tensor, y: Tensor): Tensor => where(less(x, number(x, 0)), neg(y), y);

/** The quotient that stands for arctan near 0. @see https://www.netlib.org/cephes/ (atan.c) */
const arctangentAbove = [
  -8.750608600031904e-1, -1.615753718733365e1, -7.500855792314705e1, -1.228866684490136e2, -6.485021904942025e1,
];
const arctangentBelow = [
  1, 2.485846490142306e1, 1.650270098316988e2, 4.328810604912903e2, 4.853903996359137e2, 1.945506571482614e2,
];

/** Arctan of x ≥ 0: what is above 2/3 is turned back by 45°, what is above tan 67.5° by 90°. */
function arctangent(x: Tensor): Tensor {
  const one = number(x, 1);
  const [steep, diagonal] = [less(number(x, 1 + Math.SQRT2), x), less(number(x, 0.66), x)];
  const t = where(steep, neg(recip(x)), where(diagonal, div(sub(x, one), add(x, one)), x));
  const w = square(t);
  const bent = mul(mul(t, w), div(polynomial(w, arctangentAbove), polynomial(w, arctangentBelow)));
  const turned = where(steep, number(x, Math.PI / 2), where(diagonal, number(x, Math.PI / 4), number(x, 0)));
  return add(turned, add(t, bent));
}

/** The angle whose tangent is x, in (−π/2, π/2). */
export const atan = real(
  "atan",
  (x) => signedAs(x, arctangent(abs(x))),
  (x) => recip(add(number(x, 1), square(x))),
);

/** √(1 − x²), without what 1 − x² loses near 1. */
const otherSide = (x: Tensor): Tensor => sqrt(mul(sub(number(x, 1), x), add(number(x, 1), x)));

/** The angle whose sine is x, in [−π/2, π/2]; NaN outside of [−1, 1]. */
export const asin = real(
  "asin",
  (x) => signedAs(x, arctangent(div(abs(x), otherSide(x)))),
  (x) => recip(otherSide(x)),
);

/** The angle whose cosine is x, in [0, π]; NaN outside of [−1, 1]. */
export const acos = real(
  "acos",
  (x) => mul(number(x, 2), arctangent(sqrt(div(sub(number(x, 1), x), add(number(x, 1), x))))),
  (x) => neg(recip(otherSide(x))),
);

/** eˣ/2, also where eˣ alone is too large. */
function halfExp(x: Tensor): Tensor {
  const root = exp(mul(number(x, 0.5), x));
  const half = number(x, 0.5);
  return where(less(number(x, 88), x), mul(mul(half, root), root), mul(half, exp(x)));
}

/** Σ x²ⁱ/(2i + 3)!, which (sinh x − x)/x³ is. */
const sinhTail = Array.from(
  { length: 9 },
  (_, i) => 1 / Array.from({ length: 19 - 2 * i }, (_, j) => j + 1).reduce((a, b) => a * b),
);

const plainSinh = (x: Tensor): Tensor => {
  const a = abs(x);
  const half = halfExp(a);
  const w = square(x);
  const near = add(x, mul(mul(x, w), polynomial(w, sinhTail)));
  return where(less(a, number(x, 1)), near, signedAs(x, sub(half, div(number(x, 0.25), half))));
};
const plainCosh = (x: Tensor): Tensor => {
  const half = halfExp(abs(x));
  return add(half, div(number(x, 0.25), half));
};

/** (eˣ − e⁻ˣ)/2. */
export const sinh = real("sinh", plainSinh, (x) => cosh(x));

/** (eˣ + e⁻ˣ)/2. */
export const cosh: (x: Tensor) => Tensor = real("cosh", plainCosh, (x) => sinh(x));

/** ln of what the function is, far out where it is 2x. */
const far = (x: Tensor, near: Tensor): Tensor => where(less(number(x, 1e8), x), add(log(x), number(x, Math.LN2)), near);

/** The number whose sinh is x: ln(x + √(x² + 1)). */
export const asinh = real(
  "asinh",
  (x) => {
    const [a, one] = [abs(x), number(x, 1)];
    return signedAs(x, far(a, log1p(add(a, mul(a, div(a, add(one, sqrt(add(one, square(a))))))))));
  },
  (x) => recip(sqrt(add(number(x, 1), square(x)))),
);

/** The number from 0 whose cosh is x: ln(x + √(x² − 1)); NaN below 1. */
export const acosh = real(
  "acosh",
  (x) => {
    const t = sub(x, number(x, 1));
    return far(x, log1p(add(t, mul(sqrt(t), sqrt(add(t, number(x, 2)))))));
  },
  (x) => recip(mul(sqrt(sub(x, number(x, 1))), sqrt(add(x, number(x, 1))))),
);

/** The number whose tanh is x: ½ln((1 + x)/(1 − x)); ±∞ at ±1, NaN outside. */
export const atanh = real(
  "atanh",
  (x) => {
    const a = abs(x);
    const [twice, rest] = [add(a, a), sub(number(x, 1), a)];
    // below a half the quotient keeps its digits as a sum, beyond 1 it is what has no logarithm
    const odds = where(less(a, number(x, 0.5)), add(twice, mul(twice, div(a, rest))), div(twice, rest));
    return signedAs(x, mul(number(x, 0.5), log1p(odds)));
  },
  (x) => recip(mul(sub(number(x, 1), x), add(number(x, 1), x))),
);

/** Two sides in one floating-point dtype and shape. */
function sides(operation: string, x: Tensor, y: Tensor): [Tensor, Tensor] {
  requireTensors(operation, { x, y });
  const wide = promote(x.dtype, y.dtype);
  const dtype = isFloat(wide) ? wide : "float32";
  const shape = broadcastShapes(operation, x.shape, y.shape);
  return [expand(cast(x, dtype), shape), expand(cast(y, dtype), shape)];
}

/** z/s/s for s = √(x² + y²), which no square makes too large; 0 where both sides are. */
function turning(z: Tensor, s: Tensor): Tensor {
  return where(equal(s, number(s, 0)), number(s, 0), div(div(z, s), s));
}

const length = withVjp(
  (x, y) => {
    const [a, b] = [abs(x!), abs(y!)];
    const long = max(a, b);
    const ratio = div(where(less(a, b), a, b), long);
    const found = where(equal(long, number(long, 0)), long, mul(long, sqrt(add(number(long, 1), square(ratio)))));
    return where(or(isInfinite(a), isInfinite(b)), number(a, Number.POSITIVE_INFINITY), found);
  },
  (g, s, x, y) => {
    const share = (z: Tensor) => mul(g, where(equal(s, number(s, 0)), number(s, 0), div(z, s)));
    return [share(x!), share(y!)];
  },
);

/** √(x² + y²), where the squares alone would be too large or too small, too; gradient 0 where both are 0. ∞ where one of them is. */
export const hypot = (x: Tensor, y: Tensor): Tensor => length(...sides("hypot", x, y));

const angle = withVjp(
  (y, x) => {
    const [a, b, none] = [abs(y!), abs(x!), number(x!, 0)];
    // 45° where both are infinite, nothing where y is 0
    const slope = where(equal(a, none), none, where(equal(a, b), number(x!, 1), div(a, b)));
    const acute = arctangent(where(equal(b, b), slope, b));
    return signedAs(y!, where(less(x!, none), sub(number(x!, Math.PI), acute), acute));
  },
  (g, _, y, x) => {
    const s = hypot(x!, y!);
    return [mul(g, turning(x!, s)), mul(g, neg(turning(y!, s)))];
  },
);

/** The angle of the point (x, y), in [−π, π]; −0 counts as 0, and the gradient is 0 where both are. */
export const atan2 = (y: Tensor, x: Tensor): Tensor => angle(...sides("atan2", y, x));
