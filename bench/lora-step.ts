/**
 * How fast is one LoRA training step, and how close to its matrix products alone? The step is the one of `spec.json`;
 * its twenty losses are checked against PyTorch's before anything is reported.
 * Run: `npm run bench -- lora-step [--threads N] [--profile]`
 */
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { downloadSync, Program, realize, upload, useDevice } from "../src/compile/program.ts";
import { type Schedule, schedule } from "../src/compile/schedule.ts";
import { compile } from "../src/compile/trace.ts";
import type { Buffer, Device } from "../src/devices/device.ts";
import { createWasm } from "../src/devices/wasm/device.ts";
import { bestTime, inWindows, Limits } from "../src/devices/wasm/limits.ts";
import { profile, profileTable } from "../src/devices/wasm/profile.ts";
import { matmul } from "../src/graph/contraction.ts";
import type { Tensor } from "../src/graph/node.ts";
import { AdamW } from "../src/optim/adam.ts";
import { gradientsOf } from "../src/optim/optimizer.ts";
import { benchFolder } from "./peer-engines.ts";
import { buildBatch, buildModel, exact, expected, spec } from "./spec-model.ts";
import { best, collectGarbage, median, peakResidentBytes, round } from "./timing.ts";

/** The device's own 512³ product, and how near it comes to the limit of the same moment. */
interface Gemm extends Disposable {
  /** GFLOP/s. */
  rate(): number;
  /** Its least time on these threads, measured now, over its own. */
  share(limits: Limits): number;
}

function gemm(device: Device, size = 512): Gemm {
  const values = Float32Array.from({ length: size * size }, (_, i) => ((i * 7919) % 1000) / 1000 - 0.5);
  const [a, b] = [upload(device, values, [size, size], "float32"), upload(device, values, [size, size], "float32")];
  const planned = schedule([matmul(a, b)], device);
  const program = new Program(planned);
  const out = upload(device, new Float32Array(size * size), [size, size], "float32");
  const run = () => program.run((value) => (value.storage ?? out.storage)!.buffer as Buffer);
  const window = best(run, 0);
  const milliseconds = () => best(run, 0, 150);
  return {
    rate: () => (2 * size ** 3) / milliseconds() / 1e6,
    share: (limits) => limits.of(planned.steps[0]!, device, window).arithmetic / bestTime(run, inWindows(window)),
    [Symbol.dispose]: () => program.release(),
  };
}

/** Milliseconds to import the package and for the first step, weights not counted: of three processes the one in the middle. */
function coldStart(threads: number): { readonly importMs: number; readonly firstStepMs: number } {
  const script = join(benchFolder, "peers/lorikeet.mjs");
  const words = ["lora-step", `threads=${threads}`, "seconds=0", "least=1"];
  const starts = Array.from({ length: 3 }, () => {
    const { stdout, stderr } = spawnSync(process.execPath, [script, ...words], { encoding: "utf8" });
    const line = stdout.trim().split("\n").at(-1);
    if (!line) throw new Error(`bench: the cold start ended without a result: ${stderr}`);
    return JSON.parse(line) as { readonly firstStepMs: number; readonly importAndFirstStepMs: number };
  });
  const { firstStepMs, importAndFirstStepMs } = starts.sort((x, y) => x.importAndFirstStepMs - y.importAndFirstStepMs)[1]!;
  return { importMs: importAndFirstStepMs - firstStepMs, firstStepMs };
}

/** The best of several rounds. */
interface Rounds {
  /** Milliseconds of the best step of each round. */
  readonly steps: readonly number[];
  /** GFLOP/s of the device's product, and of one thread alone. */
  readonly rate: number;
  readonly rateAlone: number;
  /** GFLOP/s that the threads can do at most. */
  readonly peak: number;
  /** How near the product typically comes to the limit of the same moment. */
  readonly typicalShare: number;
  /** Least milliseconds of a step outside of kernels. */
  readonly outside: number;
}

