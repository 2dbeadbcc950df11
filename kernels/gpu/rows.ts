/**
 * Softmax, norms and cross-entropy, forward and backward, row by row: a thread a row for what is folded, a thread an element for the rest.
 * Each kernel writes one value, and `rowKernels` says which value of a loop program that is; the compiler may have put whatever it likes
 * around it (src/devices/gpu/by-hand.ts). Folds take four elements a turn and keep four sums, which do not wait for each other.
 *
 * Sizes: rows of `width` elements, of which `fours` times four are taken by fours, and those from `rest` on one by one.
 */
import type { Floats, HandKernel, KernelThis } from "./kernel-this.ts";

type Row = KernelThis<"width" | "fours" | "rest">;
type Element = KernelThis<"width" | "reciprocal">;

/** The largest x of a row, which keeps exponents at most 0; 0 where all are −∞ (`none`). A NaN shows in the sum. */
export function rowShift(this: Row, x: Floats, none: number): number {
  const start = this.thread.x * this.constants.width;
  let a = x[start]!;
  let b = a;
  let c = a;
  let d = a;
  for (let n = 0; n < this.constants.fours; n++) {
    const i = start + 4 * n;
    const p = x[i]!;
    const q = x[i + 1]!;
    const s = x[i + 2]!;
    const t = x[i + 3]!;
    if (p > a) a = p;
    if (q > b) b = q;
    if (s > c) c = s;
    if (t > d) d = t;
  }
  for (let k = this.constants.rest; k < this.constants.width; k++) {
    const p = x[start + k]!;
    if (p > a) a = p;
  }
  if (b > a) a = b;
  if (d > c) c = d;
  if (c > a) a = c;
  let y = 0;
  if (a > none) y = a;
  return y;
}

/** factor · Σ x of a row: sums and means. */
export function rowSum(this: Row, x: Floats, factor: number): number {
  const start = this.thread.x * this.constants.width;
  let a = 0;
  let b = 0;
  let c = 0;
  let d = 0;
  for (let n = 0; n < this.constants.fours; n++) {
    const i = start + 4 * n;
    a = a + x[i]!;
    b = b + x[i + 1]!;
    c = c + x[i + 2]!;
    d = d + x[i + 3]!;
  }
  for (let k = this.constants.rest; k < this.constants.width; k++) {
    a = a + x[start + k]!;
  }
  return factor * (a + b + (c + d));
}

/** e^(x − shift of the row). */
export function rowExponentials(this: Element, x: Floats, shift: Floats): number {
  const i = this.thread.x;
  let row = Math.floor((i + 0.5) * this.constants.reciprocal);
  if (row * this.constants.width > i) row = row - 1;
  if (row * this.constants.width + this.constants.width <= i) row = row + 1;
  return Math.exp(x[i]! - shift[row]!);
}

/** Σ e^(x − shift) of a row. */
export function rowExponentialSum(this: Row, x: Floats, shift: Floats): number {
  const start = this.thread.x * this.constants.width;
  const m = shift[this.thread.x]!;
  let a = 0;
  let b = 0;
  let c = 0;
  let d = 0;
  for (let n = 0; n < this.constants.fours; n++) {
    const i = start + 4 * n;
    a = a + Math.exp(x[i]! - m);
    b = b + Math.exp(x[i + 1]! - m);
    c = c + Math.exp(x[i + 2]! - m);
    d = d + Math.exp(x[i + 3]! - m);
  }
  for (let k = this.constants.rest; k < this.constants.width; k++) {
    a = a + Math.exp(x[start + k]! - m);
  }
  return a + b + (c + d);
}

/** Softmax of exponentials e and their sums, which are at least 1 unless nothing was seen. */
export function shares(this: Element, e: Floats, sum: Floats): number {
  const i = this.thread.x;
  let row = Math.floor((i + 0.5) * this.constants.reciprocal);
  if (row * this.constants.width > i) row = row - 1;
  if (row * this.constants.width + this.constants.width <= i) row = row + 1;
  let total = sum[row]!;
  if (total < 1) total = 1;
  return e[i]! / total;
}

/** Softmax: e^(x − shift) / sum. */
export function softmax(this: Element, x: Floats, shift: Floats, sum: Floats): number {
  const i = this.thread.x;
  let row = Math.floor((i + 0.5) * this.constants.reciprocal);
  if (row * this.constants.width > i) row = row - 1;
  if (row * this.constants.width + this.constants.width <= i) row = row + 1;
  let total = sum[row]!;
  if (total < 1) total = 1;
  return Math.exp(x[i]! - shift[row]!) / total;
}

