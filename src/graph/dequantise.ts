/**
 * Weights that lie in memory as codes of a few bits: block by block, each code stands for an entry of a table times the scale of
 * its block. A device may have a kernel for it; everywhere else the table is read row by row.
 */
import { DTypeError, ShapeError, wordShape } from "../errors.ts";
import { concatenate } from "./composite.ts";
import { and, cast, mul, shiftRight } from "./elementwise.ts";
import { applyFused, resultTypes } from "./fused.ts";
import { take } from "./indexing.ts";
import { expand, reshape, slice } from "./movement.ts";
import type { Tensor } from "./node.ts";
import type { Draw, Fused, Sample } from "./primitive.ts";
import { type Shape, sizeOf } from "./shape.ts";
import { constant, iota } from "./source.ts";

/** Sizes of blocks are multiples of this, so that a block begins with a whole byte and a whole vector. */
const smallestBlock = 32;

/** Sources: codes [bytes] uint8, table [16 or 256], scales [⌈count / block⌉]. Of two codes in a byte the first is in the upper half. */
export const dequantiseOp: Fused = {
  kind: "fused",
  name: "dequantise",
  formula: "table[code] · scale of its block",
  operands: ["uint8", "float32", "float32"],
  numbers: ({ block }) => ({ block: block as number }),
  compose([codes, table, scales]: readonly [Tensor, Tensor, Tensor], attributes) {
    const { shape } = resultTypes({ attributes } as Tensor)[0]!;
    const count = sizeOf(shape);
    const wide = cast(reshape(codes, [codes.size, 1]), "int32");
    const number = (value: number) => constant(value, [], "int32");
    const indices = table.size === 256 ? wide : concatenate([shiftRight(wide, number(4)), and(wide, number(15))], 1);
    const block = attributes["block"] as number;
    const perValue = expand(reshape(scales, [scales.size, 1]), [scales.size, block]);
    const flat = (x: Tensor) => slice(reshape(x, [x.size]), [0], [count]);
    return [reshape(mul(take(table, flat(indices)), flat(perValue)), shape)];
  },
  vjp: () => [],
  samples: (draw: Draw): Sample[] => {
    const [rows, columns] = [draw.extent(7), draw.extent(20)];
    const count = rows * columns;
    return [16, 256].flatMap((entries) =>
      [32, 64].map((block) => ({
        inputs: [
          { shape: [entries], domain: [-1, 1] as const },
          { shape: [Math.ceil(count / block)], domain: [0, 2] as const },
        ],
        apply: (table: Tensor, scales: Tensor) => {
          const bytes = entries === 16 ? Math.ceil(count / 2) : count;
          // every code, in no order
          const codes = cast(and(mul(iota([bytes]), constant(37, [], "int32")), constant(255, [], "int32")), "uint8");
          return dequantise(codes, table, scales, [rows, columns], block);
        },
      })),
    ) as Sample[];
  },
};

/**
 * Values from codes: y[i] = table[code[i]] · scales[⌊i / block⌋], in row-major order.
 *
 * @param codes  uint8; two to a byte, the first in the upper half, when the table has 16 entries, otherwise one
 * @param table  [16] or [256] float32
 * @param scales [⌈count / block⌉] float32, one a block
 * @param block  values that share a scale, a multiple of 32
 * @returns      `shape`, of the dtype of table and scales (float64 for derivatives on the reference device)
 * @throws {ShapeError} when codes or scales are not as many as `shape` needs; @throws {DTypeError} for other dtypes
 */
export function dequantise(codes: Tensor, table: Tensor, scales: Tensor, shape: Shape, block: number): Tensor {
  const operation = "dequantise";
  const dtypes = [codes.dtype, table.dtype, scales.dtype];
  const { dtype } = table;
  if (codes.dtype !== "uint8" || scales.dtype !== dtype || (dtype !== "float32" && dtype !== "float64"))
    throw new DTypeError(`takes codes as uint8, table and scales as float32, got ${dtypes.join(", ")}.`, {
      operation,
      got: dtypes,
    });
  if (table.size !== 16 && table.size !== 256)
    throw new ShapeError(`a table has 16 or 256 entries, got ${wordShape(table.shape)}.`, { operation, got: table.shape });
  if (block % smallestBlock !== 0 || block <= 0)
    throw new ShapeError(`\`block\` (= ${block}) must be a multiple of ${smallestBlock}.`, { operation, got: block });
  const count = sizeOf(shape);
  const bytes = table.size === 16 ? Math.ceil(count / 2) : count;
  const blocks = Math.ceil(count / block);
  if (codes.size !== bytes || scales.size !== blocks)
    throw new ShapeError(
      `${wordShape(shape)} needs ${bytes} bytes of codes and ${blocks} scales, got ${codes.size} and ${scales.size}.`,
      { operation, expected: [bytes, blocks], got: [codes.size, scales.size] },
    );
  const flat = (x: Tensor) => reshape(x, [x.size]);
  return applyFused(dequantiseOp, [flat(codes), flat(table), flat(scales)], [{ shape, dtype }], { block })[0]!;
}
