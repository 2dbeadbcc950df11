/**
 * Rows by number: `take` and its transpose `scatterAdd`, each a thread per float of the result. An int32 value is two floats
 * (see src/devices/gpu/code.ts), so `take` moves whole numbers and floats alike; adding them up needs a carry.
 *
 * There is no atomic addition. `scatterAdd` looks through all indices for every float of the result, which few indices allow; for
 * more, the indices are sorted (sorting.ts), `segmentStart` finds where those of each row begin, and `segmentSum` adds just these.
 */
import type { Floats, KernelThis, Rows } from "./kernel-this.ts";
import { quotient } from "./math.ts";

/**
 * y[n, c] = table[index[n], c]. Constants: `rows` of the table, `width` floats a row.
 * `poison` is what a row that is not there gives: a kernel cannot throw.
 */
export function take(this: KernelThis<"rows" | "width">, table: Rows, index: Floats, poison: number): number {
  const x = this.thread.x;
  const n = quotient(x, this.constants.width, x / this.constants.width);
  const c = x - n * this.constants.width;
  const row = index[2 * n + 1]! * 65536 + index[2 * n]!;
  let y = poison;
  if (row < this.constants.rows) y = table[row]![c]!;
  return y;
}

/** y[r, c] = Σ updates[n, c] over the n with index[n] = r, in their order. Constants: `count` of indices, `width` of a row. */
export function scatterAdd(this: KernelThis<"count" | "width">, index: Floats, updates: Floats): number {
  const x = this.thread.x;
  const r = quotient(x, this.constants.width, x / this.constants.width);
  const c = x - r * this.constants.width;
  let sum = 0;
  for (let n = 0; n < this.constants.count; n++) {
    if (index[2 * n + 1]! * 65536 + index[2 * n]! === r) sum = sum + updates[n * this.constants.width + c]!;
  }
  return sum;
}

/** `scatterAdd` of int32 values: wraps in 32 bits. Threads 2k and 2k + 1 write the limbs of element k. */
export function scatterAddInteger(this: KernelThis<"count" | "width">, index: Floats, updates: Floats): number {
  const k = Math.floor(this.thread.x * 0.5);
  const part = this.thread.x - 2 * k;
  const r = quotient(k, this.constants.width, k / this.constants.width);
  const c = k - r * this.constants.width;
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

/**
 * The place at which the indices equal to r begin in the order of sorting, or −1, by halving. Constants: `count` of indices and
 * `steps`, as many halvings as leave one of them.
 */
export function segmentStart(this: KernelThis<"count" | "steps">, index: Floats, order: Floats): number {
  const r = this.thread.x;
  let from = 0;
  let to = this.constants.count;
  for (let s = 0; s < this.constants.steps; s++) {
    if (from < to) {
      const middle = Math.floor((from + to) * 0.5);
      const n = order[2 * middle + 1]! * 65536 + order[2 * middle]!;
      let high = index[2 * n + 1]!;
      if (high >= 32768) high = high - 65536;
      if (high * 65536 + index[2 * n]! < r) {
        from = middle + 1;
      } else {
        to = middle;
      }
    }
  }
  let found = -1;
  if (from < this.constants.count) {
    const at = order[2 * from + 1]! * 65536 + order[2 * from]!;
    if (index[2 * at + 1]! * 65536 + index[2 * at]! === r) found = from;
  }
  return found;
}

/** `scatterAdd` from the places where the rows begin: y[r, c] = Σ updates[order[p], c] over the p from starts[r] on that are of row r. */
export function segmentSum(
  this: KernelThis<"count" | "width">,
  index: Floats,
  order: Floats,
  starts: Floats,
  updates: Floats,
): number {
  const x = this.thread.x;
  const r = quotient(x, this.constants.width, x / this.constants.width);
  const c = x - r * this.constants.width;
  let sum = 0;
  let p = starts[r]!;
  if (p >= 0) {
    for (let s = 0; s < this.constants.count; s++) {
      if (p >= this.constants.count) break;
      const n = order[2 * p + 1]! * 65536 + order[2 * p]!;
      if (index[2 * n + 1]! * 65536 + index[2 * n]! !== r) break;
      sum = sum + updates[n * this.constants.width + c]!;
      p = p + 1;
    }
  }
  return sum;
}

/** `segmentSum` of int32 values: wraps in 32 bits. Threads 2k and 2k + 1 write the limbs of element k. */
export function segmentSumInteger(
  this: KernelThis<"count" | "width">,
  index: Floats,
  order: Floats,
  starts: Floats,
  updates: Floats,
): number {
  const k = Math.floor(this.thread.x * 0.5);
  const part = this.thread.x - 2 * k;
  const r = quotient(k, this.constants.width, k / this.constants.width);
  const c = k - r * this.constants.width;
  let low = 0;
  let high = 0;
  let p = starts[r]!;
  if (p >= 0) {
    for (let s = 0; s < this.constants.count; s++) {
      if (p >= this.constants.count) break;
      const n = order[2 * p + 1]! * 65536 + order[2 * p]!;
      if (index[2 * n + 1]! * 65536 + index[2 * n]! !== r) break;
      const at = 2 * (n * this.constants.width + c);
      low = low + updates[at]!;
      high = high + updates[at + 1]!;
      if (low >= 65536) {
        low = low - 65536;
        high = high + 1;
      }
      if (high >= 65536) high = high - 65536;
      p = p + 1;
    }
  }
  let y = low;
  if (part > 0.5) y = high;
  return y;
}