/** x − shift − ln sum. */
export function logSoftmax(this: Element, x: Floats, shift: Floats, sum: Floats): number {
  const i = this.thread.x;
  let row = Math.floor((i + 0.5) * this.constants.reciprocal);
  if (row * this.constants.width > i) row = row - 1;
  if (row * this.constants.width + this.constants.width <= i) row = row + 1;
  let total = sum[row]!;
  if (total < 1) total = 1;
  return x[i]! - shift[row]! - Math.log(total);
}

/** Σ g·y of a row. */
export function rowDot(this: Row, g: Floats, y: Floats): number {
  const start = this.thread.x * this.constants.width;
  let a = 0;
  let b = 0;
  let c = 0;
  let d = 0;
  for (let n = 0; n < this.constants.fours; n++) {
    const i = start + 4 * n;
    a = a + g[i]! * y[i]!;
    b = b + g[i + 1]! * y[i + 1]!;
    c = c + g[i + 2]! * y[i + 2]!;
    d = d + g[i + 3]! * y[i + 3]!;
  }
  for (let k = this.constants.rest; k < this.constants.width; k++) {
    a = a + g[start + k]! * y[start + k]!;
  }
  return a + b + (c + d);
}

/** Derivative of softmax: y·(g − Σ g·y). */
export function softmaxDerivative(this: Element, g: Floats, y: Floats, dot: Floats): number {
  const i = this.thread.x;
  let row = Math.floor((i + 0.5) * this.constants.reciprocal);
  if (row * this.constants.width > i) row = row - 1;
  if (row * this.constants.width + this.constants.width <= i) row = row + 1;
  return y[i]! * (g[i]! - dot[row]!);
}

/** Derivative of log-softmax: g − e^y · Σ g. */
export function logSoftmaxDerivative(this: Element, g: Floats, y: Floats, sum: Floats): number {
  const i = this.thread.x;
  let row = Math.floor((i + 0.5) * this.constants.reciprocal);
  if (row * this.constants.width > i) row = row - 1;
  if (row * this.constants.width + this.constants.width <= i) row = row + 1;
  return g[i]! - Math.exp(y[i]!) * sum[row]!;
}

/**
 * Cross-entropy of a row, ln sum + shift − x[target]: 0 where the row is not `kept`, `wrong` (NaN) where its target is no class.
 * In place of a walk along the row that looks for the target.
 */
export function crossEntropy(
  this: Element,
  x: Floats,
  shift: Floats,
  sum: Floats,
  target: Floats,
  isTarget: Floats,
  kept: Floats,
  wrong: number,
): number {
  const row = this.thread.x;
  let y = 0;
  if (kept[row]! > 0.5) {
    y = wrong;
    if (isTarget[row]! > 0.5) {
      const column = target[2 * row + 1]! * 65536 + target[2 * row]!;
      y = Math.log(sum[row]!) + shift[row]! - x[row * this.constants.width + column]!;
    }
  }
  return y;
}

/** Its derivative: softmax times the cotangent `g` of the log-sum, plus that of x[target], `h`, at the target. */
export function crossEntropyDerivative(
  this: Element,
  x: Floats,
  shift: Floats,
  sum: Floats,
  target: Floats,
  g: Floats,
  h: Floats,
): number {
  const i = this.thread.x;
  let row = Math.floor((i + 0.5) * this.constants.reciprocal);
  if (row * this.constants.width > i) row = row - 1;
  if (row * this.constants.width + this.constants.width <= i) row = row + 1;
  let total = sum[row]!;
  if (total < 1) total = 1;
  let y = Math.exp(x[i]! - shift[row]!) * (g[row]! / total);
  if (i - row * this.constants.width === target[2 * row + 1]! * 65536 + target[2 * row]!) y = y + h[row]!;
  return y;
}

/** `crossEntropyDerivative` of exponentials that are there. */
export function crossEntropyDerivativeOf(this: Element, e: Floats, sum: Floats, target: Floats, g: Floats, h: Floats): number {
  const i = this.thread.x;
  let row = Math.floor((i + 0.5) * this.constants.reciprocal);
  if (row * this.constants.width > i) row = row - 1;
  if (row * this.constants.width + this.constants.width <= i) row = row + 1;
  let total = sum[row]!;
  if (total < 1) total = 1;
  let y = e[i]! * (g[row]! / total);
  if (i - row * this.constants.width === target[2 * row + 1]! * 65536 + target[2 * row]!) y = y + h[row]!;
  return y;
}

