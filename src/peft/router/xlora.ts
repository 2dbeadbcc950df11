/**
 * X-LoRA: a mixture of LoRA experts by a small network that is trained. The model reads a text once on its own; from its last state h of each
 * token the network makes shares w = softmax(network(h) / τ) of the experts, of all layers alike or of each its own; then the model reads
 * the text again with y = W·x + g·Σₑ wₑ·sₑ·Bₑ·Aₑ·x. The experts are frozen unless `useTrainableAdapters`. With `topKLora` only the largest k
 * shares stay, which `enableSoftmaxTopk` makes add up to 1 again. With one expert and the softmax it is that LoRA.
 *
 * The file holds the network; the experts lie in folders beside it, called 0, 1, …. The first pass writes keys and values of its own into a
 * cache beside that of the second, so that text is continued token by token, which PEFT cannot.
 *
 * @see https://arxiv.org/abs/2402.07148
 */
import { currentDevice, download, upload } from "../../compile/program.ts";
import { ConfigError, FormatError, ShapeError, wordShape } from "../../errors.ts";
import type { ModelSource } from "../../formats/model-source.ts";
import {
  boolean,
  type ConfigSchema,
  configSchema,
  type FileConfig,
  float,
  integer,
  key,
  object,
  readAdapter,
  writeAdapter,
} from "../../formats/peft-adapter.ts";
import type { TensorToWrite } from "../../formats/safetensors.ts";
import type { FolderTarget } from "../../formats/writable-folder.ts";
import { toFloat32 } from "../../graph/dtype.ts";
import { add, cast, equal, max, mul, where } from "../../graph/elementwise.ts";
import { expand, reshape, sliceAxis, stopGradient } from "../../graph/movement.ts";
import type { Tensor } from "../../graph/node.ts";
import { reduceMax } from "../../graph/reduction.ts";
import { sameShape } from "../../graph/shape.ts";
import { constant, iota } from "../../graph/source.ts";
import type { CacheSizes } from "../../models/cache.ts";
import type { CausalLM, CausalLMInputs, CausalLMOutput } from "../../models/causal-lm.ts";
import { type Module, Parameter } from "../../nn/module.ts";
import { TorchGenerator } from "../../random/torch-generator.ts";
import { topk } from "../../tensor/pick.ts";
import { dropout, Generator as KeyGenerator } from "../../tensor/random.ts";
import { softmax } from "../../tensor/statistics.ts";
import { type Adapted, adaptedModel, adaptersOf, baseModules, getAdapter } from "../adapted-model.ts";
import { type LoadOptions, saveAdapter } from "../adapter-file.ts";
import { defineMethod } from "../method.ts";
import { type MethodConfig, toCamel, toFileConfig } from "../method-config.ts";
import { drawLinear } from "../prompt/linear-start.ts";
import { StandIn } from "../stand-in.ts";
import { through, times } from "../weight-change.ts";
import { type ExpertSource, installExperts, readExperts, refuseAdapted } from "./expert.ts";
import { mixtures } from "./mixtures.ts";
import type { Router } from "./router.ts";

const schema = configSchema("XLORA", "xlora_", {
  hidden_size: key(null, integer(1)),
  adapters: key(null, object()),
  enable_softmax: key(true, boolean),
  enable_softmax_topk: key(false, boolean),
  layerwise_scalings: key(false, boolean),
  xlora_depth: key(1, integer(1)),
  xlora_size: key(2048, integer(1)),
  xlora_dropout_p: key(0.2, float(0, 1)),
  use_trainable_adapters: key(false, boolean),
  softmax_temperature: key(1, float()),
  top_k_lora: key(null, integer(1)),
  scaling_pass_value: key(0, float()),
  global_scaling_weight: key(1, float()),
});
/** PEFT's options in camelCase, with its defaults; `hiddenSize` is the model's. */
export type XloraConfig = MethodConfig<typeof schema>;

/** Checks options as those of a method are checked. */
const configured = defineMethod({
  schema,
  ...mixtures.createXlora,
  keys: Object.keys(toCamel(Object.fromEntries(Object.keys(schema.keys).map((name) => [name, 0])))) as (keyof XloraConfig &
    string)[],
  check({ enableSoftmaxTopk, topKLora, softmaxTemperature }) {
    const operation = "xlora";
    if (enableSoftmaxTopk && topKLora === null)
      throw new ConfigError("`enableSoftmaxTopk` is for the largest shares, of which `topKLora` says how many.", {
        operation,
        got: topKLora,
      });
    if (!(softmaxTemperature > 0))
      throw new ConfigError(`\`softmaxTemperature\` (= ${softmaxTemperature}) must be above 0.`, {
        operation,
        got: softmaxTemperature,
      });
  },
  layers: {},
  samples: () => null,
});

