/**
 * Numbers as codes of a few bits and back, with the numbers of bitsandbytes, on plain arrays. Blocks are consecutive values in
 * row-major order that share a scale, their largest absolute value (absmax); the last one may be short.
 *
 * @see https://arxiv.org/abs/2305.14314 (NF4, double quantisation), https://arxiv.org/abs/2110.02861 (the dynamic map),
 *   https://arxiv.org/abs/2208.07339 (int8 by rows)
 */
import { ConfigError, checkOptions, requireKind, ShapeError } from "../errors.ts";
import { fromFloat16Bits, roundHalfEven, toFloat16Bits } from "../graph/dtype.ts";

/** NF4: quantiles of the normal distribution, so that values of a trained weight use all codes alike. Sorted; code 7 is 0. */
export const nf4 = Float32Array.of(
  ...[-1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334],
  ...[-0.09105003625154495, 0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224],
  ...[0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1],
);

/** FP4: a sign, two bits of exponent and one of mantissa, by bit pattern, divided by the largest. Codes 0 and 8 are both 0. */
export const fp4 = Float32Array.from(
  [1, -1].flatMap((sign) => [0, 0.0625, 8, 12, 4, 6, 2, 3].map((value) => (sign * value) / 12)),
);

/**
 * The dynamic 8-bit map: 256 sorted values whose exponent and mantissa share seven (unsigned: eight) bits, dense near 0 and fine near
 * 1. It holds the scales in double quantisation and the moments of 8-bit optimisers.
 */
export function dynamicMap(options: { readonly signed?: boolean } = {}): Float32Array {
  const { signed = true } = checkOptions("dynamicMap", options, { signed: "true or false" });
  const { fround } = Math; // every step is rounded, as in bitsandbytes
  const values = [0, 1];
  for (let exponent = 0; exponent < 7; exponent++) {
    const parts = 2 ** (exponent + (signed ? 0 : 1));
    const step = fround(fround(1 - fround(0.1)) / parts);
    const bound = (i: number) => (2 * i <= parts ? fround(fround(0.1) + step * i) : fround(1 - step * (parts - i)));
    for (let i = 0; i < parts; i++) {
      const middle = fround(fround(bound(i) + bound(i + 1)) / 2);
      const value = fround(fround(10 ** (exponent - 6)) * middle);
      values.push(...(signed ? [value, -value] : [value]));
    }
  }
  return Float32Array.from(values).sort();
}

/** What a quantiser gives: a code for each value, and a scale for each block or row. */
export interface Quantised {
  /** One code a value, not packed. */
  readonly codes: Uint8Array;
  readonly absmax: Float32Array;
}

function checkValues(operation: string, values: unknown, sizes: Readonly<Record<string, unknown>>): void {
  requireKind(operation, "a Float32Array", { values });
  requireKind(operation, "a whole number from 1", sizes);
}

/** What was quantised: codes, and numbers for each group of them. */
function checkCodes<Codes extends object>(operation: string, quantised: Codes, sizes: Readonly<Record<string, unknown>>): Codes {
  requireKind(operation, "an object", { quantised });
  const lists = ["codes", ...("scale" in quantised ? ["scale", "zeroPoint"] : ["absmax"])];
  requireKind(operation, "a list of numbers", Object.fromEntries(lists.map((name) => [name, Reflect.get(quantised, name)])));
  requireKind(operation, "a whole number from 1", sizes);
  return quantised;
}

const checkFinite = (operation: string, absmax: number): void => {
  if (!Number.isFinite(absmax))
    throw new ConfigError("cannot quantise values that are not finite.", {
      operation,
      got: absmax,
      hint: "The weights have diverged, or their file is broken.",
    });
};

/** The largest absolute value from `start` to `end`; NaN where there is one. */
function largest(values: Float32Array, start: number, end: number): number {
  let most = 0;
  for (let i = start; i < end; i++) {
    const size = Math.abs(values[i]!);
    if (size > most || Number.isNaN(size)) most = size;
  }
  return most;
}

