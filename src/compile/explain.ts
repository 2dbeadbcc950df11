/** What a program does, as text: every kernel with its work, and the memory that the intermediate values take. */
import { requireKind } from "../errors.ts";
import type { Schedule } from "./schedule.ts";

const megabytes = (bytes: number): string => (bytes < 1e5 ? `${(bytes / 1e3).toFixed(1)} kB` : `${(bytes / 1e6).toFixed(2)} MB`);

/** Bytes that a step reads and writes, each value counted once. */
function traffic(schedule: Schedule, step: Schedule["steps"][number]): number {
  return [...new Set(step.values)].reduce((sum, value) => sum + value.size * schedule.device.storageBytes(value.dtype), 0);
}

/** One line per kernel: how often, what, work in Mflop, bytes touched. Equal kernels are counted together. */
export function explainSchedule(schedule: Schedule): string {
  requireKind("explainSchedule", "a list", { "schedule.steps": (schedule as Partial<Schedule> | undefined)?.steps });
  const rows = new Map<string, { count: number; flops: number; bytes: number }>();
  for (const step of schedule.steps) {
    const row = rows.get(step.label) ?? { count: 0, flops: 0, bytes: 0 };
    row.count++;
    row.flops += step.flops;
    row.bytes += traffic(schedule, step);
    rows.set(step.label, row);
  }
  const width = Math.max(10, ...[...rows.keys()].map((label) => label.length));
  const lines = [...rows].map(
    ([label, { count, flops, bytes }]) =>
      `${String(count).padStart(5)} × ${label.padEnd(width)} ${(flops / 1e6).toFixed(2).padStart(10)} Mflop ${megabytes(bytes).padStart(10)}`,
  );
  const total = schedule.steps.reduce((sum, step) => sum + step.flops, 0);
  return [
    `${schedule.steps.length} kernels on ${schedule.device.about}`,
    ...lines,
    `work ${(total / 1e6).toFixed(2)} Mflop, intermediate values ${megabytes(schedule.arenaBytes)} at the peak`,
  ].join("\n");
}
