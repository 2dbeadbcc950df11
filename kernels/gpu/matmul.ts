/**
 * The matrix product y[m, n] = Σₖ a[m, k] · b[k, n] (+ start[m, n]), batched, through any strides: in place of the plain loop over k
 * of src/devices/gpu/matmul-call.ts, which reads every element of a and b many times.
 *
 * Mode headlessgl, and contexts of WebGL without draw buffers: four neighbouring elements lie in one texel: pack, multiply texels, unpack.
 * matmul-glsl.ts and matmul-wgsl.ts have the forms of WebGL and of WebGPU. A quotient of floats may be off by one, which is mended.
 */
import type { Floats, KernelThis, Rows } from "./kernel-this.ts";
import { quotient } from "./math.ts";

/** An axis of the batch, as one operand walks it. */
export interface BatchAxis {
  readonly extent: number;
  readonly stride: number;
}

/** Where one operand lies. */
export interface MatrixWalk {
  readonly offset: number;
  /** The outermost first; heads of a token-major operand are two, the products of one head after the other. */
  readonly batch: readonly BatchAxis[];
  readonly row: number;
  readonly column: number;
}

/** Sizes of batched products [M, K] · [K, N], and how their operands are walked; `start` is what the sums begin with. */
export interface MatmulSizes {
  readonly batches: number;
  readonly M: number;
  readonly N: number;
  readonly K: number;
  readonly a: MatrixWalk;
  readonly b: MatrixWalk;
  readonly start?: MatrixWalk;
}

/**
 * Where the matrix of a batch begins, in a shader.
 *
 * @param over writes the quotient of the batch's number and `n`, in whole numbers
 */
export function batchOffset(axes: readonly BatchAxis[], over: (n: number) => string, unit: "" | "u" = ""): string {
  let inner = 1;
  const terms: string[] = [];
  for (let axis = axes.length - 1; axis >= 0; axis--) {
    const { extent, stride } = axes[axis]!;
    const index = axis === 0 ? over(inner) : `(${over(inner)} - ${over(inner * extent)} * ${extent}${unit})`;
    if (stride !== 0) terms.push(`${index} * ${stride}${unit}`);
    inner *= extent;
  }
  return terms.length ? terms.join(" + ") : `0${unit}`;
}

/** Four floats of one texel. */
export type Texels = ArrayLike<readonly [number, number, number, number]>;

/**
 * Rows of `width` elements as texels of four, the last filled up with zeros, for every batch; `rows` past `height` are zeros.
 * Thread ((batch · rows) + row) · texels + column. Constants: rows, height, width, texels a row, offset and strides.
 */
export function pack(
  this: KernelThis<"rows" | "height" | "width" | "texels" | "offset" | "batch" | "row" | "column">,
  a: Floats,
): number[] {
  const line = quotient(this.thread.x, this.constants.texels, this.thread.x / this.constants.texels);
  const c = 4 * (this.thread.x - line * this.constants.texels);
  const batch = quotient(line, this.constants.rows, line / this.constants.rows);
  const r = line - batch * this.constants.rows;
  const base = this.constants.offset + batch * this.constants.batch + r * this.constants.row;
  let p = 0;
  let q = 0;
  let s = 0;
  let t = 0;
  if (r < this.constants.height) {
    p = a[base + c * this.constants.column]!;
    if (c + 1 < this.constants.width) q = a[base + (c + 1) * this.constants.column]!;
    if (c + 2 < this.constants.width) s = a[base + (c + 2) * this.constants.column]!;
    if (c + 3 < this.constants.width) t = a[base + (c + 3) * this.constants.column]!;
  }
  return [p, q, s, t];
}

/** `pack` of one matrix that lies as a table of rows. */
export function packRows(this: KernelThis<"height" | "width" | "texels">, a: Rows): number[] {
  const r = quotient(this.thread.x, this.constants.texels, this.thread.x / this.constants.texels);
  const c = 4 * (this.thread.x - r * this.constants.texels);
  let p = 0;
  let q = 0;
  let s = 0;
  let t = 0;
  if (r < this.constants.height) {
    p = a[r]![c]!;
    if (c + 1 < this.constants.width) q = a[r]![c + 1]!;
    if (c + 2 < this.constants.width) s = a[r]![c + 2]!;
    if (c + 3 < this.constants.width) t = a[r]![c + 3]!;
  }
  return [p, q, s, t];
}

