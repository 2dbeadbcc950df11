/** Adapters of a live model to and from the folders that Hugging Face PEFT reads and writes. */
import { currentDevice, download, upload } from "../compile/program.ts";
import type { Device } from "../devices/device.ts";
import { ConfigError, FormatError, ShapeError, wordShape } from "../errors.ts";
import type { ModelSource, SourceOptions } from "../formats/model-source.ts";
import {
  type ConfigSchema,
  defaultAdapterName,
  type FileConfig,
  readAdapter,
  toFileKey,
  writeAdapter,
} from "../formats/peft-adapter.ts";
import type { StoredTensor, TensorToWrite } from "../formats/safetensors.ts";
import type { FolderTarget } from "../formats/writable-folder.ts";
import { type TypedArray, toFloat32 } from "../graph/dtype.ts";
import { transpose } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { type Shape, sameShape } from "../graph/shape.ts";
import type { Module, Parameter } from "../nn/module.ts";
import { TorchGenerator } from "../random/torch-generator.ts";
import { type Adapter, adaptedModel, baseModules, getAdapter } from "./adapted-model.ts";
import type { LayerAdapter } from "./adapter-layer.ts";
import { initialiseShared, install, type Starts } from "./attach.ts";
import { type AnyAdapterConfig, type AttachPlan, planAttach } from "./attach-plan.ts";
import { withoutIgnored } from "./contradiction.ts";
import { type AnyLayerMethod, type AnyMethod, fileOf, type ParameterSpec } from "./method.ts";
import { type AnyConfig, toCamel, toFileConfig } from "./method-config.ts";
import { methods } from "./methods.ts";
import { toPlainLora } from "./plain-lora.ts";
import { checkTable } from "./prompt/prompt-method.ts";
import { resumePrompt } from "./prompt/prompt-start.ts";
import type { PromptPlace } from "./prompt/prompted-model.ts";
import { findWeights, readWeights, type SaveEmbeddingLayers, vocabularyWeights } from "./vocabulary-weight.ts";

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
export async function saveAdapter(
  model: Module,
  folder: FolderTarget,
  { name = defaultAdapterName, baseModel, saveEmbeddingLayers = "auto", plainLora = false }: SaveOptions = {},
): Promise<string> {
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
  return writeAdapter(folder, { schema, config: fileConfig, tensors: packed, name });
}

type SavedPart = ReturnType<NonNullable<AnyLayerMethod["savedPart"]>>;

/** The rows (axis 0) or columns (axis 1 of 2) of a matrix that are kept. One that has lost the others already stays as it is. */
function cut(data: Float32Array, shape: readonly number[], part: SavedPart): { shape: readonly number[]; data: Float32Array } {
  const size = part ? (shape[part.axis] as number) : 0;
  if (!part || part.kept.length !== size || part.kept.every(Boolean)) return { shape, data };
  const { axis, kept } = part;
  const inner = shape.slice(axis + 1).reduce((product, extent) => product * extent, 1);
  return {
    shape: shape.map((extent, i) => (i === axis ? kept.filter(Boolean).length : extent)),
    data: data.filter((_, i) => kept[Math.floor(i / inner) % size]),
  };
}

/** In place of a module's path: parameters of the whole adapter. */
const sharedPath = "base_model";
/** With `bias: "all"` PEFT writes the biases of modules to save twice more, and does not read them. */
const doubledBias = /\.(modules_to_save|original_module)\.(.+\.)?bias$/;

/** The name in the file, which does not tell the adapter's. */
const fileKeyOf = (path: string, file: string): string => toFileKey(`${path}.${file}`);

/** Where the parameters of a module stand in the file: PEFT wraps a model once less where no layer is changed. */
const wholePath = ({ prompt }: AnyMethod, path: string): string => (prompt ? `${sharedPath}.${path}` : path);

/** The name of a parameter of a module that is trained as a whole: as in the model where `modulesToSave` means the module. */
export function wholeFile(adapter: AnyAdapterConfig, path: string, key: string): string {
  const listed = (adapter.config["modulesToSave"] ?? []) as readonly string[];
  const { whole } = adapter.method;
  return whole === undefined || listed.some((name) => path.endsWith(name)) ? key : `${whole}.${key}`;
}

