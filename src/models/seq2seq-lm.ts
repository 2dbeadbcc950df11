/** What encoder–decoder language models share. */
import { ConfigError, requireKind, ShapeError } from "../errors.ts";
import type { DType } from "../graph/dtype.ts";
import { cast, equal, sub, where } from "../graph/elementwise.ts";
import { pad, reshape, sliceAxis } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { reduceSum } from "../graph/reduction.ts";
import { constant, iota } from "../graph/source.ts";
import { assignAll, Variable } from "../graph/variable.ts";
import { Module } from "../nn/module.ts";
import { notEqual } from "../tensor/math.ts";
import { KeyValueCache } from "./cache.ts";
import {
  type Backbone,
  type CausalLM,
  type CausalLMInputs,
  type CausalLMOutput,
  checkTextInputs,
  type ModelSizes,
  type PastLayer,
  type TextModel,
  textShape,
} from "./causal-lm.ts";

/** The text that is read. */
export interface ReadInputs {
  /** [B, S] int32; or there is `inputsEmbeds`. */
  readonly inputIds?: Tensor;
  /** [B, S, C]: vectors in place of those of words. */
  readonly inputsEmbeds?: Tensor;
  /** [B, S], 1 for tokens and 0 for padding. */
  readonly attentionMask?: Tensor;
}

/** The text that is read, and as much of the answer as is known. */
export interface Seq2SeqInputs extends ReadInputs {
  /** [B, T] int32: the answer so far, from the start token on; the labels moved on by one when absent. */
  readonly decoderInputIds?: Tensor;
  /** [B, T, C]: vectors in place of those of the words of the answer so far. */
  readonly decoderInputsEmbeds?: Tensor;
  /** [B, T], 1 for tokens and 0 for padding. */
  readonly decoderAttentionMask?: Tensor;
  /** Virtual tokens in front of the answer. */
  readonly past?: readonly PastLayer[];
  /** [B, T] int32: the answer itself; −100 is not judged. */
  readonly labels?: Tensor;
}

/** What comes out. */
export interface Seq2SeqOutput {
  /** [B, T, V] */
  readonly logits: Tensor;
  /** Mean cross-entropy per judged token; there when labels were given. */
  readonly loss?: Tensor;
  /** Of the answer: the embeddings, then the state after each layer; the last one after the final norm. All [B, T, C]. */
  readonly hiddenStates: readonly Tensor[];
  /** Of the text that was read: [B, S, C]. */
  readonly encoderLastHiddenState: Tensor;
}

/** The part of a model that writes, and what it remembers of texts: it continues answers like any model that continues a text. */
export interface Answering extends Pick<CausalLM, "createCache" | "maxLength" | "forward">, Disposable {
  /** Reads [B, S] texts, to which the answers are from here on; shorter ones are padded behind. */
  read(inputs: ReadInputs): void;
}

/** A model that answers one text with another. */
export interface Seq2SeqLM extends TextModel {
  /** The token with which answers begin. */
  readonly startToken: number;
  forward(inputs: Seq2SeqInputs): Seq2SeqOutput;
  /**
   * Room for what is remembered of `batch` texts of `size` tokens, so that answers to them can be written token by token. Give it
   * back when they are.
   */
  answering(batch: number, size: number): Answering;
}

/** Whether a model answers one text with another. */
export const answersText = (model: Module): model is Seq2SeqLM => "answering" in model;

/**
 * What the decoder takes, checked together with what the encoder takes.
 *
 * @param sizes of the encoder, and of the decoder
 * @param shift what goes in to get labels out
 * @throws {ShapeError} when masks or labels do not fit their texts; @throws {ConfigError} when nothing of an answer is given
 */
export function answerInputs(
  sizes: { readonly encoder: ModelSizes; readonly decoder: ModelSizes },
  inputs: Seq2SeqInputs,
  shift: (labels: Tensor) => Tensor,
): CausalLMInputs {
  const operation = sizes.decoder.modelType;
  requireKind(operation, "an object", { inputs });
  const { decoderInputIds, decoderInputsEmbeds, decoderAttentionMask, labels, past, ...read } = inputs;
  checkTextInputs(sizes.encoder, read);
  if (!decoderInputIds && !decoderInputsEmbeds && !labels)
    throw new ConfigError("neither `decoderInputIds` nor `labels` are given.", {
      operation,
      hint: "Use generate to get an answer.",
    });
  const ids = decoderInputIds ?? (decoderInputsEmbeds ? undefined : labels);
  const given = {
    ...(decoderInputsEmbeds && { inputsEmbeds: decoderInputsEmbeds }),
    ...(decoderAttentionMask && { attentionMask: decoderAttentionMask }),
    ...(past && { past }),
  };
  checkTextInputs(sizes.decoder, { ...given, ...(ids && { inputIds: ids }), ...(labels && { labels }) });
  const answer = { ...given, ...(ids && { inputIds: ids === labels ? shift(labels) : ids }), ...(labels && { targets: labels }) };
  const [answers, texts] = [textShape(answer)[0], textShape(read)[0]];
  if (answers !== texts)
    throw new ShapeError(`there are ${answers} answers to ${texts} texts.`, { operation, expected: texts, got: answers });
  return answer;
}

