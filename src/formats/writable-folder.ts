/** Folders that can be written to, wherever they are: on disk, in memory, or what a browser keeps for a page. */
import { ConfigError, requireKind, under } from "../errors.ts";
import { type FileContent, writeFolderAtomically } from "./atomic-file.ts";
import { diskFile, type Folder, memoryFile, pathIn, requireFolder } from "./folder.ts";
import { nodeModule } from "./node-module.ts";

declare global {
  // for programs whose `lib` has no browser in it; where it has, this adds nothing
  interface FileSystemDirectoryHandle {}
}

/** Files by name that can be replaced. Made by {@link memoryFolder} and {@link handleFolder}, or by anything with these. */
export interface WritableFolder extends Folder {
  /** Puts files that belong together there, in this order; others stay. Names may hold slashes. */
  write(files: ReadonlyMap<string, FileContent>): Promise<void>;
  /** Removes a file; nothing happens when there is none. */
  remove(file: string): Promise<void>;
}

/** Where a folder is written: its path, or a folder of another kind. */
export type FolderTarget = string | WritableFolder;

/** A folder to write to, or a folder within it. On disk it need not exist. */
export async function openTarget(target: FolderTarget, operation: string, subfolder = ""): Promise<WritableFolder> {
  if (typeof target === "string") return diskTarget(target, operation, subfolder);
  requireFolder(operation, target);
  requireKind(operation, "a function", { "folder.write": target.write });
  if (subfolder === "") return target;
  const prefix = `${subfolder}/`;
  return {
    name: pathIn(target, subfolder),
    files: new Set([...target.files].flatMap((file) => (file.startsWith(prefix) ? [file.slice(prefix.length)] : []))),
    open: (file) => target.open(prefix + file),
    write: (files) => target.write(new Map([...files].map(([file, content]) => [prefix + file, content]))),
    remove: (file) => target.remove(prefix + file),
  };
}

async function diskTarget(folder: string, operation: string, subfolder: string): Promise<WritableFolder> {
  const fs = nodeModule("fs/promises", operation);
  const { join } = nodeModule("path", operation);
  const path = subfolder === "" ? folder : join(folder, subfolder);
  return {
    name: path,
    files: new Set(await fs.readdir(path).catch(() => [])), // what is wrong with it is said when it is written
    open: (file) => diskFile(join(path, file), operation),
    write: (files) => under(operation, () => writeFolderAtomically(path, files)),
    remove: (file) => fs.rm(join(path, file), { force: true }),
  };
}

/** A folder in memory. */
export interface MemoryFolder extends WritableFolder {
  readonly contents: ReadonlyMap<string, Uint8Array<ArrayBuffer>>;
}

/**
 * An empty folder in memory, for places without a file system: what `saveAdapter`, `saveModel` and `saveTokenizer` write is found
 * in `contents`, and `loadAdapter` and `loadModel` read it.
 *
 * @example
 * attach(model, lora({ r: 4 }));
 * const folder = memoryFolder();
 * await saveAdapter(model, folder);
 * folder.contents.get("adapter_config.json")
 */
export function memoryFolder(): MemoryFolder {
  const contents = new Map<string, Uint8Array<ArrayBuffer>>();
  return {
    name: "",
    contents,
    get files() {
      return new Set(contents.keys());
    },
    async open(file) {
      const bytes = contents.get(file);
      if (bytes) return memoryFile(bytes, file);
      throw new ConfigError(`${file} is not there.`, { operation: "memoryFolder", got: file });
    },
    async write(files) {
      // all of them first: a piece that fails leaves everything as it was
      const written = new Map<string, Uint8Array<ArrayBuffer>>();
      for (const [file, content] of files) written.set(file, await bytesOf(content));
      for (const [file, bytes] of written) contents.set(file, bytes);
    },
    async remove(file) {
      contents.delete(file);
    },
  };
}

async function bytesOf(content: FileContent): Promise<Uint8Array<ArrayBuffer>> {
  const pieces: Uint8Array[] = [];
  await inPieces(content, async (piece) => void pieces.push(piece));
  const all = new Uint8Array(pieces.reduce((sum, { byteLength }) => sum + byteLength, 0));
  let end = 0;
  for (const piece of pieces) {
    all.set(piece, end);
    end += piece.byteLength;
  }
  return all;
}

/** Hands on a file piece by piece, whatever it is given as. */
async function inPieces(content: FileContent, append: (piece: Uint8Array) => Promise<void>): Promise<void> {
  if (typeof content === "function") await content(append);
  else await append(typeof content === "string" ? new TextEncoder().encode(content) : content);
}

/**
 * A folder of a browser: of its origin's private files (`navigator.storage.getDirectory()`), or one that somebody has picked. A file is
 * written beside the old one, which it replaces when all files of a `write` are complete.
 *
 * @param name how errors call it
 */
export async function handleFolder(directory: FileSystemDirectoryHandle, name = directory?.name): Promise<WritableFolder> {
  requireKind("handleFolder", "a function", { "directory.entries": (directory as Partial<typeof directory> | null)?.entries });
  const files = new Set<string>();
  for await (const [file, { kind }] of directory.entries()) if (kind === "file") files.add(file);
  const place = async (file: string, create: boolean) => {
    const [last = "", ...above] = file.split("/").reverse();
    let folder = directory;
    for (const part of above.reverse()) folder = await folder.getDirectoryHandle(part, { create });
    return { folder, last };
  };
  return {
    name,
    files,
    async open(file) {
      const { folder, last } = await place(file, false);
      return memoryFile(await (await folder.getFileHandle(last)).getFile(), pathIn({ name }, file));
    },
    async write(contents) {
      const streams: FileSystemWritableFileStream[] = [];
      try {
        for (const [file, content] of contents) {
          const { folder, last } = await place(file, true);
          const stream = await (await folder.getFileHandle(last, { create: true })).createWritable();
          streams.push(stream);
          await inPieces(content, (piece) => stream.write(piece as Uint8Array<ArrayBuffer>));
        }
        for (const stream of streams) await stream.close();
        for (const file of contents.keys()) files.add(file);
      } catch (error) {
        for (const stream of streams) await stream.abort().catch(() => {});
        throw wordStorageError(error, name);
      }
    },
    async remove(file) {
      const { folder, last } = await place(file, false).catch(() => ({ folder: undefined, last: "" }));
      await folder?.removeEntry(last).catch(() => {});
      files.delete(file);
    },
  };
}

function wordStorageError(error: unknown, name: string): unknown {
  // Chromium aborts a write in whose middle the room ends
  if (!(error instanceof DOMException) || !["QuotaExceededError", "AbortError"].includes(error.name)) return error;
  return new ConfigError(`"${name}" cannot be written: the browser gives this page no more storage.`, {
    operation: "writeFolder",
    got: name,
    hint: "Free some disk space, or remove what the page has kept.",
  });
}
