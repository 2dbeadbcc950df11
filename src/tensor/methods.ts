/**
 * Fluent methods of tensors, for users: `x.mul(2).sum()`. Imported for its effect by the entry points; the engine itself calls
 * plain functions. Every method is one line; meaning and errors are those of the function.
 */
import { backward } from "../autograd/grad.ts";
import { checkDevice, download, downloadSync, realize, upload } from "../compile/program.ts";
import { yieldNowAndThen } from "../compile/turn.ts";
import type { Device } from "../devices/device.ts";
import { DTypeError, renamed, ShapeError, wordShape } from "../errors.ts";
import type { DType, TypedArray } from "../graph/dtype.ts";
import { stopGradient } from "../graph/movement.ts";
import { Tensor } from "../graph/node.ts";
import type { Shape } from "../graph/shape.ts";
import { showAs } from "../graph/shown-as.ts";
import { Variable } from "../graph/variable.ts";
import type { PaddingMode, Sorted } from "./arrange.ts";
import * as arrange from "./arrange.ts";
import type { TensorLike } from "./create.ts";
import * as functions from "./functions.ts";
import { at, type IndexItem } from "./index-expression.ts";
import * as math from "./math.ts";
import { describe, type PrintOptions, print, readable } from "./print.ts";
import type { AxisSizes, Fold } from "./rearrange.ts";
import * as named from "./rearrange.ts";
import type { Axes, Extremes, NormOptions, VarianceOptions } from "./statistics.ts";
import * as statistics from "./statistics.ts";

/** Values as numbers (booleans for bool) in arrays of arrays. */
type Nested = number | boolean | Nested[];

function nest(values: ArrayLike<number>, shape: readonly number[], isBoolean: boolean): Nested {
  let next = 0;
  const level = (axis: number): Nested => {
    if (axis < shape.length) return Array.from({ length: shape[axis]! }, () => level(axis + 1));
    const value = values[next++]!;
    return isBoolean ? value !== 0 : value;
  };
  return level(0);
}

/** Methods that only make more graph: those whose other arguments may be made into tensors, then those of one tensor. */
const operations = {
  add: functions.add,
  sub: functions.sub,
  mul: functions.mul,
  div: functions.div,
  mod: functions.mod,
  pow: functions.pow,
  maximum: functions.maximum,
  minimum: functions.minimum,
  less: functions.less,
  lessEqual: functions.lessEqual,
  greater: functions.greater,
  greaterEqual: functions.greaterEqual,
  equal: functions.equal,
  notEqual: functions.notEqual,
  logicalAnd: functions.logicalAnd,
  logicalOr: functions.logicalOr,
  maskedFill: functions.maskedFill,
  matmul: functions.matmul,
  max: functions.max,
  min: functions.min,
  take: functions.take,
  gather: functions.gather,
  indexSelect: functions.indexSelect,
  scatter: functions.scatter,
  scatterAdd: functions.scatterAdd,
  indexAdd: functions.indexAdd,
  repeat: functions.repeat,
  neg: math.neg,
  abs: math.abs,
  sign: math.sign,
  square: math.square,
  sqrt: math.sqrt,
  rsqrt: math.rsqrt,
  reciprocal: math.reciprocal,
  exp: math.exp,
  expm1: math.expm1,
  log: math.log,
  log1p: math.log1p,
  sin: math.sin,
  cos: math.cos,
  tan: math.tan,
  tanh: math.tanh,
  erf: math.erf,
  floor: math.floor,
  ceil: math.ceil,
  round: math.round,
  relu: math.relu,
  sigmoid: math.sigmoid,
  silu: math.silu,
  gelu: math.gelu,
  softplus: math.softplus,
  logicalNot: math.logicalNot,
  clamp: math.clamp,
  cast: math.cast,
  tril: math.tril,
  triu: math.triu,
  sum: statistics.sum,
  mean: statistics.mean,
  prod: statistics.prod,
  amax: statistics.amax,
  amin: statistics.amin,
  any: statistics.any,
  all: statistics.all,
  argmax: statistics.argmax,
  argmin: statistics.argmin,
  variance: statistics.variance,
  std: statistics.std,
  norm: statistics.norm,
  logSumExp: statistics.logSumExp,
  softmax: statistics.softmax,
  logSoftmax: statistics.logSoftmax,
  cumsum: statistics.cumsum,
  reshape: arrange.reshape,
  permute: arrange.permute,
  transpose: arrange.transpose,
  broadcastTo: arrange.broadcastTo,
  squeeze: arrange.squeeze,
  unsqueeze: arrange.unsqueeze,
  flatten: arrange.flatten,
  unflatten: arrange.unflatten,
  moveAxis: arrange.moveAxis,
  swapAxes: arrange.swapAxes,
  flip: arrange.flip,
  roll: arrange.roll,
  rot90: arrange.rot90,
  pad: arrange.padding,
  repeatInterleave: arrange.repeatInterleave,
  split: arrange.split,
  chunk: arrange.chunk,
  diagonal: arrange.diagonal,
  sort: arrange.sort,
  topk: arrange.topk,
  at,
  slice: at,
  rearrange: named.rearrange,
  reduce: named.reduce,
  detach: stopGradient,
} as const;

