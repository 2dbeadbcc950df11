/**
 * Rows by number: `take` and its transpose `scatterAdd`, each a thread per float of the result. An int32 value is two floats
 * (see src/devices/gpu/code.ts), so `take` moves whole numbers and floats alike; adding them up needs a carry.
 */
import type { Floats, KernelThis } from "./kernel-this.ts";

/**
 * y[n, c] = table[index[n], c]. Constants: `rows` of the table, `width` floats a row.
 * `poison` is what a row that is not there gives: a kernel cannot throw.
 */
export function take(this: KernelThis<"rows" | "width">, table: Floats, index: Floats, poison: number): number {
  const x = this.thread.x;
  let n = Math.floor(x / this.constants.width);
  let c = x - n * this.constants.width;
  if (c < 0) {
    n = n - 1;
    c = c + this.constants.width;
  }
  if (c >= this.constants.width) {
    n = n + 1;
    c = c - this.constants.width;
  }
  const row = index[2 * n + 1]! * 65536 + index[2 * n]!;
  let y = poison;
  if (row < this.constants.rows) y = table[row * this.constants.width + c]!;
  return y;
}

/** y[r, c] = Σ updates[n, c] over the n with index[n] = r, in their order. Constants: `count` of indices, `width` of a row. */
export function scatterAdd(this: KernelThis<"count" | "width">, index: Floats, updates: Floats): number {
  const x = this.thread.x;
  let r = Math.floor(x / this.constants.width);
  let c = x - r * this.constants.width;
  if (c < 0) {
    r = r - 1;
    c = c + this.constants.width;
  }
  if (c >= this.constants.width) {
    r = r + 1;
    c = c - this.constants.width;
  }
  let sum = 0;
  for (let n = 0; n < this.constants.count; n++) {
    if (index[2 * n + 1]! * 65536 + index[2 * n]! === r) sum = sum + updates[n * this.constants.width + c]!;
  }
  return sum;
}

/** `scatterAdd` of int32 values: wraps in 32 bits. Threads 2k and 2k + 1 write the limbs of element k. */
export function scatterAddInteger(this: KernelThis<"count" | "width">, index: Floats, updates: Floats): number {
  const k = Math.floor(this.thread.x / 2);
  const part = this.thread.x - 2 * k;
  let r = Math.floor(k / this.constants.width);
  let c = k - r * this.constants.width;
  if (c < 0) {
    r = r - 1;
    c = c + this.constants.width;
  }
  if (c >= this.constants.width) {
    r = r + 1;
    c = c - this.constants.width;
  }
  let low = 0;
  let high = 0;
  for (let n = 0; n < this.constants.count; n++) {
    if (index[2 * n + 1]! * 65536 + index[2 * n]! === r) {
      const at = 2 * (n * this.constants.width + c);
      low = low + updates[at]!;
      high = high + updates[at + 1]!;
      if (low >= 65536) {
        low = low - 65536;
        high = high + 1;
      }
      if (high >= 65536) high = high - 65536;
    }
  }
  let y = low;
  if (part > 0.5) y = high;
  return y;
}
