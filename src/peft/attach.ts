/**
 * Adapters on a model: put on, chosen, scaled, switched off, taken off again. Target layers are replaced in place by an
 * `AdapterLayer` each; taking adapters off puts the very same modules back.
 */
import { upload } from "../compile/program.ts";
import type { Device } from "../devices/device.ts";
import { ConfigError, nearestName } from "../errors.ts";
import { type ConfigSchema, checkAdapterName, defaultAdapterName } from "../formats/peft-adapter.ts";
import { Tensor } from "../graph/node.ts";
import { Setting, structure } from "../graph/variable.ts";
import { type Layer, type Module, Parameter } from "../nn/module.ts";
import { TorchGenerator } from "../random/torch-generator.ts";
import { Generator } from "../tensor/random.ts";
import { AdapterLayer, describe, type LayerAdapter } from "./adapter-layer.ts";
import { KeptWeights } from "./kept-weight.ts";
import { kindOf, type LayerKind, layerKinds } from "./layer-kind.ts";
import type { AdapterConfig, AnyConfig, AnyLayerMethod, AnyMethod, Base, ParameterSpec, Start } from "./method.ts";
import { chooseTargets, patternValue, type TargetOptions } from "./target.ts";

/** An adapter on a model. */
export interface Adapter {
  readonly name: string;
  readonly method: AnyMethod;
  /** With defaults, "all-linear" and the like written out, as it is saved. */
  readonly config: AnyConfig;
  /** Its layers by path. */
  readonly layers: ReadonlyMap<string, AdapterLayer>;
  /** Whether training reaches it while it is active. */
  readonly trainable: boolean;
  /** Of its dropout; the state goes into a checkpoint of training. */
  readonly random: Generator;
  /** Whether its start has taken a part of the weights away. */
  readonly residual: boolean;
  /** What is odd but no error: patterns or targets that match nothing. */
  readonly warnings: readonly string[];
}

/** What a model with adapters remembers. */
interface Adapted {
  readonly adapters: Map<string, Adapter>;
  readonly layers: Map<string, AdapterLayer>;
  /** Names of the adapters that act. */
  active: readonly string[];
  /** While true, every layer is what it was without adapters. */
  readonly off: Setting<boolean>;
  /** Weights of which the start of an adapter has taken a part away, before that. */
  readonly whole: KeptWeights;
  /** Weights into which adapters are merged, before that. */
  readonly unmerged: KeptWeights;
  /** Which parameters could be trained before the first adapter came. */
  readonly trainable: ReadonlyMap<Parameter, boolean>;
}

const models = new WeakMap<Module, Adapted>();

export interface AttachOptions {
  /** By which it is called later; also the folder's name when it is saved. */
  readonly name?: string;
  /** Of the first values and of dropout. */
  readonly seed?: number;
  /** Whether training may change it; true when absent. */
  readonly trainable?: boolean;
}

/** One layer of an adapter that is about to be attached. */
export interface PlannedLayer {
  readonly path: string;
  readonly kind: LayerKind;
  readonly module: Layer;
  readonly method: AnyLayerMethod;
  readonly base: Base;
  readonly config: AnyConfig;
  readonly specs: Readonly<Record<string, ParameterSpec>>;
}

export interface AttachPlan {
  readonly method: AnyMethod;
  readonly config: AnyConfig;
  readonly layers: readonly PlannedLayer[];
  readonly warnings: readonly string[];
}

/**
 * Puts an adapter on `model`: chooses the layers, replaces them in place, freezes everything else and makes the adapter the
 * only active one if it is the first. Another adapter, of any method, may follow under another name.
 *
 * @throws {ConfigError} when no layer matches, the name is taken, or the config does not fit; the model is unchanged then
 * @example
 * attach(model, lora({ r: 8, loraAlpha: 16, targetModules: ["q_proj", "v_proj"] }))
 */
export function attach<Schema extends ConfigSchema>(
  model: Module,
  adapter: AdapterConfig<Schema>,
  options: AttachOptions = {},
): Adapter {
  const plan = planAttach(model, adapter as unknown as AnyAdapterConfig, options.name);
  const random = new TorchGenerator(options.seed ?? 0);
  return install(model, plan, options, (layer) => layer.method.initialise(layer.base, layer.config, random));
}

/** A config of any method. */
export type AnyAdapterConfig = { readonly method: AnyMethod; readonly config: AnyConfig };

