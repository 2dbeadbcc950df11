/** Writing adapters into the weights, and taking them out again without a trace. */
import { downloadSync, realize } from "../compile/program.ts";
import { ConfigError } from "../errors.ts";
import { dtypes, fromBFloat16Bits, fromFloat16Bits, type TypedArray } from "../graph/dtype.ts";
import { sub } from "../graph/elementwise.ts";
import type { Tensor } from "../graph/node.ts";
import type { Module } from "../nn/module.ts";
import { adaptedModel, getAdapter, release } from "./attach.ts";

export interface MergeOptions {
  /** Computes all new weights first and refuses, with nothing changed, when one is not finite. */
  readonly safe?: boolean;
}

/**
 * Adds the adapters' changes to the weights of their layers, which then run at the speed of the base model. Adapters that
 * are merged already are skipped. The original weights are kept for `unmerge`: merged layers take their weight's memory twice.
 *
 * A weight that two layers share (an output layer tied to the embedding) changes for both, as in PEFT.
 *
 * @param names the active ones when absent
 * @returns paths of the layers that were changed
 * @throws {ConfigError} for a method that is no change of the weight, or (safe) values that are not finite
 */
export function merge(model: Module, names?: readonly string[], { safe = false }: MergeOptions = {}): string[] {
  const operation = "merge";
  const { layers } = adaptedModel(model, operation);
  for (const name of names ?? []) getAdapter(model, name, operation);
  const changes = [...layers.values()].flatMap((layer) => {
    const fresh = (names ?? layer.active).filter((name) => layer.adapters.has(name) && !layer.merged.includes(name));
    const weight = layer.mergedWeight(fresh);
    if (typeof weight === "string")
      throw new ConfigError(
        `the adapter "${weight}" (${getAdapter(model, weight).method.peftType}) is no change of the weight.`,
        {
          operation,
          got: weight,
          hint: "Use it unmerged.",
        },
      );
    return weight === undefined ? [] : [{ layer, fresh, weight }];
  });
  if (safe)
    for (const { layer, weight } of changes) {
      realize([weight]);
      if (!floats(weight).every(Number.isFinite))
        throw new ConfigError(`the weight of ${layer.path} would hold values that are not finite; nothing was merged.`, {
          operation,
          got: layer.path,
          hint: "The adapter has diverged: train it with a lower learning rate.",
        });
    }
  for (const { layer, fresh, weight } of changes) layer.takeMerged(fresh, weight);
  return changes.map(({ layer }) => layer.path);
}

/** Takes all merged adapters out of the weights: bit for bit what was there before. */
export function unmerge(model: Module): void {
  for (const layer of adaptedModel(model, "unmerge").layers.values()) layer.unmerge();
}

/** Merges, then puts the original modules back, with the merged weights; the adapters are gone. */
export function mergeAndUnload(model: Module, names?: readonly string[], options: MergeOptions = {}): void {
  merge(model, names, options);
  release(model, "mergeAndUnload", () => {});
}

/**
 * The merge law on this model: the largest difference between what `forward` gives with the active adapters beside the
 * weights and in them. The model is left unmerged.
 *
 * @param forward runs the model on an input, such as `() => model.forward(ids)`
 */
export function mergeDifference(model: Module, forward: () => Tensor): number {
  unmerge(model);
  const beside = forward();
  realize([beside]);
  merge(model);
  try {
    const difference = sub(forward(), beside);
    return floats(difference).reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  } finally {
    unmerge(model);
  }
}

/** Values as numbers, whatever the dtype. */
function floats(x: Tensor): Float64Array {
  const values: TypedArray = downloadSync(x);
  const bits = x.dtype === "float16" ? fromFloat16Bits : x.dtype === "bfloat16" ? fromBFloat16Bits : (value: number) => value;
  return Float64Array.from(values as ArrayLike<number>, dtypes[x.dtype].float ? bits : (value) => value);
}
