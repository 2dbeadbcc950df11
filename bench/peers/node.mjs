/** What the engines' scripts need of the place where they run: here Node, a process for each piece of work. browser.mjs is the same for a page. */

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

const json = (path) => JSON.parse(readFileSync(new URL(path, import.meta.url), "utf8"));

export const spec = json("../spec.json");
export const reference = { ...json("../expected.json"), growth: json("./expected-growth.json") };

/** The work, then options as `name=value`. */
export const words = process.argv.slice(2).filter((argument) => !argument.startsWith("--"));

/** A peer's package, from the folder that peers.ts installed them in. */
export async function load(name) {
  const folder = process.env.PEERS_DIR;
  if (name === "@jax-js/jax") return import(pathToFileURL(`${folder}/node_modules/${name}/dist/index.js`).href);
  return createRequire(`${folder}/x.js`)(name);
}

// what pages have of their own: WebGPU, by way of Dawn
if (words.includes("dawn=1")) {
  const { create, globals } = await load("webgpu");
  const gpu = create([]);
  Object.assign(globalThis, globals);
  // Node has had a navigator since 21
  if (!globalThis.navigator) Object.defineProperty(globalThis, "navigator", { configurable: true, value: { userAgent: "Node" } });
  Object.defineProperty(globalThis.navigator, "gpu", { configurable: true, value: gpu });
}

/** An entry point of lorikeet, such as "peft", as Node finds it in the package. */
const inPackage = createRequire(new URL("../../package.json", import.meta.url));
export const entry = (name) => import(pathToFileURL(inPackage.resolve(["lorikeet", name].filter(Boolean).join("/"))).href);

export const say = (result) => console.log(JSON.stringify(result));

/** Milliseconds of the clock that is measured with. */
export const now = () => performance.now();

/** The most memory that the process held, in bytes. */
export function peakMemory() {
  try {
    return Number(/VmHWM:\s+(\d+)/.exec(readFileSync("/proc/self/status", "utf8"))[1]) * 1024;
  } catch {
    return process.resourceUsage().maxRSS * 1024;
  }
}

/** After the last result. */
export const finish = () => process.exit(0);

/** Frees what nothing refers to, and waits until its device memory has been given back. */
export async function collectGarbage() {
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc");
  for (let round = 0; round < 3; round++) {
    collect();
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
