/**
 * What the Hub is asked, by way of `@huggingface/hub`: which files a revision has, what one file is, and its bytes. The library
 * knows the addresses, pages and answers; the `fetch` that it is given is ours, which knows the token, patience and refusals.
 */
import { ConfigError, FormatError, LorikeetError, wordImport, wordJson } from "../errors.ts";
import { attempted, Interrupted, refusal, request, wordFailure } from "./hub-request.ts";
import type { HubSettings } from "./hub-settings.ts";

/** A file as the Hub lists it. */
export interface HubFile {
  readonly path: string;
  readonly size: number;
  /** Names the content in the cache: SHA-256 for large files, git's SHA-1 for small ones. */
  readonly etag: string;
}

/** A file of a commit of a repository. */
export interface HubPlace {
  readonly id: string;
  readonly sha: string;
  readonly path: string;
}

/** A commit and its files, with what the Hub says of each. */
export interface Listing {
  readonly sha: string;
  readonly files: ReadonlyMap<string, Partial<Pick<HubFile, "size" | "etag">>>;
}

/** Imported when the Hub is first asked, so that nobody who does not ask it needs to have it or to load it. */
async function library(): Promise<typeof import("@huggingface/hub")> {
  try {
    return await import("@huggingface/hub"); // for webpack, a package within `try` may be missing
  } catch (cause) {
    throw new ConfigError(`the package @huggingface/hub cannot be imported: ${wordImport(cause)}.`, {
      operation: "hub",
      got: cause,
      hint: "Install it with: npm install @huggingface/hub",
    });
  }
}

/** The token is not among these: the library takes only those that begin with hf_, so `request` adds it. */
const repository = (id: string, { endpoint }: HubSettings) => ({ repo: { type: "model", name: id }, hubUrl: endpoint }) as const;

const encoded = (path: string): string => path.split("/").map(encodeURIComponent).join("/");

/** Whether it says already what is to be said, so that it is passed on as it is. */
const isWorded = (error: unknown): boolean => error instanceof LorikeetError || error instanceof Interrupted;

/** A `fetch` for answers in JSON. They are read here, so that a cut is told from an answer that is no JSON. */
function fetchList(id: string, settings: HubSettings): typeof fetch {
  const asked = new Set<string>();
  return async (input, init) => {
    const url = String(input);
    if (asked.has(url))
      throw new FormatError(`the list of the files of ${id} leads back to a page that was read.`, { operation: "hub", got: url });
    asked.add(url);
    const { response, end } = await request(url, settings, init);
    try {
      if (!response.ok) throw refusal(response, id, settings.revision, settings);
      const text = await response.text().catch((error) => {
        throw wordFailure(error, url);
      });
      return new Response(text, response);
    } finally {
      end();
    }
  };
}

/**
 * The commit of a revision, and its files.
 *
 * @throws {ConfigError} when the Hub refuses or cannot be reached, and without `@huggingface/hub`
 * @throws {FormatError} when the answer is no list, or has a name that leads out of a folder
 */
export async function listing(id: string, settings: HubSettings): Promise<Listing> {
  const { listFiles, modelInfo } = await library();
  const noList = (got: unknown) =>
    new FormatError(`the answer of ${settings.endpoint} is not a list of the files of ${id}.`, { operation: "hub", got });
  return attempted(`asking the Hub for ${id}`, settings, async () => {
    const { repo, hubUrl } = repository(id, settings);
    const fetch = fetchList(id, settings);
    const files = new Map<string, Partial<HubFile>>();
    try {
      const { sha } = await modelInfo({ name: id, revision: settings.revision, additionalFields: ["sha"], hubUrl, fetch });
      if (typeof sha !== "string" || !/^[0-9a-f]{40}$/.test(sha)) throw noList(sha);
      // of that commit, not of the branch, which may have moved on
      for await (const { type, path, size, oid, lfs, xetHash } of listFiles({
        repo,
        revision: sha,
        recursive: true,
        hubUrl,
        fetch,
      })) {
        if (type !== "file") continue;
        checkName(path, id);
        const etag = lfs ? lfs.oid : xetHash ? undefined : oid;
        files.set(path, {
          ...(Number.isSafeInteger(size) && size >= 0 ? { size } : {}),
          ...(typeof etag === "string" && /^[0-9a-f]{40,64}$/.test(etag) ? { etag } : {}),
        });
      }
      return { sha, files };
    } catch (error) {
      throw isWorded(error) ? error : noList((error as Error).message);
    }
  });
}

