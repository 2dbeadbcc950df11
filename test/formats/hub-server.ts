/** A Hub on this machine for tests: its listing, its files, and everything that can go wrong with them. */
import { createHash } from "node:crypto";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

/** What happens to one request for a file instead of a right answer; the others are answered well. */
export type Fault = (request: IncomingMessage, response: ServerResponse, content: Buffer, etag: string) => boolean;

export interface HubServer extends AsyncDisposable {
  readonly endpoint: string;
  /** Of requests: method, path, and range if there is one. */
  readonly requests: string[];
  /** What each of them says in `Authorization`. */
  readonly tokens: (string | undefined)[];
  /** Taken from the front, one for each request for a file; `undefined` for a right answer. */
  readonly faults: (Fault | undefined)[];
  /** For requests for the commit of a revision, and for pages of its files. */
  readonly listingFaults: (((response: ServerResponse) => void) | undefined)[];
  /** Changes what is said of a revision: its commit is sent first, its files by pages. */
  tamper: (listing: { sha: string; files: Record<string, unknown>[] }) => unknown;
  /** Files on a page of the listing. */
  pageSize: number;
  /** Address of the page behind this one. */
  next: (url: URL) => string;
  readonly sha: string;
}

export const sha256 = (content: Buffer): string => createHash("sha256").update(content).digest("hex");
export const gitSha = (content: Buffer): string =>
  createHash("sha1").update(`blob ${content.length}\0`).update(content).digest("hex");
/** Files of this size and more are kept as large files are, by SHA-256. */
const large = 1000;
export const etagOf = (content: Buffer): string => (content.length >= large ? sha256(content) : gitSha(content));

export async function serveHub(id: string, files: Readonly<Record<string, Buffer>>, token?: string): Promise<HubServer> {
  const sha = createHash("sha1")
    .update(JSON.stringify(Object.keys(files)))
    .digest("hex");
  const requests: string[] = [];
  const tokens: (string | undefined)[] = [];
  const faults: (Fault | undefined)[] = [];
  const listingFaults: HubServer["listingFaults"][number][] = [];
  const refuse = (response: ServerResponse, status: number, code: string, message: string) => {
    response.writeHead(status, { "x-error-code": code, "x-error-message": message }).end();
  };
  const server = createServer((request, response) => {
    const url = new URL(request.url as string, hub.endpoint);
    const { pathname } = url;
    requests.push([request.method, pathname, request.headers.range].filter(Boolean).join(" "));
    tokens.push(request.headers.authorization);
    if (token !== undefined && request.headers.authorization !== `Bearer ${token}`)
      return refuse(response, 401, "RepoNotFound", "Invalid username or password.");
    const [, kind, revision] = new RegExp(`^/api/models/${id}/(revision|tree)/(.+)$`).exec(pathname) ?? [];
    if (revision !== undefined) {
      const fault = listingFaults.shift();
      if (fault) return fault(response);
      const told = hub.tamper({ sha, files: Object.entries(files).flatMap(entries) }) as Partial<
        Parameters<typeof hub.tamper>[0]
      > | null;
      if (![...(kind === "tree" ? [] : ["main"]), sha, told?.sha].includes(revision))
        return refuse(response, 404, "RevisionNotFound", "Invalid rev id");
      response.setHeader("content-type", "application/json");
      if (kind === "revision") return response.end(JSON.stringify(told));
      const from = Number(url.searchParams.get("cursor") ?? 0);
      const page = Array.isArray(told?.files) ? told.files.slice(from, from + hub.pageSize) : (told?.files ?? null);
      url.searchParams.set("cursor", String(from + hub.pageSize));
      if (from + hub.pageSize < (told?.files?.length ?? 0)) response.setHeader("link", `<${hub.next(url)}>; rel="next"`);
      return response.end(JSON.stringify(page));
    }
    const [, path] = new RegExp(`^/${id}/resolve/${sha}/(.+)$`).exec(pathname) ?? [];
    const content = path === undefined ? undefined : files[decodeURIComponent(path)];
    if (!content) return refuse(response, 404, path ? "EntryNotFound" : "RepoNotFound", "not found");
    const etag = etagOf(content);
    if (faults.shift()?.(request, response, content, etag)) return;
    answer(request, response, content, etag);
  });
  await new Promise<void>((resume) => server.listen(0, "127.0.0.1", resume));
  const hub: HubServer = {
    endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    requests,
    tokens,
    faults,
    listingFaults,
    tamper: (listing) => listing,
    pageSize: 1000,
    next: String,
    sha,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      await new Promise((resume) => server.close(resume));
    },
  };
  return hub;
}

/** A file and the folders that it is in, as the Hub lists them. */
function entries([path, content]: readonly [path: string, content: Buffer]): Record<string, unknown>[] {
  const oid = gitSha(content);
  const lfs = { oid: sha256(content), size: content.length, pointerSize: 130 };
  const file = {
    type: "file",
    path,
    size: content.length,
    oid,
    ...(content.length >= large && { lfs, xetHash: "0".repeat(64) }),
  };
  const folders = path.split("/").slice(0, -1);
  return [...folders.map((_, i) => ({ type: "directory", path: folders.slice(0, i + 1).join("/"), size: 0, oid })), file];
}

/** The right answer: the whole, or the part that was asked for. */
export function answer(request: IncomingMessage, response: ServerResponse, content: Buffer, etag: string): void {
  const [, first, last] = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? "") ?? [];
  const head = { etag: `"${etag}"`, "accept-ranges": "bytes" };
  const from = Number(first ?? 0);
  const part = content.subarray(from, last ? Number(last) + 1 : undefined);
  if (first === undefined) response.writeHead(200, { ...head, "content-length": content.length });
  else if (from >= content.length) return void response.writeHead(416, head).end();
  else {
    const range = `bytes ${from}-${from + part.length - 1}/${content.length}`;
    response.writeHead(206, { ...head, "content-range": range, "content-length": part.length });
  }
  response.end(part);
}

/** Sends `bytes` of what is asked for and, once they have been `received`, cuts the connection. */
export const cut =
  (bytes: number, received: () => number): Fault =>
  (request, response, content, etag) => {
    const from = Number(/^bytes=(\d+)-/.exec(request.headers.range ?? "")?.[1] ?? 0);
    const rest = content.subarray(from);
    response.writeHead(from ? 206 : 200, {
      etag: `"${etag}"`,
      "content-length": rest.length,
      ...(from && { "content-range": `bytes ${from}-${content.length - 1}/${content.length}` }),
    });
    response.flushHeaders();
    if (bytes > 0) response.write(rest.subarray(0, bytes));
    // a connection that breaks takes with it what has not been read
    const wait = setInterval(() => {
      if (received() < from + bytes) return;
      clearInterval(wait);
      response.destroy();
    }, 2);
    return true;
  };

export const status =
  (code: number, headers: Record<string, string> = {}): Fault =>
  (_, response) => {
    response.writeHead(code, headers).end("no");
    return true;
  };
