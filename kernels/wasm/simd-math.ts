/**
 * Elementary functions of four float32 lanes, as polynomials after a reduction of the argument. Stated errors are in units in the
 * last place (ulp) of the float32 result, against the exact value; they hold with and without fused multiply-add and are what
 * `test/wasm/simd-math.test.ts` asserts.
 *
 * @see Muller, Elementary Functions: Algorithms and Implementation, ch. 3 (minimax) and 11 (argument reduction)
 */
import { SimdBasics, type V128 } from "./simd-basics.ts";

export type { V128 } from "./simd-basics.ts";

// ln 2 in two parts; the first has so few bits that its product with an exponent is exact
const ln2High = 0.693359375;
const ln2Low = Math.LN2 - ln2High;
/** Adding and subtracting it rounds to an integer, which then stands in the low bits. */
const roundToInteger = 1.5 * 2 ** 23;
const signBit = -0x80000000;
/** (eʳ − 1 − r) / r² for |r| ≤ ½ ln 2, so that the error of eʳ is even. */
const exponentialTail = [
  1.381402718834579e-3, 8.368992246687412e-3, 4.166841506958008e-2, 1.66665181517601e-1, 4.999999403953552e-1,
];

/** 1/1!, 1/2!, … lowest power last, for exp(x) − 1 = x · (…) in float64. */
const exponentialSeries = Array.from({ length: 12 }, (_, i) => 1 / factorial(12 - i));
/** 2/17, 2/15, … 2: log((1 + s) / (1 − s)) = s · (…)(s²) in float64. */
const logarithmSeries = Array.from({ length: 9 }, (_, i) => 2 / (17 - 2 * i));

/** Elementary functions on top of the basic ones, written into a function body; each says its range and its error. */
export class SimdMath extends SimdBasics {
  /** eˣ: 0 below −104, ∞ above 88.73, subnormal results kept, NaN stays NaN. Error < 1.5 ulp. */
  exp(x: V128): V128 {
    // n + 254 in the low bits: twice the bias of an exponent
    const { power, shifted } = this.reducedPower(this.clamp(x, -105, 90), roundToInteger + 254);
    // two factors, since 2ⁿ alone would leave the range where the result is subnormal or infinite
    const half = this.and(this.shift("shl", shifted, 22), this.i32(-0x800000));
    const rest = this.i32Sub(this.shift("shl", shifted, 23), half);
    return this.mul(this.madd(power, half, half), rest);
  }

  /** eˣ for x ≤ 0: 0 below −87.7, where `exp` has subnormal numbers; NaN stays NaN. Error < 1.5 ulp. */
  expBelowZero(x: V128): V128 {
    const { power, shifted } = this.reducedPower(this.apply("f32x4.pmax", x, -88), roundToInteger + 127);
    const factor = this.shift("shl", shifted, 23); // of −88 it is 0
    return this.madd(power, factor, factor);
  }

  /** ln x: −∞ at 0, NaN below, ∞ at ∞; subnormals taken. Error < 1.5 ulp. */
  log(x: V128): V128 {
    const tiny = this.less(x, 2 ** -126);
    const { fraction, exponent } = this.splitAroundOne(this.select(tiny, this.mul(x, 2 ** 25), x));
    const e = this.sub(exponent, this.and(tiny, this.f32(25)));
    const r = this.sub(fraction, 1); // in [√½ − 1, √2 − 1], exact
    const square = this.mul(r, r);
    const tail = this.polynomial(
      r,
      [
        7.0376836292e-2, -1.151461031e-1, 1.167699874e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1, 2.0000714765e-1,
        -2.4999993993e-1, 3.3333331174e-1,
      ],
    );
    const small = this.madd(e, ln2Low, this.mul(this.mul(tail, square), r));
    const result = this.madd(e, ln2High, this.add(this.madd(square, -0.5, small), r));
    const finite = this.select(this.less(x, Number.POSITIVE_INFINITY), result, x);
    const belowZero = this.select(this.equal(x, 0), Number.NEGATIVE_INFINITY, Number.NaN);
    return this.select(this.lessOrEqual(x, 0), belowZero, finite);
  }

