/** A headless Chromium and the pages it is shown: folders served from this machine, with or without cross-origin isolation. */
import { existsSync, readFileSync, statSync } from "node:fs";
import { createServer, type Server } from "node:http";
import { extname, join, normalize } from "node:path";
import { type Browser, chromium } from "playwright-core";

/** Where Debian puts it; another one by CHROMIUM_PATH. */
const executablePath = process.env["CHROMIUM_PATH"] ?? "/usr/bin/chromium";

const quiet = [
  "--no-sandbox",
  "--disable-gpu-sandbox",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

/** WebGL2 and WebGPU computed by the processor, for machines without a graphics card. */
export const softwareGraphics: readonly string[] = [
  "--use-gl=angle",
  "--use-angle=swiftshader",
  "--enable-unsafe-swiftshader",
  "--enable-unsafe-webgpu",
  "--use-webgpu-adapter=swiftshader",
];

/** Milliseconds within which the browser starts, also on a machine with much else to do. */
const startTimeout = 180_000;

/** WebGPU on the machine's own card, where Chromium does not offer it by itself. */
const hardwareGraphics = ["--enable-unsafe-webgpu", "--ignore-gpu-blocklist", "--enable-features=Vulkan"];

/**
 * A browser with a profile of its own.
 *
 * @param graphics `true`: by the processor; `"hardware"`: by the machine's graphics card
 * @throws when there is none, saying how one comes here
 */
export async function openChromium({ graphics = false as boolean | "hardware" } = {}): Promise<Browser> {
  if (!existsSync(executablePath))
    throw new Error(`There is no Chromium at ${executablePath}: apt-get install -y chromium, or set CHROMIUM_PATH.`);
  const flags = graphics === "hardware" ? hardwareGraphics : graphics ? softwareGraphics : [];
  return chromium.launch({ executablePath, headless: true, timeout: startTimeout, args: [...quiet, ...flags] });
}

const mediaTypes: Readonly<Record<string, string>> = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript",
  ".css": "text/css",
  ".json": "application/json",
  ".svg": "image/svg+xml",
};

/** The two headers that let a page share memory between threads. */
export const isolation = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
} as const;

export interface ServedFolder extends AsyncDisposable {
  /** `http://127.0.0.1:port/` */
  readonly url: string;
}

/**
 * Serves the files of a folder.
 *
 * @param isolated whether pages of it may share memory between threads
 * @param answers texts that are made when somebody asks, by path
 */
export async function serveFolder(
  folder: string,
  { isolated = true, answers = {} as Readonly<Record<string, () => string>> } = {},
): Promise<ServedFolder> {
  const server: Server = createServer((request, response) => {
    const answer = answers[request.url ?? ""];
    if (answer) {
      response.writeHead(200, { "Content-Type": "text/plain", "Cache-Control": "no-store" }).end(answer());
      return;
    }
    const path = normalize(decodeURIComponent(new URL(request.url ?? "/", "http://localhost").pathname));
    const file = join(folder, path.endsWith("/") ? `${path}index.html` : path);
    if (!existsSync(file) || !statSync(file).isFile()) {
      response.writeHead(404).end();
      return;
    }
    const type = mediaTypes[extname(file)] ?? "application/octet-stream";
    response.writeHead(200, { "Content-Type": type, ...(isolated ? isolation : {}) }).end(readFileSync(file));
  });
  await new Promise<void>((listening) => void server.listen(0, "127.0.0.1", listening));
  const { port } = server.address() as { port: number };
  return {
    url: `http://127.0.0.1:${port}/`,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      await new Promise((closed) => void server.close(closed));
    },
  };
}