/** The limits and the step, side by side, several times over: the best of each is what the machine can do when it is left alone. */
function measureRounds(device: Device, kernels: { readonly milliseconds: number }, run: () => void): Rounds {
  using alone = createWasm({ threads: 1 });
  using product = gemm(device);
  using productAlone = gemm(alone);
  using limits = new Limits(device);
  const rounds = Array.from({ length: 12 }, () => {
    const rate = product.rate();
    const rateAlone = productAlone.rate();
    const share = product.share(limits);
    const own = Array.from({ length: 4 }, () => {
      const inside = kernels.milliseconds;
      const start = performance.now();
      run();
      const ms = performance.now() - start;
      return { ms, outside: ms - (kernels.milliseconds - inside) };
    });
    const least = (key: "ms" | "outside") => Math.min(...own.map((each) => each[key]));
    return { rate, rateAlone, share, ms: least("ms"), outside: least("outside") };
  });
  return {
    steps: rounds.map(({ ms }) => ms),
    rate: Math.max(...rounds.map(({ rate }) => rate)),
    rateAlone: Math.max(...rounds.map(({ rateAlone }) => rateAlone)),
    peak: limits.peak,
    typicalShare: median(rounds.map(({ share }) => share)),
    outside: Math.min(...rounds.map(({ outside }) => outside)),
  };
}

export async function loraStep(args: readonly string[]): Promise<Record<string, unknown>> {
  const { values: options } = parseArgs({
    args: [...args],
    options: { threads: { type: "string" }, profile: { type: "boolean" }, steps: { type: "string" } },
  });
  const device = createWasm(options.threads ? { threads: Number(options.threads) } : {});
  useDevice(device);
  const { model, parameters } = buildModel();
  model.train();
  const { lr, beta1, beta2, eps, weightDecay } = spec.optim;
  const optimizer = new AdamW(parameters, { lr, betas: [beta1, beta2], eps, weightDecay });
  const step = compile((inputIds: Tensor, targets: Tensor) => {
    const { loss } = model.forward({ inputIds, targets });
    optimizer.step(gradientsOf(loss!, parameters));
    return loss!;
  });
  const { inputIds, targets } = buildBatch();
  realize([inputIds, targets]);
  await collectGarbage(); // first values, which the spec's have replaced
  const before = device.statistics.bytesInUse;
  const kernels = timeKernels(device);
  const losses: number[] = [];
  const times: number[] = [];
  const steps = options.steps ? Number(options.steps) : spec.train.steps;
  const run = (): number => {
    using loss = step(inputIds, targets);
    return downloadSync(loss)[0]!;
  };
  for (let i = 0; i < steps; i++) {
    const start = performance.now();
    losses.push(run());
    times.push(performance.now() - start);
  }
  const { worst, worstExact } = checkLosses(losses);

  const deviceBytes = device.statistics.bytesInUse;
  const peakBytes = peakResidentBytes();
  const rounds = measureRounds(device, kernels, run);
  const flops = matmulFlops(step.schedule()!);
  const threads = Number(/(\d+) thread/.exec(device.about)![1]);
  const msPerStep = median([...times.slice(spec.train.warmup), ...rounds.steps]);
  const bestMs = Math.min(...rounds.steps);
  const share = rounds.rate / rounds.peak;
  const speedUp = rounds.rate / rounds.rateAlone;
  const overhead = rounds.outside / bestMs;
  const tokens = spec.model.batch * spec.model.seq;
  const memory = step.memory();
  // what was there before, what the program takes, and the optimiser's two moments
  const plan = before + memory.arenaBytes + memory.outsideBytes + 8 * parameters.reduce((sum, { size }) => sum + size, 0);
  const { importMs, firstStepMs } = coldStart(threads);
  if (options.profile) console.log(`${step.explain()}\n\n${profileTable(profile(step, [inputIds, targets], device))}`);
  const result = {
    bench: "lora-step",
    device: device.about,
    node: process.version,
    msPerStep: round(msPerStep, 1),
    bestMsPerStep: round(bestMs, 1),
    tokensPerSecond: Math.round((tokens / msPerStep) * 1e3),
    peakBytes,
    plannedBytes: memory.arenaBytes,
    deviceBytesOverPlan: round(deviceBytes / plan, 4),
    graphAndSchedulingShare: round(overhead, 4),
    traces: step.traces,
    importMs: Math.round(importMs),
    importAndFirstStepMs: Math.round(importMs + firstStepMs),
    gemmGflops: round(rounds.rate, 1),
    simdPeakGflops: round(rounds.peak / threads, 1),
    gemmShareOfPeak: round(share, 3),
    typicalGemmShare: round(rounds.typicalShare, 3),
    ...(threads === 2 && { gemmTwoThreadsOverOne: round(speedUp, 3) }),
    stepOverMatmuls: round(bestMs / (flops / rounds.rate / 1e6), 3),
    matmulGflop: round(flops / 1e9, 3),
    losses,
    maxRelativeLossDifference: Number(worst.toExponential(2)),
    maxRelativeLossDifferenceFloat64: Number(worstExact.toExponential(2)),
  };
  console.log(`one LoRA step, ${tokens} tokens, on ${device.about}
  step                  ${result.msPerStep} ms (best ${result.bestMsPerStep}), ${result.tokensPerSecond} tokens/s
  losses                within ${worst.toExponential(1)} of PyTorch's in float32, ${worstExact.toExponential(1)} of its in float64
  GEMM 512³             ${result.gemmGflops} GFLOP/s, ${(100 * share).toFixed(0)} % of ${threads} × ${result.simdPeakGflops} (registers only; bar 90 %), typically ${(100 * rounds.typicalShare).toFixed(0)} % of the same moment's${threads === 1 ? "" : `, ${speedUp.toFixed(2)} times one thread${threads === 2 ? " (bar 1.85)" : ""}`}
  step / its matmuls    ${result.stepOverMatmuls} (${result.matmulGflop} GFLOP at the GEMM rate)
  memory                ${(result.peakBytes / 1e6).toFixed(0)} MB at the peak, ${(result.plannedBytes / 1e6).toFixed(1)} MB planned for intermediate values
  device memory         ${(deviceBytes / 1e6).toFixed(1)} MB while training, ${result.deviceBytesOverPlan} of the plan (bar 1.02)
  graph and scheduling  ${(100 * overhead).toFixed(2)} % of a replayed step, ${result.traces} trace (bar 2 %)
  cold start            ${result.importMs} ms until imported + ${firstStepMs.toFixed(0)} ms for the first step = ${result.importAndFirstStepMs} ms (bar 1000 ms)`);
  device[Symbol.dispose]();
  return result;
}

