/**
 * Along the last axis: running sums and the order of sorting. Both are data-parallel forms: sums by doubling steps (Hillis and
 * Steele), the order by counting what comes before each element. Constant `width` is the length of a row.
 */
import type { Floats, KernelThis } from "./kernel-this.ts";

/** One step of the running sum: y[i] = x[i] + x[i − step] within the row. Constant `step`: 1, 2, 4, … */
export function scanStep(this: KernelThis<"step" | "width">, x: Floats): number {
  const i = this.thread.x;
  const row = Math.floor((i + 0.5) / this.constants.width);
  const column = i - row * this.constants.width;
  let y = x[i]!;
  if (column >= this.constants.step) y = y + x[i - this.constants.step]!;
  return y;
}

/** `scanStep` of int32 values: threads 2k and 2k + 1 write the limbs of element k. */
export function scanStepInteger(this: KernelThis<"step" | "width">, x: Floats): number {
  const i = Math.floor(this.thread.x / 2);
  const part = this.thread.x - 2 * i;
  const row = Math.floor((i + 0.5) / this.constants.width);
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

/** How many elements of its row come before element i: the smaller ones, and equal ones that stand before it. NaN is the largest. */
export function rank(this: KernelThis<"descending" | "width">, x: Floats): number {
  const i = this.thread.x;
  const row = Math.floor((i + 0.5) / this.constants.width);
  const start = row * this.constants.width;
  const own = x[i]!;
  let before = 0;
  for (let k = 0; k < this.constants.width; k++) {
    const j = start + k;
    const other = x[j]!;
    let less = 0;
    let same = 0;
    if (other === own) same = 1;
    if (other < own) less = 1;
    if (own !== own) {
      less = 1;
      if (other !== other) {
        less = 0;
        same = 1;
      }
    }
    if (this.constants.descending > 0.5) less = 1 - less - same;
    if (other !== other) {
      if (own === own) less = this.constants.descending;
    }
    if (same > 0.5) {
      less = 0;
      if (j < i) less = 1;
    }
    before = before + less;
  }
  return before;
}

/** `rank` of int32 values. */
export function rankInteger(this: KernelThis<"descending" | "width">, x: Floats): number {
  const i = this.thread.x;
  const row = Math.floor((i + 0.5) / this.constants.width);
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
  const p = Math.floor(this.thread.x / 2);
  const part = this.thread.x - 2 * p;
  const row = Math.floor((p + 0.5) / this.constants.width);
  const start = row * this.constants.width;
  const place = p - start;
  let found = 0;
  for (let k = 0; k < this.constants.width; k++) {
    if (ranks[start + k]! === place) found = k;
  }
  const high = Math.floor(found / 65536);
  let y = found - high * 65536;
  if (part > 0.5) y = high;
  return y;
}