/** What goes in to get these labels out: each position has the label before it, the first one the start token. */
export function shiftRight(labels: Tensor, startToken: number, padToken: number): Tensor {
  const T = labels.shape[1] as number;
  const whole = (value: number) => constant(value, [], "int32");
  const moved = sliceAxis(pad(cast(labels, "int32"), [0, 1], [0, 0]), 1, 0, T);
  const known = where(equal(moved, whole(-100)), whole(padToken), moved);
  return where(equal(iota([T]), whole(0)), whole(startToken), known);
}

/** The same with the last token of each row that is no padding in front, which names the language of an answer, or ends one. */
export function shiftAround(labels: Tensor, padToken: number): Tensor {
  const T = labels.shape[1] as number;
  const whole = (value: number) => constant(value, [], "int32");
  const ids = cast(labels, "int32");
  const isToken = cast(notEqual(where(equal(ids, whole(-100)), whole(padToken), ids), whole(padToken)), "int32");
  const at = sub(reduceSum(isToken, [1]), whole(1)); // [B, 1]
  const last = reduceSum(where(equal(reshape(iota([T]), [1, T]), at), ids, whole(0)), [1]); // [B, 1]
  return where(equal(iota([T]), whole(0)), last, shiftRight(labels, padToken, padToken));
}

/** Keys and values of texts that were read, [B, S, H·D] each. */
export interface TextStates {
  readonly keys: Tensor;
  readonly values: Tensor;
}

/** What the layers of a decoder remember of texts, in variables, so that one program serves all texts of a size. */
export class TextMemory implements Disposable {
  readonly #layers: readonly { readonly keys: Variable; readonly values: Variable }[];
  readonly #mask: Variable;

  /** @param shape [B, S, H·D] */
  constructor(layers: number, shape: readonly [number, number, number]) {
    const room = (sizes: readonly number[], dtype: DType) => new Variable(constant(0, sizes, dtype), { requiresGrad: false });
    const states = () => ({ keys: room(shape, "float32"), values: room(shape, "float32") });
    this.#layers = Array.from({ length: layers }, states);
    this.#mask = room(shape.slice(0, 2), "int32");
  }

  get texts(): readonly TextStates[] {
    return this.#layers.map(({ keys, values }) => ({ keys: keys.value, values: values.value }));
  }

  /** [B, S], 1 for tokens and 0 for padding. */
  get mask(): Tensor {
    return this.#mask.value;
  }

  /** Puts other texts in the place of those that were there. @param inputs whose they are */
  keep(texts: readonly TextStates[], inputs: ReadInputs): void {
    const next = texts.flatMap((text) => [text.keys, text.values]);
    const mask = inputs.attentionMask ?? constant(1, textShape(inputs), "int32");
    assignAll([...this.#states.map((variable, i) => [variable, next[i] as Tensor] as const), [this.#mask, mask]]);
  }

  [Symbol.dispose](): void {
    for (const { stored } of [...this.#states, this.#mask]) stored.dispose();
  }

  get #states(): readonly Variable[] {
    return this.#layers.flatMap(({ keys, values }) => [keys, values]);
  }
}

/** A model whose one part reads and whose other part writes: what is alike whatever the two are made of. */
export abstract class EncoderDecoder extends Module implements Seq2SeqLM {
  /** Of the decoder, before which a past may stand. */
  abstract get backbone(): Backbone;
  abstract get startToken(): number;
  /** Of the encoder. */
  protected abstract get readerSizes(): ModelSizes;
  /** What goes into the decoder to get these labels out. */
  protected abstract shift(labels: Tensor): Tensor;
  /** The states of a text: [B, S, C]. */
  protected abstract read(inputs: ReadInputs): Tensor;
  /** Keys and values of a text that was read, for each block of the decoder. @param states [B, S, C] */
  protected abstract remember(states: Tensor): TextStates[];
  protected abstract write(
    inputs: CausalLMInputs,
    memories: readonly TextStates[],
    memoryMask: Tensor | undefined,
  ): CausalLMOutput;

  /** @throws {ShapeError} for sizes that do not fit; @throws {ConfigError} when nothing of an answer is given */
  forward(inputs: Seq2SeqInputs): Seq2SeqOutput {
    const sizes = { encoder: this.readerSizes, decoder: this.backbone.sizes };
    const answer = answerInputs(sizes, inputs, (labels) => this.shift(labels));
    const encoderLastHiddenState = this.read(inputs);
    const memories = this.remember(encoderLastHiddenState);
    return { ...this.write(answer, memories, inputs.attentionMask), encoderLastHiddenState };
  }

  answering(batch: number, size: number): Answering {
    requireKind("answering", "a whole number from 1", { batch, size });
    const { sizes } = this.backbone;
    const { layers, heads, headDim, maxLength } = sizes;
    const memory = new TextMemory(layers, [batch, size, heads * headDim]);
    return {
      read: (inputs) => {
        checkTextInputs(this.readerSizes, inputs);
        memory.keep(this.remember(this.read(inputs)), inputs);
      },
      forward: (answer) => this.write(answer, memory.texts, memory.mask),
      createCache: (rows, length) => new KeyValueCache(sizes, rows, length),
      maxLength,
      [Symbol.dispose]: () => memory[Symbol.dispose](),
    };
  }
}