/** What tensors can do besides making more graph. */
const access = {
  async data(this: Tensor): Promise<TypedArray> {
    const values = readable(await download(this), this.dtype);
    await yieldNowAndThen();
    return values;
  },
  dataSync(this: Tensor): TypedArray {
    return readable(downloadSync(this), this.dtype);
  },
  item(this: Tensor): number {
    if (this.size !== 1)
      throw new ShapeError(`needs exactly one value, got ${wordShape(this.shape)}.`, {
        operation: "item",
        expected: 1,
        got: this.shape,
      });
    return this.dataSync()[0]!;
  },
  toArray(this: Tensor): Nested {
    return nest(this.dataSync(), this.shape, this.dtype === "bool");
  },
  to(this: Tensor, device: Device): Tensor {
    checkDevice("to", device);
    return this.storage?.device === device ? this : upload(device, downloadSync(this), this.shape, this.dtype);
  },
  realize(this: Tensor): Tensor {
    realize([this]);
    return this;
  },
  backward(this: Tensor): void {
    backward(this);
  },
  print(this: Tensor, options?: PrintOptions): string {
    return print(this, options);
  },
  toString(this: Tensor): string {
    return describe(this);
  },
  toJSON(this: Tensor): Nested {
    return nest(this.dataSync(), this.shape, this.dtype === "bool");
  },
};

declare module "../graph/node.ts" {
  interface Tensor {
    add(y: TensorLike): Tensor;
    sub(y: TensorLike): Tensor;
    mul(y: TensorLike): Tensor;
    div(y: TensorLike): Tensor;
    mod(y: TensorLike): Tensor;
    pow(y: TensorLike): Tensor;
    maximum(y: TensorLike): Tensor;
    minimum(y: TensorLike): Tensor;
    less(y: TensorLike): Tensor;
    lessEqual(y: TensorLike): Tensor;
    greater(y: TensorLike): Tensor;
    greaterEqual(y: TensorLike): Tensor;
    equal(y: TensorLike): Tensor;
    notEqual(y: TensorLike): Tensor;
    logicalAnd(y: TensorLike): Tensor;
    logicalOr(y: TensorLike): Tensor;
    logicalNot(): Tensor;
    maskedFill(mask: TensorLike, value: number): Tensor;
    /** [..., M, K] · [..., K, N] → [..., M, N]; leading axes broadcast. */
    matmul(y: TensorLike): Tensor;

