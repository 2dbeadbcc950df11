/** The page as static files: everything that it needs lies beside it, also the tiny model and the book. */
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { defineConfig, type Plugin } from "vite";
import { kernelTexts } from "../scripts/kernel-text.mjs";
import { loadCorpus } from "../src/text/corpora.ts";

const root = resolve(import.meta.dirname, "..");

/** What lets the engine use threads; the page works without. */
export const isolation = { "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp" };

const tiny = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];

/** Files of the page, by their place, and where they come from. */
const files: Readonly<Record<string, () => Promise<string | Uint8Array>>> = {
  ...Object.fromEntries(tiny.map((name) => [`tiny/${name}`, async () => readFileSync(resolve(root, "models/tiny", name))])),
  "moby-dick.json": async () => {
    const { train, heldOut } = await loadCorpus("moby-dick");
    return JSON.stringify({ train: train.map(({ text }) => text), heldOut: heldOut.map(({ text }) => text) });
  },
};

const data = (): Plugin => ({
  name: "data of the page",
  configureServer({ middlewares }) {
    middlewares.use(async ({ url = "" }, response, next) => {
      const read = files[url.replace(/^\//, "").replace(/\?.*$/, "")];
      if (read) response.end(await read());
      else next();
    });
  },
  async generateBundle() {
    for (const [fileName, read] of Object.entries(files)) this.emitFile({ type: "asset", fileName, source: await read() });
  },
});

export default defineConfig(({ mode }) => ({
  root: import.meta.dirname,
  base: "./",
  plugins: [data(), kernelTexts()],
  worker: { format: "es", plugins: () => [kernelTexts()] },
  build: { outDir: resolve(root, "dist/web"), emptyOutDir: true, reportCompressedSize: false },
  server: { headers: mode === "plain" ? {} : isolation },
  preview: { headers: mode === "plain" ? {} : isolation },
}));
