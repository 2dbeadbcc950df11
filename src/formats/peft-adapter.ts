/**
 * Adapter folders as Hugging Face PEFT reads and writes them: `adapter_config.json` (see `peft-config.ts`),
 * `adapter_model.safetensors` and a model card, and how names in the file and in the live model correspond.
 */
import { ConfigError, checkOptions, requireKind, under } from "../errors.ts";
import { type FileContent, wordSystemError } from "./atomic-file.ts";
import { type Folder, pathIn, readText, wordFolder } from "./folder.ts";
import { asPeft, mlxWeightsFile } from "./mlx-adapter.ts";
import { type ModelSource, openSource, type SourceOptions, sourceOptionRules } from "./model-source.ts";
import { nodeModule } from "./node-module.ts";
import {
  type ConfigSchema,
  type FileConfig,
  formatAdapterConfig,
  parseAdapterConfig,
  peftVersion,
  type ReadConfig,
} from "./peft-config.ts";
import { encodeSafetensors, readSafetensors, type StoredTensor, safetensorsContent, type TensorsToWrite } from "./safetensors.ts";
import { type FolderTarget, openTarget } from "./writable-folder.ts";

export * from "./peft-config.ts";

const configFile = "adapter_config.json";
const weightsFile = "adapter_model.safetensors";
const cardFile = "README.md";
/** The one adapter name that is saved without a folder of its own. */
export const defaultAdapterName = "default";

/** An adapter read from files; the tensors are not in memory yet. */
export type AdapterFile<Schema extends ConfigSchema> = ReadConfig<Schema> & {
  /** By the names in the file, `base_model.model.<module path>.<leaf>`. */
  readonly tensors: ReadonlyMap<string, StoredTensor>;
};

/**
 * Reads an adapter.
 *
 * @param source  the path of its folder, the name of a repository of the Hub, or `{ files }`
 * @param schemas the methods that may come; the one that fits is in the answer
 * @throws {ConfigError} when the folder or one of its two files is not there; the sentence says what is
 * @throws {FormatError} when a file is not what it should be
 */
export async function readAdapter<Schema extends ConfigSchema>(
  source: ModelSource,
  schemas: readonly Schema[],
  options: SourceOptions = {},
): Promise<AdapterFile<Schema>> {
  checkOptions("readAdapter", options, sourceOptionRules);
  requireKind("readAdapter", "a list", { schemas });
  const operation = "readAdapter";
  const { folder } = await openSource(source, operation, options);
  const { files } = folder;
  const missing = (file: string, hint: string | undefined) =>
    new ConfigError(`${wordFolder(folder)} has no ${file}.`, {
      operation,
      got: [...files],
      ...(hint === undefined ? {} : { hint }),
    });
  if (!files.has(configFile)) {
    const inside = await adaptersWithin(source, folder, options);
    const other = Object.keys(otherForms).find((file) => files.has(file));
    throw missing(
      configFile,
      inside.length > 0 ? `Adapters are in: ${inside.join(", ")}.` : other && `${other} ${otherForms[other]}`,
    );
  }
  const json = await readText(folder, configFile, operation);
  const path = pathIn(folder, configFile);
  const parse = (text: string) => under(operation, () => parseAdapterConfig(text, schemas, path));
  if (!files.has(weightsFile) && files.has(mlxWeightsFile)) {
    const { tensors } = await readSafetensors(await folder.open(mlxWeightsFile));
    const adapter = asPeft(json, tensors, path);
    return { ...parse(adapter.json), tensors: adapter.tensors };
  }
  if (!files.has(weightsFile)) {
    const other = Object.keys(otherForms).find((file) => files.has(file));
    throw missing(weightsFile, other && `${other} ${otherForms[other]}`);
  }
  const read = parse(json);
  const { tensors } = await readSafetensors(await folder.open(weightsFile));
  return { ...read, tensors };
}

const unpickled =
  "is a Python pickle, which can run code and is not read; PeftModel.from_pretrained(model, path).save_pretrained(path) of Python writes it as safetensors.";
/** Files of adapters in other forms, and what to do about them. */
const otherForms: Readonly<Record<string, string>> = {
  "pytorch_lora_weights.safetensors": "is diffusers' form, for models that make images, which lorikeet does not have.",
  "adapters.npz": "is of an mlx-lm from before 2024; train or save it again with a newer one.",
  "adapter_model.bin": unpickled,
};

/** Folders within a folder that hold adapters, as errors call them. */
async function adaptersWithin(
  source: ModelSource,
  folder: Folder,
  { subfolder = "" }: SourceOptions,
): Promise<readonly string[]> {
  const ending = `/${configFile}`;
  const listed = [...folder.files].flatMap((file) =>
    file.endsWith(ending) ? [pathIn(folder, file.slice(0, -ending.length))] : [],
  );
  if (listed.length > 0 || typeof source !== "string" || folder.name !== source) return listed;
  const { join } = nodeModule("path", "readAdapter");
  const names = await listAdapters(join(source, subfolder)).catch(() => []);
  return names.map((name) => join(source, subfolder, name));
}

/** Names of the adapters saved in `folder`: `default` for the folder itself, else those of its subfolders. */
export async function listAdapters(folder: string): Promise<readonly string[]> {
  const operation = "listAdapters";
  requireKind(operation, "a string", { folder });
  const fs = nodeModule("fs/promises", operation);
  const { join } = nodeModule("path", operation);
  const entries = await fs.readdir(folder, { withFileTypes: true }).catch((error) => {
    throw wordSystemError(error, operation, folder, "read");
  });
  const names: string[] = [];
  for (const entry of entries.sort((a, b) => (a.name < b.name ? -1 : 1))) {
    if (entry.name === configFile) names.unshift(defaultAdapterName);
    else if (entry.isDirectory() && !entry.name.startsWith(".")) {
      const found = await fs.stat(join(folder, entry.name, configFile)).catch(() => undefined);
      if (found !== undefined) names.push(entry.name);
    }
  }
  return names;
}

