/** Sources: values that are there before any operation. */
import type { DType } from "./dtype.ts";
import { type Storage, Tensor } from "./node.ts";
import type { Source } from "./primitive.ts";
import { type Shape, sizeOf } from "./shape.ts";

const noGradient = () => [];

/** Values in device memory. */
const bufferOp: Source = { kind: "source", name: "buffer", formula: "stored values", vjp: noGradient };
/** A stand-in for a value that is given when a traced program is replayed. */
const inputOp: Source = { kind: "source", name: "input", formula: "argument of a traced program", vjp: noGradient };
const constantOp: Source = { kind: "source", name: "constant", formula: "one value everywhere", vjp: noGradient };
const iotaOp: Source = { kind: "source", name: "iota", formula: "0, 1, 2, …", vjp: noGradient };

/** Values that lie on a device already. */
export function buffer(shape: Shape, dtype: DType, storage: Storage): Tensor {
  const node = new Tensor(bufferOp, [], shape, dtype);
  node.storage = storage;
  return node;
}

/** A placeholder of a traced program. */
export const input = (shape: Shape, dtype: DType): Tensor => new Tensor(inputOp, [], shape, dtype);

/** `value` at every index of `shape`; costs no memory. */
export function constant(value: number, shape: Shape = [], dtype: DType = "float32"): Tensor {
  const stored = dtype === "bool" ? (value ? 1 : 0) : dtype === "int32" ? value | 0 : dtype === "uint8" ? value & 255 : value;
  return new Tensor(constantOp, [], shape, dtype, { value: stored });
}

/** Whether `x` is one number everywhere, which stands in no memory. */
export const isConstant = (x: Tensor): boolean => x.op === constantOp && x.storage === null;

/** One number as a scalar of the dtype of `x`. */
export const number = (x: Tensor, value: number): Tensor => constant(value, [], x.dtype);

/** 0, 1, 2, … in row-major order, as int32; costs no memory. */
export const iota = (shape: Shape): Tensor => new Tensor(iotaOp, [], shape, "int32", { size: sizeOf(shape) });

/** The entries of this family, by name. */
export const sources = { buffer: bufferOp, input: inputOp, constant: constantOp, iota: iotaOp };
