/**
 * Softmax and cross-entropy, forward and backward, row by row, and the folds that norms (norms.ts) share with them: a thread a row for what
 * is folded, a thread an element for the rest. Each kernel writes one value, and `rowKernels` says which value of a loop program that is;
 * the compiler may have put whatever it likes around it (src/devices/gpu/by-hand.ts). Folds take four elements a turn and keep four sums,
 * which do not wait for each other.
 *
 * Sizes: `rows` rows of `width` elements, of which `fours` times four are taken by fours, and those from `rest` on one by one.
 *
 * NaN: Mesa's compiler makes of `if (b > a) a = b` a largest, which drops it. So the largest of a row asks twice, and quotients choose
 * between two values of which neither is compared.
 */
import type { Floats, HandKernel, KernelThis } from "./kernel-this.ts";
import { quotient } from "./math.ts";

type Row = KernelThis<"width" | "fours" | "rest">;
type Element = KernelThis<"width" | "reciprocal">;

/**
 * The largest x of a row, which keeps exponents at most 0; 0 where all are −∞ (`none`) or one is NaN, which the sum then shows.
 * Sizes: x [rows, width] → [rows]. Replaces the largest of a row and the choice of 0, `where(−∞ < max x, max x, 0)`.
 */
export function rowShift(this: Row, x: Floats, none: number): number {
  const start = this.thread.x * this.constants.width;
  let a = x[start]!;
  let b = a;
  let c = a;
  let d = a;
  for (let n = 0; n < this.constants.fours; n++) {
    const i = start + 4 * n;
    const p = x[i]!;
    const q = x[i + 1]!;
    const s = x[i + 2]!;
    const t = x[i + 3]!;
    if (!(p <= a)) if (a <= 0 || a > 0) a = p;
    if (!(q <= b)) if (b <= 0 || b > 0) b = q;
    if (!(s <= c)) if (c <= 0 || c > 0) c = s;
    if (!(t <= d)) if (d <= 0 || d > 0) d = t;
  }
  for (let k = this.constants.rest; k < this.constants.width; k++) {
    const p = x[start + k]!;
    if (!(p <= a)) if (a <= 0 || a > 0) a = p;
  }
  if (!(b <= a)) if (a <= 0 || a > 0) a = b;
  if (!(d <= c)) if (c <= 0 || c > 0) c = d;
  if (!(c <= a)) if (a <= 0 || a > 0) a = c;
  let y = 0;
  if (a > none) y = a;
  return y;
}

/**
 * factor · Σ x of a row: sums and means.
 * Sizes: x [rows, width] → [rows]. Replaces the fold `sum(x)`, alone or times a number.
 */
export function rowSum(this: Row, x: Floats, factor: number): number {
  const start = this.thread.x * this.constants.width;
  let a = 0;
  let b = 0;
  let c = 0;
  let d = 0;
  for (let n = 0; n < this.constants.fours; n++) {
    const i = start + 4 * n;
    a = a + x[i]!;
    b = b + x[i + 1]!;
    c = c + x[i + 2]!;
    d = d + x[i + 3]!;
  }
  for (let k = this.constants.rest; k < this.constants.width; k++) {
    a = a + x[start + k]!;
  }
  return factor * (a + b + (c + d));
}

/**
 * e^(x − shift), written where they are read more than once.
 * Sizes: x [rows, width], shift [rows] → [rows, width]. Replaces `exp(x − m)` in each kernel that reads it.
 */
export function rowExponentials(this: Element, x: Floats, shift: Floats): number {
  const i = this.thread.x;
  const row = quotient(i, this.constants.width, (i + 0.5) * this.constants.reciprocal);
  return Math.exp(x[i]! - shift[row]!);
}

/**
 * Σ e^(x − shift) of a row.
 * Sizes: x [rows, width], shift [rows] → [rows]. Replaces the fold `sum(exp(x − m))`.
 */
export function rowExponentialSum(this: Row, x: Floats, shift: Floats): number {
  const start = this.thread.x * this.constants.width;
  const m = shift[this.thread.x]!;
  let a = 0;
  let b = 0;
  let c = 0;
  let d = 0;
  for (let n = 0; n < this.constants.fours; n++) {
    const i = start + 4 * n;
    a = a + Math.exp(x[i]! - m);
    b = b + Math.exp(x[i + 1]! - m);
    c = c + Math.exp(x[i + 2]! - m);
    d = d + Math.exp(x[i + 3]! - m);
  }
  for (let k = this.constants.rest; k < this.constants.width; k++) {
    a = a + Math.exp(x[start + k]! - m);
  }
  return a + b + (c + d);
}

