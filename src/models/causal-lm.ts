/** What all causal language models share: inputs, outputs, and how labels are shifted. */
import { ConfigError, DTypeError, requireKind, ShapeError, wordShape } from "../errors.ts";
import { isFloat } from "../graph/dtype.ts";
import { add, cast, sub } from "../graph/elementwise.ts";
import { pad, reshape, sliceAxis } from "../graph/movement.ts";
import { requireTensors, type Tensor } from "../graph/node.ts";
import { sameShape } from "../graph/shape.ts";
import { constant, iota } from "../graph/source.ts";
import type { Embedding } from "../nn/embedding.ts";
import type { Layer, Module, Parameter } from "../nn/module.ts";
import type { CacheSizes, KeyValueCache } from "./cache.ts";

/** Keys and values of one layer for n virtual tokens in front of the text: [B, G, n, D] each. */
export interface PastLayer {
  /** As attention reads them: where rotary positions turn keys, these are already turned. */
  readonly keys: Tensor;
  readonly values: Tensor;
}

/** Tokens, and what is known about them. */
export interface TextInputs {
  /** [B, T] int32: which words the tokens are; or there is `inputsEmbeds`. */
  readonly inputIds?: Tensor;
  /** [B, T, C]: vectors in place of those that the word embedding has for the tokens. */
  readonly inputsEmbeds?: Tensor;
  /** [B, T], 1 for tokens and 0 for padding, which may stand on either side. */
  readonly attentionMask?: Tensor;
  /** [B, T] int32; counted from the first token that is not padding when absent, and from n after a `past`. */
  readonly positionIds?: Tensor;
  /**
   * n virtual tokens in front, which every token sees: their keys and values in each layer. With a cache they are
   * written into it; give them with the first tokens only.
   */
  readonly past?: readonly PastLayer[];
  /** Earlier tokens, which these see too. */
  readonly cache?: KeyValueCache;
}

/** Inputs of a causal language model. */
export interface CausalLMInputs extends TextInputs {
  /** [B, T] int32: the tokens themselves. They are shifted here, so that each position is scored on the next token; −100 is ignored. */
  readonly labels?: Tensor;
  /** [B, T] int32: the token that each position should predict; not shifted. */
  readonly targets?: Tensor;
  /** How many of the last positions get logits; all when absent. */
  readonly logitsToKeep?: number;
}

/** Outputs of a causal language model. */
export interface CausalLMOutput {
  /** [B, T, V] */
  readonly logits: Tensor;
  /** Mean cross-entropy per scored token; present when labels or targets were given. */
  readonly loss?: Tensor;
  /** The embeddings, then the state after each layer; the last one after the final norm. All [B, T, C]. */
  readonly hiddenStates: readonly Tensor[];
}

