/** Putting adapters on a model: target layers are replaced in place by an `AdapterLayer` each. */
import { upload } from "../compile/program.ts";
import type { Device } from "../devices/device.ts";
import { ConfigError } from "../errors.ts";
import { type ConfigSchema, checkAdapterName, defaultAdapterName } from "../formats/peft-adapter.ts";
import { cast, copy } from "../graph/elementwise.ts";
import { Tensor } from "../graph/node.ts";
import { Setting, structure } from "../graph/variable.ts";
import { type Layer, type Module, Parameter } from "../nn/module.ts";
import { TorchGenerator } from "../random/torch-generator.ts";
import { Generator } from "../tensor/random.ts";
import { type Adapted, type Adapter, adaptersOf, baseModules, beginAdapters, choose } from "./adapted-model.ts";
import { AdapterLayer, describe } from "./adapter-layer.ts";
import { type KindOfLayer, kindOf, type LayerKind } from "./layer-kind.ts";
import type { AdapterConfig, AnyConfig, AnyLayerMethod, AnyMethod, Base, ParameterSpec, Start } from "./method.ts";
import { modulesToSave, SavedModule } from "./saved-module.ts";
import { chooseTargets, patternValue, type TargetOptions } from "./target.ts";

/** What the adapter is called and how it starts. */
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
  readonly facts: KindOfLayer;
  readonly module: Layer;
  readonly method: AnyLayerMethod;
  readonly base: Base;
  readonly config: AnyConfig;
  readonly specs: Readonly<Record<string, ParameterSpec>>;
}

/** An adapter that is about to be attached: everything that was chosen and checked. */
export interface AttachPlan {
  readonly method: AnyMethod;
  readonly config: AnyConfig;
  readonly layers: readonly PlannedLayer[];
  /** Parameters that the layers share. */
  readonly shared: Readonly<Record<string, ParameterSpec>>;
  /** Modules of which the adapter gets parameters of its own, by path. */
  readonly saved: ReadonlyMap<string, Module>;
  /** Biases of the model that it trains in place, by path. */
  readonly biases: ReadonlyMap<string, Parameter>;
  readonly warnings: readonly string[];
}

/** Where the first values come from: the method, or a file. */
export interface Starts {
  shared(): Start["values"];
  layer(layer: PlannedLayer): Start;
  /** Value of a parameter of the model that is trained as it is; the one that it has when absent. */
  whole?(path: string): Tensor | undefined;
}

/**
 * Puts an adapter on `model`: chooses the layers, replaces them in place, freezes everything else and makes the adapter the
 * only active one if it is the first. Another adapter, of any method, may follow under another name.
 *
 * @throws {ConfigError} when no layer matches, the name is taken, or the config does not fit; the model is unchanged then
 * @returns the adapter; its `warnings` say what is odd but no error
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
  return install(model, plan, options, {
    shared: () => initialiseShared(plan, random),
    layer: (layer) => layer.method.initialise(layer.base, layer.config, random),
  });
}

/** First values of what the layers share, as the method draws them. */
export function initialiseShared({ method, config, layers }: AttachPlan, random: TorchGenerator): Start["values"] {
  return (
    method.shared?.initialise(
      layers.map(({ base }) => base),
      config,
      random,
    ) ?? {}
  );
}

/** A config of any method. */
export type AnyAdapterConfig = { readonly method: AnyMethod; readonly config: AnyConfig };

