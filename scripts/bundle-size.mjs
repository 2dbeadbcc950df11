// What an import costs in a browser, minified and gzipped: the code that is loaded at once, and for the page all of it.
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { build as esbuild } from "esbuild";
import { build as vite } from "vite";
import { root } from "./prepare.mjs";

/** Loaded when they are asked for. */
const optional = ["@huggingface/hub", "gpu.js"];
const gzipped = (bytes) => gzipSync(bytes, { level: 9 }).length;

/** Bytes of `import * from entry` and of what that loads with it. */
async function entryBytes(entry) {
  const { outputFiles, metafile } = await esbuild({
    stdin: { contents: `export * from "${entry}"`, resolveDir: root },
    outdir: join(root, "dist"),
    absWorkingDir: root,
    bundle: true,
    minify: true,
    splitting: true,
    format: "esm",
    platform: "browser",
    external: optional,
    metafile: true,
    write: false,
    logLevel: "error",
  });
  const loaded = new Set();
  const load = (path) => {
    if (loaded.has(path)) return;
    loaded.add(path);
    for (const { kind, path: next, external } of metafile.outputs[path].imports)
      if (kind !== "dynamic-import" && !external) load(next);
  };
  load(Object.keys(metafile.outputs).find((path) => metafile.outputs[path].entryPoint));
  return outputFiles
    .filter(({ path }) => [...loaded].some((name) => path === join(root, name)))
    .reduce((sum, { contents }) => sum + gzipped(contents), 0);
}

/** Bytes of the page's code and style, its engine included; what is loaded only when it is asked for is left out. */
async function pageBytes() {
  const outDir = mkdtempSync(join(tmpdir(), "lorikeet-page-"));
  try {
    await vite({ configFile: join(root, "web/vite.config.ts"), logLevel: "silent", build: { outDir } });
    const assets = join(outDir, "assets");
    const first = readdirSync(assets).filter((name) => /^(index|engine)-.*\.(js|css)$/.test(name));
    return first.reduce((sum, name) => sum + gzipped(readFileSync(join(assets, name))), 0);
  } finally {
    rmSync(outDir, { recursive: true, force: true });
  }
}

/** Bytes by name, for every name that has a ceiling. */
export async function bundleSizes(names) {
  const sizes = {};
  for (const name of names) {
    if (name !== "page") sizes[name] = await entryBytes(name);
    else if (existsSync(join(root, "web/index.html"))) sizes[name] = await pageBytes();
  }
  return sizes;
}
