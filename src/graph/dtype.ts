/** Element types: what a tensor may hold and how wide one element is in memory. */
import { DTypeError, nearestName, wordArgument } from "../errors.ts";

/** float64 computes on the reference device only; float16 and bfloat16 are for storage and are widened to float32 to compute. */
export type DType = "float32" | "float64" | "float16" | "bfloat16" | "int32" | "uint8" | "bool";

/** What holds the elements of a dtype on the JavaScript side. float16 and bfloat16 travel as their bit patterns. */
export type TypedArray = Float32Array | Float64Array | Int32Array | Uint8Array | Uint16Array;

interface DTypeFacts {
  /** Bytes of one element. */
  readonly bytes: number;
  readonly float: boolean;
  readonly array: { new (length: number): TypedArray; new (buffer: ArrayBufferLike, offset: number, length: number): TypedArray };
}

/** What is known of each dtype; 16-bit floats lie in memory as their bits. */
export const dtypes = {
  float32: { bytes: 4, float: true, array: Float32Array },
  float64: { bytes: 8, float: true, array: Float64Array },
  float16: { bytes: 2, float: true, array: Uint16Array },
  bfloat16: { bytes: 2, float: true, array: Uint16Array },
  int32: { bytes: 4, float: false, array: Int32Array },
  uint8: { bytes: 1, float: false, array: Uint8Array },
  bool: { bytes: 1, float: false, array: Uint8Array },
} as const satisfies Record<DType, DTypeFacts>;

/** Whether values have fractions, and so derivatives. */
export const isFloat = (dtype: DType): boolean => dtypes[dtype].float;
/** Bytes of one element where the dtype says what lies there: in files, and on devices that narrow. */
export const bytesPerElement = (dtype: DType): number => dtypes[dtype].bytes;

/**
 * The dtype that arithmetic of two dtypes gives: bool < uint8 < int32 < float16 = bfloat16 < float32 < float64; two different 16-bit
 * floats give float32.
 */
export function promote(a: DType, b: DType): DType {
  if (a === b) return a;
  const order: Record<DType, number> = { bool: 0, uint8: 1, int32: 2, float16: 3, bfloat16: 3, float32: 4, float64: 5 };
  if (order[a] === order[b]) return "float32";
  return order[a] > order[b] ? a : b;
}

/** @throws {DTypeError} when `dtype` is not the name of one */
export function checkDType(operation: string, dtype: unknown): void {
  if (typeof dtype === "string" && Object.hasOwn(dtypes, dtype)) return;
  const names = Object.keys(dtypes);
  const near = typeof dtype === "string" ? nearestName(dtype, names) : undefined;
  throw new DTypeError(`${wordArgument(dtype)} is not a dtype.`, {
    operation,
    expected: names,
    got: dtype,
    hint: near ? `Did you mean "${near}"?` : `There are ${names.join(", ")}.`,
  });
}

/** @throws {DTypeError} when `dtype` is not a floating-point type. */
export function requireFloat(operation: string, dtype: DType): void {
  if (!isFloat(dtype))
    throw new DTypeError(`needs floating-point values, got ${dtype}.`, { operation, got: dtype, hint: 'Use x.cast("float32").' });
}

const scratch = new DataView(new ArrayBuffer(4));

/** To the nearest integer, the even one halfway. */
export function roundHalfEven(x: number): number {
  const floor = Math.floor(x);
  const rest = x - floor;
  return rest < 0.5 || (rest === 0.5 && floor % 2 === 0) ? floor : floor + 1;
}

/** bfloat16 bits of `value`, rounded to nearest, ties to even; NaN stays NaN. */
export function toBFloat16Bits(value: number): number {
  scratch.setFloat32(0, value);
  const bits = scratch.getUint32(0);
  if ((bits & 0x7fffffff) > 0x7f800000) return (bits >>> 16) | 0x40;
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}

/** The number that bfloat16 bits stand for: those of a float32, without its lower half. */
export function fromBFloat16Bits(bits: number): number {
  scratch.setUint32(0, bits << 16);
  return scratch.getFloat32(0);
}

/** float16 bits of `value`, rounded to nearest, ties to even, with subnormals; past 65,504 it becomes infinite. */
export function toFloat16Bits(value: number): number {
  scratch.setFloat32(0, value);
  const bits = scratch.getUint32(0);
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  if (magnitude >= 0x477ff000) return sign | 0x7c00;
  if (magnitude < 0x38800000) {
    // subnormal: count of 2^-24 units, rounded half to even
    const units = Math.abs(value) * 2 ** 24;
    const floor = Math.floor(units);
    const rest = units - floor;
    return sign | (rest > 0.5 || (rest === 0.5 && (floor & 1) === 1) ? floor + 1 : floor);
  }
  const rebased = magnitude - 0x38000000;
  return sign | ((rebased + 0xfff + ((rebased >>> 13) & 1)) >>> 13);
}

/** The number that float16 bits stand for, subnormals, infinities and NaN included. */
export function fromFloat16Bits(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >>> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN;
  return exponent === 0 ? sign * fraction * 2 ** -24 : sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

let halves: Float32Array | undefined;

/** Values as memory has them, as float32. Bit patterns of halves are widened, millions of them in some milliseconds. */
export function toFloat32(values: TypedArray, dtype: DType): Float32Array<ArrayBufferLike> {
  if (values instanceof Float32Array) return values;
  const wide = new Float32Array(values.length);
  if (dtype === "bfloat16") {
    const bits = new Uint32Array(wide.buffer);
    for (let i = 0; i < values.length; i++) bits[i] = (values[i] as number) << 16;
  } else if (dtype === "float16") {
    halves ??= Float32Array.from({ length: 2 ** 16 }, (_, bits) => fromFloat16Bits(bits));
    for (let i = 0; i < values.length; i++) wide[i] = halves[values[i] as number] as number;
  } else wide.set(values);
  return wide;
}
