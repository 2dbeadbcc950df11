/**
 * A step of AdamW, a thread a value: the two means first, then the parameter from them, where a rendered kernel would compute both again.
 * `scale` clips the gradient, and is one number for all, as are `rate`, `root` and `kept`. Gradients of some products lie turned: their
 * elements are found in the other order, with sizes `rows` and `width` of the parameter.
 */
import type { Floats, HandKernel, KernelThis } from "./kernel-this.ts";

type Element = KernelThis<never>;
type Turned = KernelThis<"rows" | "width" | "reciprocal">;

/** m + (scale·g − m) · share, with share = 1 − β₁. */
export function adamMean(this: Element, g: Floats, scale: Floats, mean: Floats, share: number): number {
  const m = mean[this.thread.x]!;
  return m + (g[this.thread.x]! * scale[0]! - m) * share;
}

/** v · decay + (scale·g)² · share, with decay = β₂ and share = 1 − β₂. */
export function adamSquare(this: Element, g: Floats, scale: Floats, square: Floats, decay: number, share: number): number {
  const x = g[this.thread.x]! * scale[0]!;
  return square[this.thread.x]! * decay + x * x * share;
}

/** `adamMean` of a gradient that lies turned. */
export function adamMeanTurned(this: Turned, g: Floats, scale: Floats, mean: Floats, share: number): number {
  const i = this.thread.x;
  let row = Math.floor((i + 0.5) * this.constants.reciprocal);
  if (row * this.constants.width > i) row = row - 1;
  if (row * this.constants.width + this.constants.width <= i) row = row + 1;
  const m = mean[i]!;
  return m + (g[(i - row * this.constants.width) * this.constants.rows + row]! * scale[0]! - m) * share;
}

/** `adamSquare` of a gradient that lies turned. */
export function adamSquareTurned(this: Turned, g: Floats, scale: Floats, square: Floats, decay: number, share: number): number {
  const i = this.thread.x;
  let row = Math.floor((i + 0.5) * this.constants.reciprocal);
  if (row * this.constants.width > i) row = row - 1;
  if (row * this.constants.width + this.constants.width <= i) row = row + 1;
  const x = g[(i - row * this.constants.width) * this.constants.rows + row]! * scale[0]!;
  return square[i]! * decay + x * x * share;
}

/** p − rate · m / (√v · root + eps): the new parameter, from the new means. */
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

/** `adamStep` after weight decay: p · kept in place of p. */
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
