/** What `npm run bench -- gpu` compares, and which pairs are fair: those that compute with the same interface of the browser. */
import { type Engine, type Work, works } from "./peer-engines.ts";
import type { Entry } from "./peer-results.ts";

const among = (...names: readonly string[]): Work[] => works.filter(({ name }) => names.includes(name));

/** The training step and single operations, as far as they are in the comparison of processors; and a step for slow adapters. */
export const gpuWorks: readonly Work[] = [
  { name: "lora-step-small", about: "the step with one layer, one sequence and a quarter of the vocabulary", kind: "training" },
  // once, and by the engines that are quick enough
  ...among("lora-step").map((work) => ({ ...work, isLong: true, isOnce: true })),
  ...among("matmul", "matmul-skinny", "softmax").map((work) => ({ ...work, isOnce: false })),
];

type Api = NonNullable<Engine["api"]>;

const lorikeet = (mode: string, api?: Api, isSlow = false): Engine => ({
  name: `lorikeet ${mode}`,
  kind: "lorikeet",
  threads: 1,
  script: ["lorikeet.mjs", `mode=${mode}`],
  isSlow,
  ...(api && { api }),
});
const peer = (name: string, api: Api, script: readonly string[]): Engine => ({
  name,
  kind: "javascript",
  threads: 1,
  script,
  api,
});

export const gpuEngines: readonly Engine[] = [
  lorikeet("webgpu", "webgpu"),
  peer("tfjs webgpu", "webgpu", ["tfjs.mjs", "backend=webgpu"]),
  peer("jax-js webgpu", "webgpu", ["jax.mjs", "device=webgpu"]),
  lorikeet("webgl2", "webgl"),
  lorikeet("webgl", "webgl", true),
  peer("tfjs webgl", "webgl", ["tfjs.mjs", "backend=webgl"]),
  { name: "lorikeet wasm", kind: "lorikeet", threads: 2, script: ["lorikeet.mjs", "threads=2"] },
  { ...lorikeet("headlessgl", undefined, true), inNode: true },
  lorikeet("webasm", undefined, true),
  lorikeet("cpu", undefined, true),
];

/** Times as fast as the fastest peer on the same interface, by lorikeet's mode; above 1 means that lorikeet is faster. */
export type GpuRatios = Readonly<Record<string, { readonly ratio: number; readonly against: string }>>;

/** @param entries of one case */
export function gpuRatiosOf(entries: readonly Entry[], engines: readonly Engine[]): GpuRatios {
  const timed = entries.flatMap((entry) => {
    const engine = engines.find(({ name }) => name === entry.engine);
    return engine && entry.ms !== null ? [{ engine, ms: entry.ms }] : [];
  });
  const ratios: Record<string, { ratio: number; against: string }> = {};
  for (const { engine, ms } of timed) {
    if (engine.kind !== "lorikeet" || !engine.api) continue;
    const rivals = timed.filter((one) => one.engine.kind !== "lorikeet" && one.engine.api === engine.api);
    const [best] = rivals.sort((a, b) => a.ms - b.ms);
    if (best) ratios[engine.name.split(" ")[1]!] = { ratio: Number((best.ms / ms).toPrecision(3)), against: best.engine.name };
  }
  return ratios;
}
