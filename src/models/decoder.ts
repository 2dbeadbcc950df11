/** The forward pass of every causal model, whatever its layers are: masks, positions, cache, layers, loss. */
import { realize } from "../compile/program.ts";
import { concatenate } from "../graph/composite.ts";
import { add, cast, max, sub } from "../graph/elementwise.ts";
import { permute, reshape, sliceAxis } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { constant } from "../graph/source.ts";
import { isObserved } from "../graph/variable.ts";
import { type AttendOptions, attend } from "../nn/attention.ts";
import { dropout } from "../nn/dropout.ts";
import { crossEntropy } from "../nn/loss.ts";
import type { Layer, Module } from "../nn/module.ts";
import type { Rotary, RotaryTables } from "../nn/rotary.ts";
import { cumsum } from "../tensor/statistics.ts";
import type { CacheUpdate } from "./cache.ts";
import {
  type CausalLMInputs,
  type CausalLMOutput,
  type PastLayer,
  pastLength,
  positionsAfter,
  shiftLabels,
  type TextInputs,
  textShape,
} from "./causal-lm.ts";

const whole = (value: number): Tensor => constant(value, [], "int32");

/** What all layers of one forward pass share. */
export interface Pass {
  /** Which tokens see which, as far as it depends on the tokens alone. */
  readonly attention: AttendOptions;
  /** [B, T], 1 for tokens and 0 for padding; `null` where all are tokens. */
  readonly mask: Tensor | null;
  /** [B, T] int32; `null` where they are 0 … T − 1 in every row. */
  readonly positions: Tensor | null;
  /** An upper bound of all positions. */
  readonly length: number;
  /** The pending write to the cache, if there is one. */
  readonly update: CacheUpdate | null;
  /** Keys and values of virtual tokens in front, for each layer. */
  readonly past: readonly PastLayer[];
  /** Index of the running layer, where it is not the one the layer was built for (replicated layers). */
  readonly layer?: number;
  /** Outputs of the routers that have run so far, [B·T, experts] each, in mixtures of experts. */
  readonly routed: Tensor[];
}

/**
 * Takes the tokens into the cache and counts their positions.
 *
 * @param context tokens the model is made for: positions that somebody else counted may be anywhere in it
 */
export function beginPass(inputs: TextInputs, context: number): Pass {
  const { attentionMask, positionIds, cache, past = [] } = inputs;
  const mask = attentionMask ?? null;
  const isCausal = true;
  const [B, T] = textShape(inputs);
  const n = pastLength(inputs);
  const longest = (size: number) => (positionIds ? Math.max(size, context) : size);
  if (cache) {
    const update = cache.append(onesBefore(attentionMask ?? constant(1, [B, T], "int32"), n));
    const attention = { isCausal, offset: n === 0 ? update.offset : add(update.offset, whole(n)), keyMask: update.mask };
    const positions = positionIds ?? sliceAxis(update.positions, 1, n, n + T);
    return { attention, mask, positions, length: longest(cache.size), update, past, routed: [] };
  }
  const attention = attentionMask ? { isCausal, keyMask: onesBefore(attentionMask, n) } : { isCausal };
  const counted = () => (attentionMask ? positionsOf(attentionMask, n) : n === 0 ? null : positionsAfter(n, T));
  return { attention, mask, positions: positionIds ?? counted(), length: longest(n + T), update: null, past, routed: [] };
}

/** A mask [B, T] behind as many ones: [B, n + T] int32. */
export const onesBefore = (mask: Tensor, n: number): Tensor =>
  n === 0 ? mask : concatenate([constant(1, [mask.shape[0] as number, n], "int32"), cast(mask, "int32")], 1);

/** Position of each token among the tokens that are not padding, from `first` on; `first` for padding in front. */
function positionsOf(mask: Tensor, first: number): Tensor {
  return add(max(sub(cumsum(cast(mask, "int32"), 1), whole(1)), whole(0)), whole(first));
}

/** A pass of a model with rotary positions. */
export interface RotaryPass extends Pass {
  readonly rotary: RotaryTables;
  /** Of each layer, where not all turn alike; `null` of one that does not turn. */
  readonly layerRotary?: readonly (RotaryTables | null)[];
}

/**
 * Begins a pass and makes the rotary tables of its tokens.
 *
 * @param context tokens the model is made for
 * @param ofLayers what each layer turns by, where not all turn alike
 */
export function rotaryPass(
  rotary: Rotary,
  inputs: TextInputs,
  context: number,
  ofLayers?: readonly (Rotary | null)[],
): RotaryPass {
  const pass = beginPass(inputs, context);
  const { positions, length } = pass;
  const [, T] = textShape(inputs);
  const tokens = inputs.cache?.reach.value ?? pastLength(inputs) + T;
  const tables = (each: Rotary) => (positions ? each.at(positions, length, tokens) : each.range(T));
  const made = new Map([...new Set(ofLayers)].map((each) => [each, each && tables(each)]));
  const shared = { ...pass, rotary: made.get(rotary) ?? tables(rotary) };
  return ofLayers ? { ...shared, layerRotary: ofLayers.map((each) => made.get(each) ?? null) } : shared;
}

