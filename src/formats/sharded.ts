/**
 * Checkpoints of one or several safetensors files: `model.safetensors`, or `model.safetensors.index.json` whose `weight_map` says
 * which file holds which tensor. Both read as one map of tensors.
 */
import { ConfigError, checkOptions, FormatError, nearestName, requireKind, under, wordJson } from "../errors.ts";
import type { FileContent } from "./atomic-file.ts";
import { diskFolder, type Folder, isFolder, pathIn, readText, requireFolder, wordFolder } from "./folder.ts";
import { nodeModule } from "./node-module.ts";
import {
  compareCodePoints,
  type Metadata,
  readSafetensors,
  type SafetensorsFile,
  type StoredTensor,
  safetensorsContent,
  storageOf,
  storedBytes,
  type TensorsToWrite,
  type TensorToWrite,
} from "./safetensors.ts";
import { type FolderTarget, openTarget } from "./writable-folder.ts";

/** The tensors of all files of a checkpoint, none of them in memory yet. */
export interface Checkpoint extends SafetensorsFile {
  /** Names of the files that hold the tensors, without folder. */
  readonly files: readonly string[];
  /**
   * The tensor of this name.
   *
   * @throws {FormatError} when there is none; the sentence names the nearest one
   */
  get(name: string): StoredTensor;
}

/**
 * Opens the checkpoint in `source`: a folder with `<name>.safetensors` or `<name>.safetensors.index.json`, or a safetensors file.
 * Headers are read and checked; the single file is preferred where both are there.
 *
 * @param options.name first part of the file names; `model` for models, `adapter_model` for adapters
 * @throws {FormatError} when a file, or a tensor that the index promises, is missing or broken
 * @throws {ConfigError} when there is no such folder or no checkpoint in it
 */
export async function openCheckpoint(source: string | Folder, options: { readonly name?: string } = {}): Promise<Checkpoint> {
  const { name = "model" } = checkOptions("openCheckpoint", options, { name: "a string" });
  const operation = "openCheckpoint";
  if (typeof source === "string" && !(await isFolder(source, operation)))
    return checkpoint(await readSafetensors(source), [nodeModule("path", operation).basename(source)]);
  const folder = typeof source === "string" ? await diskFolder(source, operation) : source;
  requireFolder(operation, folder);
  const single = `${name}.safetensors`;
  const index = `${single}.index.json`;
  if (folder.files.has(single)) return openCheckpointFile(folder, single);
  if (folder.files.has(index)) {
    const path = pathIn(folder, index);
    const text = await readText(folder, index, operation);
    const open = async (file: string) => {
      if (!folder.files.has(file))
        throw new FormatError(`${path} names ${file}, which is not in the folder.`, { operation, got: file });
      return readSafetensors(await folder.open(file));
    };
    return under(operation, () => openSharded(text, open, path), ["openSharded"]);
  }
  const pickled = [...folder.files].find((entry) => entry.endsWith(".bin") || entry.endsWith(".pt") || entry.endsWith(".pth"));
  throw new ConfigError(`${wordFolder(folder)} holds neither ${single} nor ${index}.`, {
    operation,
    got: [...folder.files],
    ...(pickled === undefined
      ? { hint: "The weights are to be beside config.json." }
      : { hint: `${pickled} is a Python pickle, which can run code and is not read; save it with safe_serialization=True.` }),
  });
}

/** One safetensors file of a folder as a checkpoint of its own. @throws {FormatError} when it is broken */
export async function openCheckpointFile(folder: Folder, file: string): Promise<Checkpoint> {
  return checkpoint(await readSafetensors(await folder.open(file)), [file]);
}

/**
 * A sharded checkpoint from the text of its index and a way to open a file by its name; for places without folders.
 *
 * @param openShard called once for each file, with a plain file name
 * @param source    how errors call the index
 * @throws {FormatError} when the index is malformed or a promised tensor is missing
 */
export async function openSharded(
  indexText: string,
  openShard: (file: string) => Promise<SafetensorsFile>,
  source = "model.safetensors.index.json",
): Promise<Checkpoint> {
  const fail = (problem: string, got?: unknown) => new FormatError(`${source} ${problem}`, { operation: "openSharded", got });
  requireKind("openSharded", "a string", { indexText });
  requireKind("openSharded", "a function", { openShard });
  const weightMap = parseIndex(indexText, fail);
  const shards = new Map<string, SafetensorsFile>();
  for (const file of new Set(weightMap.values())) {
    const shard = await openShard(file);
    requireKind("openSharded", "a Map", { [`${file}.tensors`]: (shard as Partial<SafetensorsFile> | undefined)?.tensors });
    shards.set(file, shard);
  }
  const tensors = new Map<string, StoredTensor>();
  for (const [name, file] of weightMap) {
    const tensor = shards.get(file)?.tensors.get(name);
    if (tensor === undefined) throw fail(`says that tensor ${JSON.stringify(name)} is in ${file}, but it is not there.`, name);
    tensors.set(name, tensor);
  }
  const metadata = [...shards.values()][0]?.metadata ?? new Map<string, string>();
  return checkpoint({ source, metadata, tensors }, [...shards.keys()]);
}