/** A layer's path and the name of its bias, which in an adapted layer is one of the layer under the adapter. */
function biasPlace(path: string, adapted: { has(path: string): boolean }): [path: string, file: string] {
  const layer = path.slice(0, -".bias".length);
  return [layer, adapted.has(layer) ? "base_layer.bias" : "bias"];
}

/** What the loaded adapter is called, and whether it is trained further. */
export interface LoadOptions extends Omit<SourceOptions, "file"> {
  readonly name?: string;
  /** Whether training may change it; false when absent, as in PEFT. */
  readonly trainable?: boolean;
  /** Of dropout, when it is trained further. */
  readonly seed?: number;
}

/**
 * Attaches a saved adapter: `source` is the path of its folder, the name of a repository of the Hub, or `{ files }`. Halves are widened to float32. Base weights that the file holds for vocabulary
 * layers take the place of the model's while the adapter is on it.
 *
 * @throws {FormatError} when a tensor is missing or unexpected; @throws {ShapeError} when one has another shape;
 *   @throws {ConfigError} when the config wants what is not there, or the file cannot be trained on. The model is unchanged then.
 */
export async function loadAdapter(
  model: Module,
  source: ModelSource,
  { name = defaultAdapterName, trainable = false, seed = 0, ...where }: LoadOptions = {},
): Promise<Adapter> {
  const { plan, starts } = await readFor(model, source, { ...where, name, trainable, seed });
  return install(model, plan, { name, trainable, seed }, starts);
}

/** What a saved adapter is on this model, found, checked and read; the model is not changed. See `loadAdapter`. */
export async function readFor(
  model: Module,
  source: ModelSource,
  { name = defaultAdapterName, trainable = false, seed = 0, ...where }: LoadOptions,
): Promise<{ readonly plan: AttachPlan; readonly starts: Starts }> {
  const operation = "loadAdapter";
  const known: readonly AnyMethod[] = Object.values(methods);
  const read = await readAdapter<ConfigSchema>(source, [...new Set(known.map(({ schema }) => schema))], where);
  const of = known.find(({ schema, variantOf }) => schema === read.schema && !variantOf);
  if (!of) throw new ConfigError(`no method is for this ${read.schema.peftType} config.`, { operation, got: read.config });
  const given = toCamel(read.config);
  const { config, warnings: ignored } = withoutIgnored(given, of.ignored?.(given));
  // the flag says nothing about the adapter: PEFT writes true whatever it was
  const checked = of({ ...config, inferenceMode: !trainable, peftVersion: null }) as unknown as AnyAdapterConfig;
  const { method } = checked;
  const tensors = method.packed?.unpack(read.tensors, checked.config, trainable) ?? read.tensors;
  const plan = planAttach(model, checked, name);
  const wholes = findWholes(plan, tensors);
  const found = findValues(plan, tensors);
  const tables = findTables(plan, tensors);
  const used = new Set([...found.values(), ...wholes.values(), ...tables.values()].map((tensor) => tensor.name));
  for (const { name: key } of tiedParameters(plan, tensors)) used.add(key);
  const adapted = new Set(plan.layers.map(({ path }) => path));
  const weights = findWeights(tensors, used, baseModules(model), (path) => adapted.has(path));
  refuseOthers(plan, tensors.keys(), new Set([...used, ...weights.keys()]));
  const values = await readValues(found);
  await checkTied(plan, tensors, values);
  const rows = await Promise.all([...tables].map(async ([file, each]) => [file, toFloat32(await each.load(), each.dtype)]));
  const whole = await readWholes(model, wholes);
  const base = await readWeights(tensors, weights);
  const warnings = [...read.warnings, ...ignored, ...plan.warnings, ...[method.whenLoaded?.(checked.config) ?? []].flat()];
  const starts: Starts = {
    shared: () => values.get(sharedPath) ?? initialiseShared(plan, new TorchGenerator(seed)),
    layer({ path, method: of, base: layer, config: own }, shared) {
      const start = of.residual?.(layer, own);
      const all = { ...values.get(path), ...of.derive?.(layer, own, shared) };
      return { ...start, values: all, ...(start ? { taken: start.values } : {}) };
    },
    prompt: () => resumePrompt(model, plan, Object.fromEntries(rows), trainable),
    whole: (path) => whole.get(path),
    base,
  };
  return { plan: { ...plan, warnings }, starts };
}