/** A model that predicts the next token. */
export interface CausalLM extends TextModel {
  /** The number of learned positions, which is the longest text; absent where positions are computed. */
  readonly maxLength?: number | undefined;
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

/** The sizes of a model that decide which inputs fit. */
export interface ModelSizes extends CacheSizes {
  /** What errors call the model. */
  readonly modelType: string;
  /** Size of a word vector (C of `inputsEmbeds`) and of the states that an output layer reads. */
  readonly width: number;
  /** Size of the states, where it differs from `width`. */
  readonly stateWidth?: number;
  /** The number of learned positions; absent where positions are computed. */
  readonly maxLength?: number;
  /** Whether layers hand a state from token to token; keys and values of virtual tokens cannot replace that. */
  readonly isRecurrent?: boolean;
  /** Length from which rotary angles change, and whether those of earlier tokens change too; absent where they never do. */
  readonly stretch?: { readonly from: number; readonly isAnew: boolean } | undefined;
}

/** What virtual tokens in front of a text, or an output layer after it, need to know of a model. */
export interface Backbone {
  readonly sizes: ModelSizes;
  /** Word ids to vectors: [B, T] → [B, T, C]. */
  readonly wordEmbedding: Layer;
}

/** The weight that a language-modelling output layer shares with the word embedding, where the config ties them. */
export const tied = (
  { tieWordEmbeddings }: { readonly tieWordEmbeddings: boolean },
  { wordEmbedding }: Backbone,
): { readonly weight?: Parameter } => (tieWordEmbeddings ? { weight: (wordEmbedding as Embedding).weight } : {});

/** The token whose row of the word embedding is never trained, in families where transformers freezes it. */
export const paddingRow = ({ padTokenId }: { readonly padTokenId: number | null }): { readonly paddingIdx?: number } =>
  padTokenId === null ? {} : { paddingIdx: padTokenId };

/** A model that reads text. */
export interface TextModel extends Module {
  /** The model without its output layer. */
  readonly backbone: Backbone;
  /** The outputs depend on the model. */
  forward(inputs: TextInputs): unknown;
}

/** Whether a model reads text. */
export const readsText = (model: Module): model is TextModel => "backbone" in model;

/** Whether a model continues the text that it reads. */
export const continuesText = (model: Module): model is CausalLM => readsText(model) && "createCache" in model;

/** [B, T], however the tokens are given. */
export const textShape = ({ inputIds, inputsEmbeds }: TextInputs): readonly [number, number] =>
  (inputIds ?? (inputsEmbeds as Tensor)).shape.slice(0, 2) as [number, number];

/** The vectors of the tokens, [B, T, C]. @param embedding has one for each word */
export const embedTokens = ({ inputIds, inputsEmbeds }: TextInputs, embedding: Layer): Tensor =>
  inputsEmbeds ?? embedding.forward(inputIds as Tensor);

/** n: virtual tokens in front. */
export const pastLength = ({ past }: Pick<TextInputs, "past">): number => past?.[0]?.keys.shape[2] ?? 0;

/** Positions n … n + T − 1, [1, T]. */
export const positionsAfter = (past: number, time: number): Tensor =>
  reshape(past === 0 ? iota([time]) : add(iota([time]), constant(past, [], "int32")), [1, time]);

/**
 * @throws {ShapeError} when ids, mask, positions, types or labels are not all [B, T], `inputsEmbeds` are not [B, T, C] or the past does
 *   not fit the layers; @throws {DTypeError} when whole numbers are none, or vectors are; @throws {ConfigError} when tokens are given in
 *   both ways, or in none
 */
export function checkTextInputs(
  sizes: ModelSizes,
  inputs: Omit<CausalLMInputs, "cache"> & { readonly tokenTypeIds?: Tensor },
): void {
  const { modelType: operation, width, maxLength = Number.POSITIVE_INFINITY } = sizes;
  requireKind(operation, "an object", { inputs });
  const { inputIds, inputsEmbeds, logitsToKeep } = inputs;
  const [tokens, own] = inputsEmbeds ? [inputsEmbeds, "inputsEmbeds"] : [inputIds, "inputIds"];
  if (!tokens || (inputIds && inputsEmbeds))
    throw new ConfigError(`${tokens ? "both" : "neither"} \`inputIds\` ${tokens ? "and" : "nor"} \`inputsEmbeds\` are given.`, {
      operation,
      hint: "Give one of them.",
    });
  requireTensors(operation, { [own]: tokens });
  if (inputsEmbeds && (inputsEmbeds.rank !== 3 || inputsEmbeds.shape[2] !== width))
    throw new ShapeError(`\`inputsEmbeds\` is ${wordShape(inputsEmbeds.shape)}, it should be [batch, time, ${width}].`, {
      operation,
      expected: width,
      got: inputsEmbeds.shape,
    });
  if (inputsEmbeds && !isFloat(inputsEmbeds.dtype))
    throw new DTypeError(`\`inputsEmbeds\` holds vectors, got ${inputsEmbeds.dtype}.`, { operation, got: inputsEmbeds.dtype });
  if (inputIds && inputIds.rank !== 2)
    throw new ShapeError(`\`inputIds\` is ${wordShape(inputIds.shape)}, it should be [batch, time].`, {
      operation,
      got: inputIds.shape,
    });
  if (tokens.size === 0)
    throw new ShapeError(`\`${own}\` ${wordShape(tokens.shape)} holds no token.`, { operation, got: tokens.shape });
  const [B, T] = textShape(inputs);
  for (const name of ["inputIds", "attentionMask", "positionIds", "tokenTypeIds", "labels", "targets"] as const) {
    const x = inputs[name];
    if (!x) continue;
    if (x.rank !== 2 || x.shape[0] !== B || x.shape[1] !== T)
      throw new ShapeError(`\`${name}\` is ${wordShape(x.shape)}, \`${own}\` is ${wordShape(tokens.shape)}.`, {
        operation,
        expected: [B, T],
        got: x.shape,
      });
    if (isFloat(x.dtype)) throw new DTypeError(`\`${name}\` holds whole numbers, got ${x.dtype}.`, { operation, got: x.dtype });
  }
  checkPast(sizes, inputs, B);
  const time = T + pastLength(inputs);
  if (time > maxLength)
    throw new ShapeError(`${time} tokens are more than the ${maxLength} positions that this model has learned.`, {
      operation,
      expected: maxLength,
      got: time,
    });
  if (logitsToKeep !== undefined && (inputs.labels || inputs.targets))
    throw new ShapeError("`logitsToKeep` leaves out logits that the loss needs.", { operation });
}

function checkPast(sizes: ModelSizes, { past }: TextInputs, batch: number): void {
  const { modelType: operation, layers, heads, headDim } = sizes;
  if (!past) return;
  refuseRecurrent(operation, sizes);
  if (past.length !== layers)
    throw new ShapeError(`\`past\` is of ${past.length} layers, the model has ${layers}.`, {
      operation,
      expected: layers,
      got: past.length,
    });
  const expected = [batch, heads, pastLength({ past }), headDim];
  for (const [layer, { keys, values }] of past.entries())
    for (const [name, x] of Object.entries({ keys, values }))
      if (!sameShape(x.shape, expected))
        throw new ShapeError(`the ${name} of \`past\` in layer ${layer} are ${wordShape(x.shape)}, not ${wordShape(expected)}.`, {
          operation,
          expected,
          got: x.shape,
          hint: "They are [batch, heads of keys, virtual tokens, size].",
        });
}

/** @throws {ConfigError} for a model of which keys and values of virtual tokens are asked, and whose layers go by something else */
export function refuseRecurrent(operation: string, { modelType, isRecurrent }: ModelSizes): void {
  if (isRecurrent)
    throw new ConfigError(
      `layers of ${modelType} carry a recurrent state, which keys and values of virtual tokens cannot replace.`,
      {
        operation,
        got: modelType,
        hint: "Put vectors in front instead, as prompt tuning does.",
      },
    );
}
