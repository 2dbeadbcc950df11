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
 * for the whole of its life. A tree over the steps keeps what is taken in each stretch of them, so that a value asks some thirty
 * stretches and not every other value: plans of 20,000 values take a fifth to a tenth of the time that comparing all pairs does.
 */
export function planMemory(lifetimes: readonly Lifetime[]): MemoryPlan {
  const order = lifetimes
    .map((_, i) => i)
    .sort((a, b) => lifetimes[b]!.bytes - lifetimes[a]!.bytes || lifetimes[a]!.from - lifetimes[b]!.from);
  const offsets = new Array<number>(lifetimes.length).fill(0);
  const lastStep = lifetimes.reduce((last, { to }) => Math.max(last, to), 0);
  const taken = new Stretch(0, lastStep);
  let bytes = 0;
  for (const index of order) {
    const { from, to, bytes: size } = lifetimes[index]!;
    const length = aligned(size);
    const start = lowest(taken.during(from, to), length);
    offsets[index] = start;
    if (length > 0) taken.add(from, to, start, start + length);
    bytes = Math.max(bytes, start + length);
  }
  return { offsets, bytes };
}

/** The lowest place for `length` bytes that is free in each of `ranges`. */
function lowest(ranges: readonly Ranges[], length: number): number {
  let start = 0;
  for (let quiet = 0, i = 0; quiet < ranges.length; i = (i + 1) % ranges.length) {
    const next = ranges[i]!.beyond(start, length);
    quiet = next === start ? quiet + 1 : 1;
    start = next;
  }
  return start;
}

/** Bytes that are taken: ranges from the lowest, which do not touch. */
class Ranges {
  readonly starts: number[] = [];
  readonly ends: number[] = [];
  /** Ranges before this one lie below what a search has come to. */
  at = 0;

  /** Number of ranges that end below `place`. */
  #below(place: number): number {
    let [from, to] = [0, this.ends.length];
    while (from < to) {
      const middle = (from + to) >> 1;
      if (this.ends[middle]! < place) from = middle + 1;
      else to = middle;
    }
    return from;
  }

  /** The lowest place from `start` on where `length` bytes are free; a search asks for ever higher ones. */
  beyond(start: number, length: number): number {
    let at = start;
    let i = this.at;
    for (; i < this.ends.length; i++) {
      if (this.ends[i]! <= at) continue;
      if (this.starts[i]! >= at + length) break;
      at = this.ends[i]!;
    }
    this.at = i;
    return at;
  }

  /** Notes that bytes are taken. */
  add(start: number, end: number): void {
    const first = this.#below(start);
    let last = first;
    while (last < this.starts.length && this.starts[last]! <= end) last++;
    if (last === first) {
      this.starts.splice(first, 0, start);
      this.ends.splice(first, 0, end);
      return;
    }
    this.starts[first] = Math.min(start, this.starts[first]!);
    this.ends[first] = Math.max(end, this.ends[last - 1]!);
    if (last > first + 1) {
      this.starts.splice(first + 1, last - first - 1);
      this.ends.splice(first + 1, last - first - 1);
    }
  }
}

/** Steps from one to another and what is taken in them, halved again and again as far as somebody asks: a segment tree. */
class Stretch {
  readonly from: number;
  readonly to: number;
  /** Taken by values that live through all of these steps. */
  readonly #throughout = new Ranges();
  /** Taken at some of these steps. */
  readonly #sometime = new Ranges();
  readonly #middle: number;
  #before: Stretch | undefined;
  #after: Stretch | undefined;

  constructor(from: number, to: number) {
    this.from = from;
    this.to = to;
    this.#middle = (from + to) >> 1;
  }

  /** Notes that bytes are taken from a step to another. */
  add(from: number, to: number, start: number, end: number): void {
    this.#sometime.add(start, end);
    if (from <= this.from && this.to <= to) {
      this.#throughout.add(start, end);
      return;
    }
    if (from <= this.#middle) {
      this.#before ??= new Stretch(this.from, this.#middle);
      this.#before.add(from, to, start, end);
    }
    if (to > this.#middle) {
      this.#after ??= new Stretch(this.#middle + 1, this.to);
      this.#after.add(from, to, start, end);
    }
  }

  /** What together is taken at any of these steps. */
  during(from: number, to: number, into: Ranges[] = []): readonly Ranges[] {
    const whole = from <= this.from && this.to <= to;
    const own = whole ? this.#sometime : this.#throughout;
    if (own.starts.length > 0) into.push(own);
    own.at = 0;
    if (whole) return into;
    if (from <= this.#middle) this.#before?.during(from, to, into);
    if (to > this.#middle) this.#after?.during(from, to, into);
    return into;
  }
}
