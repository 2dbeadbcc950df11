/** Models in files: `config.json` and safetensors files, as Hugging Face's `save_pretrained` writes them, or GGUF. */

import { currentDevice } from "../compile/program.ts";
import { ConfigError, checkOptions, FormatError, requireKind, under } from "../errors.ts";
import { quantisationConfig, quantisedTensors } from "../formats/bitsandbytes.ts";
import { quantisationOf, widenCodes } from "../formats/coded-checkpoint.ts";
import { diskFolder, type Folder, pathIn, readJson, wordFolder } from "../formats/folder.ts";
import { openGguf } from "../formats/gguf.ts";
import { ggufModel } from "../formats/gguf-model.ts";
import { type ModelSource, openSource, type SourceOptions, sourceOptionRules } from "../formats/model-source.ts";
import type { TensorToWrite } from "../formats/safetensors.ts";
import { type Checkpoint, openCheckpoint, openCheckpointFile, writeCheckpoint } from "../formats/sharded.ts";
import type { FolderTarget } from "../formats/writable-folder.ts";
import { isFloat, type TypedArray, toFloat32 } from "../graph/dtype.ts";
import { sizeOf } from "../graph/shape.ts";
import type { CausalLM } from "../models/causal-lm.ts";
import { type CheckpointNames, isOfOutput } from "../models/checkpoint-name.ts";
import { type ConfigJson, refuseUnreadable } from "../models/config-reader.ts";
import { createModel } from "../models/create-model.ts";
import { outputStd } from "../models/family.ts";
import { CodedMatrices, Experts } from "../models/mixture.ts";
import { forTask, textPart, withLabels } from "../models/other-task.ts";
import type { ModelByTask, Task } from "../models/task.ts";
import type { Initializer } from "../nn/init.ts";
import { Conv1D, Linear } from "../nn/linear.ts";
import { type Module, requireModule } from "../nn/module.ts";
import { QuantisedLinear } from "../nn/quantised-linear.ts";
import { dynamicMap } from "../nn/quantiser.ts";
import { baseModules } from "../peft/adapted-model.ts";
import { baseParameters, refuseUnmerged } from "../peft/base-weight.ts";
import { readTokenizer } from "../text/load-tokenizer.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import type { GenerateOptions } from "./generation.ts";
import { generationOptions } from "./generation-config.ts";
import { type KeepOptions, loadWeights, narrowing, type SavedDType } from "./load-weights.ts";
import { readSentence, writeSentence } from "./sentence.ts";
import { inParts, widenedParts } from "./weight-part.ts";

/** What a model's folder holds. */
export interface LoadedModel<Model extends Module = CausalLM> {
  readonly model: Model;
  /** The tokenizer of the folder. Asking for it throws a {@link FormatError} when there is none that can be used. */
  readonly tokenizer: Tokenizer;
  /** `config.json` as it is in the folder (of Qwen3.5, which reads images, too, that of the text part, which is what is loaded), with the `labels` that were asked for. */
  readonly config: ConfigJson;
  /** Paths of parameters that the checkpoint does not have and that are yet to be trained. */
  readonly drawn: readonly string[];
  /**
   * What `generation_config.json`, or where there is none `config.json`, says about writing texts.
   * Asking throws a {@link ConfigError} for values that cannot be meant.
   */
  readonly generation: GenerateOptions;
}

/** What is loaded, from where, and how it is kept. */
export interface LoadModelOptions<T extends Task = "CausalLM"> extends SourceOptions, KeepOptions {
  /**
   * What the model is wanted for: `"CausalLM"`, continuing a text, when absent. `"FeatureExtraction"` and `"QuestionAnswering"` take a
   * checkpoint with any output layer; what they lack is drawn and named in `drawn`.
   */
  readonly task?: T;
  /**
   * Classes, how many or their names, of a new output layer: a pretrained model becomes a classifier that is yet to be trained. What the
   * checkpoint has of such a layer, in these sizes, is taken; the rest is drawn and named in `drawn`. The checkpoint's own classes when absent.
   * An adapter of task `"SEQ_CLS"` or `"TOKEN_CLS"` trains and saves `score` or `classifier`; what else is drawn belongs into `modulesToSave`.
   */
  readonly labels?: number | readonly string[];
}

