/**
 * The adapters that are on a model: looked up, made active, scaled, renamed, taken off again. Taking them off puts the
 * very same modules back; see attach.ts for how they come.
 */
import type { Device } from "../devices/device.ts";
import { ConfigError, checkOptions, nearestName, requireKind, wordType } from "../errors.ts";
import { checkAdapterName } from "../formats/peft-adapter.ts";
import { isObserved, Setting, structure } from "../graph/variable.ts";
import { type Module, type Parameter, requireModule } from "../nn/module.ts";
import type { Generator } from "../tensor/random.ts";
import { type AdapterLayer, type LayerAdapter, renamed, renameKey } from "./adapter-layer.ts";
import { KeptWeights } from "./kept-weight.ts";
import type { Replication } from "./layer-replication.ts";
import type { AnyMethod, ParameterSpec, Start } from "./method.ts";
import type { AnyConfig } from "./method-config.ts";
import type { PromptPlace } from "./prompt/prompted-model.ts";
import type { Scope } from "./row-groups.ts";
import type { SavedModule } from "./saved-module.ts";
import { StandIn } from "./stand-in.ts";

/** An adapter on a model. */
export interface Adapter {
  /** `renameAdapter` gives it another one. */
  name: string;
  readonly method: AnyMethod;
  /** With defaults, "all-linear" and the like written out, as it is saved; a schedule may write into it what it has chosen. */
  config: AnyConfig;
  /** Its layers by path. */
  readonly layers: ReadonlyMap<string, AdapterLayer>;
  /** Parameters that its layers share. */
  readonly shared: Readonly<Record<string, Parameter>>;
  readonly sharedSpecs: Readonly<Record<string, ParameterSpec>>;
  /** Whether it puts virtual tokens in front of texts. */
  readonly isPrompt: boolean;
  /** Modules of which it has parameters of its own (`modulesToSave`), by path. */
  readonly saved: ReadonlyMap<string, SavedModule>;
  /** Biases of the model that are trained in place (`bias`), by path. */
  readonly biases: ReadonlyMap<string, Parameter>;
  /** Whether training reaches it while it is active. */
  readonly trainable: boolean;
  /** Of its dropout; the state goes into a checkpoint of training. */
  readonly random: Generator;
  /** Whether its start has taken a part of the weights away. */
  readonly residual: boolean;
  /** What that is, by path of the layer: first values of its parameters. */
  readonly taken: ReadonlyMap<string, Start["values"]>;
  /** What is odd but no error: patterns or targets that match nothing. */
  readonly warnings: readonly string[];
}

/** What a model with adapters remembers. */
export interface Adapted extends Scope {
  readonly adapters: Map<string, Adapter>;
  readonly layers: Map<string, AdapterLayer>;
  /** Modules of which some adapter has parameters of its own, by path. */
  readonly saved: Map<string, SavedModule>;
  /** Where virtual tokens come into the model and its texts are seen, if an adapter has some or looks at them. */
  prompts: PromptPlace | null;
  /** Names of the adapters that act. */
  active: readonly string[];
  /** Weights of which the start of an adapter has taken a part away, before that. */
  readonly whole: KeptWeights;
  /** Weights into which adapters are merged, before that. */
  readonly unmerged: KeptWeights;
  /** Biases that an adapter trains in place, before that. */
  readonly untrained: KeptWeights;
  /** Which parameters could be trained before the first adapter came. */
  readonly trainable: ReadonlyMap<Parameter, boolean>;
  /** The layers that an adapter has put together anew (`layerReplication`), for as long as there are adapters. */
  replication: Replication | null;
}

const models = new WeakMap<Module, Adapted>();

/** What is remembered of a model, if it has adapters. */
export const adaptersOf = (model: Module): Adapted | undefined => models.get(model);

/** Freezes a model that has no adapter yet. */
export function beginAdapters(model: Module): Adapted {
  const trainable = new Map(model.parameters().map((parameter) => [parameter, parameter.requiresGrad]));
  for (const parameter of trainable.keys()) parameter.requiresGrad = false;
  const adapted: Adapted = {
    adapters: new Map(),
    layers: new Map(),
    saved: new Map(),
    prompts: null,
    active: [],
    off: new Setting(false),
    rows: new Setting<readonly string[] | null>(null),
    tasks: new Setting<readonly number[] | null>(null),
    router: null,
    reading: null,
    whole: new KeptWeights(),
    unmerged: new KeptWeights(),
    untrained: new KeptWeights(),
    trainable,
    replication: null,
  };
  models.set(model, adapted);
  return adapted;
}

