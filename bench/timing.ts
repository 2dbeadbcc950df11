/** Measuring on a noisy machine, and the limits that results are held against. */
import { readFileSync } from "node:fs";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { bestTime } from "../src/devices/wasm/limits.ts";

export { simdPeak } from "../src/devices/wasm/limits.ts";

export const median = (values: readonly number[]): number => {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
};

/** A number as results are printed. */
export const round = (value: number, digits: number): number => Number(value.toFixed(digits));

/** Milliseconds of the best of many short windows. */
export const best = (run: () => void, window = 1, milliseconds = 250): number => bestTime(run, { window, milliseconds });

/** The most memory this process has ever held, in bytes. */
export function peakResidentBytes(): number {
  try {
    return Number(/VmHWM:\s+(\d+)/.exec(readFileSync("/proc/self/status", "utf8"))![1]) * 1024;
  } catch {
    return process.resourceUsage().maxRSS * 1024;
  }
}

/** Collects garbage, and waits until the memory of collected tensors has been given back. */
export async function collectGarbage(): Promise<void> {
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc") as () => void;
  for (let round = 0; round < 3; round++) {
    collect();
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
