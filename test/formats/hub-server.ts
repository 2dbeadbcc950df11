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
  /** Taken from the front, one for each request for a file; `undefined` for a right answer. */
  readonly faults: (Fault | undefined)[];
  /** For requests for the listing. */
  readonly listingFaults: ((response: ServerResponse) => void)[];
  /** Changes the listing that is sent. */
  tamper: (listing: { sha: string; siblings: Record<string, unknown>[] }) => unknown;
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
  const faults: (Fault | undefined)[] = [];
  const listingFaults: ((response: ServerResponse) => void)[] = [];
  const refuse = (response: ServerResponse, status: number, code: string, message: string) => {
    response.writeHead(status, { "x-error-code": code, "x-error-message": message }).end();
  };
  const server = createServer((request, response) => {
    const { pathname } = new URL(request.url as string, "http://here");
    requests.push([request.method, pathname, request.headers.range].filter(Boolean).join(" "));
    if (token !== undefined && request.headers.authorization !== `Bearer ${token}`)
      return refuse(response, 401, "RepoNotFound", "Invalid username or password.");
    const [, revision] = new RegExp(`^/api/models/${id}/revision/(.+)$`).exec(pathname) ?? [];
    if (revision !== undefined) {
      const fault = listingFaults.shift();
      if (fault) return fault(response);
      if (revision !== "main" && revision !== sha) return refuse(response, 404, "RevisionNotFound", "Invalid rev id");
      const siblings = Object.entries(files).map(([rfilename, content]) => ({
        rfilename,
        size: content.length,
        blobId: gitSha(content),
        ...(content.length >= large ? { lfs: { sha256: sha256(content), size: content.length, pointerSize: 130 } } : {}),
      }));
      return response.setHeader("content-type", "application/json").end(JSON.stringify(hub.tamper({ sha, siblings })));
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
    faults,
    listingFaults,
    tamper: (listing) => listing,
    sha,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      await new Promise((resume) => server.close(resume));
    },
  };
  return hub;
}

/** The right answer: the whole, or the part that was asked for. */
export function answer(request: IncomingMessage, response: ServerResponse, content: Buffer, etag: string): void {
  const from = Number(/^bytes=(\d+)-/.exec(request.headers.range ?? "")?.[1] ?? Number.NaN);
  const head = { etag: `"${etag}"`, "accept-ranges": "bytes" };
  if (Number.isNaN(from)) response.writeHead(200, { ...head, "content-length": content.length });
  else if (from >= content.length) return void response.writeHead(416, head).end();
  else {
    const range = `bytes ${from}-${content.length - 1}/${content.length}`;
    response.writeHead(206, { ...head, "content-range": range, "content-length": content.length - from });
  }
  response.end(request.method === "HEAD" ? undefined : content.subarray(from || 0));
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