/**
 * Loads a model and its tokenizer. Weights of 16 bits and GGUF's blocks are widened to float32 unless `dtype` says otherwise; layers
 * that transformers has saved with `load_in_4bit` or `load_in_8bit` (bitsandbytes) stay the codes that they are, and so do gpt-oss' experts in
 * MXFP4; other codes are widened: float8 with scales, GPTQ, AWQ, compressed-tensors', ModelOpt's and MLX'. One part of one tensor is in memory besides the model.
 *
 * @param source the path of a folder with `config.json` and `model.safetensors` (or shards with their index), of one safetensors
 * file with `config.json` beside it, or of a GGUF file; the name of a repository of the Hub, which is downloaded as far as needed
 * and kept where Python keeps it; or `{ files }`, which a browser has
 * @param options.revision a branch, tag or commit of the Hub; the other options for it are in {@link HubOptions}
 * @param options.file the one file of the folder that is meant, such as one of several GGUF files
 * @throws {ConfigError} when a file is missing, the configuration is not supported or the model is for something else
 * @throws {FormatError} when the checkpoint lacks a parameter or has one that the model does not know; @throws {ShapeError} for another shape
 * @example
 * const { model, tokenizer } = await loadModel("models/tiny");
 * const judge = await loadModel("models/tiny", { task: "SequenceClassification", labels: ["dull", "thrilling"] });
 * judge.drawn   // [ "score.weight" ]
 */