  /** Hyperbolic tangent. Error < 2 ulp, near 0 too. */
  tanh(x: V128): V128 {
    const magnitude = this.abs(x);
    const z = this.mul(x, x);
    const series = this.polynomial(z, [-4.915931075811386e-2, 1.3300010561943054e-1, -3.3332669734954834e-1]);
    const nearZero = this.madd(series, this.mul(z, x), x);
    // h / (h + 1) with h = ½(e²ᵃ − 1), which is 1 in float32 from 9.02 on; e²ᵃ = 2ⁿ·e²ʳ with |r| ≤ ¼ ln 2
    const a = this.apply("f32x4.pmin", magnitude, 10);
    const shifted = this.madd(a, 2 * Math.LOG2E, roundToInteger + 127);
    const r = this.madd(this.sub(shifted, roundToInteger + 127), -Math.LN2 / 2, a);
    const square = this.mul(r, r);
    const tail = this.polynomial(
      r,
      [4.4643159955739975e-2, 1.3390681147575378e-1, 3.3332958817481995e-1, 6.666606664657593e-1, 1],
    );
    const factor = this.shift("shl", shifted, 23);
    const h = this.madd(this.madd(tail, square, r), factor, this.madd(factor, 0.5, -0.5));
    const far = this.or(this.div(h, this.add(h, 1)), this.and(x, this.i32(signBit)));
    return this.select(this.less(magnitude, 0.35), nearZero, far);
  }

  /** Error function. Error < 2 ulp, near 0 too; ±1 from 4 on. */
  erf(x: V128): V128 {
    const a = this.apply("f32x4.pmin", this.abs(x), 4); // erf is ±1 in float32 from 3.92 on, and where this polynomial ends
    // erf = 1 − (1 − v/2)² with v = a + a·slope, fitted so that the error of erf is even relative to erf: the square alone bends the line
    // towards 1, and no exponential is needed. As v − v²/4, so that nothing is lost near 0
    const slope = this.polynomial(
      a,
      [
        3.078039867e-7, -7.071414984e-6, 6.725364074e-5, -3.270395973e-4, 7.590225432e-4, -3.010000219e-4, -9.722378454e-4,
        -5.280183628e-3, 1.49768861e-2, 3.327519074e-2, -8.556200564e-2, -1.965373158e-1, 3.183097541e-1, 1.283791661e-1,
      ],
    );
    const v = this.madd(slope, a, a);
    return this.or(this.nmadd(this.mul(v, 0.25), v, v), this.and(x, this.i32(signBit)));
  }

  /** Error < 2 ulp for |x| ≤ 2²⁰, then growing by |x| · 2⁻⁵³ absolute; always within [−1, 1]; NaN at ±∞. */
  sin(x: V128): V128 {
    return this.sinOrCos(x, 0);
  }

  /** Error as `sin`. */
  cos(x: V128): V128 {
    return this.sinOrCos(x, 1);
  }

  /** xʸ as `Math.pow` has it: a negative x needs an integer y (or gives NaN); x⁰ = 1 also for NaN; 1 to ±∞ is NaN. Error < 1 ulp. */
  pow(x: V128, y: V128): V128 {
    const magnitude = this.abs(x);
    const tiny = this.less(magnitude, 2 ** -126);
    const { fraction, exponent } = this.splitAroundOne(this.select(tiny, this.mul(magnitude, 2 ** 25), magnitude));
    const e = this.sub(exponent, this.and(tiny, this.f32(25)));
    const halves = ([0, 1] as const).map((half) => this.powPair(magnitude, fraction, e, y, half));
    const power = this.joinPairs(halves[0] as V128, halves[1] as V128);

    const halfY = this.mul(y, 0.5);
    const whole = this.equal(this.floor(y), y);
    const odd = this.andNot(whole, this.equal(this.floor(halfY), halfY));
    const signed = this.or(power, this.and(odd, this.and(x, this.i32(-0x80000000))));
    const negative = this.and(this.less(x, 0), this.less(Number.NEGATIVE_INFINITY, x));
    const real = this.select(this.andNot(negative, whole), Number.NaN, signed);
    return this.select(this.equal(y, 0), 1, real);
  }

