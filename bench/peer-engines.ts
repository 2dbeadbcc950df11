/** What `npm run bench -- peers` compares, on which work, and how their packages come to this machine. */
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

/** One piece of work; the scripts in bench/peers know it by `name`. */
export interface Work {
  readonly name: string;
  readonly about: string;
  readonly kind: "operation" | "training" | "generation";
  /** Done by engines that are quick enough, or by all; left out with `--quick`. */
  readonly isLong?: boolean;
  readonly isForAll?: boolean;
  /** Engines have one turn at it. */
  readonly isOnce?: boolean;
}

const operation = (name: string, about: string): Work => ({ name, about, kind: "operation", isOnce: true });
const training = (name: string, about: string, isLong = false): Work => ({
  name,
  about,
  kind: "training",
  isLong,
  isOnce: isLong,
});
export const works: readonly Work[] = [
  training("lora-step", "one LoRA training step of spec.json"),
  { name: "generate", about: "64 tokens after a prompt of 16, greedy, batch 1, with a cache", kind: "generation" },
  operation("matmul", "square products"),
  operation("matmul-skinny", "the products of LoRA"),
  operation("matmul-transposed", "products of transposed operands, as derivatives need"),
  operation("elementwise", "a chain of elementwise operations, 1024²"),
  operation("softmax", "softmax, 1024²"),
  operation("norm", "layer norm and RMS norm, 1024²"),
  operation("attention", "causal attention of one layer of spec.json"),
  operation("embedding", "rows of a table by index"),
  // last: a run that ends early has all the short ones
  training("lora-step-4x-tokens", "the step with 4 times the tokens", true),
  training("lora-step-4x-width", "the step with 4 times the width", true),
  training("lora-step-2x-depth", "the step with twice the layers", true),
];

export interface Engine {
  readonly name: string;
  readonly kind: "lorikeet" | "javascript" | "pytorch";
  readonly threads: number;
  /** What it computes with in a page, where that is not the processor. */
  readonly api?: "webgpu" | "webgl2" | "webgl";
  /** Has no page: a process of Node runs it where others are in the browser. */
  readonly inNode?: boolean;
  /** In bench/peers, with its options. */
  readonly script: readonly string[];
  /** Whether Node must be told to take relaxed SIMD, where it knows but does not enable it. */
  readonly relaxedSimd?: boolean;
  /** Takes half a minute and more for a step: one is enough, and the larger ones are left out. */
  readonly isSlow?: boolean;
  /** Another engine here is the same one set up to be faster: long works and `--quick` leave this one out. */
  readonly isPlain?: boolean;
  /** Work that it can do; all when absent. */
  readonly can?: (work: Work) => boolean;
}

const lorikeet = (threads: number): Engine => ({
  name: `lorikeet ${threads} thread${threads > 1 ? "s" : ""}`,
  kind: "lorikeet",
  threads,
  script: ["lorikeet.mjs", `threads=${threads}`],
});
const pytorch = (threads: number): Engine => ({
  name: `PyTorch ${threads} thread${threads > 1 ? "s" : ""}`,
  kind: "pytorch",
  threads,
  script: ["pytorch.py", `threads=${threads}`],
});
const peer = (name: string, script: readonly string[], more: Partial<Engine> = {}): Engine => ({
  name,
  kind: "javascript",
  threads: 1,
  script,
  ...more,
});
const noGeneration = (work: Work): boolean => work.kind !== "generation";
const among =
  (...names: readonly string[]) =>
  (work: Work): boolean =>
    names.includes(work.name);

export const engines: readonly Engine[] = [
  lorikeet(1),
  lorikeet(2),
  pytorch(1),
  pytorch(2),
  peer("jax-js wasm", ["jax.mjs"], { isPlain: true }),
  peer("jax-js wasm relaxed SIMD", ["jax.mjs"], { relaxedSimd: true }),
  peer("jax-js wasm relaxed SIMD 2 threads", ["jax.mjs", "threads=2"], { relaxedSimd: true, threads: 2 }),
  peer("tfjs wasm", ["tfjs.mjs", "backend=wasm"], { isPlain: true, can: noGeneration }),
  peer("tfjs wasm tuned by hand", ["tfjs.mjs", "backend=wasm", "tuned=1"], { can: noGeneration }),
  peer("tfjs cpu", ["tfjs.mjs", "backend=cpu"], { isSlow: true, can: noGeneration }),
  peer("js-pytorch", ["js-pytorch.mjs"], {
    isSlow: true,
    can: among("lora-step", "matmul", "matmul-skinny", "matmul-transposed", "softmax", "norm"),
  }),
  peer("gpu.js webasm", ["gpu.mjs", "mode=webasm"], { isSlow: true, can: among("matmul", "elementwise", "softmax", "norm") }),
  peer("gpu.js cpu", ["gpu.mjs", "mode=cpu"], { isSlow: true, can: among("matmul", "elementwise", "softmax", "norm") }),
];

