/**
 * What does one operation cost, run alone, and how far is that from what the processor can do? Micro-benchmarks of compiled programs with
 * Benchmark.js, one question a file. The limit is the larger of streaming the values through memory and of the vector instructions; both are
 * measured by turns with the operation, since a shared machine is slower in one second than in the next, and in windows as short as its own, since
 * a short one is more often undisturbed.
 * Run: `npm run bench -- operations [--threads N] [--only NAME,…]`
 */
import { parseArgs } from "node:util";
import Benchmark from "benchmark";
import "../../src/devices/choose.ts";
import { upload, useDevice } from "../../src/compile/program.ts";
import { compile } from "../../src/compile/trace.ts";
import type { Device } from "../../src/devices/device.ts";
import { createWasm } from "../../src/devices/wasm/device.ts";
import { bestTime, inWindows, Limits } from "../../src/devices/wasm/limits.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { Variable } from "../../src/graph/variable.ts";
import "../../src/tensor/methods.ts";
import { median } from "../timing.ts";
import type { Case } from "./case.ts";

/** All operations are gone through so often, and each time limit and operation take so many turns: no slow minute is all of one's. */
const [sweeps, turnsASweep] = [5, 2] as const;

const names = ["matmul", "token", "elementwise", "softmax", "norm", "attention", "embedding"] as const;
const questions: Readonly<Record<(typeof names)[number], () => Promise<{ readonly cases: readonly Case[] }>>> = {
  matmul: () => import("./matmul.ts"),
  token: () => import("./token.ts"),
  elementwise: () => import("./elementwise.ts"),
  softmax: () => import("./softmax.ts"),
  norm: () => import("./norm.ts"),
  attention: () => import("./attention.ts"),
  embedding: () => import("./embedding.ts"),
};

interface Result {
  readonly microseconds: number;
  readonly bestMicroseconds: number;
  readonly limitMicroseconds: number;
  readonly boundBy: "memory" | "SIMD";
  /** The best time of all turns over the least limit of all turns: what is left when other programs disturb neither. */
  readonly timesLimit: number;
  /** The median of the turns' own ratios. */
  readonly typicalTimesLimit: number;
  readonly gflops?: number;
  readonly gigabytesPerSecond: number;
  readonly bar?: number;
}

/** The files that are asked for. @throws {Error} for a name that there is not */
export function chosen(only: string | undefined): (typeof names)[number][] {
  const wanted = only?.split(",").map((name) => name.trim()) ?? [...names];
  for (const name of wanted)
    if (!names.includes(name as (typeof names)[number]))
      throw new Error(`bench: there is no operation "${name}". There are: ${names.join(", ")}`);
  return wanted as (typeof names)[number][];
}

export async function operations(args: readonly string[]): Promise<Record<string, unknown>> {
  const { values } = parseArgs({ args: [...args], options: { threads: { type: "string" }, only: { type: "string" } } });
  const wanted = chosen(values.only);
  const device = createWasm(values.threads ? { threads: Number(values.threads) } : {});
  useDevice(device);
  using limits = new Limits(device);
  console.log(
    `one operation per call, on ${device.about}: ${limits.peak.toFixed(0)} GFLOP/s in registers, ${limits.bandwidth(16e6).toFixed(0)} GB/s of copying 16 MB`,
  );
  console.log(`${"".padEnd(38)}    median µs    best µs   limit µs`);
  const files = await Promise.all(wanted.map((name) => questions[name]()));
  const prepared = files.flatMap(({ cases }) => cases).map((one) => prepare(one, device, limits));
  for (let sweep = 0; sweep < sweeps; sweep++)
    for (const one of prepared) for (let turn = 0; turn < turnsASweep; turn++) one.turn();
  const results = Object.fromEntries(prepared.map((one) => [one.name, one.result()]));
  for (const [name, result] of Object.entries(results)) console.log(wordResult(name, result));
  for (const one of prepared) one[Symbol.dispose]();
  const missed = Object.entries(results).filter(([, { bar, timesLimit }]) => bar !== undefined && timesLimit > bar);
  console.log(missed.length ? `above their bars: ${missed.map(([name]) => name).join(", ")}` : "all within their bars");
  device[Symbol.dispose]();
  return { bench: "operations", device: device.about, node: process.version, peakGflops: Math.round(limits.peak), results };
}

