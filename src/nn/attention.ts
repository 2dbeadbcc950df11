/**
 * Attention with all its masks. The causal case without a mask goes to the operation of graph/attention.ts, for which
 * devices have kernels that never hold the T×T matrix; every other case is composed here. Nothing else decides this.
 */
import { withVjp } from "../autograd/custom.ts";
import { checkOptions, DTypeError, requireKind, requireOption, ShapeError, under, wordShape } from "../errors.ts";
import { type AttentionOptions, attention, attentionBackward, attentionParts } from "../graph/attention.ts";
import { matmul } from "../graph/contraction.ts";
import { isFloat } from "../graph/dtype.ts";
import { add, and, cast, div, exp, less, max, mul, neg, sub, where } from "../graph/elementwise.ts";
import { expand, permute, reshape, stopGradient, transpose } from "../graph/movement.ts";
import { requireTensors, Tensor } from "../graph/node.ts";
import { reduceMax, reduceSum } from "../graph/reduction.ts";
import { constant, iota, number } from "../graph/source.ts";
import { sigmoid, softplus } from "../tensor/math.ts";
import { softmax } from "../tensor/statistics.ts";
import { softcap } from "./activation.ts";

/** Who sees whom, and how scores are scaled. */
export interface AttendOptions {
  /** Query i sees key j only where j ≤ i + `offset`. */
  readonly isCausal?: boolean;
  /** With `isCausal`: position of the first query among the keys; Tk − Tq when absent. A tensor [] int32 in a cache. */
  readonly offset?: number | Tensor;
  /** With `isCausal`: a query sees this many keys at most, its own included (sliding window); 0 means all. */
  readonly window?: number;
  /** [B, Tk] bool or 0/1: keys that exist; false ones (padding) are seen by nobody. */
  readonly keyMask?: Tensor;
  /** Broadcastable to [B, H, Tq, Tk]: bool, true where a query may look; or floating-point, added to the scores. */
  readonly mask?: Tensor;
  /** Multiplies q·kᵀ; 1/√D when absent. */
  readonly scale?: number;
  /** Bounds the scaled scores to ±c by c·tanh(score/c), before any mask; 0 for none. */
  readonly softcap?: number;
  /** [H]: of each head the score of one more key, which every query sees and which has no value. */
  readonly sinks?: Tensor;
  /** Applied to the weights after softmax, for dropout in training. */
  readonly dropout?: (weights: Tensor) => Tensor;
}

/**
 * softmax(scale · q·kᵀ + mask) · v per head, everything token-major, as projections leave their results. Heads of q share
 * key heads evenly (grouped-query attention) and without copies. A query that may look nowhere gets zeros.
 *
 * @param q [B, Tq, H, D]
 * @param k [B, Tk, G, D], H a multiple of G
 * @param v [B, Tk, G, E]
 * @returns [B, Tq, H, E]
 * @throws {ShapeError} when sizes do not fit
 * @see https://arxiv.org/abs/1706.03762, eq. 1; https://arxiv.org/abs/2305.13245 for grouped queries
 */
export function attend(q: Tensor, k: Tensor, v: Tensor, options: AttendOptions = {}): Tensor {
  checkOptions("attend", options, {
    isCausal: "true or false",
    offset: null,
    window: "a whole number from 0",
    keyMask: Tensor,
    mask: Tensor,
    scale: "a finite number",
    softcap: "a number from 0",
    sinks: Tensor,
    dropout: "a function",
  });
  requireTensors("attend", { q, k, v });
  if (typeof options.offset === "number") requireOption("attend", "a whole number", "offset", options.offset);
  else if (options.offset !== undefined) requireTensors("attend", { offset: options.offset });
  const { isCausal = false, offset, window = 0, keyMask, mask, scale, softcap: cap = 0, sinks, dropout } = options;
  const atEnd = offset === undefined || offset === (k.shape[1] as number) - (q.shape[1] as number);
  if (sinks) checkSinks(sinks, q);
  if (!keyMask && !mask && !dropout && cap === 0 && (!isCausal || atEnd)) {
    const shared = { isCausal, window, ...(scale === undefined ? {} : { scale }) };
    return sinks ? withSinks(q, k, v, sinks, shared) : attention(q, k, v, shared);
  }
  checkHeads(q, k, v);
  const [B, Tq, H, D] = q.shape as [number, number, number, number];
  const [Tk, G] = k.shape.slice(1) as [number, number];
  const grouped = [B, G, H / G, Tq, Tk];
  const products = matmul(byGroup(q, G, H), transpose(byGroup(k, G, H))); // [B, G, H/G, Tq, Tk]
  const scaled = softcap(mul(products, number(q, scale ?? 1 / Math.sqrt(D))), cap);
  const seen: Tensor[] = [];
  if (isCausal) seen.push(causalMask(Tq, Tk, offset ?? Tk - Tq, window));
  if (keyMask) seen.push(reshape(checkKeyMask(keyMask, B, Tk), [B, 1, 1, 1, Tk]));
  if (mask && !isFloat(mask.dtype)) seen.push(perGroup(mask, grouped));
  const biased = mask && isFloat(mask.dtype) ? add(scaled, perGroup(mask, grouped)) : scaled;
  const masked = seen.length ? where(seen.reduce(and), biased, number(biased, Number.NEGATIVE_INFINITY)) : biased;
  const weights = sinks ? besideSink(masked, reshape(cast(sinks, q.dtype), [G, H / G, 1, 1])) : softmax(masked, -1);
  const kept = dropout ? dropout(weights) : weights;
  requireTensors("attend", { "dropout(…)": kept });
  const y = matmul(kept, byGroup(v, G, H)); // [B, G, H/G, Tq, E]
  return reshape(permute(y, [0, 3, 1, 2, 4]), [B, Tq, H, v.shape[3] as number]);
}

