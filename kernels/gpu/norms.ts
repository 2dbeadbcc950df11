/**
 * Layer norm and RMS norm, forward and backward, as rows.ts: a thread a row for what is folded, a thread an element for the rest. Plain sums
 * are those of rows.ts.
 *
 * Sizes: `rows` rows of `width` elements, of which `fours` times four are taken by fours, and those from `rest` on one by one.
 */
import type { Floats, HandKernel, KernelThis } from "./kernel-this.ts";
import { quotient } from "./math.ts";

type Row = KernelThis<"width" | "fours" | "rest">;
type Element = KernelThis<"width" | "reciprocal">;

/**
 * 1 / √(share · Σ x² + eps) of a row: what RMS norm multiplies by.
 * Sizes: x [rows, width] → [rows]. Replaces the fold `sum(x · x)` and the root after it.
 */
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

/**
 * 1 / √(share · Σ (x − mean)² + eps) of a row: what layer norm multiplies by.
 * Sizes: x [rows, width], mean [rows] → [rows]. Replaces the fold `sum((x − m) · (x − m))` and the root after it.
 */
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

/**
 * RMS norm: x · inverse · weight.
 * Sizes: x [rows, width], inverse [rows], weight [width] → [rows, width]. Replaces `x · d · w`.
 */
export function rmsNorm(this: Element, x: Floats, inverse: Floats, weight: Floats): number {
  const i = this.thread.x;
  const row = quotient(i, this.constants.width, (i + 0.5) * this.constants.reciprocal);
  return x[i]! * inverse[row]! * weight[i - row * this.constants.width]!;
}

/**
 * Layer norm: (x − mean) · inverse · weight + bias.
 * Sizes: x [rows, width], mean and inverse [rows], weight and bias [width] → [rows, width]. Replaces `(x − m) · d · w + b`.
 */
export function layerNorm(this: Element, x: Floats, mean: Floats, inverse: Floats, weight: Floats, bias: Floats): number {
  const i = this.thread.x;
  const row = quotient(i, this.constants.width, (i + 0.5) * this.constants.reciprocal);
  const column = i - row * this.constants.width;
  return (x[i]! - mean[row]!) * inverse[row]! * weight[column]! + bias[column]!;
}

/**
 * Σ g·weight·x of a row: how much of the cotangent of a norm goes along x.
 * Sizes: g and x [rows, width], weight [width] → [rows]. Replaces the fold `sum(g · w · x)`.
 */
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

/**
 * Σ g·weight·(x − mean) of a row: the same of a layer norm whose x was not kept without its mean.
 * Sizes: g and x [rows, width], weight [width], mean [rows] → [rows]. Replaces the fold `sum(g · w · (x − m))`.
 */
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

/** As `rowKernels` of rows.ts. */
export const normKernels: readonly HandKernel[] = [
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
