/** What an adapter will be on a model: its layers chosen and everything that can be wrong with it found, before the first change. */
import { ConfigError, wordType } from "../errors.ts";
import { checkAdapterName, defaultAdapterName } from "../formats/peft-adapter.ts";
import { type Layer, type Module, type Parameter, requireModule } from "../nn/module.ts";
import { type Adapted, adaptersOf, baseModules } from "./adapted-model.ts";
import { describe } from "./adapter-layer.ts";
import { withExperts } from "./expert-target.ts";
import { type KindOfLayer, kindOf, type LayerKind } from "./layer-kind.ts";
import { newReplication, type Replication } from "./layer-replication.ts";
import type { AnyLayerMethod, AnyMethod, Base, Companion, KeptInFile, ParameterSpec } from "./method.ts";
import type { AnyConfig } from "./method-config.ts";
import { trainedTokens } from "./methods/trainable-tokens.ts";
import { fillPromptConfig } from "./prompt/prompt-method.ts";
import { modulesToSave, withTaskHeads } from "./saved-module.ts";
import { allLinear, chooseTargets, patternValue, type TargetOptions, type Targets } from "./target.ts";
import { modulePath, refuseMixture, targetedParameters } from "./target-parameter.ts";
import { inputEmbedding, tieWeights, wordLayer } from "./tied-weight.ts";
import { planTokens } from "./trained-token.ts";

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

/** A config of any method. */
export type AnyAdapterConfig = { readonly method: AnyMethod; readonly config: AnyConfig };

const isConfig = (adapter: unknown): adapter is AnyAdapterConfig =>
  typeof adapter === "object" && adapter !== null && "method" in adapter && "config" in adapter;

/**
 * Everything that can be wrong with an adapter is found here, before the model is touched.
 * @param kept what the method's `keptInFile` has found, when the adapter comes from a file
 */
export function planAttach(
  model: Module,
  adapter: AnyAdapterConfig,
  name = defaultAdapterName,
  kept?: KeptInFile | undefined,
): AttachPlan {
  requireModule("attach", model);
  if (!isConfig(adapter))
    throw new ConfigError(`the adapter is ${wordType(adapter)}, not the config of a method.`, {
      operation: "attach",
      got: adapter,
      hint: "Call a method: lora({ r: 8 }).",
    });
  const replication = newReplication(model, adapter.config["layerReplication"], adaptersOf(model)?.replication ?? null);
  if (!replication) return planOn(model, adapter, name, kept);
  replication.apply();
  try {
    return { ...planOn(model, adapter, name, kept), replication };
  } finally {
    replication.restore();
  }
}