/** Everything that can be wrong with an adapter is found here, before the model is touched. */
export function planAttach(model: Module, { method, config }: AnyAdapterConfig, name = defaultAdapterName): AttachPlan {
  checkAdapterName(name, method.schema, "attach");
  const adapted = models.get(model);
  if (adapted?.adapters.has(name))
    throw new ConfigError(`this model has an adapter "${name}" already.`, {
      operation: "attach",
      got: name,
      hint: "Give another `name`, or take it off with deleteAdapter.",
    });
  if (adapted && [...adapted.layers.values()].some((layer) => layer.merged.length > 0))
    throw new ConfigError("adapters are merged into this model's weights.", { operation: "attach", hint: "Call unmerge first." });
  const modules = baseModules(model);
  const kinds = Object.keys(method.layers) as LayerKind[];
  const facts = { modules, modelType: modelTypeOf(model), outputPath: modules.has("lm_head") ? "lm_head" : undefined };
  const targets = chooseTargets(facts, config as unknown as TargetOptions, kinds, method.targets);
  const unused = new Map<string, Set<string>>();
  const layers = targets.paths.map((path): PlannedLayer => {
    const module = modules.get(path) as Layer;
    const kind = kindOf(module) as LayerKind;
    const base = describe(module, kind, path);
    const layerConfig: Record<string, unknown> = { ...config };
    for (const [patterns, key] of Object.entries(method.patterns ?? {})) {
      const found = patternValue(config[patterns] as AnyConfig, path, patterns);
      if (!unused.has(patterns)) unused.set(patterns, new Set(Object.keys(config[patterns] as object)));
      if (!found) continue;
      layerConfig[key as string] = found.value;
      unused.get(patterns)!.delete(found.pattern);
    }
    const layer = method.layers[kind] as AnyLayerMethod;
    return { path, kind, module, method: layer, base, config: layerConfig, specs: layer.parameters(base, layerConfig) };
  });
  const warnings = [...unused].flatMap(([option, patterns]) =>
    [...patterns].map((pattern) => `attach: no adapted module matches "${pattern}" of ${option}.`),
  );
  return {
    method,
    config: { ...config, targetModules: targets.targetModules },
    layers,
    warnings: [...targets.warnings, ...warnings],
  };
}

/** Carries a plan out, with first values from `start`. */
export function install(
  model: Module,
  plan: AttachPlan,
  { name = defaultAdapterName, seed = 0, trainable = true }: AttachOptions,
  start: (layer: PlannedLayer) => Start,
): Adapter {
  // everything that may fail comes before the first change
  const made = plan.layers.map((layer) => {
    const { values, weight } = start(layer);
    const parameters = Object.fromEntries(
      Object.entries(layer.specs).map(([key, spec]) => [key, makeParameter(values[key]!, spec, layer)]),
    );
    return { layer, parameters, weight };
  });
  const random = new Generator(seed);
  const adapted = models.get(model) ?? begin(model);
  const taken = [...adapted.adapters.values()].find((other) => other.residual);
  if (taken && made.some(({ weight }) => weight !== undefined))
    throw new ConfigError(`the start of adapter "${taken.name}" has taken a part of the weights away already.`, {
      operation: "attach",
      got: name,
      hint: "Only one adapter of a model may start from its weights.",
    });
  for (const { layer, parameters, weight } of made) {
    const place = adapted.layers.get(layer.path) ?? wrap(model, adapted, layer);
    place.add(name, { method: layer.method, config: layer.config, parameters, trainable, random, scale: new Setting(1) });
    if (weight) adapted.whole.change(place.weight, place.asStored(weight));
  }
  const layers = new Map(plan.layers.map(({ path }) => [path, adapted.layers.get(path) as AdapterLayer]));
  const { method, config, warnings } = plan;
  structure.value = structure.stored + 1; // an adapter of the same name may have been here before
  const residual = made.some(({ weight }) => weight !== undefined);
  const adapter: Adapter = { name, method, config, layers, trainable, random, residual, warnings };
  adapted.adapters.set(name, adapter);
  choose(adapted, adapted.adapters.size === 1 ? [name] : adapted.active);
  return adapter;
}

function begin(model: Module): Adapted {
  const trainable = new Map(model.parameters().map((parameter) => [parameter, parameter.requiresGrad]));
  for (const parameter of trainable.keys()) parameter.requiresGrad = false;
  const adapted: Adapted = {
    adapters: new Map(),
    layers: new Map(),
    active: [],
    off: new Setting(false),
    whole: new KeptWeights(),
    unmerged: new KeptWeights(),
    trainable,
  };
  models.set(model, adapted);
  return adapted;
}

