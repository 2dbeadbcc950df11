/** Public functions that pick elements, put them in, or order them. */
import type { DType } from "../../graph/dtype.ts";
import type { Tensor } from "../../graph/node.ts";
import * as arrange from "../arrange.ts";
import { asIndex, type TensorLike } from "../create.ts";
import * as curve from "../curve.ts";
import { dispatched, type OfOne, ofOne, withExtras } from "../dispatch.ts";
import { type IndexItem, at as plainAt } from "../index-expression.ts";

/** Part of a tensor by Python-like indices: `at(x, "1:3, ..., None")`, `at(x, 0, { step: 2 })`. */
export const at = dispatched("at", () => ({
  "Tensor, ...any": (x: Tensor, items: readonly IndexItem[]) => plainAt(x, ...items),
})) as (x: TensorLike, ...index: readonly IndexItem[]) => Tensor;
/** Rows of a table: x [rows, ...], index [...] → [...index, ...row]. Use `at` for indices from the back. */
export const take = indexed("take", (x: Tensor, index: Tensor) => arrange.take(x, index), 0);
/** y[i, j, k] = x[i, index[i, j, k], k] (for axis 1): y has the shape of `index`. An index outside is an error when it runs. */
export const gather = indexed("gather", arrange.gather, 1);
/** Slices of x at the given indices along `axis`. */
export const indexSelect = indexed("indexSelect", arrange.indexSelect, 1);
/** x with `source`, a tensor or a number, put in at `index` along `axis`; of a repeated index the last one counts. */
export const scatter = indexedWith("scatter", arrange.scatter);
/** x with `source` added at `index` along `axis`; repeated indices add up. */
export const scatterAdd = indexedWith("scatterAdd", arrange.scatterAdd);
/**
 * x with `source` folded in at `index` along `axis` by "sum", "mean", "prod", "amax" or "amin", as in PyTorch. What stood there is one of
 * those that are folded, unless the last argument, `includeSelf`, is false; elements that no index names stay.
 * @example
 * scatterReduce([1, 2, 3], [0, 0, 2], [5, 4, 1], 0, "amax")   // [5 2 3] float32 [3]
 */
export const scatterReduce = dispatched("scatterReduce", () => {
  const f = (x: Tensor, index: TensorLike, source: Tensor, axis: number, fold: arrange.ScatterFold, includeSelf?: boolean) =>
    arrange.scatterReduce(x, asIndex("scatterReduce", index), source, axis, fold, includeSelf);
  return { "Tensor, any, Tensor, number, string": f, "Tensor, any, Tensor, number, string, boolean": f };
}) as (
  x: TensorLike,
  index: TensorLike,
  source: TensorLike,
  axis: number,
  fold: arrange.ScatterFold,
  includeSelf?: boolean,
) => Tensor;
/**
 * How often each of 0, 1, … below `length` stands in x (whole numbers), as int32, or the sums of their weights.
 * @example
 * bincount([1, 1, 2], 4)                    // [0 2 1 0] int32 [4]
 * bincount([1, 1, 2], 4, [0.5, 0.25, 3])    // [0.00 0.75 3.00 0.00] float32 [4]
 */
export const bincount = dispatched("bincount", () => {
  const f = (x: TensorLike, length: number, weights?: Tensor) => curve.bincount(asIndex("bincount", x), length, weights);
  return { "any, number": f, "any, number, Tensor": f };
}) as (x: TensorLike, length: number, weights?: TensorLike) => Tensor;
/** x with slices of `source` added at the given indices along `axis`; repeated indices add up. */
export const indexAdd = indexedWith("indexAdd", arrange.indexAdd);
/**
 * 1 at the index, 0 elsewhere, along a new last axis of `classes`; an index outside gives zeros.
 * @example
 * oneHot([2, 0], 3)
 * // [[0 0 1]
 * //  [1 0 0]] float32 [2, 3]
 */
export const oneHot = dispatched("oneHot", () => {
  const f = (index: TensorLike, classes: number, dtype?: DType) => arrange.oneHot(asIndex("oneHot", index), classes, dtype);
  return { "any, number": f, "any, number, string": f };
}) as OfOne<typeof arrange.oneHot>;
/**
 * Values along `axis` (the last by default) in order, and where they stood; equal ones keep their order, NaN counts as largest.
 * @example
 * sort([3, 1, 2]).indices   // [1 2 0] int32 [3]
 */
export const sort = ofOne("sort", arrange.sort, 2);
/** The `k` largest (or smallest) along `axis`, in order, and where they stood. */
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
