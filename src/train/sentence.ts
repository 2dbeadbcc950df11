/** Folders of sentence-transformers: how a model that was trained to make embeddings goes from states to vectors, read and kept. */
import { ConfigError, FormatError, isRecord, requireOption, wordJson } from "../errors.ts";
import { type Folder, pathIn, readJson } from "../formats/folder.ts";
import { openCheckpointFile } from "../formats/sharded.ts";
import { type FolderTarget, openTarget } from "../formats/writable-folder.ts";
import { toFloat32 } from "../graph/dtype.ts";
import { add } from "../graph/elementwise.ts";
import { type ActivationName, activation, activations } from "../nn/activation.ts";
import { Linear } from "../nn/linear.ts";
import type { Module } from "../nn/module.ts";
import { type Pooling, type Similarity, similarities, unitStep, type VectorStep, type VectorWay } from "./pooling.ts";

const operation = "loadModel";

/** What a folder says of embeddings. */
export interface SentenceFolder {
  /** Asking throws a {@link FormatError} where a step is not known. */
  readonly way: () => VectorWay;
  /** Tokens past which a text is cut off. */
  readonly maxLength: number | undefined;
  readonly lowerCase: boolean;
  /** Texts that are put in front of others, by their names. */
  readonly prompts: ReadonlyMap<string, string>;
  /** The one that is put there when none is named. */
  readonly defaultPrompt: string | undefined;
  readonly similarity: Similarity;
  /** What was read, to be written again. */
  readonly files: ReadonlyMap<string, Uint8Array>;
}

/** By the model whose folder it was. */
const known = new WeakMap<Module, SentenceFolder>();

/** What the folder that a model is from says of embeddings, if it is one of sentence-transformers. */
export const sentenceOf = (model: Module): SentenceFolder | undefined => known.get(model);

/** The names that `pooling_mode` has, and those of the flags that came before it, in the order in which they are put together. */
const modes: ReadonlyMap<string, readonly [Pooling, flag: string]> = new Map([
  ["cls", ["first", "pooling_mode_cls_token"]],
  ["max", ["max", "pooling_mode_max_tokens"]],
  ["mean", ["mean", "pooling_mode_mean_tokens"]],
  ["mean_sqrt_len_tokens", ["meanSqrtLength", "pooling_mode_mean_sqrt_len_tokens"]],
  ["weightedmean", ["weightedMean", "pooling_mode_weightedmean_tokens"]],
  ["lasttoken", ["last", "pooling_mode_lasttoken"]],
]);

/** A text of JSON, or nothing. @throws {FormatError} for something else */
function optionalText(json: Readonly<Record<string, unknown>>, key: string): string | undefined {
  const value = json[key] ?? undefined;
  if (value !== undefined && typeof value !== "string")
    throw new FormatError(`\`${key}\` (= ${wordJson(value)}) must be a string.`, { operation, got: value });
  return value;
}

/** The pooling of a `1_Pooling/config.json`. */
function poolingOf(json: Readonly<Record<string, unknown>>): readonly Pooling[] {
  const given = json["pooling_mode"];
  const flagged = [...modes.values()].flatMap(([mode, flag]) => (json[flag] === true ? [mode] : []));
  if (given === undefined) return flagged.length > 0 ? flagged : ["mean"];
  return [given].flat().map((name) => {
    const found = modes.get(name as string);
    if (found) return found[0];
    const names = [...modes.keys()];
    throw new FormatError(`\`pooling_mode\` (= ${wordJson(name)}) is none of ${names.join(", ")}.`, {
      operation,
      expected: names,
      got: name,
    });
  });
}

/** A frozen linear layer of a file. @param name what its tensors are called there */
async function readLinear(folder: Folder, file: string, name: string): Promise<Linear> {
  const { tensors } = await openCheckpointFile(folder, file);
  const values = async (part: string) => {
    const found = tensors.get(`${name}.${part}`);
    return found && { shape: found.shape, values: toFloat32(await found.load(), found.dtype) };
  };
  const [weight, bias] = [await values("weight"), await values("bias")];
  const [out, into] = weight?.shape ?? [];
  if (!weight || out === undefined || into === undefined)
    throw new FormatError(`${pathIn(folder, file)} lacks "${name}.weight".`, { operation, got: [...tensors.keys()] });
  const layer = new Linear(into, out, {
    bias: bias !== undefined,
    init: () => weight.values,
    initBias: () => bias?.values ?? new Float32Array(out),
  });
  return layer.freeze();
}

/** act(W·x + b), and x or what a second layer makes of it on top where `use_residual` says so. */
async function readDense(folder: Folder, path: string, json: Readonly<Record<string, unknown>>): Promise<VectorStep> {
  const file = `${path}/model.safetensors`;
  const [input = "sentence_embedding", named = "torch.nn.modules.activation.Tanh"] = [
    optionalText(json, "module_input_name"),
    optionalText(json, "activation_function"),
  ];
  if (input !== "sentence_embedding")
    throw new FormatError(`${pathIn(folder, path)} is a layer for "${input}", and those for vectors of texts are known.`, {
      operation,
      got: input,
    });
  const own = named.replace(/^.*\./, "");
  const called = { Identity: "linear", LeakyReLU: "leaky_relu" }[own] ?? own.toLowerCase();
  if (!named.startsWith("torch.") || !Object.hasOwn(activations, called))
    throw new FormatError(`${pathIn(folder, path)} has an activation that is not known: ${named}.`, { operation, got: named });
  const act = activation(called as ActivationName);
  const layer = await readLinear(folder, file, "linear");
  const width = layer.outFeatures;
  if (json["use_residual"] !== true) return { width, run: (x) => act(layer.forward(x)) };
  const around = layer.inFeatures === width ? undefined : await readLinear(folder, file, "residual");
  return { width, run: (x) => add(act(layer.forward(x)), around?.forward(x) ?? x) };
}

