/** Putting adapters on a model: target layers are replaced in place by an `AdapterLayer` each. */
import { upload } from "../compile/program.ts";
import type { Device } from "../devices/device.ts";
import { ConfigError } from "../errors.ts";
import { type ConfigSchema, checkAdapterName, defaultAdapterName } from "../formats/peft-adapter.ts";
import type { TypedArray } from "../graph/dtype.ts";
import { cast, copy } from "../graph/elementwise.ts";
import { Tensor } from "../graph/node.ts";
import { structure } from "../graph/variable.ts";
import { type Layer, type Module, Parameter } from "../nn/module.ts";
import { TorchGenerator } from "../random/torch-generator.ts";
import { Generator } from "../tensor/random.ts";
import { type Adapted, type Adapter, adaptersOf, baseModules, beginAdapters, choose } from "./adapted-model.ts";
import { AdapterLayer, describe } from "./adapter-layer.ts";
import { type KindOfLayer, kindOf, type LayerKind } from "./layer-kind.ts";
import { newReplication, type Replication } from "./layer-replication.ts";
import type { AdapterConfig, AnyConfig, AnyLayerMethod, AnyMethod, Base, Companion, ParameterSpec, Start } from "./method.ts";
import { trainedTokens } from "./methods/trainable-tokens.ts";
import { fillPromptConfig, textModel } from "./prompt/prompt-method.ts";
import { type PromptStart, planPrompt, startPrompt, type TextEncoding } from "./prompt/prompt-start.ts";
import { PromptPlace } from "./prompt/prompted-model.ts";
import { modulesToSave, SavedModule, withTaskHeads } from "./saved-module.ts";
import { LayerScale } from "./scale.ts";
import { chooseTargets, patternValue, type TargetOptions, type Targets } from "./target.ts";
import { modulePath, refuseMixture, targetedParameters } from "./target-parameter.ts";
import { inputEmbedding, outputLayer, tieWeights } from "./tied-weight.ts";
import { planTokens } from "./trained-token.ts";

/** What the adapter is called and how it starts. */
export interface AttachOptions {
  /** By which it is called later; also the folder's name when it is saved. */
  readonly name?: string;
  /** Of the first values and of dropout. */
  readonly seed?: number;
  /** Whether training may change it; true when absent. */
  readonly trainable?: boolean;
  /** Reads the text with which virtual tokens may start. */
  readonly tokenizer?: TextEncoding;
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
  /** Path of the layer whose parameters it uses. */
  readonly tied?: string;
}

/** An adapter that is about to be attached: everything that was chosen and checked. */
export interface AttachPlan {
  readonly method: AnyMethod;
  readonly config: AnyConfig;
  readonly layers: readonly PlannedLayer[];
  /** Parameters that the layers share. */
  readonly shared: Readonly<Record<string, ParameterSpec>>;
  /** A model of its own. */
  readonly companion: Companion | undefined;
  /** Modules of which the adapter gets parameters of its own, by path. */
  readonly saved: ReadonlyMap<string, Module>;
  /** Those of them whose weight is the one of another, by path. */
  readonly tiedSaved: ReadonlyMap<string, string>;
  /** Biases of the model that it trains in place, by path. */
  readonly biases: ReadonlyMap<string, Parameter>;
  readonly warnings: readonly string[];
  /** What becomes of the model's layers before. */
  readonly replication?: Replication;
}

/** Where the first values come from: the method, or a file. */
export interface Starts {
  shared(): Start["values"];
  layer(layer: PlannedLayer, shared: Start["values"]): Start;
  /** Of virtual tokens: the method's, with its encoder; or tables as a file has them. */
  prompt?(): PromptStart;
  /** Value of a parameter of the model that is trained as it is; the one that it has when absent. */
  whole?(path: string): Tensor | undefined;
  /** Other values of parameters of the base model, for as long as the adapter is on it. */
  readonly base?: ReadonlyMap<Parameter, Tensor>;
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
    layer({ method, base, config, specs }, shared) {
      const start = method.initialise(base, config, random, adapter.calibration, shared);
      const missing = Object.keys(specs).some((key) => !(key in start.values));
      return missing ? { ...start, values: { ...start.values, ...method.derive?.(base, config, shared) } } : start;
    },
    prompt: () => startPrompt(model, plan, random, options.tokenizer),
  });
}

