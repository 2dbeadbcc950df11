/**
 * Attention through memory, pass by pass, in the part of JavaScript that GPU.js compiles: for the modes without shaders of their
 * own, and for few queries. Scores and weights are [B, H, Tq, Tk], a thread an element; no thread ever walks over more than a row.
 * (With its `where`, folds and broadcasts, src/graph/attention.ts composes the same from twice as many loop programs.)
 *
 * Sizes: heads H = G · `share`; queries Tq, keys Tk; D and E floats a head of q, k and of v. Token-major operands [B, T, heads, size]
 * are walked by offset and strides `batch`, `time`, `head`; their last axis has stride 1. Query i sees the keys j with
 * i + `low` ≤ j < i + `high`.
 */
import type { Floats, KernelThis } from "./kernel-this.ts";
import { quotient } from "./math.ts";

type Square = "Tq" | "Tk" | "H" | "share";
type Walk<Name extends string> = `${Name}Offset` | `${Name}Batch` | `${Name}Time` | `${Name}Head`;

/**
 * S[b, h, i, j] = scale · Σ_d q[b, i, h, d] · k[b, j, g, d], −1e30 where query i does not see key j.
 * Replaces the product q·kᵀ, the scaling and the mask.
 */
export function attentionScores(
  this: KernelThis<Square | "D" | "low" | "high" | Walk<"q"> | Walk<"k">>,
  q: Floats,
  k: Floats,
  scale: number,
): number {
  const x = this.thread.x;
  const line = quotient(x, this.constants.Tk, x / this.constants.Tk);
  const j = x - line * this.constants.Tk;
  const head = quotient(line, this.constants.Tq, line / this.constants.Tq);
  const i = line - head * this.constants.Tq;
  const b = quotient(head, this.constants.H, head / this.constants.H);
  const h = head - b * this.constants.H;
  const g = Math.floor((h + 0.5) / this.constants.share);
  let score = -1e30;
  if (j >= i + this.constants.low && j < i + this.constants.high) {
    const left = this.constants.qOffset + b * this.constants.qBatch + i * this.constants.qTime + h * this.constants.qHead;
    const right = this.constants.kOffset + b * this.constants.kBatch + j * this.constants.kTime + g * this.constants.kHead;
    let sum = 0;
    for (let d = 0; d < this.constants.D; d++) {
      sum = sum + q[left + d]! * k[right + d]!;
    }
    score = scale * sum;
  }
  return score;
}

/**
 * log Σ exp of pieces of rows, a piece being every `pieces`-th element: y[r, p] over x[r, p], x[r, p + pieces] … Done once more to
 * its own results it gives that of the whole rows, which is how few long rows become work for many threads. −1e20 where nothing is
 * seen, so that weights are 0 there. Replaces the largest, exp, the sum and log, two of them folds. Constants: `width` of a row,
 * `pieces` of it and their `size`.
 */
export function logSums(this: KernelThis<"width" | "size" | "pieces">, x: Floats): number {
  const r = quotient(this.thread.x, this.constants.pieces, this.thread.x / this.constants.pieces);
  const first = this.thread.x - r * this.constants.pieces;
  const start = r * this.constants.width;
  let top = -1e20;
  for (let n = 0; n < this.constants.size; n++) {
    const i = first + n * this.constants.pieces;
    if (i < this.constants.width) top = Math.max(top, x[start + i]!);
  }
  let sum = 0;
  for (let n = 0; n < this.constants.size; n++) {
    const j = first + n * this.constants.pieces;
    if (j < this.constants.width) sum = sum + Math.exp(x[start + j]! - top);
  }
  return top + Math.log(Math.max(sum, 1e-30));
}

/** P = exp(S − log-sum of its row), a row having `width` elements: softmax without dividing. */
export function rowWeights(this: KernelThis<"width">, scores: Floats, logSum: Floats): number {
  const x = this.thread.x;
  const row = quotient(x, this.constants.width, x / this.constants.width);
  return Math.exp(scores[x]! - logSum[row]!);
}

/**
 * y[b, i, h, e] = Σ_j W[b, h, i, j] · x[b, j, g, e] with W the weights and x = v (the result), or W the slopes and x = k (the
 * cotangent of q). Replaces the product of matrices and the copy that brings its heads back beside each other.
 */
