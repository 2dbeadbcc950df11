/**
 * What do the attention kernels save against the same attention composed of matrix products and a softmax, and how close are their
 * products to the processor's limit? Work is counted in multiply-adds that the mask leaves: 2 products forward, 5 backward.
 * Run: `npm run bench -- attention [--threads N]`
 */
import { parseArgs } from "node:util";
import { downloadSync, Program, realize, upload } from "../src/compile/program.ts";
import { schedule } from "../src/compile/schedule.ts";
import type { Buffer, Device } from "../src/devices/device.ts";
import { createWasm } from "../src/devices/wasm/device.ts";
import { features } from "../src/devices/wasm/features.ts";
import { attentionBackwardOp, attentionOp } from "../src/graph/attention.ts";
import { applyFused } from "../src/graph/fused.ts";
import type { Tensor } from "../src/graph/node.ts";
import type { Fused } from "../src/graph/primitive.ts";
import { best, round, simdPeak } from "./timing.ts";

interface Case {
  readonly name: string;
  readonly B: number;
  readonly T: number;
  readonly H: number;
  readonly G: number;
  readonly D: number;
  readonly causal: boolean;
  readonly window?: number;
  readonly Tq?: number;
}

const cases: readonly Case[] = [
  { name: "a layer of spec.json [4, 128, 8, 32]", B: 4, T: 128, H: 8, G: 8, D: 32, causal: true },
  { name: "the same without a mask", B: 4, T: 128, H: 8, G: 8, D: 32, causal: false },
  { name: "[1, 512, 8, 64], 2 key heads", B: 1, T: 512, H: 8, G: 2, D: 64, causal: true },
  { name: "[1, 1024, 4, 64]", B: 1, T: 1024, H: 4, G: 4, D: 64, causal: true },
  { name: "[1, 1024, 4, 64], window 256", B: 1, T: 1024, H: 4, G: 4, D: 64, causal: true, window: 256 },
  { name: "[8, 16, 4, 32], short texts", B: 8, T: 16, H: 4, G: 4, D: 32, causal: true },
  { name: "1 query, 512 keys, 8 heads of 64", B: 1, T: 512, H: 8, G: 8, D: 64, causal: true, Tq: 1 },
];

const values = (size: number, seed: number) => Float32Array.from({ length: size }, (_, i) => Math.sin(12.9898 * i + seed));

/** Milliseconds of computing `wanted`, again and again in the same memory. */
function time(device: Device, wanted: readonly Tensor[]): number {
  const program = new Program(schedule(wanted, device));
  const { roots } = program.schedule;
  const results = new Map(roots.map((root) => [root, upload(device, new Float32Array(root.size), root.shape, root.dtype)]));
  const milliseconds = best(
    () => program.run((value) => (value.storage ?? results.get(value)!.storage)!.buffer as Buffer),
    0.5,
    300,
  );
  program.release();
  for (const { storage } of results.values()) (storage!.buffer as Disposable)[Symbol.dispose]();
  return milliseconds;
}

/** The largest difference between the kernel's results and the composition's. */
function difference(kernel: readonly Tensor[], composed: readonly Tensor[]): number {
  return Math.max(
    ...kernel.map((tensor, part) => {
      const want = downloadSync(composed[part]!);
      return Float32Array.from(downloadSync(tensor), (value, i) => Math.abs(value - want[i]!)).reduce(
        (x, y) => Math.max(x, y),
        0,
      );
    }),
  );
}

export async function attention(args: readonly string[]): Promise<Record<string, unknown>> {
  const { values: options } = parseArgs({ args: [...args], options: { threads: { type: "string", default: "1" } } });
  const device = createWasm({ threads: Number(options.threads) });
  const peak = simdPeak(features().relaxedSimd);
  console.log(`node ${process.version}, ${device.about}, one thread's peak ${peak.toFixed(1)} GFLOP/s`);
  const log = (name: string, ...cells: readonly string[]) =>
    console.log([name.padEnd(38), ...cells.map((cell) => cell.padStart(12))].join(""));
  log("", "kernel ms", "GFLOP/s", "of peak", "composed ms", "ratio");
  const measured: Record<string, unknown>[] = [];
  for (const { name, B, T, H, G, D, causal, window = 0, Tq = T } of cases) {
    const q = upload(device, values(B * Tq * H * D, 1), [B, Tq, H, D], "float32");
    const g = upload(device, values(B * Tq * H * D, 2), [B, Tq, H, D], "float32");
    const [k, v] = [3, 4].map((seed) => upload(device, values(B * T * G * D, seed), [B, T, G, D], "float32")) as [Tensor, Tensor];
    const attributes = { causal: Number(causal), window, scale: 1 / Math.sqrt(D) };
    const pairs = Array.from({ length: Tq }, (_, i) => {
      const position = i + T - Tq;
      return causal ? position + 1 - (window ? Math.max(0, position - window + 1) : 0) : T;
    }).reduce((sum, seen) => sum + seen, 0);
    const both = (op: Fused, sources: readonly Tensor[]) => {
      const composed = op.compose(sources, attributes);
      const types = composed.map(({ shape, dtype }) => ({ shape, dtype }));
      return { kernel: applyFused(op, sources, types, attributes), composed, again: op.compose(sources, attributes) };
    };
    const report = (label: string, op: Fused, sources: readonly Tensor[], products: number) => {
      const { kernel, composed, again } = both(op, sources);
      const fresh = both(op, sources);
      const [fast, slow] = [time(device, kernel), time(device, composed)];
      const error = difference(fresh.kernel, again);
      if (!(error < 1e-3)) throw new Error(`${name}: wrong by ${error}`);
      const rate = (2 * products * pairs * B * H * D) / fast / 1e6;
      const share = `${Math.round((100 * rate) / peak)} %`;
      log(label, fast.toFixed(3), rate.toFixed(1), share, slow.toFixed(3), (slow / fast).toFixed(1));
      measured.push({ case: name, kernel: op.name, ms: round(fast, 3), gflops: round(rate, 1), composedMs: round(slow, 3) });
      return kernel;
    };
    report(name, attentionOp, [q, k, v], 2);
    const [y, logSum] = applyFused(
      attentionOp,
      [q, k, v],
      [
        { shape: q.shape, dtype: "float32" },
        { shape: [B, H, Tq], dtype: "float32" },
      ],
      attributes,
    ) as [Tensor, Tensor];
    realize([y, logSum]);
    report("    derivative", attentionBackwardOp, [q, k, v, y, logSum, g], 5);
  }
  device[Symbol.dispose]();
  return { bench: "attention", device: device.about, node: process.version, peakGflops: round(peak, 1), measured };
}