/** An operation that is ready to run. */
interface Prepared extends Disposable {
  readonly name: string;
  /** Measures the limit, then the operation. */
  turn(): void;
  result(): Result;
}

function prepare({ name, shapes, run, integers, bar }: Case, device: Device, limits: Limits): Prepared {
  const inputs = shapes.map((shape, i) => {
    const size = shape.reduce((product, extent) => product * extent, 1);
    if (i === 1 && integers !== undefined)
      return upload(
        device,
        Int32Array.from({ length: size }, (_, j) => (j * 7919) % integers),
        shape,
        "int32",
      );
    return upload(device, Float32Array.from({ length: size }, (_, j) => Math.sin(j * (i + 1))), shape, "float32"); // biome-ignore format: one sentence
  });
  // into a cell, so that no memory is taken per call
  const out = new Variable(compile((...x: Tensor[]) => run(...x))(...inputs));
  const call = compile(() => {
    out.assign(run(...inputs));
    return [];
  });
  call();
  const { steps } = call.schedule()!;
  const flops = steps.reduce((sum, step) => sum + ("instructions" in step.code ? 0 : step.flops), 0);
  const bytes = steps
    .flatMap((step) => [...new Set(step.values)])
    .reduce((sum, value) => sum + value.size * device.storageBytes(value.dtype), 0);
  const window = Math.max(
    0.5,
    bestTime(() => call()),
  );
  const turns: { readonly limit: number; readonly ofMemory: number; readonly time: number; readonly sample: number[] }[] = [];
  return {
    name,
    turn() {
      const bounds = steps.map((step) => limits.of(step, device, window));
      const sum = (some: typeof bounds) =>
        some.reduce((total, { arithmetic, memory }) => total + Math.max(arithmetic, memory), 0);
      const ofMemory = sum(bounds.filter(({ arithmetic, memory }) => memory > arithmetic));
      const time = bestTime(() => call(), inWindows(window));
      turns.push({ limit: sum(bounds), ofMemory, time, sample: sampleOf(name, () => call()) });
    },
    result() {
      const limit = Math.min(...turns.map((turn) => turn.limit));
      const best = Math.min(...turns.map(({ time }) => time));
      return {
        microseconds: round(median(turns.flatMap(({ sample }) => sample)) * 1e6),
        bestMicroseconds: round(best * 1e3),
        limitMicroseconds: round(limit * 1e3),
        boundBy: median(turns.map((turn) => turn.ofMemory / turn.limit)) > 0.5 ? "memory" : "SIMD",
        timesLimit: Number((best / limit).toPrecision(3)),
        typicalTimesLimit: Number(median(turns.map((turn) => turn.time / turn.limit)).toPrecision(3)),
        ...(flops > 0 && { gflops: round(flops / best / 1e6) }),
        gigabytesPerSecond: round(bytes / best / 1e6),
        ...(bar !== undefined && { bar: Number(bar.toFixed(2)) }),
      };
    },
    [Symbol.dispose]() {
      call.dispose();
      for (const tensor of inputs) tensor.dispose();
    },
  };
}

function wordResult(name: string, result: Result): string {
  const { gflops, gigabytesPerSecond, bar, timesLimit, typicalTimesLimit, boundBy } = result;
  const rate = gflops === undefined ? `${gigabytesPerSecond} GB/s` : `${gflops} GFLOP/s`;
  const verdict = bar === undefined ? "" : ` (bar ${bar.toFixed(2)}${timesLimit > bar ? ": above" : ""})`;
  return [
    name.padEnd(38),
    ...[result.microseconds, result.bestMicroseconds, result.limitMicroseconds].map((value) => value.toFixed(1).padStart(11)),
    rate.padStart(16),
    `  ${timesLimit.toFixed(2)} × the limit of ${boundBy}${verdict}, typically ${typicalTimesLimit.toFixed(2)}`,
  ].join("");
}

/** Seconds of a call; each a mean over a few milliseconds, as Benchmark.js takes them. */
function sampleOf(name: string, call: () => unknown): number[] {
  let sample: number[] = [];
  const benchmark = new Benchmark(name, call, {
    maxTime: 0.05,
    minTime: 0.003,
    onComplete(event: { target: { error?: Error; stats: { sample: number[] } } }) {
      if (event.target.error) throw event.target.error;
      sample = [...event.target.stats.sample];
    },
  });
  benchmark.run();
  return sample;
}

const round = (value: number): number => Number(value.toFixed(1));
