/** Models in files: `config.json` and safetensors files, as Hugging Face's `save_pretrained` writes them, or GGUF. */
import { download } from "../compile/program.ts";
import type { Buffer, Device } from "../devices/device.ts";
import { ConfigError, FormatError, nearestName, ShapeError, wordShape } from "../errors.ts";
import { diskFolder, type Folder, pathIn, readJson, wordFolder } from "../formats/folder.ts";
import { openGguf } from "../formats/gguf.ts";
import { ggufModel } from "../formats/gguf-model.ts";
import { type ModelSource, openSource, type SourceOptions } from "../formats/model-source.ts";
import type { StoredTensor, TensorToWrite } from "../formats/safetensors.ts";
import { type Checkpoint, openCheckpoint, openCheckpointFile, writeCheckpoint } from "../formats/sharded.ts";
import { isFloat, type TypedArray, toBFloat16Bits, toFloat16Bits, toFloat32 } from "../graph/dtype.ts";
import { sameShape, sizeOf } from "../graph/shape.ts";
import type { CausalLM } from "../models/causal-lm.ts";
import type { CheckpointNames } from "../models/checkpoint-name.ts";
import type { ConfigJson } from "../models/config-reader.ts";
import { createModel } from "../models/registry.ts";
import type { ModelByTask, Task } from "../models/task.ts";
import { type Initializer, zeros } from "../nn/init.ts";
import type { Module, Parameter } from "../nn/module.ts";
import { readTokenizer } from "../text/load-tokenizer.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import type { GenerateOptions } from "./generation.ts";
import { generationOptions } from "./generation-config.ts";

/** What a model's folder holds. */
export interface LoadedModel<Model extends Module = CausalLM> {
  readonly model: Model;
  /** The tokenizer of the folder. Asking for it throws a {@link FormatError} when there is none that can be used. */
  readonly tokenizer: Tokenizer;
  /** `config.json` as it is in the folder. */
  readonly config: ConfigJson;
  /** What `generation_config.json`, or where there is none `config.json`, says about writing texts. Asking throws a {@link ConfigError} for values that cannot be meant. */
  readonly generation: GenerateOptions;
}

/** What is loaded, and from where. */
export interface LoadModelOptions<T extends Task = "CausalLM"> extends SourceOptions {
  /** What the model is wanted for: `"CausalLM"`, continuing a text, when absent. */
  readonly task?: T;
}

/**
 * Loads a model and its tokenizer. Weights of 16 bits and GGUF's blocks are widened to float32; one part of one tensor is in
 * memory besides the model.
 *
 * @param source the path of a folder with `config.json` and `model.safetensors` (or shards with their index), of one safetensors
 * file with `config.json` beside it, or of a GGUF file; or `{ files }`, which a browser has
 * @param options.file the one file of the folder that is meant, such as one of several GGUF files
 * @throws {ConfigError} when a file is missing, the configuration is not supported or the model is for something else
 * @throws {FormatError} when the checkpoint lacks a parameter or has one that the model does not know; @throws {ShapeError} for another shape
 * @example
 * const { model, tokenizer } = await loadModel("models/tiny");
 */
export async function loadModel<T extends Task = "CausalLM">(
  source: ModelSource,
  options: LoadModelOptions<T> = {},
): Promise<LoadedModel<ModelByTask[T]>> {
  const { folder, file } = await openSource(source, "loadModel", options);
  const gguf = ggufFile(folder, file);
  const { config, checkpoint } = gguf ? await ggufModel(await openGguf(folder, gguf)) : await openModel(folder, file);
  const model = createModel<T>(config, { ...options, init: noMoreThan(checkpoint) });
  await loadCheckpoint(model, checkpoint);
  // weights without a tokenizer are of use too: what is wrong with it is said to those who ask for it
  const found = await readTokenizer(folder, gguf).catch((error: unknown) => ({ error }));
  const generation = await readGeneration(folder, config);
  return {
    model,
    config,
    get generation() {
      return generation();
    },
    get tokenizer() {
      if ("error" in found) throw found.error;
      return found;
    },
  };
}

/** Settings of generation, and what is wrong with them to those who ask for them. */
async function readGeneration(folder: Folder, config: ConfigJson): Promise<() => GenerateOptions> {
  const file = "generation_config.json";
  if (!folder.files.has(file)) return () => generationOptions(undefined, config);
  const found = await readObject(folder, file).catch((error: unknown) => error as Error);
  return () => {
    if (found instanceof Error) throw found;
    return generationOptions(found as ConfigJson, config);
  };
}