/** The tables of virtual tokens, by their names in the file: found and checked, not read yet. */
function findTables({ method, config }: AttachPlan, stored: ReadonlyMap<string, StoredTensor>): Map<string, StoredTensor> {
  const found = new Map<string, StoredTensor>();
  for (const [file, shape] of Object.entries<Shape>(method.prompt?.tables(config) ?? {})) {
    const tensor = stored.get(file);
    if (!tensor) throw new FormatError(`${file} is not in the file.`, { operation: "loadAdapter", expected: file });
    checkTable(file, tensor.shape, shape);
    found.set(file, tensor);
  }
  return found;
}

/** A parameter and where the file must have it. */
interface Wanted {
  readonly path: string;
  readonly key: string;
  readonly file: string;
  readonly spec: ParameterSpec;
  /** That of the layer. */
  readonly config: AnyConfig;
}

/** Parameters of the model that are trained as they are, by their paths in it: found and checked, not read yet. */
function findWholes(plan: AttachPlan, stored: ReadonlyMap<string, StoredTensor>) {
  const { saved, biases, layers } = plan;
  const adapted = new Set(layers.map(({ path }) => path));
  const places = [
    ...[...saved].flatMap(([path, module]) =>
      [...module.namedParameters()].map(([name, { shape }]) => ({
        path,
        file: wholeFile(plan, path, name),
        whole: `${path}.${name}`,
        shape,
      })),
    ),
    ...[...biases].map(([whole, { shape }]) => {
      const [path, file] = biasPlace(whole, adapted);
      return { path, file, whole, shape };
    }),
  ];
  const found = new Map<string, StoredTensor>();
  for (const { path, file, whole, shape } of places) {
    const name = fileKeyOf(wholePath(plan.method, path), file);
    const tensor = stored.get(name);
    if (!tensor)
      throw new FormatError(`${whole} is not in the file, but the config says that it is trained.`, {
        operation: "loadAdapter",
        expected: name,
      });
    if (!sameShape(tensor.shape, shape))
      throw new ShapeError(`${whole} is ${wordShape(tensor.shape)} in the file, ${wordShape(shape)} in the model.`, {
        operation: "loadAdapter",
        expected: shape,
        got: tensor.shape,
        hint: "The adapter was made for another base model.",
      });
    found.set(whole, tensor);
  }
  return found;
}

async function readWholes(model: Module, found: ReadonlyMap<string, StoredTensor>): Promise<Map<string, Tensor>> {
  const device = model.parameters()[0]?.stored.storage?.device as Device;
  const values = new Map<string, Tensor>();
  for (const [path, tensor] of found)
    values.set(path, upload(device, toFloat32(await tensor.load(), tensor.dtype), tensor.shape, "float32"));
  return values;
}

/** Finds and checks the parameters. */
function findValues(plan: AttachPlan, stored: ReadonlyMap<string, StoredTensor>): Map<Wanted, StoredTensor> {
  const operation = "loadAdapter";
  const wanted = plan.layers.flatMap(({ path, method, specs, config, tied }): Wanted[] =>
    tied !== undefined
      ? []
      : Object.entries(specs).flatMap(([key, spec]) =>
          spec.derived ? [] : [{ path, key, file: fileOf(method.files, key), spec, config }],
        ),
  );
  const { shared } = plan.method;
  if (shared && (shared.saved?.(plan.config) ?? true))
    for (const [key, spec] of Object.entries(plan.shared))
      wanted.push({ path: sharedPath, key, file: fileOf(shared.files, key), spec, config: plan.config });
  const found = new Map<Wanted, StoredTensor>();
  for (const each of wanted) {
    const name = fileKeyOf(each.path, each.file);
    // releases of PEFT differ in whether some names end in ".weight"
    const tensor = stored.get(name) ?? stored.get(name.endsWith(".weight") ? name.slice(0, -".weight".length) : `${name}.weight`);
    if (!tensor)
      throw new FormatError(`${each.file} of ${each.path} is not in the file, but the config says that this layer is adapted.`, {
        operation,
        expected: name,
      });
    const { shape, orShape = shape } = each.spec;
    if (!sameShape(tensor.shape, shape) && !sameShape(tensor.shape, orShape)) throw wrongShape(each, tensor.shape, plan.method);
    found.set(each, tensor);
  }
  return found;
}

