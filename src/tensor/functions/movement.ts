/** Public functions that arrange elements anew: shapes, axes, joining, patterns. */
import type { Tensor } from "../../graph/node.ts";
import * as arrange from "../arrange.ts";
import type { TensorLike } from "../create.ts";
import { dispatched, ofList, ofOne } from "../dispatch.ts";
import * as named from "../rearrange.ts";

/**
 * The same elements in row-major order in another shape; one size may be −1.
 * @throws {ShapeError} when they do not fill it
 * @example
 * reshape([1, 2, 3, 4], [2, -1])   // float32 [2, 2]
 */
export const reshape = ofOne("reshape", arrange.reshape, 1);
/** Axes in another order: axis i of the result is axis `axes[i]` of x. */
export const permute = ofOne("permute", arrange.permute, 1);
/** Swaps two axes, by default the last two. */
export const transpose = ofOne("transpose", arrange.transpose, 2);
/** Repeats axes of size 1, and adds axes in front, up to `shape`; −1 keeps a size. Costs no memory. */
export const broadcastTo = ofOne("broadcastTo", arrange.broadcastTo, 1);
/** Drops the named axes, or every axis, whose size is 1; others stay. */
export const squeeze = ofOne("squeeze", arrange.squeeze, 1);
/** A new axis of size 1 at `axis`; −1 puts it last. */
export const unsqueeze = ofOne("unsqueeze", arrange.unsqueeze, 1);
/** Merges axes start … end, both included, into one; all of them by default. */
export const flatten = ofOne("flatten", arrange.flatten, 2);
/** Splits `axis` into axes of `sizes`; one may be −1. */
export const unflatten = ofOne("unflatten", arrange.unflatten, 2);
/** Moves one axis to another place; the others keep their order. */
export const moveAxis = ofOne("moveAxis", arrange.moveAxis, 2);
/** Swaps two axes. */
export const swapAxes = ofOne("swapAxes", arrange.swapAxes, 2);
/** Reverses the order along `axes`, all of them when absent. */
export const flip = ofOne("flip", arrange.flip, 1);
/**
 * Turns by 90° `times` times (1 by default; negative numbers turn back) in the plane of two axes (the first two by default), from the
 * first towards the second.
 * @example
 * rot90([[1, 2], [3, 4]])
 * // [[2 4]
 * //  [1 3]] float32 [2, 2]
 */
export const rot90 = ofOne("rot90", arrange.rot90, 2);
/**
 * Moves elements by `shifts` along `axes`; what leaves at the end comes back at the start. Without axes: in row-major order.
 * @example
 * roll([1, 2, 3], 1)   // [3 1 2] float32 [3]
 */
export const roll = ofOne("roll", arrange.roll, 2);
/**
 * More elements around a tensor: [before, after] per axis, for the last axes when there are fewer pairs; negative amounts cut
 * off. Modes: `constant` (`value`, 0 by default), `reflect`, `replicate`, `circular`.
 * @example
 * pad([1, 2, 3], [[1, 2]])                        // [0 1 2 3 0 0] float32 [6]
 * pad([1, 2, 3], [[1, 2]], { mode: "reflect" })   // [2 1 2 3 2 1] float32 [6]
 */
export const pad = ofOne("pad", arrange.padding, 2);
/** Every element `repeats` times in a row along `axis`, or of the flattened tensor. */
export const repeatInterleave = ofOne("repeatInterleave", arrange.repeatInterleave, 2);
/**
 * Parts along `axis`: of the given sizes, or of one size with a smaller last one.
 * @example
 * split([1, 2, 3], 2)[1]   // [3] float32 [1]
 */
export const split = ofOne("split", arrange.split, 2);
/**
 * The slices along `axis` (the first by default), without it.
 * @example
 * unbind([[1, 2], [3, 4]])[1]   // [3 4] float32 [2]
 */
export const unbind = ofOne("unbind", arrange.unbind, 1);
/**
 * The coordinates of all points of a grid whose lines stand at these vectors: one tensor for each, with an axis for each. `indexing` "xy"
 * counts columns before rows, "ij" (the default) does not.
 * @example
 * meshgrid([[1, 2], [3, 4, 5]])[0]
 * // [[1 1 1]
 * //  [2 2 2]] float32 [2, 3]
 */
export const meshgrid = ofList("meshgrid", arrange.meshgrid, 1);
/** At most `chunks` equal parts along `axis`, the last one smaller where the size does not divide. */
export const chunk = ofOne("chunk", arrange.chunk, 2);
/** Elements [i, i + offset] of two axes (the first two by default), as a new last axis. */
export const diagonal = ofOne("diagonal", arrange.diagonal, 3);
/** Vectors as diagonals of matrices: [..., L] → [..., L + |offset|, L + |offset|]. */
export const diagEmbed = ofOne("diagEmbed", arrange.diagEmbed, 1);
/**
 * Joins tensors along an axis that is there (the first by default); other sizes are equal.
 * @example
 * concatenate([[1, 2], [3]])   // [1 2 3] float32 [3]
 */
export const concatenate = ofList("concatenate", arrange.cat, 1);
/** PyTorch's name for `concatenate`. */
export const cat = ofList("cat", arrange.cat, 1);
/**
 * Joins tensors of one shape along a new axis (the first by default).
 * @example
 * stack([[1, 2], [3, 4]])   // float32 [2, 2]
 */
export const stack = ofList("stack", arrange.stack, 1);
/**
 * Axes split, merged and moved as a pattern says, as in einops.
 * @throws {FormatError} for a pattern that cannot be read; @throws {ShapeError} when x is not as it says
 * @example
 * rearrange(zeros([2, 5, 24]), "b t (h d) -> b h t d", { h: 8 })   // float32 [2, 8, 5, 3]
 */
export const rearrange = ofOne("rearrange", named.rearrange, 2);
/**
 * Folds ("sum", "mean", "max", "min", "prod") the axes that are not on the right of a pattern, as in einops.
 * @example
 * reduce([[1, 2], [3, 4]], "a b -> b", "mean")   // [2 3] float32 [2]
 */
export const reduce = ofOne("reduce", named.reduce, 3);
/** By counts per axis, `repeat(x, [2, 1])`, or by a pattern, `repeat(x, "h w -> h w c", { c: 3 })`. */
export interface Repeat {
  (x: TensorLike, counts: readonly number[]): Tensor;
  (x: TensorLike, pattern: string, sizes?: named.AxisSizes): Tensor;
}
/** Repeats a tensor as a whole, axis by axis or by a pattern as in einops. */
export const repeat = dispatched("repeat", () => ({
  "Tensor, Array": arrange.repeat,
  "Tensor, string": named.repeatPattern,
  "Tensor, string, Object": named.repeatPattern,
})) as Repeat;
