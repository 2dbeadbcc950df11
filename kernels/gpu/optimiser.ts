/**
 * A step of AdamW, a thread a value: the two means first, then the parameter from them.
 *
 * Sizes: n values of the parameter, or `rows` rows of `width` where the gradient lies turned, as that of some products does: its elements are
 * found in the other order. `scale` clips the gradient, and is one number for all, as are `rate`, `root` and `kept`.
 */
import type { Floats, HandKernel, KernelThis } from "./kernel-this.ts";
import { quotient } from "./math.ts";

type Element = KernelThis<never>;
type Turned = KernelThis<"rows" | "width" | "reciprocal">;

/**
 * Mean of the gradients: m + (scale·g − m) · share, with share = 1 − β₁.
 * Sizes: g and mean [n], scale [1] → [n]. Replaces `m + (g · scale − m) · share`.
 */
export function adamMean(this: Element, g: Floats, scale: Floats, mean: Floats, share: number): number {
  const m = mean[this.thread.x]!;
  return m + (g[this.thread.x]! * scale[0]! - m) * share;
}

/**
 * Mean of their squares: v · decay + (scale·g)² · share, with decay = β₂ and share = 1 − β₂.
 * Sizes: g and square [n], scale [1] → [n]. Replaces `v · decay + (g · scale)² · share`.
 */
export function adamSquare(this: Element, g: Floats, scale: Floats, square: Floats, decay: number, share: number): number {
  const x = g[this.thread.x]! * scale[0]!;
  return square[this.thread.x]! * decay + x * x * share;
}

/**
 * `adamMean` of a gradient that lies turned.
 * Sizes: g [width, rows], mean [rows, width], scale [1] → [rows, width]. Replaces the same of a g that is read in the other order.
 */
export function adamMeanTurned(this: Turned, g: Floats, scale: Floats, mean: Floats, share: number): number {
  const i = this.thread.x;
  const row = quotient(i, this.constants.width, (i + 0.5) * this.constants.reciprocal);
  const m = mean[i]!;
  return m + (g[(i - row * this.constants.width) * this.constants.rows + row]! * scale[0]! - m) * share;
}

/**
 * `adamSquare` of a gradient that lies turned.
 * Sizes: g [width, rows], square [rows, width], scale [1] → [rows, width]. Replaces the same of a g that is read in the other order.
 */
export function adamSquareTurned(this: Turned, g: Floats, scale: Floats, square: Floats, decay: number, share: number): number {
  const i = this.thread.x;
  const row = quotient(i, this.constants.width, (i + 0.5) * this.constants.reciprocal);
  const x = g[(i - row * this.constants.width) * this.constants.rows + row]! * scale[0]!;
  return square[i]! * decay + x * x * share;
}

/**
 * The new parameter, from the new means: p − rate · m / (√v · root + eps).
 * Sizes: p, mean and square [n]; rate and root [1] → [n]. Replaces `p − rate · (m · recip(sqrt(v) · root + eps))`.
 */
export function adamStep(
  this: Element,
  p: Floats,
  mean: Floats,
  square: Floats,
  rate: Floats,
  root: Floats,
  eps: number,
): number {
  const i = this.thread.x;
  return p[i]! - (rate[0]! * mean[i]!) / (Math.sqrt(square[i]!) * root[0]! + eps);
}

/**
 * `adamStep` after weight decay: p · kept in place of p.
 * Sizes: p, mean and square [n]; rate, root and kept [1] → [n]. Replaces
 * `p · kept − rate · (m · recip(sqrt(v) · root + eps))`.
 */
export function adamDecayStep(
  this: Element,
  p: Floats,
  mean: Floats,
  square: Floats,
  rate: Floats,
  root: Floats,
  kept: Floats,
  eps: number,
): number {
  const i = this.thread.x;
  return p[i]! * kept[0]! - (rate[0]! * mean[i]!) / (Math.sqrt(square[i]!) * root[0]! + eps);
}

/** As `rowKernels` of rows.ts. `g[rc]` may lie as it likes, `scale[]` is one number. */
export const optimiserKernels: readonly HandKernel[] = [
  {
    kernel: adamMeanTurned,
    reads: "g scale m $share",
    computes: "add(m[rc], mul(add(mul(g[cr], scale[]), neg(m[rc])), $share))",
  },
  {
    kernel: adamSquareTurned,
    reads: "g scale v $decay $share",
    computes: "add(mul(v[rc], $decay), mul(mul(mul(g[cr], scale[]), mul(g[cr], scale[])), $share))",
  },
  {
    kernel: adamMean,
    reads: "g scale m $share",
    computes: "add(m[rc], mul(add(mul(g[rc], scale[]), neg(m[rc])), $share))",
  },
  {
    kernel: adamSquare,
    reads: "g scale v $decay $share",
    computes: "add(mul(v[rc], $decay), mul(mul(mul(g[rc], scale[]), mul(g[rc], scale[])), $share))",
  },
  {
    kernel: adamStep,
    reads: "p m v rate root $eps",
    computes: "add(p[rc], neg(mul(rate[], mul(m[rc], recip(add(mul(sqrt(v[rc]), root[]), $eps))))))",
  },
  {
    kernel: adamDecayStep,
    reads: "p m v rate root kept $eps",
    computes: "add(mul(p[rc], kept[]), neg(mul(rate[], mul(m[rc], recip(add(mul(sqrt(v[rc]), root[]), $eps))))))",
  },
];
