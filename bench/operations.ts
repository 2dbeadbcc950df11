/**
 * What does one operation cost, run alone? Micro-benchmarks of compiled programs with Benchmark.js: time per call and per element.
 * Run: `npm run bench -- operations [--threads N] [--only NAME]`
 */
import { parseArgs } from "node:util";
import Benchmark from "benchmark";
import { upload, useDevice } from "../src/compile/program.ts";
import { compile } from "../src/compile/trace.ts";
import { createWasm } from "../src/devices/wasm/device.ts";
import { attention } from "../src/graph/attention.ts";
import { matmul } from "../src/graph/contraction.ts";
import { add, mul, tanh } from "../src/graph/elementwise.ts";
import { transpose } from "../src/graph/movement.ts";
import type { Tensor } from "../src/graph/node.ts";
import { Variable } from "../src/graph/variable.ts";
import { layerNorm, rmsNorm } from "../src/nn/norm.ts";
import { gelu, silu } from "../src/tensor/math.ts";
import { softmax, sum } from "../src/tensor/statistics.ts";

interface Case {
  readonly name: string;
  readonly shapes: readonly (readonly number[])[];
  readonly run: (...x: Tensor[]) => Tensor;
  /** Operations of one call, where that says more than elements. */
  readonly flops?: number;
}

const square = [1024, 1024] as const;
const cases: readonly Case[] = [
  { name: "add", shapes: [square, square], run: (x, y) => add(x!, y!) },
  { name: "tanh(x)·x + x", shapes: [square], run: (x) => add(mul(tanh(x!), x!), x!) },
  { name: "silu", shapes: [square], run: (x) => silu(x!) },
  { name: "gelu", shapes: [square], run: (x) => gelu(x!) },
  { name: "sum of rows", shapes: [square], run: (x) => sum(x!, -1) },
  { name: "sum of columns", shapes: [square], run: (x) => sum(x!, 0) },
  { name: "softmax", shapes: [square], run: (x) => softmax(x!) },
  { name: "rmsNorm", shapes: [square, [1024]], run: (x, w) => rmsNorm(x!, w!) },
  { name: "layerNorm", shapes: [square, [1024], [1024]], run: (x, w, b) => layerNorm(x!, w!, b!) },
  {
    name: "matmul 512³",
    shapes: [
      [512, 512],
      [512, 512],
    ],
    run: (a, b) => matmul(a!, b!),
    flops: 2 * 512 ** 3,
  },
  {
    name: "matmul 512³, B transposed",
    shapes: [
      [512, 512],
      [512, 512],
    ],
    run: (a, b) => matmul(a!, transpose(b!)),
    flops: 2 * 512 ** 3,
  },
  {
    name: "LoRA down 512×256·256×8",
    shapes: [
      [512, 256],
      [8, 256],
    ],
    run: (x, A) => matmul(x!, transpose(A!)),
    flops: 2 * 512 * 256 * 8,
  },
  {
    name: "attention 4×128×8×32",
    shapes: [
      [4, 128, 8, 32],
      [4, 128, 8, 32],
      [4, 128, 8, 32],
    ],
    run: (q, k, v) => attention(q!, k!, v!, { isCausal: true }),
    flops: 4 * 4 * 8 * 128 * 128 * 32,
  },
];

export async function operations(args: readonly string[]): Promise<Record<string, unknown>> {
  const { values } = parseArgs({ args: [...args], options: { threads: { type: "string" }, only: { type: "string" } } });
  const device = createWasm(values.threads ? { threads: Number(values.threads) } : {});
  useDevice(device);
  const results: Record<string, { microseconds: number; nanosecondsPerElement?: number; gflops?: number }> = {};
  console.log(`one operation per call, on ${device.about}; median of the samples of Benchmark.js`);
  const suite = new Benchmark.Suite();
  for (const { name, shapes, run, flops } of cases) {
    if (values.only && !name.includes(values.only)) continue;
    const inputs = shapes.map((shape, i) => {
      const size = shape.reduce((product, extent) => product * extent, 1);
      return upload(
        device,
        Float32Array.from({ length: size }, (_, j) => Math.sin(j * (i + 1))),
        shape,
        "float32",
      );
    });
    // into a cell, so that no memory is taken per call
    const like = compile((...x: Tensor[]) => run(...x))(...inputs);
    const out = new Variable(like);
    const call = compile(() => {
      out.assign(run(...inputs));
      return [];
    });
    const elements = out.size;
    suite.add(name, () => call(), {
      maxTime: 0.5,
      onComplete(event: { target: { error?: Error; stats: { sample: number[] } } }) {
        if (event.target.error) throw event.target.error;
        const sample = [...event.target.stats.sample].sort((a, b) => a - b);
        const seconds = sample[sample.length >> 1]!;
        const result = flops
          ? { gflops: Number((flops / seconds / 1e9).toFixed(1)) }
          : { nanosecondsPerElement: Number(((seconds * 1e9) / elements).toFixed(3)) };
        results[name] = { microseconds: Number((seconds * 1e6).toFixed(1)), ...result };
        const shown = "gflops" in result ? `${result.gflops} GFLOP/s` : `${result.nanosecondsPerElement} ns per result`;
        console.log(`${name.padEnd(28)} ${(seconds * 1e6).toFixed(1).padStart(10)} µs  ${shown}`);
      },
    });
  }
  suite.run();
  device[Symbol.dispose]();
  return { bench: "operations", device: device.about, node: process.version, results };
}
