/** What encoders share: models in which every token, or patch of an image, sees all others. */
import { ConfigError } from "../errors.ts";
import { cast, div, mul } from "../graph/elementwise.ts";
import { reshape, sliceAxis } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { reduceSum } from "../graph/reduction.ts";
import { constant } from "../graph/source.ts";
import { type AttendOptions, attend } from "../nn/attention.ts";
import { dropout } from "../nn/dropout.ts";
import type { Module } from "../nn/module.ts";
import { type PastLayer, pastLength, type TextInputs } from "./causal-lm.ts";
import { behind, onesBefore } from "./decoder.ts";

/** Inputs of an encoder. */
export interface EncoderInputs extends Omit<TextInputs, "cache"> {
  /** [B, T] int32: which of several joined texts a token belongs to; 0 for all when absent. */
  readonly tokenTypeIds?: Tensor;
}

/** Outputs of a model without an output layer. */
export interface EncoderStates {
  /** [B, T, C] */
  readonly lastHiddenState: Tensor;
  /** The embeddings, then the state after each layer. */
  readonly hiddenStates: readonly Tensor[];
  /** [B, C]: the pooler's output for the first token, in models that have a pooler. */
  readonly poolerOutput?: Tensor;
}

/**
 * Attention per head.
 *
 * @param q     [B, Tq, H·D]
 * @param k     [B, Tk, H·D]
 * @param v     [B, Tk, H·E]
 * @param heads H
 * @param options.dropout probability with which weights are dropped; 0 outside of training
 * @param options.past    keys and values of virtual tokens in front
 * @returns     [B, Tq, H·E]
 */
export function attendHeads(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  heads: number,
  {
    dropout: p = 0,
    past,
    ...options
  }: Omit<AttendOptions, "dropout"> & { readonly dropout?: number; readonly past?: PastLayer } = {},
): Tensor {
  const split = (x: Tensor) => reshape(x, [x.shape[0] as number, x.shape[1] as number, heads, -1]);
  const { keys, values } = behind(past, split(k), split(v));
  const dropped = p > 0 ? { dropout: (weights: Tensor) => dropout(weights, p) } : {};
  const y = attend(split(q), keys, values, { ...options, ...dropped });
  return reshape(y, [...y.shape.slice(0, 2), -1]);
}

/** Makes `count` layers one by one, so that a config.json with far too many fails on the way. */
export function layers<Made extends Module>(count: number, make: (layer: number) => Made): Made[] {
  const made: Made[] = [];
  for (let i = 0; i < count; i++) made.push(make(i));
  return made;
}

/** What the tokens of one layer see. */
export interface Seen {
  /** [B, n + T], 1 for tokens and 0 for padding. */
  readonly keyMask?: Tensor;
  /** Keys and values of n virtual tokens in front. */
  readonly past?: PastLayer;
}

/** Runs the blocks one after the other. @param x [B, T, C], the embeddings */
export function encode(
  x: Tensor,
  blocks: readonly { forward(x: Tensor, seen: Seen): Tensor }[],
  { attentionMask, past = [] }: Pick<TextInputs, "attentionMask" | "past"> = {},
): EncoderStates {
  const hiddenStates = [x];
  const keyMask = attentionMask ? { keyMask: onesBefore(attentionMask, pastLength({ past })) } : {};
  let y = x;
  for (const [layer, block] of blocks.entries())
    hiddenStates.push((y = block.forward(y, { ...keyMask, ...(past[layer] && { past: past[layer] }) })));
  return { lastHiddenState: y, hiddenStates };
}

/** @throws {ConfigError} when something is given that a model has no place for. @param names of what it has none for */
export function refuseInputs(operation: string, inputs: EncoderInputs, names: readonly ("tokenTypeIds" | "past")[]): void {
  for (const name of names) if (inputs[name]) throw new ConfigError(`this model does not take \`${name}\`.`, { operation });
}

/** The state of the first token, which represents the whole text: [B, T, C] → [B, C]. */
export const firstToken = (states: Tensor): Tensor =>
  reshape(sliceAxis(states, 1, 0, 1), [states.shape[0] as number, states.shape[2] as number]);

/** The mean state of the tokens that are not padding: [B, T, C] → [B, C]. @param mask [B, T], 1 for tokens; all are when absent */
export function meanToken(states: Tensor, mask: Tensor | undefined): Tensor {
  const [B, T, C] = states.shape as [number, number, number];
  const weights = reshape(cast(mask ?? constant(1, [B, T], "int32"), states.dtype), [B, T, 1]);
  return reshape(div(reduceSum(mul(states, weights), [1]), reduceSum(weights, [1])), [B, C]);
}