function wrap(model: Module, { layers, off }: Adapted, { module, path, kind }: PlannedLayer): AdapterLayer {
  const layer = new AdapterLayer(module, path, kind, off);
  model.replaceModule(path, layer);
  layers.set(path, layer);
  return layer;
}

/** On the device of the layer's weight. Training reaches it once the adapter is active. */
function makeParameter(values: Start["values"][string], { shape }: ParameterSpec, { kind, module }: PlannedLayer): Parameter {
  if (values instanceof Tensor) return new Parameter(values, { requiresGrad: false });
  const { storage } = layerKinds[kind].weight(module).stored;
  return new Parameter(upload(storage!.device as Device, values, shape, "float32"), { requiresGrad: false });
}

/** Every module with its path in the unmodified model. */
export function baseModules(model: Module): Map<string, Module> {
  const found = new Map<string, Module>();
  const visit = (path: string, module: Module): void => {
    if (module instanceof AdapterLayer) {
      found.set(path, module.base_layer);
      return;
    }
    found.set(path, module);
    for (const [name, child] of module.children()) visit(path === "" ? name : `${path}.${name}`, child);
  };
  visit("", model);
  return found;
}

/** The model type that the model's config.json names. */
function modelTypeOf(model: Module): string | undefined {
  const type = (model as { readonly config?: { readonly modelType?: unknown } }).config?.modelType;
  return typeof type === "string" ? type : undefined;
}

/** The adapters of a model. @throws {ConfigError} when it has none */
export function adaptedModel(model: Module, operation: string): Adapted {
  const adapted = models.get(model);
  if (!adapted)
    throw new ConfigError("this model has no adapter.", { operation, hint: "Put one on with attach or loadAdapter." });
  return adapted;
}

/** The adapter of this name. @throws {ConfigError} naming the nearest when there is none */
export function getAdapter(model: Module, name: string, operation = "getAdapter"): Adapter {
  const { adapters } = adaptedModel(model, operation);
  const found = adapters.get(name);
  if (found) return found;
  const near = nearestName(name, adapters.keys());
  throw new ConfigError(`there is no adapter "${name}"; this model has: ${[...adapters.keys()].join(", ")}.`, {
    operation,
    got: name,
    ...(near === undefined ? {} : { hint: `Did you mean "${near}"?` }),
  });
}

/** Names of the adapters on a model, in the order in which they came. */
export const adapterNames = (model: Module): string[] => [...(models.get(model)?.adapters.keys() ?? [])];
/** Names of those that act. */
export const activeAdapters = (model: Module): readonly string[] => models.get(model)?.active ?? [];

/**
 * Makes these adapters the ones that act, in this order; their shares add up. Training reaches them and no others.
 * A merged adapter is taken out of the weights first.
 */
export function setActive(model: Module, names: string | readonly string[]): void {
  const list = typeof names === "string" ? [names] : [...new Set(names)];
  for (const name of list) getAdapter(model, name, "setActive");
  const adapted = adaptedModel(model, "setActive");
  unmerge(model);
  choose(adapted, list);
}

function choose(adapted: Adapted, names: readonly string[]): void {
  adapted.active = names;
  for (const layer of adapted.layers.values()) layer.activate(names);
}

/**
 * Runs `body` with the model as it was before any adapter, merged ones included, and puts everything back.
 * @returns what `body` gives; may be asynchronous
 */
export function disabled<T>(model: Module, body: () => T): T {
  const adapted = adaptedModel(model, "disabled");
  const { off, whole, unmerged } = adapted;
  if (off.stored) return body();
  const changed = new Set([...whole.parameters(), ...unmerged.parameters()]);
  const now = new Map([...changed].map((parameter) => [parameter, parameter.stored]));
  for (const parameter of changed) parameter.replace((whole.get(parameter) ?? unmerged.get(parameter)) as Tensor);
  off.value = true;
  const back = () => {
    off.value = false;
    for (const [parameter, value] of now) parameter.replace(value);
  };
  return afterwards(body, back);
}

/** Runs `body`, then `back`, whether `body` is asynchronous, fails or not. */
function afterwards<T>(body: () => T, back: () => void): T {
  let result: T;
  try {
    result = body();
  } catch (error) {
    back();
    throw error;
  }
  if (result instanceof Promise) return result.finally(back) as T;
  back();
  return result;
}

