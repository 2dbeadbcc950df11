/** Writing adapters into the weights, and taking them out again without a trace. */
import { realize } from "../compile/program.ts";
import { ConfigError, checkOptions, type Rules, refusalOf, requireKind, under } from "../errors.ts";
import { cast, sub } from "../graph/elementwise.ts";
import { requireTensors, type Tensor } from "../graph/node.ts";
import { readValues } from "../linalg/matrix.ts";
import type { Module, Parameter } from "../nn/module.ts";
import {
  type Adapted,
  adaptedModel,
  choose,
  getAdapter,
  nameList,
  refuseRouted,
  refuseTwo,
  release,
  setActive,
  unmerge,
} from "./adapted-model.ts";
import type { AdapterLayer } from "./adapter-layer.ts";
import { type MergedLayer, type MergeReport, measured, recorded } from "./merge-report.ts";

/** How careful merging is. */
export interface MergeOptions {
  /** Refuses, with nothing changed, when a new weight is not finite. */
  readonly safe?: boolean;
  /** Gives a report of what rounding has done, in place of the paths. */
  readonly report?: boolean;
  /** Refuses, with nothing changed, when a layer's `error` in the report is larger. */
  readonly maxError?: number;
  /** Runs the model on an input of your choice, such as `() => model.forward({ inputIds }).logits`, before and after. */
  readonly probe?: () => Tensor;
  /** Refuses, with nothing changed, when a value of `probe` differs by more. */
  readonly maxDifference?: number;
  /**
   * Whether the original weights are kept for `unmerge`, true when absent. Otherwise merging takes no more memory, and `unmerge`
   * subtracts the changes again, which restores the weights up to rounding; only where the change does not depend on the weight.
   */
  readonly keep?: boolean;
  /** Told when merging loses something; a warning on the console when absent. */
  tell?(message: string): void;
}

const mergeOptionRules: Rules<MergeOptions> = {
  safe: "true or false",
  report: "true or false",
  maxError: "a number",
  probe: "a function",
  maxDifference: "a number",
  keep: "true or false",
  tell: "a function",
};

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
 * @returns paths of the layers and modules that were changed; with `report` what became of each layer
 * @throws {ConfigError} for a method that is no change of the weight, (safe) values that are not finite, or more rounding than
 *   `maxError` and `maxDifference` allow; nothing is changed then
 * @example
 * attach(model, lora({ r: 4 }));
 * merge(model, undefined, { report: true, maxError: 0.01, probe: () => model.forward({ inputIds }).logits }).difference
 */
export function merge(
  model: Module,
  names: string | readonly string[] | undefined,
  options: MergeOptions & { readonly report: true },
): MergeReport;
export function merge(model: Module, names?: string | readonly string[], options?: MergeOptions): string[];
export function merge(model: Module, given?: string | readonly string[], options: MergeOptions = {}): string[] | MergeReport {
  const names = given === undefined ? undefined : nameList(operation, given);
  checkOptions(operation, options, mergeOptionRules);
  const {
    safe = false,
    keep = true,
    probe,
    maxDifference,
    maxError,
    tell = (message: string) => console.warn(message),
  } = options;
  const adapted = adaptedModel(model, operation);
  const { layers, saved, unmerged, active } = adapted;
  if (maxDifference !== undefined && !probe)
    throw new ConfigError("`maxDifference` needs a `probe` that runs the model.", { operation, got: maxDifference });
  refuseAll(model, names, keep);
  const standIns = [...saved].flatMap(([path, module]) => {
    const adapters = [...new Set(names ?? active)].filter((name) => module.copies.has(name) && module.merged !== name);
    refuseTwo(operation, path, module.merged === null ? adapters : [module.merged, ...adapters]);
    return adapters.map((adapter) => ({ path, module, adapter, before: module.merged }));
  });
  const beside = probe && besideWeights(adapted, names, probe);
  const forget = unmerged.mark();
  const done: { readonly layer: AdapterLayer; readonly names: readonly string[]; readonly values: Map<Parameter, Tensor> }[] = [];
  const measures: MergedLayer[] = [];
  let difference: number | null = null;
  try {
    for (const layer of layers.values()) {
      const added = unmergedOn(layer, names);
      if (added.length === 0) continue;
      const changed = layer.changedBy(added);
      const record = options.report || maxError !== undefined ? recorded(layer, added) : null;
      done.push({ layer, names: layer.merged, values: new Map([...changed.keys()].map((each) => [each, each.stored])) });
      for (const [parameter, next] of changed)
        unmerged.change(parameter, next, keep ? undefined : wayBack(layer, added, parameter));
      layer.merged = [...layer.merged, ...added];
      if (safe) refuseInfinite(layer, [...changed.values()]);
      if (record) measures.push(measured(layer, record));
      if (maxError !== undefined) refuseRounding(layer, measures.at(-1)?.error ?? 0, maxError);
    }
    for (const { module, adapter } of standIns) module.merged = adapter;
    if (probe && beside) difference = largest(sub(probe(), beside));
    if (maxDifference !== undefined) refuseDifference(difference as number, maxDifference);
  } catch (error) {
    for (const { module, before } of standIns) module.merged = before;
    for (const before of done.reverse()) {
      for (const [parameter, value] of before.values) parameter.replace(value);
      before.layer.merged = before.names;
    }
    forget();
    throw error;
  }
  const rounded = done.flatMap(({ layer }) => (layer.holdsCodes ? layer.path : []));
  if (rounded.length > 0)
    tell(
      `merge: weights that are kept as codes are rounded to codes again, which changes the result a little: ${wordList(rounded)}.`,
    );
  const paths = [...done.map(({ layer }) => layer.path), ...standIns.map(({ path }) => path)];
  return options.report ? { paths, layers: measures, difference } : paths;
}

