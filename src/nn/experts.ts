/** Feed-forward parts of which a router has chosen a few for each token. */
import { checkpoint } from "../autograd/custom.ts";
import { matmul } from "../graph/contraction.ts";
import { add, and, cast, equal, less, mul, shiftRight, sub, where } from "../graph/elementwise.ts";
import { cumulativeSum, scatterAdd, take } from "../graph/indexing.ts";
import { expand, reshape, sliceAxis, transpose } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { reduceSum } from "../graph/reduction.ts";
import type { Shape } from "../graph/shape.ts";
import { constant, iota, number } from "../graph/source.ts";

/**
 * Which are the k largest of each row; of equal ones the first.
 *
 * @param x [N, E]
 * @returns [N, E] of 0 and 1, in the dtype of x
 */
export function largest(x: Tensor, k: number): Tensor {
  const [N, E] = x.shape as [number, number];
  const [own, others] = [reshape(x, [N, E, 1]), reshape(x, [N, 1, E])];
  const isBefore = less(reshape(iota([E]), [1, 1, E]), reshape(iota([E]), [1, E, 1]));
  const larger = cast(less(own, others), x.dtype);
  const equals = cast(and(equal(own, others), isBefore), x.dtype);
  const rank = reshape(reduceSum(add(larger, equals), [2]), [N, E]);
  return cast(less(rank, number(rank, k)), x.dtype);
}

/** Rows of a block of tokens that one expert computes for. */
const blockRows = 32;

/** Tokens in blocks, each of which belongs to one expert. */
interface Blocks {
  /** [blocks · rows] int32: which token; 0 in rows that no token needs. */
  readonly tokens: Tensor;
  /** [blocks] int32 */
  readonly experts: Tensor;
  /** [blocks, rows, 1]: the expert's weight for the token, 0 in rows that no token needs. */
  readonly weights: Tensor;
}

/**
 * Puts the tokens of each expert one behind the other, with room to the next whole block. How many blocks there can be is known before
 * how many tokens each expert has: Σₑ ⌈nₑ / rows⌉ ≤ (N·k + E·(rows − 1)) / rows.
 *
 * @param weights [N, E], above 0 for at most k of each row
 */
function inBlocks(weights: Tensor, blocks: number, rows: number): Blocks {
  const [N, E] = weights.shape as [number, number];
  const int = (value: number) => constant(value, [], "int32");
  const byExpert = transpose(weights);
  const isChosen = less(number(weights, 0), byExpert); // [E, N]
  const upTo = cumulativeSum(cast(isChosen, "int32"));
  const own = shiftRight(add(reshape(sliceAxis(upTo, 1, N - 1, N), [E]), int(rows - 1)), int(Math.log2(rows)));
  const ends = cumulativeSum(own);
  const first = mul(reshape(sub(ends, own), [E, 1]), int(rows));
  const all = blocks * rows;
  // what was not chosen goes into one more row, which is cut off
  const places = reshape(where(isChosen, sub(add(first, upTo), int(1)), int(all)), [E * N]);
  const placed = (x: Tensor) => sliceAxis(scatterAdd(places, reshape(x, [E * N]), all + 1), 0, 0, all);
  const before = cast(less(reshape(ends, [1, E]), reshape(add(iota([blocks]), int(1)), [blocks, 1])), "int32");
  const expert = reshape(reduceSum(before, [1]), [blocks]);
  return {
    tokens: placed(expand(reshape(iota([N]), [1, N]), [E, N])),
    experts: where(less(expert, int(E)), expert, int(E - 1)),
    weights: reshape(placed(byExpert), [blocks, rows, 1]),
  };
}

/** Matrices [E, out, in] that are there when they are needed: those of chosen experts, [n, out, in], or all. */
export interface WidenedMatrices {
  readonly shape: Shape;
  widened(chosen?: Tensor): Tensor;
}

