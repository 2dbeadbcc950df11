/** Movements that are made of others: joining tensors; sizes as values. */
import { ShapeError, wordShape } from "../errors.ts";
import { promote } from "./dtype.ts";
import { cast } from "./elementwise.ts";
import { reshape, slice } from "./movement.ts";
import type { Tensor } from "./node.ts";
import { assemble } from "./piece.ts";
import { normalizeAxis } from "./shape.ts";
import { iota } from "./source.ts";

/** Joins tensors along an axis; other sizes are equal. Each is padded to its place and the padded ones are added, see piece.ts. */
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
  let total = 0;
  const pieces = tensors.map((x) => {
    const start = total;
    total += x.shape[at]!;
    return { x: cast(x, dtype), start };
  });
  return assemble(pieces, at, total);
}

/**
 * A number of elements as a value, int32 []. Unlike a constant it is not part of a kernel's code but read off its sizes, as the
 * last of 0, 1, …, n: a program for another batch or length needs no new kernel.
 */
export const sizeValue = (n: number): Tensor => reshape(slice(iota([n + 1]), [n], [n + 1]), []);