/**
 * The fused operation with sinks: its result times σ(log of the softmax's sum − sink), and that log grows by what the sink adds. With
 * these two the derivative by queries, keys and values is the fused one as it is.
 */
function withSinks(q: Tensor, k: Tensor, v: Tensor, sinks: Tensor, options: AttentionOptions): Tensor {
  const { y, logSum, sources, attributes } = attentionParts(q, k, v, options);
  const [B, H, T] = logSum.shape as [number, number, number];
  const sink = reshape(cast(sinks, y.dtype), [1, H, 1]);
  const byToken = (x: Tensor) => reshape(permute(x, [0, 2, 1]), [B, T, H, 1]);
  const run = withVjp(
    () => mul(y, byToken(sigmoid(sub(logSum, sink)))),
    // the sums are an argument, since for rows of `vmap` there is no other way to them; what they hand on is in the fused derivative
    (g, out, own, keys, values, score, sums) => {
      const all = add(sums!, softplus(sub(score!, sums!)));
      const share = byToken(exp(sub(score!, all)));
      const bySink = reduceSum(mul(share, mul(g, out)), [0, 1, 3]);
      return [...attentionBackward([own!, keys!, values!, out, all, g], attributes), reshape(neg(bySink), score!.shape), null];
    },
  );
  return run(...sources, sink, logSum);
}

/** Softmax over the last axis with one more score, whose weight is left out. */
function besideSink(scores: Tensor, sink: Tensor): Tensor {
  const top = stopGradient(max(reduceMax(scores, [scores.rank - 1]), sink));
  const weights = exp(sub(scores, top));
  return div(weights, add(reduceSum(weights, [scores.rank - 1]), exp(sub(sink, top))));
}

/** The options that PyTorch's function has. */
export interface ScaledDotProductAttentionOptions {
  /** As PyTorch's `attn_mask`: broadcastable to [B, H, Tq, Tk], bool or added to the scores. */
  readonly mask?: Tensor;
  /** Query i sees keys 0 … i. */
  readonly isCausal?: boolean;
  readonly scale?: number;
}

/**
 * PyTorch's `scaled_dot_product_attention`: the same with heads before time.
 *
 * @param q [B, H, Tq, D]
 * @param k [B, G, Tk, D], H a multiple of G
 * @param v [B, G, Tk, E]
 * @returns [B, H, Tq, E]
 */
export function scaledDotProductAttention(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  options: ScaledDotProductAttentionOptions = {},
): Tensor {
  checkOptions("scaledDotProductAttention", options, { isCausal: "true or false", mask: Tensor, scale: "a finite number" });
  requireTensors("scaledDotProductAttention", { q, k, v });
  const { isCausal = false, mask, scale } = options;
  const swap = (x: Tensor) => {
    if (x.rank !== 4) throw misfit("scaledDotProductAttention", q, k, v, "They are [batch, heads, time, size].");
    return permute(x, [0, 2, 1, 3]);
  };
  const given = { isCausal, offset: 0, ...(mask ? { mask } : {}), ...(scale === undefined ? {} : { scale }) };
  return under("scaledDotProductAttention", () => swap(attend(swap(q), swap(k), swap(v), given)));
}

