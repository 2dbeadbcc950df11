/** What an adapter consists of, as the inspector looks at it: its share of each layer, and what it has besides. */
import { ConfigError } from "../../errors.ts";
import { add, cast, sub } from "../../graph/elementwise.ts";
import type { Tensor } from "../../graph/node.ts";
import type { Module } from "../../nn/module.ts";
import { type Adapter, adaptedModel, getAdapter } from "../adapted-model.ts";
import { type AdapterLayer, type LayerAdapter, valuesOf } from "../adapter-layer.ts";
import { findInitialiser } from "../initialiser.ts";
import { lora, scalingOf } from "../methods/lora.ts";
import { toPlainLora } from "../plain-lora.ts";
import type { PromptPlace } from "../prompt/prompted-model.ts";

/** An adapter's share of one layer, or something else that it has. */
export interface Part {
  readonly path: string;
  /** PEFT's name of what changes the layer; "WHOLE" for a parameter of the model that the adapter has a copy of. */
  readonly method: string;
  readonly rank: number | null;
  readonly scale: number | null;
  readonly parameters: readonly Tensor[];
  /** W′ − W, not computed yet; `null` where there is no such thing. */
  readonly change: Tensor | null;
  /** W, before all adapters; `null` where it is not at hand. */
  readonly weight: Tensor | null;
}

/** The parts of an adapter on a model. @throws {ConfigError} while adapters are merged: what they have changed would be measured twice */
export function* partsOf(operation: string, model: Module, name: string): Generator<Part> {
  const adapter = getAdapter(model, name, operation);
  const { layers, saved, prompts, untrained } = adaptedModel(model, operation);
  const isMerged =
    [...layers.values()].some(({ merged }) => merged.length > 0) || [...saved.values()].some(({ merged }) => merged);
  if (isMerged)
    throw new ConfigError("adapters are merged into this model's weights.", {
      operation,
      got: name,
      hint: "Call unmerge first.",
    });
  const { peftType } = adapter.method;
  for (const [path, layer] of adapter.layers) {
    const own = layer.adapters.get(name) as LayerAdapter;
    // what is tied to another layer is that one's
    if (!own.tied) yield layerPart(operation, model, adapter, path, layer);
  }
  const plain = (path: string, value: Tensor): Part => ({
    ...{ path, method: peftType, rank: null, scale: null, parameters: [value], change: null, weight: null },
  });
  for (const [key, parameter] of Object.entries(adapter.shared)) yield plain(key, parameter.stored);
  if (adapter.isPrompt) for (const [key, table] of Object.entries((prompts as PromptPlace).tables(name))) yield plain(key, table);
  const whole = (path: string, now: Tensor, before: Tensor): Part => ({
    ...plain(path, now),
    ...{ method: "WHOLE", change: sub(now, cast(before, now.dtype)), weight: before },
  });
  for (const [path, module] of adapter.saved) {
    const before = [...module.standIns(name).keys()];
    for (const [i, [key, copy]] of [...(module.copies.get(name) ?? [])].entries())
      yield whole(`${path}.${key}`, copy.stored, before[i]!.stored);
  }
  for (const [path, bias] of adapter.biases) yield whole(path, bias.stored, untrained.get(bias) ?? bias.stored);
}

function layerPart(operation: string, model: Module, adapter: Adapter, path: string, layer: AdapterLayer): Part {
  const own = layer.adapters.get(adapter.name) as LayerAdapter;
  const { method, config, scale } = own;
  const { whole, untrained } = adaptedModel(model, operation);
  const base = layer.base();
  const specs = method.parameters(base, config);
  // of a start from the weights, and of a method that takes something out of them, those from before are what is changed
  const takes = adapter.residual || method.underlay !== undefined;
  const kept = takes ? (whole.get(layer.weight) ?? untrained.get(layer.weight)) : undefined;
  const before = kept && layer.asMatrix(kept);
  const isLora = Object.values(lora.layers).includes(method as never);
  const isPlain =
    isLora && adapter.taken.has(path) && adapter.method === lora && findInitialiser(config["initLoraWeights"]).startsAtZero;
  const values = valuesOf(own);
  const plain = isPlain ? toPlainLora(adapter) : undefined;
  const given = plain
    ? Object.fromEntries(Object.entries(values).map(([key, value]) => [key, plain.value(path, key, value)]))
    : values;
  const change = refusedAsNull(() => method.delta?.(base, given, config, scale.stored) ?? null);
  const { r } = config;
  return {
    path,
    method: adapter.method.peftType,
    rank: typeof r === "number" ? r : null,
    scale: isLora ? scalingOf(own) * scale.stored : null,
    parameters: Object.entries(own.parameters).flatMap(([key, { stored }]) => (specs[key]?.derived ? [] : [stored])),
    change: change && before && !plain ? sub(add(base.weight, change), before) : change,
    weight: before ?? base.weight,
  };
}

/** A method may refuse to be a change of this layer's weight: LoRA on a convolution in groups. */
function refusedAsNull(change: () => Tensor | null): Tensor | null {
  try {
    return change();
  } catch (error) {
    if (error instanceof ConfigError) return null;
    throw error;
  }
}
