/** The gpu device's kernels are translated from JavaScript functions at run time: they mean the same after a minifier. */
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { build as esbuild } from "esbuild";
import type { Probe } from "lorikeet";
import type { Browser } from "playwright-core";
import { build as vite } from "vite";
import { afterAll, beforeAll, expect, it } from "vitest";
import { openChromium, type ServedFolder, serveFolder } from "../../bench/chromium.ts";

const root = resolve(import.meta.dirname, "../..");
const folder = join(root, ".cache/gpu-bundles");
const entry = join(import.meta.dirname, "gpu-entry.ts");

let browser: Browser;
let served: ServedFolder;

beforeAll(async () => {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "index.html"), '<!doctype html><title>lorikeet</title><link rel="icon" href="data:,">');
  [browser, served] = await Promise.all([openChromium({ graphics: true }), serveFolder(folder)]);
});

afterAll(async () => {
  await browser?.close();
  await served?.[Symbol.asyncDispose]();
});

const withEsbuild = (outfile: string, minify: boolean) =>
  esbuild({ entryPoints: [entry], outfile, bundle: true, minify, format: "esm", platform: "browser", logLevel: "error" });

const withVite = (outfile: string, minify: boolean) =>
  vite({
    configFile: false,
    root: import.meta.dirname,
    logLevel: "error",
    build: {
      outDir: folder,
      emptyOutDir: false,
      minify,
      modulePreload: false,
      rollupOptions: { input: entry, output: { entryFileNames: outfile.slice(folder.length + 1) } },
    },
  });

it.each([
  ["esbuild", false, withEsbuild],
  ["esbuild", true, withEsbuild],
  ["Vite", false, withVite],
  ["Vite", true, withVite],
] as const)(
  "bundled by %s (minified: %s), WebGPU and WebGL 2 compute what the reference device computes",
  async (name, minify, bundle) => {
    const file = `${name}-${minify}.js`;
    await bundle(join(folder, file), minify);
    const page = await browser.newPage();
    const problems: string[] = [];
    page.on("console", (message) => void (message.type() === "error" && problems.push(message.text())));
    await page.goto(served.url);
    await page.addScriptTag({ url: file, type: "module" });
    const reports = await page.evaluate(() => (globalThis as unknown as { probe(): Promise<Probe[]> }).probe());
    expect(reports.map(({ mode, works, reason }) => ({ mode, works, reason }))).toEqual([
      { mode: "webgpu", works: true, reason: undefined },
      { mode: "webgl2", works: true, reason: undefined },
    ]);
    expect(problems).toEqual([]);
    await page.close();
  },
);