/**
 * Softmax of exponentials that are there: e / sum, where a sum below 1 counts as 1, which is one of nothing.
 * Sizes: e [rows, width], sum [rows] → [rows, width]. Replaces `e · recip(where(s < 1, 1, s))`.
 */
export function shares(this: Element, e: Floats, sum: Floats): number {
  const i = this.thread.x;
  const row = quotient(i, this.constants.width, (i + 0.5) * this.constants.reciprocal);
  const total = sum[row]!;
  let y = e[i]! / total;
  if (total < 1) y = e[i]!;
  return y;
}

/**
 * Softmax: e^(x − shift) / sum, where a sum below 1 counts as 1.
 * Sizes: x [rows, width], shift and sum [rows] → [rows, width]. Replaces `exp(x − m) · recip(where(s < 1, 1, s))`.
 */
export function softmax(this: Element, x: Floats, shift: Floats, sum: Floats): number {
  const i = this.thread.x;
  const row = quotient(i, this.constants.width, (i + 0.5) * this.constants.reciprocal);
  const total = sum[row]!;
  const e = Math.exp(x[i]! - shift[row]!);
  let y = e / total;
  if (total < 1) y = e;
  return y;
}

/**
 * Log-softmax: x − shift − ln sum, where a sum below 1 counts as 1.
 * Sizes: x [rows, width], shift and sum [rows] → [rows, width]. Replaces `x − m − log(where(s < 1, 1, s))`.
 */
export function logSoftmax(this: Element, x: Floats, shift: Floats, sum: Floats): number {
  const i = this.thread.x;
  const row = quotient(i, this.constants.width, (i + 0.5) * this.constants.reciprocal);
  const total = sum[row]!;
  const z = x[i]! - shift[row]!;
  let y = z - Math.log(total);
  if (total < 1) y = z;
  return y;
}

/**
 * Σ g·y of a row.
 * Sizes: g and y [rows, width] → [rows]. Replaces the fold `sum(g · y)`.
 */
export function rowDot(this: Row, g: Floats, y: Floats): number {
  const start = this.thread.x * this.constants.width;
  let a = 0;
  let b = 0;
  let c = 0;
  let d = 0;
  for (let n = 0; n < this.constants.fours; n++) {
    const i = start + 4 * n;
    a = a + g[i]! * y[i]!;
    b = b + g[i + 1]! * y[i + 1]!;
    c = c + g[i + 2]! * y[i + 2]!;
    d = d + g[i + 3]! * y[i + 3]!;
  }
  for (let k = this.constants.rest; k < this.constants.width; k++) {
    a = a + g[start + k]! * y[start + k]!;
  }
  return a + b + (c + d);
}

/**
 * Derivative of softmax: y·(g − dot), with dot = Σ g·y.
 * Sizes: g and y [rows, width], dot [rows] → [rows, width]. Replaces `y · (g − t)`.
 */
export function softmaxDerivative(this: Element, g: Floats, y: Floats, dot: Floats): number {
  const i = this.thread.x;
  const row = quotient(i, this.constants.width, (i + 0.5) * this.constants.reciprocal);
  return y[i]! * (g[i]! - dot[row]!);
}

/**
 * Derivative of log-softmax: g − e^y · sum, with sum = Σ g.
 * Sizes: g and y [rows, width], sum [rows] → [rows, width]. Replaces `g − exp(y) · s`.
 */
export function logSoftmaxDerivative(this: Element, g: Floats, y: Floats, sum: Floats): number {
  const i = this.thread.x;
  const row = quotient(i, this.constants.width, (i + 0.5) * this.constants.reciprocal);
  return g[i]! - Math.exp(y[i]!) * sum[row]!;
}

/**
 * Cross-entropy of a row, ln sum + shift − x[target]: 0 where the row is not `kept`, `wrong` (NaN) where its target is no class.
 * Sizes: x [rows, width]; shift, sum, isTarget, kept and target [rows], target as int32 → [rows]. Replaces the fold that walks along the
 * row to find x[target], `sum(where(column = target, x, 0))`, and the choices around it.
 */
export function crossEntropy(
  this: Element,
  x: Floats,
  shift: Floats,
  sum: Floats,
  target: Floats,
  isTarget: Floats,
  kept: Floats,
  wrong: number,
): number {
  const row = this.thread.x;
  let y = 0;
  if (kept[row]! > 0.5) {
    y = wrong;
    if (isTarget[row]! > 0.5) {
      const column = target[2 * row + 1]! * 65536 + target[2 * row]!;
      y = Math.log(sum[row]!) + shift[row]!;
      if (column >= 0 && column < this.constants.width) y = y - x[row * this.constants.width + column]!;
    }
  }
  return y;
}

