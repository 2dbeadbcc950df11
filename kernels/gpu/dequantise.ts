/** Values from codes of 4 or 8 bits, a thread a value: in place of shifts, a join, a `take` from the table and a product. */
import type { Floats, KernelThis } from "./kernel-this.ts";
import { quotient } from "./math.ts";

/** y[i] = table[codes[i]] · scales[⌊i / block⌋]: a code a byte. */
export function dequantise8(this: KernelThis<"block">, codes: Floats, table: Floats, scales: Floats): number {
  const i = this.thread.x;
  const scale = quotient(i, this.constants.block, i / this.constants.block);
  return table[codes[i]!]! * scales[scale]!;
}

/** The same of two codes a byte, the first in its upper half. */
export function dequantise4(this: KernelThis<"block">, codes: Floats, table: Floats, scales: Floats): number {
  const i = this.thread.x;
  const byte = Math.floor(i * 0.5);
  const both = codes[byte]!;
  const upper = Math.floor(both * 0.0625);
  let code = both - 16 * upper;
  if (i - 2 * byte < 0.5) code = upper;
  const scale = quotient(i, this.constants.block, i / this.constants.block);
  return table[code]! * scales[scale]!;
}
