/**
 * Making tensors. Numbers become float32 whether whole or not, booleans become bool, typed arrays keep their type (but a
 * Float64Array is float32 too, since only the reference device computes in float64); `dtype` asks for another.
 */
import { checkDevice, currentDevice, upload } from "../compile/program.ts";
import type { Device } from "../devices/device.ts";
import { ConfigError, checkOptions, DTypeError, requireKind, ShapeError, under, wordShape, wordType } from "../errors.ts";
import { checkDType, type DType, dtypes, isFloat, type TypedArray, toBFloat16Bits, toFloat16Bits } from "../graph/dtype.ts";
import { add, cast, equal, less, mul, sub, where } from "../graph/elementwise.ts";
import { expand, reshape } from "../graph/movement.ts";
import { requireTensors, Tensor } from "../graph/node.ts";
import { checkShape, type Shape, sizeOf } from "../graph/shape.ts";
import { constant, iota } from "../graph/source.ts";
import { Variable } from "../graph/variable.ts";

/** Numbers or booleans in arrays of arrays, all rows of one level equally long; a row may be a typed array. */
export type NestedArray = readonly (number | boolean | TypedArray | NestedArray)[];
/** What a tensor can be made of. */
export type TensorData = number | boolean | TypedArray | NestedArray;
/** What public functions take for a tensor. */
export type TensorLike = Tensor | Variable | TensorData;

/** What a new tensor is to be, besides its values. */
export interface CreateOptions {
  readonly dtype?: DType;
  /** Another arrangement of the same number of values, in row-major order. */
  readonly shape?: Shape;
  /** Where the values go; the current device when absent. */
  readonly device?: Device;
}

const isTypedArray = (values: unknown): values is TypedArray => ArrayBuffer.isView(values) && !(values instanceof DataView);

/** The dtype of an array's elements when none is asked for. */
function dtypeOf(values: TypedArray): DType {
  if (values instanceof Float32Array || values instanceof Float64Array) return "float32";
  if (values instanceof Int32Array) return "int32";
  if (values instanceof Uint8Array) return "uint8";
  throw new DTypeError(`cannot guess the dtype of a ${(values as object).constructor.name}.`, {
    operation: "tensor",
    got: (values as object).constructor.name,
    hint: "A Uint16Array holds the bits of float16 or bfloat16: pass `dtype`. Copy others with Float32Array.from or Int32Array.from.",
  });
}

/** What a whole number of these types may be. */
const limits = { int32: [-(2 ** 31), 2 ** 31 - 1], uint8: [0, 255] } as const;

/** @throws {DTypeError} when a value is no number of an integer dtype; fractions are cut off, as in NumPy */
function checkFits(operation: string, values: ArrayLike<number>, dtype: DType): void {
  if (dtype !== "int32" && dtype !== "uint8") return;
  const [low, high] = limits[dtype];
  for (let i = 0; i < values.length; i++)
    if (!(Math.trunc(values[i]!) >= low && Math.trunc(values[i]!) <= high))
      throw new DTypeError(`${values[i]} does not fit ${dtype} (${low}…${high}).`, {
        operation,
        expected: dtype,
        got: values[i],
      });
}

/** Values as a device takes them: in the typed array of their dtype. Numbers for 16-bit floats are rounded to bit patterns. */
function convert(values: ArrayLike<number>, dtype: DType): TypedArray {
  const { array } = dtypes[dtype];
  if (values instanceof array && dtype !== "bool") return values as TypedArray;
  if (dtype === "float16") return Uint16Array.from(values, toFloat16Bits);
  if (dtype === "bfloat16") return Uint16Array.from(values, toBFloat16Bits);
  if (dtype === "bool") return Uint8Array.from(values, (value) => (value ? 1 : 0));
  checkFits("tensor", values, dtype);
  const converted = new array(values.length);
  converted.set(values);
  return converted;
}

/**
 * A tensor of the given values.
 *
 * @throws {ShapeError} when rows differ in length or the values do not fill `shape`; @throws {DTypeError} for values that are no numbers
 * @example
 * tensor([[1, 2], [3, 4]])                              // float32 [2, 2]
 * tensor([3, 1, 2], { dtype: "int32" })                 // int32 [3]
 * tensor(new Float32Array(6), { shape: [2, 3] })        // float32 [2, 3]
 */
