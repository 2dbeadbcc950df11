/**
 * Scaled dot-product attention as one operation, so that a device may do it without keeping the T×T matrix.
 * Everything is token-major, [batch, time, heads, size], which is how projections leave their results.
 */
import { checkOptions, ShapeError, wordShape } from "../errors.ts";
import { matmul } from "./contraction.ts";
import { promote, requireFloat } from "./dtype.ts";
import { add, and, cast, exp, less, log, max, mul, sub, where } from "./elementwise.ts";
import { applyFused, itemOp, resultTypes } from "./fused.ts";
import { expand, permute, reshape, stopGradient, transpose } from "./movement.ts";
import { requireTensors, Tensor } from "./node.ts";
import type { Draw, Fused, Sample } from "./primitive.ts";
import { reduceMax, reduceSum } from "./reduction.ts";
import { constant, iota, number } from "./source.ts";

/** Which keys a query sees, and how scores are scaled. */
export interface AttentionOptions {
  /** Each query sees keys up to its own position; the last query stands at the last key. */
  readonly isCausal?: boolean;
  /** Multiplies the scores; 1/√D by default. */
  readonly scale?: number;
  /** With `isCausal`: a query sees this many keys at most, its own included (sliding window). 0 means all. */
  readonly window?: number;
}

type Attributes = Readonly<Record<string, unknown>>;
const causal = (attributes: Attributes): boolean => attributes["causal"] === 1;
const scaleOf = (attributes: Attributes): number => attributes["scale"] as number;

/** q [B,T,H,D] → [B,G,H/G,T,D] and k or v [B,T,G,D] → [B,G,H/G,T,D]: heads beside the key head that they share. */
function byGroup(x: Tensor, groups: number, heads: number): Tensor {
  const [B, T, own, D] = x.shape as [number, number, number, number];
  const split = permute(reshape(x, [B, T, groups, own / groups, D]), [0, 2, 3, 1, 4]);
  return expand(split, [B, groups, heads / groups, T, D]);
}

/** [B,G,H/G,T,D] → [B,T,H,D] */
function byToken(x: Tensor): Tensor {
  const [B, G, S, T, D] = x.shape as [number, number, number, number, number];
  return reshape(permute(x, [0, 3, 1, 2, 4]), [B, T, G * S, D]);
}

/** Scores [B,G,H/G,Tq,Tk], scaled, with −1e30 where a query must not look. */
function scores(q: Tensor, k: Tensor, attributes: Attributes): Tensor {
  const S = mul(matmul(q, transpose(k)), number(q, scaleOf(attributes)));
  if (!causal(attributes)) return S;
  const [Tq, Tk] = [S.shape[3]!, S.shape[4]!];
  const query = add(reshape(iota([Tq]), [Tq, 1]), constant(Tk - Tq, [], "int32"));
  const key = reshape(iota([Tk]), [1, Tk]);
  let seen = less(key, add(query, constant(1, [], "int32")));
  const window = attributes["window"] as number;
  if (window > 0) seen = and(seen, less(query, add(key, constant(window, [], "int32"))));
  return where(seen, S, number(S, -1e30));
}

function groupsOf(sources: readonly Tensor[]): [q: Tensor, k: Tensor, v: Tensor] {
  const [q, k, v] = sources as [Tensor, Tensor, Tensor];
  const [G, H] = [k.shape[2]!, q.shape[2]!];
  return [byGroup(q, G, H), byGroup(k, G, H), byGroup(v, G, H)];
}

/** Operations of `products` matrix products over the full square of scores. */
const squares =
  (products: number) =>
  (sources: readonly Tensor[]): number => {
    const [B, Tq, H, D] = sources[0]!.shape as [number, number, number, number];
    return products * 2 * B * H * Tq * sources[1]!.shape[1]! * D;
  };

const numbers = (attributes: Attributes): Readonly<Record<string, number>> => ({
  causal: attributes["causal"] as number,
  scale: scaleOf(attributes),
  window: attributes["window"] as number,
});

/** q [B,Tq,H,D], k [B,Tk,G,D], v [B,Tk,G,E] → y [B,Tq,H,E] and, for the derivative, the log of each softmax's sum, [B,H,Tq]. */
export const attentionOp: Fused = {
  kind: "fused",
  name: "attention",
  formula: "softmax(q·kᵀ/√D)·v",
  strided: [0, 1, 2],
  flops: squares(2),
  numbers,
  compose(sources, attributes) {
    const [q, k, v] = groupsOf(sources);
    const S = scores(q, k, attributes);
    // the bounds give weights of 0 to a query that sees no key, as with Tq > Tk; no result depends on `top`, so no derivative does
    const top = stopGradient(max(reduceMax(S, [4]), number(S, -1e20)));
    const logSum = add(top, log(max(reduceSum(exp(sub(S, top)), [4]), number(S, 1e-30))));
    const y = matmul(exp(sub(S, logSum)), v);
    const [B, G, N, T] = logSum.shape as [number, number, number, number];
    return [byToken(y), reshape(logSum, [B, G * N, T])];
  },
  // the cotangent of the log-sum exists only in second derivatives: left to the composition
  pullback(gs, node) {
    const [g, gLogSum] = gs;
    if (!g || gLogSum) return null;
    const [q, k, v] = node.sources as [Tensor, Tensor, Tensor];
    const results = resultTypes(node).map(({ shape }, index) => new Tensor(itemOp, [node], shape, q.dtype, { index }));
    return attentionBackward([q, k, v, ...results, g], node.attributes);
  },
  vjp: () => [],
  samples: (draw: Draw): Sample[] => {
    const [B, G, share, T, D] = [draw.integer(1, 2), draw.integer(1, 2), draw.integer(1, 2), draw.extent(6), draw.extent(5)];
    const Tq = draw.integer(1, T);
    const domain: readonly [number, number] = [-2, 2];
    const shapes = [
      [B, Tq, G * share, D],
      [B, T, G, D],
      [B, T, G, D],
    ];
    return [{}, { isCausal: true }, { isCausal: true, window: 2 }].map((options) => ({
      inputs: shapes.map((shape) => ({ shape, domain })),
      apply: (q: Tensor, k: Tensor, v: Tensor) => attention(q, k, v, options),
    })) as Sample[];
  },
  tolerance: 1e-5,
};