/** A name from the net must not lead out of the cache. */
function checkName(path: unknown, id: string): void {
  if (
    typeof path !== "string" ||
    path.split("/").some((part) => part === "" || part === "." || part === "..") ||
    /[\\\0:]/.test(path)
  )
    throw new FormatError(`${id} lists a file called ${wordJson(path)}, which is not a name inside a folder.`, {
      operation: "hub",
      got: path,
    });
}

/** Size and etag from the file's own headers. */
export async function fileHeaders({ id, sha, path }: HubPlace, settings: HubSettings): Promise<HubFile> {
  const { fileDownloadInfo } = await library();
  return attempted(`asking the Hub for ${path}`, settings, async () => {
    const headersOnly: typeof fetch = async (input, init) => {
      const { response, end } = await request(String(input), settings, init);
      end();
      await response.body?.cancel().catch(() => {});
      if (!response.ok) throw refusal(response, id, path, settings);
      return new Response(null, response);
    };
    const found = await fileDownloadInfo({
      ...repository(id, settings),
      revision: sha,
      path: encoded(path),
      fetch: headersOnly,
    }).catch((error) => {
      if (isWorded(error)) throw error;
    });
    const etag = plainEtag(found?.etag ?? null);
    if (!found || etag === undefined || !/^[\w-]+$/.test(etag) || !Number.isSafeInteger(found.size) || found.size < 0)
      throw new FormatError(`the Hub does not say the size and etag of ${path} of ${id}.`, { operation: "hub", got: found });
    return { path, size: found.size, etag };
  });
}

/** An etag without quotes and the mark of a weak one. */
export const plainEtag = (etag: string | null): string | undefined =>
  etag?.replace(/^W\//, "").replace(/^"|"$/g, "") || undefined;

/**
 * The bytes of a file from `start` to `end`, by one request, piece by piece as they come.
 *
 * @param check is shown the answer before its bytes, since the library takes a whole file for the part that was asked for; what
 *   it throws comes out here
 * @throws {Interrupted} when it is worth another attempt
 */
export async function* pieces(
  { id, sha, path }: HubPlace,
  { size, etag }: HubFile,
  [start, end]: readonly [start: number, end: number],
  settings: HubSettings,
  check: (response: Response) => void | Promise<void>,
): AsyncGenerator<Uint8Array> {
  const { downloadFile } = await library();
  const url = `${settings.endpoint}/${id}/resolve/${sha}/${encoded(path)}`;
  let answer: Awaited<ReturnType<typeof request>> | undefined;
  // the library's stream passes on only the text of what happened
  let failure: unknown;
  const checked: typeof fetch = async (input, init) => {
    try {
      answer = await request(String(input), settings, init);
      await check(answer.response);
      // the library's stream of nothing has no end
      if (!answer.response.body) throw new Interrupted("the Hub answers without a content");
      return answer.response;
    } catch (error) {
      failure = error;
      await answer?.response.body?.cancel().catch(() => {});
      throw error;
    }
  };
  // `downloadInfo` is what the listing has said already; `xet: false` for plain ranges (docs/decisions/0009)
  const blob = await downloadFile({
    ...repository(id, settings),
    path,
    fetch: checked,
    xet: false,
    downloadInfo: { url, size, etag },
  });
  const reader = (blob as Blob).slice(start, end).stream().getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read().catch((error) => {
        throw failure ?? wordFailure(error, url);
      });
      if (done) return;
      answer?.touch();
      yield value;
    }
  } finally {
    answer?.end();
    await reader.cancel().catch(() => {});
  }
}
