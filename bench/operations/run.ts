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
import { bestTime, Limits } from "../../src/devices/wasm/limits.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { Variable } from "../../src/graph/variable.ts";
import "../../src/tensor/methods.ts";
import { median } from "../timing.ts";
import type { Case } from "./case.ts";

/** Limit and operation take so many turns. */
const rounds = 9;

const names = ["matmul", "elementwise", "softmax", "norm", "attention", "embedding"] as const;
const questions: Readonly<Record<(typeof names)[number], () => Promise<{ readonly cases: readonly Case[] }>>> = {
  matmul: () => import("./matmul.ts"),
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
  /** The best window of a round over its limit, which is measured before it; the median over rounds. */
  readonly timesLimit: number;
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
  const results: Record<string, Result> = {};
  for (const name of wanted) {
    const { cases } = await questions[name]();
    for (const one of cases) results[one.name] = measure(one, device, limits);
  }
  const missed = Object.entries(results).filter(([, { bar, timesLimit }]) => bar !== undefined && timesLimit > bar);
  console.log(missed.length ? `above their bars: ${missed.map(([name]) => name).join(", ")}` : "all within their bars");
  device[Symbol.dispose]();
  return { bench: "operations", device: device.about, node: process.version, peakGflops: Math.round(limits.peak), results };
}

function measure({ name, shapes, run, integers, bar }: Case, device: Device, limits: Limits): Result {
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
  const turns = Array.from({ length: rounds }, () => {
    const bounds = steps.map((step) => limits.of(step, device, true));
    const limit = bounds.reduce((sum, bound) => sum + Math.max(bound.arithmetic, bound.memory), 0);
    const time = bestTime(() => call(), { window: 0.5, milliseconds: 30, warmUp: 10 });
    return { limit, bounds, time, sample: sampleOf(name, () => call()) };
  });
  const sample = turns.flatMap((turn) => turn.sample).sort((a, b) => a - b);
  const limit = Math.min(...turns.map((turn) => turn.limit));
  const timesLimit = median(turns.map(({ time, limit }) => time / limit));
  const isMemory =
    turns
      .flatMap(({ bounds }) => bounds)
      .reduce((sum, { arithmetic, memory }) => sum + Math.sign(memory - arithmetic) * Math.max(arithmetic, memory), 0) > 0;
  const flops = steps.reduce((sum, step) => sum + ("instructions" in step.code ? 0 : step.flops), 0);
  const bytes = steps
    .flatMap((step) => [...new Set(step.values)])
    .reduce((sum, value) => sum + value.size * device.storageBytes(value.dtype), 0);
  const best = Math.min(...turns.map(({ time }) => time)) / 1e3;
  const result: Result = {
    microseconds: round(sample[sample.length >> 1]! * 1e6),
    bestMicroseconds: round(best * 1e6),
    limitMicroseconds: round(limit * 1e3),
    boundBy: isMemory ? "memory" : "SIMD",
    timesLimit: Number(timesLimit.toPrecision(3)),
    ...(flops > 0 && { gflops: round(flops / best / 1e9) }),
    gigabytesPerSecond: round(bytes / best / 1e9),
    ...(bar !== undefined && { bar: Number(bar.toFixed(2)) }),
  };
  const rate = result.gflops === undefined ? `${result.gigabytesPerSecond} GB/s` : `${result.gflops} GFLOP/s`;
  const verdict = bar === undefined ? "" : ` (bar ${bar.toFixed(2)}${result.timesLimit > bar ? ": above" : ""})`;
  console.log(
    [
      name.padEnd(38),
      ...[result.microseconds, result.bestMicroseconds, result.limitMicroseconds].map((value) => value.toFixed(1).padStart(11)),
      rate.padStart(16),
      `  ${result.timesLimit.toFixed(2)} × the limit of ${result.boundBy}${verdict}`,
    ].join(""),
  );
  call.dispose();
  for (const tensor of inputs) tensor.dispose();
  return result;
}

/** Seconds of a call, sorted; each a mean over a few milliseconds, as Benchmark.js takes them. */
function sampleOf(name: string, call: () => unknown): number[] {
  let sample: number[] = [];
  const benchmark = new Benchmark(name, call, {
    maxTime: 0.05,
    minTime: 0.003,
    onComplete(event: { target: { error?: Error; stats: { sample: number[] } } }) {
      if (event.target.error) throw event.target.error;
      sample = [...event.target.stats.sample].sort((a, b) => a - b);
    },
  });
  benchmark.run();
  return sample;
}

const round = (value: number): number => Number(value.toFixed(1));
