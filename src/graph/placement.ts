/**
 * Rows put into a table behind those that are there already, from a position on that only the program knows: new keys and values
 * into those of a text. A device may have a kernel for it, which writes nothing else where the table's memory may be taken over.
 */
import { DTypeError, ShapeError, wordShape } from "../errors.ts";
import { sizeValue } from "./composite.ts";
import { add, and, less, neg, where } from "./elementwise.ts";
import { applyFused } from "./fused.ts";
import { take } from "./indexing.ts";
import { expand, permute, reshape } from "./movement.ts";
import type { Tensor } from "./node.ts";
import type { Draw, Fused, Sample } from "./primitive.ts";
import { sameShape } from "./shape.ts";
import { constant, iota } from "./source.ts";

const whole = (value: number): Tensor => constant(value, [], "int32");

/** Sources: table [B, S, ...], rows [B, T, ...], offset [] int32. Rows whose place is outside of the table are left out. */
export const placeOp: Fused = {
  kind: "fused",
  name: "place",
  formula: "x, with y from a position on",
  operands: ["float32", "float32", "int32"],
  overwrites: () => 0,
  numbers: () => ({}),
  compose([table, rows, offset]: readonly [Tensor, Tensor, Tensor]) {
    const [B, S] = table.shape as [number, number];
    const T = rows.shape[1] as number;
    const row = table.shape.slice(2);
    const index = add(iota([S]), neg(offset)); // place among the new rows
    const inside = and(less(whole(-1), index), less(index, sizeValue(T)));
    let placed = rows;
    if (T > 1) {
      // rows are taken from the front, so time goes there and back
      const front = [1, 0, ...row.map((_, i) => i + 2)];
      placed = permute(take(permute(rows, front), where(inside, index, whole(0))), front);
    }
    return [where(reshape(inside, [1, S, ...row.map(() => 1)]), expand(placed, [B, S, ...row]), table)];
  },
  vjp: () => [],
  samples: (draw: Draw): Sample[] => {
    const [B, S, T, width] = [draw.integer(1, 3), draw.extent(6), draw.extent(4), draw.extent(5)];
    const domain: readonly [number, number] = [-2, 2];
    const shapes = [
      [B, S, width],
      [B, Math.min(S, T), width],
    ];
    return [draw.integer(0, S), S - 1, -1].map((offset) => ({
      inputs: shapes.map((shape) => ({ shape, domain })),
      apply: (table: Tensor, rows: Tensor) => place(table, rows, constant(offset, [], "int32")),
    })) as Sample[];
  },
};

/**
 * The table with rows i of `rows` at offset + i; those that would be outside of it are left out.
 *
 * @param table  [B, S, ...]
 * @param rows   [B, T, ...] of the same dtype
 * @param offset [] int32
 * @throws {ShapeError} when sizes do not fit; @throws {DTypeError} when dtypes do not
 */
export function place(table: Tensor, rows: Tensor, offset: Tensor): Tensor {
  const operation = "place";
  const fits =
    table.rank >= 2 &&
    table.rank === rows.rank &&
    table.shape[0] === rows.shape[0] &&
    sameShape(table.shape.slice(2), rows.shape.slice(2)) &&
    offset.rank === 0;
  if (!fits)
    throw new ShapeError(`rows ${wordShape(rows.shape)} do not fit into a table of ${wordShape(table.shape)}.`, {
      operation,
      got: [rows.shape, offset.shape],
      expected: table.shape,
    });
  if (rows.dtype !== table.dtype || offset.dtype !== "int32")
    throw new DTypeError(`puts ${rows.dtype} at ${offset.dtype} into ${table.dtype}.`, {
      operation,
      got: [rows.dtype, offset.dtype],
      expected: [table.dtype, "int32"],
    });
  return applyFused(placeOp, [table, rows, offset], [{ shape: table.shape, dtype: table.dtype }])[0] as Tensor;
}
