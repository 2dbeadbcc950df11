/** node.mjs for a page: gpu-pages.ts bundles the engines' scripts with this in its place, the words come in the address. */
import expected from "../expected.json" with { type: "json" };
import given from "../spec.json" with { type: "json" };
import growth from "./expected-growth.json" with { type: "json" };

export const spec = given;
export const reference = { ...expected, growth };
export const words = location.search.slice(1).split("&").map(decodeURIComponent);

const packages = {
  "@tensorflow/tfjs": () => import("@tensorflow/tfjs"),
  "@tensorflow/tfjs-backend-webgpu": () => import("@tensorflow/tfjs-backend-webgpu"),
  "@jax-js/jax": () => import("@jax-js/jax"),
};
export const load = (name) => packages[name]();

const entries = {
  "": () => import("../../dist/src/index.js"),
  models: () => import("../../dist/src/models/index.js"),
  nn: () => import("../../dist/src/nn/index.js"),
  optim: () => import("../../dist/src/optim/index.js"),
  peft: () => import("../../dist/src/peft/index.js"),
  train: () => import("../../dist/src/train/index.js"),
};
export const entry = (name) => entries[name]();

export const say = (result) => console.log(JSON.stringify(result));

/** By the clock on the wall, or with the word `clock=processor` the time that the browser's processes have computed. */
export const now = words.includes("clock=processor")
  ? async () => Number(await (await fetch("/processor")).text())
  : () => performance.now();

/** A page does not know what the graphics process holds. */
export const peakMemory = () => undefined;

/** What gpu-pages.ts waits for. */
export const finish = () => console.log("finished");

/** A page cannot ask for it. */
export const collectGarbage = undefined;