const place = "internal_xlora_classifier";

/** The linear layers of the network: their numbers in PEFT, among ReLU and dropout, and what goes in and comes out. */
function linears(config: XloraConfig, outputs: number): [at: number, into: number, out: number][] {
  const { hiddenSize, xloraDepth: depth, xloraSize: size, xloraDropoutP: p } = config;
  return Array.from({ length: depth }, (_, i) => [
    i * (p > 0 ? 3 : 2),
    i === 0 ? (hiddenSize as number) : size,
    i === depth - 1 ? outputs : size,
  ]);
}

type Inputs = CausalLMInputs;

/** The network on the model, and the two passes. Its parameters are `internal_xlora_classifier.layers.0.weight` and so on. */
class XloraPlace extends StandIn implements Router {
  readonly word = "X-LoRA";
  readonly names: readonly string[];
  readonly config: XloraConfig;
  /** Paths of the layers that experts change, in the model's order. */
  readonly #paths: readonly string[];
  readonly own: ReadonlyMap<string, Parameter>;
  readonly #random: KeyGenerator;
  readonly #off: Adapted["off"];
  readonly #forwards: (inputs: Inputs) => CausalLMOutput;
  readonly #sizes: CacheSizes;
  /** [B, T, layers or 1, experts] while the second pass runs. */
  #shares: Tensor | null = null;
  rests = false;