/** A file, or what several hold together, as one checkpoint. */
export function checkpoint(file: SafetensorsFile, files: readonly string[]): Checkpoint {
  const get = (name: string): StoredTensor => {
    const tensor = file.tensors.get(name);
    if (tensor !== undefined) return tensor;
    requireKind("openCheckpoint", "a string", { name });
    const near = nearestName(name, file.tensors.keys());
    throw new FormatError(`${file.source} has no tensor ${JSON.stringify(name)}.`, {
      operation: "openCheckpoint",
      got: name,
      ...(near === undefined ? {} : { hint: `The nearest is ${JSON.stringify(near)}.` }),
    });
  };
  return { ...file, files, get };
}

function parseIndex(text: string, fail: (problem: string, got?: unknown) => FormatError): Map<string, string> {
  let index: unknown;
  try {
    index = JSON.parse(text);
  } catch {
    throw fail("is not JSON.");
  }
  const weightMap = typeof index === "object" && index !== null && "weight_map" in index ? index.weight_map : undefined;
  if (typeof weightMap !== "object" || weightMap === null || Array.isArray(weightMap))
    throw fail("has no weight_map.", weightMap);
  const files = new Map<string, string>();
  for (const [name, file] of Object.entries(weightMap)) {
    // an index from the net must not make us open anything outside its folder
    if (typeof file !== "string" || !/^[^/\\:\0]+$/.test(file) || file === "." || file === "..")
      throw fail(`puts tensor ${wordJson(name)} into ${wordJson(file)}, which is not a plain file name.`, file);
    files.set(name, file);
  }
  return files;
}

/**
 * Writes tensors as a checkpoint: one `<name>.safetensors` if they fit `maxShardBytes`, else numbered shards with an index, filled
 * in the order given. Files of an earlier checkpoint of this name that are no longer part of it are removed at the end.
 *
 * @param folder                a path, or a folder in memory or of a browser
 * @param options.maxShardBytes bytes of tensors in one file; a larger tensor gets a file of its own
 * @param options.files         other files that belong to it, which are written with it or not at all
 * @returns the names of the files written
 * @throws {ConfigError} when a tensor does not fit its shape or dtype, or the folder cannot be written
 */
export async function writeCheckpoint(
  folder: FolderTarget,
  tensors: TensorsToWrite,
  options: {
    readonly name?: string;
    readonly maxShardBytes?: number;
    readonly metadata?: Metadata;
    readonly files?: ReadonlyMap<string, FileContent>;
  } = {},
): Promise<readonly string[]> {
  checkOptions("writeCheckpoint", options, {
    name: "a string",
    maxShardBytes: "a number above 0, or Infinity",
    metadata: "an object",
    files: Map,
  });
  const {
    name = "model",
    maxShardBytes = 5e9,
    metadata = { format: "pt" },
    files: others = new Map<string, FileContent>(),
  } = options;
  requireKind("writeCheckpoint", "an object", { tensors });
  const entries: [string, TensorToWrite][] = tensors instanceof Map ? [...tensors] : Object.entries(tensors);
  const shards: Map<string, TensorToWrite>[] = [];
  let room = 0;
  let total = 0;
  for (const [key, tensor] of entries) {
    under("writeCheckpoint", () => storageOf(key, tensor));
    const bytes = storedBytes(tensor);
    if (shards.length === 0 || bytes > room) {
      shards.push(new Map());
      room = maxShardBytes;
    }
    shards.at(-1)?.set(key, tensor);
    room -= bytes;
    total += bytes;
  }
  const files = new Map<string, FileContent>();
  if (shards.length <= 1) files.set(`${name}.safetensors`, safetensorsContent(shards[0] ?? new Map(), metadata));
  else {
    const pad = (n: number) => String(n).padStart(5, "0");
    const weightMap: [string, string][] = [];
    shards.forEach((shard, i) => {
      const file = `${name}-${pad(i + 1)}-of-${pad(shards.length)}.safetensors`;
      files.set(file, safetensorsContent(shard, metadata));
      for (const key of shard.keys()) weightMap.push([key, file]);
    });
    weightMap.sort(([a], [b]) => compareCodePoints(a, b));
    const index = { metadata: { total_size: total }, weight_map: Object.fromEntries(weightMap) };
    files.set(`${name}.safetensors.index.json`, `${JSON.stringify(index, null, 2)}\n`);
  }
  const target = await openTarget(folder, "writeCheckpoint");
  await target.write(new Map([...files, ...others]));
  // a smaller save over a larger one must not leave shards, or a single file that would be preferred to the new index
  for (const entry of target.files)
    if (!files.has(entry) && entry.startsWith(name) && isPart(entry.slice(name.length))) await target.remove(entry);
  return [...files.keys()];
}

/** Whether a file name goes on, after the name of a checkpoint, as its files do. */
const isPart = (rest: string): boolean => /^(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?$/.test(rest);
