/** What every model that reads a text from left to right does in a forward pass, whatever its layers are. */
import { realize } from "../compile/program.ts";
import { ShapeError } from "../errors.ts";
import { add, cast, max, sub } from "../graph/elementwise.ts";
import { reshape, sliceAxis } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { constant, iota } from "../graph/source.ts";
import { isObserved } from "../graph/variable.ts";
import { type AttendOptions, attend } from "../nn/attention.ts";
import { dropout } from "../nn/dropout.ts";
import { crossEntropy } from "../nn/loss.ts";
import type { Layer } from "../nn/module.ts";
import type { Rotary, RotaryTables } from "../nn/rotary.ts";
import { cumsum } from "../tensor/statistics.ts";
import type { CacheUpdate } from "./cache.ts";
import { type CausalLMInputs, type CausalLMOutput, shiftLabels, type TextInputs } from "./causal-lm.ts";

/** What all layers of one forward pass share. */
export interface Pass {
  /** Who sees whom, as far as the tokens decide it. */
  readonly attention: AttendOptions;
  /** [B, T] int32; `null` where they are 0 … T − 1 in every row. */
  readonly positions: Tensor | null;
  /** Above every position that there can be. */
  readonly length: number;
  /** What is written into the cache, if there is one. */
  readonly update: CacheUpdate | null;
}

/** Takes the tokens into the cache and counts their positions. @param context tokens the model is made for: positions that somebody else counted may be anywhere in it */
export function beginPass({ inputIds, attentionMask, positionIds, cache }: TextInputs, context: number): Pass {
  const isCausal = true;
  const longest = (size: number) => (positionIds ? Math.max(size, context) : size);
  if (cache) {
    const update = cache.append(attentionMask ?? constant(1, inputIds.shape, "int32"));
    const attention = { isCausal, offset: update.offset, keyMask: update.mask };
    return { attention, positions: positionIds ?? update.positions, length: longest(cache.size), update };
  }
  const positions = positionIds ?? (attentionMask ? positionsOf(attentionMask) : null);
  const attention = attentionMask ? { isCausal, keyMask: attentionMask } : { isCausal };
  return { attention, positions, length: longest(inputIds.shape[1] as number), update: null };
}

/** Position of each token among the tokens that are not padding; 0 for padding in front. */
function positionsOf(mask: Tensor): Tensor {
  return max(sub(cumsum(cast(mask, "int32"), 1), constant(1, [], "int32")), constant(0, [], "int32"));
}

/** A pass of a model with rotary positions. */
export interface RotaryPass extends Pass {
  readonly rotary: RotaryTables;
}

/** Begins a pass and makes the rotary tables of its tokens. @param context tokens the model is made for */
export function rotaryPass(rotary: Rotary, inputs: TextInputs, context: number): RotaryPass {
  const pass = beginPass(inputs, context);
  const time = inputs.inputIds.shape[1] as number;
  const { positions, length } = pass;
  return { ...pass, rotary: positions ? rotary.at(positions, length, inputs.cache?.size ?? time) : rotary.range(time) };
}

/**
 * The vectors of learned positions, [B, T, C] or [T, C].
 *
 * @param table  [context + offset, C]
 * @param offset rows in front of that of position 0
 * @throws {ShapeError} when there are more tokens than positions were learned for
 */
export function learnedPositions(
  table: Layer,
  { positions }: Pass,
  { time, context, offset = 0, operation }: { time: number; context: number; offset?: number; operation: string },
): Tensor {
  if (time > context)
    throw new ShapeError(`${time} tokens are more than the ${context} positions that this model has learned.`, {
      operation,
      expected: context,
      got: time,
    });
  const rows = positions ?? iota([time]);
  return table.forward(offset === 0 ? rows : add(cast(rows, "int32"), constant(offset, [], "int32")));
}

/** What a layer adds to the pass's attention. */
export interface LayerAttention extends Pick<AttendOptions, "window" | "scale" | "softcap"> {
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
export function attendPass(q: Tensor, k: Tensor, v: Tensor, { attention, update }: Pass, options: LayerAttention): Tensor {
  const { layer, dropout: p = 0, ...own } = options;
  const { keys, values } = update ? update.write(layer, k, v) : { keys: k, values: v };
  const dropped = p > 0 ? { dropout: (weights: Tensor) => dropout(weights, p) } : {};
  const [B, T] = q.shape as [number, number];
  return reshape(attend(q, keys, values, { ...attention, ...own, ...dropped }), [B, T, -1]);
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
