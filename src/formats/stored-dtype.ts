/** The element types of safetensors files, and their values from bytes and to them. */
import { wordJson, wordShape } from "../errors.ts";
import { bytesPerElement, type DType, dtypes, fromFloat16Bits, type TypedArray } from "../graph/dtype.ts";
import { type Shape, sizeOf } from "../graph/shape.ts";

interface StoredDTypeFacts {
  /** Bytes of one element in the file. */
  readonly bytes: number;
  /** What the values become in memory. */
  readonly dtype: DType;
  /** Where memory holds elements wider than the file: one of them from it and to it. */
  readonly widen?: readonly [
    get: (view: DataView, at: number) => number,
    set: (view: DataView, at: number, value: number) => void,
  ];
}

/** Floats of eight bits: what each of the 256 stands for. A value that is none of them is written as zero, and then found out. */
function floats8(toValue: (bits: number) => number): NonNullable<StoredDTypeFacts["widen"]> {
  const values = Array.from({ length: 256 }, (_, bits) => toValue(bits));
  const bitsOf = (value: number) => values.findIndex((each) => Object.is(each, value));
  return [(view, at) => values[view.getUint8(at)]!, (view, at, value) => view.setUint8(at, Math.max(0, bitsOf(value)))];
}

/** Four bits of an exponent and three of a fraction; no infinities. */
function fromFloat8Bits(bits: number): number {
  const [exponent, fraction] = [(bits >> 3) & 15, bits & 7];
  if ((bits & 127) === 127) return Number.NaN;
  return (bits & 128 ? -1 : 1) * (exponent === 0 ? fraction * 2 ** -9 : (8 + fraction) * 2 ** (exponent - 10));
}

/** What the format calls element types, in the order that decides which tensors come first in a file (the last ones). */
export const storedDTypes = {
  BOOL: { bytes: 1, dtype: "bool" },
  U8: { bytes: 1, dtype: "uint8" },
  I8: { bytes: 1, dtype: "int32", widen: [(v, i) => v.getInt8(i), (v, i, x) => v.setInt8(i, x)] },
  F8_E5M2: { bytes: 1, dtype: "float32", widen: floats8((bits) => fromFloat16Bits(bits << 8)) },
  F8_E4M3: { bytes: 1, dtype: "float32", widen: floats8(fromFloat8Bits) },
  F8_E8M0: { bytes: 1, dtype: "float32", widen: floats8((bits) => (bits === 255 ? Number.NaN : 2 ** (bits - 127))) },
  I16: {
    bytes: 2,
    dtype: "int32",
    widen: [(v, i) => v.getInt16(i, true), (v, i, x) => v.setInt16(i, x, true)],
  },
  U16: {
    bytes: 2,
    dtype: "int32",
    widen: [(v, i) => v.getUint16(i, true), (v, i, x) => v.setUint16(i, x, true)],
  },
  F16: { bytes: 2, dtype: "float16" },
  BF16: { bytes: 2, dtype: "bfloat16" },
  I32: { bytes: 4, dtype: "int32" },
  U32: {
    bytes: 4,
    dtype: "int32",
    widen: [(v, i) => v.getUint32(i, true), (v, i, x) => v.setUint32(i, x, true)],
  },
  F32: { bytes: 4, dtype: "float32" },
  F64: { bytes: 8, dtype: "float64" },
  I64: {
    bytes: 8,
    dtype: "int32",
    widen: [(v, i) => Number(v.getBigInt64(i, true)), (v, i, x) => v.setBigInt64(i, BigInt(x), true)],
  },
  U64: {
    bytes: 8,
    dtype: "int32",
    widen: [(v, i) => Number(v.getBigUint64(i, true)), (v, i, x) => v.setBigUint64(i, BigInt(x), true)],
  },
} as const satisfies Record<string, StoredDTypeFacts>;

/** An element type of the format that lorikeet reads. */
export type StoredDType = keyof typeof storedDTypes;

const factsOf = (stored: StoredDType): StoredDTypeFacts => storedDTypes[stored];
/** Their names, in that order. */
export const storageOrder = Object.keys(storedDTypes) as StoredDType[];

/** How a dtype is stored when nothing else is asked for. */
export const naturalStorage = {
  float32: "F32",
  float64: "F64",
  float16: "F16",
  bfloat16: "BF16",
  int32: "I32",
  uint8: "U8",
  bool: "BOOL",
} as const satisfies Record<DType, StoredDType>;

/** An error that says what is wrong with a file, or with a tensor for it. */
export type Failure = (problem: string, got?: unknown) => Error;

/** The bytes of the tensor `name` as what memory holds. `bytes` starts at a buffer's beginning, so no alignment can be wrong. */
export function decodeElements(bytes: Uint8Array<ArrayBuffer>, stored: StoredDType, name: string, fail: Failure): TypedArray {
  const { dtype, widen, bytes: width } = factsOf(stored);
  const length = bytes.byteLength / width;
  if (widen !== undefined) {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const values = new dtypes[dtype].array(length);
    for (let i = 0; i < length; i++) {
      const value = widen[0](view, i * width);
      values[i] = value;
      if (!Object.is(values[i], value))
        throw fail(`has ${value} in tensor ${wordJson(name)} at index ${i} (${stored}), which does not fit int32.`, value);
    }
    return values;
  }
  if (dtype === "bool") {
    const odd = bytes.findIndex((byte) => byte > 1);
    if (odd >= 0)
      throw fail(`has ${bytes[odd]} in tensor ${wordJson(name)} at index ${odd} (BOOL), which is neither 0 nor 1.`, bytes[odd]);
  }
  return new dtypes[dtype].array(bytes.buffer, bytes.byteOffset, length);
}

/** The elements of the tensor `name` as the bytes that a file has; those of `data` itself where they are the same. */
export function encodeElements(
  name: string,
  { dtype, shape }: { readonly dtype: DType; readonly shape: Shape },
  stored: StoredDType,
  data: TypedArray | undefined,
  refuse: Failure,
): Uint8Array {
  const array = dtypes[dtype].array;
  const length = sizeOf(shape);
  if (!(data instanceof array) || data.length !== length)
    throw refuse(
      `tensor ${wordJson(name)} of ${wordShape(shape)} ${dtype} needs a ${array.name} of ${length} elements, got ${data === undefined ? "nothing" : `a ${data.constructor.name} of ${data.length}`}.`,
      data?.length,
    );
  const { widen, bytes: width } = factsOf(stored);
  if (widen === undefined) return new Uint8Array(data.buffer, data.byteOffset, length * bytesPerElement(dtype));
  const bytes = new Uint8Array(length * width);
  const view = new DataView(bytes.buffer);
  for (let i = 0; i < length; i++) {
    const value = data[i] as number;
    widen[1](view, i * width, value);
    if (!Object.is(widen[0](view, i * width), value))
      throw refuse(`tensor ${wordJson(name)} has ${value} at index ${i}, which does not fit ${stored}.`, value);
  }
  return bytes;
}