/** First values of what the layers share, as the method draws them. */
export function initialiseShared({ method, config, layers, companion }: AttachPlan, random: TorchGenerator): Start["values"] {
  return { ...method.shared?.initialise(basesOf(method, layers), config, random), ...companion?.draw(random) };
}

/** The layers that the method itself changes, not an option that goes along with it. */
const basesOf = ({ layers: own }: AnyMethod, layers: readonly PlannedLayer[]): Base[] =>
  layers.filter(({ method }) => Object.values(own).includes(method)).map(({ base }) => base);

/** A config of any method. */
export type AnyAdapterConfig = { readonly method: AnyMethod; readonly config: AnyConfig };

/** Everything that can be wrong with an adapter is found here, before the model is touched. */
export function planAttach(model: Module, adapter: AnyAdapterConfig, name = defaultAdapterName): AttachPlan {
  const replication = newReplication(model, adapter.config["layerReplication"], adaptersOf(model)?.replication ?? null);
  if (!replication) return planOn(model, adapter, name);
  replication.apply();
  try {
    return { ...planOn(model, adapter, name), replication };
  } finally {
    replication.restore();
  }
}

/** The plan for a model whose layers are those that the adapter wants. */
function planOn(model: Module, { method, config: given }: AnyAdapterConfig, name: string): AttachPlan {
  checkAdapterName(name, method.schema, "attach");
  const modelType = modelTypeOf(model);
  const completed: AnyConfig = method.complete?.(given, modelType) ?? given;
  const adapted = adaptersOf(model);
  if (adapted?.adapters.has(name))
    throw new ConfigError(`this model has an adapter "${name}" already.`, {
      operation: "attach",
      got: name,
      hint: "Give another `name`, or take it off with deleteAdapter.",
    });
  if (adapted?.router)
    throw new ConfigError(`${adapted.router.word} mixes the adapters of this model, among which another one has no place.`, {
      operation: "attach",
      got: name,
      hint: "Call setActive first, which ends the mixture.",
    });
  if (adapted && [...adapted.layers.values()].some((layer) => layer.merged.length > 0))
    throw new ConfigError("adapters are merged into this model's weights.", { operation: "attach", hint: "Call unmerge first." });
  const modules = baseModules(model);
  const tying = "ensureWeightTying" in completed ? tieWeights(completed, modules) : undefined;
  const options = tying?.config ?? completed;
  const config = withTaskHeads(method.prompt ? fillPromptConfig(model, options, method.prompt) : options, modules);
  const embedding = inputEmbedding(modules);
  const kinds = (Object.keys(method.layers) as LayerKind[]).filter((kind) => kind !== "parameter");
  const others = modulesToSave((config["modulesToSave"] as readonly string[] | null) ?? [], modules);
  for (const path of tying?.saved ?? []) others.set(path, modules.get(path) as Module);
  const facts = { modules, modelType, outputPath: outputLayer(modules), saved: others };
  const trainsWhole = method.whole !== undefined;
  const parameters = targetedParameters((config["targetParameters"] ?? []) as readonly string[], modules, [...others.keys()]);
  const chosen = (): Targets => {
    if (method.prompt) return { paths: [], targetModules: [], warnings: [] };
    if (method.choose) return chosenBy(method, config, modules);
    const known = { ...facts, others: parameters.length > 0 };
    return chooseTargets(known, config as Partial<TargetOptions>, kinds, method.targets, trainsWhole);
  };
  const targets = chosen();
  const wholes = trainsWhole ? targets.paths.map((path) => [path, modules.get(path) as Module] as const) : [];
  const saved = new Map([...others, ...wholes]);
  const follow = tying?.layers ?? embedding?.tied ?? [];
  const tied = method.tied && embedding && targets.paths.includes(embedding.path) ? follow : [];
  const paths = trainsWhole ? [] : targets.paths.filter((path) => !tied.includes(path));
  const tokens = planTokens(config, modules, [...paths, ...tied, ...saved.keys()]);
  const ofModules = [...paths, ...tied, ...tokens.map(({ path }) => path)];
  refuseMixture(adapted, ofModules, parameters, config);
  if (adapted) refuseOverlap(adapted, [...ofModules, ...parameters.map(({ path }) => modulePath(path))], [...saved.keys()]);
  const planLayer = (
    path: string,
    methods: AnyMethod["layers"],
    own: AnyConfig,
    of?: string,
    module = modules.get(path) as Layer,
    facts = kindOf(module) as KindOfLayer,
  ): PlannedLayer => {
    const base = describe(module, facts, path);
    const layer = methods[facts.kind] as AnyLayerMethod;
    const specs = layer.parameters(base, own);
    return { path, facts, module, method: layer, base, config: own, specs, ...(of === undefined ? {} : { tied: of }) };
  };
  const isKasa = (of: AnyConfig) => (of["kasaConfig"] ?? null) !== null;
  const mixed = [...(adapted?.adapters.values() ?? [])].find((other) => isKasa(other.config) !== isKasa(config));
  if (mixed)
    throw new ConfigError(
      `KaSA takes a part of the weights away, which the adapter "${mixed.name}" and this one cannot both want.`,
      {
        operation: "attach",
        got: name,
        hint: "On one model all adapters have `kasaConfig`, or none.",
      },
    );
  const companion = method.companion?.(model, config);
  const patterns = new Patterns(method, config);
  const describedAt = (path: string) =>
    describe(modules.get(path) as Layer, kindOf(modules.get(path) as Layer) as KindOfLayer, path);
  const own = method.perLayer?.(paths.map(describedAt), { ...config, targetModules: targets.targetModules }) ?? [];
  const layers = [
    ...paths.map((path, i) => planLayer(path, method.layers, { ...patterns.at(path), ...own[i] })),
    ...tied.map((path) => planLayer(path, method.tied!.layers, patterns.at(embedding!.path), embedding!.path)),
    ...parameters.map(({ path, parameterPath, module, facts }) =>
      planLayer(path, method.layers, patterns.at(parameterPath), undefined, module as Layer, facts),
    ),
    ...tokens.map(({ path, tokenIndices, tied: of }) =>
      planLayer(path, of === undefined ? trainedTokens.embeddings : trainedTokens.tied, { tokenIndices, initWeights: true }, of),
    ),
  ];
  return {
    method,
    config: { ...config, ...(method.prompt ? {} : { targetModules: targets.targetModules }), ...orientation(config, layers) },
    layers,
    shared: { ...method.shared?.parameters(basesOf(method, layers), config), ...companion?.parameters },
    companion,
    saved,
    tiedSaved: new Map((tying?.saved ?? []).map((path) => [path, embedding!.path])),
    biases: trainedBiases(modules, config["bias"], paths, [...saved.keys()], adapted),
    warnings: [
      ...(tying?.warnings ?? []),
      ...targets.warnings,
      ...patterns.warnings(),
      ...own.flatMap(({ warning }) => (warning as string | undefined) ?? []),
    ],
  };
}