/** What an adapter's files are made from. */
export interface AdapterToWrite<Schema extends ConfigSchema> {
  readonly schema: Schema;
  /** Keys that differ from their defaults. */
  readonly config: Partial<FileConfig<Schema>>;
  /** By the names in the file; see `toFileKey`. */
  readonly tensors: TensorsToWrite;
  /** Name of the adapter in the model; any but `default` gets a folder of its own. */
  readonly name?: string;
}

/**
 * Saves an adapter for PEFT and for `readAdapter`, into `folder`, or into `folder/<name>` unless the name is `default`.
 * Everything is written beside the target before anything in it changes. An existing model card is left alone.
 *
 * @param folder a path, or a folder in memory or of a browser
 * @returns the path or name of the folder that holds the two files
 * @throws {ConfigError} when the config, a tensor or the name is refused, or the folder cannot be written
 */
export async function writeAdapter<Schema extends ConfigSchema>(
  folder: FolderTarget,
  adapter: AdapterToWrite<Schema>,
): Promise<string> {
  const operation = "writeAdapter";
  const { schema, config, tensors, name = defaultAdapterName } = checkParts(operation, adapter);
  checkAdapterName(name, schema);
  // the config last: a folder without it is no adapter, so one being filled is never taken for one
  const files = new Map<string, FileContent>([
    [weightsFile, under(operation, () => safetensorsContent(tensors, { format: "pt" }))],
    [configFile, under(operation, () => formatAdapterConfig(schema, config))],
  ]);
  const card = new Map<string, FileContent>([[cardFile, modelCard(schema, config)]]);
  const whole = await openTarget(folder, operation);
  const target = name === defaultAdapterName ? whole : await openTarget(folder, operation, name);
  const hasCard = whole.files.has(cardFile);
  await target.write(target === whole && !hasCard ? new Map([...card, ...files]) : files);
  if (target !== whole && !hasCard) await whole.write(card);
  return target.name;
}

function checkParts<Adapter extends AdapterToWrite<ConfigSchema>>(operation: string, adapter: Adapter): Adapter {
  requireKind(operation, "an object", { adapter });
  const { schema, config, tensors } = adapter;
  requireKind(operation, "an object", { schema, config, tensors });
  requireKind(operation, "an object", { "schema.keys": schema.keys });
  return adapter;
}

/** The same files in memory, for places without folders, by name. */
export function encodeAdapter<Schema extends ConfigSchema>(adapter: AdapterToWrite<Schema>): Map<string, Uint8Array> {
  const operation = "encodeAdapter";
  const { schema, config, tensors } = checkParts(operation, adapter);
  const utf8 = new TextEncoder();
  return new Map([
    [weightsFile, under(operation, () => encodeSafetensors(tensors, { format: "pt" }))],
    [configFile, utf8.encode(under(operation, () => formatAdapterConfig(schema, config)))],
    [cardFile, utf8.encode(modelCard(schema, config))],
  ]);
}

/**
 * Refuses names that cannot be told apart in parameter paths: with dots or slashes, or the method's prefix (`lora` of `lora_`),
 * which would make PEFT cut the wrong component out of the names in the file.
 *
 * @throws {ConfigError}
 */
export function checkAdapterName(name: string, schema: ConfigSchema, operation = "writeAdapter"): void {
  const why = !/^[^./\\:\0]+$/.test(name)
    ? "must not be empty or hold any of . / \\ :"
    : name === schema.prefix || `${name}_` === schema.prefix
      ? `must not be ${JSON.stringify(schema.prefix)}, with which ${schema.peftType} parameters begin`
      : name === "__base__"
        ? "stands for no adapter at all"
        : undefined;
  if (why !== undefined) throw new ConfigError(`the adapter name ${JSON.stringify(name)} ${why}.`, { operation, got: name });
}

/**
 * The name in the file of a parameter: PEFT's prefix in front of its path.
 *
 * @param path without the adapter's name; tensors of the whole adapter begin with `base_model.` already
 * @example
 * toFileKey("h.0.attn.c_attn.lora_A.weight")   // "base_model.model.h.0.attn.c_attn.lora_A.weight"
 */
export const toFileKey = (path: string): string => (path.startsWith("base_model.") ? path : `base_model.model.${path}`);

/** A short model card with the front matter by which the Hub finds base model and library. */
function modelCard(
  schema: ConfigSchema,
  config: { readonly base_model_name_or_path?: string | null; readonly task_type?: string | null },
): string {
  const base = config.base_model_name_or_path;
  const yaml = (value: string) => (/^[\w][\w./-]*$/.test(value) ? value : JSON.stringify(value));
  const method = schema.peftType.toLowerCase();
  const front = [
    ...(typeof base === "string" ? [`base_model: ${yaml(base)}`] : []),
    "library_name: peft",
    ...(config.task_type === "CAUSAL_LM" ? ["pipeline_tag: text-generation"] : []),
    "tags:",
    ...(typeof base === "string" ? [`- ${yaml(`base_model:adapter:${base}`)}`] : []),
    `- ${method}`,
    "- lorikeet",
  ];
  const about = typeof base === "string" ? `A ${schema.peftType} adapter for ${base}` : `A ${schema.peftType} adapter`;
  return `---\n${front.join("\n")}\n---\n\n# Adapter\n\n${about}, in the file format of PEFT, written by lorikeet.\n\n### Framework versions\n\n- PEFT ${peftVersion}\n`;
}