/** [Tq, Tk] bool: true where key j ≤ query i + offset, and within the window if there is one. Costs no memory. */
export function causalMask(queries: number, keys: number, offset: number | Tensor = 0, window = 0): Tensor {
  requireKind("causalMask", "a whole number from 0", { queries, keys, window });
  if (typeof offset !== "number") requireTensors("causalMask", { offset });
  const query = add(reshape(iota([queries]), [queries, 1]), typeof offset === "number" ? constant(offset, [], "int32") : offset);
  const key = reshape(iota([keys]), [1, keys]);
  const seen = less(key, add(query, constant(1, [], "int32")));
  return window > 0 ? and(seen, less(query, add(key, constant(window, [], "int32")))) : seen;
}

/** [B, T, own, D] → [B, G, H/G, T, D]: heads beside the key head that they share, as views. */
function byGroup(x: Tensor, groups: number, heads: number): Tensor {
  const [B, T, own, D] = x.shape as [number, number, number, number];
  const split = permute(reshape(x, [B, T, groups, own / groups, D]), [0, 2, 3, 1, 4]);
  return expand(split, [B, groups, heads / groups, T, D]);
}

/** A mask broadcastable to [B, H, Tq, Tk] as one broadcastable to [B, G, H/G, Tq, Tk]. */
function perGroup(mask: Tensor, grouped: readonly number[]): Tensor {
  const [B, G, share, Tq, Tk] = grouped as [number, number, number, number, number];
  const own = [...new Array<number>(Math.max(0, 4 - mask.rank)).fill(1), ...mask.shape];
  const fits = own.length === 4 && [B, G * share, Tq, Tk].every((extent, axis) => own[axis] === 1 || own[axis] === extent);
  if (!fits)
    throw new ShapeError(`\`mask\` ${wordShape(mask.shape)} does not broadcast to ${wordShape([B, G * share, Tq, Tk])}.`, {
      operation: "attend",
      expected: [B, G * share, Tq, Tk],
      got: mask.shape,
      hint: "It is [batch, heads, queries, keys].",
    });
  const [b, h, i, j] = own as [number, number, number, number];
  return reshape(mask, [b, h === 1 ? 1 : G, h === 1 ? 1 : share, i, j]);
}

function checkKeyMask(mask: Tensor, B: number, Tk: number): Tensor {
  if (mask.rank !== 2 || mask.shape[0] !== B || mask.shape[1] !== Tk)
    throw new ShapeError(`\`keyMask\` is ${wordShape(mask.shape)}, the keys are ${wordShape([B, Tk])}.`, {
      operation: "attend",
      expected: [B, Tk],
      got: mask.shape,
    });
  if (isFloat(mask.dtype))
    throw new DTypeError(`\`keyMask\` is bool or whole numbers (1 = real, 0 = padding), got ${mask.dtype}.`, {
      operation: "attend",
      got: mask.dtype,
    });
  return less(constant(0, [], "int32"), mask);
}

function checkSinks(sinks: Tensor, q: Tensor): void {
  if (sinks.rank === 1 && sinks.size === q.shape[2]) return;
  throw new ShapeError(`\`sinks\` is ${wordShape(sinks.shape)}, q has ${q.shape[2]} heads.`, {
    operation: "attend",
    expected: [q.shape[2]],
    got: sinks.shape,
  });
}

function checkHeads(q: Tensor, k: Tensor, v: Tensor): void {
  const [qs, ks, vs] = [q.shape, k.shape, v.shape];
  const fits =
    [qs, ks, vs].every((shape) => shape.length === 4) &&
    qs[0] === ks[0] &&
    ks[0] === vs[0] &&
    ks[1] === vs[1] &&
    ks[2] === vs[2] &&
    qs[3] === ks[3] &&
    (qs[2] as number) % (ks[2] as number) === 0;
  if (!fits)
    throw misfit("attend", q, k, v, "They are [batch, time, heads, size]; the heads of q are a multiple of those of k and v.");
}

const misfit = (operation: string, q: Tensor, k: Tensor, v: Tensor, hint: string): ShapeError =>
  new ShapeError(`q ${wordShape(q.shape)}, k ${wordShape(k.shape)} and v ${wordShape(v.shape)} do not fit.`, {
    operation,
    got: [q.shape, k.shape, v.shape],
    hint,
  });