/** The targets of a method with rules of its own. @throws {ConfigError} when one of them is no layer that it can change */
function chosenBy(method: AnyMethod, config: AnyConfig, modules: ReadonlyMap<string, Module>): Targets {
  const paths = (method.choose as NonNullable<AnyMethod["choose"]>)([...modules.keys()], config);
  for (const path of paths) {
    const module = modules.get(path) as Module;
    const kind = kindOf(module)?.kind;
    if (kind === undefined || !(kind in method.layers))
      throw new ConfigError(`${path} is a ${module.constructor.name}, which this method cannot adapt.`, {
        operation: "attach",
        got: path,
      });
  }
  return { paths, targetModules: config["targetModules"] as string, warnings: [] };
}

/** The options of a method whose values may differ from layer to layer. */
class Patterns {
  readonly #config: AnyConfig;
  readonly #keys: readonly [patterns: string, key: string][];
  readonly #unused: ReadonlyMap<string, Set<string>>;

  constructor({ patterns }: AnyMethod, config: AnyConfig) {
    this.#config = config;
    this.#keys = Object.entries((patterns ?? {}) as Record<string, string>);
    this.#unused = new Map(this.#keys.map(([option]) => [option, new Set(Object.keys(config[option] as object))]));
  }

  /** The config of the layer at a path. */
  at(path: string): AnyConfig {
    const found = this.#keys.flatMap(([option, key]) => {
      const match = patternValue(this.#config[option] as AnyConfig, path, option);
      if (match) this.#unused.get(option)?.delete(match.pattern);
      return match ? [[key, match.value]] : [];
    });
    return { ...this.#config, ...Object.fromEntries(found) };
  }

