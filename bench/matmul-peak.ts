/**
 * How close the wasm matrix product comes to what the processor can do with 128-bit vectors.
 * Run: `npm run bench -- matmul-peak`
 */
import {
  type MatmulOperand,
  type MatmulProblem,
  matmulArgumentWords,
  matmulModule,
  planMatmul,
  writeMatmulArguments,
} from "../kernels/wasm/matmul.ts";
import { features } from "../src/devices/wasm/features.ts";
import { DeviceMemory } from "../src/devices/wasm/memory.ts";
import { type Kernel, Pool } from "../src/devices/wasm/pool.ts";
import { best, round, simdPeak } from "./timing.ts";

interface Case {
  readonly name: string;
  readonly M: number;
  readonly N: number;
  readonly K: number;
  readonly aTurned?: boolean;
  readonly bTurned?: boolean;
  readonly bType?: "float32" | "bfloat16" | "float16";
}

const cases: Case[] = [
  { name: "512 × 512 · 512 × 512", M: 512, N: 512, K: 512 },
  { name: "256 × 256 · 256 × 256", M: 256, N: 256, K: 256 },
  { name: "1024 × 1024 · 1024 × 1024", M: 1024, N: 1024, K: 1024 },
  { name: "LoRA down 512 × 256 · 256 × 8", M: 512, N: 8, K: 256 },
  { name: "LoRA up 512 × 8 · 8 × 256", M: 512, N: 256, K: 8 },
  { name: "AᵀB 256 × 512 · 512 × 256", M: 256, N: 256, K: 512, aTurned: true },
  { name: "ABᵀ 512 × 512 · 512 × 512", M: 512, N: 512, K: 512, bTurned: true },
  { name: "ABᵀ, B bfloat16, 512³", M: 512, N: 512, K: 512, bTurned: true, bType: "bfloat16" },
  { name: "ABᵀ, B float16, 512³", M: 512, N: 512, K: 512, bTurned: true, bType: "float16" },
];
/** Matrix times vector: memory-bound, so in GB/s of B. */
const vectorCases: Case[] = [
  { name: "1 × 768 · 768 × 3072", M: 1, N: 3072, K: 768 },
  { name: "1 × 768 · (3072 × 768)ᵀ", M: 1, N: 3072, K: 768, bTurned: true },
  { name: "1 × 768 · (3072 × 768)ᵀ bfloat16", M: 1, N: 3072, K: 768, bTurned: true, bType: "bfloat16" },
  { name: "1 × 4096 · (16384 × 4096)ᵀ", M: 1, N: 16384, K: 4096, bTurned: true },
  { name: "1 × 4096 · 4096 × 16384", M: 1, N: 16384, K: 4096 },
];

const operand = (rows: number, columns: number, turned = false): MatmulOperand => ({
  batch: [0, 0, 0],
  row: turned ? 1 : columns,
  column: turned ? rows : 1,
});

interface Setup {
  readonly memory: DeviceMemory;
  readonly pool: Pool;
  readonly fused: boolean;
}

/**
 * Milliseconds of one product; with `byTask` those of its tasks, each by itself at its best, added up. A task is shorter than a
 * scheduler's slice, so this says what one thread can do even while other programs run.
 */
function time({ memory, pool, fused }: Setup, one: Case, byTask = false, windows = 250): number {
  const { M, N, K, aTurned, bTurned, bType = "float32" } = one;
  const problem: MatmulProblem = {
    batch: [1, 1, 1],
    M,
    N,
    K,
    bType,
    a: operand(M, K, aTurned),
    b: operand(K, N, bTurned),
    c: operand(M, N),
  };
  const plan = planMatmul(problem, byTask ? 4 : pool.threads);
  if (plan === undefined) throw new Error("no plan");
  const code = matmulModule(plan.variant, { shared: memory.shared, fused });
  const bBytes = K * N * (bType === "float32" ? 4 : 2);
  const [a, b, c, scratch, block] = [4 * M * K, bBytes, 4 * M * N, pool.threads * plan.scratchBytes, 4 * matmulArgumentWords].map(
    (bytes) => memory.allocate(bytes),
  ) as [number, number, number, number, number];
  memory.f32(a, M * K).fill(0.5);
  if (bType === "float32") memory.f32(b, K * N).fill(0.25);
  else memory.u16(b, K * N).fill(bType === "float16" ? 0x3400 : 0x3e80);
  writeMatmulArguments(memory.i32(block, matmulArgumentWords), plan, { a, b, c, scratch });
  const kernel = pool.add(code)["matmul"] as number;
  const run = () => pool.run(kernel, plan.tasks, block);
  run();
  if (memory.f32(c, M * N)[M * N - 1] !== K / 8) throw new Error("wrong answer");
  let milliseconds = 0;
  if (byTask) {
    const { exports } = new WebAssembly.Instance(new WebAssembly.Module(code), { env: { memory: memory.memory } });
    const call = exports["matmul"] as Kernel;
    for (let task = 0; task < plan.tasks; task++) milliseconds += best(() => call(task, block, 0), 0, 1500 / plan.tasks);
  } else milliseconds = best(run, M * N * K > 1e8 ? 0 : 1, windows);
  for (const address of [a, b, c, scratch, block]) memory.free(address);
  return milliseconds;
}