/** What the experts are made of. */
export interface ExpertParts {
  /** [E, 2F, C]; frozen where it is widened */
  readonly gateUp: Tensor | WidenedMatrices;
  /** [E, C, F] */
  readonly down: Tensor | WidenedMatrices;
  /** Whether tensors are [E, C, 2F] and [E, F, C]. */
  readonly isTransposed?: boolean;
  /** [E, 2F] and [E, C] */
  readonly gateUpBias?: Tensor;
  readonly downBias?: Tensor;
  /** [.., 2F] → [.., F] */
  gated(inner: Tensor): Tensor;
}

/** act(gate) ∘ up, where the values of the gate stand before the others. @param gated (gate, up) → act(gate) ∘ up */
export const gatedHalves =
  (gated: (gate: Tensor, up: Tensor) => Tensor) =>
  (inner: Tensor): Tensor => {
    const size = inner.shape[2] as number;
    return gated(sliceAxis(inner, 2, 0, size / 2), sliceAxis(inner, 2, size / 2, size));
  };

/** rows [n, m, in] · each expert's matrix. What is widened is so again for the derivative, instead of kept. */
function product(rows: Tensor, matrices: Tensor | WidenedMatrices, isTransposed: boolean, chosen?: Tensor): Tensor {
  if (!("widened" in matrices)) {
    const own = chosen ? take(matrices, chosen) : matrices;
    return matmul(rows, isTransposed ? own : transpose(own));
  }
  const run = checkpoint((x, of) => matmul(x as Tensor, transpose(matrices.widened(of))));
  return chosen ? run(rows, chosen) : run(rows);
}

/**
 * Σₑ weight[n, e] · downₑ(act(gateₑ(x[n])) ∘ upₑ(x[n])). Tokens are sorted into blocks of one expert each, whose matrices are copied
 * for the block, so that little more is computed than was chosen; single tokens are blocks of one row. Where that would be no less than
 * everything, all experts compute for all tokens. With 512 tokens of width 512 and 2 experts of 8 the blocks take half of that time,
 * 0.56 of it with derivatives; with 4 of 32 0.3 and 0.4; one token with 8 of 64 0.6.
 *
 * @param x        [N, C]
 * @param weights  [N, E], 0 for experts that were not chosen
 * @param perToken how many are chosen for each token, at most
 * @returns        [N, C]
 */
export function expertMLP(x: Tensor, weights: Tensor, perToken: number, parts: ExpertParts): Tensor {
  const { gateUp, down, isTransposed = false, gateUpBias, downBias, gated } = parts;
  const [N, E] = weights.shape as [number, number];
  const C = x.shape[1] as number;
  const biasOf = (bias: Tensor, chosen?: Tensor) => {
    const own = chosen ? take(bias, chosen) : bias;
    return reshape(own, [own.shape[0] as number, 1, own.shape[1] as number]);
  };
  const pass = (rows: Tensor, scale: Tensor, chosen?: Tensor): Tensor => {
    const inner = product(rows, gateUp, isTransposed, chosen); // [E, N, 2F], or of blocks
    const h = gated(gateUpBias ? add(inner, biasOf(gateUpBias, chosen)) : inner);
    const y = product(mul(h, scale), down, isTransposed, chosen);
    return downBias ? add(y, mul(scale, biasOf(downBias, chosen))) : y;
  };
  const rows = N * perToken < E ? 1 : blockRows;
  const blocks = Math.floor((N * perToken + E * (rows - 1)) / rows);
  if (blocks * rows >= N * E) {
    const y = pass(reshape(x, [1, N, C]), reshape(transpose(weights), [E, N, 1]));
    return reshape(reduceSum(y, [0]), [N, C]);
  }
  const { tokens, experts, weights: scale } = inBlocks(weights, blocks, rows);
  const taken = reshape(take(x, tokens), [blocks, rows, C]);
  const y = pass(taken, scale, experts);
  return scatterAdd(tokens, reshape(y, [blocks * rows, C]), N);
}