  constructor(
    model: CausalLM,
    adapted: Adapted,
    config: XloraConfig,
    {
      names,
      paths,
      parameters,
      seed,
    }: {
      readonly names: readonly string[];
      readonly paths: readonly string[];
      readonly parameters: ReadonlyMap<string, Parameter>;
      readonly seed: number;
    },
  ) {
    super(model, place);
    this.names = names;
    this.config = config;
    this.own = parameters;
    this.#paths = paths;
    this.#random = new KeyGenerator(seed);
    this.#off = adapted.off;
    this.#forwards = model.forward.bind(model);
    this.#sizes = model.backbone.sizes;
    this.stand("forward", { value: (inputs: Inputs) => this.#forward(inputs) });
  }

  override *ownParameters(): Generator<[name: string, parameter: Parameter]> {
    yield* this.own;
  }

  end(): void {
    this.takeOff();
  }

  #forward(inputs: Inputs): CausalLMOutput {
    if (this.#off.value) return this.#forwards(inputs);
    this.#shares = this.scalings(inputs);
    try {
      return this.#forwards(inputs);
    } finally {
      this.#shares = null;
    }
  }

  /** Shares of the experts from a pass of the model on its own, [B, T, layers or 1, experts]. */
  scalings({ labels: _, targets: __, cache, ...inputs }: Inputs): Tensor {
    const { scalingPassValue: value, layerwiseScalings, enableSoftmax, softmaxTemperature } = this.config;
    const first = cache?.beside(this.word, this.#sizes);
    const experts = this.names.length;
    if (value === 0) this.rests = true;
    else {
      const [B, T] = (inputs.inputIds ?? (inputs.inputsEmbeds as Tensor)).shape as [number, number];
      this.#shares = constant(value, [B, T, 1, experts], "float32");
    }
    try {
      const { hiddenStates } = this.#forwards({ ...inputs, ...(first && { cache: first }), logitsToKeep: 1 });
      const h = stopGradient(hiddenStates.at(-1) as Tensor);
      const logits = reshape(this.#network(h), [...h.shape.slice(0, 2), layerwiseScalings ? this.#paths.length : 1, experts]);
      return enableSoftmax ? softmax(times(logits, 1 / softmaxTemperature), -1) : logits;
    } finally {
      this.rests = false;
      this.#shares = null;
    }
  }

  #network(h: Tensor): Tensor {
    const all = linears(this.config, 0);
    return all.reduce((x, [at], i) => {
      const [weight, bias] = ["weight", "bias"].map((name) => this.own.get(`layers.${at}.${name}`)?.value as Tensor);
      const y = add(through(x, weight as Tensor), bias as Tensor);
      if (i === all.length - 1) return y;
      const active = max(y, constant(0, [], y.dtype));
      const p = this.config.xloraDropoutP;
      return this.training && p > 0 ? dropout(this.#random.next(), active, p) : active;
    }, h);
  }

  weight(path: string, name: string, x: Tensor): Tensor {
    const shares = this.#shares as Tensor;
    const [B, T, L, E] = shares.shape as [number, number, number, number];
    const layer = L === 1 ? 0 : this.#paths.indexOf(path);
    const time = x.shape[1] as number;
    if (x.shape[0] !== B || time > T)
      throw new ShapeError(`${path} runs on ${wordShape(x.shape)}, in which the tokens of ${wordShape([B, T])} have no place.`, {
        operation: "xlora",
        got: x.shape,
        expected: [B, T],
      });
    // the output layer may be given the last tokens only
    const own = sliceAxis(sliceAxis(shares, 2, layer, layer + 1), 1, T - time, T);
    const e = this.names.indexOf(name);
    const chosen = sliceAxis(this.#largest(reshape(own, [B, time, E])), 2, e, e + 1);
    return times(chosen, this.config.globalScalingWeight);
  }

  /** Of [B, T, experts], the largest shares of each token. */
  #largest(shares: Tensor): Tensor {
    const { topKLora: k, enableSoftmaxTopk } = this.config;
    if (k === null) return shares;
    const E = shares.shape[2] as number;
    const { indices } = topk(shares, k, -1);
    const places = equal(reshape(indices, [...shares.shape.slice(0, 2), k, 1]), reshape(iota([E]), [1, 1, 1, E]));
    const isChosen = reshape(reduceMax(cast(places, "int32"), [2]), shares.shape);
    const kept = mul(shares, cast(isChosen, shares.dtype));
    if (!enableSoftmaxTopk) return kept;
    const zero = constant(0, [], kept.dtype);
    const isZero = equal(kept, zero);
    return where(isZero, zero, softmax(where(isZero, constant(Number.NEGATIVE_INFINITY, [], kept.dtype), kept), -1));
  }
}

/** How a mixture begins. */
export interface XloraOptions {
  /** Of the network's first values and its dropout. */
  readonly seed?: number;
}

/**
 * Puts LoRA adapters from folders on a model that has none, called `0`, `1` …, and a fresh network that gives every token its shares of
 * them. The network can be trained; `setActive` ends the mixture, `detach` takes all of it off.
 *
 * @param adapters where the experts lie, under names that nobody needs: `{ sums: "adapters/sums", poems: "adapters/poems" }`
 * @throws {ConfigError} when an expert is no plain LoRA, or an option does not fit; the model is unchanged then
 */
export async function createXlora(
  model: Module,
  adapters: Readonly<Record<string, ModelSource>>,
  config: Partial<XloraConfig> = {},
  { seed = 0 }: XloraOptions = {},
): Promise<void> {
  const operation = "createXlora";
  const sources = Object.values(adapters).map((source, i) => ({ source, name: `${i}` }));
  await put(model, sources, config, { operation, seed, trainable: true });
}

/** How a saved mixture is read. */
export interface XloraLoadOptions extends Omit<LoadOptions, "name"> {
  /** Where the experts lie, in the order of the config's `adapters`; in its folders 0, 1, … when absent. */
  readonly adapters?: readonly ModelSource[];
}

/**
 * The same from the folder of a saved mixture. The folders 0, 1, … that PEFT 0.21 writes into it lack every layer whose number is another
 * expert's name; such experts are to be given as they were before, which PEFT asks for, too.
 *
 * @returns what is odd but no error
 * @throws {FormatError} when a tensor has another shape than the config says; @throws {ConfigError} as for `createXlora`
 */
export async function loadXlora(
  model: Module,
  source: ModelSource,
  { trainable = false, seed = 0, adapters, ...where }: XloraLoadOptions = {},
): Promise<readonly string[]> {
  const operation = "loadXlora";
  const { config, tensors, warnings } = await readAdapter<ConfigSchema>(source, [schema as unknown as ConfigSchema], where);
  const given = toCamel(config) as unknown as XloraConfig;
  const within = (folder: string) => (where.subfolder ? `${where.subfolder}/${folder}` : folder);
  const inside = () =>
    Object.keys(given.adapters ?? {}).map((_, i) => ({ ...where, source, subfolder: within(`${i}`), name: `${i}` }));
  const sources = adapters?.map((each, i) => ({ source: each, name: `${i}` })) ?? inside();
  const values = new Map<string, { readonly shape: readonly number[]; readonly data: Float32Array }>();
  for (const [name, tensor] of tensors)
    values.set(name, { shape: tensor.shape, data: toFloat32(await tensor.load(), tensor.dtype) });
  const odd = await put(
    model,
    sources,
    { ...given, inferenceMode: !trainable, peftVersion: null },
    { operation, seed, trainable, values },
  );
  return [...warnings, ...odd];
}

/** Values by their names in the file. */
type Values = ReadonlyMap<string, { readonly shape: readonly number[]; readonly data: Float32Array }>;

const fileKey = (name: string): string => `base_model.${place}.${name}`;

async function put(
  model: Module,
  sources: readonly ExpertSource[],
  options: Partial<XloraConfig>,
  { operation, seed, trainable, values }: { operation: string; seed: number; trainable: boolean; values?: Values },
): Promise<string[]> {
  refuseAdapted(model, operation);
  if (!("createCache" in model && "backbone" in model))
    throw new ConfigError(`a ${model.constructor.name} does not continue a text.`, { operation, got: model.constructor.name });
  const causal = model as CausalLM;
  const { width } = causal.backbone.sizes;
  const { config: given } = configured(options);
  const config: XloraConfig = {
    ...given,
    hiddenSize: given.hiddenSize ?? width,
    adapters: given.adapters ?? Object.fromEntries(sources.map(({ name }) => [name, name])),
  };
  if (config.hiddenSize !== width)
    throw new ConfigError(`\`hiddenSize\` (= ${config.hiddenSize}) is not the model's, ${width}.`, {
      operation,
      got: config.hiddenSize,
    });
  if (sources.length === 0) throw new ConfigError("there are no adapters to mix.", { operation, got: config.adapters });
  if ((config.topKLora ?? 0) > sources.length)
    throw new ConfigError(`\`topKLora\` (= ${config.topKLora}) is more than there are adapters, ${sources.length}.`, {
      operation,
      got: config.topKLora,
    });
  const experts = await readExperts(model, sources, operation);
  const changed = new Set(experts.flatMap(({ plan }) => plan.layers.map(({ path }) => path)));
  const paths = [...baseModules(model).keys()].filter((path) => changed.has(path));
  const outputs = sources.length * (config.layerwiseScalings ? paths.length : 1);
  const random = new TorchGenerator(seed);
  const parameters = new Map<string, Parameter>();
  const missing: string[] = [];
  for (const [at, into, out] of linears(config, outputs))
    for (const [name, drawn] of Object.entries(drawLinear(random, `layers.${at}`, into, out))) {
      const shape = name.endsWith("weight") ? [out, into] : [out];
      const stored = values?.get(fileKey(name));
      if (values && !stored) missing.push(name);
      if (stored && !sameShape(stored.shape, shape))
        throw new FormatError(`${fileKey(name)} is ${wordShape(stored.shape)} in the file, ${wordShape(shape)} by the config.`, {
          operation,
          expected: shape,
          got: stored.shape,
        });
      parameters.set(
        name,
        new Parameter(upload(currentDevice(), stored?.data ?? drawn, shape, "float32"), { requiresGrad: trainable }),
      );
    }
  const names = sources.map(({ name }) => name);
  installExperts(model, experts, trainable && config.useTrainableAdapters, () => {
    const adapted = adaptersOf(model) as Adapted;
    return new XloraPlace(causal, adapted, config, { names, paths, parameters, seed });
  });
  return missing.length === 0
    ? []
    : [
        `${operation}: ${missing.join(", ")} of the network are not in the file, as PEFT leaves out what is numbered like an expert; drawn anew, they are not what was trained.`,
      ];
}

/** The mixture on a model. @throws {ConfigError} when there is none */
function placeOf(model: Module, operation: string): XloraPlace {
  const { router } = adaptedModel(model, operation);
  if (router instanceof XloraPlace) return router;
  throw new ConfigError("the adapters of this model are not mixed by X-LoRA.", { operation });
}

/**
 * The shares that every token gets of the experts, from one pass of the model on its own.
 *
 * @returns [B, T, layers, experts], layers in the model's order; before the largest are chosen (`topKLora`)
 * @throws {ConfigError} when the model has no X-LoRA
 */
export function xloraScalings(model: Module, inputs: CausalLMInputs): Tensor {
  const operation = "xloraScalings";
  const shares = placeOf(model, operation).scalings(inputs);
  const layers = [...(adaptersOf(model) as Adapted).layers.keys()].length;
  const [B, T, , E] = shares.shape as [number, number, number, number];
  return expand(shares, [B, T, layers, E]);
}

/**
 * Writes the mixture: its network and config into `folder`, the experts into folders 0, 1, … of it, as PEFT does.
 *
 * @throws {ConfigError} when the model has no X-LoRA, or the folder cannot be written
 */
export async function saveXlora(
  model: Module,
  folder: FolderTarget,
  { baseModel }: { readonly baseModel?: string } = {},
): Promise<void> {
  const { config, names, own } = placeOf(model, "saveXlora");
  const tensors = new Map<string, TensorToWrite>();
  for (const [name, { stored }] of own)
    tensors.set(fileKey(name), { dtype: "float32", shape: stored.shape, data: (await download(stored)) as Float32Array });
  const complete = { ...config, ...(baseModel === undefined ? {} : { baseModelNameOrPath: baseModel }) };
  for (const name of names) {
    getAdapter(model, name, "saveXlora");
    await saveAdapter(model, folder, { name, ...(baseModel === undefined ? {} : { baseModel }) });
  }
  const fileConfig = toFileConfig(schema as unknown as ConfigSchema, complete as never) as Partial<FileConfig<ConfigSchema>>;
  await writeAdapter(folder, { schema: schema as unknown as ConfigSchema, config: fileConfig, tensors });
}