export function attentionByQueries(this: KernelThis<Square | "size" | Walk<"x">>, weights: Floats, x: Floats): number {
  const thread = this.thread.x;
  const token = quotient(thread, this.constants.size, thread / this.constants.size);
  const e = thread - token * this.constants.size;
  const time = quotient(token, this.constants.H, token / this.constants.H);
  const h = token - time * this.constants.H;
  const b = quotient(time, this.constants.Tq, time / this.constants.Tq);
  const i = time - b * this.constants.Tq;
  const g = Math.floor((h + 0.5) / this.constants.share);
  const row = ((b * this.constants.H + h) * this.constants.Tq + i) * this.constants.Tk;
  const first = this.constants.xOffset + b * this.constants.xBatch + g * this.constants.xHead + e;
  let sum = 0;
  for (let j = 0; j < this.constants.Tk; j++) {
    sum = sum + weights[row + j]! * x[first + j * this.constants.xTime]!;
  }
  return sum;
}

/**
 * y[b, j, g, e] = Σ_h Σ_i W[b, h, i, j] · x[b, i, h, e] over the heads h that share g, with x = g (the cotangent of v) or x = q (of k).
 * Replaces the product of matrices, the sum over shared heads and the copy. Constant `G` besides: heads of the result.
 */
export function attentionByKeys(this: KernelThis<Square | "G" | "size" | Walk<"x">>, weights: Floats, x: Floats): number {
  const thread = this.thread.x;
  const token = quotient(thread, this.constants.size, thread / this.constants.size);
  const e = thread - token * this.constants.size;
  const time = quotient(token, this.constants.G, token / this.constants.G);
  const g = token - time * this.constants.G;
  const b = quotient(time, this.constants.Tk, time / this.constants.Tk);
  const j = time - b * this.constants.Tk;
  let sum = 0;
  for (let n = 0; n < this.constants.share; n++) {
    const h = g * this.constants.share + n;
    const column = (b * this.constants.H + h) * this.constants.Tq * this.constants.Tk + j;
    const first = this.constants.xOffset + b * this.constants.xBatch + h * this.constants.xHead + e;
    for (let i = 0; i < this.constants.Tq; i++) {
      sum = sum + weights[column + i * this.constants.Tk]! * x[first + i * this.constants.xTime]!;
    }
  }
  return sum;
}

/** δ[b, h, i] = Σ_e g[b, i, h, e] · y[b, i, h, e]. Replaces a product and its fold. Constants besides: E of `size`. */
export function attentionDeltas(this: KernelThis<"Tq" | "H" | "size" | Walk<"g"> | Walk<"y">>, g: Floats, y: Floats): number {
  const head = quotient(this.thread.x, this.constants.Tq, this.thread.x / this.constants.Tq);
  const i = this.thread.x - head * this.constants.Tq;
  const b = quotient(head, this.constants.H, head / this.constants.H);
  const h = head - b * this.constants.H;
  const left = this.constants.gOffset + b * this.constants.gBatch + i * this.constants.gTime + h * this.constants.gHead;
  const right = this.constants.yOffset + b * this.constants.yBatch + i * this.constants.yTime + h * this.constants.yHead;
  let sum = 0;
  for (let e = 0; e < this.constants.size; e++) {
    sum = sum + g[left + e]! * y[right + e]!;
  }
  return sum;
}

/**
 * dS[b, h, i, j] = scale · P · (Σ_e g[b, i, h, e] · v[b, j, g, e] − δ[b, h, i]): the cotangent of q·kᵀ, 0 where the weight P is.
 * Replaces the product g·vᵀ, the difference and two products.
 */
export function attentionSlopes(
  this: KernelThis<Square | "size" | Walk<"g"> | Walk<"v">>,
  weights: Floats,
  deltas: Floats,
  g: Floats,
  v: Floats,
  scale: number,
): number {
  const x = this.thread.x;
  const line = quotient(x, this.constants.Tk, x / this.constants.Tk);
  const j = x - line * this.constants.Tk;
  const head = quotient(line, this.constants.Tq, line / this.constants.Tq);
  const i = line - head * this.constants.Tq;
  const b = quotient(head, this.constants.H, head / this.constants.H);
  const h = head - b * this.constants.H;
  const shared = Math.floor((h + 0.5) / this.constants.share);
  const left = this.constants.gOffset + b * this.constants.gBatch + i * this.constants.gTime + h * this.constants.gHead;
  const right = this.constants.vOffset + b * this.constants.vBatch + j * this.constants.vTime + shared * this.constants.vHead;
  let sum = 0;
  for (let e = 0; e < this.constants.size; e++) {
    sum = sum + g[left + e]! * v[right + e]!;
  }
  return scale * weights[x]! * (sum - deltas[line]!);
}