async function openModel(folder: Folder, file: string | undefined): Promise<{ config: ConfigJson; checkpoint: Checkpoint }> {
  const config = await readConfig(folder);
  return { config, checkpoint: file ? await openCheckpointFile(folder, file) : await openCheckpoint(folder) };
}

/**
 * The GGUF file that is meant: the one that was named, or the only one of a folder without a `config.json`.
 *
 * @throws {ConfigError} when there are several
 */
function ggufFile(folder: Folder, file: string | undefined): string | undefined {
  if (file !== undefined || folder.files.has("config.json")) return file?.endsWith(".gguf") ? file : undefined;
  const found = [...folder.files].filter((name) => /\.gguf$/.test(name) && !/-(?!00001)\d{5}-of-\d{5}\.gguf$/.test(name)).sort();
  if (found.length > 1)
    throw new ConfigError(`${wordFolder(folder)} has several GGUF files: ${found.join(", ")}.`, {
      operation: "loadModel",
      got: found,
      hint: `Say which: { file: ${JSON.stringify(found[0])} }.`,
    });
  return found[0];
}

/** @throws {ConfigError} when the file cannot be read; @throws {FormatError} when it is not a JSON object */
export async function readConfig(source: string | Folder): Promise<ConfigJson> {
  const operation = "loadModel";
  const folder = typeof source === "string" ? await diskFolder(source, operation) : source;
  return readObject(folder, "config.json");
}

async function readObject(folder: Folder, file: string): Promise<ConfigJson> {
  const operation = "loadModel";
  const json = await readJson(folder, file, operation);
  if (typeof json !== "object" || json === null || Array.isArray(json))
    throw new FormatError(`${pathIn(folder, file)} is not a JSON object.`, { operation, got: json });
  return json as ConfigJson;
}

/**
 * Zeros, for matrices that a checkpoint will fill. A config.json that asks for far more values than there are is found out
 * before the memory is gone; smaller differences are left to the comparison of names and shapes, which says more.
 */
function noMoreThan({ source, tensors }: Checkpoint): Initializer {
  const held = [...tensors.values()].reduce((sum, { shape }) => sum + shape.reduce((product, size) => product * size, 1), 0);
  let asked = 0;
  return (shape) => {
    asked += shape.reduce((product, size) => product * size, 1);
    if (asked > 2 * held + 2 ** 20)
      throw new ConfigError(`config.json describes a far larger model than ${source} holds, which has ${held} values.`, {
        operation: "loadModel",
        expected: held,
        got: shape,
        hint: "One of the two files is of another model.",
      });
    return zeros(shape);
  };
}

/** Tensors that some checkpoints carry and that are computed anew here. */
const derived = /(^|\.)(rotary_emb\.inv_freq|attn\.(masked_)?bias|position_ids)$/;

/**
 * Fills a model's parameters from a checkpoint. Names and shapes are checked first; nothing is changed when one does not fit.
 * The values go into the memory that the parameters have, so that it is needed once: tensors read from them before change too.
 *
 * @throws {FormatError} for a missing or an unknown name; @throws {ShapeError} for another shape
 */
export async function loadCheckpoint(model: Module, checkpoint: Checkpoint): Promise<void> {
  const operation = "loadModel";
  const names: Partial<CheckpointNames> = model as Module & Partial<CheckpointNames>;
  const own = new Map(model.namedParameters());
  const aliases = model.sharedPaths();
  const stored = new Map<string, StoredTensor>(); // by path in the model
  for (const name of checkpoint.tensors.keys()) {
    const path = names.pathOf ? names.pathOf(name) : name;
    if (path !== null && !derived.test(path)) stored.set(path, checkpoint.get(name));
  }
  for (const [path, parameter] of own) {
    const found = stored.get(path);
    if (!found)
      throw new FormatError(`${checkpoint.source} lacks "${names.nameOf?.(path) ?? path}".`, {
        operation,
        expected: path,
        ...hint(path, checkpoint.tensors.keys()),
      });
    if (!sameShape(found.shape, parameter.shape))
      throw new ShapeError(
        `"${path}" is ${wordShape(found.shape)} in ${checkpoint.source}, ${wordShape(parameter.shape)} by config.json.`,
        {
          operation,
          expected: parameter.shape,
          got: found.shape,
        },
      );
    if (!isFloat(found.dtype))
      throw new FormatError(`"${path}" holds ${found.storedDType} values in ${checkpoint.source}.`, {
        operation,
        got: found.storedDType,
        hint: "Quantised checkpoints are not supported.",
      });
  }
  for (const path of stored.keys())
    if (!own.has(path) && !aliases.has(path))
      throw new FormatError(`"${path}" of ${checkpoint.source} is no parameter of this model.`, {
        operation,
        got: path,
        ...hint(path, own.keys()),
      });
  await refuseUntied(model, stored, checkpoint.source);
  for (const [path, parameter] of own) await fill(parameter, stored.get(path) as StoredTensor);
}

