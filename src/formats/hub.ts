/**
 * Repositories of the Hugging Face Hub as folders: a file is downloaded when it is first opened. The cache is the one of Python's
 * huggingface_hub (`models--owner--name` with blobs, snapshots and refs), so that each finds what the other has.
 *
 * @see https://huggingface.co/docs/huggingface_hub/guides/manage-cache
 */
import { ConfigError, checkOptions, FormatError, requireKind, wordJson } from "../errors.ts";
import { wordSystemError, writeFileAtomically } from "./atomic-file.ts";
import { type ByteSource, diskFile, type Folder } from "./folder.ts";
import { download } from "./hub-download.ts";
import { fileHeaders, type HubFile, type HubPlace, listing, pieces } from "./hub-library.ts";
import { attempted, refusal, Unreachable } from "./hub-request.ts";
import { type HubOptions, type HubSettings, hubOptionRules, hubSettings } from "./hub-settings.ts";
import { nodeModule } from "./node-module.ts";

export type { HubOptions, HubProgress } from "./hub-settings.ts";

/** Whether a text can be the name of a repository: `owner/name`, or one of the few without an owner. */
export const isHubId = (text: string): boolean =>
  /^[A-Za-z0-9][\w.-]*(\/[A-Za-z0-9][\w.-]*)?$/.test(text) && !/\.\.|--/.test(text);

/**
 * Opens a model's repository. Without a network, or with `offline`, that is what the cache has of it.
 *
 * @throws {ConfigError} when there is no such repository or revision, it may not be read, or the Hub cannot be reached and the cache has nothing
 * @throws {FormatError} when the Hub's answer is not what it should be
 * `await hubFolder("HuggingFaceTB/SmolLM2-135M", { revision: "main" })` gives the folder of that model.
 */
export async function hubFolder(id: string, options: HubOptions = {}): Promise<Folder> {
  checkOptions("hubFolder", options, hubOptionRules);
  requireKind("hubFolder", "a string", { id });
  return openHub(id, options);
}

/** The same for those who have checked what they were given, which may be more. */
export async function openHub(id: string, options: HubOptions): Promise<Folder> {
  const settings = await hubSettings(options);
  if (settings.offline) return cached(id, settings, undefined);
  try {
    return await listed(id, settings);
  } catch (error) {
    // Python's library does the same: what was here yesterday works on a train
    if (error instanceof Unreachable && settings.cacheDir !== undefined) return cached(id, settings, error);
    throw error;
  }
}

async function listed(id: string, settings: HubSettings): Promise<Folder> {
  const { sha, files } = await listing(id, settings);
  const open = async (path: string): Promise<ByteSource> => {
    const given = files.get(path);
    if (!given) throw new FormatError(`${id} has no file ${wordJson(path)}.`, { operation: "hub", got: path });
    const place = { id, sha, path };
    const { size, etag } = given;
    const file = size !== undefined && etag !== undefined ? { path, size, etag } : await fileHeaders(place, settings);
    return settings.cacheDir === undefined ? remote(place, file, settings) : intoCache(place, file, settings);
  };
  if (settings.cacheDir !== undefined && settings.revision !== sha)
    await writeFileAtomically(inCache(id, settings, "refs", settings.revision), sha);
  return { name: id, files: new Set(files.keys()), open };
}

/** A path in the part of the cache that is for one repository. */
function inCache(id: string, { cacheDir }: HubSettings, ...parts: readonly string[]): string {
  return nodeModule("path", "hub").join(cacheDir as string, `models--${id.replace("/", "--")}`, ...parts);
}

/** Downloads of this process, by the path of the blob. */
const running = new Map<string, Promise<void>>();

