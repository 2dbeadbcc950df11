/**
 * The public functions of tensors. Each takes tensors, variables, numbers, nested arrays or typed arrays and is named and
 * documented like the plain function behind it, in math.ts, statistics.ts, arrange.ts, pick.ts, convolution.ts and their kin.
 */
import { matmul as plainMatmul } from "../graph/contraction.ts";
import type { DType } from "../graph/dtype.ts";
import * as bitwise from "../graph/elementwise.ts";
import { stopGradient as plainStopGradient } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import * as arrange from "./arrange.ts";
import * as convolution from "./convolution.ts";
import { asIndex, asTensor, type TensorLike } from "./create.ts";
import { dispatched, type OfOne, ofList, ofOne, ofPair, ofTriple, ofTwo, withExtras } from "./dispatch.ts";
import { einsum as plainEinsum } from "./einsum.ts";
import { type IndexItem, at as plainAt } from "./index-expression.ts";
import * as math from "./math.ts";
import { type PrintOptions, print as plainPrint } from "./print.ts";
import * as named from "./rearrange.ts";
import * as statistics from "./statistics.ts";

// arithmetic; a number beside a tensor takes its dtype
export const add = ofTwo("add", math.add);
export const sub = ofTwo("sub", math.sub);
export const mul = ofTwo("mul", math.mul);
export const div = ofTwo("div", math.div);
export const mod = ofTwo("mod", math.mod);
export const maximum = ofTwo("maximum", math.maximum);
export const minimum = ofTwo("minimum", math.minimum);
/** xʸ; a number as exponent is done exactly where products and roots can. */
export const pow = dispatched("pow", () => ({
  "Tensor, Tensor": math.pow,
  "Tensor, number": math.powScalar,
  "number, Tensor": (x: number, y: Tensor) => math.pow(math.scalarLike(y, x), y),
})) as (x: TensorLike, y: TensorLike) => Tensor;
export const less = ofTwo("less", math.less);
export const lessEqual = ofTwo("lessEqual", math.lessEqual);
export const greater = ofTwo("greater", math.greater);
export const greaterEqual = ofTwo("greaterEqual", math.greaterEqual);
export const equal = ofTwo("equal", math.equal);
export const notEqual = ofTwo("notEqual", math.notEqual);
export const logicalAnd = ofTwo("logicalAnd", math.logicalAnd);
export const logicalOr = ofTwo("logicalOr", math.logicalOr);
export const logicalXor = ofTwo("logicalXor", math.logicalXor);
export const logicalNot = ofOne("logicalNot", math.logicalNot);
export const bitwiseAnd = ofTwo("bitwiseAnd", bitwise.and);
export const bitwiseOr = ofTwo("bitwiseOr", bitwise.or);
export const bitwiseXor = ofTwo("bitwiseXor", bitwise.xor);
export const shiftLeft = ofTwo("shiftLeft", bitwise.shiftLeft);
/** As 32 unsigned bits. */
export const shiftRight = ofTwo("shiftRight", bitwise.shiftRight);

// functions of each element
export const neg = ofOne("neg", math.neg);
export const abs = ofOne("abs", math.abs);
export const sign = ofOne("sign", math.sign);
export const square = ofOne("square", math.square);
export const sqrt = ofOne("sqrt", math.sqrt);
export const rsqrt = ofOne("rsqrt", math.rsqrt);
export const reciprocal = ofOne("reciprocal", math.reciprocal);
export const exp = ofOne("exp", math.exp);
export const expm1 = ofOne("expm1", math.expm1);
export const log = ofOne("log", math.log);
export const log1p = ofOne("log1p", math.log1p);
export const sin = ofOne("sin", math.sin);
export const cos = ofOne("cos", math.cos);
export const tan = ofOne("tan", math.tan);
export const tanh = ofOne("tanh", math.tanh);
export const erf = ofOne("erf", math.erf);
export const floor = ofOne("floor", math.floor);
export const ceil = ofOne("ceil", math.ceil);
export const round = ofOne("round", math.round);
export const trunc = ofOne("trunc", math.trunc);
export const relu = ofOne("relu", math.relu);
export const sigmoid = ofOne("sigmoid", math.sigmoid);
export const silu = ofOne("silu", math.silu);
export const gelu = ofOne("gelu", math.gelu);
export const geluTanh = ofOne("geluTanh", math.geluTanh);
export const quickGelu = ofOne("quickGelu", math.quickGelu);
export const softplus = ofOne("softplus", math.softplus);
export const hardswish = ofOne("hardswish", math.hardswish);
export const mish = ofOne("mish", math.mish);
export const leakyRelu = ofOne("leakyRelu", math.leakyRelu, 1);
export const elu = ofOne("elu", math.elu, 1);
export const clamp = ofOne("clamp", math.clamp, 1);
export const isNan = ofOne("isNan", math.isNan);
export const isInfinite = ofOne("isInfinite", math.isInfinite);
export const cast = ofOne("cast", math.cast, 1);
export const tril = ofOne("tril", math.tril, 1);
export const triu = ofOne("triu", math.triu, 1);
export const maskedFill = ofPair("maskedFill", math.maskedFill, 1);
/** `x` where the condition holds, else `y`; a number beside a tensor takes its dtype. */
export const where = dispatched("where", () => ({
  "Tensor, Tensor, Tensor": math.where,
  "Tensor, Tensor, number": (c: Tensor, x: Tensor, y: number) => math.where(c, x, math.scalarLike(x, y)),
  "Tensor, number, Tensor": (c: Tensor, x: number, y: Tensor) => math.where(c, math.scalarLike(y, x), y),
})) as (condition: TensorLike, x: TensorLike, y: TensorLike) => Tensor;
export const lerp = ofTriple("lerp", math.lerp);
/** The same value, through which no derivative passes. */
export const stopGradient = ofOne("stopGradient", plainStopGradient);

