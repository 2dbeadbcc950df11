/**
 * The gated delta rule: attention whose memory is one matrix for each head, of the same size however long the text is. Each token
 * lets the memory fade, looks up what it holds under the token's key, and corrects that towards the token's value.
 */
import { withVjp } from "../autograd/custom.ts";
import { checkOptions, ShapeError, wordShape } from "../errors.ts";
import { concatenate } from "../graph/composite.ts";
import { matmul } from "../graph/contraction.ts";
import { add, and, cast, equal, exp, floor, less, mul, neg, sub, where } from "../graph/elementwise.ts";
import { expand, pad, permute, reshape, sliceAxis, transpose } from "../graph/movement.ts";
import { requireTensors, Tensor } from "../graph/node.ts";
import { sameShape } from "../graph/shape.ts";
import { iota, number } from "../graph/source.ts";
import { triangle, tril } from "../tensor/math.ts";
import { cumsum } from "../tensor/statistics.ts";

/**
 * Tokens that are taken at once. Longer chunks mean more work in each, shorter ones more of them behind each other: with heads of 128
 * values, 64 took 1.5 times as long and 16 1.2 times.
 */
const usualChunk = 32;
/**
 * Chunks of a segment. A chunk's part of what was computed for all at once is told from the others by looking through all of them, on
 * the way back and where outputs are joined, so that the time of that grows by the square of their number: with 2048 tokens segments take
 * 0.75 of the time with derivatives.
 */
const segmentChunks = 8;

/** What comes out of the rule. */
export interface DeltaRuleResult {
  /** [B, T, H, V] */
  readonly output: Tensor;
  /** [B, H, K, V]: the memory behind the last token. */
  readonly state: Tensor;
}

/**
 * Sₜ = e^dₜ · Sₜ₋₁ + βₜ · kₜ (vₜ − e^dₜ · Sₜ₋₁ᵀ kₜ)ᵀ and oₜ = Sₜᵀ qₜ, for each head.
 *
 * Computed by chunks, so that most of it is products of matrices. Within a chunk, with Dᵢ the sum of d up to token i, what tokens
 * really write, u, solves (I + A)·u = β·(v − e^D·k·S) with Aᵢⱼ = βᵢ · kᵢᵀkⱼ · e^(Dᵢ − Dⱼ) below the diagonal; the memory is handed from
 * chunk to chunk.
 *
 * @param q     [B, T, G, K]
 * @param k     [B, T, G, K]; of length 1 or less, or the memory may grow
 * @param v     [B, T, H, V], H a multiple of G: so many heads in a row share queries and keys
 * @param decay [B, T, H], d: logarithms of what is kept, 0 or below
 * @param beta  [B, T, H], 0 for a token that writes nothing, 1 for one that replaces what is there
 * @param options.state [B, H, K, V]: the memory before the first token, zeros when absent
 * @param options.chunk tokens of a chunk
 * @throws {ShapeError} when sizes do not fit
 * @see https://arxiv.org/abs/2412.06464 (Gated Delta Networks), eq. 10 and §3.3; https://arxiv.org/abs/2406.06484 for the chunks
 */
export function gatedDeltaRule(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  decay: Tensor,
  beta: Tensor,
  options: { readonly state?: Tensor; readonly chunk?: number } = {},
): DeltaRuleResult {
  const { state, chunk = usualChunk } = checkOptions("gatedDeltaRule", options, {
    state: Tensor,
    chunk: "a whole number from 1",
  });
  requireTensors("gatedDeltaRule", { q, k, v, decay, beta });
  checkSizes(q, k, v, decay, beta, state);
  const [B, T, G, K] = k.shape as [number, number, number, number];
  const [H, V] = v.shape.slice(2) as [number, number];
  const C = Math.min(chunk, T);
  const N = Math.ceil(T / C);
  if (N > segmentChunks) return bySegments([q, k, v, decay, beta], segmentChunks * C, chunk, state);
  const share = H / G;
  /** [B, T, heads, ...] → [B, G, heads / G, N, C, ...]; tokens that fill the last chunk keep everything and write nothing. */
  const chunked = (x: Tensor) => {
    const whole = pad(
      x,
      x.shape.map(() => 0),
      x.shape.map((_, axis) => (axis === 1 ? N * C - T : 0)),
    );
    const split = reshape(whole, [B, N, C, G, (x.shape[2] as number) / G, ...x.shape.slice(3)]);
    return permute(split, [0, 3, 4, 1, 2, ...(x.rank > 3 ? [5] : [])]);
  };
  const [Q, Kc, Vc] = [q, k, v].map(chunked) as [Tensor, Tensor, Tensor];
  const column = (x: Tensor) => reshape(x, [...x.shape, 1]);
  const row = (x: Tensor) => transpose(column(x));
  const D = cumsum(chunked(decay), -1); // [B, G, share, N, C]
  const betas = column(chunked(beta));
  const lower = triangle(C, C);
  // of j behind i, which would be more than 1, nothing
  const faded = exp(where(lower, sub(column(D), row(D)), number(D, Number.NEGATIVE_INFINITY)));
  const A = mul(betas, mul(matmul(Kc, transpose(Kc)), faded));
  const seen = mul(matmul(Q, transpose(Kc)), faded); // [B, G, share, N, C, C]
  const kept = column(exp(D));
  const end = sliceAxis(D, 4, C - 1, C); // [B, G, share, N, 1]
  const X = inverse(A);
  const written = matmul(X, mul(betas, Vc)); // u, were the memory empty: [..., C, V]
  const looked = matmul(X, mul(mul(betas, kept), Kc)); // what the memory takes from it: [..., C, K]
  const asked = mul(Q, kept);
  const keys = transpose(mul(Kc, column(exp(sub(end, D))))); // [..., K, C]
  const whole = column(exp(end)); // [B, G, share, N, 1, 1]
  const of = (x: Tensor, chunk: number) => {
    const [b, g, s, , ...rest] = x.shape as [number, number, number, number, ...number[]];
    return reshape(sliceAxis(x, 3, chunk, chunk + 1), [b, g, s, ...rest]);
  };
  let S = state && reshape(state, [B, G, share, K, V]);
  const outputs: Tensor[] = [];
  for (let i = 0; i < N; i++) {
    const u: Tensor = S ? sub(of(written, i), matmul(of(looked, i), S)) : of(written, i);
    const own = matmul(of(seen, i), u);
    outputs.push(S ? add(own, matmul(of(asked, i), S)) : own);
    const added = matmul(of(keys, i), u);
    S = S ? add(mul(of(whole, i), S), added) : added;
  }
  const joined = concatenate(
    outputs.map((o) => reshape(o, [B, H, C, V])),
    2,
  );
  return { output: permute(sliceAxis(joined, 2, 0, T), [0, 2, 1, 3]), state: reshape(S as Tensor, [B, H, K, V]) };
}