/** The plan for a model whose layers are those that the adapter wants. */
function planOn(model: Module, { method, config: given }: AnyAdapterConfig, name: string, kept?: KeptInFile): AttachPlan {
  checkAdapterName(name, method.schema, "attach");
  const adapted = adaptersOf(model);
  if (adapted) refuseBusy(adapted, name);
  const modelType = modelTypeOf(model);
  const modules = baseModules(model);
  const outputPath = wordLayer(modules);
  const linear = () => allLinear({ modules, modelType, outputPath }, (given["taskType"] ?? null) as string | null);
  const wanted = withExperts(given, method, modules, modelType, linear);
  const completed: AnyConfig = method.complete?.(wanted, modelType) ?? wanted;
  const tying = "ensureWeightTying" in completed ? tieWeights(completed, modules) : undefined;
  const options = tying?.config ?? completed;
  const config = withTaskHeads(method.prompt ? fillPromptConfig(model, options, method.prompt) : options, modules);
  const embedding = inputEmbedding(modules);
  const others = modulesToSave((config["modulesToSave"] as readonly string[] | null) ?? [], modules);
  for (const path of tying?.saved ?? []) others.set(path, modules.get(path) as Module);
  const trainsWhole = method.whole !== undefined;
  const parameters = targetedParameters((config["targetParameters"] ?? []) as readonly string[], modules, [...others.keys()]);
  const chosen = (): Targets => {
    if (method.prompt) return { paths: [], targetModules: [], warnings: [] };
    if (method.choose) return chosenBy(method, config, modules);
    const kinds = (Object.keys(method.layers) as LayerKind[]).filter((kind) => kind !== "parameter");
    const known = { modules, modelType, outputPath, saved: others, others: parameters.length > 0 };
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
  if (adapted) refuseMixedKasa(adapted, config, name);
  if (adapted) refuseOverlap(adapted, [...ofModules, ...parameters.map(({ path }) => modulePath(path))], [...saved.keys()]);
  const companion = method.companion?.(model, config);
  const patterns = new Patterns(method, config);
  const placeOf = (path: string): LayerPlace => {
    const module = modules.get(path) as Module;
    return { path, module, facts: kindOf(module) as KindOfLayer };
  };
  const bases = () => paths.map((path) => baseAt(placeOf(path)));
  const own = method.perLayer?.(bases(), { ...config, targetModules: targets.targetModules }, kept) ?? [];
  const layers = [
    ...paths.map((path, i) => planLayer(placeOf(path), method.layers, { ...patterns.at(path), ...kept?.get(path), ...own[i] })),
    ...tied.map((path) => planLayer(placeOf(path), method.tied!.layers, patterns.at(embedding!.path), embedding!.path)),
    ...parameters.map((place) => planLayer(place, method.layers, patterns.at(place.parameterPath))),
    ...tokens.map(({ path, tokenIndices, tied: of }) => {
      const methods = of === undefined ? trainedTokens.embeddings : trainedTokens.tied;
      return planLayer(placeOf(path), methods, { tokenIndices, initWeights: true }, of);
    }),
  ];
  return {
    method,
    config: {
      ...config,
      ...(method.prompt ? {} : { targetModules: targets.targetModules }),
      ...orientation(method, config, layers.slice(0, layers.length - tokens.length)),
    },
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

/** Where a layer stands, and what is known of its kind. */
interface LayerPlace {
  readonly path: string;
  readonly module: Module;
  readonly facts: KindOfLayer;
}

const baseAt = ({ path, module, facts }: LayerPlace): Base => describe(module as Layer, facts, path);

/** @param tied path of the layer whose parameters it uses */
function planLayer(place: LayerPlace, methods: AnyMethod["layers"], config: AnyConfig, tied?: string): PlannedLayer {
  const { path, module, facts } = place;
  const base = baseAt(place);
  const method = methods[facts.kind] as AnyLayerMethod;
  const specs = method.parameters(base, config);
  return { path, facts, module: module as Layer, method, base, config, specs, ...(tied === undefined ? {} : { tied }) };
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

/** `fanInFanOut` is what the layers are, whatever the caller said: PEFT, too, corrects it, and the last target decides. */
function orientation(method: AnyMethod, config: AnyConfig, targets: readonly PlannedLayer[]): { fanInFanOut?: boolean } {
  const last = targets.findLast(({ facts }) => facts.kind === "linear");
  return last && !method.leavesOrientation && "fanInFanOut" in config ? { fanInFanOut: last.facts.fanInFanOut ?? false } : {};
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

/** @throws {ConfigError} when no further adapter of this name can come to a model with adapters as it is now */
function refuseBusy(adapted: Adapted, name: string): void {
  if (adapted.adapters.has(name))
    throw new ConfigError(`this model has an adapter "${name}" already.`, {
      operation: "attach",
      got: name,
      hint: "Give another `name`, or take it off with deleteAdapter.",
    });
  if (adapted.router)
    throw new ConfigError(`${adapted.router.word} mixes the adapters of this model, so no other adapter can join them.`, {
      operation: "attach",
      got: name,
      hint: "Call setActive first, which ends the mixture.",
    });
  if ([...adapted.layers.values()].some((layer) => layer.merged.length > 0))
    throw new ConfigError("adapters are merged into this model's weights.", { operation: "attach", hint: "Call unmerge first." });
}

/** KaSA changes the weights under all adapters. @throws {ConfigError} when some of them want that and others do not */
function refuseMixedKasa(adapted: Adapted, config: AnyConfig, name: string): void {
  const isKasa = (of: AnyConfig) => (of["kasaConfig"] ?? null) !== null;
  const mixed = [...adapted.adapters.values()].find((other) => isKasa(other.config) !== isKasa(config));
  if (mixed)
    throw new ConfigError(
      `KaSA takes a part of the weights away, which the adapter "${mixed.name}" and this one cannot both want.`,
      {
        operation: "attach",
        got: name,
        hint: "On one model all adapters have `kasaConfig`, or none.",
      },
    );
}

/** The layers that the method itself changes, not an option that goes along with it. */
export const basesOf = ({ layers: own }: AnyMethod, layers: readonly PlannedLayer[]): Base[] =>
  layers.filter(({ method }) => Object.values(own).includes(method)).map(({ base }) => base);

/** The model type that the model's config.json names. */
function modelTypeOf(model: Module): string | undefined {
  const type = (model as { readonly config?: { readonly modelType?: unknown } }).config?.modelType;
  return typeof type === "string" ? type : undefined;
}
