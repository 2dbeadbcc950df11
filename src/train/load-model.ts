/** Models on disk: a folder with `config.json` and safetensors files, as Hugging Face's `save_pretrained` writes it. */
import { currentDevice, download, upload } from "../compile/program.ts";
import { ConfigError, FormatError, nearestName, ShapeError, wordShape } from "../errors.ts";
import { nodeModule, wordSystemError } from "../formats/atomic-file.ts";
import type { StoredTensor, TensorToWrite } from "../formats/safetensors.ts";
import { type Checkpoint, openCheckpoint, writeCheckpoint } from "../formats/sharded.ts";
import { fromBFloat16Bits, fromFloat16Bits, isFloat, type TypedArray, toBFloat16Bits, toFloat16Bits } from "../graph/dtype.ts";
import { sameShape } from "../graph/shape.ts";
import type { CausalLM } from "../models/causal-lm.ts";
import type { CheckpointNames } from "../models/checkpoint-name.ts";
import type { ConfigJson } from "../models/config-reader.ts";
import { createModel } from "../models/registry.ts";
import type { ModelByTask, Task } from "../models/task.ts";
import { type Initializer, zeros } from "../nn/init.ts";
import type { Module } from "../nn/module.ts";
import { loadTokenizer, type Tokenizer } from "../text/tokenizer.ts";

/** What a model's folder holds. */
export interface LoadedModel<Model extends Module = CausalLM> {
  readonly model: Model;
  /** The tokenizer of the folder. Asking for it throws a {@link FormatError} when there is none that can be used. */
  readonly tokenizer: Tokenizer;
  /** `config.json` as it is in the folder. */
  readonly config: ConfigJson;
}

/**
 * Loads a model and its tokenizer. Weights of 16 bits are widened to float32.
 *
 * @param folder with `config.json` and `model.safetensors`, or shards with their index
 * @param options.task what the model is wanted for: `"CausalLM"`, continuing a text, when absent
 * @throws {ConfigError} when a file is missing, the configuration is not supported or the model is for something else
 * @throws {FormatError} when the checkpoint lacks a parameter or has one that the model does not know; @throws {ShapeError} for another shape
 * @example
 * const { model, tokenizer } = await loadModel("models/tiny");
 */
export async function loadModel<T extends Task = "CausalLM">(
  folder: string,
  options: { readonly task?: T } = {},
): Promise<LoadedModel<ModelByTask[T]>> {
  const config = await readConfig(folder);
  const checkpoint = await openCheckpoint(folder);
  const model = createModel<T>(config, { ...options, init: noMoreThan(checkpoint) });
  await loadCheckpoint(model, checkpoint);
  // weights without a tokenizer are of use too: what is wrong with it is said to those who ask for it
  const found = await loadTokenizer(folder).catch((error: unknown) => ({ error }));
  return {
    model,
    config,
    get tokenizer() {
      if ("error" in found) throw found.error;
      return found;
    },
  };
}

/** @throws {ConfigError} when the file cannot be read; @throws {FormatError} when it is not a JSON object */
export async function readConfig(folder: string): Promise<ConfigJson> {
  const operation = "loadModel";
  const fs = nodeModule("fs/promises", operation);
  const path = nodeModule("path", operation).join(folder, "config.json");
  const text = await fs.readFile(path, "utf8").catch((error) => {
    throw wordSystemError(error, operation, path, "read");
  });
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    throw new FormatError(`${path} is not JSON: ${(error as Error).message}.`, { operation });
  }
  if (typeof json !== "object" || json === null || Array.isArray(json))
    throw new FormatError(`${path} is not a JSON object.`, { operation, got: json });
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
  for (const [path, parameter] of own) {
    const values = await widened(stored.get(path) as StoredTensor);
    using loaded = upload(currentDevice(), values, parameter.shape, "float32");
    parameter.assign(loaded);
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
      const [a, b] = [await widened(shared), await widened(own)];
      if (a.length !== b.length || a.some((value, i) => value !== b[i]))
        throw new FormatError(`"${path}" of ${source} is not "${first.get(parameter)}", which config.json says it shares.`, {
          operation: "loadModel",
          got: path,
          hint: "Set `tie_word_embeddings` in config.json to false.",
        });
    }
}

async function widened(stored: StoredTensor): Promise<Float32Array> {
  const values = await stored.load();
  if (stored.dtype === "float16") return Float32Array.from(values, fromFloat16Bits);
  if (stored.dtype === "bfloat16") return Float32Array.from(values, fromBFloat16Bits);
  return values instanceof Float32Array ? values : Float32Array.from(values);
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