/** Every module with its path in the unmodified model. */
export function baseModules(model: Module): Map<string, Module> {
  requireModule("baseStateDict", model);
  const found = new Map<string, Module>();
  const adapted = models.get(model);
  const layers = new Set<Module>(adapted?.layers.values());
  const saved = new Set<Module>(adapted?.saved.values());
  const visit = (path: string, at: Module): void => {
    let module = saved.has(at) ? (at as SavedModule).original_module : at;
    while (layers.has(module)) module = (module as AdapterLayer).base_layer; // of parameters of one module, one is around the other
    found.set(path, module);
    for (const [name, child] of module.children())
      if (!(child instanceof StandIn)) visit(path === "" ? name : `${path}.${name}`, child);
  };
  visit("", model);
  return found;
}

/** The adapters of a model. @throws {ConfigError} when it has none */
export function adaptedModel(model: Module, operation: string): Adapted {
  const adapted = models.get(model);
  if (!adapted) requireModule(operation, model);
  if (!adapted)
    throw new ConfigError("this model has no adapter.", { operation, hint: "Put one on with attach or loadAdapter." });
  return adapted;
}

/** The adapter of this name. @throws {ConfigError} naming the nearest when there is none */
export function getAdapter(model: Module, name: string, operation = "getAdapter"): Adapter {
  requireKind("getAdapter", "a string", { operation });
  const { adapters } = adaptedModel(model, operation);
  const found = adapters.get(name);
  if (found) return found;
  const near = typeof name === "string" ? nearestName(name, adapters.keys()) : undefined;
  throw new ConfigError(`there is no adapter "${name}"; this model has: ${[...adapters.keys()].join(", ")}.`, {
    operation,
    got: name,
    ...(near === undefined ? {} : { hint: `Did you mean "${near}"?` }),
  });
}

/** One name, or a list of them, as a list. @throws {ConfigError} for anything else, such as options in the place of names */
export function nameList(operation: string, names: string | readonly string[]): readonly string[] {
  if (typeof names === "string") return [names];
  if (Array.isArray(names)) return names;
  const hint = "Write a name or a list of names; undefined means the active ones, where that is allowed.";
  throw new ConfigError(`names of adapters are strings, got ${wordType(names)}.`, { operation, got: names, hint });
}

/** Names of the adapters on a model, in the order in which they came. */
export const adapterNames = (model: Module): string[] => [...(models.get(model)?.adapters.keys() ?? [])];
/** Names of those that act. */
export const activeAdapters = (model: Module): readonly string[] => models.get(model)?.active ?? [];

/**
 * Makes these adapters the ones that act, in this order; their shares add up. Training reaches them and no others.
 * A merged adapter is taken out of the weights first; a mixture of adapters (Arrow, X-LoRA) ends.
 *
 * @throws {ConfigError} when there is no such adapter, or two of them have parameters of their own for the same module
 */
export function setActive(model: Module, names: string | readonly string[]): void {
  const list = [...new Set(nameList("setActive", names))];
  for (const name of list) getAdapter(model, name, "setActive");
  const adapted = adaptedModel(model, "setActive");
  for (const [path, { copies }] of adapted.saved)
    refuseTwo(
      "setActive",
      path,
      list.filter((name) => copies.has(name)),
    );
  refuseTwo(
    "setActive",
    "prompt",
    list.filter((name) => adapted.prompts?.adapters.has(name)),
  );
  unmerge(model);
  endRouting(adapted);
  choose(adapted, list);
}

/** Adapters that were mixed act on their own again. */
function endRouting(adapted: Adapted): void {
  if (!adapted.router) return;
  adapted.router.end?.();
  adapted.router = null;
  structure.value = structure.stored + 1;
}

/** @throws {ConfigError} when something mixes one of these adapters */
export function refuseRouted({ router }: Scope, operation: string, names: readonly string[]): void {
  const name = router && names.find((each) => router.names.includes(each));
  if (name)
    throw new ConfigError(`the adapter "${name}" is one of those that ${router.word} mixes.`, {
      operation,
      got: name,
      hint: "Call setActive first, which ends the mixture.",
    });
}

