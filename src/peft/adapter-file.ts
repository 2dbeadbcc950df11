/** Adapters of a live model to and from the folders that Hugging Face PEFT reads and writes. */
import { download } from "../compile/program.ts";
import { ConfigError, FormatError, ShapeError, wordShape } from "../errors.ts";
import {
  type ConfigSchema,
  defaultAdapterName,
  type FileConfig,
  readAdapter,
  toFileKey,
  writeAdapter,
} from "../formats/peft-adapter.ts";
import type { StoredTensor, TensorToWrite } from "../formats/safetensors.ts";
import { fromBFloat16Bits, fromFloat16Bits, type TypedArray } from "../graph/dtype.ts";
import type { Tensor } from "../graph/node.ts";
import { sameShape } from "../graph/shape.ts";
import type { Module } from "../nn/module.ts";
import { type LayerAdapter, liveName } from "./adapter-layer.ts";
import {
  type Adapter,
  type AnyAdapterConfig,
  adaptedModel,
  getAdapter,
  install,
  type PlannedLayer,
  planAttach,
} from "./attach.ts";
import { type AnyConfig, type AnyMethod, toCamel, toFileConfig } from "./method.ts";
import { methods } from "./methods.ts";

export interface SaveOptions {
  /** Which adapter; the one called "default" when absent. */
  readonly name?: string;
  /** The base model's name on the Hub, for the config and the model card. */
  readonly baseModel?: string;
}

/**
 * Writes an adapter, in float32, into `folder`, or into `folder/<name>` if it is not called "default".
 *
 * @returns the folder that holds the two files
 * @throws {ConfigError} when there is no such adapter or the folder cannot be written; nothing is half-written
 */
export async function saveAdapter(
  model: Module,
  folder: string,
  { name = defaultAdapterName, baseModel }: SaveOptions = {},
): Promise<string> {
  const { method, config, layers } = getAdapter(model, name, "saveAdapter");
  const tensors = new Map<string, TensorToWrite>();
  for (const [path, layer] of layers) {
    const { method: of, parameters } = layer.adapters.get(name) as LayerAdapter;
    for (const [key, parameter] of Object.entries(parameters))
      tensors.set(toFileKey(`${path}.${liveName(of.files[key] as string, name)}`, name), {
        dtype: "float32",
        shape: parameter.shape,
        data: toFloat32(await download(parameter.stored), parameter.dtype),
      });
    const base = baseWeightToSave(
      path,
      adaptedModel(model, "saveAdapter").unmerged.get(layer.weight) ?? layer.weight.stored,
      config,
    );
    if (base) tensors.set(base.key, { dtype: base.dtype, shape: base.shape, load: () => download(base.tensor) });
  }
  const complete = { ...config, ...(baseModel === undefined ? {} : { baseModelNameOrPath: baseModel }) };
  const schema: ConfigSchema = method.schema;
  return writeAdapter(folder, {
    schema,
    config: toFileConfig(schema, complete) as Partial<FileConfig<ConfigSchema>>,
    tensors,
    name,
  });
}

/** Layers whose whole weight PEFT puts beside the adapter, because words may have been added to the vocabulary. */
const vocabularyLayers = ["embed_tokens", "lm_head"];

function baseWeightToSave(path: string, tensor: Tensor, { targetModules }: AnyConfig) {
  const last = path.slice(path.lastIndexOf(".") + 1);
  if (!vocabularyLayers.includes(last) || (Array.isArray(targetModules) && !targetModules.includes(last))) return undefined;
  return { key: toFileKey(`${path}.base_layer.weight`, ""), dtype: tensor.dtype, shape: tensor.shape, tensor };
}

export interface LoadOptions {
  readonly name?: string;
  /** Whether training may change it; false when absent, as in PEFT. */
  readonly trainable?: boolean;
  /** Of dropout, when it is trained further. */
  readonly seed?: number;
}

