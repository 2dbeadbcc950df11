/** What `npm run bench -- gpu` compares, and which pairs are fair: those that compute with the same interface of the browser. */
import { type Engine, takesPart, type Work, works } from "./peer-engines.ts";
import type { Entry } from "./peer-results.ts";

const among = (...names: readonly string[]): Work[] => works.filter(({ name }) => names.includes(name));

/** The training step and single operations, as far as they are in the comparison of processors; and a step for slow adapters. */
export const gpuWorks: readonly Work[] = [
  { name: "lora-step-small", about: "the step with one layer, one sequence and a quarter of the vocabulary", kind: "training" },
  // once, in every mode
  ...among("lora-step").map((work) => ({ ...work, isLong: true, isForAll: true, isOnce: true })),
  ...among("matmul", "matmul-skinny", "softmax").map((work) => ({ ...work, isOnce: false })),
];

/** What a card of one's own has time for: larger steps, too, in which it waits for products and not for launches. */
export const nodeWorks: readonly Work[] = among(
  "lora-step",
  "lora-step-4x-width",
  "lora-step-4x-tokens",
  "matmul",
  "matmul-skinny",
  "matmul-transposed",
  "elementwise",
  "softmax",
  "norm",
  "attention",
).map((work) => ({ ...work, isLong: false, isOnce: false }));

type Api = NonNullable<Engine["api"]>;

const lorikeet = (mode: string, more: Partial<Engine>): Engine => ({
  name: `lorikeet ${mode}`,
  kind: "lorikeet",
  threads: 1,
  script: ["lorikeet.mjs", `mode=${mode}`],
  ...more,
});
const peer = (name: string, api: Api, script: readonly string[], more: Partial<Engine> = {}): Engine => ({
  name,
  kind: "javascript",
  threads: 1,
  script,
  api,
  ...more,
});

export const gpuEngines: readonly Engine[] = [
  lorikeet("webgpu", { api: "webgpu" }),
  peer("tfjs webgpu", "webgpu", ["tfjs.mjs", "backend=webgpu"]),
  peer("jax-js webgpu", "webgpu", ["jax.mjs", "device=webgpu"]),
  lorikeet("webgl2", { api: "webgl2" }),
  peer("tfjs webgl2", "webgl2", ["tfjs.mjs", "backend=webgl", "webgl=2"]),
  // for browsers without WebGL 2
  lorikeet("webgl", { api: "webgl", isPlain: true }),
  peer("tfjs webgl1", "webgl", ["tfjs.mjs", "backend=webgl", "webgl=1"], { isPlain: true }),
  { name: "lorikeet wasm", kind: "lorikeet", threads: 2, script: ["lorikeet.mjs", "threads=2"] },
  lorikeet("headlessgl", { isSlow: true, inNode: true }),
  lorikeet("webasm", { isSlow: true }),
  lorikeet("cpu", { isSlow: true }),
];

/** Steps of a few milliseconds: a card, and what its driver compiles in the background, take a second until they are at their best. */
const manySteps = "steps=300";

/** What computes with WebGPU in a process of Node, by way of Dawn, and PyTorch on the same card where it is an NVIDIA one. */
export const nodeEngines: readonly Engine[] = [
  ...gpuEngines
    .filter(({ api }) => api === "webgpu")
    .map((engine) => ({ ...engine, script: [...engine.script, "dawn=1", manySteps], inNode: true })),
  {
    name: "PyTorch CUDA",
    kind: "pytorch",
    threads: 1,
    script: ["pytorch.py", "device=cuda", manySteps],
    api: "webgpu",
    inNode: true,
  },
];

/** Engines that compute with the same interface take turns in one piece of work: a ratio between them is one of the same minutes. */
export interface Heat {
  readonly work: Work;
  readonly engines: readonly Engine[];
}

/** What is most asked for comes first, so that a run whose time is up has it: everything on WebGPU and WebGL 2, then the rest. */
export function heatsOf(works: readonly Work[], engines: readonly Engine[]): Heat[] {
  const stages: (Api | undefined)[][] = [
    ["webgpu", "webgl2"],
    ["webgl", undefined],
  ];
  return stages
    .flatMap((apis) => works.flatMap((work) => apis.map((api) => ({ work, engines: engines.filter((one) => one.api === api) }))))
    .filter((heat) => heat.engines.some((engine) => takesPart(engine, heat.work)));
}

/** Peers that take so many times as long as the fastest on their interface for the small step are not the faster one in the whole step. */
const hopeless = 2;

/**
 * Who has a part in long work: not who did not finish something, nor a peer that cannot be the faster one.
 *
 * @param entries of the work so far
 */
export function startersOf({ work, engines }: Heat, entries: readonly Entry[]): Engine[] {
  if (!work.isLong) return [...engines];
  const small = entries.filter((entry) => entry.work === "lora-step-small" && entry.ms !== null);
  const msOf = ({ name }: Engine) => small.find(({ engine }) => engine === name)?.ms;
  const fastest = Math.min(...engines.flatMap((one) => (one.kind === "lorikeet" ? [] : (msOf(one) ?? []))));
  return engines.filter((engine) => {
    if (entries.some(({ engine: name, problem }) => name === engine.name && problem?.startsWith("did not finish"))) return false;
    return engine.kind === "lorikeet" || (msOf(engine) ?? 0) <= hopeless * fastest;
  });
}

/** Times as fast as the fastest peer on the same interface, by lorikeet's mode; above 1 means that lorikeet is faster. */
export type GpuRatios = Readonly<Record<string, GpuRatio>>;

interface GpuRatio {
  readonly ratio: number;
  readonly against: string;
  /** Against PyTorch on the same card. */
  readonly vsTorch?: number;
}

/** @param entries of one case */
export function gpuRatiosOf(entries: readonly Entry[], engines: readonly Engine[]): GpuRatios {
  const timed = entries.flatMap((entry) => {
    const engine = engines.find(({ name }) => name === entry.engine);
    return engine && entry.ms !== null ? [{ engine, ms: entry.ms }] : [];
  });
  const ratios: Record<string, GpuRatio> = {};
  for (const { engine, ms } of timed) {
    if (engine.kind !== "lorikeet" || !engine.api) continue;
    const of = (kind: Engine["kind"]) =>
      timed.filter((one) => one.engine.kind === kind && one.engine.api === engine.api).sort((a, b) => a.ms - b.ms)[0];
    const [best, torch] = [of("javascript"), of("pytorch")];
    const ratio = (theirs: number) => Number((theirs / ms).toPrecision(3));
    if (best)
      ratios[engine.name.split(" ")[1]!] = {
        ratio: ratio(best.ms),
        against: best.engine.name,
        ...(torch && { vsTorch: ratio(torch.ms) }),
      };
  }
  return ratios;
}