const log = (...cells: (string | number)[]) =>
  console.log(
    cells
      .map((cell, i) => (i === 0 ? String(cell).padEnd(40) : (typeof cell === "number" ? cell.toFixed(1) : cell).padStart(12)))
      .join(""),
  );

export async function matmulPeak(): Promise<Record<string, unknown>> {
  const relaxed = features().relaxedSimd;
  console.log(`node ${process.version}; GFLOP/s, in parentheses the share of the peak of one thread`);
  const peaks = { plain: simdPeak(false), fused: relaxed ? simdPeak(true) : 0 };
  log("registers only", "multiply+add", peaks.plain, "fused", peaks.fused);

  const setups: Setup[] = [];
  for (const [threads, fused] of [
    [1, false],
    [1, true],
    [2, true],
  ] as const) {
    if (fused && !relaxed) continue;
    const memory = new DeviceMemory();
    const pool = new Pool(memory, { threads });
    await pool.ready();
    setups.push({ memory, pool, fused });
  }
  const names = setups.map(({ pool, fused }) => `${pool.threads}${fused ? " fused" : ""}`);
  log("threads", ...names, "speed-up", "1, by task"); // bar of the speed-up at 512³: 1.85
  const products: Record<string, unknown>[] = [];
  for (const one of cases) {
    const rateOf = (ms: number) => (2 * one.M * one.N * one.K) / ms / 1e6;
    const share = (ms: number, fused: boolean) =>
      `${rateOf(ms).toFixed(1)} (${Math.round((100 * rateOf(ms)) / (fused ? peaks.fused : peaks.plain))}%)`;
    // by turns, so that a minute in which the machine is busy with something else is one for all of them
    const rounds = Array.from({ length: 5 }, () => setups.map((setup) => time(setup, one, false, 80)));
    const times = setups.map((_, i) => Math.min(...rounds.map((round) => round[i] as number)));
    const alone = setups.filter(({ pool }) => pool.threads === 1).at(-1) as Setup;
    const speedUp = (times.at(-2) as number) / (times.at(-1) as number);
    const byTask = time(alone, one, true);
    log(one.name, ...times.map((ms, i) => share(ms, setups[i]?.fused ?? false)), speedUp.toFixed(2), share(byTask, alone.fused));
    const gflops = Object.fromEntries(times.map((ms, i) => [names[i]!, round(rateOf(ms), 1)]));
    products.push({ case: one.name, gflops, speedUp: round(speedUp, 2), byTaskGflops: round(rateOf(byTask), 1) });
  }
  console.log("matrix times vector, GB/s of B");
  const vectors: Record<string, unknown>[] = [];
  for (const one of vectorCases) {
    const bytes = one.K * one.N * (one.bType === undefined || one.bType === "float32" ? 4 : 2);
    const rates = setups.map((setup) => bytes / time(setup, one) / 1e6);
    log(one.name, ...rates);
    vectors.push({ case: one.name, gigabytesPerSecond: Object.fromEntries(rates.map((rate, i) => [names[i]!, round(rate, 1)])) });
  }
  const variant = planMatmul(
    { batch: [1, 1, 1], M: 64, N: 64, K: 64, a: operand(64, 64), b: operand(64, 64), c: operand(64, 64) },
    1,
  )?.variant;
  if (variant !== undefined)
    console.log(`emitting a module: ${best(() => matmulModule(variant, { shared: true })).toFixed(2)} ms`);
  for (const { pool } of setups) pool.dispose();
  const peakGflops = { plain: round(peaks.plain, 1), fused: round(peaks.fused, 1) };
  return { bench: "matmul-peak", node: process.version, peakGflops, products, vectors };
}
