/** A Hub and an empty cache for each test of a file that imports this, and what those tests do with them. */
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, vi } from "vitest";
import { type HubOptions, hubFolder } from "../../src/formats/hub.ts";
import { cut as cutAfter, type HubServer, serveHub } from "./hub-server.ts";

export const id = "owner/small-model";
export const config = Buffer.from('{"model_type": "llama"}');
export const weights = Buffer.from(Uint8Array.from({ length: 300_000 }, (_, i) => (i * 7 + (i >> 8)) & 255));
export const files = {
  "config.json": config,
  "model.safetensors": weights,
  "sub/notes.txt": Buffer.from("é"),
  empty: Buffer.alloc(0),
};

export let hub: HubServer;
export let cache: string;
/** Bytes of the file that is being downloaded that have arrived. */
export let received: number;
export const cut = (bytes: number) => cutAfter(bytes, () => received);
beforeEach(async () => {
  received = 0;
  for (const key of Object.keys(process.env)) if (/^(HF_|HUGGING|TRANSFORMERS_)/.test(key)) vi.stubEnv(key, "");
  cache = mkdtempSync(join(tmpdir(), "lorikeet-hub-"));
  vi.stubEnv("HF_HOME", cache); // no token of the person who runs this
  hub = await serveHub(id, files);
});
afterEach(async () => {
  vi.useRealTimers();
  vi.unstubAllEnvs();
  await hub[Symbol.asyncDispose]();
  rmSync(cache, { recursive: true, force: true });
});

export const options = (more: HubOptions = {}): HubOptions => ({
  endpoint: hub.endpoint,
  cacheDir: cache,
  retryDelay: 1,
  // a busy machine may leave this process alone for seconds, which is no fault of the server
  timeout: 60_000,
  onProgress: (progress) => {
    received = progress.received;
  },
  ...more,
});
export const open = (more?: HubOptions) => hubFolder(id, options(more));
export const fetched = async (file: string, more?: HubOptions) => {
  const { size, read } = await (await open(more)).open(file);
  return Buffer.from(await read(0, size));
};
export const repository = () => join(cache, "models--owner--small-model");
export const blobs = () => readdirSync(join(repository(), "blobs")).sort();
export const ranges = () => hub.requests.filter((request) => request.includes("model.safetensors"));
