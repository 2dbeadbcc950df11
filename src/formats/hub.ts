/**
 * Repositories of the Hugging Face Hub as folders: a file is downloaded when it is first opened. The cache is the one of Python's
 * huggingface_hub (`models--owner--name` with blobs, snapshots and refs), so that each finds what the other has.
 *
 * @see https://huggingface.co/docs/huggingface_hub/guides/manage-cache
 */
import { ConfigError, FormatError, wordJson } from "../errors.ts";
import { nodeModule, wordSystemError, writeFileAtomically } from "./atomic-file.ts";
import { type ByteSource, diskFile, type Folder } from "./folder.ts";
import { download, type HubFile, plainEtag } from "./hub-download.ts";
import { attempted, refusal, request, Unreachable } from "./hub-request.ts";
import { type HubOptions, type HubSettings, hubSettings } from "./hub-settings.ts";

export type { HubOptions, HubProgress } from "./hub-settings.ts";

/** Whether a text can be the name of a repository: `owner/name`, or one of the few without an owner. */
export const isHubId = (text: string): boolean =>
  /^[A-Za-z0-9][\w.-]*(\/[A-Za-z0-9][\w.-]*)?$/.test(text) && !/\.\.|--/.test(text);

/**
 * Opens a model's repository. Without a network, or with `offline`, that is what the cache has of it.
 *
 * @throws {ConfigError} when there is no such repository or revision, it may not be read, or the Hub cannot be reached and the cache has nothing
 * @throws {FormatError} when the Hub's answer is not what it should be
 * @example
 * const folder = await hubFolder("HuggingFaceTB/SmolLM2-135M", { revision: "main" });
 * folder.files.has("config.json")   // true
 */
export async function hubFolder(id: string, options: HubOptions = {}): Promise<Folder> {
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

interface Listing {
  readonly sha: string;
  readonly files: ReadonlyMap<string, Partial<HubFile>>;
}

async function listed(id: string, settings: HubSettings): Promise<Folder> {
  const { sha, files } = await list(id, settings);
  const open = async (path: string): Promise<ByteSource> => {
    const url = `${settings.endpoint}/${id}/resolve/${sha}/${path.split("/").map(encodeURIComponent).join("/")}`;
    const given = files.get(path);
    if (!given) throw new FormatError(`${id} has no file ${wordJson(path)}.`, { operation: "hub", got: path });
    const file = await complete(id, url, { path, ...given }, settings);
    return settings.cacheDir === undefined ? remote(id, url, file, settings) : intoCache(id, sha, url, file, settings);
  };
  if (settings.cacheDir !== undefined && settings.revision !== sha)
    await writeFileAtomically(inCache(id, settings, "refs", settings.revision), sha);
  return { name: id, files: new Set(files.keys()), open };
}

/** The commit of a revision, and its files. */
async function list(id: string, settings: HubSettings): Promise<Listing> {
  const url = `${settings.endpoint}/api/models/${id}/revision/${encodeURIComponent(settings.revision)}?blobs=true`;
  const json = await attempted(`asking the Hub for ${id}`, settings, async () => {
    const { response, end } = await request(url, settings);
    try {
      if (!response.ok) throw refusal(response, id, settings.revision, settings);
      return (await response.json().catch(() => undefined)) as unknown;
    } finally {
      end();
    }
  });
  const { sha, siblings } = (typeof json === "object" && json !== null ? json : {}) as Record<string, unknown>;
  if (typeof sha !== "string" || !/^[0-9a-f]{40}$/.test(sha) || !Array.isArray(siblings))
    throw new FormatError(`the answer of ${settings.endpoint} is no list of the files of ${id}.`, {
      operation: "hub",
      got: json,
    });
  const files = new Map<string, Partial<HubFile>>();
  for (const sibling of siblings) {
    const { rfilename: path, size, blobId, lfs } = (sibling ?? {}) as Record<string, unknown>;
    // a name from the net must not lead out of the cache
    if (
      typeof path !== "string" ||
      path.split("/").some((part) => part === "" || part === "." || part === "..") ||
      /[\\\0:]/.test(path)
    )
      throw new FormatError(`${id} lists a file called ${wordJson(path)}, which is no name within a folder.`, {
        operation: "hub",
        got: path,
      });
    const sha256 = (lfs as { readonly sha256?: unknown } | null | undefined)?.sha256;
    const etag = [sha256, blobId].find((each) => typeof each === "string" && /^[0-9a-f]{40,64}$/.test(each));
    files.set(path, {
      ...(Number.isSafeInteger(size) && (size as number) >= 0 ? { size: size as number } : {}),
      ...(typeof etag === "string" ? { etag } : {}),
    });
  }
  return { sha, files };
}

/** Size and etag from the file's own headers, where the list has none. */
async function complete(
  id: string,
  url: string,
  file: Partial<HubFile> & Pick<HubFile, "path">,
  settings: HubSettings,
): Promise<HubFile> {
  const { path, size, etag } = file;
  if (size !== undefined && etag !== undefined) return { path, size, etag };
  return attempted(`asking the Hub for ${path}`, settings, async () => {
    const { response, end } = await request(url, settings, { method: "HEAD", redirect: "manual" });
    end();
    if (response.status >= 400) throw refusal(response, id, path, settings);
    const found = plainEtag(response.headers.get("x-linked-etag") ?? response.headers.get("etag"));
    const length = Number(response.headers.get("x-linked-size") ?? response.headers.get("content-length") ?? Number.NaN);
    if (found === undefined || !/^[\w-]+$/.test(found) || !Number.isSafeInteger(length))
      throw new FormatError(`the Hub does not say the size and etag of ${path} of ${id}.`, { operation: "hub", got: found });
    return { path, size: length, etag: found };
  });
}

/** A path in the part of the cache that is for one repository. */
function inCache(id: string, { cacheDir }: HubSettings, ...parts: readonly string[]): string {
  return nodeModule("path", "hub").join(cacheDir as string, `models--${id.replace("/", "--")}`, ...parts);
}

/** Downloads of this process, by the path of the blob. */
const running = new Map<string, Promise<void>>();

async function intoCache(id: string, sha: string, url: string, file: HubFile, settings: HubSettings): Promise<ByteSource> {
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
      transfer = download({ id, url, blob, file, settings }).finally(() => running.delete(blob));
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
function remote(id: string, url: string, file: HubFile, settings: HubSettings): ByteSource {
  const read = (start: number, end: number): Promise<Uint8Array<ArrayBuffer>> => {
    if (start === end) return Promise.resolve(new Uint8Array());
    return attempted(`reading ${file.path}`, settings, async () => {
      const answer = await request(url, settings, { headers: { Range: `bytes=${start}-${end - 1}` } });
      try {
        const { response } = answer;
        if (!response.ok) throw refusal(response, id, file.path, settings);
        const bytes = new Uint8Array(await response.arrayBuffer());
        const part = response.status === 206 ? bytes : bytes.slice(start, end);
        if (part.length !== end - start)
          throw new FormatError(`${file.path} of ${id} gave ${part.length} bytes where ${end - start} were asked for.`, {
            operation: "hub",
            got: part.length,
          });
        return part;
      } finally {
        answer.end();
      }
    });
  };
  return { name: `${id}/${file.path}`, size: file.size, read };
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