export async function loadModel<T extends Task = "CausalLM">(
  source: ModelSource,
  options: LoadModelOptions<T> = {},
): Promise<LoadedModel<ModelByTask[T]>> {
  checkOptions<LoadModelOptions<Task>>("loadModel", options, {
    ...sourceOptionRules,
    task: "a string",
    labels: null,
    dtype: "a string",
    quantise: "an object",
  });
  const { folder, file } = await openSource(source, "loadModel", options);
  const gguf = ggufFile(folder, file);
  const { config: stored, checkpoint } = gguf
    ? await ggufModel(await openGguf(folder, gguf))
    : await openModel(folder, file, options);
  const { task, labels, dtype, quantise } = options;
  const other = forTask(stored, task ?? "CausalLM");
  if (other && labels !== undefined)
    throw new ConfigError("`labels` are for classifiers.", { operation: "loadModel", got: labels });
  const config = other?.[0] ?? (labels === undefined ? stored : withLabels(stored, task ?? "CausalLM", labels));
  const make = () => createModel<T>(config, { ...(task && { task }), init: noMoreThan(checkpoint) });
  const model = under("loadModel", make, ["createModel"]);
  const draw = {
    std: (path: string) => outputStd(model as Module, path, config),
    isNew: other?.[1] ?? (labels === undefined ? () => false : isOfOutput),
  };
  const drawn = await loadWeights(model, checkpoint, { ...(dtype && { dtype }), ...(quantise && { quantise }) }, draw);
  // weights without a tokenizer are of use too: what is wrong with it is said to those who ask for it
  const found = await readTokenizer(folder, gguf).catch((error: unknown) => ({ error }));
  const generation = await readGeneration(folder, config);
  if (task === "FeatureExtraction") await readSentence(folder, model as Module);
  return {
    model,
    config,
    drawn,
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

async function openModel(
  folder: Folder,
  file: string | undefined,
  keep: KeepOptions,
): Promise<{ config: ConfigJson; checkpoint: Checkpoint }> {
  const json = await readConfig(folder);
  const config = textPart(json);
  refuseUnreadable(quantisationOf(json), "loadModel");
  if (file === undefined && config === json) await refuseTooLarge(folder, keep, quantisationOf(json) !== undefined);
  const checkpoint = file ? await openCheckpointFile(folder, file) : await under("loadModel", () => openCheckpoint(folder));
  return { config, checkpoint: await widenCodes(checkpoint, json) };
}

/**
 * Refuses what cannot fit before it is downloaded: the index of several files says how large they are together, and in memory no format
 * takes less than a part of that.
 *
 * @throws {ConfigError}
 */
async function refuseTooLarge(folder: Folder, { dtype, quantise }: KeepOptions, isCoded: boolean): Promise<void> {
  const index = "model.safetensors.index.json";
  const { mostBytes: most, name } = currentDevice();
  if (most === undefined || folder.files.has("model.safetensors") || !folder.files.has(index)) return;
  const { metadata } = (await readObject(folder, index)) as { readonly metadata?: { readonly total_size?: unknown } };
  const total = Number(metadata?.total_size);
  const halves = dtype === "float16" || dtype === "bfloat16";
  const least = total / (quantise ? 8 : halves ? 2 : 1);
  if (!(least > most)) return;
  const gigabytes = (bytes: number) => `${(bytes / 1e9).toFixed(1)} GB`;
  const mayFit = total / 4 <= most && !quantise && !isCoded;
  throw new ConfigError(
    `the weights of ${wordFolder(folder)} (${gigabytes(total)} in files) take ${gigabytes(least)} or more, and ${name} has ${gigabytes(most)} of memory.`,
    {
      operation: "loadModel",
      expected: most,
      got: total,
      hint: mayFit ? 'Fewer bits may fit: { quantise: { type: "nf4" } }. Or take a smaller model.' : "Take a smaller model.",
    },
  );
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
 * Nothing, for matrices that a checkpoint will fill: they take no memory before. A config.json that asks for far more values than there
 * are is found out before the memory is gone; smaller differences are left to the comparison of names and shapes, which says more.
 */
function noMoreThan({ source, tensors }: Checkpoint): Initializer {
  const held = [...tensors.values()].reduce((sum, { shape }) => sum + sizeOf(shape), 0);
  let asked = 0;
  return (shape) => {
    asked += sizeOf(shape);
    if (asked > 2 * held + 2 ** 20)
      throw new ConfigError(`config.json describes a far larger model than ${source} holds, which has ${held} values.`, {
        operation: "loadModel",
        expected: held,
        got: shape,
        hint: "One of the two files is of another model.",
      });
    return new Float32Array(0);
  };
}

/** Whole numbers under keys whose values transformers refuses unless they have a point. */
const pointed =
  /"(?:(?:attn|final)_logit_softcapping|initializer_(?:range|(?:cutoff_)?factor)|init_std|\w+_eps|layer_norm_epsilon|attention_factor|router_(?:aux_loss_coef|jitter_noise)|swiglu_(?:alpha|limit)|clip_qkv|llm_int8_threshold)": \d+(?=[,\n])/g;

/** How a model is stored. */
export interface SaveOptions {
  /** How weights are stored. */
  readonly dtype?: SavedDType;
  /** Bytes of tensors in one file, past which there are several. */
  readonly maxShardBytes?: number;
}

/**
 * Writes a model as `loadModel` and Hugging Face's `from_pretrained` read it: `config.json`, which names the dtype, and
 * `model.safetensors`, into a path or a folder of another kind. A parameter that two layers share is written once; weights of codes are
 * written as bitsandbytes keeps them. What a folder of sentence-transformers had beside the model is written again. Of a model with adapters the base model is written, with what is merged into it.
 *
 * @throws {ConfigError} when the folder cannot be written, or adapters act that are not merged
 */
export async function saveModel(
  folder: FolderTarget,
  model: Module,
  config: ConfigJson,
  options: SaveOptions = {},
): Promise<void> {
  const { dtype = "float32", maxShardBytes = 5e9 } = checkOptions("saveModel", options, {
    dtype: null,
    maxShardBytes: "a number above 0, or Infinity",
  });
  requireKind("saveModel", "an object", { config });
  const narrow = narrowing[dtype];
  if (!narrow)
    throw new ConfigError(`\`dtype\` (= ${JSON.stringify(dtype)}) must be float32, float16 or bfloat16.`, {
      operation: "saveModel",
      got: dtype,
    });
  requireModule("saveModel", model);
  refuseUnmerged(model, "saveModel");
  const modules = baseModules(model);
  const tensors = new Map<string, TensorToWrite>();
  const names: Partial<CheckpointNames> = model as Module & Partial<CheckpointNames>;
  const nameOf = (path: string) => names.nameOf?.(path) ?? path;
  const layers = [...modules].flatMap(([path, module]) => (module instanceof QuantisedLinear ? [[path, module] as const] : []));
  for (const [path, layer] of layers)
    for (const [part, tensor] of quantisedTensors(layer.weightData(), dynamicMap()))
      tensors.set(nameOf(`${path}.${part}`), tensor);
  // experts' codes have no form in files that others read: what they stand for is written
  const coded = [...modules].flatMap(([path, module]) =>
    module instanceof Experts
      ? module
          .matrices()
          .flatMap(([name, matrix]) => (matrix instanceof CodedMatrices ? [[`${path}.${name}`, matrix] as const] : []))
      : [],
  );
  for (const [path, matrix] of coded) {
    const parts = names.partsOf?.(path, matrix.shape) ?? [nameOf(path)];
    for (const [name, tensor] of widenedParts(parts, matrix, dtype, narrow)) tensors.set(name, tensor);
  }
  const written = [...layers, ...coded].map(([path]) => path);
  for (const [path, parameter] of baseParameters(model))
    if (isFloat(parameter.dtype) && !written.some((layer) => path !== `${layer}.bias` && path.startsWith(`${layer}.`))) {
      const parts = names.partsOf?.(path, parameter.shape) ?? nameOf(path);
      const write = (values: TypedArray) => narrow(toFloat32(values, parameter.dtype));
      for (const [name, tensor] of inParts(parts, parameter, dtype, write)) tensors.set(name, tensor);
    }
  const { torch_dtype, quantization_config, compression_config: _, quantization: __, ...rest } = config;
  const [first] = layers;
  const floats = [...modules].filter(([, module]) => module instanceof Linear || module instanceof Conv1D);
  const skipped = floats.map(([path]) => nameOf(`${path}.weight`).slice(0, -".weight".length));
  const codes = first && quantisationConfig(first[1].quantiser, skipped, quantization_config);
  const json: Record<string, unknown> = {
    ...rest,
    ...(codes && { quantization_config: codes }),
    [torch_dtype === undefined ? "dtype" : "torch_dtype"]: dtype,
  };
  // a merged adapter may have given the output layer a weight of its own, where config.json, or the model's default, ties it
  const made = (model as Module & { readonly config?: { readonly [key: string]: unknown } }).config;
  const isUntied = ["lm_head", "embed_out", "decoder", "vocab_projector", "generator_lm_head"].some((layer) =>
    tensors.has(`${layer}.weight`),
  );
  if (isUntied && (made?.["tieWordEmbeddings"] ?? json["tie_word_embeddings"])) {
    json["tie_word_embeddings"] = false;
    // of T5, where that follows the tying unless it is said
    if (made?.["scaleDecoderOutputs"] !== undefined) json["scale_decoder_outputs"] = made["scaleDecoderOutputs"];
  }
  const text = JSON.stringify(json, null, 2).replace(pointed, "$&.0");
  const files = new Map([["config.json", `${text}\n`]]);
  await writeSentence(folder, model, "saveModel");
  await under("saveModel", () => writeCheckpoint(folder, tensors, { maxShardBytes, files }));
}
