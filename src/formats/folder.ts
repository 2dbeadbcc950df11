/**
 * Files that belong together, read piece by piece wherever they are: a folder on disk, what a browser was given, bytes in memory,
 * a repository of the Hub (hub.ts). What reads models and adapters knows only this.
 */
import { ConfigError, FormatError, requireKind, wordArgument, wordType } from "../errors.ts";
import { wordSystemError } from "./atomic-file.ts";
import { nodeModule } from "./node-module.ts";

declare global {
  // for programs that have the types of neither a browser nor Node; where there are some, this adds nothing
  interface Blob {}
  interface File extends Blob {}
}

/** Where bytes come from. Nothing is in memory but what `read` gives. */
export interface ByteSource {
  /** Path or name, as errors call it. */
  readonly name: string;
  /** Bytes in all. */
  readonly size: number;
  /** The bytes from `start` up to `end` as a copy in a buffer of its own, so that any typed array may lie over it. */
  read(start: number, end: number): Promise<Uint8Array<ArrayBuffer>>;
}

/** Files by name. Made by {@link diskFolder}, {@link filesFolder} and `hubFolder`, or by anything with these three. */
export interface Folder {
  /** How errors call it; empty for files that lie nowhere. */
  readonly name: string;
  /** Names of the files in it. Those of a repository on the Hub may hold slashes. */
  readonly files: ReadonlySet<string>;
  /** @param file one of `files` */
  open(file: string): Promise<ByteSource>;
}

/** How errors call a file of a folder. */
export const pathIn = ({ name }: Pick<Folder, "name">, file: string): string =>
  name === "" ? file : `${name.replace(/\/$/, "")}/${file}`;

/** A folder in a sentence that is about what it holds. */
export const wordFolder = ({ name }: Folder): string => (name === "" ? "what was given" : JSON.stringify(name));

/** Whether a path is a folder and not a file. @throws {ConfigError} when it is neither */
export async function isFolder(path: string, operation: string): Promise<boolean> {
  try {
    return (await nodeModule("fs/promises", operation).stat(path)).isDirectory();
  } catch (error) {
    throw wordSystemError(error, operation, path, "read");
  }
}

/**
 * A folder on disk.
 *
 * @throws {ConfigError} when it cannot be read; the sentence names it and the way out
 */
export async function diskFolder(path: string, operation: string): Promise<Folder> {
  requireKind("diskFolder", "a string", { operation });
  const fs = nodeModule("fs/promises", operation);
  const { join } = nodeModule("path", operation);
  const entries = await fs.readdir(path).catch((error) => {
    throw wordSystemError(error, operation, path, "read");
  });
  return { name: path, files: new Set(entries), open: (file) => diskFile(join(path, file), operation) };
}

/**
 * One file on disk, opened for each read.
 *
 * @throws {ConfigError} when it cannot be read; {@link ByteSource.read} throws a {@link FormatError} when it was changed meanwhile
 */
export async function diskFile(path: string, operation: string): Promise<ByteSource> {
  const fs = nodeModule("fs/promises", operation);
  const fail = (problem: string) => new FormatError(`${path} ${problem}`, { operation, got: path });
  const withFile = async <T>(use: (file: Awaited<ReturnType<typeof fs.open>>) => Promise<T>): Promise<T> => {
    try {
      const file = await fs.open(path, "r");
      return await use(file).finally(() => file.close());
    } catch (error) {
      throw wordSystemError(error, operation, path, "read");
    }
  };
  const identity = await withFile(async (file) => {
    const stat = await file.stat();
    if (stat.isDirectory()) throw Object.assign(new Error(), { code: "EISDIR" });
    return stat;
  });
  const read = (start: number, end: number) =>
    withFile(async (file) => {
      // offsets of the old header would give silently wrong weights
      const { size, mtimeMs, ino } = await file.stat();
      if (size !== identity.size || mtimeMs !== identity.mtimeMs || ino !== identity.ino)
        throw fail("was changed after it had been opened. Open it again.");
      const bytes = new Uint8Array(end - start);
      for (let done = 0; done < bytes.length; ) {
        const { bytesRead } = await file.read(bytes, done, Math.min(bytes.length - done, 2 ** 30), start + done);
        if (bytesRead === 0) throw fail("ended while it was being read.");
        done += bytesRead;
      }
      return bytes;
    });
  return { name: path, size: identity.size, read };
}