/**
 * The losses are PyTorch's to 1e-3. Rounding grows about twofold with each of these steps: at the last one PyTorch's own float32
 * is 1.2e-3 away from float64, so there a loss is also right that is as near to float64 as PyTorch's is.
 */
function checkLosses(losses: readonly number[]): { readonly worst: number; readonly worstExact: number } {
  const relative = (loss: number, i: number, reference: readonly number[]) => Math.abs(loss / reference[i]! - 1);
  losses.forEach((loss, i) => {
    const [own, theirs] = [relative(loss, i, exact.losses), relative(expected.train.losses[i]!, i, exact.losses)];
    const difference = relative(loss, i, expected.train.losses);
    if (!(difference < 1e-3 || own <= theirs))
      throw new Error(`bench: loss ${i + 1} differs from PyTorch's by ${difference.toExponential(1)}, more than 1e-3`);
  });
  const most = (reference: readonly number[]) => Math.max(...losses.map((loss, i) => relative(loss, i, reference)));
  return { worst: most(expected.train.losses), worstExact: most(exact.losses) };
}

/** What the step's matrix products amount to; attention counts its full squares, as in spec.json. */
const matmulFlops = (steps: Schedule): number =>
  steps.steps.reduce((sum, step) => sum + ("instructions" in step.code ? 0 : step.flops), 0);

/** Counts the time that the device spends in kernels from now on; the rest of a step is ours to keep small. */
function timeKernels(device: Device): { readonly milliseconds: number } {
  const run = device.run.bind(device);
  const total = { milliseconds: 0 };
  device.run = (queue) => {
    const start = performance.now();
    run(queue);
    total.milliseconds += performance.now() - start;
  };
  return total;
}
