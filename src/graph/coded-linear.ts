/**
 * A few rows times a weight that lies as codes, as in generating one token. A device with a kernel for it reads the codes as they
 * lie: one token's time is the memory's, and codes are a quarter or an eighth of it. Elsewhere the weight is widened, then multiplied.
 */
import { DTypeError, ShapeError, wordShape } from "../errors.ts";
import { matmul } from "./contraction.ts";
import { dequantise } from "./dequantise.ts";
import { and, cast, mul, sub } from "./elementwise.ts";
import { applyFused, resultTypes } from "./fused.ts";
import { reshape, transpose } from "./movement.ts";
import type { Tensor } from "./node.ts";
import type { Draw, Fused, Sample } from "./primitive.ts";
import type { Shape } from "./shape.ts";
import { constant, iota, number } from "./source.ts";

/** Rows of the weight are whole steps of so many values, and blocks such a step, two, four, … of them. */
const step = 32;

/** What a weight of codes is made of. */
export interface CodedWeight {
  /** uint8: two to a byte, the first in the upper half, with a table; otherwise one, 128 above the number that it is. */
  readonly codes: Tensor;
  /** One for each block, or for each row of numbers. */
  readonly scales: Tensor;
  /** [16], what the codes stand for; without it they are numbers. */
  readonly table?: Tensor | undefined;
  /** Values that share a scale; for numbers as many as a row has. */
  readonly block: number;
}

/** A byte's code is so much above the number that it is. */
const bias = 128;
/** What the largest number stands for is the scale. */
const unit = 1 / 127;

/** What the codes stand for: table[code] · scale of its block, or (code − 128) · scale of its row / 127. @returns `shape` [out, in] */
export function weightOfCodes({ codes, scales, table, block }: CodedWeight, shape: Shape): Tensor {
  if (table) return dequantise(codes, table, scales, shape, block);
  const numbers = sub(cast(codes, scales.dtype), number(scales, bias));
  return mul(mul(reshape(numbers, shape), reshape(scales, [scales.size, 1])), number(scales, unit));
}

/** Sources: x [rows, in], codes, scales and perhaps a table. */
export const codedLinearOp: Fused = {
  kind: "fused",
  name: "codedLinear",
  formula: "x·Wᵀ, W = what its codes stand for",
  operands: ["float32", "uint8", "float32", "float32"],
  numbers: ({ block }) => ({ block: block as number, unit }),
  compose(sources, attributes) {
    const [x, codes, scales, table] = sources as readonly [Tensor, Tensor, Tensor, Tensor?];
    const outputs = resultTypes({ attributes } as Tensor)[0]!.shape[1]!;
    const block = attributes["block"] as number;
    return [matmul(x, transpose(weightOfCodes({ codes, scales, table, block }, [outputs, x.shape[1]!])))];
  },
  vjp: () => [],
  flops: ([x, codes, , table]) => 2 * x!.shape[0]! * codes!.size * (table ? 2 : 1),
  samples: (draw: Draw): Sample[] => {
    const [rows, outputs, blocks] = [draw.integer(1, 6), draw.extent(7), draw.integer(1, 3)];
    return [32, 64, null].map((size) => {
      const [block, into] = [size ?? 32 * blocks, (size ?? 32) * blocks];
      const bytes = (outputs * into) / (size ? 2 : 1);
      const inputs = [
        { shape: [rows, into], domain: [-1, 1] as const },
        { shape: [(outputs * into) / block], domain: [0, 2] as const },
        ...(size ? [{ shape: [16], domain: [-1, 1] as const }] : []),
      ];
      const apply = (x: Tensor, scales: Tensor, table?: Tensor) => {
        // every code, in no order
        const codes = cast(and(mul(iota([bytes]), constant(37, [], "int32")), constant(255, [], "int32")), "uint8");
        return codedLinear(x, { codes, scales, table, block }, outputs);
      };
      return { inputs, apply };
    }) as Sample[];
  },
};

/** Whether `codedLinear` takes a weight of rows of so many values. */
export const isCodable = (into: number, { table, block }: CodedWeight): boolean =>
  into % step === 0 && (table ? into % block === 0 && Number.isInteger(Math.log2(block / step)) : block === into);

/**
 * y = x·Wᵀ with W [out, in] as codes, in row-major order.
 *
 * @param x       [rows, in]
 * @param weight  codes, scales, and a table or none
 * @param outputs out
 * @returns       [rows, out]
 * @throws {ShapeError} when rows are not whole blocks (see `isCodable`), and when codes or scales are not as many as W needs; @throws {DTypeError}
 */
export function codedLinear(x: Tensor, weight: CodedWeight, outputs: number): Tensor {
  const operation = "codedLinear";
  const { codes, scales, table, block } = weight;
  const [rows, into] = x.shape as [number, number];
  const { dtype } = x;
  const dtypes = [dtype, codes.dtype, scales.dtype, ...(table ? [table.dtype] : [])];
  if (
    codes.dtype !== "uint8" ||
    (dtype !== "float32" && dtype !== "float64") ||
    dtypes.some((type, i) => i !== 1 && type !== dtype)
  )
    throw new DTypeError(`takes x, scales and table as float32 and codes as uint8, got ${dtypes.join(", ")}.`, {
      operation,
      got: dtypes,
    });
  if (!isCodable(into, weight))
    throw new ShapeError(
      `rows of ${into} values are not whole blocks of ${block}, which are to be ${step} times a power of two.`,
      {
        operation,
        got: [into, block],
      },
    );
  const [bytes, blocks] = [(outputs * into) / (table ? 2 : 1), (outputs * into) / block];
  if (codes.size !== bytes || scales.size !== blocks || (table && table.size !== 16))
    throw new ShapeError(
      `${wordShape([outputs, into])} needs ${bytes} bytes of codes, ${blocks} scales${table ? " and a table of 16" : ""}, got ${[codes, scales, ...(table ? [table] : [])].map(({ size }) => size).join(", ")}.`,
      { operation, expected: [bytes, blocks], got: [codes.size, scales.size] },
    );
  const flat = (tensor: Tensor) => reshape(tensor, [tensor.size]);
  const sources = [x, flat(codes), flat(scales), ...(table ? [flat(table)] : [])];
  return applyFused(codedLinearOp, sources, [{ shape: [rows, outputs], dtype }], { block })[0]!;
}