/** Everything that can be wrong with an adapter is found here, before the model is touched. */
export function planAttach(model: Module, { method, config: given }: AnyAdapterConfig, name = defaultAdapterName): AttachPlan {
  checkAdapterName(name, method.schema, "attach");
  const modelType = modelTypeOf(model);
  const config: AnyConfig = method.complete?.(given, modelType) ?? given;
  const adapted = adaptersOf(model);
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
  const others = modulesToSave((config["modulesToSave"] as readonly string[] | null) ?? [], modules);
  const outputPath = ["lm_head", "embed_out"].find((path) => modules.has(path));
  const facts = { modules, modelType, outputPath, saved: others };
  const trainsWhole = method.whole !== undefined;
  const targets = chooseTargets(facts, config as Partial<TargetOptions>, kinds, method.targets, trainsWhole);
  const paths = trainsWhole ? [] : targets.paths;
  const wholes = trainsWhole ? targets.paths.map((path) => [path, modules.get(path) as Module] as const) : [];
  const saved = new Map([...others, ...wholes]);
  if (adapted) refuseOverlap(adapted, paths, [...saved.keys()]);
  const unused = new Map<string, Set<string>>();
  const layers = paths.map((path): PlannedLayer => {
    const module = modules.get(path) as Layer;
    const facts = kindOf(module) as KindOfLayer;
    const base = describe(module, facts, path);
    const layerConfig: Record<string, unknown> = { ...config };
    for (const [patterns, key] of Object.entries(method.patterns ?? {})) {
      const found = patternValue(config[patterns] as AnyConfig, path, patterns);
      if (!unused.has(patterns)) unused.set(patterns, new Set(Object.keys(config[patterns] as object)));
      if (!found) continue;
      layerConfig[key as string] = found.value;
      unused.get(patterns)!.delete(found.pattern);
    }
    const layer = method.layers[facts.kind] as AnyLayerMethod;
    return { path, facts, module, method: layer, base, config: layerConfig, specs: layer.parameters(base, layerConfig) };
  });
  const warnings = [...unused].flatMap(([option, patterns]) =>
    [...patterns].map((pattern) => `attach: no adapted module matches "${pattern}" of ${option}.`),
  );
  return {
    method,
    config: { ...config, targetModules: targets.targetModules, ...orientation(config, layers) },
    layers,
    shared:
      method.shared?.parameters(
        layers.map(({ base }) => base),
        config,
      ) ?? {},
    saved,
    biases: trainedBiases(modules, config["bias"], paths, [...saved.keys()], adapted),
    warnings: [...targets.warnings, ...warnings],
  };
}

/** `fanInFanOut` is what the layers are, whatever the caller said: PEFT, too, corrects it, and the last layer decides. */
function orientation(config: AnyConfig, layers: readonly PlannedLayer[]): { fanInFanOut?: boolean } {
  const last = layers.filter(({ facts }) => facts.kind === "linear").at(-1);
  return last && "fanInFanOut" in config ? { fanInFanOut: last.facts.fanInFanOut ?? false } : {};
}

/** What is trained as a whole by one adapter cannot have layers in it that another changes. */
function refuseOverlap(adapted: Adapted, targets: readonly string[], whole: readonly string[]): void {
  const [saved, layers] = [[...adapted.saved.keys()], [...adapted.layers.keys()]];
  const within = (outer: string, inner: string) => inner.startsWith(`${outer}.`);
  const holds = (outers: readonly string[], inners: readonly string[], same: boolean) =>
    outers.find((outer) => inners.some((inner) => within(outer, inner) || (same && inner === outer)));
  const path =
    holds(saved, targets, true) ?? holds(whole, layers, true) ?? holds(whole, saved, false) ?? holds(saved, whole, false);
  if (path !== undefined)
    throw new ConfigError(`${path} would be trained as a whole by one adapter and changed in parts by another.`, {
      operation: "attach",
      got: path,
      hint: "Take it out of `modulesToSave`, or out of the targets with `excludeModules`.",
    });
}

/** The biases that `bias` means: all, or (`lora_only`) those of the adapted layers. */
function trainedBiases(
  modules: ReadonlyMap<string, Module>,
  option: unknown,
  targets: readonly string[],
  whole: readonly string[],
  adapted: Adapted | undefined,
): Map<string, Parameter> {
  const found = new Map<string, Parameter>();
  if (typeof option !== "string" || option === "none") return found;
  const other = [...(adapted?.adapters.values() ?? [])].find(({ biases }) => biases.size > 0);
  if (other)
    throw new ConfigError(`the adapter "${other.name}" trains the model's biases already.`, {
      operation: "attach",
      got: option,
      hint: 'Only one adapter of a model may have another `bias` than "none".',
    });
  for (const [path, module] of modules) {
    if (whole.some((outer) => path === outer || path.startsWith(`${outer}.`))) continue;
    if (option !== "all" && !targets.includes(path)) continue;
    for (const [name, parameter] of module.ownParameters()) if (name === "bias") found.set(`${path}.bias`, parameter);
  }
  return found;
}