/** @throws {ConfigError} when several adapters would stand in for one module, whose parameters do not add up */
export function refuseTwo(operation: string, path: string, names: readonly string[]): void {
  if (names.length < 2) return;
  throw new ConfigError(`the adapters ${names.map((name) => `"${name}"`).join(" and ")} all have a ${path} of their own.`, {
    operation,
    got: names,
    hint: "Choose one of them.",
  });
}

/** Makes these adapters act in all layers. */
export function choose(adapted: Adapted, names: readonly string[]): void {
  adapted.active = names;
  for (const layer of adapted.layers.values()) layer.activate(names);
  adapted.prompts?.activate(names);
  for (const module of adapted.saved.values()) module.active = names.find((name) => module.copies.has(name)) ?? null;
  for (const { name, shared, sharedSpecs, saved, biases, trainable } of adapted.adapters.values()) {
    const trained = trainable && names.includes(name);
    for (const [key, parameter] of Object.entries(shared))
      parameter.requiresGrad = trained && sharedSpecs[key]?.trainable !== false;
    const whole = [...saved.values()].flatMap(({ copies }) => [...(copies.get(name)?.values() ?? [])]);
    for (const parameter of [...whole, ...biases.values()]) parameter.requiresGrad = trained;
  }
}

/**
 * Multiplies an adapter's share (that of each active one when no name is given) by `scale`, everywhere or in the layers that
 * `where` picks; 1 is as trained, 0 is off (but for the magnitudes of DoRA, as in PEFT). Merged adapters are taken out of the
 * weights first.
 *
 * The first call for an adapter makes its scale a value that compiled programs read whenever they run. They are compiled once more
 * after it and not again, whatever the next values are: a slider may set it while a text is generated.
 *
 * @throws {ConfigError} when `scale` is not finite in float32, the adapter is one of virtual tokens, or in a function being traced
 */
export function setScale(
  model: Module,
  scale: number,
  options: { readonly name?: string; readonly where?: (path: string) => boolean } = {},
): void {
  const { name, where } = checkOptions("setScale", options, { name: "a string", where: "a function" });
  const operation = "setScale";
  requireKind(operation, "a number", { scale });
  if (!Number.isFinite(Math.fround(scale)))
    throw new ConfigError(`\`scale\` (= ${scale}) must be a number that float32 can hold.`, { operation, got: scale });
  if (isObserved())
    throw new ConfigError("inside a compiled function it would be set once only, while tracing.", {
      operation,
      hint: "Call it before the compiled function.",
    });
  const { active } = adaptedModel(model, operation);
  const adapters = (name === undefined ? active : [name]).map((each) => getAdapter(model, each, operation));
  for (const { name: each, isPrompt } of adapters)
    if (isPrompt)
      throw new ConfigError(`virtual tokens, which the adapter "${each}" puts in front, have no scale.`, {
        operation,
        got: each,
        hint: "Use disabled to run the model without them.",
      });
  unmerge(model);
  for (const adapter of adapters)
    for (const [path, layer] of adapter.layers) {
      const own = (layer.adapters.get(adapter.name) as LayerAdapter).scale;
      // all of them at the first call: layers that are picked later are no reason to compile again
      own.set(!where || where(path) ? scale : own.stored, layer.weight.stored.storage!.device as Device);
    }
}

/**
 * Gives an adapter another name, in its place among the others, active and merged as it is. Handles of it stay good.
 *
 * @throws {ConfigError} when there is no such adapter, or the other name is taken or no adapter's name
 */
export function renameAdapter(model: Module, name: string, next: string): void {
  const operation = "renameAdapter";
  const adapter = getAdapter(model, name, operation);
  const adapted = adaptedModel(model, operation);
  checkAdapterName(next, adapter.method.schema, operation);
  if (next === name) return;
  refuseRouted(adapted, operation, [name]);
  if (adapted.adapters.has(next))
    throw new ConfigError(`this model has an adapter "${next}" already.`, {
      operation,
      got: next,
      hint: "Choose another name, or take it off with deleteAdapter.",
    });
  renameKey(adapted.adapters, name, next);
  // in every layer: lists of active ones name adapters that are in other layers only
  for (const place of [...adapted.layers.values(), ...adapter.saved.values()]) place.rename(name, next);
  adapted.prompts?.rename(name, next);
  adapted.active = renamed(adapted.active, name, next);
  adapter.name = next;
  structure.value = structure.stored + 1;
}

