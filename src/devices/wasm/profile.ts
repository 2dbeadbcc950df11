/** Where the time of a compiled function goes: kernel by kernel, beside what the processor could do. */
import type { CompiledFunction, TensorTree } from "../../compile/trace.ts";
import type { Device } from "../device.ts";
import { Limits } from "./limits.ts";

/** All launches of one kernel with the same sizes. */
interface ProfileRow {
  readonly label: string;
  readonly launches: number;
  readonly milliseconds: number;
  readonly flops: number;
  /** Read and written, each value once. */
  readonly bytes: number;
  /** The least time that the processor needs, and for what. */
  readonly limit: number;
  readonly bound: "arithmetic" | "memory";
}

/** Kernels of a program with their times, and the limits of this machine that they are held against. */
export interface Profile {
  readonly rows: readonly ProfileRow[];
  readonly milliseconds: number;
  /** The sum of the launches' least times. */
  readonly limit: number;
  /** GFLOP/s of multiply-adds in registers, on all threads. */
  readonly peak: number;
  /** GB/s of copying 16 MB. */
  readonly bandwidth: number;
}

/**
 * Runs a compiled function `rounds` times, launch by launch; each launch counts with its best time, so that other programs matter less.
 *
 * @param device the one that it runs on, a wasm device
 */
export function profile<Args extends readonly TensorTree[]>(
  call: CompiledFunction<Args, TensorTree>,
  args: Args,
  device: Device,
  rounds = 10,
): Profile {
  using limits = new Limits(device);
  let times: number[] = [];
  for (let round = 0; round < rounds; round++) {
    const found = call.profile(...args).map(({ milliseconds }) => milliseconds);
    times = found.map((time, i) => Math.min(time, times[i] ?? Number.POSITIVE_INFINITY));
  }
  const { steps } = call.schedule()!;
  const rows = new Map<string, ProfileRow>();
  steps.forEach((step, i) => {
    const { arithmetic, memory } = limits.of(step, device);
    const before = rows.get(step.label);
    const bytes = [...new Set(step.values)].reduce((sum, value) => sum + value.size * device.storageBytes(value.dtype), 0);
    rows.set(step.label, {
      label: step.label,
      launches: (before?.launches ?? 0) + 1,
      milliseconds: (before?.milliseconds ?? 0) + times[i]!,
      flops: (before?.flops ?? 0) + step.flops,
      bytes: (before?.bytes ?? 0) + bytes,
      limit: (before?.limit ?? 0) + Math.max(arithmetic, memory),
      bound: arithmetic > memory ? "arithmetic" : "memory",
    });
  });
  const sum = (f: (row: ProfileRow) => number) => [...rows.values()].reduce((total, row) => total + f(row), 0);
  return {
    rows: [...rows.values()].sort((a, b) => b.milliseconds - a.milliseconds),
    milliseconds: sum((row) => row.milliseconds),
    limit: sum((row) => row.limit),
    peak: limits.peak,
    bandwidth: limits.bandwidth(16e6),
  };
}

/** A profile as text, the costliest kernel first. */
export function profileTable({ rows, milliseconds, limit, peak, bandwidth }: Profile): string {
  const lines = rows.map((row) =>
    [
      row.milliseconds.toFixed(2).padStart(9),
      `${((100 * row.milliseconds) / milliseconds).toFixed(1)} %`.padStart(8),
      `${row.launches} ×`.padStart(7),
      (row.flops / row.milliseconds / 1e6).toFixed(1).padStart(9),
      (row.bytes / row.milliseconds / 1e6).toFixed(1).padStart(7),
      `${((100 * row.limit) / row.milliseconds).toFixed(0)} % of ${row.bound === "memory" ? "memory" : "SIMD"}`.padStart(16),
      `  ${row.label}`,
    ].join(""),
  );
  return [
    "       ms    share  times  GFLOP/s   GB/s      the limit  kernel",
    ...lines,
    `${milliseconds.toFixed(2).padStart(9)} ms, ${(milliseconds / limit).toFixed(2)} times what the processor needs at least: ${peak.toFixed(0)} GFLOP/s in registers, ${bandwidth.toFixed(0)} GB/s of copying`,
  ].join("\n");
}
