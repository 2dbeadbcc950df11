/** Movements that are made of others: joining tensors; sizes as values. */
import { ShapeError, wordShape } from "../errors.ts";
import { promote } from "./dtype.ts";
import { add, cast, or } from "./elementwise.ts";
import { pad, reshape, slice } from "./movement.ts";
import type { Tensor } from "./node.ts";
import { normalizeAxis } from "./shape.ts";
import { iota } from "./source.ts";

/** Joins tensors along an axis; other sizes are equal. Each is padded to its place and the padded ones are added. */
export function concatenate(tensors: readonly Tensor[], axis: number): Tensor {
  const [first] = tensors;
  if (!first) throw new ShapeError("needs at least one tensor.", { operation: "concatenate" });
  const at = normalizeAxis("concatenate", axis, first.rank);
  for (const x of tensors) {
    if (x.rank !== first.rank)
      throw new ShapeError(
        `${wordShape(first.shape)} and ${wordShape(x.shape)} have different numbers of axes (${first.rank} ≠ ${x.rank}).`,
        { operation: "concatenate", expected: first.rank, got: x.rank, hint: "Use unsqueeze or reshape first." },
      );
    if (x.shape.some((extent, i) => i !== at && extent !== first.shape[i]))
      throw new ShapeError(`${wordShape(first.shape)} and ${wordShape(x.shape)} differ along another axis than ${at}.`, {
        operation: "concatenate",
        expected: first.shape,
        got: x.shape,
      });
  }
  const dtype = tensors.map((x) => x.dtype).reduce(promote);
  const total = tensors.reduce((sum, x) => sum + x.shape[at]!, 0);
  let start = 0;
  const placed = tensors.map((x) => {
    const before = x.shape.map((_, i) => (i === at ? start : 0));
    const after = x.shape.map((extent, i) => (i === at ? total - start - extent : 0));
    start += x.shape[at]!;
    return pad(cast(x, dtype), before, after);
  });
  return placed.reduce((sum, x) => (dtype === "bool" ? or(sum, x) : add(sum, x)));
}

/**
 * A number of elements as a value, int32 []. Unlike a constant it is not part of a kernel's code but read off its sizes, as the
 * last of 0, 1, …, n: a program for another batch or length needs no new kernel.
 */
export const sizeValue = (n: number): Tensor => reshape(slice(iota([n + 1]), [n], [n + 1]), []);
