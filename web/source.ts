/** The model and the text of a run: those that come with the page, or what the person gave. */
import { ConfigError, FormatError } from "../src/errors.ts";
import { type Folder, filesFolder, openCheckpoint, openGguf } from "../src/formats/index.ts";
import type { TextSource } from "../src/text/index.ts";

const tinyFiles = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];

/** One of the page's own files. */
async function asset(path: string): Promise<Uint8Array<ArrayBuffer>> {
  const url = new URL(path, new URL("../", self.location.href));
  const response = await fetch(url).catch(() => undefined);
  if (!response?.ok)
    throw new ConfigError(`${path} could not be fetched from this page's server.`, {
      operation: "read",
      got: response?.status,
      hint: "Check the connection, then try again.",
    });
  return new Uint8Array(await response.arrayBuffer());
}

/** The model that comes with the page. */
export async function tinyModel(): Promise<Folder> {
  const files = await Promise.all(tinyFiles.map(async (name) => [name, await asset(`tiny/${name}`)] as const));
  return filesFolder(Object.fromEntries(files), "loadModel");
}

/** The book that comes with the page. */
export async function mobyDick(): Promise<TextSource> {
  return JSON.parse(new TextDecoder().decode(await asset("moby-dick.json"))) as TextSource;
}

/** What a given file holds. @throws {FormatError} when it is no text */
export async function givenText(file: File): Promise<string> {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
  } catch {
    throw new FormatError(`"${file.name}" is not text in UTF-8.`, {
      operation: "read",
      got: file.name,
      hint: 'Give a .txt or .md file, or .jsonl with a "text" or "messages" on each line.',
    });
  }
}

/** Bytes that the engine can have at most: of WebAssembly's 4 GiB, and of three quarters of the memory that the browser tells. */
function memoryLimit(): number {
  const { deviceMemory } = navigator as { deviceMemory?: number };
  return Math.min(4, deviceMemory === undefined ? 4 : 0.75 * deviceMemory) * 2 ** 30;
}

/**
 * Looks at a model's files before they are read.
 *
 * @returns how many values it has
 * @throws {ConfigError} when they are no model, or one that does not fit into memory
 */
export async function checkModel(folder: Folder): Promise<number> {
  const gguf = [...folder.files].find((file) => file.endsWith(".gguf"));
  if (!gguf && !folder.files.has("config.json"))
    throw new ConfigError(`these files are no model: ${[...folder.files].slice(0, 5).join(", ") || "there are none"}.`, {
      operation: "read",
      got: [...folder.files],
      hint: "Give a folder with config.json, model.safetensors and tokenizer.json, or one GGUF file.",
    });
  const { tensors } = gguf && !folder.files.has("config.json") ? await openGguf(folder, gguf) : await openCheckpoint(folder);
  const values = [...tensors.values()].reduce((sum, { shape }) => sum + shape.reduce((all, size) => all * size, 1), 0);
  requireRoom(4 * values, "The model's weights take");
  return values;
}

/** @throws {ConfigError} when so many bytes are more than there can be */
export function requireRoom(bytes: number, what: string): void {
  const limit = memoryLimit();
  if (bytes <= limit) return;
  const words = (count: number) => `${(count / 2 ** 30).toFixed(1)} GiB`;
  throw new ConfigError(`${what} ${words(bytes)}, and this page can have ${words(limit)}.`, {
    operation: "plan",
    got: bytes,
    expected: limit,
    hint: "Choose a smaller model, a smaller batch or shorter rows; or run `npm start` in Node, which has more.",
  });
}
