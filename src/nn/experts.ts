/** Feed-forward parts of which a router has chosen a few for each token. */
import { matmul } from "../graph/contraction.ts";
import { add, and, cast, equal, less, mul } from "../graph/elementwise.ts";
import { reshape, sliceAxis, transpose } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { reduceSum } from "../graph/reduction.ts";
import { iota, number } from "../graph/source.ts";

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

/**
 * Σₑ weight[n, e] · downₑ(act(gateₑ(x[n])) ∘ upₑ(x[n])), as one batch of products over all experts.
 *
 * @param x       [N, C]
 * @param weights [N, E], 0 for experts that were not chosen
 * @param gateUp  [E, 2F, C], the rows of the gate before those of the other
 * @param down    [E, C, F]
 * @param gated   (gate, up) → act(gate) ∘ up
 * @returns       [N, C]
 */
export function expertMLP(
  x: Tensor,
  weights: Tensor,
  gateUp: Tensor,
  down: Tensor,
  gated: (gate: Tensor, up: Tensor) => Tensor,
): Tensor {
  const [N, C] = x.shape as [number, number];
  const [E, F] = [down.shape[0] as number, down.shape[2] as number];
  const inner = matmul(reshape(x, [1, N, C]), transpose(gateUp)); // [E, N, 2F]
  const h = gated(sliceAxis(inner, 2, 0, F), sliceAxis(inner, 2, F, 2 * F));
  const weighted = mul(h, reshape(transpose(weights), [E, N, 1]));
  return reshape(reduceSum(matmul(weighted, transpose(down)), [0]), [N, C]);
}
