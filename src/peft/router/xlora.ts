/**
 * Mixtures by X-LoRA (see xlora-place.ts) come onto a model: fresh, or from a folder and into one. The file holds the network; the experts lie
 * in folders beside it, called 0, 1, ….
 */
import { currentDevice, download, upload } from "../../compile/program.ts";
import { ConfigError, checkOptions, FormatError, requireKind, under, wordShape } from "../../errors.ts";
import type { ModelSource } from "../../formats/model-source.ts";
import { type ConfigSchema, readAdapter, writeAdapter } from "../../formats/peft-adapter.ts";
import type { TensorToWrite } from "../../formats/safetensors.ts";
import type { FolderTarget } from "../../formats/writable-folder.ts";
import { toFloat32 } from "../../graph/dtype.ts";
import { expand } from "../../graph/movement.ts";
import type { Tensor } from "../../graph/node.ts";
import { sameShape } from "../../graph/shape.ts";
import { type CausalLMInputs, continuesText } from "../../models/causal-lm.ts";
import { type Module, Parameter } from "../../nn/module.ts";
import { TorchGenerator } from "../../random/torch-generator.ts";
import { type Adapted, adaptedModel, adaptersOf, baseModules, getAdapter } from "../adapted-model.ts";
import { type LoadOptions, loadOptionRules, saveAdapter } from "../adapter-file.ts";
import { toCamel, toFileConfig } from "../method-config.ts";
import { drawLinear } from "../prompt/linear-start.ts";
import { type ExpertSource, installExperts, readExperts, refuseAdapted } from "./expert.ts";
import { configured, linears, place, schema, type XloraConfig, XloraPlace } from "./xlora-place.ts";

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
  options: XloraOptions = {},
): Promise<void> {
  const { seed = 0 } = checkOptions("createXlora", options, { seed: "a whole number from 0" });
  const operation = "createXlora";
  requireKind(operation, "an object", { adapters, config });
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
export async function loadXlora(model: Module, source: ModelSource, options: XloraLoadOptions = {}): Promise<readonly string[]> {
  const operation = "loadXlora";
  const { name: _, ...otherRules } = loadOptionRules;
  checkOptions(operation, options, { ...otherRules, adapters: "a list" });
  const { trainable = false, seed = 0, adapters, ...where } = options;
  const { config, tensors, warnings } = await under(operation, () => readAdapter<ConfigSchema>(source, [schema], where));
  const given = toCamel(config) as XloraConfig;
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
  if (!continuesText(model))
    throw new ConfigError(`a ${model.constructor.name} is not a causal language model.`, {
      operation,
      got: model.constructor.name,
    });
  const { width } = model.backbone.sizes;
  const { config: given } = under(operation, () => configured(options));
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
    return new XloraPlace(model, adapted, config, { names, paths, parameters, seed });
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
  requireKind(operation, "an object", { inputs });
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
  options: { readonly baseModel?: string } = {},
): Promise<void> {
  const { baseModel } = checkOptions("saveXlora", options, { baseModel: "a string" });
  const { config, names, own } = placeOf(model, "saveXlora");
  const tensors = new Map<string, TensorToWrite>();
  for (const [name, { stored }] of own)
    tensors.set(fileKey(name), { dtype: "float32", shape: stored.shape, data: (await download(stored)) as Float32Array });
  const complete = { ...config, ...(baseModel === undefined ? {} : { baseModelNameOrPath: baseModel }) };
  for (const name of names) {
    getAdapter(model, name, "saveXlora");
    await under("saveXlora", () => saveAdapter(model, folder, { name, ...(baseModel === undefined ? {} : { baseModel }) }));
  }
  const fileConfig = toFileConfig(schema, complete);
  await under("saveXlora", () => writeAdapter(folder, { schema, config: fileConfig, tensors }));
}