async function intoCache(place: HubPlace, file: HubFile, settings: HubSettings): Promise<ByteSource> {
  const { id, sha } = place;
  const fs = nodeModule("fs/promises", "hub");
  const { dirname, relative } = nodeModule("path", "hub");
  const blob = inCache(id, settings, "blobs", file.etag);
  const pointer = inCache(id, settings, "snapshots", sha, file.path);
  const there = await fs.stat(pointer).catch(() => undefined);
  if (there?.size !== file.size) {
    try {
      await fs.mkdir(dirname(blob), { recursive: true });
      await fs.mkdir(dirname(pointer), { recursive: true });
    } catch (error) {
      throw wordSystemError(error, "hub", pointer, "write");
    }
    let transfer = running.get(blob);
    if (!transfer) {
      transfer = download({ place, blob, file, settings }).finally(() => running.delete(blob));
      running.set(blob, transfer);
    }
    await transfer;
    await link(relative(dirname(pointer), blob), blob, pointer);
  }
  return diskFile(pointer, "hub");
}

/** A link beside its final name, then renamed, so that several processes may do so at once; a copy where links are not allowed. */
async function link(target: string, blob: string, pointer: string): Promise<void> {
  const fs = nodeModule("fs/promises", "hub");
  const temporary = `${pointer}.${process.pid}-${Math.random().toString(36).slice(2)}.tmp`;
  try {
    await fs.symlink(target, temporary).catch(() => fs.copyFile(blob, temporary));
    await fs.rename(temporary, pointer);
  } catch (error) {
    await fs.rm(temporary, { force: true });
    throw wordSystemError(error, "hub", pointer, "write");
  }
}

/** Parts of a file by requests of their own, for browsers. */
function remote(place: HubPlace, file: HubFile, settings: HubSettings): ByteSource {
  const { id, path } = place;
  const read = (start: number, end: number): Promise<Uint8Array<ArrayBuffer>> => {
    const part = new Uint8Array(end - start);
    if (start === end) return Promise.resolve(part);
    return attempted(`reading ${path}`, settings, async () => {
      let [before, have] = [0, 0]; // bytes that come before the part, and of it
      const check = (response: Response) => {
        if (!response.ok) throw refusal(response, id, path, settings);
        if (response.status !== 206) before = start; // the whole file comes
      };
      for await (const chunk of pieces(place, file, [start, end], settings, check)) {
        const wanted = chunk.subarray(before, before + part.length - have);
        part.set(wanted, have);
        have += wanted.length;
        before = Math.max(0, before - chunk.length);
        if (have === part.length) break;
      }
      if (have === part.length) return part;
      throw new FormatError(`${path} of ${id} gave ${have} bytes where ${part.length} were asked for.`, {
        operation: "hub",
        got: have,
      });
    });
  };
  return { name: `${id}/${path}`, size: file.size, read };
}

/** What the cache has of a revision. @param why the Hub was not reached, if it was asked */
async function cached(id: string, settings: HubSettings, why: Unreachable | undefined): Promise<Folder> {
  const missing = (what: string) =>
    new ConfigError(`${why ? `${why.problem} And the cache has ${what}` : `the cache has ${what}`}.`, {
      operation: "hub",
      got: id,
      hint: why ? "Load it once with a network." : "Load it once without `offline` and HF_HUB_OFFLINE.",
    });
  if (settings.cacheDir === undefined) throw why ?? missing(`no ${id}`);
  const fs = nodeModule("fs/promises", "hub");
  const { join, relative, sep } = nodeModule("path", "hub");
  const { revision } = settings;
  const exact = /^[0-9a-f]{40}$/.test(revision);
  const sha = exact ? revision : await fs.readFile(inCache(id, settings, "refs", revision), "utf8").catch(() => undefined);
  if (sha === undefined || !/^[0-9a-f]{40}$/.test(sha.trim())) throw missing(`no ${id} at ${revision}`);
  const root = inCache(id, settings, "snapshots", sha.trim());
  const entries = await fs.readdir(root, { recursive: true, withFileTypes: true }).catch(() => {
    throw missing(`no files of ${id} at ${revision}`);
  });
  const files = entries
    .filter((entry) => !entry.isDirectory() && !entry.name.endsWith(".tmp"))
    .map((entry) => relative(root, join(entry.parentPath, entry.name)).split(sep).join("/"));
  return { name: id, files: new Set(files), open: (file) => diskFile(join(root, file), "hub") };
}