export function tensor(values: TensorData, options: CreateOptions = {}): Tensor {
  checkOptions("tensor", options, { dtype: null, shape: null, device: null });
  const { dtype, shape, device } = options;
  if (dtype !== undefined) checkDType("tensor", dtype);
  if (shape !== undefined) checkShape("tensor", shape);
  if (device !== undefined) checkDevice("tensor", device);
  if (isTypedArray(values))
    return under("tensor", () =>
      fromTypedArray(values, shape ?? [values.length], { ...(dtype && { dtype }), ...(device && { device }) }),
    );
  const nested = readNested(values);
  const wanted = dtype ?? (nested.isBoolean ? "bool" : "float32");
  const place = shape ?? nested.shape;
  checkFill("tensor", nested.values.length, place);
  if (place.length === 0 && device === undefined && wanted !== "float16" && wanted !== "bfloat16")
    return full([], nested.values[0]!, { dtype: wanted });
  return upload(device ?? currentDevice(), convert(nested.values, wanted), place, wanted);
}

/**
 * A tensor of a typed array's values, in row-major order; the array goes to the device as it is, without another copy.
 * With dtype float16 or bfloat16 a Uint16Array holds bit patterns.
 */
export function fromTypedArray(
  values: TypedArray,
  shape: Shape = [values?.length],
  options: Omit<CreateOptions, "shape"> = {},
): Tensor {
  checkOptions("fromTypedArray", options, { dtype: null, device: null });
  if (!isTypedArray(values))
    throw new DTypeError(`\`values\` is ${wordType(values)}, not a typed array.`, {
      operation: "fromTypedArray",
      got: values,
      hint: "Use tensor(…).",
    });
  const { dtype = dtypeOf(values), device = currentDevice() } = options;
  checkDType("fromTypedArray", dtype);
  checkDevice("fromTypedArray", device);
  checkFill("fromTypedArray", values.length, shape);
  return upload(device, convert(values, dtype), shape, dtype);
}

function checkFill(operation: string, count: number, shape: Shape): void {
  checkShape(operation, shape);
  if (sizeOf(shape) !== count)
    throw new ShapeError(`${count} values do not fill ${wordShape(shape)} (${sizeOf(shape)}).`, {
      operation,
      expected: shape,
      got: count,
    });
}

/** Checks that nested arrays are a box, and lays their values out in a row. */
function readNested(data: TensorData): { values: Float64Array; shape: number[]; isBoolean: boolean } {
  const shape: number[] = [];
  let first: unknown = data;
  while (Array.isArray(first) || isTypedArray(first)) {
    shape.push(first.length);
    first = first[0];
  }
  const values = new Float64Array(sizeOf(shape));
  let next = 0;
  let numbers = 0;
  const place = (path: readonly number[]) => path.map((i) => `[${i}]`).join("");
  const read = (item: unknown, path: readonly number[]): void => {
    const depth = path.length;
    if (Array.isArray(item) || isTypedArray(item)) {
      if (depth >= shape.length)
        throw new ShapeError(`${place(path)} is a list, but values before it are numbers.`, { operation: "tensor", got: path });
      if (item.length !== shape[depth])
        throw new ShapeError(`${place(path)} has ${item.length} values, the rows before it ${shape[depth]}.`, {
          operation: "tensor",
          expected: shape[depth],
          got: item.length,
          hint: "Rows must be equally long.",
        });
      for (let i = 0; i < item.length; i++) read(item[i], [...path, i]);
      return;
    }
    const at = depth === 0 ? "the value" : place(path);
    if (typeof item !== "number" && typeof item !== "boolean")
      throw new DTypeError(`${at} is ${wordType(item)}, not a number or boolean.`, {
        operation: "tensor",
        got: typeof item,
        ...(item instanceof Tensor && {
          hint: depth === 0 ? "It is one already." : "Use stack or concatenate for lists of tensors.",
        }),
      });
    if (depth < shape.length)
      throw new ShapeError(`${at} is a number, but values before it are lists of ${shape[depth]}.`, {
        operation: "tensor",
        got: path,
      });
    if (typeof item === "number") numbers++;
    values[next++] = Number(item);
  };
  read(data, []);
  return { values, shape, isBoolean: next > 0 && numbers === 0 };
}

