/** What survives a reload: the run's settings, its files and its state, in the browser's storage for this page. */
import { ConfigError } from "../src/errors.ts";
import { handleFolder, type WritableFolder } from "../src/formats/index.ts";
import type { Settings } from "./protocol.ts";

const settingsFile = "settings.json";
const checkpointFile = "checkpoint.safetensors";

/** Why something could not be put into the store, which a full one says in a sentence; `null` when it is there. */
export async function problemWith(keeping: () => Promise<void>): Promise<string | null> {
  try {
    await keeping();
    return null;
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    return error.message;
  }
}

/** One run at a time. Everything in it is there whole or not at all. */
export class Store {
  readonly #root: FileSystemDirectoryHandle;
  readonly #run: WritableFolder;

  private constructor(root: FileSystemDirectoryHandle, run: WritableFolder) {
    this.#root = root;
    this.#run = run;
  }

  /** `undefined` where the browser keeps nothing for pages (private windows of some), or not in Workers. */
  static async open(): Promise<Store | undefined> {
    try {
      const root = await navigator.storage.getDirectory();
      const run = await root.getDirectoryHandle("run", { create: true });
      const store = new Store(root, await handleFolder(run, "the kept run"));
      await store.#run.write(new Map([[".probe", ""]]));
      await store.#run.remove(".probe");
      return store;
    } catch {
      return undefined;
    }
  }

  async settings(): Promise<Settings | undefined> {
    if (!this.#run.files.has(settingsFile)) return undefined;
    try {
      return JSON.parse(await this.#text(settingsFile)) as Settings;
    } catch {
      return undefined;
    }
  }

  /** Forgets what was kept, and keeps a new run with its files. @throws {ConfigError} when there is not enough room */
  async begin(settings: Settings, modelFiles: readonly File[], textFile: File | null): Promise<void> {
    await this.clear();
    const part = async (name: string) => handleFolder(await this.#root.getDirectoryHandle(name, { create: true }), name);
    const model = await part("model");
    for (const file of modelFiles) await model.write(new Map([[baseName(file), pieces(file)]]));
    if (textFile) await (await part("text")).write(new Map([[textFile.name, pieces(textFile)]]));
    // last: a run without settings is none
    await this.#run.write(new Map([[settingsFile, JSON.stringify(settings)]]));
  }

  /** The files that the model was given as. */
  async model(): Promise<WritableFolder> {
    return handleFolder(await this.#root.getDirectoryHandle("model"), "");
  }

  async text(name: string): Promise<File> {
    const folder = await this.#root.getDirectoryHandle("text");
    return (await folder.getFileHandle(name)).getFile();
  }

  async saveCheckpoint(bytes: Uint8Array): Promise<void> {
    await this.#run.write(new Map([[checkpointFile, bytes]]));
  }

  async checkpoint(): Promise<Uint8Array | undefined> {
    if (!this.#run.files.has(checkpointFile)) return undefined;
    const { size, read } = await this.#run.open(checkpointFile);
    return read(0, size);
  }

  /** An empty folder for what is on its way to the person. */
  async outbox(): Promise<FileSystemDirectoryHandle> {
    await this.#root.removeEntry("out", { recursive: true }).catch(() => {});
    return this.#root.getDirectoryHandle("out", { create: true });
  }

  async clear(): Promise<void> {
    for (const file of [settingsFile, checkpointFile]) await this.#run.remove(file);
    for (const folder of ["model", "text", "out"]) await this.#root.removeEntry(folder, { recursive: true }).catch(() => {});
  }

  async #text(file: string): Promise<string> {
    const { size, read } = await this.#run.open(file);
    return new TextDecoder().decode(await read(0, size));
  }
}

/** A picked folder's files are called by their place in it; its own name is left out. */
export const baseName = ({ name, webkitRelativePath }: File): string => webkitRelativePath?.replace(/^[^/]*\//, "") || name;

/** A file that is copied without being in memory as a whole. */
const pieces = (file: File) => async (append: (piece: Uint8Array) => Promise<void>) => {
  const reader = file.stream().getReader();
  for (let next = await reader.read(); !next.done; next = await reader.read()) await append(next.value);
};