/** 1 / √(share · Σ x² + eps) of a row: what RMS norm multiplies by. */
export function inverseRms(this: Row, x: Floats, share: number, eps: number): number {
  const start = this.thread.x * this.constants.width;
  let a = 0;
  let b = 0;
  let c = 0;
  let d = 0;
  for (let n = 0; n < this.constants.fours; n++) {
    const i = start + 4 * n;
    const p = x[i]!;
    const q = x[i + 1]!;
    const s = x[i + 2]!;
    const t = x[i + 3]!;
    a = a + p * p;
    b = b + q * q;
    c = c + s * s;
    d = d + t * t;
  }
  for (let k = this.constants.rest; k < this.constants.width; k++) {
    const p = x[start + k]!;
    a = a + p * p;
  }
  return 1 / Math.sqrt(share * (a + b + (c + d)) + eps);
}

/** 1 / √(share · Σ (x − mean)² + eps) of a row: what layer norm multiplies by. */
export function inverseDeviation(this: Row, x: Floats, mean: Floats, share: number, eps: number): number {
  const start = this.thread.x * this.constants.width;
  const m = mean[this.thread.x]!;
  let a = 0;
  let b = 0;
  let c = 0;
  let d = 0;
  for (let n = 0; n < this.constants.fours; n++) {
    const i = start + 4 * n;
    const p = x[i]! - m;
    const q = x[i + 1]! - m;
    const s = x[i + 2]! - m;
    const t = x[i + 3]! - m;
    a = a + p * p;
    b = b + q * q;
    c = c + s * s;
    d = d + t * t;
  }
  for (let k = this.constants.rest; k < this.constants.width; k++) {
    const p = x[start + k]! - m;
    a = a + p * p;
  }
  return 1 / Math.sqrt(share * (a + b + (c + d)) + eps);
}

/** RMS norm: x · inverse · weight. */
export function rmsNorm(this: Element, x: Floats, inverse: Floats, weight: Floats): number {
  const i = this.thread.x;
  let row = Math.floor((i + 0.5) * this.constants.reciprocal);
  if (row * this.constants.width > i) row = row - 1;
  if (row * this.constants.width + this.constants.width <= i) row = row + 1;
  return x[i]! * inverse[row]! * weight[i - row * this.constants.width]!;
}

/** Layer norm: (x − mean) · inverse · weight + bias. */
export function layerNorm(this: Element, x: Floats, mean: Floats, inverse: Floats, weight: Floats, bias: Floats): number {
  const i = this.thread.x;
  let row = Math.floor((i + 0.5) * this.constants.reciprocal);
  if (row * this.constants.width > i) row = row - 1;
  if (row * this.constants.width + this.constants.width <= i) row = row + 1;
  const column = i - row * this.constants.width;
  return (x[i]! - mean[row]!) * inverse[row]! * weight[column]! + bias[column]!;
}

/** Σ g·weight·x of a row: how much of the cotangent of a norm goes along x. */
export function weightedDot(this: Row, g: Floats, weight: Floats, x: Floats): number {
  const start = this.thread.x * this.constants.width;
  let a = 0;
  let b = 0;
  let c = 0;
  let d = 0;
  for (let n = 0; n < this.constants.fours; n++) {
    const k = 4 * n;
    const i = start + k;
    a = a + g[i]! * weight[k]! * x[i]!;
    b = b + g[i + 1]! * weight[k + 1]! * x[i + 1]!;
    c = c + g[i + 2]! * weight[k + 2]! * x[i + 2]!;
    d = d + g[i + 3]! * weight[k + 3]! * x[i + 3]!;
  }
  for (let k = this.constants.rest; k < this.constants.width; k++) {
    a = a + g[start + k]! * weight[k]! * x[start + k]!;
  }
  return a + b + (c + d);
}

