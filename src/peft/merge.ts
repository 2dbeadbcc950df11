/** Writing adapters into the weights, and taking them out again without a trace. */
import { downloadSync, realize } from "../compile/program.ts";
import { ConfigError } from "../errors.ts";
import { dtypes, fromBFloat16Bits, fromFloat16Bits, type TypedArray } from "../graph/dtype.ts";
import { sub } from "../graph/elementwise.ts";
import type { Tensor } from "../graph/node.ts";
import type { Module, Parameter } from "../nn/module.ts";
import { adaptedModel, getAdapter, refuseTwo, release, unmerge } from "./adapted-model.ts";
import type { AdapterLayer } from "./adapter-layer.ts";

/** How careful merging is. */
export interface MergeOptions {
  /** Refuses, with nothing changed, when a new weight is not finite. */
  readonly safe?: boolean;
  /** Told when merging loses something; a warning on the console when absent. */
  tell?(message: string): void;
}

/**
 * Adds the adapters' changes to the weights of their layers, which then run at the speed of the base model. Adapters that
 * are merged already are skipped. The original weights are kept for `unmerge`: merged layers take their weight's memory twice.
 *
 * Weights that are kept as codes are widened, changed and made codes again: what is lost is the rounding of the quantiser. `unmerge`
 * restores the codes.
 *
 * A weight that two layers share (an output layer tied to the embedding) changes for both, as in PEFT. Modules that are
 * trained as a whole (`modulesToSave`) get the adapter's parameters instead of their own, and share them with nobody.
 *
 * @param names the active ones when absent
 * @returns paths of the layers and modules that were changed
 * @throws {ConfigError} for a method that is no change of the weight, or (safe) values that are not finite
 */
export function merge(model: Module, names?: readonly string[], options: MergeOptions = {}): string[] {
  const operation = "merge";
  const { safe = false, tell = (message: string) => console.warn(message) } = options;
  const { layers, saved, unmerged, active, replication } = adaptedModel(model, operation);
  if (replication)
    throw new ConfigError(
      "several layers share one weight (`layerReplication`), so there is none that an adapter could be merged into.",
      {
        operation,
        got: replication.map,
        hint: "Use it unmerged.",
      },
    );
  for (const name of names ?? active)
    if (getAdapter(model, name, operation).isPrompt)
      throw new ConfigError(`the adapter "${name}" (${getAdapter(model, name).method.peftType}) is no change of the weight.`, {
        operation,
        got: name,
        hint: "Use it unmerged.",
      });
  const fresh = (layer: AdapterLayer) =>
    (names ?? layer.active).filter((name) => layer.adapters.has(name) && !layer.merged.includes(name));
  for (const layer of layers.values())
    for (const name of fresh(layer))
      if (!layer.adapters.get(name)?.method.delta)
        throw new ConfigError(`the adapter "${name}" (${getAdapter(model, name).method.peftType}) is no change of the weight.`, {
          operation,
          got: name,
          hint: "Use it unmerged.",
        });
  const standIns = [...saved].flatMap(([path, module]) => {
    const adapters = [...new Set(names ?? active)].filter((name) => module.copies.has(name) && module.merged !== name);
    refuseTwo(operation, path, module.merged === null ? adapters : [module.merged, ...adapters]);
    return adapters.map((adapter) => ({ path, module, adapter }));
  });
  // whatever a method refuses, it refuses before the first weight has changed
  for (const layer of layers.values()) layer.checkChange(fresh(layer));
  const done: { readonly layer: AdapterLayer; readonly names: readonly string[]; readonly values: Map<Parameter, Tensor> }[] = [];
  for (const layer of layers.values()) {
    const added = fresh(layer);
    if (added.length === 0) continue;
    try {
      const changed = layer.changedBy(added);
      done.push({ layer, names: layer.merged, values: new Map([...changed.keys()].map((each) => [each, each.stored])) });
      for (const [parameter, next] of changed) unmerged.change(parameter, next);
      layer.merged = [...layer.merged, ...added];
      if (safe && ![...changed.values()].every((next) => floats(next).every(Number.isFinite)))
        throw new ConfigError(`the weight of ${layer.path} would hold values that are not finite; nothing was merged.`, {
          operation,
          got: layer.path,
          hint: "The adapter has diverged: train it with a lower learning rate.",
        });
    } catch (error) {
      for (const before of done.reverse()) {
        for (const [parameter, value] of before.values) parameter.replace(value);
        before.layer.merged = before.names;
      }
      throw error;
    }
  }
  for (const { module, adapter } of standIns) module.merged = adapter;
  const rounded = done.flatMap(({ layer }) => (layer.holdsCodes ? layer.path : []));
  if (rounded.length > 0)
    tell(
      `merge: weights that are kept as codes are rounded to codes again, which changes the result a little: ${wordList(rounded)}.`,
    );
  return [...done.map(({ layer }) => layer.path), ...standIns.map(({ path }) => path)];
}

/** The first few of many. */
const wordList = (paths: readonly string[]): string =>
  paths.length <= 3 ? paths.join(", ") : `${paths.slice(0, 2).join(", ")} and ${paths.length - 2} more`;

/** Merges, then puts the original modules back, with the merged weights; the adapters are gone. */
export function mergeAndUnload(model: Module, names?: readonly string[], options: MergeOptions = {}): void {
  merge(model, names, options);
  release(model, adaptedModel(model, "mergeAndUnload"));
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
