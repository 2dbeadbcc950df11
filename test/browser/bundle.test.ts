/** The packed library, bundled as people bundle it, computes in Chromium what it computes in Node. */
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { builtinModules } from "node:module";
import { join, resolve } from "node:path";
import { build as esbuild } from "esbuild";
import type { Browser, Page } from "playwright-core";
import { build as vite } from "vite";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openChromium, type ServedFolder, serveFolder } from "../../bench/chromium.ts";
import { type TrainingSample, trainingSample } from "./training-sample.ts";

const root = resolve(import.meta.dirname, "../..");
const folder = join(root, ".cache/browser-bundles");
const entry = join(import.meta.dirname, "bundle-entry.ts");
const tiny = join(root, "models/tiny");
const text = readFileSync(join(root, "CONTRIBUTING.md"), "utf8");

/** Loaded when they are asked for, by who has installed them; the build of the Hub's library that esbuild takes is the one for Node. */
const optional = ["@huggingface/hub", "gpu.js"];

const withEsbuild = async (file: string, minify: boolean) => {
  const { metafile } = await esbuild({
    entryPoints: [entry],
    outfile: join(folder, file),
    bundle: true,
    minify,
    format: "esm",
    platform: "browser",
    external: optional,
    metafile: true,
    logLevel: "error",
  });
  const imports = Object.values(metafile.outputs).flatMap((output) => output.imports);
  return imports.filter(({ kind, path }) => kind !== "dynamic-import" || !optional.includes(path)).map(({ path }) => path);
};

const withVite = async (file: string, minify: boolean) => {
  const result = await vite({
    configFile: false,
    root: import.meta.dirname,
    logLevel: "error",
    build: {
      outDir: folder,
      emptyOutDir: false,
      minify,
      modulePreload: false,
      rollupOptions: { input: entry, output: { entryFileNames: file, chunkFileNames: `${file}-[name].js` } },
    },
  });
  const { output } = result as { output: { readonly type: string; readonly imports?: string[] }[] };
  return output.flatMap(({ imports = [] }) => imports).filter((path) => path.startsWith("node:"));
};

const bundles = [
  { name: "esbuild", bundle: withEsbuild, minify: false },
  { name: "esbuild, minified", bundle: withEsbuild, minify: true },
  { name: "Vite", bundle: withVite, minify: false },
  { name: "Vite, minified", bundle: withVite, minify: true },
].map((each, i) => ({ ...each, file: `bundle-${i}.js` }));

let browser: Browser;
let isolated: ServedFolder;
let plain: ServedFolder;
let expected: TrainingSample;

beforeAll(async () => {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  cpSync(tiny, join(folder, "tiny"), { recursive: true });
  writeFileSync(join(folder, "text.txt"), text);
  writeFileSync(join(folder, "index.html"), '<!doctype html><title>lorikeet</title><link rel="icon" href="data:,">');
  [browser, isolated, plain] = await Promise.all([openChromium(), serveFolder(folder), serveFolder(folder, { isolated: false })]);
  const files = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];
  expected = await trainingSample(Object.fromEntries(files.map((name) => [name, readFileSync(join(tiny, name))])), text);
});

afterAll(async () => {
  await browser?.close();
  await isolated?.[Symbol.asyncDispose]();
  await plain?.[Symbol.asyncDispose]();
});

const inWorker = (page: Page, file: string) =>
  page.evaluate(
    (script) =>
      new Promise<TrainingSample>((done, failed) => {
        const worker = new Worker(script, { type: "module" });
        worker.onmessage = ({ data }) => (data.error ? failed(new Error(data.error)) : done(data.result));
        worker.onerror = ({ message }) => failed(new Error(message || "the worker did not start"));
        worker.postMessage("start");
      }),
    file,
  );

const inPage = async (page: Page, file: string) => {
  await page.addScriptTag({ url: file, type: "module" });
  return page.evaluate(() => (globalThis as unknown as { sample(): Promise<TrainingSample> }).sample());
};

/** The same numbers to the last bit; where they were computed is said apart. */
function expectSame({ device, ...found }: TrainingSample): void {
  const { device: _, ...numbers } = expected;
  expect(found).toEqual(numbers);
  expect(device).toMatch(/^wasm/);
}

describe.each(bundles)("bundled with $name", ({ bundle, minify, file }) => {
  it("needs nothing of Node, and trains and merges to the same bits in a Worker with threads", async () => {
    expect(await bundle(file, minify)).toEqual([]);
    const page = await browser.newPage();
    const problems: string[] = [];
    page.on("console", (message) => void problems.push(message.text()));
    page.on("pageerror", (error) => void problems.push(String(error)));
    await page.goto(isolated.url);
    const found = await inWorker(page, file);
    expectSame(found);
    expect(found.device).toContain("shared memory");
    expect(problems).toEqual([]);
    await page.close();
  });
});

it("works on a page that may not share memory, and in the page's own thread", async () => {
  const { file } = bundles[1] as (typeof bundles)[number];
  const page = await browser.newPage();
  await page.goto(plain.url);
  const found = await inPage(page, file);
  expectSame(found);
  expect(found.device).not.toContain("shared memory");
  await page.goto(isolated.url);
  expectSame(await inPage(page, file));
  await page.close();
});

/** Every entry of the package, but for the file that describes it. */
const entries = Object.keys(JSON.parse(readFileSync(join(root, "package.json"), "utf8")).exports)
  .filter((name) => name !== "./package.json")
  .map((name) => `lorikeet${name.slice(1)}`);

it.each(entries)("%s pulls nothing of Node into a page", async (name) => {
  const { metafile } = await esbuild({
    stdin: { contents: `export * from "${name}"`, resolveDir: root },
    bundle: true,
    minify: true,
    format: "esm",
    platform: "browser",
    external: [...optional, "node:*", ...builtinModules],
    metafile: true,
    write: false,
    logLevel: "error",
  });
  const imports = Object.values(metafile.outputs).flatMap((output) => output.imports);
  expect(imports.filter(({ path }) => !optional.includes(path))).toEqual([]);
  expect(imports.filter(({ kind }) => kind !== "dynamic-import")).toEqual([]);
});