/**
 * Derivative of cross-entropy by x: softmax times the cotangent g of the log-sum, plus that of x[target], h, at the target.
 * Sizes: x [rows, width]; shift, sum, target, g and h [rows], target as int32 → [rows, width]. Replaces `where(column = target, h, 0) +
 * exp(x − m) · (g · recip(where(s < 1, 1, s)))`.
 */
export function crossEntropyDerivative(
  this: Element,
  x: Floats,
  shift: Floats,
  sum: Floats,
  target: Floats,
  g: Floats,
  h: Floats,
): number {
  const i = this.thread.x;
  const row = quotient(i, this.constants.width, (i + 0.5) * this.constants.reciprocal);
  const total = sum[row]!;
  let share = g[row]! / total;
  if (total < 1) share = g[row]!;
  let y = Math.exp(x[i]! - shift[row]!) * share;
  if (i - row * this.constants.width === target[2 * row + 1]! * 65536 + target[2 * row]!) y = y + h[row]!;
  return y;
}

/**
 * `crossEntropyDerivative` of exponentials that are there.
 * Sizes: e [rows, width]; sum, target, g and h [rows], target as int32 → [rows, width]. Replaces `where(column = target, h, 0) + e · (g ·
 * recip(where(s < 1, 1, s)))`.
 */
export function crossEntropyDerivativeOf(this: Element, e: Floats, sum: Floats, target: Floats, g: Floats, h: Floats): number {
  const i = this.thread.x;
  const row = quotient(i, this.constants.width, (i + 0.5) * this.constants.reciprocal);
  const total = sum[row]!;
  let share = g[row]! / total;
  if (total < 1) share = g[row]!;
  let y = e[i]! * share;
  if (i - row * this.constants.width === target[2 * row + 1]! * 65536 + target[2 * row]!) y = y + h[row]!;
  return y;
}

/**
 * Which value of a loop program each kernel computes, and what it reads, in the order of its parameters. Later ones read what earlier ones
 * have written, and take their place where both fit. `x[rc]` has an element for each of the program's, `m[r]` one a row, `w[c]` one a column;
 * all are float32 where nothing else stands. `$eps` is a number that the program may choose. There is a value an element where an `x[rc]` is
 * read outside of a fold, else one a row.
 */
export const rowKernels: readonly HandKernel[] = [
  {
    kernel: rowShift,
    reads: "x -Infinity",
    computes: "where(less(-Infinity, maxReduce(x[rc])), maxReduce(x[rc]), 0)",
  },
  { kernel: rowExponentials, reads: "x m", computes: "exp(add(x[rc], neg(m[r])))", isKept: true },
  { kernel: rowExponentialSum, reads: "x m", computes: "sum(exp(add(x[rc], neg(m[r]))))" },
  { kernel: rowSum, reads: "x 1", computes: "sum(x[rc])" },
  { kernel: rowSum, reads: "x $share", computes: "mul(sum(x[rc]), $share)" },
  { kernel: rowDot, reads: "g y", computes: "sum(mul(g[rc], y[rc]))" },
  { kernel: softmax, reads: "x m s", computes: "mul(exp(add(x[rc], neg(m[r]))), recip(where(less(s[r], 1), 1, s[r])))" },
  { kernel: shares, reads: "e s", computes: "mul(e[rc], recip(where(less(s[r], 1), 1, s[r])))" },
  { kernel: softmaxDerivative, reads: "g y t", computes: "mul(y[rc], add(g[rc], neg(t[r])))" },
  { kernel: logSoftmax, reads: "x m s", computes: "add(add(x[rc], neg(m[r])), neg(log(where(less(s[r], 1), 1, s[r]))))" },
  { kernel: logSoftmaxDerivative, reads: "g y s", computes: "add(g[rc], neg(mul(exp(y[rc]), s[r])))" },
  {
    kernel: crossEntropy,
    reads: "x m s target isTarget kept $wrong",
    computes: `where(kept[r]:bool, where(isTarget[r]:bool, add(add(log(s[r]), m[r]),
      neg(sum(where(equal(column, target[r]:int32), x[rc], 0)))), $wrong), 0)`,
  },
  {
    kernel: crossEntropyDerivative,
    reads: "x m s target g h",
    computes: `add(where(equal(column, target[r]:int32), h[r], 0),
      mul(exp(add(x[rc], neg(m[r]))), mul(g[r], recip(where(less(s[r], 1), 1, s[r])))))`,
  },
  {
    kernel: crossEntropyDerivativeOf,
    reads: "e s target g h",
    computes: "add(where(equal(column, target[r]:int32), h[r], 0), mul(e[rc], mul(g[r], recip(where(less(s[r], 1), 1, s[r])))))",
  },
];
