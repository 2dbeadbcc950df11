/** Adapters of a live model to and from the folders that Hugging Face PEFT reads and writes. */
import { download } from "../compile/program.ts";
import { ConfigError, checkOptions, type Rules, under } from "../errors.ts";
import { type ModelSource, type SourceOptions, sourceOptionRules } from "../formats/model-source.ts";
import { type ConfigSchema, defaultAdapterName, type FileConfig, readAdapter, writeAdapter } from "../formats/peft-adapter.ts";
import type { TensorToWrite } from "../formats/safetensors.ts";
import { type FolderTarget, memoryFolder } from "../formats/writable-folder.ts";
import { toFloat32 } from "../graph/dtype.ts";
import { transpose } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { sizeOf } from "../graph/shape.ts";
import type { CheckpointNames } from "../models/checkpoint-name.ts";
import { type Module, type Parameter, requireModule } from "../nn/module.ts";
import { TorchGenerator } from "../random/torch-generator.ts";
import { type Adapter, adaptedModel, getAdapter } from "./adapted-model.ts";
import type { LayerAdapter } from "./adapter-layer.ts";
import { biasPlace, fileKeyOf, readPlanned, sharedPath, wholeFile, wholePath } from "./adapter-tensor.ts";
import { initialiseShared, install, type Starts } from "./attach.ts";
import { type AttachPlan, planAttach } from "./attach-plan.ts";
import { withoutIgnored } from "./contradiction.ts";
import { withTodaysExperts } from "./expert-file.ts";
import { type AnyLayerMethod, fileOf, type ParameterSpec } from "./method.ts";
import { toCamel, toFileConfig } from "./method-config.ts";
import { knownMethods } from "./method-registry.ts";
import { toPlainLora } from "./plain-lora.ts";
import { resumePrompt } from "./prompt/prompt-start.ts";
import type { PromptPlace } from "./prompt/prompted-model.ts";
import { type SaveEmbeddingLayers, vocabularyWeights } from "./vocabulary-weight.ts";

/** Which adapter is saved, and what its files say about the base. */
export interface SaveOptions {
  /** Which adapter; the one called "default" when absent. */
  readonly name?: string;
  /** The base model's name on the Hub or its folder, for the config and the model card. */
  readonly baseModel?: string;
  /**
   * Whether the whole weights of the input embedding and the output layer go along: `"auto"`, as when absent, for those of them that
   * `targetModules` names, and for both when the vocabulary has another size than in the folder `baseModel`.
   */
  readonly saveEmbeddingLayers?: SaveEmbeddingLayers;
  /**
   * Writes LoRA that has been started from the weights (PiSSA, OLoRA, CorDA, LoRA-GA) as plain LoRA of twice the rank, for the base
   * model as it was before.
   */
  readonly plainLora?: boolean;
}

/**
 * Writes an adapter, in float32, into `folder`, or into `folder/<name>` if it is not called "default".
 *
 * @param folder a path, or a folder in memory or of a browser
 * @returns the path or name of the folder that holds the two files
 * @throws {ConfigError} when there is no such adapter or the folder cannot be written; nothing is half-written
 */
