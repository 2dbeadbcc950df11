/** What all models that continue a text have in common: what goes in, what comes out, and how labels are shifted. */
import { DTypeError, ShapeError, wordShape } from "../errors.ts";
import { isFloat } from "../graph/dtype.ts";
import { add, cast, sub } from "../graph/elementwise.ts";
import { pad, sliceAxis } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { constant } from "../graph/source.ts";
import type { Module } from "../nn/module.ts";
import type { KeyValueCache } from "./cache.ts";

/** Tokens, and what is known about them. */
export interface TextInputs {
  /** [B, T] int32 */
  readonly inputIds: Tensor;
  /** [B, T], 1 for tokens and 0 for padding, which may stand on either side. */
  readonly attentionMask?: Tensor;
  /** [B, T] int32; counted from the first token that is not padding when absent. */
  readonly positionIds?: Tensor;
  /** Tokens before these, which are taken in too. */
  readonly cache?: KeyValueCache;
}

/** What a model that continues text takes. */
export interface CausalLMInputs extends TextInputs {
  /** [B, T] int32: the tokens themselves; they are shifted here, so that each position is judged by the next token. −100 is not judged. */
  readonly labels?: Tensor;
  /** [B, T] int32: the token that each position should give, not shifted any more. */
  readonly targets?: Tensor;
  /** Gives logits of this many last positions only; of all when absent. */
  readonly logitsToKeep?: number;
}

/** What it gives. */
export interface CausalLMOutput {
  /** [B, T, V] */
  readonly logits: Tensor;
  /** Mean cross-entropy per judged token; there when labels or targets were given. */
  readonly loss?: Tensor;
  /** The embeddings, then the state after each layer; the last one after the final norm. All [B, T, C]. */
  readonly hiddenStates: readonly Tensor[];
}

/** A model that gives logits of the next token. */
export interface CausalLM extends Module {
  /** Tokens for which positions were learned; no more can be taken in. Absent where positions are computed. */
  readonly maxLength?: number;
  forward(inputs: CausalLMInputs): CausalLMOutput;
  /** An empty cache for `batch` sequences of up to `size` tokens. */
  createCache(batch: number, size: number): KeyValueCache;
}

/** Each position's next label; the last position has none (−100). Cheaper than cutting the last row off the logits. */
export function shiftLabels(labels: Tensor): Tensor {
  const ignored = constant(100, [], "int32");
  const raised = add(cast(labels, "int32"), ignored); // so that the zero that is put behind means −100
  return sub(sliceAxis(pad(raised, [0, 0], [0, 1]), 1, 1, (labels.shape[1] as number) + 1), ignored);
}

/** @throws {ShapeError} when ids, mask, positions, types or labels are not all [B, T]; @throws {DTypeError} when they are not whole numbers */
export function checkTextInputs(operation: string, inputs: CausalLMInputs & { readonly tokenTypeIds?: Tensor }): void {
  const { inputIds, logitsToKeep } = inputs;
  if (inputIds.rank !== 2)
    throw new ShapeError(`\`inputIds\` is ${wordShape(inputIds.shape)}, it should be [batch, time].`, {
      operation,
      got: inputIds.shape,
    });
  if (inputIds.size === 0)
    throw new ShapeError(`\`inputIds\` ${wordShape(inputIds.shape)} holds no token.`, { operation, got: inputIds.shape });
  for (const name of ["inputIds", "attentionMask", "positionIds", "tokenTypeIds", "labels", "targets"] as const) {
    const x = inputs[name];
    if (!x) continue;
    if (x.rank !== 2 || x.shape[0] !== inputIds.shape[0] || x.shape[1] !== inputIds.shape[1])
      throw new ShapeError(`\`${name}\` is ${wordShape(x.shape)}, \`inputIds\` is ${wordShape(inputIds.shape)}.`, {
        operation,
        expected: inputIds.shape,
        got: x.shape,
      });
    if (isFloat(x.dtype)) throw new DTypeError(`\`${name}\` holds whole numbers, got ${x.dtype}.`, { operation, got: x.dtype });
  }
  if (logitsToKeep !== undefined && (inputs.labels || inputs.targets))
    throw new ShapeError("`logitsToKeep` leaves out logits that the loss needs.", { operation });
}