/** `pack` of one matrix whose columns are the rows of a table. */
export function packColumns(this: KernelThis<"height" | "width" | "texels">, a: Rows): number[] {
  const r = quotient(this.thread.x, this.constants.texels, this.thread.x / this.constants.texels);
  const c = 4 * (this.thread.x - r * this.constants.texels);
  let p = 0;
  let q = 0;
  let s = 0;
  let t = 0;
  if (r < this.constants.height) {
    p = a[c]![r]!;
    if (c + 1 < this.constants.width) q = a[c + 1]![r]!;
    if (c + 2 < this.constants.width) s = a[c + 2]![r]!;
    if (c + 3 < this.constants.width) t = a[c + 3]![r]!;
  }
  return [p, q, s, t];
}

/** Product of packed matrices: a has `deep` texels a row, b has 4·deep rows of `wide` texels, y as many rows (`rows`) as a. */
export function multiplyPacked(this: KernelThis<"rows" | "deep" | "wide">, a: Texels, b: Texels): number[] {
  const line = quotient(this.thread.x, this.constants.wide, this.thread.x / this.constants.wide);
  const c = this.thread.x - line * this.constants.wide;
  const batch = quotient(line, this.constants.rows, line / this.constants.rows);
  const first = batch * 4 * this.constants.deep * this.constants.wide + c;
  let p = 0;
  let q = 0;
  let s = 0;
  let t = 0;
  for (let k = 0; k < this.constants.deep; k++) {
    const x = a[line * this.constants.deep + k]!;
    const at = first + 4 * k * this.constants.wide;
    const b0 = b[at]!;
    const b1 = b[at + this.constants.wide]!;
    const b2 = b[at + 2 * this.constants.wide]!;
    const b3 = b[at + 3 * this.constants.wide]!;
    p = p + x[0] * b0[0] + x[1] * b1[0] + x[2] * b2[0] + x[3] * b3[0];
    q = q + x[0] * b0[1] + x[1] * b1[1] + x[2] * b2[1] + x[3] * b3[1];
    s = s + x[0] * b0[2] + x[1] * b1[2] + x[2] * b2[2] + x[3] * b3[2];
    t = t + x[0] * b0[3] + x[1] * b1[3] + x[2] * b2[3] + x[3] * b3[3];
  }
  return [p, q, s, t];
}

/** Texels as the flat matrix: rows of `width` elements out of `texels` texels each. */
export function unpack(this: KernelThis<"width" | "texels">, a: Texels): number {
  const line = quotient(this.thread.x, this.constants.width, this.thread.x / this.constants.width);
  const c = this.thread.x - line * this.constants.width;
  const texel = Math.floor(c * 0.25);
  const v = a[line * this.constants.texels + texel]!;
  const part = c - 4 * texel;
  let y = v[3];
  if (part < 2.5) y = v[2];
  if (part < 1.5) y = v[1];
  if (part < 0.5) y = v[0];
  return y;
}

/** `unpack` plus the start of the sums. Constants besides: `rows` of a matrix, offset and strides of the start. */
export function unpackAdd(
  this: KernelThis<"width" | "texels" | "rows" | "offset" | "batch" | "row" | "column">,
  a: Texels,
  start: Floats,
): number {
  const line = quotient(this.thread.x, this.constants.width, this.thread.x / this.constants.width);
  const c = this.thread.x - line * this.constants.width;
  const texel = Math.floor(c * 0.25);
  const v = a[line * this.constants.texels + texel]!;
  const part = c - 4 * texel;
  let y = v[3];
  if (part < 2.5) y = v[2];
  if (part < 1.5) y = v[1];
  if (part < 0.5) y = v[0];
  const batch = quotient(line, this.constants.rows, line / this.constants.rows);
  const r = line - batch * this.constants.rows;
  return y + start[this.constants.offset + batch * this.constants.batch + r * this.constants.row + c * this.constants.column]!;
}