/** Multiplies an adapter's share (that of each active one when no name is given) by `scale`, everywhere or in the layers that
 * `where` picks; 1 is as trained, 0 is off. Merged adapters are taken out of the weights first. */
export function setScale(
  model: Module,
  scale: number,
  { name, where }: { readonly name?: string; readonly where?: (path: string) => boolean } = {},
): void {
  if (!Number.isFinite(scale))
    throw new ConfigError(`\`scale\` (= ${scale}) must be a number.`, { operation: "setScale", got: scale });
  const adapters = (name === undefined ? activeAdapters(model) : [name]).map((each) => getAdapter(model, each, "setScale"));
  unmerge(model);
  for (const adapter of adapters)
    for (const [path, layer] of adapter.layers)
      if (!where || where(path)) (layer.adapters.get(adapter.name) as LayerAdapter).scale.value = scale;
}

/**
 * Takes one adapter off for good. If it was the only active one, the first of the others by name becomes active, in every
 * layer the first of those that this layer has, as in PEFT; if it was the last, the model is as it was before.
 */
export function deleteAdapter(model: Module, name: string): void {
  const { layers, residual } = getAdapter(model, name, "deleteAdapter");
  const adapted = adaptedModel(model, "deleteAdapter");
  for (const layer of layers.values())
    if (layer.merged.includes(name))
      throw new ConfigError(`the adapter "${name}" is merged.`, {
        operation: "deleteAdapter",
        got: name,
        hint: "Call unmerge first.",
      });
  if (adapted.adapters.size === 1) {
    detach(model);
    return;
  }
  adapted.adapters.delete(name);
  if (residual) {
    unmerge(model);
    adapted.whole.restore();
  }
  for (const [path, layer] of layers) {
    layer.remove(name);
    if (layer.adapters.size > 0) continue;
    model.replaceModule(path, layer.base_layer);
    adapted.layers.delete(path);
  }
  const left = adapted.active.filter((each) => each !== name);
  const first = (names: Iterable<string>) => [...names].sort().slice(0, 1);
  choose(adapted, left.length > 0 ? left : first(adapted.adapters.keys()));
  if (left.length === 0) for (const layer of adapted.layers.values()) layer.activate(first(layer.adapters.keys()));
}

/** Takes all merged adapters out of the weights: bit for bit what was there before. */
export function unmerge(model: Module): void {
  const { layers, unmerged } = adaptedModel(model, "unmerge");
  unmerged.restore();
  for (const layer of layers.values()) layer.merged = [];
}

/** Takes all adapters off: the same modules, weights and trainable flags as before the first came. */
export function detach(model: Module): void {
  const adapted = adaptedModel(model, "detach");
  unmerge(model);
  adapted.whole.restore();
  release(model, adapted);
}

/** Puts the original modules back, with the weights that they have now. */
export function release(model: Module, { layers, trainable }: Adapted): void {
  for (const [path, layer] of layers) model.replaceModule(path, layer.base_layer);
  for (const [parameter, flag] of trainable) parameter.requiresGrad = flag;
  models.delete(model);
}

/** All parameters of the base model by the names they have without adapters. */
export function baseStateDict(model: Module): Map<string, Tensor> {
  const found = new Map<string, Tensor>();
  const seen = new Set<Parameter>();
  for (const [path, module] of baseModules(model))
    for (const [name, parameter] of module.ownParameters()) {
      if (seen.has(parameter)) continue;
      seen.add(parameter);
      found.set(path === "" ? name : `${path}.${name}`, parameter.stored);
    }
  return found;
}

export interface TrainableReport {
  /** Values that training changes. */
  readonly trainable: number;
  /** Values of the model with its adapters. */
  readonly total: number;
  readonly percent: number;
  /** `trainable params: 12,288 || all params: 1,234,567 || trainable%: 0.9953`, as PEFT prints it. */
  readonly text: string;
}

/** How much of a model is trained. */
export function trainableReport(model: Module): TrainableReport {
  let trainable = 0;
  let total = 0;
  for (const parameter of model.parameters()) {
    total += parameter.size;
    if (parameter.requiresGrad) trainable += parameter.size;
  }
  const percent = total === 0 ? 0 : (100 * trainable) / total;
  const words = (count: number) => count.toLocaleString("en-US");
  const text = `trainable params: ${words(trainable)} || all params: ${words(total)} || trainable%: ${percent.toFixed(4)}`;
  return { trainable, total, percent, text };
}