/**
 * The codes of the nearest entries of `table` to x / absmax, block by block; halfway between two entries it is the lower one.
 *
 * @param table 16 or 256 entries between −1 and 1, in any order
 * @param block values that share a scale
 * @throws {ConfigError} for values that are not finite
 */
export function quantiseBlockwise(values: Float32Array, table: Float32Array, block: number): Quantised {
  checkValues("quantiseBlockwise", values, { block });
  requireKind("quantiseBlockwise", "a Float32Array", { table });
  const order = Uint8Array.from(table.keys()).sort((a, b) => table[a]! - table[b]! || a - b);
  const middles = Float32Array.from({ length: table.length - 1 }, (_, i) => (table[order[i]!]! + table[order[i + 1]!]!) / 2);
  const codes = new Uint8Array(values.length);
  const absmax = new Float32Array(Math.ceil(values.length / block));
  for (let b = 0, start = 0; start < values.length; b++, start += block) {
    const end = Math.min(start + block, values.length);
    const most = largest(values, start, end);
    checkFinite("quantise", most);
    absmax[b] = most;
    // as bitsandbytes does: times 1/absmax, both in float32
    const factor = Math.fround(1 / Math.max(most, 1e-38));
    for (let i = start; i < end; i++) {
      const scaled = Math.min(1, Math.max(-1, Math.fround(values[i]! * factor)));
      // how many middles lie below
      let low = 0;
      let high = middles.length;
      while (low < high) {
        const middle = (low + high) >> 1;
        if (scaled > middles[middle]!) low = middle + 1;
        else high = middle;
      }
      codes[i] = order[low]!;
    }
  }
  return { codes, absmax };
}

/** Back: table[code] · absmax, in float32. */
export function dequantiseBlockwise(quantised: Quantised, table: Float32Array, block: number): Float32Array {
  const { codes, absmax } = checkCodes("dequantiseBlockwise", quantised, { block });
  requireKind("dequantiseBlockwise", "a Float32Array", { table });
  return Float32Array.from(codes, (code, i) => table[code]! * absmax[Math.floor(i / block)]!);
}

/** Codes of 4 bits two to a byte, the first in the upper half; an odd count is filled up with `padding`. */
export function packNibbles(codes: Uint8Array, padding = 0): Uint8Array {
  requireKind("packNibbles", "a Uint8Array", { codes });
  return Uint8Array.from({ length: Math.ceil(codes.length / 2) }, (_, i) => (codes[2 * i]! << 4) | (codes[2 * i + 1] ?? padding));
}

/** Back: the first `count` codes. */
export function unpackNibbles(bytes: Uint8Array, count: number): Uint8Array {
  requireKind("unpackNibbles", "a Uint8Array", { bytes });
  requireKind("unpackNibbles", "a whole number from 0", { count });
  if (bytes.length !== Math.ceil(count / 2))
    throw new ShapeError(`${count} codes of 4 bits are ${Math.ceil(count / 2)} bytes, got ${bytes.length}.`, {
      operation: "unpackNibbles",
      expected: Math.ceil(count / 2),
      got: bytes.length,
    });
  return Uint8Array.from({ length: count }, (_, i) => (i % 2 === 0 ? bytes[i >> 1]! >> 4 : bytes[i >> 1]! & 15));
}

/** Scales as 8-bit codes: their mean, and the dynamic codes of what is left, in blocks of their own. */
export interface QuantisedScales extends Quantised {
  /** The mean of the scales. */
  readonly offset: number;
}

/** Scales that share a scale in double quantisation; no other value is in use. */
export const nestedBlock = 256;

/** Double quantisation: scales take 8 bits instead of 32. */
export function quantiseScales(absmax: Float32Array): QuantisedScales {
  requireKind("quantiseScales", "a Float32Array", { absmax });
  const offset = Math.fround(absmax.reduce((sum, value) => sum + value, 0) / Math.max(1, absmax.length));
  const { codes, absmax: nested } = quantiseBlockwise(
    absmax.map((value) => value - offset),
    dynamicMap(),
    nestedBlock,
  );
  return { codes, absmax: nested, offset };
}