/** Σ g·weight·(x − mean) of a row: the same of a layer norm whose x was not kept without its mean. */
export function centredDot(this: Row, g: Floats, weight: Floats, x: Floats, mean: Floats): number {
  const start = this.thread.x * this.constants.width;
  const m = mean[this.thread.x]!;
  let a = 0;
  let b = 0;
  let c = 0;
  let d = 0;
  for (let n = 0; n < this.constants.fours; n++) {
    const k = 4 * n;
    const i = start + k;
    a = a + g[i]! * weight[k]! * (x[i]! - m);
    b = b + g[i + 1]! * weight[k + 1]! * (x[i + 1]! - m);
    c = c + g[i + 2]! * weight[k + 2]! * (x[i + 2]! - m);
    d = d + g[i + 3]! * weight[k + 3]! * (x[i + 3]! - m);
  }
  for (let k = this.constants.rest; k < this.constants.width; k++) {
    a = a + g[start + k]! * weight[k]! * (x[start + k]! - m);
  }
  return a + b + (c + d);
}

/**
 * Which value of a loop program each kernel computes, and what it reads, in the order of its parameters. Later ones read what earlier ones
 * have written, and take their place where both fit. `x[rc]` has an element for each of the program's, `m[r]` one a row, `w[c]` one a column;
 * all are float32 where nothing else stands. `$eps` is a number that the program may choose.
 */
export const rowKernels: readonly HandKernel[] = [
  {
    kernel: rowShift,
    reads: "x -Infinity",
    computes: "where(less(-Infinity, maxReduce(x[rc])), maxReduce(x[rc]), 0)",
  },
  { kernel: rowExponentials, reads: "x m", computes: "exp(add(x[rc], neg(m[r])))", isKept: true },
  { kernel: rowExponentialSum, reads: "x m", computes: "sum(exp(add(x[rc], neg(m[r]))))" },
  { kernel: rowSum, reads: "x 1", computes: "sum(x[rc])" },
  { kernel: rowSum, reads: "x $share", computes: "mul(sum(x[rc]), $share)" },
  { kernel: rowDot, reads: "g y", computes: "sum(mul(g[rc], y[rc]))" },
  { kernel: softmax, reads: "x m s", computes: "mul(exp(add(x[rc], neg(m[r]))), recip(where(less(s[r], 1), 1, s[r])))" },
  { kernel: shares, reads: "e s", computes: "mul(e[rc], recip(where(less(s[r], 1), 1, s[r])))" },
  { kernel: softmaxDerivative, reads: "g y t", computes: "mul(y[rc], add(g[rc], neg(t[r])))" },
  { kernel: logSoftmax, reads: "x m s", computes: "add(add(x[rc], neg(m[r])), neg(log(where(less(s[r], 1), 1, s[r]))))" },
  { kernel: logSoftmaxDerivative, reads: "g y s", computes: "add(g[rc], neg(mul(exp(y[rc]), s[r])))" },
  {
    kernel: crossEntropy,
    reads: "x m s target isTarget kept $wrong",
    computes: `where(kept[r]:bool, where(isTarget[r]:bool, add(add(log(s[r]), m[r]),
      neg(sum(where(equal(column, target[r]:int32), x[rc], 0)))), $wrong), 0)`,
  },
  {
    kernel: crossEntropyDerivative,
    reads: "x m s target g h",
    computes: `add(where(equal(column, target[r]:int32), h[r], 0),
      mul(exp(add(x[rc], neg(m[r]))), mul(g[r], recip(where(less(s[r], 1), 1, s[r])))))`,
  },
  {
    kernel: crossEntropyDerivativeOf,
    reads: "e s target g h",
    computes: "add(where(equal(column, target[r]:int32), h[r], 0), mul(e[rc], mul(g[r], recip(where(less(s[r], 1), 1, s[r])))))",
  },
  { kernel: inverseRms, reads: "x $share $eps", computes: "recip(sqrt(add(mul(sum(mul(x[rc], x[rc])), $share), $eps)))" },
  {
    kernel: inverseDeviation,
    reads: "x m $share $eps",
    computes: "recip(sqrt(add(mul(sum(mul(add(x[rc], neg(m[r])), add(x[rc], neg(m[r])))), $share), $eps)))",
  },
  { kernel: rmsNorm, reads: "x d w", computes: "mul(mul(x[rc], d[r]), w[c])" },
  { kernel: layerNorm, reads: "x m d w b", computes: "add(mul(mul(add(x[rc], neg(m[r])), d[r]), w[c]), b[c])" },
  { kernel: weightedDot, reads: "g w x", computes: "sum(mul(mul(g[rc], w[c]), x[rc]))" },
  { kernel: centredDot, reads: "g w x m", computes: "sum(mul(mul(g[rc], w[c]), add(x[rc], neg(m[r]))))" },
];