  /** Patterns that no layer matched. */
  warnings(): string[] {
    return [...this.#unused].flatMap(([option, patterns]) =>
      [...patterns].map((pattern) => `attach: no adapted module matches "${pattern}" of ${option}.`),
    );
  }
}

/** `fanInFanOut` is what the layers are, whatever the caller said: PEFT, too, corrects it, and the last layer decides. */
function orientation(config: AnyConfig, layers: readonly PlannedLayer[]): { fanInFanOut?: boolean } {
  const last = layers.filter(({ facts }) => facts.kind === "linear").at(-1);
  return last && "fanInFanOut" in config ? { fanInFanOut: last.facts.fanInFanOut ?? false } : {};
}

/** What one adapter changes or trains as a whole cannot have layers in it that another changes. */
function refuseOverlap(adapted: Adapted, targets: readonly string[], whole: readonly string[]): void {
  const [saved, layers] = [[...adapted.saved.keys()], [...adapted.layers.keys()].map(modulePath)];
  const within = (outer: string, inner: string) => inner.startsWith(`${outer}.`);
  const holds = (outers: readonly string[], inners: readonly string[], same: boolean) =>
    outers.find((outer) => inners.some((inner) => within(outer, inner) || (same && inner === outer)));
  const path =
    holds(layers, [...targets, ...whole], false) ??
    holds(targets, [...layers, ...saved], false) ??
    holds(saved, targets, true) ??
    holds(whole, layers, true) ??
    holds(whole, saved, false) ??
    holds(saved, whole, false);
  if (path !== undefined)
    throw new ConfigError(`${path} would be changed as a whole by one adapter and in parts by another.`, {
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
  const sharedValues = first ? starts.shared() : {};
  const shared = first ? makeParameters(plan.shared, sharedValues, first) : {};
  const starting = plan.layers
    .filter(({ tied }) => tied === undefined)
    .map((layer) => ({ layer, start: starts.layer(layer, sharedValues) }));
  const own = new Map<string, Record<string, Parameter>>();
  for (const { layer, start } of starting) {
    const borrowed = Object.entries(layer.specs).flatMap(([key, { of }]) => {
      const other = of === undefined ? undefined : own.get(of)?.[key];
      return other ? [[key, other] as const] : [];
    });
    own.set(layer.path, { ...makeParameters(layer.specs, start.values, layer), ...Object.fromEntries(borrowed) });
  }
  const made = plan.layers.map((layer) => ({
    layer,
    parameters: own.get(layer.tied ?? layer.path) as Record<string, Parameter>,
    weight: starting.find((each) => each.layer === layer)?.start.weight,
    underlay: layer.method.underlay?.(layer.base, layer.config),
  }));
  const residual = made.some(({ weight }) => weight !== undefined) || (starts.base?.size ?? 0) > 0;
  const taken = [...(before?.adapters.values() ?? [])].find((other) => other.residual);
  if (taken && residual)
    throw new ConfigError(`the start of adapter "${taken.name}" has taken a part of the weights away already.`, {
      operation: "attach",
      got: name,
      hint: "Only one adapter of a model may start from its weights.",
    });
  const wholeValue = (path: string, parameter: Parameter) =>
    cast(starts.whole?.(path) ?? copy(parameter.stored), parameter.dtype);
  const copies = new Map<string, Map<string, Parameter>>();
  for (const [path, module] of [...plan.saved].sort(
    ([a], [b]) => Number(plan.tiedSaved.has(a)) - Number(plan.tiedSaved.has(b)),
  )) {
    const tied = copies.get(plan.tiedSaved.get(path) ?? "")?.get("weight");
    const copyOf = (name: string, parameter: Parameter) =>
      name === "weight" && tied ? tied : new Parameter(wholeValue(`${path}.${name}`, parameter), { requiresGrad: false });
    copies.set(path, new Map([...module.namedParameters()].map(([name, each]) => [name, copyOf(name, each)])));
  }
  const prompt = planPrompt(model, plan, starts.prompt);
  const reads = "backbone" in model ? plan.layers.map(({ method: of }) => of.readsText) : [];
  const readsText = reads.some((what) => what !== undefined);
  if (reads.includes("words") && "answering" in model)
    throw new ConfigError(`${method.peftType} with \`aloraInvocationTokens\` is for models that continue a text.`, {
      operation: "attach",
      got: name,
    });
  const random = new Generator(seed);
  const sharedFiles = method.shared?.files ?? {};
  const companion = plan.companion?.build(shared);
  const adapted = before ?? beginAdapters(model);
  plan.replication?.apply();
  adapted.replication ??= plan.replication ?? null;
  for (const { layer, parameters, weight, underlay } of made) {
    const place = adapted.layers.get(layer.path) ?? wrap(model, adapted, layer);
    const { method: of, config: layerConfig } = layer;
    const scale = new LayerScale();
    const tied = layer.tied !== undefined;
    place.add(name, {
      method: of,
      config: layerConfig,
      parameters,
      tied,
      shared,
      sharedFiles,
      companion,
      trainable,
      random,
      scale,
    });
    for (const [parameter, next] of underlay ? place.valuesFor(underlay) : []) adapted.untrained.change(parameter, next);
    for (const [parameter, next] of weight ? place.valuesFor(weight) : []) adapted.whole.change(parameter, next);
  }
  for (const [parameter, value] of starts.base ?? []) adapted.whole.change(parameter, value);
  for (const [path, module] of plan.saved) {
    const place = adapted.saved.get(path) ?? new SavedModule(module, path, adapted);
    place.add(name, copies.get(path) as Map<string, Parameter>);
    if (adapted.saved.has(path)) continue;
    model.replaceModule(path, place);
    adapted.saved.set(path, place);
  }
  if (prompt || readsText) adapted.prompts ??= new PromptPlace(textModel(model, "attach"), adapted);
  if (prompt) adapted.prompts?.add(name, { ...prompt, trainable, random });
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
    isPrompt: prompt !== null,
    saved: new Map([...plan.saved.keys()].map((path) => [path, adapted.saved.get(path) as SavedModule])),
    biases: plan.biases,
    trainable,
    random,
    residual,
    taken: new Map(
      starting.flatMap(({ layer, start }) => (start.weight ? [[layer.path, start.taken ?? start.values] as const] : [])),
    ),
    warnings,
  };
  adapted.adapters.set(name, adapter);
  choose(adapted, adapted.adapters.size === 1 ? [name] : adapted.active);
  return adapter;
}

function wrap(model: Module, adapted: Adapted, { module, path, facts }: PlannedLayer): AdapterLayer {
  const place = modulePath(path);
  // of parameters of one module, each layer comes around the ones before
  const base = facts.kind === "parameter" ? (model.getModule(place) as Layer) : module;
  const layer = new AdapterLayer(base, path, facts, adapted);
  model.replaceModule(place, layer);
  adapted.layers.set(path, layer);
  return layer;
}

/** On the device of the layer's weight. Training reaches them once the adapter is active. */
function makeParameters(
  specs: Readonly<Record<string, ParameterSpec>>,
  values: Start["values"],
  { facts, module }: PlannedLayer,
): Record<string, Parameter> {
  const device = facts.weight(module).stored.storage?.device as Device;
  const make = (start: Start["values"][string], spec: ParameterSpec) =>
    new Parameter(startTensor(device, start, spec), { requiresGrad: false });
  return Object.fromEntries(Object.entries(specs).map(([key, spec]) => [key, make(values[key] as Float32Array, spec)]));
}

/** A parameter's value as it is kept. */
export const startTensor = (device: Device, value: TypedArray | Tensor, { shape, dtype }: ParameterSpec): Tensor =>
  value instanceof Tensor ? value : upload(device, dtype ? Int32Array.from(value) : value, shape, dtype ?? "float32");

/** The model type that the model's config.json names. */
function modelTypeOf(model: Module): string | undefined {
  const type = (model as { readonly config?: { readonly modelType?: unknown } }).config?.modelType;
  return typeof type === "string" ? type : undefined;
}
