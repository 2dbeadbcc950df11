/**
 * Along the last axis: running sums and the order of sorting. All are data-parallel forms: sums by doubling steps (Hillis and
 * Steele), the order of short rows by counting what comes before each element (width² comparisons in one pass), that of long rows
 * by a network (Batcher's bitonic sort: log² passes of `width` comparisons). Constant `width` is the length of a row.
 */
import type { Floats, KernelThis } from "./kernel-this.ts";
import { quotient } from "./math.ts";

/** One step of the running sum: y[i] = x[i] + x[i − step] within the row. Constant `step`: 1, 2, 4, … */
export function scanStep(this: KernelThis<"step" | "width">, x: Floats): number {
  const i = this.thread.x;
  const row = quotient(i, this.constants.width, i / this.constants.width);
  const column = i - row * this.constants.width;
  let y = x[i]!;
  if (column >= this.constants.step) y = y + x[i - this.constants.step]!;
  return y;
}

/** `scanStep` of int32 values: threads 2k and 2k + 1 write the limbs of element k. */
export function scanStepInteger(this: KernelThis<"step" | "width">, x: Floats): number {
  const i = Math.floor(this.thread.x * 0.5);
  const part = this.thread.x - 2 * i;
  const row = quotient(i, this.constants.width, i / this.constants.width);
  const column = i - row * this.constants.width;
  let low = x[2 * i]!;
  let high = x[2 * i + 1]!;
  if (column >= this.constants.step) {
    low = low + x[2 * (i - this.constants.step)]!;
    high = high + x[2 * (i - this.constants.step) + 1]!;
    if (low >= 65536) {
      low = low - 65536;
      high = high + 1;
    }
    if (high >= 65536) high = high - 65536;
  }
  let y = low;
  if (part > 0.5) y = high;
  return y;
}

/**
 * How many elements of its row come before element i: the smaller ones, and equal ones that stand before it. NaN is the largest.
 * (What is neither at most 0 nor above it is NaN; shader compilers take `x !== x` for false.)
 */
export function rank(this: KernelThis<"descending" | "width">, x: Floats): number {
  const i = this.thread.x;
  const row = quotient(i, this.constants.width, i / this.constants.width);
  const start = row * this.constants.width;
  const own = x[i]!;
  let ownNaN = 1;
  if (own <= 0) ownNaN = 0;
  if (own > 0) ownNaN = 0;
  let before = 0;
  for (let k = 0; k < this.constants.width; k++) {
    const j = start + k;
    const other = x[j]!;
    let otherNaN = 1;
    if (other <= 0) otherNaN = 0;
    if (other > 0) otherNaN = 0;
    let less = ownNaN - otherNaN;
    if (ownNaN + otherNaN < 0.5) {
      if (other < own) less = 1;
      if (other > own) less = -1;
    }
    if (this.constants.descending > 0.5) less = -less;
    if (less === 0) {
      if (j < i) less = 1;
    }
    if (less > 0.5) before = before + 1;
  }
  return before;
}

/** `rank` of int32 values. */
export function rankInteger(this: KernelThis<"descending" | "width">, x: Floats): number {
  const i = this.thread.x;
  const row = quotient(i, this.constants.width, i / this.constants.width);
  const start = row * this.constants.width;
  let ownHigh = x[2 * i + 1]!;
  if (ownHigh >= 32768) ownHigh = ownHigh - 65536;
  const ownLow = x[2 * i]!;
  let before = 0;
  for (let k = 0; k < this.constants.width; k++) {
    const j = start + k;
    let high = x[2 * j + 1]!;
    if (high >= 32768) high = high - 65536;
    const low = x[2 * j]!;
    let less = 0;
    if (high < ownHigh) less = 1;
    if (high === ownHigh) {
      if (low < ownLow) less = 1;
    }
    if (this.constants.descending > 0.5) less = 1 - less;
    if (high === ownHigh) {
      if (low === ownLow) {
        less = 0;
        if (j < i) less = 1;
      }
    }
    before = before + less;
  }
  return before;
}

/** The element whose rank is p, at place p of its row, as int32. */
export function order(this: KernelThis<"width">, ranks: Floats): number {
  const p = Math.floor(this.thread.x * 0.5);
  const part = this.thread.x - 2 * p;
  const row = quotient(p, this.constants.width, p / this.constants.width);
  const start = row * this.constants.width;
  const place = p - start;
  let found = 0;
  for (let k = 0; k < this.constants.width; k++) {
    if (ranks[start + k]! === place) found = k;
  }
  const high = Math.floor(found * 0.0000152587890625);
  let y = found - high * 65536;
  if (part > 0.5) y = high;
  return y;
}