// folding axes
export const sum = ofOne("sum", statistics.sum, 2);
export const mean = ofOne("mean", statistics.mean, 2);
export const prod = ofOne("prod", statistics.prod, 2);
export const amax = ofOne("amax", statistics.amax, 2);
export const amin = ofOne("amin", statistics.amin, 2);
export const any = ofOne("any", statistics.any, 2);
export const all = ofOne("all", statistics.all, 2);
export const argmax = ofOne("argmax", statistics.argmax, 2);
export const argmin = ofOne("argmin", statistics.argmin, 2);
export const variance = ofOne("variance", statistics.variance, 1);
export const std = ofOne("std", statistics.std, 1);
export const norm = ofOne("norm", statistics.norm, 1);
export const logSumExp = ofOne("logSumExp", statistics.logSumExp, 2);
export const softmax = ofOne("softmax", statistics.softmax, 1);
export const logSoftmax = ofOne("logSoftmax", statistics.logSoftmax, 1);
export const cumsum = ofOne("cumsum", statistics.cumsum, 1);
export const cosineSimilarity = ofPair("cosineSimilarity", statistics.cosineSimilarity, 1);

/** Without an axis the largest value of all; along an axis the largest values and where they stand, as in PyTorch. */
export interface Extreme {
  (x: TensorLike): Tensor;
  (x: TensorLike, axis: number, keepDims?: boolean): statistics.Extremes;
}
const extreme = (name: string, all: (x: Tensor) => Tensor, along: typeof statistics.max): Extreme =>
  dispatched(name, () => ({
    Tensor: (x: Tensor) => all(x),
    "Tensor, number": along,
    "Tensor, number, boolean": along,
  })) as Extreme;
export const max = extreme("max", statistics.amax, statistics.max);
export const min = extreme("min", statistics.amin, statistics.min);

// products
export const matmul = ofPair("matmul", plainMatmul);
export const outer = ofPair("outer", arrange.outer);
export const kron = ofPair("kron", arrange.kron);
/** Sums of products over named axes: `einsum("ik,kj->ij", x, y)`. */
export const einsum = dispatched("einsum", () => ({
  "string, ...Tensor": (equation: string, tensors: Tensor[]) => plainEinsum(equation, ...tensors),
})) as (equation: string, ...tensors: readonly TensorLike[]) => Tensor;
export const conv1d = ofPair("conv1d", convolutionOf(convolution.conv1d), 2);
export const conv2d = ofPair("conv2d", convolutionOf(convolution.conv2d), 2);
export const conv3d = ofPair("conv3d", convolutionOf(convolution.conv3d), 2);
export const maxPool1d = ofOne("maxPool1d", convolution.maxPool1d, 1);
export const maxPool2d = ofOne("maxPool2d", convolution.maxPool2d, 1);
export const avgPool1d = ofOne("avgPool1d", convolution.avgPool1d, 1);
export const avgPool2d = ofOne("avgPool2d", convolution.avgPool2d, 1);

function convolutionOf(plain: typeof convolution.conv1d) {
  return (x: Tensor, weight: Tensor, bias?: TensorLike | null, options?: convolution.ConvolutionOptions): Tensor =>
    plain(x, weight, bias === null || bias === undefined ? null : asTensor(bias), options);
}