/** Back: the scales, as they are used. */
export function dequantiseScales(scales: QuantisedScales): Float32Array {
  checkCodes("dequantiseScales", scales, {});
  return dequantiseBlockwise(scales, dynamicMap(), nestedBlock).map((value) => value + scales.offset);
}

/** Signed codes of 8 bits. */
export interface QuantisedInt8 {
  readonly codes: Int8Array;
  readonly absmax: Float32Array;
}

/**
 * round(127 · x / absmax): `row` values share a scale (a row of a matrix, a block, or all of it).
 * @throws {ConfigError} for values that are not finite
 */
export function quantiseInt8(values: Float32Array, row: number): QuantisedInt8 {
  checkValues("quantiseInt8", values, { row });
  const codes = new Int8Array(values.length);
  const absmax = new Float32Array(Math.ceil(values.length / row));
  for (let r = 0, start = 0; start < values.length; r++, start += row) {
    const end = Math.min(start + row, values.length);
    const most = largest(values, start, end);
    checkFinite("quantise", most);
    absmax[r] = most;
    if (most === 0) continue;
    const factor = Math.fround(Math.fround(1 / most) * 127); // as in bitsandbytes, every step in float32
    for (let i = start; i < end; i++) codes[i] = roundHalfEven(Math.fround(values[i]! * factor));
  }
  return { codes, absmax };
}

/** Back: code · absmax / 127. */
export function dequantiseInt8(quantised: QuantisedInt8, row: number): Float32Array {
  const { codes, absmax } = checkCodes("dequantiseInt8", quantised, { row });
  return Float32Array.from(codes, (code, i) => Math.fround(code * absmax[Math.floor(i / row)]!) / 127);
}

/** Codes that need not have 0 in the middle. */
export interface QuantisedAffine {
  readonly codes: Uint8Array;
  readonly scale: Float32Array;
  /** The code of 0, if it were not limited to 0 … 255. */
  readonly zeroPoint: Float32Array;
}

/**
 * Affine codes of 8 bits from the least to the largest value of each `row` values: x ≈ (code − zeroPoint) · scale.
 * @throws {ConfigError} for values that are not finite
 */
export function quantiseAffine(values: Float32Array, row: number): QuantisedAffine {
  checkValues("quantiseAffine", values, { row });
  const rows = Math.ceil(values.length / row);
  const [codes, scale, zeroPoint] = [new Uint8Array(values.length), new Float32Array(rows), new Float32Array(rows)];
  for (let r = 0, start = 0; start < values.length; r++, start += row) {
    const part = values.subarray(start, start + row);
    const [low, high] = [part.reduce((a, b) => Math.min(a, b), Infinity), part.reduce((a, b) => Math.max(a, b), -Infinity)];
    checkFinite("quantise", high - low);
    // equal values are a scale of their own: their code is 1 or −1 away from 0
    const step = Math.fround(Math.fround(high - low) / 255) || Math.abs(low) || 1;
    scale[r] = step;
    zeroPoint[r] = roundHalfEven(Math.fround(-low / step));
    for (let i = 0; i < part.length; i++)
      codes[start + i] = Math.min(255, Math.max(0, roundHalfEven(Math.fround(part[i]! / step)) + zeroPoint[r]!));
  }
  return { codes, scale, zeroPoint };
}

/** Back: (code − zeroPoint) · scale. */
export function dequantiseAffine(quantised: QuantisedAffine, row: number): Float32Array {
  const { codes, scale, zeroPoint } = checkCodes("dequantiseAffine", quantised, { row });
  return Float32Array.from(codes, (code, i) => (code - zeroPoint[Math.floor(i / row)]!) * scale[Math.floor(i / row)]!);
}

/** How weights are kept. */
export type QuantisedType = "nf4" | "fp4" | "int8";

