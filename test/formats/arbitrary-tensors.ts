/** Random tensors to write: every dtype, scalars and empty ones too, names of any characters. */
import fc from "fast-check";
import type { TensorToWrite } from "../../src/formats/safetensors.ts";
import type { StoredDType } from "../../src/formats/stored-dtype.ts";
import { type DType, dtypes, type TypedArray } from "../../src/graph/dtype.ts";

const storages: readonly [DType, StoredDType | undefined, min: number, max: number][] = [
  ["float32", undefined, 0, 255],
  ["float64", undefined, 0, 255],
  ["float16", undefined, 0, 65535],
  ["bfloat16", undefined, 0, 65535],
  ["float32", "F8_E4M3", 0, 0],
  ["float32", "F8_E5M2", 0, 0],
  ["int32", undefined, -(2 ** 31), 2 ** 31 - 1],
  ["int32", "I64", -(2 ** 31), 2 ** 31 - 1],
  ["int32", "U64", 0, 2 ** 31 - 1],
  ["int32", "U32", 0, 2 ** 31 - 1],
  ["int32", "I16", -32768, 32767],
  ["int32", "U16", 0, 65535],
  ["int32", "I8", -128, 127],
  ["uint8", undefined, 0, 255],
  ["bool", undefined, 0, 1],
];

const shape = fc.array(fc.integer({ min: 0, max: 4 }), { maxLength: 4 });

export const tensor: fc.Arbitrary<TensorToWrite & { data: TypedArray }> = fc
  .tuple(fc.constantFrom(...storages), shape)
  .chain(([[dtype, stored, min, max], sizes]) => {
    const length = sizes.reduce((product, size) => product * size, 1);
    const float8 = fc.constantFrom(0, -0, 2 ** -9, 1.75, -448, Number.NaN);
    const float32 = stored ? float8 : fc.float();
    const value = dtype === "float32" ? float32 : dtype === "float64" ? fc.double() : fc.integer({ min, max });
    return fc.array(value, { minLength: length, maxLength: length }).map((values) => {
      const data = new dtypes[dtype].array(length);
      data.set(values);
      return { dtype, shape: sizes, data, ...(stored === undefined ? {} : { storedDType: stored }) };
    });
  });

export const tensorName = fc
  .oneof(
    fc.string({ maxLength: 12 }),
    fc.string({ unit: "grapheme", maxLength: 6 }),
    fc.constantFrom("constructor", "toString", "0", "é\u{1F99C}\uffff"),
  )
  .filter((name) => name !== "__proto__" && name !== "__metadata__");

export const tensors = fc
  .uniqueArray(fc.tuple(tensorName, tensor), { maxLength: 6, selector: ([name]) => name })
  .map((entries) => new Map(entries));

export const metadata = fc
  .uniqueArray(fc.tuple(tensorName, fc.string({ maxLength: 20 })), { maxLength: 3, selector: ([name]) => name })
  .map((entries) => new Map(entries));
