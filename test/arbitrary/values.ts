/** Values for leaves of random graphs: multiples of 1/16, which every float dtype holds exactly. */
import { realize } from "../../src/compile/program.ts";
import type { Buffer, Device } from "../../src/devices/device.ts";
import { type DType, dtypes, isFloat, type TypedArray } from "../../src/graph/dtype.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { type Shape, sizeOf } from "../../src/graph/shape.ts";

/** The values of a tensor with all the digits that its device holds: the reference device keeps float32 in float64. */
export function valuesOf(x: Tensor): TypedArray {
  realize([x]);
  const { device, buffer } = x.storage!;
  const wide = isFloat(x.dtype) && (device as Device).storageBytes(x.dtype) === 8;
  return (device as Device).downloadSync!({ buffer: buffer as Buffer, offset: 0 }, wide ? "float64" : x.dtype, x.size);
}

/** A number in 0…2³²−1 from two. */
export function scramble(a: number, b: number): number {
  let x = (Math.imul(a + 1, 0x9e3779b1) ^ Math.imul(b + 1, 0x85ebca6b)) >>> 0;
  x = Math.imul(x ^ (x >>> 16), 0x7feb352d);
  x = Math.imul(x ^ (x >>> 15), 0x846ca68b);
  return (x ^ (x >>> 16)) >>> 0;
}

export function leafValues(
  shape: Shape,
  kind: "float" | "int32" | "bool",
  seed: number,
  floats: DType = "float32",
): { values: TypedArray; dtype: DType } {
  const size = sizeOf(shape);
  const dtype = kind === "float" ? floats : kind;
  const values = new dtypes[dtype].array(size);
  for (let i = 0; i < size; i++) {
    const n = scramble(seed, i);
    values[i] = kind === "float" ? ((n % 65) - 32) / 16 : kind === "bool" ? n % 2 : (n % 19) - 9;
  }
  return { values, dtype };
}