/**
 * Takes one adapter off for good. If it was the only active one, as in PEFT every layer activates the first by name of those that it has,
 * and the first layer that has one says which the model's active one is, whose whole modules act; of virtual tokens the oldest ones follow.
 * If it was the last, the model is as it was before.
 */
export function deleteAdapter(model: Module, name: string): void {
  const { layers, residual, saved, biases, isPrompt } = getAdapter(model, name, "deleteAdapter");
  const adapted = adaptedModel(model, "deleteAdapter");
  for (const { merged } of [...layers.values(), ...saved.values()])
    if (merged === name || (Array.isArray(merged) && merged.includes(name)))
      throw new ConfigError(`the adapter "${name}" is merged.`, {
        operation: "deleteAdapter",
        got: name,
        hint: "Call unmerge first.",
      });
  refuseRouted(adapted, "deleteAdapter", [name]);
  if (adapted.adapters.size === 1) {
    detach(model);
    return;
  }
  adapted.adapters.delete(name);
  if (residual || biases.size > 0) unmerge(model);
  if (residual) adapted.whole.restore();
  adapted.untrained.restore(biases.values());
  for (const bias of biases.values()) bias.requiresGrad = false;
  if (isPrompt) adapted.prompts?.remove(name);
  for (const [path, module] of saved) {
    module.remove(name);
    if (module.copies.size > 0) continue;
    model.replaceModule(path, module.original_module);
    adapted.saved.delete(path);
  }
  for (const [path, layer] of layers) {
    layer.remove(name);
    if (layer.adapters.size > 0) continue;
    model.replaceModule(path, layer.base_layer);
    adapted.layers.delete(path);
  }
  const readsText = [...adapted.layers.values()].some((layer) => layer.readsText);
  if (adapted.prompts?.adapters.size === 0 && !readsText) takeOffPrompts(adapted);
  const left = adapted.active.filter((each) => each !== name);
  if (left.length > 0) {
    choose(adapted, left);
    return;
  }
  const first = (layer: AdapterLayer) => [...layer.adapters.keys()].sort().slice(0, 1);
  // in the model's order, which is not that in which adapters have come to layers
  const ordered = [...baseModules(model).keys()].flatMap((path) => adapted.layers.get(path) ?? []);
  const [leading] = [...ordered, ...adapted.layers.values()];
  choose(adapted, leading ? first(leading) : [...adapted.adapters.keys()].slice(0, 1));
  for (const layer of adapted.layers.values()) layer.activate(first(layer));
}

/** Takes all merged adapters out of the weights: bit for bit what was there before. */
export function unmerge(model: Module): void {
  const { layers, saved, unmerged } = adaptedModel(model, "unmerge");
  unmerged.restore();
  for (const layer of layers.values()) layer.merged = [];
  for (const module of saved.values()) module.merged = null;
}

/** Takes all adapters off: the same modules, weights and trainable flags as before the first came. */
export function detach(model: Module): void {
  const adapted = adaptedModel(model, "detach");
  unmerge(model);
  adapted.whole.restore();
  adapted.untrained.restore();
  release(model, adapted);
}

function takeOffPrompts(adapted: Adapted): void {
  adapted.prompts?.takeOff();
  adapted.prompts = null;
}

/** Puts the original modules back, with the weights that they have now. */
export function release(model: Module, adapted: Adapted): void {
  const { layers, saved, trainable, replication } = adapted;
  takeOffPrompts(adapted);
  endRouting(adapted);
  for (const [path, layer] of layers) model.replaceModule(path, layer.base_layer);
  for (const [parameter, flag] of trainable) parameter.requiresGrad = flag;
  for (const [path, module] of saved) {
    model.replaceModule(path, module.original_module);
    if (module.merged === null) continue;
    for (const [own, standIn] of module.standIns(module.merged)) standIn.requiresGrad = trainable.get(own) ?? false;
  }
  replication?.restore();
  models.delete(model);
}
