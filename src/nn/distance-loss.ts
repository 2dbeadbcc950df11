/** Losses of pairs and triples of vectors. */
import { checkOptions, ShapeError, wordShape } from "../errors.ts";
import { add, equal, mul, sub, where } from "../graph/elementwise.ts";
import { requireTensors, type Tensor } from "../graph/node.ts";
import { sameShape } from "../graph/shape.ts";
import { number } from "../graph/source.ts";
import { minimum, relu } from "../tensor/math.ts";
import { cosineSimilarity, norm } from "../tensor/statistics.ts";
import { type Reduction, reduceLoss } from "./loss.ts";

function checkAlike(operation: string, tensors: Readonly<Record<string, Tensor>>): void {
  requireTensors(operation, tensors);
  const [first, ...others] = Object.values(tensors);
  for (const other of others)
    if (!sameShape(first!.shape, other.shape))
      throw new ShapeError(
        `${Object.keys(tensors).join(", ")} are ${Object.values(tensors)
          .map((x) => wordShape(x.shape))
          .join(", ")}.`,
        {
          operation,
          expected: first!.shape,
          got: other.shape,
        },
      );
}

interface MarginOptions {
  readonly margin?: number;
  readonly reduction?: Reduction;
}

/**
 * 1 − cos(x, y) where the target is 1, max(0, cos(x, y) − margin) where it is −1.
 *
 * @param x      [..., C]
 * @param y      [..., C]
 * @param target [...], 1 or −1
 */
export function cosineEmbeddingLoss(x: Tensor, y: Tensor, target: Tensor, options: MarginOptions = {}): Tensor {
  const operation = "cosineEmbeddingLoss";
  const { margin = 0, reduction = "mean" } = checkOptions(operation, options, { margin: "a finite number", reduction: null });
  checkAlike(operation, { x, y });
  const cosine = cosineSimilarity(x, y);
  checkAlike(operation, { rows: cosine, target });
  const apart = relu(sub(cosine, number(x, margin)));
  return reduceLoss(operation, where(equal(target, number(target, 1)), sub(number(x, 1), cosine), apart), reduction);
}

/** max(0, margin − target·(x − y)), where the target is 1 or −1: which of two is to be the larger. */
export function marginRankingLoss(x: Tensor, y: Tensor, target: Tensor, options: MarginOptions = {}): Tensor {
  const operation = "marginRankingLoss";
  const { margin = 0, reduction = "mean" } = checkOptions(operation, options, { margin: "a finite number", reduction: null });
  checkAlike(operation, { x, y, target });
  return reduceLoss(operation, relu(sub(number(x, margin), mul(target, sub(x, y)))), reduction);
}

/**
 * max(0, ‖anchor − positive‖ₚ − ‖anchor − negative‖ₚ + margin), of vectors along the last axis.
 *
 * @param options.swap takes the distance of positive and negative where that is the smaller one
 * @see https://arxiv.org/abs/1503.03832
 */
export function tripletMarginLoss(
  anchor: Tensor,
  positive: Tensor,
  negative: Tensor,
  options: MarginOptions & { readonly p?: number; readonly swap?: boolean } = {},
): Tensor {
  const operation = "tripletMarginLoss";
  const {
    margin = 1,
    p = 2,
    swap = false,
    reduction = "mean",
  } = checkOptions(operation, options, {
    margin: "a finite number",
    p: "a number above 0",
    swap: "true or false",
    reduction: null,
  });
  checkAlike(operation, { anchor, positive, negative });
  // as PyTorch's pairwise_distance
  const distance = (x: Tensor, y: Tensor) => norm(add(sub(x, y), number(x, 1e-6)), { p, axes: -1 });
  const far = distance(anchor, negative);
  const apart = swap ? minimum(far, distance(positive, negative)) : far;
  const loss = add(sub(distance(anchor, positive), apart), number(anchor, margin));
  return reduceLoss(operation, relu(loss), reduction);
}