    neg(): Tensor;
    abs(): Tensor;
    sign(): Tensor;
    square(): Tensor;
    sqrt(): Tensor;
    /** 1 / √x. */
    rsqrt(): Tensor;
    reciprocal(): Tensor;
    exp(): Tensor;
    expm1(): Tensor;
    log(): Tensor;
    log1p(): Tensor;
    sin(): Tensor;
    cos(): Tensor;
    tan(): Tensor;
    tanh(): Tensor;
    erf(): Tensor;
    floor(): Tensor;
    ceil(): Tensor;
    /** Halves go to the even number. */
    round(): Tensor;
    relu(): Tensor;
    sigmoid(): Tensor;
    silu(): Tensor;
    gelu(): Tensor;
    softplus(): Tensor;
    clamp(limits: { readonly min?: number; readonly max?: number }): Tensor;
    cast(dtype: DType): Tensor;
    tril(diagonal?: number): Tensor;
    triu(diagonal?: number): Tensor;

    sum(axes?: Axes, keepDims?: boolean): Tensor;
    mean(axes?: Axes, keepDims?: boolean): Tensor;
    prod(axes?: Axes, keepDims?: boolean): Tensor;
    amax(axes?: Axes, keepDims?: boolean): Tensor;
    amin(axes?: Axes, keepDims?: boolean): Tensor;
    any(axes?: Axes, keepDims?: boolean): Tensor;
    all(axes?: Axes, keepDims?: boolean): Tensor;
    /** The largest of all; with an axis, the largest along it and where they stand. */
    max(): Tensor;
    max(axis: number, keepDims?: boolean): Extremes;
    /** The smallest of all; with an axis, the smallest along it and where they stand. */
    min(): Tensor;
    min(axis: number, keepDims?: boolean): Extremes;
    argmax(axis?: number | null, keepDims?: boolean): Tensor;
    argmin(axis?: number | null, keepDims?: boolean): Tensor;
    variance(options?: VarianceOptions): Tensor;
    std(options?: VarianceOptions): Tensor;
    norm(options?: NormOptions): Tensor;
    logSumExp(axes?: Axes, keepDims?: boolean): Tensor;
    softmax(axis?: number): Tensor;
    logSoftmax(axis?: number): Tensor;
    cumsum(axis: number): Tensor;

    /** The same elements in another shape; one size may be −1. */
    reshape(shape: Shape): Tensor;
    permute(axes: readonly number[]): Tensor;
    /** Swaps two axes, by default the last two. */
    transpose(axis0?: number, axis1?: number): Tensor;
    broadcastTo(shape: Shape): Tensor;
    squeeze(axes?: number | readonly number[] | null): Tensor;
    unsqueeze(axis: number): Tensor;
    flatten(start?: number, end?: number): Tensor;
    unflatten(axis: number, sizes: Shape): Tensor;
    moveAxis(from: number, to: number): Tensor;
    swapAxes(axis0: number, axis1: number): Tensor;
    flip(axes?: number | readonly number[] | null): Tensor;
    roll(shifts: number | readonly number[], axes?: number | readonly number[] | null): Tensor;
    rot90(times?: number, axes?: readonly number[]): Tensor;
    /** [before, after] per axis, for the last axes when there are fewer pairs. */
    pad(
      amounts: readonly (readonly [before: number, after: number])[],
      options?: { readonly mode?: PaddingMode; readonly value?: number },
    ): Tensor;
    /** By counts per axis, or by a pattern: `x.repeat("h w -> h w c", { c: 3 })`. */
    repeat(counts: readonly number[]): Tensor;
    repeat(pattern: string, sizes?: AxisSizes): Tensor;
    repeatInterleave(repeats: number, axis?: number | null): Tensor;
    split(sizes: number | readonly number[], axis?: number): Tensor[];
    chunk(chunks: number, axis?: number): Tensor[];
    diagonal(offset?: number, axis0?: number, axis1?: number): Tensor;
    /** `x.rearrange("b t (h d) -> b h t d", { h: 8 })`. */
    rearrange(pattern: string, sizes?: AxisSizes): Tensor;
    /** `x.reduce("c (h 2) (w 2) -> c h w", "max")`. */
    reduce(pattern: string, fold: Fold, sizes?: AxisSizes): Tensor;

