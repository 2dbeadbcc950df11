/** Elements chosen by index tensors: gather, scatter, one-hot, sorting. Indices are int32 and counted from 0. */
import { ConfigError, checkOptions, DTypeError, ShapeError, wordShape } from "../errors.ts";
import { concatenate } from "../graph/composite.ts";
import { type DType, isFloat, requireFloat } from "../graph/dtype.ts";
import { add, and, cast, div, equal, less, max as maximum, mul, where } from "../graph/elementwise.ts";
import { argsort, scatterAdd as scatterRows, take } from "../graph/indexing.ts";
import { expand, reshape, slice, sliceAxis, transpose } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { contiguousStrides, normalizeAxis, type Shape } from "../graph/shape.ts";
import { constant, iota, number } from "../graph/source.ts";
import { greaterEqual, minimum, notEqual } from "./math.ts";

export { take } from "../graph/indexing.ts";

const int = (value: number): Tensor => constant(value, [], "int32");

function requireIndex(operation: string, index: Tensor): Tensor {
  if (isFloat(index.dtype) || index.dtype === "bool")
    throw new DTypeError(`indices are int32, got ${index.dtype}.`, {
      operation,
      got: index.dtype,
      hint: index.dtype === "bool" ? "For a mask use where." : 'Use index.cast("int32").',
    });
  return cast(index, "int32");
}

/** Index numbers along one axis of `shape`, broadcastable to it. */
export const positionsAlong = (shape: Shape, axis: number): Tensor =>
  reshape(
    iota([shape[axis]!]),
    shape.map((extent, i) => (i === axis ? extent : 1)),
  );

/** Row-major addresses in a tensor of `shape` of the elements that `index` names along `axis`; −1 (an error when it runs) outside. */
function addresses(operation: string, shape: Shape, index: Tensor, axis: number): Tensor {
  const at = requireIndex(operation, index);
  if (index.rank !== shape.length || index.shape.some((extent, i) => i !== axis && extent > shape[i]!))
    throw new ShapeError(`index ${wordShape(index.shape)} does not fit ${wordShape(shape)} along axis ${axis}.`, {
      operation,
      expected: shape,
      got: index.shape,
      hint: "It needs as many axes, and along the others no more elements.",
    });
  const strides = contiguousStrides(shape);
  let address = mul(at, int(strides[axis]!));
  for (let i = 0; i < shape.length; i++)
    if (i !== axis && index.shape[i]! > 1) address = add(address, mul(positionsAlong(index.shape, i), int(strides[i]!)));
  return where(and(less(int(-1), at), less(at, int(shape[axis]!))), address, int(-1));
}

const flat = (x: Tensor): Tensor => reshape(x, [x.size]);

/** y[i, j, k] = x[i, index[i, j, k], k] (for axis 1): y has the shape of `index`. */
export function gather(x: Tensor, index: Tensor, axis: number): Tensor {
  const at = normalizeAxis("gather", axis, x.rank);
  return take(flat(x), addresses("gather", x.shape, index, at), x.shape[at]!);
}

/** The part of `source` that `index` covers; a number everywhere. */
function covered(operation: string, source: Tensor, index: Tensor): Tensor {
  if (source.rank === 0) return expand(source, index.shape);
  if (source.rank !== index.rank || source.shape.some((extent, i) => extent < index.shape[i]!))
    throw new ShapeError(`source ${wordShape(source.shape)} is smaller than index ${wordShape(index.shape)}.`, {
      operation,
      expected: index.shape,
      got: source.shape,
    });
  return slice(
    source,
    source.shape.map(() => 0),
    index.shape,
  );
}

/** x with `source` added: y[i, index[i, j, k], k] += source[i, j, k] (for axis 1). Repeated indices add up. */
export function scatterAdd(x: Tensor, index: Tensor, source: Tensor, axis: number): Tensor {
  const at = normalizeAxis("scatterAdd", axis, x.rank);
  const updates = cast(covered("scatterAdd", source, index), x.dtype);
  const address = flat(addresses("scatterAdd", x.shape, index, at));
  return add(x, reshape(scatterRows(address, flat(updates), x.size, x.shape[at]!), x.shape));
}