/**
 * The vectors of learned positions, [B, T, C] or [1, T, C].
 *
 * @param table  [maxLength + offset, C]
 * @param time   T
 * @param offset rows in front of that of position 0
 */
export function learnedPositions(table: Layer, { positions }: Pick<Pass, "positions">, time: number, offset = 0): Tensor {
  const rows = positions ?? positionsAfter(0, time);
  return table.forward(offset === 0 ? rows : add(cast(rows, "int32"), whole(offset)));
}

/** Self-attention that exposes its queries, keys and values, so that adapters can add to them. */
export interface SelfAttention<Shared extends Pass = Pass> extends Module {
  /** [B, T, C] → [B, T, H, D] and two of [B, T, G, D], before any rotary positions */
  project(x: Tensor): Projections;
  /** The queries as they are multiplied with the keys, [B, T, H, D]. */
  queries(x: Tensor, pass: Shared): Tensor;
  /** [B, T, C] → [B, T, C] */
  forward(x: Tensor, pass: Shared): Tensor;
}

/** What attention makes of its input: [B, T, H, D] and two of [B, T, G, D]. */
export interface Projections {
  readonly q: Tensor;
  readonly k: Tensor;
  readonly v: Tensor;
  /** [B, T, H, D]: what comes out is multiplied by its σ. */
  readonly gate?: Tensor;
}

/** What a layer adds to the pass's attention. */
export interface LayerAttention extends Pick<AttendOptions, "window" | "scale" | "softcap" | "sinks"> {
  /** The layer's number, for the cache. */
  readonly layer: number;
  /** Probability with which weights are dropped; 0 outside of training. */
  readonly dropout?: number;
}

/**
 * Attention of one layer over what is in the cache, if there is one, and the pass's own tokens.
 *
 * @param q [B, T, H, D]
 * @param k [B, T, G, D], H a multiple of G
 * @param v [B, T, G, D]
 * @returns [B, T, H·D]
 */
export function attendPass(q: Tensor, k: Tensor, v: Tensor, pass: Pass, options: LayerAttention): Tensor {
  const { layer: made, dropout: p = 0, ...own } = options;
  const { attention, update, past, layer = made } = pass;
  const all = behind(past[layer], k, v);
  const { keys, values } = update ? update.write(layer, all.keys, all.values) : all;
  const dropped = p > 0 ? { dropout: (weights: Tensor) => dropout(weights, p) } : {};
  const [B, T] = q.shape as [number, number];
  return reshape(attend(q, keys, values, { ...attention, ...own, ...dropped }), [B, T, -1]);
}

/** Keys and values [B, T, G, D] behind those of virtual tokens: [B, n + T, G, D]. */
export function behind(past: PastLayer | undefined, keys: Tensor, values: Tensor): { keys: Tensor; values: Tensor } {
  if (!past) return { keys, values };
  const joined = (first: Tensor, x: Tensor) => concatenate([permute(cast(first, x.dtype), [0, 2, 1, 3]), x], 1);
  return { keys: joined(past.keys, keys), values: joined(past.values, values) };
}

/** What a model is without its output layer. */
export interface DecoderStates {
  /** [B, T, C] */
  readonly lastHiddenState: Tensor;
  /** The embeddings, then the state after each layer; the last one is `lastHiddenState`. */
  readonly hiddenStates: readonly Tensor[];
  readonly pass: Pass;
}

/**
 * Runs the layers one after the other.
 *
 * @param x      [B, T, C], the embeddings
 * @param finish what follows the last layer: a norm
 */
export function runLayers<Shared extends Pass>(
  x: Tensor,
  layers: readonly { forward(x: Tensor, pass: Shared): Tensor }[],
  pass: Shared,
  finish: (x: Tensor) => Tensor,
): DecoderStates {
  const states = [x];
  for (const layer of layers) states.push(layer.forward(states[states.length - 1] as Tensor, pass));
  const lastHiddenState = finish(states.pop() as Tensor);
  return { lastHiddenState, hiddenStates: [...states, lastHiddenState], pass };
}

/** Logits and loss; what is new in the cache is in it from here on. @param toLogits the output layer */
export function causalOutput(
  { logitsToKeep, labels, targets: given }: CausalLMInputs,
  { lastHiddenState, hiddenStates, pass: { update } }: DecoderStates,
  toLogits: (x: Tensor) => Tensor,
): CausalLMOutput {
  const T = lastHiddenState.shape[1] as number;
  const logits = toLogits(sliceAxis(lastHiddenState, 1, Math.max(0, T - (logitsToKeep ?? T)), T));
  if (update) {
    // in one program with the cache, or the layers would run twice
    if (!isObserved()) realize([logits, ...update.writes.map(([, next]) => next)]);
    update.commit();
  }
  const targets = given ?? (labels ? shiftLabels(labels) : undefined);
  return { logits, hiddenStates, ...(targets ? { loss: crossEntropy(logits, targets) } : {}) };
}