/** `like` itself if it is a tensor, the value of a variable, else a new tensor. */
export function asTensor(like: TensorLike): Tensor {
  if (like instanceof Tensor) return like;
  return like instanceof Variable ? like.value : tensor(like);
}

/** Like `asTensor`, but numbers become int32, and have to be whole. */
export function asIndex(operation: string, like: TensorLike): Tensor {
  if (like instanceof Tensor || like instanceof Variable) return asTensor(like);
  const { values, shape, isBoolean } = readNested(like);
  if (isBoolean)
    throw new DTypeError("indices are whole numbers, got booleans.", { operation, got: "bool", hint: "For a mask use where." });
  const fraction = values.find((value) => !Number.isInteger(value));
  if (fraction !== undefined) throw new DTypeError(`index ${fraction} is not a whole number.`, { operation, got: fraction });
  return upload(currentDevice(), convert(values, "int32"), shape, "int32");
}

type FillOptions = Pick<CreateOptions, "dtype">;

function fill(operation: string, shape: Shape, value: number, options: FillOptions = {}, like: DType = "float32"): Tensor {
  checkOptions(operation, options, { dtype: null });
  const { dtype = like } = options;
  checkDType(operation, dtype);
  checkShape(operation, shape);
  if (typeof value !== "number" && typeof value !== "boolean")
    throw new DTypeError(`\`value\` is ${wordType(value)}, not a number.`, { operation, got: value });
  checkFits(operation, [value], dtype);
  return constant(Number(value), shape, dtype);
}

/**
 * `value` everywhere; takes no memory until something reads it.
 *
 * @throws {ShapeError} for what is no shape; @throws {DTypeError} for a value that the dtype cannot hold
 * @example
 * full([2], 0.5)   // [0.5 0.5] float32 [2]
 */
export const full = (shape: Shape, value: number, options?: FillOptions): Tensor => fill("full", shape, value, options);
/** Zeros of `shape`, float32 unless `dtype` says otherwise. */
export const zeros = (shape: Shape, options?: FillOptions): Tensor => fill("zeros", shape, 0, options);
/** Ones of `shape`, float32 unless `dtype` says otherwise. */
export const ones = (shape: Shape, options?: FillOptions): Tensor => fill("ones", shape, 1, options);

type Alike = Tensor | Variable;
function fillLike(operation: string, x: Alike, value: number, options?: FillOptions): Tensor {
  if (!(x instanceof Variable)) requireTensors(operation, { x });
  return fill(operation, x.shape, value, options, x.dtype);
}
/** `value` in the shape and dtype of `x`. */
export const fullLike = (x: Alike, value: number, options?: FillOptions): Tensor => fillLike("fullLike", x, value, options);
/** Zeros in the shape and dtype of `x`. */
export const zerosLike = (x: Alike, options?: FillOptions): Tensor => fillLike("zerosLike", x, 0, options);
/** Ones in the shape and dtype of `x`. */
export const onesLike = (x: Alike, options?: FillOptions): Tensor => fillLike("onesLike", x, 1, options);

/** Index numbers are int32. */
function checkCount(operation: string, count: number): void {
  if (!Number.isInteger(count) || count < 0 || count >= 2 ** 31)
    throw new ShapeError(`the count (= ${count}) must be a whole number from 0 to 2³¹ − 1.`, { operation, got: count });
}

/**
 * start, start + step, … below `stop` (above it for a negative step); `arange(n)` is 0 … n − 1. float32 unless asked otherwise.
 *
 * @throws {ConfigError} when the steps do not lead there
 * @example
 * arange(3)             // [0 1 2] float32 [3]
 * arange(1, 0, -0.25)   // [1.00 0.75 0.50 0.25] float32 [4]
 */