/** Carries a plan out. */
export function install(
  model: Module,
  plan: AttachPlan,
  { name = defaultAdapterName, seed = 0, trainable = true }: AttachOptions,
  starts: Starts,
): Adapter {
  const { method, config, warnings } = plan;
  const before = adaptersOf(model);
  // everything that may fail comes before the first change
  const [first] = plan.layers; // none where whole modules are trained
  const shared = first ? makeParameters(plan.shared, starts.shared(), first) : {};
  const made = plan.layers.map((layer) => {
    const { values, weight } = starts.layer(layer);
    return { layer, parameters: makeParameters(layer.specs, values, layer), weight };
  });
  const residual = made.some(({ weight }) => weight !== undefined);
  const taken = [...(before?.adapters.values() ?? [])].find((other) => other.residual);
  if (taken && residual)
    throw new ConfigError(`the start of adapter "${taken.name}" has taken a part of the weights away already.`, {
      operation: "attach",
      got: name,
      hint: "Only one adapter of a model may start from its weights.",
    });
  const wholeValue = (path: string, parameter: Parameter) =>
    cast(starts.whole?.(path) ?? copy(parameter.stored), parameter.dtype);
  const copies = [...plan.saved].map(([path, module]) => {
    const parameters = [...module.namedParameters()].map(
      ([name, parameter]) => [name, new Parameter(wholeValue(`${path}.${name}`, parameter), { requiresGrad: false })] as const,
    );
    return { path, module, copies: new Map(parameters) };
  });
  const random = new Generator(seed);
  const sharedFiles = method.shared?.files ?? {};
  const adapted = before ?? beginAdapters(model);
  for (const { layer, parameters, weight } of made) {
    const place = adapted.layers.get(layer.path) ?? wrap(model, adapted, layer);
    const { method: of, config: layerConfig } = layer;
    const scale = new Setting(1);
    place.add(name, { method: of, config: layerConfig, parameters, shared, sharedFiles, trainable, random, scale });
    if (weight) adapted.whole.change(place.weight, place.asStored(weight));
  }
  for (const { path, module, copies: own } of copies) {
    const place = adapted.saved.get(path) ?? new SavedModule(module);
    place.add(name, own);
    if (adapted.saved.has(path)) continue;
    model.replaceModule(path, place);
    adapted.saved.set(path, place);
  }
  for (const [path, bias] of plan.biases) adapted.untrained.change(bias, wholeValue(path, bias));
  structure.value = structure.stored + 1; // an adapter of the same name may have been here before
  const layers = new Map(plan.layers.map(({ path }) => [path, adapted.layers.get(path) as AdapterLayer]));
  const adapter: Adapter = {
    name,
    method,
    config,
    layers,
    shared,
    sharedSpecs: plan.shared,
    saved: new Map(copies.map(({ path }) => [path, adapted.saved.get(path) as SavedModule])),
    biases: plan.biases,
    trainable,
    random,
    residual,
    warnings,
  };
  adapted.adapters.set(name, adapter);
  choose(adapted, adapted.adapters.size === 1 ? [name] : adapted.active);
  return adapter;
}

function wrap(model: Module, { layers, off }: Adapted, { module, path, facts }: PlannedLayer): AdapterLayer {
  const layer = new AdapterLayer(module, path, facts, off);
  model.replaceModule(path, layer);
  layers.set(path, layer);
  return layer;
}

/** On the device of the layer's weight. Training reaches them once the adapter is active. */
function makeParameters(
  specs: Readonly<Record<string, ParameterSpec>>,
  values: Start["values"],
  { facts, module }: PlannedLayer,
): Record<string, Parameter> {
  const device = facts.weight(module).stored.storage?.device as Device;
  const make = (start: Start["values"][string], { shape }: ParameterSpec) =>
    new Parameter(start instanceof Tensor ? start : upload(device, start, shape, "float32"), { requiresGrad: false });
  return Object.fromEntries(Object.entries(specs).map(([key, spec]) => [key, make(values[key] as Float32Array, spec)]));
}

/** The model type that the model's config.json names. */
function modelTypeOf(model: Module): string | undefined {
  const type = (model as { readonly config?: { readonly modelType?: unknown } }).config?.modelType;
  return typeof type === "string" ? type : undefined;
}
