/** Models on disk: a folder with `config.json` and safetensors files, as Hugging Face's `save_pretrained` writes it. */
import { currentDevice, download, upload } from "../compile/program.ts";
import { ConfigError, FormatError, nearestName, ShapeError, wordShape } from "../errors.ts";
import { nodeModule, wordSystemError, writeFileAtomically } from "../formats/atomic-file.ts";
import type { StoredTensor, TensorToWrite } from "../formats/safetensors.ts";
import { type Checkpoint, openCheckpoint, writeCheckpoint } from "../formats/sharded.ts";
import { fromBFloat16Bits, fromFloat16Bits, isFloat, type TypedArray, toBFloat16Bits, toFloat16Bits } from "../graph/dtype.ts";
import { sameShape } from "../graph/shape.ts";
import type { CausalLM } from "../models/causal-lm.ts";
import type { ConfigJson } from "../models/llama-config.ts";
import { createModel } from "../models/registry.ts";
import type { Module } from "../nn/module.ts";

export interface LoadedModel {
  readonly model: CausalLM;
  /** `config.json` as it is in the folder. */
  readonly config: ConfigJson;
}

/**
 * Loads a model. Weights of 16 bits are widened to float32.
 *
 * @param folder with `config.json` and `model.safetensors`, or shards with their index
 * @throws {ConfigError} when a file is missing or the configuration is not supported
 * @throws {FormatError} when the checkpoint lacks a parameter or has one that the model does not know; @throws {ShapeError} for another shape
 */
export async function loadModel(folder: string): Promise<LoadedModel> {
  const config = await readConfig(folder);
  const checkpoint = await openCheckpoint(folder);
  const model = createModel(config);
  await loadCheckpoint(model, checkpoint);
  return { model, config };
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

/** Tensors that some checkpoints carry and that are computed anew here. */
const derived = /(^|\.)(rotary_emb\.inv_freq|attn\.(masked_)?bias|position_ids)$/;

/**
 * Fills a model's parameters from a checkpoint. Names and shapes are checked first; nothing is changed when one does not fit.
 *
 * @throws {FormatError} for a missing or an unknown name; @throws {ShapeError} for another shape
 */
export async function loadCheckpoint(model: Module, checkpoint: Checkpoint): Promise<void> {
  const operation = "loadModel";
  const own = new Map(model.namedParameters());
  const aliases = sharedNames(model);
  for (const [name, parameter] of own) {
    const stored = checkpoint.tensors.get(name);
    if (!stored)
      throw new FormatError(`${checkpoint.source} lacks "${name}".`, {
        operation,
        expected: name,
        ...hint(name, checkpoint.tensors.keys()),
      });
    if (!sameShape(stored.shape, parameter.shape))
      throw new ShapeError(
        `"${name}" is ${wordShape(stored.shape)} in ${checkpoint.source}, ${wordShape(parameter.shape)} by config.json.`,
        {
          operation,
          expected: parameter.shape,
          got: stored.shape,
        },
      );
    if (!isFloat(stored.dtype))
      throw new FormatError(`"${name}" holds ${stored.storedDType} values in ${checkpoint.source}.`, {
        operation,
        got: stored.storedDType,
        hint: "Quantised checkpoints are not supported.",
      });
  }
  for (const name of checkpoint.tensors.keys())
    if (!own.has(name) && !aliases.has(name) && !derived.test(name))
      throw new FormatError(`"${name}" of ${checkpoint.source} is no parameter of this model.`, {
        operation,
        got: name,
        ...hint(name, own.keys()),
      });
  for (const [name, parameter] of own) {
    const values = await widened(checkpoint.get(name));
    using loaded = upload(currentDevice(), values, parameter.shape, "float32");
    parameter.assign(loaded);
  }
}

/** Names under which a parameter is reached a second time: a tied output layer. */
function sharedNames(model: Module): Set<string> {
  const first = new Set([...model.namedParameters()].map(([name]) => name));
  const all = [...model.namedModules()].flatMap(([path, module]) =>
    [...module.ownParameters()].map(([name]) => (path === "" ? name : `${path}.${name}`)),
  );
  return new Set(all.filter((name) => !first.has(name)));
}

async function widened(stored: StoredTensor): Promise<Float32Array> {
  const values = await stored.load();
  if (stored.dtype === "float16") return Float32Array.from(values, fromFloat16Bits);
  if (stored.dtype === "bfloat16") return Float32Array.from(values, fromBFloat16Bits);
  return values instanceof Float32Array ? values : Float32Array.from(values);
}

export type SavedDType = "float32" | "float16" | "bfloat16";

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
  for (const [name, parameter] of model.namedParameters())
    tensors.set(name, { dtype, shape: parameter.shape, load: async () => narrow(await download(parameter.stored)) });
  await writeCheckpoint(folder, tensors, { maxShardBytes });
  const { torch_dtype, ...rest } = config;
  const written = torch_dtype === undefined ? { ...rest, dtype } : { ...rest, torch_dtype: dtype };
  await writeFileAtomically(nodeModule("path", "saveModel").join(folder, "config.json"), `${JSON.stringify(written, null, 2)}\n`);
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