/**
 * x with `source` put in: y[i, index[i, j, k], k] = source[i, j, k] (for axis 1). Of a repeated index the last one counts, and
 * it alone has a gradient (PyTorch: undefined).
 */
export function scatter(x: Tensor, index: Tensor, source: Tensor, axis: number): Tensor {
  const at = normalizeAxis("scatter", axis, x.rank);
  const updates = flat(cast(covered("scatter", source, index), x.dtype));
  if (updates.size === 0) return x;
  // sorted by address, the last of equal ones is where the next address differs
  const unsorted = flat(addresses("scatter", x.shape, index, at));
  const order = argsort(unsorted, false);
  const address = take(unsorted, order);
  const last = isLastOfEqual(address);
  const put = scatterRows(address, where(last, take(updates, order), number(x, 0)), x.size, x.shape[at]!);
  const hits = scatterRows(address, cast(last, "int32"), x.size, x.shape[at]!);
  return where(reshape(less(int(0), hits), x.shape), reshape(put, x.shape), x);
}

/** Which of some addresses in order have another one behind them, or none. */
function isLastOfEqual(address: Tensor): Tensor {
  const n = address.size;
  const next = take(address, positionsClamped(n));
  return greaterEqual(iota([n]), where(notEqual(address, next), int(0), int(n - 1)));
}

const scatterFolds = { sum: add, mean: add, prod: mul, amax: maximum, amin: minimum } as const;
/** How `scatterReduce` folds. */
export type ScatterFold = keyof typeof scatterFolds;

/**
 * x with `source` folded in, as in PyTorch: for axis 1, y[i, j, k] is the sum, mean, product, largest or smallest of x[i, j, k] and of
 * all source[i, l, k] whose index[i, l, k] is j. Elements that no index names stay as they are. Equal extremes share the gradient.
 *
 * @param includeSelf whether x's own element is one of those that are folded, where there are others
 */
export function scatterReduce(
  x: Tensor,
  index: Tensor,
  source: Tensor,
  axis: number,
  fold: ScatterFold,
  includeSelf = true,
): Tensor {
  const operation = "scatterReduce";
  checkOptions(operation, { fold, includeSelf }, { fold: Object.keys(scatterFolds), includeSelf: "true or false" });
  if (fold === "mean") requireFloat(operation, x.dtype);
  const at = normalizeAxis(operation, axis, x.rank);
  const updates = flat(cast(covered(operation, source, index), x.dtype));
  if (updates.size === 0) return x;
  const address = flat(addresses(operation, x.shape, index, at));
  const put = (rows: Tensor, to = address): Tensor => reshape(scatterRows(to, rows, x.size, x.shape[at]!), x.shape);
  const hits = put(expand(int(1), updates.shape));
  const hit = less(int(0), hits);
  const total = fold === "sum" || fold === "mean" ? put(updates) : putFolds(updates, address, put, scatterFolds[fold]);
  const all = includeSelf ? scatterFolds[fold](x, total) : total;
  return where(hit, fold === "mean" ? div(all, cast(add(hits, int(includeSelf ? 1 : 0)), x.dtype)) : all, x);
}

/** Folds updates of one address in ⌈log₂ n⌉ steps over all of them in order, and puts each result there. */
function putFolds(
  updates: Tensor,
  address: Tensor,
  put: (rows: Tensor, to: Tensor) => Tensor,
  combine: (x: Tensor, y: Tensor) => Tensor,
): Tensor {
  const order = argsort(address, false);
  const sorted = take(address, order);
  const n = updates.size;
  let y = take(updates, order);
  for (let by = 1; by < n; by *= 2) {
    const [behind, before] = [sliceAxis(y, 0, by, n), sliceAxis(y, 0, 0, n - by)];
    const alike = equal(sliceAxis(sorted, 0, by, n), sliceAxis(sorted, 0, 0, n - by));
    y = concatenate([sliceAxis(y, 0, 0, by), where(alike, combine(behind, before), behind)], 0);
  }
  return put(where(isLastOfEqual(sorted), y, number(y, 0)), sorted);
}