/** Segments of `length` tokens, one after the other. */
function bySegments(
  inputs: readonly [q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor],
  length: number,
  chunk: number,
  state: Tensor | undefined,
): DeltaRuleResult {
  const T = inputs[0].shape[1] as number;
  let last = state;
  const outputs = Array.from({ length: Math.ceil(T / length) }, (_, i) => {
    const cut = (x: Tensor) => sliceAxis(x, 1, i * length, Math.min(T, (i + 1) * length));
    const [q, k, v, decay, beta] = inputs;
    const result = gatedDeltaRule(cut(q), cut(k), cut(v), cut(decay), cut(beta), { chunk, ...(last && { state: last }) });
    last = result.state;
    return result.output;
  });
  return { output: concatenate(outputs, 1), state: last as Tensor };
}

/** (I + A)⁻¹ of the strict lower triangle of A [..., C, C]. */
const inverse = withVjp(
  (x) => {
    const A = tril(x as Tensor, -1);
    const C = A.shape[A.rank - 1] as number;
    const at = (axis: number, size: number) =>
      floor(mul(cast(reshape(iota([C]), axis === 0 ? [C, 1] : [1, C]), A.dtype), number(A, 1 / size)));
    // of diagonal blocks of one size those of twice that: [[X, 0], [L, Y]]⁻¹ = [[X⁻¹, 0], [−Y⁻¹·L·X⁻¹, Y⁻¹]]
    let X: Tensor = where(equal(at(0, 1), at(1, 1)), number(A, 1), number(A, 0));
    for (let size = 1; size < C; size *= 2) {
      const within = and(equal(at(0, 2 * size), at(1, 2 * size)), less(at(1, size), at(0, size)));
      const L = where(within, A, number(A, 0));
      X = size === 1 ? sub(X, L) : sub(X, matmul(matmul(X, L), X));
    }
    return expand(X, A.shape);
  },
  (g, y) => [neg(tril(matmul(matmul(transpose(y), g), transpose(y)), -1))],
);

function checkSizes(q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor, state?: Tensor): void {
  const [B, T, G, K] = k.shape as [number, number, number, number];
  const [H, V] = v.shape.slice(2) as [number, number];
  const fits =
    [k, v].every(({ rank }) => rank === 4) &&
    T > 0 &&
    H % G === 0 &&
    sameShape(q.shape, k.shape) &&
    sameShape(v.shape, [B, T, H, V]) &&
    [decay, beta].every(({ shape }) => sameShape(shape, [B, T, H])) &&
    (!state || sameShape(state.shape, [B, H, K, V]));
  if (fits) return;
  const got = { q, k, v, decay, beta, ...(state && { state }) };
  throw new ShapeError(
    `${Object.entries(got)
      .map(([name, { shape }]) => `${name} ${wordShape(shape)}`)
      .join(", ")} do not fit.`,
    {
      operation: "gatedDeltaRule",
      got: Object.values(got).map(({ shape }) => shape),
      hint: "They are [batch, time, heads, size], decay and beta without size, a state [batch, heads, size of keys, size of values]; the heads of v are a multiple of those of q and k.",
    },
  );
}
