/** Putting adapters on a model: target layers are replaced in place by an `AdapterLayer` each. */
import { upload } from "../compile/program.ts";
import type { Device } from "../devices/device.ts";
import { ConfigError, checkOptions } from "../errors.ts";
import { type ConfigSchema, defaultAdapterName } from "../formats/peft-adapter.ts";
import type { TypedArray } from "../graph/dtype.ts";
import { cast, copy } from "../graph/elementwise.ts";
import { Tensor } from "../graph/node.ts";
import { showAs } from "../graph/shown-as.ts";
import { structure } from "../graph/variable.ts";
import { readsText } from "../models/causal-lm.ts";
import { answersText } from "../models/seq2seq-lm.ts";
import { type Layer, type Module, Parameter } from "../nn/module.ts";
import { TorchGenerator } from "../random/torch-generator.ts";
import { Generator } from "../tensor/random.ts";
import { type Adapted, type Adapter, adaptersOf, beginAdapters, choose } from "./adapted-model.ts";
import { AdapterLayer } from "./adapter-layer.ts";
import { type AttachPlan, basesOf, type PlannedLayer, planAttach } from "./attach-plan.ts";
import type { AdapterConfig, ParameterSpec, Start } from "./method.ts";
import { wordConfig } from "./method-config.ts";
import { textModel } from "./prompt/prompt-method.ts";
import { type PromptStart, planPrompt, type StartSources, startPrompt } from "./prompt/prompt-start.ts";
import { PromptPlace } from "./prompt/prompted-model.ts";
import { SavedModule } from "./saved-module.ts";
import { LayerScale } from "./scale.ts";
import { modulePath } from "./target-parameter.ts";

/** What the adapter is called and how it starts. */
export interface AttachOptions extends StartSources {
  /** By which it is called later; also the folder's name when it is saved. */
  readonly name?: string;
  /** Of the first values and of dropout. */
  readonly seed?: number;
  /** Whether training may change it; true when absent. */
  readonly trainable?: boolean;
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
  checkOptions("attach", options, {
    name: "a string",
    seed: "a whole number from 0",
    trainable: "true or false",
    tokenizer: "an object",
    sourceTasks: "an object",
  });
  const plan = planAttach(model, adapter, options.name);
  const random = new TorchGenerator(options.seed ?? 0);
  return install(model, plan, options, {
    shared: () => initialiseShared(plan, random),
    layer({ method, base, config, specs }, shared) {
      const start = method.initialise(base, config, random, adapter.calibration, shared);
      const missing = Object.keys(specs).some((key) => !(key in start.values));
      return missing ? { ...start, values: { ...start.values, ...method.derive?.(base, config, shared) } } : start;
    },
    prompt: () => startPrompt(model, plan, random, options),
  });
}

/** First values of what the layers share, as the method draws them. */
export function initialiseShared({ method, config, layers, companion }: AttachPlan, random: TorchGenerator): Start["values"] {
  return { ...method.shared?.initialise(basesOf(method, layers), config, random), ...companion?.draw(random) };
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
  const own = ownParameters(starting);
  const made = plan.layers.map((layer) => ({
    layer,
    parameters: own.get(layer.tied ?? layer.path) as Record<string, Parameter>,
    weight: starting.find((each) => each.layer === layer)?.start.weight,
    underlay: layer.method.underlay?.(layer.base, layer.config),
  }));
  const residual = made.some(({ weight }) => weight !== undefined) || (starts.base?.size ?? 0) > 0;
  if (residual) refuseSecondResidual(before, name);
  const wholeValue = (path: string, parameter: Parameter) =>
    cast(starts.whole?.(path) ?? copy(parameter.stored), parameter.dtype);
  const copies = savedCopies(plan, wholeValue);
  const prompt = planPrompt(model, plan, starts.prompt);
  const watchesText = readsTexts(model, plan, name);
  const random = new Generator(seed);
  const ofAll = { shared, sharedFiles: method.shared?.files ?? {}, companion: plan.companion?.build(shared), trainable, random };
  const adapted = before ?? beginAdapters(model);
  plan.replication?.apply();
  adapted.replication ??= plan.replication ?? null;
  for (const { layer, parameters, weight, underlay } of made) {
    const place = adapted.layers.get(layer.path) ?? wrap(model, adapted, layer);
    const { method: of, config: layerConfig, tied } = layer;
    const scale = new LayerScale();
    place.add(name, { ...ofAll, method: of, config: layerConfig, parameters, tied: tied !== undefined, scale });
    for (const [parameter, next] of underlay ? place.valuesFor(underlay) : []) adapted.untrained.change(parameter, next);
    for (const [parameter, next] of weight ? place.valuesFor(weight) : []) adapted.whole.change(parameter, next);
  }
  for (const [parameter, value] of starts.base ?? []) adapted.whole.change(parameter, value);
  for (const [path, module] of plan.saved)
    savedPlace(model, adapted, path, module).add(name, copies.get(path) as Map<string, Parameter>);
  if (prompt || watchesText) adapted.prompts ??= new PromptPlace(textModel(model, "attach"), adapted);
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
  showAs(adapter, wordAdapter);
  adapted.adapters.set(name, adapter);
  choose(adapted, adapted.adapters.size === 1 ? [name] : adapted.active);
  return adapter;
}