const operation = "merge";

const unmergedOn = (layer: AdapterLayer, names: readonly string[] | undefined): string[] =>
  (names ?? layer.active).filter((name) => layer.adapters.has(name) && !layer.merged.includes(name));

/** Whatever is refused, is refused before the first weight has changed. */
function refuseAll(model: Module, names: readonly string[] | undefined, keep: boolean): void {
  const { layers, active, replication } = adaptedModel(model, operation);
  if (replication)
    throw new ConfigError(
      "several layers share one weight (`layerReplication`), so there is none that an adapter could be merged into.",
      {
        operation,
        got: replication.map,
        hint: "Use it unmerged.",
      },
    );
  refuseRouted(adaptedModel(model, operation), operation, names ?? active);
  for (const name of names ?? active)
    if (getAdapter(model, name, operation).isPrompt)
      throw new ConfigError(`the adapter "${name}" (${getAdapter(model, name).method.peftType}) is not a change of the weight.`, {
        operation,
        got: name,
        hint: "Use it unmerged.",
      });
  for (const layer of layers.values()) refuseUnmergeable(model, layer, unmergedOn(layer, names), keep);
  for (const layer of layers.values()) layer.checkChange(unmergedOn(layer, names));
}

/** Why the adapters (the active ones when no names are given) cannot be merged; `null` when they can. */
export const mergeRefusal = (model: Module, names?: readonly string[]): ConfigError | null =>
  refusalOf(() => refuseAll(model, names, true));

/** @throws {ConfigError} for an adapter that is no change of the weight, or that could not be subtracted again */
function refuseUnmergeable(model: Module, layer: AdapterLayer, names: readonly string[], keep: boolean): void {
  for (const name of names) {
    const { peftType } = getAdapter(model, name).method;
    const own = layer.adapters.get(name)?.method;
    if (own?.biasDelta && !own.delta && !layer.bias)
      throw new ConfigError(`the adapter "${name}" (${peftType}) is not a change of the weight, and ${layer.path} has no bias.`, {
        operation,
        got: name,
        hint: "Use it unmerged.",
      });
    if (!own?.delta && !own?.biasDelta)
      throw new ConfigError(`the adapter "${name}" (${peftType}) is not a change of the weight.`, {
        operation,
        got: name,
        hint: "Use it unmerged.",
      });
    if (keep) continue;
    if (layer.holdsCodes || layer.change([name]).fromWeight)
      throw new ConfigError(
        layer.holdsCodes
          ? `the weight of ${layer.path} is kept as codes, which do not come back by subtracting.`
          : `the change that the adapter "${name}" (${peftType}) makes of ${layer.path} depends on the weight, so it cannot be subtracted again.`,
        { operation, got: name, hint: "Let the original be kept." },
      );
  }
}

/** @throws {ConfigError} for a new weight that has a value which is not finite */
function refuseInfinite({ path }: AdapterLayer, weights: readonly Tensor[]): void {
  if (weights.every((next) => readValues(next).every(Number.isFinite))) return;
  throw new ConfigError(`the weight of ${path} would hold values that are not finite; nothing was merged.`, {
    operation,
    got: path,
    hint: "The adapter has diverged: train it with a lower learning rate.",
  });
}

/** @throws {ConfigError} for more rounding in one layer than `maxError` */
function refuseRounding({ path, weight }: AdapterLayer, error: number, maxError: number): void {
  if (error <= maxError) return;
  throw new ConfigError(
    `${path} would lose ${error} of its change to rounding (${weight.dtype}), more than \`maxError\` (= ${maxError}); nothing was merged.`,
    { operation, got: error, expected: maxError, hint: "Keep the adapter beside the weights, or the weights in float32." },
  );
}