export function arange(start: number, stop?: number, step = 1, options: FillOptions = {}): Tensor {
  checkOptions("arange", options, { dtype: null });
  const { dtype = "float32" } = options;
  checkDType("arange", dtype);
  requireKind("arange", "a number", { start, step, ...(stop !== undefined && { stop }) });
  const [from, to] = stop === undefined ? [0, start] : [start, stop];
  const count = Math.max(0, Math.ceil((to - from) / step));
  if (!Number.isFinite(count))
    throw new ConfigError(`steps of ${step} do not lead from ${from} to ${to}.`, { operation: "arange", got: [from, to, step] });
  checkCount("arange", count);
  const whole = dtype === "int32" || dtype === "uint8";
  const number = (value: number) => constant(value, [], whole ? "int32" : dtype);
  const steps = cast(iota([count]), whole ? "int32" : dtype);
  return cast(add(step === 1 ? steps : mul(steps, number(step)), number(from)), dtype);
}

/**
 * `count` values from `start` to `stop`, both included, evenly spaced.
 *
 * @throws {ConfigError} for ends that are no numbers
 * @example
 * linspace(0, 1, 5)   // [0.00 0.25 0.50 0.75 1.00] float32 [5]
 */
export function linspace(start: number, stop: number, count: number, options: FillOptions = {}): Tensor {
  checkOptions("linspace", options, { dtype: null });
  const { dtype = "float32" } = options;
  checkDType("linspace", dtype);
  checkCount("linspace", count);
  if (!Number.isFinite(start) || !Number.isFinite(stop))
    throw new ConfigError(`there are no steps from ${start} to ${stop}.`, { operation: "linspace", got: [start, stop] });
  const wide = isFloat(dtype) ? dtype : "float32";
  const number = (value: number) => constant(value, [], wide);
  const step = number(count > 1 ? (stop - start) / (count - 1) : 0);
  // each half counted from its own end, so that both ends are exact
  const up = add(number(start), mul(step, cast(iota([count]), wide)));
  const rest = sub(constant(count - 1, [], "int32"), iota([count]));
  const down = sub(number(stop), mul(step, cast(rest, wide)));
  return cast(where(less(iota([count]), constant(Math.max(1, count / 2) | 0, [], "int32")), up, down), dtype);
}

/** 1 on the main diagonal of [rows, columns], 0 elsewhere. @throws {ShapeError} for sizes that are not whole numbers */
export function eye(rows: number, columns = rows, options: FillOptions = {}): Tensor {
  checkOptions("eye", options, { dtype: null });
  const { dtype = "float32" } = options;
  checkDType("eye", dtype);
  checkShape("eye", [rows, columns]);
  return cast(equal(expand(reshape(iota([rows]), [rows, 1]), [rows, columns]), iota([columns])), dtype);
}

function triangle(
  operation: string,
  [rows, columns]: readonly [number, number],
  inside: (i: number, j: number) => boolean,
): Tensor {
  checkShape(operation, [rows, columns]);
  const places: number[][] = [[], []];
  for (let i = 0; i < rows; i++)
    for (let j = 0; j < columns; j++)
      if (inside(i, j)) {
        places[0]!.push(i);
        places[1]!.push(j);
      }
  return upload(currentDevice(), Int32Array.from(places.flat()), [2, places[0]!.length], "int32");
}

/**
 * Row and column of each place on the diagonal `offset` of [rows, columns] or below it, row by row: int32 [2, n].
 *
 * @throws {ShapeError} for sizes that are not whole numbers
 * @example
 * trilIndices(2)
 * // [[0 1 1]
 * //  [0 0 1]] int32 [2, 3]
 */
export function trilIndices(rows: number, columns = rows, offset = 0): Tensor {
  requireKind("trilIndices", "a whole number", { offset });
  return triangle("trilIndices", [rows, columns], (i, j) => j - i <= offset);
}

/** Row and column of each place on the diagonal `offset` of [rows, columns] or above it, as `trilIndices`. */
export function triuIndices(rows: number, columns = rows, offset = 0): Tensor {
  requireKind("triuIndices", "a whole number", { offset });
  return triangle("triuIndices", [rows, columns], (i, j) => j - i >= offset);
}