/** Numbers 0, 1, … for every row of `padded` places, a power of two: what the network begins with. */
export function sortStart(this: KernelThis<"padded">, n: number): number {
  const x = this.thread.x + n;
  return x - Math.floor(x / this.constants.padded) * this.constants.padded;
}

/**
 * One step of the network: places `step` apart are compared, and the elements whose numbers lie there change places where they are
 * not in order; order is turned round in every other block of `block` places. Equal elements are in the order of their numbers, so
 * sorting is stable; NaN is the largest; numbers from `width` on stand for nothing and come last.
 */
export function sortStep(
  this: KernelThis<"width" | "padded" | "descending">,
  x: Floats,
  numbers: Floats,
  block: number,
  step: number,
): number {
  const i = this.thread.x;
  const row = Math.floor(i / this.constants.padded);
  const place = i - row * this.constants.padded;
  const turned = Math.floor(place / block);
  const half = Math.floor(place / step);
  // 1 for the lower of the two places, whose partner is above
  const lower = 1 - (half - 2 * Math.floor(half * 0.5));
  const ascending = 1 - (turned - 2 * Math.floor(turned * 0.5));
  const own = numbers[i]!;
  const other = numbers[i + step * (2 * lower - 1)]!;
  let first = 0;
  if (own < other) first = 1;
  if (Math.max(own, other) < this.constants.width) {
    const a = x[row * this.constants.width + own]!;
    const b = x[row * this.constants.width + other]!;
    let aNaN = 1;
    let bNaN = 1;
    if (a <= 0) aNaN = 0;
    if (a > 0) aNaN = 0;
    if (b <= 0) bNaN = 0;
    if (b > 0) bNaN = 0;
    // the sign of a − b
    let difference = aNaN - bNaN;
    if (aNaN + bNaN < 0.5) {
      if (a < b) difference = -1;
      if (a > b) difference = 1;
    }
    if (this.constants.descending > 0.5) difference = -difference;
    if (difference < 0) first = 1;
    if (difference > 0) first = 0;
  }
  // the first of the two goes to the lower place of an ascending block, and to the upper one of the others
  let y = other;
  if (lower === ascending) {
    if (first > 0.5) y = own;
  } else {
    if (first < 0.5) y = own;
  }
  return y;
}

/** `sortStep` of int32 values. */
export function sortStepInteger(
  this: KernelThis<"width" | "padded" | "descending">,
  x: Floats,
  numbers: Floats,
  block: number,
  step: number,
): number {
  const i = this.thread.x;
  const row = Math.floor(i / this.constants.padded);
  const place = i - row * this.constants.padded;
  const turned = Math.floor(place / block);
  const half = Math.floor(place / step);
  const lower = 1 - (half - 2 * Math.floor(half * 0.5));
  const ascending = 1 - (turned - 2 * Math.floor(turned * 0.5));
  const own = numbers[i]!;
  const other = numbers[i + step * (2 * lower - 1)]!;
  let first = 0;
  if (own < other) first = 1;
  if (Math.max(own, other) < this.constants.width) {
    const a = 2 * (row * this.constants.width + own);
    const b = 2 * (row * this.constants.width + other);
    let aHigh = x[a + 1]!;
    let bHigh = x[b + 1]!;
    if (aHigh >= 32768) aHigh = aHigh - 65536;
    if (bHigh >= 32768) bHigh = bHigh - 65536;
    // the sign of a − b: of the upper halves where they differ, else of the lower ones
    let difference = aHigh - bHigh;
    if (difference === 0) difference = x[a]! - x[b]!;
    if (this.constants.descending > 0.5) difference = -difference;
    if (difference < 0) first = 1;
    if (difference > 0) first = 0;
  }
  let y = other;
  if (lower === ascending) {
    if (first > 0.5) y = own;
  } else {
    if (first < 0.5) y = own;
  }
  return y;
}

/** The numbers of the network's rows, without what they were filled up with, as int32. */
export function sortedOrder(this: KernelThis<"width" | "padded">, numbers: Floats): number {
  const p = Math.floor(this.thread.x * 0.5);
  const part = this.thread.x - 2 * p;
  const row = quotient(p, this.constants.width, p / this.constants.width);
  const found = numbers[row * this.constants.padded + p - row * this.constants.width]!;
  const high = Math.floor(found * 0.0000152587890625);
  let y = found - high * 65536;
  if (part > 0.5) y = high;
  return y;
}