  /**
   * x − ⌊x/y⌋·y, the remainder with the sign of the divisor (Python's and PyTorch's). Correctly rounded while |x/y| < 2²⁸;
   * NaN for y = 0; x itself, or y where the signs differ, for y = ±∞.
   */
  mod(x: V128, y: V128): V128 {
    const halves = ([0, 1] as const).map((half) => {
      const [a, b] = [x, y].map((v) => this.apply("f64x2.promote_low_f32x4", this.pair(v, half))) as [V128, V128];
      const whole = this.apply("f64x2.floor", this.apply("f64x2.div", a, b));
      return this.apply("f32x4.demote_f64x2_zero", this.apply("f64x2.sub", a, this.apply("f64x2.mul", whole, b)));
    });
    const finite = this.joinPairs(halves[0] as V128, halves[1] as V128);
    const infiniteY = this.and(
      this.equal(this.abs(y), Number.POSITIVE_INFINITY),
      this.less(this.abs(x), Number.POSITIVE_INFINITY),
    );
    const oppositeSigns = this.less(this.mul(x, this.copySign(this.f32(1), y)), 0);
    return this.select(infiniteY, this.select(oppositeSigns, y, x), finite);
  }

  /**
   * eˣ = 2ⁿ·(1 + power) with |power| < 0.42. The low bits of `shifted` are n plus what `magic` has beyond `roundToInteger`; shifted into
   * the place of an exponent they lose all others.
   */
  private reducedPower(x: V128, magic: number): { readonly power: V128; readonly shifted: V128 } {
    const shifted = this.madd(x, Math.LOG2E, magic);
    const n = this.sub(shifted, magic);
    const r = this.madd(n, -ln2Low, this.madd(n, -ln2High, x)); // |r| ≤ ½ ln 2
    const square = this.mul(r, r);
    return { power: this.madd(this.polynomial(r, exponentialTail), square, r), shifted };
  }

  /** x = fraction · 2^exponent with fraction in [√½, √2), for normal x > 0. */
  private splitAroundOne(x: V128): { fraction: V128; exponent: V128 } {
    const bits = this.i32Sub(x, 0x3f3504f3); // √½
    const exponent = this.shift("shr_s", bits, 23);
    const fraction = this.i32Sub(x, this.shift("shl", exponent, 23));
    return { fraction, exponent: this.toFloat(exponent) };
  }

