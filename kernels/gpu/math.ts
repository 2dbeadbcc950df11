/**
 * Functions that kernels call, generated ones and those of this folder, in the part of JavaScript that GPU.js compiles: numbers only,
 * one variable a `let`, no literal infinity. Each stands for itself: GPU.js gets its text, so it may use nothing from outside.
 */

/**
 * ⌊x / n⌋ of whole numbers: `estimate` is x / n as floats give it, by a division or a product, whose whole part may be off by one. Kernels get its
 * statements (src/devices/gpu/plan.ts).
 */
export function quotient(x: number, n: number, estimate: number): number {
  let q = Math.floor(estimate);
  if (q * n > x) q = q - 1;
  if (q * n + n <= x) q = q + 1;
  return q;
}

/** Hyperbolic tangent: odd polynomial near 0, where 1 − 2/(e²ˣ + 1) would cancel; built-in ones overflow past 44 on many GPUs. */
export function hyperbolicTangent(x: number): number {
  const a = Math.abs(x);
  let y = x;
  if (a >= 9.5) {
    y = 1;
    if (x < 0) y = -1;
  } else if (a >= 0.55) {
    y = 1 - 2 / (Math.exp(2 * a) + 1);
    if (x < 0) y = -y;
  } else if (a < 0.55) {
    // Taylor series; the next term is below 2⁻²⁴ of the result
    const s = x * x;
    const inner = 0.021869488 + s * (-0.008863236 + s * (0.003592128 + s * -0.0014558344));
    y = x + x * s * (-0.3333333333 + s * (0.1333333333 + s * (-0.053968254 + s * inner)));
  }
  return y;
}

/**
 * Sine: x is brought to ±π/2 with π in three parts (Cody and Waite), then its Taylor series. Built-in ones may be wrong by
 * 2⁻¹¹ in WebGPU, and are wrong by as much as 1e-4 on software devices.
 */
export function sine(x: number): number {
  const n = Math.floor(x * 0.3183098861837907 + 0.5);
  const half = Math.floor(n * 0.5);
  const r = x - n * 3.140625 - n * 0.0009675025939941406 - n * 1.509957990978376e-7;
  const s = r * r;
  const tail = 1 / 362880 + s * (-1 / 39916800 + s / 6227020800);
  let y = r + r * s * (-1 / 6 + s * (1 / 120 + s * (-1 / 5040 + s * tail)));
  if (n - 2 * half > 0.5) y = -y;
  return y;
}

/** Error function: its Taylor series below 1, beyond 1 − erfc with the rational fit of Numerical Recipes §6.2 (1.2e-7). */
export function errorFunction(x: number): number {
  const a = Math.abs(x);
  let y = x;
  if (a >= 4) {
    y = 1;
    if (x < 0) y = -1;
  } else if (a >= 1) {
    const t = 1 / (1 + 0.5 * a);
    const low = 0.27886807 + t * (-1.13520398 + t * (1.48851587 + t * (-0.82215223 + t * 0.17087277)));
    const high = -1.26551223 + t * (1.00002368 + t * (0.37409196 + t * (0.09678418 + t * (-0.18628806 + t * low))));
    y = 1 - t * Math.exp(high - a * a);
    if (x < 0) y = -y;
  } else if (a < 1) {
    const s = x * x;
    const tail = 1 / 685440 + s * (-1 / 6894720 + s / 76204800);
    const inner = 1 / 216 + s * (-1 / 1320 + s * (1 / 9360 + s * (-1 / 75600 + s * tail)));
    y = 1.1283791671 * x * (1 + s * (-1 / 3 + s * (1 / 10 + s * (-1 / 42 + s * inner))));
  }
  return y;
}

// NaN is found as what is neither at most 0 nor above it, ∞ as what is 2⁶⁴ when divided by 2⁶⁴, and NaN is made as the root of a number
// below 0: compilers of shaders that take no NaN for granted make false of `x != x` and 0 of `x - x`.

/** xʸ with JavaScript's meaning for bases below 0: built-in ones are undefined there. */
export function power(x: number, y: number): number {
  const a = Math.abs(x);
  let r = 1;
  if (!(x <= 0 || x > 0) || !(y <= 0 || y > 0)) {
    r = x + y;
    if (y === 0) r = 1;
  } else if (y !== 0) {
    if (a === 0) {
      r = 0;
      if (y < 0) r = 1 / a;
    } else {
      r = a ** y;
    }
    if (x < 0) {
      const half = Math.floor(y * 0.5);
      if (Math.floor(y) !== y) {
        r = Math.sqrt(x);
      } else if (y - 2 * half > 0.5) {
        r = -r;
      }
    }
  }
  return r;
}

