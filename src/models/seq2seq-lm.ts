/** What models that answer one text with another have in common. */
import { ConfigError, ShapeError } from "../errors.ts";
import { cast, equal, where } from "../graph/elementwise.ts";
import { pad, sliceAxis } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { constant, iota } from "../graph/source.ts";
import type { Module } from "../nn/module.ts";
import { type CausalLM, checkTextInputs } from "./causal-lm.ts";

/** The text that is read, and as much of the answer as is known. */
export interface Seq2SeqInputs {
  /** [B, S] int32: the text that is read. */
  readonly inputIds: Tensor;
  /** [B, S], 1 for tokens and 0 for padding. */
  readonly attentionMask?: Tensor;
  /** [B, T] int32: the answer so far, from the start token on; the labels moved on by one when absent. */
  readonly decoderInputIds?: Tensor;
  /** [B, T], 1 for tokens and 0 for padding. */
  readonly decoderAttentionMask?: Tensor;
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

/** The part of a model that writes, bound to texts that were read: it continues answers like any model that continues a text. */
export interface Answering extends Pick<CausalLM, "createCache" | "maxLength" | "forward">, Disposable {}

/** A model that answers one text with another. */
export interface Seq2SeqLM extends Module {
  /** The token with which answers begin. */
  readonly startToken: number;
  forward(inputs: Seq2SeqInputs): Seq2SeqOutput;
  /** Reads [B, S] texts once, so that answers to them can be written token by token. Give it back when they are. */
  answering(inputIds: Tensor, attentionMask?: Tensor): Answering;
}

/** @throws {ShapeError} when masks or labels do not fit their texts; @throws {ConfigError} when nothing of an answer is given */
export function checkSeq2SeqInputs(operation: string, inputs: Seq2SeqInputs): void {
  const { inputIds, attentionMask, decoderInputIds, decoderAttentionMask, labels } = inputs;
  checkTextInputs(operation, { inputIds, ...(attentionMask && { attentionMask }) });
  const answer = decoderInputIds ?? labels;
  if (!answer)
    throw new ConfigError("neither `decoderInputIds` nor `labels` are given.", {
      operation,
      hint: "Use generate to get an answer.",
    });
  checkTextInputs(operation, {
    inputIds: answer,
    ...(decoderAttentionMask && { attentionMask: decoderAttentionMask }),
    ...(labels && { labels }),
  });
  if (answer.shape[0] !== inputIds.shape[0])
    throw new ShapeError(`there are ${answer.shape[0]} answers to ${inputIds.shape[0]} texts.`, {
      operation,
      expected: inputIds.shape[0],
      got: answer.shape[0],
    });
}

/** What goes in to get these labels out: each position has the label before it, the first one the start token. */
export function shiftRight(labels: Tensor, startToken: number, padToken: number): Tensor {
  const T = labels.shape[1] as number;
  const whole = (value: number) => constant(value, [], "int32");
  const moved = sliceAxis(pad(cast(labels, "int32"), [0, 1], [0, 0]), 1, 0, T);
  const known = where(equal(moved, whole(-100)), whole(padToken), moved);
  return where(equal(iota([T]), whole(0)), whole(startToken), known);
}
