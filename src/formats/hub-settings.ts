/** How the Hugging Face Hub is reached and where its files are kept: options first, then the variables that Python's library reads. */
import { ConfigError, type Rules } from "../errors.ts";
import { fileSystem, nodeModule } from "./node-module.ts";

/** What was received of a file. */
export interface HubProgress {
  readonly file: string;
  /** Bytes that are there, of `total`. */
  readonly received: number;
  readonly total: number;
}

/** How a repository of the Hub is opened. */
export interface HubOptions {
  /** A branch, a tag or a commit; `main` when absent. */
  readonly revision?: string;
  /** For private and gated repositories; HF_TOKEN, else the file that `hf auth login` writes, when absent. */
  readonly token?: string;
  /** Where files are kept, shared with Python; HF_HUB_CACHE, else `hub` in HF_HOME, when absent. */
  readonly cacheDir?: string;
  /** HF_ENDPOINT, else https://huggingface.co, when absent. */
  readonly endpoint?: string;
  /** Uses the cache only; HF_HUB_OFFLINE when absent. */
  readonly offline?: boolean;
  /** Told of every piece that arrives. */
  readonly onProgress?: (progress: HubProgress) => void;
  /** Milliseconds without a byte after which a connection is given up; 30,000 when absent. */
  readonly timeout?: number;
  /** Attempts in a row without a new byte; 5 when absent. */
  readonly attempts?: number;
  /** Milliseconds before the second attempt, doubled before each that follows; 500 when absent. */
  readonly retryDelay?: number;
}

/** What these options may be, for those who check theirs. */
export const hubOptionRules: Rules<HubOptions> = {
  revision: "a string",
  token: "a string",
  cacheDir: "a string",
  endpoint: "a string",
  offline: "true or false",
  onProgress: "a function",
  timeout: "a number above 0",
  attempts: "a whole number from 1",
  retryDelay: "a number from 0",
};

/** The same with everything decided. */
export interface HubSettings extends Required<Omit<HubOptions, "token" | "cacheDir" | "onProgress">> {
  readonly token: string | undefined;
  /** `undefined` where there is no file system. */
  readonly cacheDir: string | undefined;
  readonly onProgress: ((progress: HubProgress) => void) | undefined;
}

const environment = (key: string): string | undefined =>
  (typeof process === "undefined" ? undefined : process.env?.[key]) || undefined;
const isOn = (key: string): boolean => /^(1|on|yes|true)$/i.test(environment(key) ?? "");

/** Whether there is a disk to keep downloads on: in Node, not in a browser. */
export const hasFileSystem = (): boolean => fileSystem() !== undefined;

/** @throws {ConfigError} for an endpoint that is no address */
export async function hubSettings(options: HubOptions): Promise<HubSettings> {
  const endpoint = (options.endpoint ?? environment("HF_ENDPOINT") ?? "https://huggingface.co").replace(/\/+$/, "");
  if (!/^https?:\/\/[^/\s]+/.test(endpoint))
    throw new ConfigError(`the endpoint of the Hub (= ${JSON.stringify(endpoint)}) is not an http address.`, {
      operation: "hub",
      got: endpoint,
      hint: "Set `endpoint` or HF_ENDPOINT to something like https://huggingface.co.",
    });
  const home = hasFileSystem() ? hubHome() : undefined;
  return {
    revision: options.revision ?? "main",
    token: options.token ?? (await storedToken(home)),
    cacheDir: home === undefined ? undefined : (options.cacheDir ?? cacheFolder(home)),
    endpoint,
    offline: options.offline ?? (isOn("HF_HUB_OFFLINE") || isOn("TRANSFORMERS_OFFLINE")),
    onProgress: options.onProgress,
    timeout: options.timeout ?? 30_000,
    attempts: options.attempts ?? 5,
    retryDelay: options.retryDelay ?? 500,
  };
}

function hubHome(): string {
  const { join } = nodeModule("path", "hub");
  const { homedir } = nodeModule("os", "hub");
  const cache = environment("XDG_CACHE_HOME") ?? join(homedir(), ".cache");
  return environment("HF_HOME") ?? join(cache, "huggingface");
}

function cacheFolder(home: string): string {
  return environment("HF_HUB_CACHE") ?? environment("HUGGINGFACE_HUB_CACHE") ?? nodeModule("path", "hub").join(home, "hub");
}

async function storedToken(home: string | undefined): Promise<string | undefined> {
  const given = environment("HF_TOKEN") ?? environment("HUGGING_FACE_HUB_TOKEN");
  if (given !== undefined || home === undefined) return given?.trim();
  if (isOn("HF_HUB_DISABLE_IMPLICIT_TOKEN")) return undefined;
  const path = environment("HF_TOKEN_PATH") ?? nodeModule("path", "hub").join(home, "token");
  const text = await nodeModule("fs/promises", "hub")
    .readFile(path, "utf8")
    .catch(() => "");
  return text.trim() || undefined;
}
