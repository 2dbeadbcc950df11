/** Pages for `npm run bench -- gpu`: the engines' scripts as bundles, each run in a page of its own of one Chromium. */
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { build } from "esbuild";
import { openChromium, serveFolder } from "./chromium.ts";
import type { Output } from "./comparison.ts";
import { benchFolder, type Engine } from "./peer-engines.ts";

export interface Pages extends AsyncDisposable {
  /** Version of the browser and what its interfaces compute on. */
  readonly about: Readonly<Record<string, string>>;
  /** Runs a script of bench/peers with its words, and gives what it printed until it finished or its time was up. */
  run(script: string, words: readonly string[], seconds: number): Promise<Output>;
}

/** Processor time of all processes below this one, in milliseconds, as Linux counts it in hundredths of a second. */
function childrenMs(): number {
  const parents = new Map<number, { readonly parent: number; readonly ticks: number }>();
  for (const name of readdirSync("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    try {
      // after the name, which is in brackets: state, parent, …, utime, stime
      const fields = readFileSync(`/proc/${name}/stat`, "utf8").split(") ").at(-1)!.split(" ");
      parents.set(Number(name), { parent: Number(fields[1]), ticks: Number(fields[11]) + Number(fields[12]) });
    } catch {}
  }
  let ticks = 0;
  for (const each of parents.values()) {
    let at: number | undefined = each.parent;
    while (at !== undefined && at !== process.pid) at = parents.get(at)?.parent;
    if (at === process.pid) ticks += each.ticks;
  }
  return ticks * 10;
}

/** In a page: what the browser computes on. */
async function adapters(): Promise<Record<string, string>> {
  const gpu = (navigator as { gpu?: { requestAdapter(): Promise<{ info?: Record<string, string> } | null> } }).gpu;
  const info = (await gpu?.requestAdapter())?.info;
  const gl = document.createElement("canvas").getContext("webgl2");
  const names = gl?.getExtension("WEBGL_debug_renderer_info");
  return {
    webgpu: info ? [info["vendor"], info["architecture"], info["description"]].filter(Boolean).join(" ") : "none",
    webgl2: gl ? String(gl.getParameter(names ? names.UNMASKED_RENDERER_WEBGL : gl.RENDERER)) : "none",
  };
}

/**
 * Bundles the scripts, serves them and opens the browser.
 *
 * @param peersFolder where the peers' packages lie
 * @param hardware on the machine's graphics card; without it by the processor
 */
export async function openPages(engines: readonly Engine[], peersFolder: string, hardware: boolean): Promise<Pages> {
  const folder = mkdtempSync(join(tmpdir(), "lorikeet-gpu-"));
  const scripts = [...new Set(engines.map(({ script }) => script[0]!))];
  const inBrowser = join(benchFolder, "peers/browser.mjs");
  await build({
    entryPoints: scripts.map((script) => join(benchFolder, "peers", script)),
    outdir: folder,
    bundle: true,
    splitting: true,
    format: "esm",
    minify: true,
    logLevel: "error",
    // loaded when something is fetched from there, which nothing here is
    external: ["@huggingface/hub"],
    nodePaths: peersFolder ? [join(peersFolder, "node_modules")] : [],
    plugins: [
      {
        name: "pages instead of processes",
        setup({ onResolve }) {
          onResolve({ filter: /^\.\/node\.mjs$/ }, () => ({ path: inBrowser }));
          onResolve({ filter: /^\.\/node-workers\.mjs$/ }, ({ path }) => ({ path, external: true }));
        },
      },
    ],
  });
  writeFileSync(join(folder, "index.html"), '<!doctype html><title>bench</title><link rel="icon" href="data:,">');
  const served = await serveFolder(folder, { answers: { "/processor": () => String(childrenMs()) } });
  const browser = await openChromium({ graphics: hardware ? "hardware" : true });
  const first = await browser.newPage();
  await first.goto(served.url);
  const about = { chromium: browser.version(), ...(await first.evaluate(adapters)) };
  await first.close();
  return {
    about,
    async run(script, words, seconds) {
      const page = await browser.newPage();
      const lines: string[] = [];
      try {
        return await new Promise<Output>((resolve) => {
          const end = (note?: string) => resolve({ text: lines.join("\n"), ...(note !== undefined && { note }) });
          const timer = setTimeout(() => end(`did not finish in ${seconds} s`), seconds * 1000);
          page.on("console", (message) => {
            if (message.text() === "finished") end();
            else if (message.type() === "log") lines.push(message.text());
          });
          page.on("pageerror", (error) => end(error.message));
          page.on("crash", () => end("the page crashed"));
          page.on("close", () => {
            clearTimeout(timer);
            end("the page was closed");
          });
          page
            .goto(`${served.url}?${words.map(encodeURIComponent).join("&")}`)
            .then(() => page.addScriptTag({ url: `/${script.replace(/\.mjs$/, ".js")}`, type: "module" }))
            .catch((error: unknown) => end(String(error)));
        });
      } finally {
        await page.close();
      }
    },
    async [Symbol.asyncDispose]() {
      await browser.close();
      await served[Symbol.asyncDispose]();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}