// arranging
export const reshape = ofOne("reshape", arrange.reshape, 1);
export const permute = ofOne("permute", arrange.permute, 1);
export const transpose = ofOne("transpose", arrange.transpose, 2);
export const broadcastTo = ofOne("broadcastTo", arrange.broadcastTo, 1);
export const squeeze = ofOne("squeeze", arrange.squeeze, 1);
export const unsqueeze = ofOne("unsqueeze", arrange.unsqueeze, 1);
export const flatten = ofOne("flatten", arrange.flatten, 2);
export const unflatten = ofOne("unflatten", arrange.unflatten, 2);
export const moveAxis = ofOne("moveAxis", arrange.moveAxis, 2);
export const swapAxes = ofOne("swapAxes", arrange.swapAxes, 2);
export const flip = ofOne("flip", arrange.flip, 1);
export const roll = ofOne("roll", arrange.roll, 2);
export const pad = ofOne("pad", arrange.padding, 2);
export const repeatInterleave = ofOne("repeatInterleave", arrange.repeatInterleave, 2);
export const split = ofOne("split", arrange.split, 2);
export const chunk = ofOne("chunk", arrange.chunk, 2);
export const diagonal = ofOne("diagonal", arrange.diagonal, 3);
export const diagEmbed = ofOne("diagEmbed", arrange.diagEmbed, 1);
export const concatenate = ofList("concatenate", arrange.cat, 1);
export const cat = ofList("cat", arrange.cat, 1);
export const stack = ofList("stack", arrange.stack, 1);
export const rearrange = ofOne("rearrange", named.rearrange, 2);
export const reduce = ofOne("reduce", named.reduce, 3);
/** By counts per axis, `repeat(x, [2, 1])`, or by a pattern, `repeat(x, "h w -> h w c", { c: 3 })`. */
export interface Repeat {
  (x: TensorLike, counts: readonly number[]): Tensor;
  (x: TensorLike, pattern: string, sizes?: named.AxisSizes): Tensor;
}
export const repeat = dispatched("repeat", () => ({
  "Tensor, Array": arrange.repeat,
  "Tensor, string": named.repeatPattern,
  "Tensor, string, Object": named.repeatPattern,
})) as Repeat;

// picking
/** Part of a tensor by Python-like indices: `at(x, "1:3, ..., None")`, `at(x, 0, { step: 2 })`. */
export const at = dispatched("at", () => ({
  "Tensor, ...any": (x: Tensor, items: readonly IndexItem[]) => plainAt(x, ...items),
})) as (x: TensorLike, ...index: readonly IndexItem[]) => Tensor;
/** Rows of a table: x [rows, ...], index [...] → [...index, ...row]. Use `at` for indices from the back. */
export const take = indexed("take", (x: Tensor, index: Tensor) => arrange.take(x, index), 0);
export const gather = indexed("gather", arrange.gather, 1);
export const indexSelect = indexed("indexSelect", arrange.indexSelect, 1);
export const scatter = indexedWith("scatter", arrange.scatter);
export const scatterAdd = indexedWith("scatterAdd", arrange.scatterAdd);
export const indexAdd = indexedWith("indexAdd", arrange.indexAdd);
export const oneHot = dispatched("oneHot", () => {
  const f = (index: TensorLike, classes: number, dtype?: DType) => arrange.oneHot(asIndex("oneHot", index), classes, dtype);
  return { "any, number": f, "any, number, string": f };
}) as OfOne<typeof arrange.oneHot>;
export const sort = ofOne("sort", arrange.sort, 2);
export const topk = ofOne("topk", arrange.topk, 3);

/** A tensor, an index (whole numbers in arrays will do), and up to `extra` other arguments. */
function indexed<Rest extends unknown[]>(
  name: string,
  f: (x: Tensor, index: Tensor, ...rest: Rest) => Tensor,
  extra: number,
): (x: TensorLike, index: TensorLike, ...rest: Rest) => Tensor {
  return dispatched(name, () =>
    withExtras("Tensor, any", extra, (x: Tensor, index: TensorLike, ...rest: Rest) => f(x, asIndex(name, index), ...rest)),
  ) as (x: TensorLike, index: TensorLike, ...rest: Rest) => Tensor;
}

/** A tensor, an index, another tensor, and an axis. */
function indexedWith<Rest extends [axis?: number]>(
  name: string,
  f: (x: Tensor, index: Tensor, source: Tensor, ...rest: Rest) => Tensor,
): (x: TensorLike, index: TensorLike, source: TensorLike, ...rest: Rest) => Tensor {
  return dispatched(name, () =>
    withExtras("Tensor, any, Tensor", 1, (x: Tensor, index: TensorLike, source: Tensor, ...rest: Rest) =>
      f(x, asIndex(name, index), source, ...rest),
    ),
  ) as (x: TensorLike, index: TensorLike, source: TensorLike, ...rest: Rest) => Tensor;
}

/** Values, dtype and shape as text. */
export const print = (x: TensorLike, options?: PrintOptions): string => plainPrint(asTensor(x), options);