  private sinOrCos(x: V128, quarterTurns: 0 | 1): V128 {
    // the reduction in float64 is exact enough in plain products, which float32 could only be with fused ones
    const halves = ([0, 1] as const).map((half) => {
      const wide = this.apply("f64x2.promote_low_f32x4", this.pair(x, half));
      const n = this.apply("f64x2.nearest", this.apply("f64x2.mul", wide, this.f64(2 / Math.PI)));
      // π/2 in two parts, the first of 33 bits
      const reduced = this.apply("f64x2.sub", wide, this.apply("f64x2.mul", n, this.f64(1.5707963267341256)));
      const r = this.apply("f64x2.sub", reduced, this.apply("f64x2.mul", n, this.f64(6.077100506506192e-11)));
      const turns = this.apply("f64x2.floor", this.apply("f64x2.mul", n, this.f64(0.25)));
      const quadrant = this.apply("f64x2.sub", n, this.apply("f64x2.mul", turns, this.f64(4)));
      return {
        r: this.apply("f32x4.demote_f64x2_zero", r),
        quadrant: this.apply("i32x4.trunc_sat_f64x2_s_zero", quadrant),
      };
    });
    const [low, high] = halves as [(typeof halves)[0], (typeof halves)[0]];
    // past 2⁵³ the reduction is noise; the clamp keeps the result a sine of something
    const r = this.clamp(this.joinPairs(low.r, high.r), -0.79, 0.79);
    const quadrant = this.i32Add(this.joinPairs(low.quadrant, high.quadrant), quarterTurns);
    const z = this.mul(r, r);
    const sine = this.madd(this.mul(this.polynomial(z, [-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1]), z), r, r);
    const cosineTail = this.mul(this.polynomial(z, [2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2]), z);
    const cosine = this.add(this.madd(cosineTail, z, this.mul(z, -0.5)), 1);
    const swap = this.apply("i32x4.ne", this.and(quadrant, this.i32(1)), 0);
    const sign = this.shift("shl", this.and(quadrant, this.i32(2)), 30);
    return this.xor(this.select(swap, cosine, sine), sign);
  }

  /** exp(y · log(fraction · 2^e)) for two lanes, in float64, so that rounding to float32 is the only error that shows. */
  private powPair(magnitude: V128, fraction: V128, e: V128, y: V128, half: 0 | 1): V128 {
    const wide = (v: V128) => this.apply("f64x2.promote_low_f32x4", this.pair(v, half));
    const m = wide(fraction);
    const s = this.apply("f64x2.div", this.apply("f64x2.sub", m, this.f64(1)), this.apply("f64x2.add", m, this.f64(1)));
    const logFraction = this.apply("f64x2.mul", this.polynomial64(this.apply("f64x2.mul", s, s), logarithmSeries), s);
    const log = this.apply("f64x2.add", this.apply("f64x2.mul", wide(e), this.f64(Math.LN2)), logFraction);
    // 0, ∞ and NaN have no fraction and exponent
    const x = wide(magnitude);
    const ordinary = this.and(
      this.apply("f64x2.lt", x, this.f64(Number.POSITIVE_INFINITY)),
      this.apply("f64x2.gt", x, this.f64(0)),
    );
    const atZero = this.apply("f64x2.eq", x, this.f64(0));
    const special = this.apply("v128.bitselect", this.f64(Number.NEGATIVE_INFINITY), x, atZero);
    const logarithm = this.apply("v128.bitselect", log, special, ordinary);

    const product = this.apply("f64x2.mul", wide(y), logarithm);
    const t = this.apply("f64x2.pmax", this.apply("f64x2.pmin", product, this.f64(90)), this.f64(-105));
    const n = this.apply("f64x2.nearest", this.apply("f64x2.mul", t, this.f64(Math.LOG2E)));
    const r = this.apply("f64x2.sub", t, this.apply("f64x2.mul", n, this.f64(Math.LN2)));
    const mantissa = this.apply("f64x2.add", this.apply("f64x2.mul", this.polynomial64(r, exponentialSeries), r), this.f64(1));
    const integer = this.apply("i64x2.extend_low_i32x4_s", this.apply("i32x4.trunc_sat_f64x2_s_zero", n));
    const scale = this.keep(["i64x2.shl", this.apply("i64x2.add", integer, this.f.constant("i64", 1023n)), 52]);
    return this.apply("f32x4.demote_f64x2_zero", this.apply("f64x2.mul", mantissa, scale));
  }

  private f64(value: number): V128 {
    return this.f.constant("f64", value);
  }

  private polynomial64(x: V128, coefficients: readonly number[]): V128 {
    const [first = 0, ...rest] = coefficients;
    return rest.reduce<V128>((sum, c) => this.apply("f64x2.add", this.apply("f64x2.mul", sum, x), this.f64(c)), this.f64(first));
  }
}

function factorial(n: number): number {
  return n <= 1 ? 1 : n * factorial(n - 1);
}
