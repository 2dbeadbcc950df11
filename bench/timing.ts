/** Measuring on a noisy machine, and the limits that results are held against. */
import { readFileSync } from "node:fs";
import { ModuleBuilder } from "../src/devices/wasm/assembler.ts";

export const median = (values: readonly number[]): number => {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
};

/** Milliseconds of the best of many short windows: on a shared machine a short window is often undisturbed. */
export function best(run: () => void, windowMilliseconds = 1, milliseconds = 250): number {
  const start = performance.now();
  // V8's optimising compiler takes over meanwhile
  do run();
  while (performance.now() - start < 50);
  let once = performance.now();
  run();
  once = performance.now() - once;
  const inner = Math.max(1, Math.round(windowMilliseconds / once));
  let fastest = Number.POSITIVE_INFINITY;
  const end = performance.now() + milliseconds;
  do {
    const from = performance.now();
    for (let i = 0; i < inner; i++) run();
    fastest = Math.min(fastest, (performance.now() - from) / inner);
  } while (performance.now() < end);
  return fastest;
}

/** GFLOP/s of one thread's multiply-adds that never leave the registers: twelve independent chains of four lanes. */
export function simdPeak(fused: boolean): number {
  const memory = new WebAssembly.Memory({ initial: 1, maximum: 65536 });
  const module = new ModuleBuilder({ shared: false });
  const f = module.function("peak", ["i32"]);
  const x = f.constant("f32", 1.0000001);
  const y = f.constant("f32", 1e-9);
  const chains = Array.from({ length: 12 }, () => f.local("v128"));
  f.repeat(f.params[0], () => {
    for (let unrolled = 0; unrolled < 4; unrolled++)
      for (const chain of chains)
        f.set(chain, fused ? ["f32x4.relaxed_madd", x, y, chain] : ["f32x4.add", ["f32x4.mul", chain, x], y]);
  });
  // consumed, or V8 drops the loop
  for (const [i, chain] of chains.entries()) f.store("v128.store", 16 * i, chain);
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(module.bytes()), { env: { memory } });
  const rounds = 5000;
  return (rounds * 48 * 8) / best(() => (exports["peak"] as (n: number) => void)(rounds)) / 1e6;
}

/** The most memory this process has ever held, in bytes. */
export function peakResidentBytes(): number {
  try {
    return Number(/VmHWM:\s+(\d+)/.exec(readFileSync("/proc/self/status", "utf8"))![1]) * 1024;
  } catch {
    return process.resourceUsage().maxRSS * 1024;
  }
}