/** Whether an engine has a part in a piece of work. */
export const takesPart = (engine: Engine, work: Work): boolean =>
  (engine.can?.(work) ?? true) && (!work.isLong || work.isForAll || !(engine.isSlow || engine.isPlain));

/** Seconds of measuring in one process: single operations come to rest sooner than a step does. */
const secondsFor = (work: Work, seconds: number): number => (work.kind === "operation" ? seconds / 4 : seconds);

/** Where bench/ lies, whether this file runs compiled or not. */
export const benchFolder = ["./", "../../bench/"]
  .map((path) => fileURLToPath(new URL(path, import.meta.url)))
  .find((folder) => existsSync(join(folder, "peers/package.json"))) as string;

const cache = join(process.env["XDG_CACHE_HOME"] || join(homedir(), ".cache"), "lorikeet");

/**
 * The folder in the user's cache where the peers' packages lie; other versions lie beside it. Installs them when they are missing.
 *
 * @throws {Error} when npm cannot install them
 */
export function installPeers(say: (text: string) => void): string {
  const manifest = join(benchFolder, "peers/package.json");
  const version = createHash("sha256").update(readFileSync(manifest)).digest("hex").slice(0, 12);
  const folder = join(cache, `peers-${version}`);
  if (existsSync(folder)) return folder;
  say(`bench: installing the peers into ${folder}, once (500 MB) ...`);
  // beside its place, and moved there when it is whole: a run that was cut leaves nothing half-made
  const draft = `${folder}.${process.pid}`;
  mkdirSync(draft, { recursive: true });
  copyFileSync(manifest, join(draft, "package.json"));
  const { status } = spawnSync("npm", ["install", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"], {
    cwd: draft,
    stdio: ["ignore", 2, 2],
    shell: process.platform === "win32",
  });
  if (status !== 0) {
    rmSync(draft, { recursive: true, force: true });
    throw new Error("bench: npm could not install the peers (above); choose others with --engines lorikeet");
  }
  renameSync(draft, folder);
  return folder;
}

/** A Python with PyTorch: `LORIKEET_PYTHON`, the one that `npm run conformance -- --install` made, or `python3`. */
export function findPython(): string | undefined {
  const made = existsSync(cache) ? readdirSync(cache).filter((name) => /^python-\w+$/.test(name)) : [];
  const own = process.env["LORIKEET_PYTHON"];
  return [own, ...made.map((name) => join(cache, name, "bin/python")), "python3"]
    .filter((python) => python !== undefined)
    .find((python) => spawnSync(python, ["-c", "import torch, numpy"], { stdio: "ignore" }).status === 0);
}

/** The flag that enables relaxed SIMD, where Node has it and does not enable it by itself. */
export function relaxedSimdFlags(): readonly string[] {
  const flag = "--experimental-wasm-relaxed-simd";
  const known = spawnSync(process.execPath, [flag, "-e", "0"], { encoding: "utf8" });
  return known.status === 0 && !known.stderr.includes("unrecognized") ? [flag] : [];
}

/** How long an engine's script measures, as its options: one step of a slow one has to do, as of a large model. */
export const paceOf = (isSlow: boolean, seconds: number): readonly string[] =>
  isSlow ? ["seconds=1", "least=1"] : [`seconds=${seconds}`];

/** Program and arguments of an engine's process. */
export function commandOf(
  engine: Engine,
  work: Work,
  {
    seconds,
    case: start = "",
    python,
    flags,
  }: {
    readonly seconds: number;
    readonly case?: string;
    readonly python: string | undefined;
    readonly flags: readonly string[];
  },
): readonly [program: string, args: readonly string[]] {
  const [script, ...options] = engine.script as [string, ...string[]];
  const pace = [...paceOf(engine.isSlow ?? false, secondsFor(work, seconds)), ...(work.isLong ? ["least=1"] : [])];
  const args = [join(benchFolder, "peers", script), work.name, ...options, ...(start ? [`case=${start}`] : []), ...pace];
  return script.endsWith(".py") ? [python as string, args] : [process.execPath, [...(engine.relaxedSimd ? flags : []), ...args]];
}