/** 1, 2, …, n − 1, n − 1. */
const positionsClamped = (n: number): Tensor => where(less(iota([n]), int(n - 1)), add(iota([n]), int(1)), int(n - 1));

/** Slices of x at the given indices along `axis`: index [n] → y with n instead of that axis's size. */
export function indexSelect(x: Tensor, index: Tensor, axis = 0): Tensor {
  const at = normalizeAxis("indexSelect", axis, x.rank);
  if (index.rank !== 1)
    throw new ShapeError(`index must be a vector, got ${wordShape(index.shape)}.`, {
      operation: "indexSelect",
      got: index.shape,
    });
  return transpose(take(transpose(x, at, 0), requireIndex("indexSelect", index)), at, 0);
}

/** x with slices of `source` added at the given indices along `axis`. Repeated indices add up. */
export function indexAdd(x: Tensor, index: Tensor, source: Tensor, axis = 0): Tensor {
  const at = normalizeAxis("indexAdd", axis, x.rank);
  const wanted = x.shape.map((extent, i) => (i === at ? index.size : extent));
  if (index.rank !== 1 || wordShape(source.shape) !== wordShape(wanted))
    throw new ShapeError(
      `index ${wordShape(index.shape)} and source ${wordShape(source.shape)} do not fit ${wordShape(x.shape)}.`,
      {
        operation: "indexAdd",
        expected: wanted,
        got: source.shape,
      },
    );
  const rows = scatterRows(requireIndex("indexAdd", index), transpose(cast(source, x.dtype), at, 0), x.shape[at]!);
  return add(x, transpose(rows, at, 0));
}

/** 1 at the index, 0 elsewhere, along a new last axis of `classes`; an index outside gives zeros. */
export function oneHot(index: Tensor, classes: number, dtype: DType = "float32"): Tensor {
  const at = requireIndex("oneHot", index);
  if (!Number.isInteger(classes) || classes < 1)
    throw new ConfigError(`\`classes\` (= ${classes}) must be a positive integer.`, { operation: "oneHot", got: classes });
  return cast(equal(reshape(at, [...at.shape, 1]), iota([classes])), dtype);
}

/** Values in order, and where they came from. */
export interface Sorted {
  readonly values: Tensor;
  /** Where each value stood, as int32. */
  readonly indices: Tensor;
}

/** Sorts along `axis`; equal values keep their order, NaN counts as largest. */
export function sort(x: Tensor, axis = -1, descending = false): Sorted {
  const at = normalizeAxis("sort", axis, x.rank);
  const last = transpose(x, at, -1);
  const order = argsort(last, descending);
  return { values: transpose(gather(last, order, -1), at, -1), indices: transpose(order, at, -1) };
}

/** The `k` largest (or smallest) along `axis`, in order. */
export function topk(x: Tensor, k: number, axis = -1, largest = true): Sorted {
  const at = normalizeAxis("topk", axis, x.rank);
  if (!Number.isInteger(k) || k < 0 || k > x.shape[at]!)
    throw new ShapeError(`\`k\` (= ${k}) must be a whole number up to the ${x.shape[at]} elements of axis ${axis}.`, {
      operation: "topk",
      expected: x.shape[at],
      got: k,
    });
  const last = transpose(x, at, -1);
  const order = sliceAxis(argsort(last, largest), x.rank - 1, 0, k);
  return { values: transpose(gather(last, order, -1), at, -1), indices: transpose(order, at, -1) };
}