/** Bytes, or a Blob (a File is one) as browsers have them. @param name how errors call it */
export function memoryFile(source: Uint8Array | Blob, name: string): ByteSource {
  if (source instanceof Uint8Array)
    return { name, size: source.byteLength, read: async (start, end) => new Uint8Array(source.subarray(start, end)) };
  return { name, size: source.size, read: async (start, end) => new Uint8Array(await source.slice(start, end).arrayBuffer()) };
}

/** Bytes of a path, of memory, or of a file of a folder. @param name how errors call bytes and Blobs */
export async function openBytes(
  source: string | Uint8Array | Blob | ByteSource,
  name: string | undefined,
  operation: string,
): Promise<ByteSource> {
  if (typeof source === "string") return diskFile(source, operation);
  if (source instanceof Uint8Array || source instanceof Blob) return memoryFile(source, name ?? "(bytes)");
  requireKind(operation, "a function", { "source.read": (source as Partial<ByteSource> | null)?.read });
  return source;
}

/** Files in a browser (`input.files`, also of a whole folder) or in memory by name. */
export type GivenFiles = Iterable<File> | Readonly<Record<string, Blob | Uint8Array>>;

/**
 * A folder of files that were given: picked in a browser, dropped on a page, or made in memory.
 *
 * @throws {ConfigError} for what is no file, and when two have one name
 */
export function filesFolder(given: GivenFiles, operation: string): Folder {
  requireKind("filesFolder", "a string", { operation });
  requireKind(operation, "an object", { files: Array.isArray(given) ? {} : given });
  const files = new Map<string, Uint8Array | Blob>();
  const named: Iterable<readonly [string, unknown]> =
    Symbol.iterator in given ? [...given].map((file) => [nameOf(file), file] as const) : Object.entries(given);
  for (const [name, file] of named) {
    if (!(file instanceof Uint8Array || file instanceof Blob))
      throw new ConfigError(`\`files\` holds ${wordType(file)} (${JSON.stringify(name)}), which is not a file.`, {
        operation,
        got: file,
        hint: "Give Files, or { name: Blob or Uint8Array }.",
      });
    if (files.has(name))
      throw new ConfigError(`\`files\` holds "${name}" twice.`, { operation, got: name, hint: "Give the files of one folder." });
    files.set(name, file);
  }
  const open = async (file: string) => memoryFile(files.get(file) ?? missing(folder, file, operation), file);
  const folder: Folder = { name: "", files: new Set(files.keys()), open };
  return folder;
}

/** @throws {ConfigError} for what is no folder that is open */
export function requireFolder(operation: string, folder: unknown): asserts folder is Folder {
  const { files, open } = (folder ?? {}) as Partial<Folder>;
  if (typeof open === "function" && files instanceof Set) return;
  throw new ConfigError(`the folder is ${wordArgument(folder)}, neither a path nor a folder that is open.`, {
    operation,
    got: folder,
  });
}

/** Where a folder was picked, the names in it begin with its own. */
const nameOf = (file: Partial<File>): string =>
  file?.webkitRelativePath ? file.webkitRelativePath.replace(/^[^/]*\//, "") : (file?.name ?? "");

function missing(folder: Folder, file: string, operation: string): never {
  throw new FormatError(`${pathIn(folder, file)} is not there.`, { operation, got: file });
}

/** The whole of a small file as text. @throws {ConfigError} when it cannot be read */
export async function readText(folder: Folder, file: string, operation: string): Promise<string> {
  if (!folder.files.has(file)) {
    const path = pathIn(folder, file);
    throw wordSystemError(Object.assign(new Error(path), { code: "ENOENT" }), operation, path, "read");
  }
  const { size, read } = await folder.open(file);
  return new TextDecoder().decode(await read(0, size));
}

/**
 * The whole of a small file as JSON.
 *
 * @throws {ConfigError} when it cannot be read; @throws {FormatError} when it is not JSON, naming it
 */
export async function readJson(folder: Folder, file: string, operation: string): Promise<unknown> {
  const text = await readText(folder, file, operation);
  try {
    return JSON.parse(text);
  } catch (error) {
    const reason = text.startsWith("version https://git-lfs")
      ? "it is a Git LFS pointer, not the file"
      : (error as Error).message;
    throw new FormatError(`${pathIn(folder, file)} is not JSON: ${reason}.`, { operation, got: file });
  }
}