    /** Part of the tensor by Python-like indices: `x.at("1:3, ..., None")`, `x.at(0, { step: 2 }, -1)`. */
    at(...index: readonly IndexItem[]): Tensor;
    /** The same as `at`. */
    slice(...index: readonly IndexItem[]): Tensor;
    take(index: TensorLike): Tensor;
    gather(index: TensorLike, axis: number): Tensor;
    indexSelect(index: TensorLike, axis?: number): Tensor;
    scatter(index: TensorLike, source: TensorLike, axis: number): Tensor;
    scatterAdd(index: TensorLike, source: TensorLike, axis: number): Tensor;
    indexAdd(index: TensorLike, source: TensorLike, axis?: number): Tensor;
    sort(axis?: number, descending?: boolean): Sorted;
    topk(k: number, axis?: number, largest?: boolean): Sorted;

    /** The same value, through which no derivative passes. */
    detach(): Tensor;
    /**
     * Values in row-major order; computes them if they were not. 16-bit floats come as numbers. Now and then it lets others have their
     * turn, the collector among them, which gives back what nobody holds any more.
     */
    data(): Promise<TypedArray>;
    /** `data()` at once, on devices that can wait. A loop of nothing else keeps what it drops: await `data()` in it, or `dispose()`. */
    dataSync(): TypedArray;
    /** The one value of a tensor of one element. */
    item(): number;
    /** Values as numbers (booleans for bool) in arrays of arrays. */
    toArray(): Nested;
    /** A copy on another device; derivatives do not pass. */
    to(device: Device): Tensor;
    /** Computes the values now and keeps them; returns the tensor. */
    realize(): Tensor;
    /** Adds the derivative of this scalar to the `.grad` of every variable behind it. */
    backward(): void;
    /** Values, dtype and shape as text; computes them if they were not. */
    print(options?: PrintOptions): string;
    /** `toArray()`, for `JSON.stringify`. */
    toJSON(): Nested;
    /**
     * What `${x}` writes.
     * @throws {DTypeError} for `x + y` and `x < y`, which JavaScript does with numbers only
     */
    [Symbol.toPrimitive](hint: "string" | "number" | "default"): string;
    /** The gradient that `backward()` left for the variable whose value this is. */
    readonly grad: Tensor | null;
    readonly [Symbol.toStringTag]: string;
  }
}

const hidden = (value: unknown) => ({ value, writable: true, configurable: true });
for (const [name, f] of Object.entries(operations)) {
  const method = function (this: Tensor, ...rest: never[]): unknown {
    try {
      return (f as (x: Tensor, ...rest: never[]) => unknown)(this, ...rest);
    } catch (error) {
      throw renamed(error, name);
    }
  };
  Object.defineProperty(Tensor.prototype, name, hidden(method));
}
for (const [name, method] of Object.entries(access)) Object.defineProperty(Tensor.prototype, name, hidden(method));
Object.defineProperties(Tensor.prototype, {
  grad: {
    get(this: Tensor): Tensor | null {
      return this.variable instanceof Variable ? this.variable.grad : null;
    },
    configurable: true,
  },
  [Symbol.toStringTag]: { value: "Tensor", configurable: true },
  [Symbol.toPrimitive]: {
    value(this: Tensor, hint: string): string {
      if (hint === "string") return describe(this);
      throw new DTypeError("JavaScript's + - * / < > are for numbers.", {
        operation: "tensor",
        got: this.shape,
        hint: "Write x.add(y), x.less(y), …; x.item() is the number in a tensor of one, x.print() its text.",
      });
    },
    configurable: true,
  },
});
showAs(Tensor.prototype, describe);
showAs(
  Variable.prototype,
  (cell) => `${cell.constructor.name} ${describe(cell.stored)}${cell.requiresGrad ? "" : ", without a gradient"}`,
);