/** Cotangents of q, k and v from those sources, the results of the forward pass, and the cotangent of y. */
export const attentionBackwardOp: Fused = {
  kind: "fused",
  name: "attentionBackward",
  formula: "dS = P∘(g·vᵀ − Σ g∘y)",
  strided: [0, 1, 2, 3, 5],
  flops: squares(5),
  numbers,
  compose(sources, attributes) {
    const [q, k, v] = groupsOf(sources);
    const [, , , y, logSum, g] = sources as [Tensor, Tensor, Tensor, Tensor, Tensor, Tensor];
    const [G, H] = [k.shape[1]!, g.shape[2]!];
    const [gG, yG] = [byGroup(g, G, H), byGroup(y, G, H)];
    const [B, , T] = logSum.shape as [number, number, number];
    const P = exp(sub(scores(q, k, attributes), reshape(logSum, [B, G, H / G, T, 1])));
    const delta = reduceSum(mul(gG, yG), [4]);
    const dS = mul(mul(P, sub(matmul(gG, transpose(v)), delta)), number(q, scaleOf(attributes)));
    // heads that share a key head add up
    return [
      byToken(matmul(dS, k)),
      byToken(reduceSum(matmul(transpose(dS), q), [2])),
      byToken(reduceSum(matmul(transpose(P), gG), [2])),
    ];
  },
  vjp: () => [],
  tolerance: 1e-5,
};

/** Cotangents of q, k and v. @param sources as attentionBackwardOp has them @param attributes of the forward pass */
export const attentionBackward = (sources: readonly Tensor[], { causal, scale, window }: Attributes): Tensor[] =>
  applyFused(
    attentionBackwardOp,
    sources,
    sources.slice(0, 3).map(({ shape, dtype }) => ({ shape, dtype })),
    { causal, scale, window },
  );

/**
 * softmax(scale · q·kᵀ) · v per head. Heads of q share key heads evenly (grouped-query attention): H is a multiple of G.
 *
 * @param q [B, Tq, H, D]
 * @param k [B, Tk, G, D]
 * @param v [B, Tk, G, E]
 * @returns [B, Tq, H, E]; float32 for 16-bit floats
 * @throws {ShapeError} when the sizes do not fit; @throws {DTypeError} for integers
 * @see https://arxiv.org/abs/1706.03762, eq. 1; https://arxiv.org/abs/2205.14135 for not keeping the T×T matrix
 */
export function attention(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions = {}): Tensor {
  return attentionParts(q, k, v, options).y;
}

/** Attention, the log of each softmax's sum [B, H, Tq], and what their derivative is made of. */
export function attentionParts(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions) {
  checkOptions("attention", options, { isCausal: "true or false", scale: "a finite number", window: "a whole number from 0" });
  requireTensors("attention", { q, k, v });
  const fits =
    q.rank === 4 &&
    k.rank === 4 &&
    v.rank === 4 &&
    q.shape[0] === k.shape[0] &&
    k.shape[0] === v.shape[0] &&
    k.shape[1] === v.shape[1] &&
    k.shape[2] === v.shape[2] &&
    q.shape[3] === k.shape[3] &&
    q.shape[2]! % k.shape[2]! === 0;
  if (!fits)
    throw new ShapeError(`q ${wordShape(q.shape)}, k ${wordShape(k.shape)} and v ${wordShape(v.shape)} do not fit.`, {
      operation: "attention",
      got: [q.shape, k.shape, v.shape],
      hint: "They are [batch, time, heads, size]; the heads of q are a multiple of those of k and v.",
    });
  const [B, Tq, H, D] = q.shape as [number, number, number, number];
  const promoted = [k.dtype, v.dtype].reduce(promote, q.dtype);
  requireFloat("attention", promoted);
  const dtype = promoted === "float16" || promoted === "bfloat16" ? "float32" : promoted;
  const sources = [q, k, v].map((x) => cast(x, dtype));
  const attributes = { causal: options.isCausal ? 1 : 0, scale: options.scale ?? 1 / Math.sqrt(D), window: options.window ?? 0 };
  const types = [
    [B, Tq, H, v.shape[3]!],
    [B, H, Tq],
  ].map((shape) => ({ shape, dtype }));
  const [y, logSum] = applyFused(attentionOp, sources, types, attributes) as [Tensor, Tensor];
  return { y, logSum, sources, attributes };
}

/** The fused operations by name. */
export const fusedOperations = { attention: attentionOp, attentionBackward: attentionBackwardOp } as const;