/** Remainder with the sign of the divisor, mended where the division rounded to the other side of a whole number. */
export function remainder(x: number, y: number): number {
  let r = x - Math.floor(x / y) * y;
  const d = Math.abs(y);
  if (y > 0) {
    if (r < 0) r = r + d;
    if (r >= d) r = r - d;
  }
  if (y < 0) {
    if (r > 0) r = r - d;
    if (r <= -d) r = r + d;
  }
  return r;
}

/** `x` rounded to bfloat16: 8 significant bits, ties to even. */
export function roundBFloat16(x: number): number {
  let m = Math.abs(x);
  let p = 1;
  let y = x;
  // m = |x| / p with 1 ≤ m < 2; every step multiplies by a power of two, which is exact
  for (let i = 0; i < 8; i++) {
    if (m >= 65536) {
      m = m * 0.0000152587890625;
      p = p * 65536;
    }
    if (m < 0.0000152587890625) {
      m = m * 65536;
      p = p * 0.0000152587890625;
    }
  }
  for (let i = 0; i < 17; i++) {
    if (m >= 2) {
      m = m * 0.5;
      p = p * 2;
    }
    if (m < 1) {
      m = m * 2;
      p = p * 0.5;
    }
  }
  if (m >= 1 && m < 2) {
    const q = m * 128;
    let f = Math.floor(q);
    const d = q - f;
    const half = Math.floor(f * 0.5);
    if (d > 0.5 || (d === 0.5 && f - 2 * half > 0.5)) f = f + 1;
    y = f * 0.0078125 * p;
    if (x < 0) y = -y;
  }
  return y;
}

/** `x` rounded to float16: 11 significant bits or units of 2⁻²⁴, ties to even; infinite from 65,520 on. */
export function roundFloat16(x: number): number {
  const a = Math.abs(x);
  let p = 0.00006103515625;
  let y = x;
  if (a >= 65520) {
    // ±∞, which has no literal; Mesa makes something finite of x / (a − a)
    for (let i = 0; i < 16; i++) {
      y = y * 18446744073709552000;
    }
  } else if (a > 0) {
    // the power of two at or below |x|, but at least 2⁻¹⁴
    for (let i = 0; i < 30; i++) {
      if (a >= 2 * p) p = p * 2;
    }
    const q = (a / p) * 1024;
    let f = Math.floor(q);
    const d = q - f;
    const half = Math.floor(f * 0.5);
    if (d > 0.5 || (d === 0.5 && f - 2 * half > 0.5)) f = f + 1;
    y = f * 0.0009765625 * p;
    if (x < 0) y = -y;
  }
  return y;
}

/** Bits 16 to 31 (`upper` 1) or 0 to 15 (0) of the float32 `x`, as a whole number. Subnormal numbers count as 0. */
export function floatBits(x: number, upper: number): number {
  const a = Math.abs(x);
  let m = a;
  let e = 127;
  let sign = 0;
  if (x < 0) sign = 32768;
  let high = 0;
  let low = 0;
  const p = 0.0000152587890625;
  if (!(x <= 0 || x > 0)) {
    high = 32704;
  } else if (a * p * p * p * p >= 18446744073709552000) {
    high = 32640;
  } else if (a > 0) {
    for (let i = 0; i < 127; i++) {
      if (m >= 2) {
        m = m * 0.5;
        e = e + 1;
      }
      if (m < 1) {
        m = m * 2;
        e = e - 1;
      }
    }
    if (m >= 1) {
      const fraction = (m - 1) * 8388608;
      const top = Math.floor(fraction / 65536);
      high = e * 128 + top;
      low = fraction - top * 65536;
    }
  }
  let y = low;
  if (upper > 0.5) y = high + sign;
  return y;
}

/** The float32 with these upper and lower 16 bits. Subnormal numbers count as 0. */
export function bitsFloat(high: number, low: number): number {
  let h = high;
  let sign = 1;
  if (h >= 32768) {
    h = h - 32768;
    sign = -1;
  }
  const e = Math.floor(h / 128);
  const top = h - e * 128;
  const fraction = top * 65536 + low;
  let y = 0;
  if (e > 254.5) {
    y = 1;
    for (let i = 0; i < 16; i++) {
      y = y * 18446744073709552000;
    }
    if (fraction > 0) y = Math.sqrt(0 - fraction);
  } else if (e > 0) {
    y = 1 + fraction / 8388608;
    for (let i = 0; i < 127; i++) {
      if (i < e - 127) y = y * 2;
      if (i < 127 - e) y = y * 0.5;
    }
  }
  return sign * y;
}