/**
 * Attaches the adapter saved in `folder`. Halves are widened to float32.
 *
 * @throws {FormatError} when a tensor is missing or unexpected; @throws {ShapeError} when one has another shape;
 *   @throws {ConfigError} when the config wants what is not there. The model is unchanged then.
 */
export async function loadAdapter(
  model: Module,
  folder: string,
  { name = defaultAdapterName, trainable = false, seed = 0 }: LoadOptions = {},
): Promise<Adapter> {
  const operation = "loadAdapter";
  const known: readonly AnyMethod[] = Object.values(methods);
  const read = await readAdapter<ConfigSchema>(folder, [...new Set(known.map(({ schema }) => schema))]);
  const config = toCamel(read.config);
  const candidates = known.filter(({ schema }) => schema === read.schema);
  const method = candidates.find((each) => each.claims?.(config as never)) ?? candidates.find((each) => !each.claims);
  if (!method) throw new ConfigError(`no method is for this ${read.schema.peftType} config.`, { operation, got: read.config });
  // the flag says nothing about the adapter: PEFT writes true whatever it was
  const checked = method({ ...config, inferenceMode: !trainable, peftVersion: null }) as unknown as AnyAdapterConfig;
  const plan = planAttach(model, checked, name);
  const values = await valuesOf(plan.layers, read.tensors, checked.method);
  const adapter = install(
    model,
    { ...plan, warnings: [...read.warnings, ...plan.warnings] },
    { name, trainable, seed },
    (layer) => ({
      values: values.get(layer.path) as Record<string, TypedArray>,
    }),
  );
  return adapter;
}

/** Finds, checks and reads the tensors of every layer. */
async function valuesOf(layers: readonly PlannedLayer[], stored: ReadonlyMap<string, StoredTensor>, method: AnyMethod) {
  const operation = "loadAdapter";
  const found = new Map<string, { readonly layer: PlannedLayer; readonly key: string; readonly tensor: StoredTensor }>();
  const name = defaultAdapterName;
  for (const layer of layers)
    for (const [key, spec] of Object.entries(layer.specs)) {
      const file = layer.method.files[key] as string;
      const fileKey = toFileKey(`${layer.path}.${liveName(file, name)}`, name);
      const other = fileKey.endsWith(".weight") ? fileKey.slice(0, -".weight".length) : `${fileKey}.weight`;
      const tensor = stored.get(fileKey) ?? stored.get(other);
      if (!tensor)
        throw new FormatError(`${file} of ${layer.path} is not in the file, but the config says that this layer is adapted.`, {
          operation,
          expected: fileKey,
        });
      if (!sameShape(tensor.shape, spec.shape)) throw wrongShape(layer, file, tensor.shape, spec.shape, method);
      found.set(tensor.name, { layer, key, tensor });
    }
  for (const fileKey of stored.keys())
    if (!found.has(fileKey) && !fileKey.endsWith(".base_layer.weight"))
      throw new FormatError(`"${fileKey}" belongs to no layer that the config adapts.`, {
        operation,
        got: fileKey,
        hint: "The adapter may be for another base model, or the config is not its own.",
      });
  const values = new Map<string, Record<string, TypedArray>>(layers.map(({ path }) => [path, {}]));
  for (const { layer, key, tensor } of found.values())
    values.get(layer.path)![key] = toFloat32(await tensor.load(), tensor.dtype);
  return values;
}

function wrongShape(
  { path, config }: PlannedLayer,
  file: string,
  got: readonly number[],
  expected: readonly number[],
  { patterns }: AnyMethod,
): ShapeError {
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

/** Values in float32; halves come as bit patterns. */
function toFloat32(values: TypedArray, dtype: StoredTensor["dtype"]): Float32Array {
  if (values instanceof Float32Array) return values;
  const widen = dtype === "float16" ? fromFloat16Bits : dtype === "bfloat16" ? fromBFloat16Bits : (value: number) => value;
  return Float32Array.from(values as ArrayLike<number>, widen);
}