/** @throws {ConfigError} when another adapter has started from the weights, so that they are not whole */
function refuseSecondResidual(before: Adapted | undefined, name: string): void {
  const taken = [...(before?.adapters.values() ?? [])].find((other) => other.residual);
  if (taken)
    throw new ConfigError(`the start of adapter "${taken.name}" has taken a part of the weights away already.`, {
      operation: "attach",
      got: name,
      hint: "Only one adapter of a model may start from its weights.",
    });
}

/** Parameters of layers, by path; some are those of a layer before. */
function ownParameters(
  starting: readonly { readonly layer: PlannedLayer; readonly start: Start }[],
): Map<string, Record<string, Parameter>> {
  const own = new Map<string, Record<string, Parameter>>();
  for (const { layer, start } of starting) {
    const borrowed = Object.entries(layer.specs).flatMap(([key, { of }]) => {
      const other = of === undefined ? undefined : own.get(of)?.[key];
      return other ? [[key, other] as const] : [];
    });
    own.set(layer.path, { ...makeParameters(layer.specs, start.values, layer), ...Object.fromEntries(borrowed) });
  }
  return own;
}

/** Copies of modules that are trained as a whole, by path and name; tied weights stay one. */
function savedCopies(
  { saved, tiedSaved }: AttachPlan,
  valueAt: (path: string, parameter: Parameter) => Tensor,
): Map<string, Map<string, Parameter>> {
  const copies = new Map<string, Map<string, Parameter>>();
  for (const [path, module] of [...saved].sort(([a], [b]) => Number(tiedSaved.has(a)) - Number(tiedSaved.has(b)))) {
    const tied = copies.get(tiedSaved.get(path) ?? "")?.get("weight");
    const copyOf = (name: string, parameter: Parameter) =>
      name === "weight" && tied ? tied : new Parameter(valueAt(`${path}.${name}`, parameter), { requiresGrad: false });
    copies.set(path, new Map([...module.namedParameters()].map(([name, each]) => [name, copyOf(name, each)])));
  }
  return copies;
}

/** Whether a layer looks at the text that the model reads. @throws {ConfigError} for one that looks for words in a model that answers */
function readsTexts(model: Module, { layers, method }: AttachPlan, name: string): boolean {
  const reads = readsText(model) ? layers.map(({ method: of }) => of.readsText) : [];
  if (reads.includes("words") && answersText(model))
    throw new ConfigError(`${method.peftType} with \`aloraInvocationTokens\` is for causal language models.`, {
      operation: "attach",
      got: name,
    });
  return reads.some((what) => what !== undefined);
}

/** What stands at the place of a module that is trained as a whole, with the module's copies. */
function savedPlace(model: Module, adapted: Adapted, path: string, module: Module): SavedModule {
  const there = adapted.saved.get(path);
  if (there) return there;
  const place = new SavedModule(module, path, adapted);
  model.replaceModule(path, place);
  adapted.saved.set(path, place);
  return place;
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

/** `Adapter "default": LORA { r: 8 }, 4 layers, 8192 values`. */
function wordAdapter({ name, method, config, layers, shared, isPrompt, saved, biases, trainable }: Adapter): string {
  const own = [...layers.values()].flatMap((layer) => Object.values(layer.adapters.get(name)?.parameters ?? {}));
  const whole = [...saved.values()].flatMap(({ copies }) => [...(copies.get(name)?.values() ?? [])]);
  const all = new Set([...own, ...whole, ...Object.values(shared), ...biases.values()]);
  const parts = [
    wordConfig(method.schema, config),
    ...(isPrompt ? ["virtual tokens"] : [`${layers.size} layers`]),
    ...(saved.size > 0 ? [`${[...saved.keys()].join(", ")} of its own`] : []),
    ...(all.size > 0 ? [`${[...all].reduce((sum, { size }) => sum + size, 0)} values`] : []),
    ...(trainable ? [] : ["not trained"]),
  ];
  return `Adapter "${name}": ${parts.join(", ")}`;
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
