/** Where every intermediate value lies: lifetimes are known from the schedule, so one arena holds them all. */

/** A value that lives in the arena from the step that writes it to the last one that reads it. */
export interface Lifetime {
  readonly bytes: number;
  readonly from: number;
  readonly to: number;
}

export interface MemoryPlan {
  /** Byte offset of every value. */
  readonly offsets: readonly number[];
  /** Size of the arena in bytes. */
  readonly bytes: number;
}

/** Offsets are multiples of this, so that vectors and cache lines do not straddle values. */
export const alignment = 64;
export const aligned = (bytes: number): number => Math.ceil(bytes / alignment) * alignment;

/**
 * Places values so that no two that live at the same time overlap: largest first, each at the lowest place that is free
 * for the whole of its life.
 */
export function planMemory(lifetimes: readonly Lifetime[]): MemoryPlan {
  const order = lifetimes
    .map((_, i) => i)
    .sort((a, b) => lifetimes[b]!.bytes - lifetimes[a]!.bytes || lifetimes[a]!.from - lifetimes[b]!.from);
  const offsets = new Array<number>(lifetimes.length).fill(0);
  const placed: number[] = [];
  let bytes = 0;
  for (const index of order) {
    const life = lifetimes[index]!;
    const neighbours = placed
      .filter((other) => lifetimes[other]!.from <= life.to && life.from <= lifetimes[other]!.to)
      .sort((a, b) => offsets[a]! - offsets[b]!);
    let offset = 0;
    for (const other of neighbours) {
      if (offset + aligned(life.bytes) <= offsets[other]!) break;
      offset = Math.max(offset, offsets[other]! + aligned(lifetimes[other]!.bytes));
    }
    offsets[index] = offset;
    placed.push(index);
    bytes = Math.max(bytes, offset + aligned(life.bytes));
  }
  return { offsets, bytes };
}