/** How weights are quantised. */
export interface QuantiserOptions {
  /** `"nf4"` when absent. */
  readonly type?: QuantisedType;
  /** Values that share a scale: 32, 64, … 4096; 64 when absent. int8 has one scale a row. */
  readonly blockSize?: number;
  /** Whether the scales of blocks are quantised, too, as QLoRA does; true when absent. */
  readonly doubleQuantise?: boolean;
}

/** A matrix of 4-bit codes. */
interface FourBitWeight {
  readonly type: "nf4" | "fp4";
  readonly shape: readonly [out: number, into: number];
  readonly blockSize: number;
  /** Two to a byte, in row-major order. */
  readonly codes: Uint8Array;
  /** What the 16 codes stand for. */
  readonly table: Float32Array;
  readonly absmax: Float32Array | QuantisedScales;
}

/** A matrix of 8-bit codes, with a scale for each row. */
export interface Int8Weight extends QuantisedInt8 {
  readonly type: "int8";
  readonly shape: readonly [out: number, into: number];
}

/** A matrix as codes, on the JavaScript side. */
export type QuantisedWeight = FourBitWeight | Int8Weight;

/** What the options mean, all of them. @throws {ConfigError} for values that no quantiser has */
export function quantiserOptions(operation: string, options: QuantiserOptions): Required<QuantiserOptions> {
  const { type = "nf4", blockSize = 64, doubleQuantise = true } = options;
  const types: readonly string[] = ["nf4", "fp4", "int8"] satisfies QuantisedType[];
  if (!types.includes(type))
    throw new ConfigError(`\`type\` (= ${JSON.stringify(type)}) must be nf4, fp4 or int8.`, {
      operation,
      got: type,
      expected: types,
    });
  // int8 has a scale for each row, whatever its length
  if (type !== "int8" && (!Number.isInteger(Math.log2(blockSize)) || blockSize < 32 || blockSize > 4096))
    throw new ConfigError(`\`blockSize\` (= ${blockSize}) must be a power of two from 32 to 4096.`, {
      operation,
      got: blockSize,
    });
  return { type, blockSize, doubleQuantise };
}

/**
 * A matrix as codes.
 *
 * @param values [out, in] in row-major order
 * @param own what codes of four bits stand for, where that is not what the type says
 * @throws {ConfigError} for values that are not finite
 */
export function quantiseWeight(
  values: Float32Array,
  shape: readonly [out: number, into: number],
  options: Required<QuantiserOptions>,
  own?: Float32Array,
): QuantisedWeight {
  checkValues("quantiseWeight", values, {});
  requireKind("quantiseWeight", "a list of numbers", { shape });
  const { type, blockSize, doubleQuantise } = quantiserOptions(
    "quantiseWeight",
    checkOptions("quantiseWeight", options, { type: null, blockSize: "a whole number from 1", doubleQuantise: "true or false" }),
  );
  if (type === "int8") {
    // bitsandbytes takes weights in float16 for this
    const half = values.map((value) => fromFloat16Bits(toFloat16Bits(value)));
    const large = values.find((value, i) => Number.isFinite(value) && !Number.isFinite(half[i]));
    if (large !== undefined)
      throw new ConfigError(`int8 takes weights as float16, which holds no ${large}.`, {
        operation: "quantise",
        got: large,
        hint: "Use nf4 or fp4, or skip this layer.",
      });
    return { type, shape, ...quantiseInt8(half, shape[1]) };
  }
  if (own !== undefined) requireKind("quantiseWeight", "a Float32Array", { own });
  const table = own ?? (type === "nf4" ? nf4 : fp4);
  const most = table.reduce((a, b) => Math.max(a, Math.abs(b)), 0);
  const { codes, absmax: scales } = quantiseBlockwise(values, most === 1 ? table : table.map((x) => x / most), blockSize);
  const absmax = most === 1 ? scales : scales.map((x) => x / most);
  const padding = type === "nf4" ? 7 : 0; // the code of 0
  return {
    type,
    shape,
    blockSize,
    codes: packNibbles(codes, padding),
    table,
    absmax: doubleQuantise ? quantiseScales(absmax) : absmax,
  };
}
