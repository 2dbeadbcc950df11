/** A folder that becomes a .zip as it is written, piece by piece: on disk where the browser keeps files, else in memory. */
import { Zip, ZipPassThrough } from "fflate";
import { ConfigError } from "../src/errors.ts";
import type { FileContent, WritableFolder } from "../src/formats/index.ts";

export class ZipFolder implements WritableFolder, AsyncDisposable {
  readonly name = "";
  readonly files = new Set<string>();
  readonly #zip: Zip;
  readonly #pieces: Uint8Array<ArrayBuffer>[] = [];
  readonly #file: FileSystemFileHandle | undefined;
  readonly #stream: FileSystemWritableFileStream | undefined;
  /** What has been handed to the disk and is not there yet. */
  #written: Promise<void> = Promise.resolve();
  #failure: Error | null = null;

  private constructor(file?: FileSystemFileHandle, stream?: FileSystemWritableFileStream) {
    this.#file = file;
    this.#stream = stream;
    this.#zip = new Zip((error, piece) => {
      if (error) this.#failure = error;
      else if (stream) this.#written = this.#written.then(() => stream.write(piece as Uint8Array<ArrayBuffer>));
      else this.#pieces.push(piece as Uint8Array<ArrayBuffer>);
    });
  }

  /** @param folder where the file is made while it is written */
  static async create(folder?: FileSystemDirectoryHandle): Promise<ZipFolder> {
    const file = await folder?.getFileHandle("download.zip", { create: true });
    return new ZipFolder(file, await file?.createWritable());
  }

  async write(files: ReadonlyMap<string, FileContent>): Promise<void> {
    for (const [name, content] of files) {
      // weights hardly become smaller, and what is stored can be read in place
      const entry = new ZipPassThrough(name);
      this.#zip.add(entry);
      const append = async (piece: Uint8Array) => {
        entry.push(piece.slice());
        await this.#settle();
      };
      if (typeof content === "function") await content(append);
      else await append(typeof content === "string" ? new TextEncoder().encode(content) : content);
      entry.push(new Uint8Array(0), true);
      this.files.add(name);
    }
    await this.#settle();
  }

  /** The whole file; nothing can be added any more. */
  async close(): Promise<Blob> {
    this.#zip.end();
    await this.#settle();
    await this.#stream?.close();
    return this.#file ? this.#file.getFile() : new Blob(this.#pieces, { type: "application/zip" });
  }

  /** Gives up what is not closed. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stream?.abort().catch(() => {});
  }

  async #settle(): Promise<void> {
    await this.#written;
    if (this.#failure) throw this.#failure;
  }

  async open(file: string): Promise<never> {
    throw new ConfigError(`${file} cannot be read while it is being packed.`, { operation: "zip", got: file });
  }

  async remove(file: string): Promise<void> {
    if (this.files.has(file)) throw new ConfigError(`${file} is packed already.`, { operation: "zip", got: file });
  }
}