/** @throws {FormatError} for a name in the file that is none of the adapter's */
function refuseOthers({ biases }: AttachPlan, names: Iterable<string>, used: ReadonlySet<string>): void {
  for (const name of names)
    if (!used.has(name) && !(biases.size > 0 && doubledBias.test(name)))
      throw new FormatError(`"${name}" belongs to no layer that the config adapts.`, {
        operation: "loadAdapter",
        got: name,
        hint: "The adapter may be for another base model, or the config is not its own.",
      });
}

/** By path and key. */
async function readValues(found: ReadonlyMap<Wanted, StoredTensor>) {
  const values = new Map<string, Record<string, TypedArray | Tensor>>();
  for (const [{ path, key, spec }, tensor] of found) {
    const data = toFloat32(await tensor.load(), tensor.dtype);
    const value = sameShape(tensor.shape, spec.shape) ? data : upload(currentDevice(), data, tensor.shape, "float32");
    values.set(path, { ...values.get(path), [key]: value });
  }
  return values;
}

/** Parameters of tied layers that the file has a second time. */
function* tiedParameters({ layers }: AttachPlan, stored: ReadonlyMap<string, StoredTensor>) {
  for (const { path, tied, method, specs } of layers)
    for (const [key, spec] of tied === undefined || method.inFile === "absent" ? [] : Object.entries(specs)) {
      const name = fileKeyOf(path, fileOf(method.files, key));
      const tensor = stored.get(name);
      if (tensor) yield { name, tensor, key, spec, path, tied: tied as string, turned: method.inFile === "transposed" };
    }
}

/** @throws {FormatError} when a tied layer has other values in the file than the layer to which it is tied */
async function checkTied(
  plan: AttachPlan,
  stored: ReadonlyMap<string, StoredTensor>,
  values: ReadonlyMap<string, Readonly<Record<string, TypedArray | Tensor>>>,
): Promise<void> {
  for (const { name, tensor, key, spec, path, tied, turned } of tiedParameters(plan, stored)) {
    const own = values.get(tied)?.[key] as Float32Array;
    const again = toFloat32(await tensor.load(), tensor.dtype);
    const [rows, columns] = turned ? (spec.shape as [number, number]) : [1, own.length];
    const isSame =
      again.length === own.length && own.every((value, i) => value === again[(i % columns) * rows + Math.floor(i / columns)]);
    if (!isSame)
      throw new FormatError(`${path} is tied to ${tied} by the config, but has other values in the file.`, {
        operation: "loadAdapter",
        got: name,
        hint: "Make one adapter of the two, or set `ensure_weight_tying` to false in adapter_config.json.",
      });
  }
}

function wrongShape({ path, file, config, spec }: Wanted, got: readonly number[], { patterns }: AnyMethod): ShapeError {
  const expected = spec.shape;
  const leaf = file.replace(/\.weight$/, "");
  const axis = expected.findIndex((size, i) => size !== got[i]);
  // the option that this axis has its size from: the rank, which patterns may set for each layer
  const option = Object.values(patterns ?? {}).find(
    (key) => got.length === expected.length && config[key as string] === expected[axis],
  ) as string | undefined;
  return new ShapeError(
    `${leaf} of ${path} is ${wordShape(got)} in the file, ${wordShape(expected)} in the config${option === undefined ? "." : ` (${option} = ${expected[axis]}).`}`,
    {
      operation: "loadAdapter",
      expected,
      got,
      hint:
        option === undefined
          ? "The adapter was made for another base model."
          : `The file was made with ${option} = ${got[axis]}.`,
    },
  );
}