export async function saveAdapter(model: Module, folder: FolderTarget, options: SaveOptions = {}): Promise<string> {
  const {
    name = defaultAdapterName,
    baseModel,
    saveEmbeddingLayers = "auto",
    plainLora = false,
  } = checkOptions("saveAdapter", options, {
    name: "a string",
    baseModel: "a string",
    saveEmbeddingLayers: null,
    plainLora: "true or false",
  });
  const operation = "saveAdapter";
  const adapter = getAdapter(model, name, operation);
  const { method, layers, shared, sharedSpecs, saved, biases, isPrompt } = adapter;
  const plain = plainLora ? toPlainLora(adapter) : undefined;
  const config = plain?.config ?? adapter.config;
  const { unmerged, prompts } = adaptedModel(model, operation);
  const base = baseModel ?? config["baseModelNameOrPath"];
  const whole = await vocabularyWeights(model, { method, config }, saveEmbeddingLayers, base);
  const tensors = new Map<string, TensorToWrite>();
  const now = (parameter: Parameter) => unmerged.get(parameter) ?? parameter.stored;
  const put = async (path: string, file: string, value: Tensor, spec?: ParameterSpec, part: SavedPart | null = null) => {
    const data = await download(value);
    const { storedDType } = spec ?? {};
    if (value.dtype === "int32")
      tensors.set(fileKeyOf(path, file), { dtype: value.dtype, shape: value.shape, data, ...(storedDType && { storedDType }) });
    else tensors.set(fileKeyOf(path, file), { dtype: "float32", ...cut(toFloat32(data, value.dtype), value.shape, part) });
  };
  for (const [path, layer] of layers) {
    const { method: of, parameters, config: own } = layer.adapters.get(name) as LayerAdapter;
    if (of.inFile === "absent") continue;
    const turned = of.inFile === "transposed" ? transpose : (value: Tensor) => value;
    const specs = of.parameters(layer.base(), own);
    for (const [key, parameter] of Object.entries(parameters)) {
      if (specs[key]?.derived) continue;
      const value = turned(plain?.value(path, key, now(parameter)) ?? now(parameter));
      await put(path, fileOf(of.files, key), value, specs[key], of.savedPart?.(key, path, config));
    }
  }
  for (const [key, parameter] of whole) {
    const weight = now(parameter);
    tensors.set(key, { dtype: weight.dtype, shape: weight.shape, load: () => download(weight) });
  }
  if (method.shared?.saved?.(config) ?? true)
    for (const [key, parameter] of Object.entries(shared))
      await put(sharedPath, fileOf(method.shared!.files, key), now(parameter), sharedSpecs[key]);
  if (isPrompt)
    for (const [file, table] of Object.entries((prompts as PromptPlace).tables(name)))
      tensors.set(file, { dtype: "float32", shape: table.shape, data: toFloat32(await download(table), table.dtype) });
  for (const [path, { copies }] of saved)
    for (const [key, parameter] of copies.get(name) as ReadonlyMap<string, Parameter>)
      await put(wholePath(method, path), wholeFile({ method, config }, path, key), now(parameter));
  for (const [path, parameter] of biases) await put(...biasPlace(path, layers), now(parameter));
  const complete = { ...config, ...(baseModel === undefined ? {} : { baseModelNameOrPath: baseModel }) };
  const schema: ConfigSchema = method.schema;
  const fileConfig = toFileConfig(schema, complete) as Partial<FileConfig<ConfigSchema>>;
  const packed = method.packed?.pack(tensors, config) ?? tensors;
  return under(operation, () => writeAdapter(folder, { schema, config: fileConfig, tensors: packed, name }));
}

/** Bytes of the file of weights that `saveAdapter` would write. */
export async function adapterFileBytes(model: Module): Promise<number> {
  const folder = memoryFolder();
  await saveAdapter(model, folder);
  return folder.contents.get("adapter_model.safetensors")?.byteLength ?? 0;
}

type SavedPart = ReturnType<NonNullable<AnyLayerMethod["savedPart"]>>;

/** The rows (axis 0) or columns (axis 1 of 2) of a matrix that are kept. One that has lost the others already stays as it is. */
function cut(data: Float32Array, shape: readonly number[], part: SavedPart): { shape: readonly number[]; data: Float32Array } {
  const size = part ? (shape[part.axis] as number) : 0;
  if (!part || part.kept.length !== size || part.kept.every(Boolean)) return { shape, data };
  const { axis, kept } = part;
  const inner = sizeOf(shape.slice(axis + 1));
  return {
    shape: shape.map((extent, i) => (i === axis ? kept.filter(Boolean).length : extent)),
    data: data.filter((_, i) => kept[Math.floor(i / inner) % size]),
  };
}

/** What the loaded adapter is called, and whether it is trained further. */
export interface LoadOptions extends Omit<SourceOptions, "file"> {
  readonly name?: string;
  /** Whether training may change it; false when absent, as in PEFT. */
  readonly trainable?: boolean;
  /** Of dropout, when it is trained further. */
  readonly seed?: number;
}