/** The steps that `modules.json` names behind the model. @throws {FormatError} for one that is not known */
async function readWay(
  folder: Folder,
  modules: readonly Readonly<Record<string, unknown>>[],
  configs: ReadonlyMap<string, Readonly<Record<string, unknown>>>,
): Promise<VectorWay> {
  let pooling: readonly Pooling[] | undefined;
  let includePrompt = true;
  const steps: VectorStep[] = [];
  for (const module of modules.slice(1)) {
    const [path, type] = [String(module["path"]), String(module["type"])];
    const kind = type.replace(/^.*\./, "");
    const json = configs.get(path) ?? {};
    if (kind === "Pooling" && !pooling && steps.length === 0) {
      pooling = poolingOf(json);
      includePrompt = json["include_prompt"] !== false;
    } else if (kind === "Dense" && pooling) steps.push(await readDense(folder, path, json));
    else if (kind === "Normalize" && pooling) steps.push(unitStep);
    else if (kind !== "Dropout")
      throw new FormatError(`${pathIn(folder, "modules.json")} names a step that is not known: ${type}.`, {
        operation,
        expected: ["Pooling", "Dense", "Normalize"],
        got: type,
        hint: "Say with `pooling` what is to be taken of the states in its place.",
      });
  }
  return { pooling: pooling ?? ["mean"], includePrompt, steps };
}

/**
 * Reads what a folder of sentence-transformers has beside the model, and remembers it with the model.
 *
 * @throws {FormatError} for files that are no JSON, or say what cannot be meant
 */
export async function readSentence(folder: Folder, model: Module): Promise<void> {
  const list = "modules.json";
  if (!folder.files.has(list)) return;
  const files = new Map<string, Uint8Array>();
  /** Bytes of a file that may lie in a folder within this one, whose files are not listed. */
  const keep = async (file: string): Promise<Folder | undefined> => {
    try {
      const { size, read } = await folder.open(file);
      files.set(file, await read(0, size));
      return { ...folder, files: new Set([file]) };
    } catch (error) {
      if (error instanceof ConfigError || error instanceof FormatError) return undefined;
      throw error;
    }
  };
  const object = async (file: string): Promise<Readonly<Record<string, unknown>>> => {
    const place = await keep(file);
    const json = place ? await readJson(place, file, operation) : {};
    if (isRecord(json)) return json;
    throw new FormatError(`${pathIn(folder, file)} is not a JSON object.`, { operation, got: json });
  };
  await keep(list);
  const modules = await readJson(folder, list, operation);
  if (!Array.isArray(modules) || !modules.every(isRecord))
    throw new FormatError(`${pathIn(folder, list)} is not a list of modules.`, { operation, got: modules });
  const configs = new Map<string, Readonly<Record<string, unknown>>>();
  for (const { path } of modules.slice(1)) {
    configs.set(String(path), await object(`${path}/config.json`));
    await keep(`${path}/model.safetensors`);
  }
  const way = await readWay(folder, modules, configs).catch((error: unknown) => error as Error);
  const own = [...folder.files].find((file) => /^sentence_[\w-]+_config\.json$/.test(file));
  const [reading, whole] = [own ? await object(own) : {}, await object("config_sentence_transformers.json")];
  const { max_seq_length: length, do_lower_case: lower } = reading;
  if (length !== undefined && length !== null) requireOption(operation, "a whole number from 1", "max_seq_length", length);
  const prompts = whole["prompts"] ?? {};
  if (!isRecord(prompts) || !Object.values(prompts).every((prompt) => typeof prompt === "string"))
    throw new FormatError(`\`prompts\` (= ${wordJson(prompts)}) must be strings by their names.`, { operation, got: prompts });
  const similarity = optionalText(whole, "similarity_fn_name") ?? "cosine";
  requireOption(operation, similarities, "similarity_fn_name", similarity);
  known.set(model, {
    way() {
      if (way instanceof Error) throw way;
      return way;
    },
    maxLength: (length ?? undefined) as number | undefined,
    lowerCase: lower === true,
    prompts: new Map(Object.entries(prompts) as [string, string][]),
    defaultPrompt: optionalText(whole, "default_prompt_name"),
    similarity: similarity as Similarity,
    files,
  });
}

/** Writes again what the folder had that a model is from. */
export async function writeSentence(folder: FolderTarget, model: Module, operation: string): Promise<void> {
  for (const [file, bytes] of known.get(model)?.files ?? []) {
    const [name = file, ...above] = file.split("/").reverse();
    await (await openTarget(folder, operation, above.reverse().join("/"))).write(new Map([[name, bytes]]));
  }
}