/** @throws {ConfigError} for an output that moves further than `maxDifference` */
function refuseDifference(difference: number, maxDifference: number): void {
  if (difference <= maxDifference) return;
  throw new ConfigError(
    `the merged model differs by ${difference}, more than \`maxDifference\` (= ${maxDifference}); nothing was merged.`,
    {
      operation,
      got: difference,
      expected: maxDifference,
      hint: "The report of a merge without it tells which layers lose most.",
    },
  );
}

/** From a merged parameter to what it was, by subtracting what has been added. */
function wayBack(layer: AdapterLayer, names: readonly string[], parameter: Parameter): (value: Tensor) => Tensor {
  return (value) => {
    const { weight, bias } = layer.change(names);
    const added = parameter === layer.weight ? weight && layer.inLayout(weight) : bias;
    return added ? cast(sub(cast(value, "float32"), added), value.dtype) : value;
  };
}

/** What `probe` gives while the adapters that are to be merged act beside the weights. */
function besideWeights(adapted: Adapted, names: readonly string[] | undefined, probe: () => Tensor): Tensor {
  const { layers, saved, active } = adapted;
  const before = [...layers.values()].map((layer) => ({ layer, active: layer.active }));
  const modules = [...saved.values()].map((module) => ({ module, active: module.active }));
  try {
    if (names) {
      const others = active.filter((name) => !names.includes(name));
      choose(adapted, [...new Set(names), ...others]);
      // what is to be merged is next to the weight
      for (const { layer } of before)
        layer.activate(layer.outwards([...layer.outwards([...new Set(names)]), ...layer.outwards(others)]));
    }
    const found = probe();
    requireTensors(operation, { "probe()": found });
    realize([found]);
    return found;
  } finally {
    if (names) {
      choose(adapted, active);
      for (const each of before) each.layer.activate(each.active);
      for (const each of modules) each.module.active = each.active;
    }
  }
}

/**
 * Makes these adapters the ones that act, in the weights and nowhere else, in place of those that are merged now: W − ΔA + ΔB. Where
 * the original weights are kept, they are what ΔB is added to; otherwise ΔA is subtracted, and each change rounds once more.
 *
 * @returns as `merge`, with whose options; `keep` is what it was when absent
 * @throws {ConfigError} as `merge`; the same adapters are merged and active then as before
 * @example
 * for (const name of ["french", "legal"]) attach(model, lora({ r: 4 }), { name });
 * merge(model, ["french"]);
 * switchMerged(model, ["legal"]);
 */
export function switchMerged(model: Module, given: string | readonly string[], options: MergeOptions = {}): string[] {
  checkOptions("switchMerged", options, mergeOptionRules);
  const names = nameList("switchMerged", given);
  const adapted = adaptedModel(model, "switchMerged");
  const { layers, saved, unmerged, active } = adapted;
  for (const name of names) getAdapter(model, name, "switchMerged");
  const keep = options.keep ?? !unmerged.isComputed;
  const merged = [...layers.values()].map((layer) => ({ layer, names: layer.merged }));
  const modules = [...saved.values()].map((module) => ({ module, merged: module.merged }));
  const forget = unmerged.mark();
  const values = new Map([...unmerged.parameters()].map((parameter) => [parameter, parameter.stored]));
  try {
    setActive(model, names);
    return under("switchMerged", () => merge(model, names, { ...options, keep }), [operation]);
  } catch (error) {
    forget();
    for (const [parameter, value] of values) parameter.replace(value);
    for (const each of merged) each.layer.merged = each.names;
    choose(adapted, active);
    for (const each of modules) each.module.merged = each.merged;
    throw error;
  }
}

/** The first few of many. */
const wordList = (paths: readonly string[]): string =>
  paths.length <= 3 ? paths.join(", ") : `${paths.slice(0, 2).join(", ")} and ${paths.length - 2} more`;

/** Merges, then puts the original modules back, with the merged weights; the adapters are gone. */
export function mergeAndUnload(model: Module, names?: string | readonly string[], options: MergeOptions = {}): void {
  under("mergeAndUnload", () => merge(model, names, options), ["merge"]);
  release(model, adaptedModel(model, "mergeAndUnload"));
}

/**
 * The merge law on this model: the largest difference between what `forward` gives with the active adapters beside the
 * weights and in them. The model is left unmerged.
 *
 * @param forward runs the model on an input, such as `() => model.forward(ids)`
 */
export function mergeDifference(model: Module, forward: () => Tensor): number {
  requireKind("mergeDifference", "a function", { forward });
  under("mergeDifference", () => unmerge(model));
  try {
    // what it would tell is what is measured
    const merged = () => merge(model, undefined, { report: true, probe: forward, tell: () => {} });
    return under("mergeDifference", merged, ["merge", "realize"]).difference as number;
  } finally {
    unmerge(model);
  }
}

/** The largest value by size; NaN if there is one. */
const largest = (x: Tensor): number =>
  readValues(x).reduce((most, value) => (Number.isNaN(value) ? value : Math.max(most, Math.abs(value))), 0);