/** Values that are in memory at once besides the model: 16 MB of float32. */
const partSize = 2 ** 22;

/** Writes a tensor into the memory of a parameter, part by part. */
async function fill(parameter: Parameter, stored: StoredTensor): Promise<void> {
  const { storage, dtype } = parameter.stored;
  const device = storage?.device as Device;
  for (let from = 0; from < parameter.size; from += partSize) {
    const part = await stored.load(from, Math.min(from + partSize, parameter.size));
    const to = { buffer: storage?.buffer as Buffer, offset: from * device.storageBytes(dtype) };
    device.upload(toFloat32(part, stored.dtype), dtype, to);
  }
}

/** A checkpoint that holds a second name of a shared weight holds the same values under it. */
async function refuseUntied(model: Module, stored: ReadonlyMap<string, StoredTensor>, source: string): Promise<void> {
  const first = new Map([...model.namedParameters()].map(([path, parameter]) => [parameter, path]));
  for (const [at, module] of model.namedModules())
    for (const [name, parameter] of module.ownParameters()) {
      const path = at === "" ? name : `${at}.${name}`;
      const [shared, own] = [stored.get(first.get(parameter) as string), stored.get(path)];
      if (!shared || !own || shared === own) continue;
      if (!(await sameValues(shared, own)))
        throw new FormatError(`"${path}" of ${source} is not "${first.get(parameter)}", which config.json says it shares.`, {
          operation: "loadModel",
          got: path,
          hint: "Set `tie_word_embeddings` in config.json to false.",
        });
    }
}

async function sameValues(a: StoredTensor, b: StoredTensor): Promise<boolean> {
  const size = sizeOf(a.shape);
  if (size !== sizeOf(b.shape)) return false;
  for (let from = 0; from < size; from += partSize) {
    const to = Math.min(from + partSize, size);
    const [x, y] = [toFloat32(await a.load(from, to), a.dtype), toFloat32(await b.load(from, to), b.dtype)];
    if (x.some((value, i) => value !== y[i])) return false;
  }
  return true;
}

/** How weights can be stored. */
export type SavedDType = "float32" | "float16" | "bfloat16";

/** How a model is stored. */
export interface SaveOptions {
  /** How weights are stored. */
  readonly dtype?: SavedDType;
  /** Bytes of tensors in one file, past which there are several. */
  readonly maxShardBytes?: number;
}

/**
 * Writes a model as `loadModel` and Hugging Face's `from_pretrained` read it: `config.json`, which names the dtype, and
 * `model.safetensors`. A parameter that two layers share is written once.
 *
 * @throws {ConfigError} when the folder cannot be written
 */
export async function saveModel(
  folder: string,
  model: Module,
  config: ConfigJson,
  { dtype = "float32", maxShardBytes = 5e9 }: SaveOptions = {},
): Promise<void> {
  const narrow = narrowing[dtype];
  if (!narrow)
    throw new ConfigError(`\`dtype\` (= ${JSON.stringify(dtype)}) must be float32, float16 or bfloat16.`, {
      operation: "saveModel",
      got: dtype,
    });
  const tensors = new Map<string, TensorToWrite>();
  const names: Partial<CheckpointNames> = model as Module & Partial<CheckpointNames>;
  for (const [path, parameter] of model.namedParameters())
    tensors.set(names.nameOf?.(path) ?? path, {
      dtype,
      shape: parameter.shape,
      load: async () => narrow(await download(parameter.stored)),
    });
  const { torch_dtype, ...rest } = config;
  const written: Record<string, unknown> = { ...rest, [torch_dtype === undefined ? "dtype" : "torch_dtype"]: dtype };
  // a merged adapter may have given the output layer a weight of its own
  if (written["tie_word_embeddings"] === true && tensors.has("lm_head.weight")) written["tie_word_embeddings"] = false;
  const files = new Map([["config.json", `${JSON.stringify(written, null, 2)}\n`]]);
  await writeCheckpoint(folder, tensors, { maxShardBytes, files });
}

const narrowing: Readonly<Record<SavedDType, (values: TypedArray) => TypedArray>> = {
  float32: (values) => values,
  float16: (values) => Uint16Array.from(values, toFloat16Bits),
  bfloat16: (values) => Uint16Array.from(values, toBFloat16Bits),
};

function hint(name: string, names: Iterable<string>): { hint?: string } {
  const near = nearestName(name, names);
  return near ? { hint: `The nearest is "${near}".` } : {};
}