const { file: _, ...placeRules } = sourceOptionRules;
/** What these options may be. */
export const loadOptionRules: Rules<LoadOptions> = {
  ...placeRules,
  name: "a string",
  trainable: "true or false",
  seed: "a whole number from 0",
};

/**
 * Attaches a saved adapter: `source` is the path of its folder, the name of a repository of the Hub, or `{ files }`. Halves are widened to
 * float32. LoRA and DoRA of mlx-lm are read, too. Base weights that the file holds for vocabulary layers take the place of the model's while the adapter is on it.
 *
 * @throws {FormatError} when a tensor is missing or unexpected; @throws {ShapeError} when one has another shape;
 *   @throws {ConfigError} when the config wants what is not there, or the file cannot be trained on. The model is unchanged then.
 */
export async function loadAdapter(model: Module, source: ModelSource, options: LoadOptions = {}): Promise<Adapter> {
  checkOptions("loadAdapter", options, loadOptionRules);
  const { name = defaultAdapterName, trainable = false, seed = 0, ...where } = options;
  const { plan, starts } = await readFor("loadAdapter", model, source, { ...where, name, trainable, seed });
  return install(model, plan, { name, trainable, seed }, starts);
}

/** With today's name for the output layer of GPT-NeoX, which adapters from before transformers 5 call as checkpoints do. */
function withTodaysNames<Read extends Awaited<ReturnType<typeof readAdapter>>>(model: Module, read: Read): Read {
  const { pathOf } = model as Module & Partial<CheckpointNames>;
  if (pathOf?.call(model, "embed_out.weight") !== "lm_head.weight") return read;
  const config = JSON.parse(JSON.stringify(read.config).replaceAll('"embed_out"', '"lm_head"')) as Read["config"];
  const tensors = [...read.tensors.values()].map((tensor) => ({
    ...tensor,
    name: tensor.name.replace(".embed_out.", ".lm_head."),
  }));
  return { ...read, config, tensors: new Map(tensors.map((tensor) => [tensor.name, tensor])) };
}

/** What a saved adapter is on this model, found, checked and read; the model is not changed. See `loadAdapter`. */
export async function readFor(
  operation: string,
  model: Module,
  source: ModelSource,
  { name = defaultAdapterName, trainable = false, seed = 0, ...where }: LoadOptions,
): Promise<{ readonly plan: AttachPlan; readonly starts: Starts }> {
  requireModule(operation, model);
  const known = knownMethods();
  const schemas = [...new Set(known.map(({ schema }) => schema))];
  const file = await under(operation, () => readAdapter<ConfigSchema>(source, schemas, where));
  const read = withTodaysExperts(model, withTodaysNames(model, file), trainable);
  const of = known.find(({ schema, variantOf }) => schema === read.schema && !variantOf);
  if (!of) throw new ConfigError(`no method handles this ${read.schema.peftType} config.`, { operation, got: read.config });
  const given = toCamel(read.config);
  const { config, warnings: ignored } = withoutIgnored(given, of.ignored?.(given));
  // the flag says nothing about the adapter: PEFT writes true whatever it was
  const checked = of({ ...config, inferenceMode: !trainable, peftVersion: null });
  const { method } = checked;
  const tensors = method.packed?.unpack(read.tensors, checked.config, trainable) ?? read.tensors;
  const kept = await method.keptInFile?.(tensors, checked.config);
  const plan = under(operation, () => planAttach(model, checked, name, kept));
  const { values, tables, whole, base } = await readPlanned(model, plan, tensors);
  const warnings = [...read.warnings, ...ignored, ...plan.warnings, ...[method.whenLoaded?.(checked.config) ?? []].flat()];
  const starts: Starts = {
    shared: () => values.get(sharedPath) ?? initialiseShared(plan, new TorchGenerator(seed)),
    layer({ path, method: of, base: layer, config: own }, shared) {
      const start = of.residual?.(layer, own);
      const all = { ...values.get(path), ...of.derive?.(layer, own, shared) };
      return { ...start, values: all, ...(start ? { taken: start.taken ?? start.values } : {}) };
    },
    prompt: () => resumePrompt(model, plan, tables, trainable),
    whole: (path) => whole.get(path),
    base,
  };
  return { plan: { ...plan, warnings }, starts };
}
