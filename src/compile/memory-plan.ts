/** Where every intermediate value lies: lifetimes are known from the schedule, so one arena holds them all. */

/** A value that lives in the arena from the step that writes it to the last one that reads it. */
export interface Lifetime {
  readonly bytes: number;
  readonly from: number;
  readonly to: number;
}

/** Where values lie in the arena. */
export interface MemoryPlan {
  /** Byte offset of every value. */
  readonly offsets: readonly number[];
  /** Size of the arena in bytes. */
  readonly bytes: number;
}

/** Offsets are multiples of this, so that vectors and cache lines do not straddle values. */
const alignment = 64;
/** Bytes, filled up to a whole number of such steps. */
export const aligned = (bytes: number): number => Math.ceil(bytes / alignment) * alignment;

/**
 * Places values so that no two that live at the same time overlap: largest first, each at the lowest place that is free
 * for the whole of its life. Each is compared with all that have a place: of 20,000 that live at once a second goes by (0.3 s where
 * few do, as in a chain), more than all other passes take; what programs are made of has hundreds to thousands.
 */
export function planMemory(lifetimes: readonly Lifetime[]): MemoryPlan {
  const order = lifetimes
    .map((_, i) => i)
    .sort((a, b) => lifetimes[b]!.bytes - lifetimes[a]!.bytes || lifetimes[a]!.from - lifetimes[b]!.from);
  const offsets = new Array<number>(lifetimes.length).fill(0);
  /** What has a place, from the lowest. */
  const placed: { readonly from: number; readonly to: number; readonly start: number; readonly end: number }[] = [];
  let bytes = 0;
  for (const index of order) {
    const { from, to, bytes: size } = lifetimes[index]!;
    const length = aligned(size);
    let start = 0;
    for (const other of placed) {
      if (other.from > to || from > other.to) continue;
      if (start + length <= other.start) break;
      start = Math.max(start, other.end);
    }
    offsets[index] = start;
    const end = start + length;
    let at = placed.length;
    while (at > 0 && placed[at - 1]!.start > start) at--;
    placed.splice(at, 0, { from, to, start, end });
    bytes = Math.max(bytes, end);
  }
  return { offsets, bytes };
}
