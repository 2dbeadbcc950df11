/** What all models that classify whole texts have in common. */
import { ConfigError, ShapeError, wordShape } from "../errors.ts";
import { isFloat } from "../graph/dtype.ts";
import { cast, equal, where } from "../graph/elementwise.ts";
import { reshape, sliceAxis } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { reduceMax, reduceSum } from "../graph/reduction.ts";
import { constant, iota, number } from "../graph/source.ts";
import { binaryCrossEntropyWithLogits, crossEntropy, mseLoss } from "../nn/loss.ts";
import type { TextInputs } from "./causal-lm.ts";
import type { ProblemType } from "./config-reader.ts";

/** What a classifier of texts takes. */
export interface ClassifierInputs extends Omit<TextInputs, "cache"> {
  /** [B] class numbers, or [B, classes]: numbers, or 1 for each class that a text is in. */
  readonly labels?: Tensor;
}

/** What it gives. */
export interface ClassifierOutput {
  /** [B, classes] */
  readonly logits: Tensor;
  /** There when labels were given. */
  readonly loss?: Tensor;
  /** The embeddings, then the state after each layer. All [B, T, C]. */
  readonly hiddenStates: readonly Tensor[];
}

/**
 * Cross-entropy for class numbers, mean squared error for regression, binary cross-entropy for several classes at once.
 *
 * @param logits [B, classes]
 * @param labels [B], or [B, classes]
 * @param type   what the labels are; when `null` regression for one class, else by whether they are whole numbers
 */
export function classifierLoss(logits: Tensor, labels: Tensor, type: ProblemType | null): Tensor {
  const [B, classes] = logits.shape as [number, number];
  const found =
    type ?? (classes === 1 ? "regression" : isFloat(labels.dtype) ? "multi_label_classification" : "single_label_classification");
  const size = found === "single_label_classification" ? B : B * classes;
  if (labels.size !== size)
    throw new ShapeError(`\`labels\` is ${wordShape(labels.shape)}, the logits are ${wordShape(logits.shape)}.`, {
      operation: found,
      expected: found === "single_label_classification" ? [B] : logits.shape,
      got: labels.shape,
    });
  if (found === "single_label_classification") return crossEntropy(logits, reshape(labels, [B]));
  const targets = reshape(isFloat(labels.dtype) ? labels : cast(labels, logits.dtype), logits.shape);
  return found === "regression" ? mseLoss(logits, targets) : binaryCrossEntropyWithLogits(logits, targets);
}

/**
 * The state of each text's last token that is not padding, on whichever side that is.
 *
 * @param states   [B, T, C]
 * @param inputIds what words the tokens are; of vectors nobody knows whether they are padding, so the very last one is taken
 * @param padToken `null`: the very last token, of one text only
 * @returns        [B, C]
 * @throws {ConfigError} for several texts without a padding token: nobody knows where they end
 */
export function lastToken(operation: string, states: Tensor, { inputIds }: TextInputs, padToken: number | null): Tensor {
  const [B, T, C] = states.shape as [number, number, number];
  if (padToken === null && B > 1)
    throw new ConfigError(`${B} texts at once need \`pad_token_id\` in the model's configuration.`, { operation, got: null });
  if (padToken === null || !inputIds) return reshape(sliceAxis(states, 1, T - 1, T), [B, C]);
  const at = reshape(iota([T]), [1, T]);
  const isPadding = equal(inputIds, number(inputIds, padToken));
  const last = reduceMax(where(isPadding, constant(0, [], "int32"), at), [1]); // [B, 1]
  const chosen = reshape(equal(at, last), [B, T, 1]);
  return reshape(reduceSum(where(chosen, states, number(states, 0)), [1]), [B, C]);
}
