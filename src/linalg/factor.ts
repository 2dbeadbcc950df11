/** Factorisations as functions of tensors: computed outside of the graph, in float64, with derivatives that are more graph. */
import { withVjp } from "../autograd/custom.ts";
import { matmul } from "../graph/contraction.ts";
import { div, equal, mul, sub, where } from "../graph/elementwise.ts";
import { reshape, sliceAxis, transpose } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { iota, number } from "../graph/source.ts";
import { toTensor } from "./matrix.ts";

/**
 * The factors of a matrix. They are one node of the graph, of which each is a part, so that the derivative knows the cotangents of all.
 *
 * @param compute the values of the factors, of the given shapes
 * @param backward the cotangent of `x`, from those of the factors and the factors
 */
export function factors<const Shapes extends readonly (readonly number[])[]>(
  x: Tensor,
  shapes: Shapes,
  compute: () => readonly Float64Array[],
  backward: (g: Factors<Shapes>, y: Factors<Shapes>) => Tensor,
): Factors<Shapes> {
  const sizes = shapes.map((shape) => shape.reduce((size, extent) => size * extent, 1));
  const parts = (whole: Tensor): Factors<Shapes> => {
    let start = 0;
    return shapes.map((shape, i) => {
      const part = sliceAxis(whole, 0, start, start + sizes[i]!);
      start += sizes[i]!;
      return reshape(part, shape);
    }) as Factors<Shapes>;
  };
  const all = withVjp(
    (input) => {
      const values = new Float64Array(sizes.reduce((total, size) => total + size, 0));
      let start = 0;
      for (const each of compute()) {
        values.set(each, start);
        start += each.length;
      }
      return toTensor(values, [values.length], input as Tensor);
    },
    (g, y) => [backward(parts(g), parts(y))],
  );
  return parts(all(x));
}

type Factors<Shapes extends readonly unknown[]> = { readonly [I in keyof Shapes]: Tensor };

/** x·y·z … */
export const chain = (...matrices: readonly Tensor[]): Tensor => matrices.reduce((product, next) => matmul(product, next));

/** A vector as a column, to multiply rows with; `row` multiplies columns. */
const column = (x: Tensor): Tensor => reshape(x, [x.size, 1]);
const row = (x: Tensor): Tensor => reshape(x, [1, x.size]);

/** 1/x, and 0 for 0. */
export function inverseOrZero(x: Tensor): Tensor {
  const none = equal(x, number(x, 0));
  return where(none, number(x, 0), div(number(x, 1), where(none, number(x, 1), x)));
}

/** 1/(xⱼ − xᵢ) for all i, j, and 0 where both are equal. */
export const inverseGaps = (x: Tensor): Tensor => inverseOrZero(sub(row(x), column(x)));

/** A vector as a diagonal matrix. */
export function diagonalMatrix(x: Tensor): Tensor {
  const n = x.size;
  return where(equal(reshape(iota([n]), [n, 1]), reshape(iota([n]), [1, n])), row(x), number(x, 0));
}

/** A − Aᵀ */
export const skewPart = (A: Tensor): Tensor => sub(A, transpose(A));

/** A·B of which the parts that B's columns have outside of the span of A's are wanted: B − A·Aᵀ·B. */
export const outside = (A: Tensor, B: Tensor): Tensor => sub(B, chain(A, transpose(A), B));

/** Rows of a matrix times the entries of a vector. */
export const scaleRows = (A: Tensor, x: Tensor): Tensor => mul(A, column(x));
/** Columns of a matrix times the entries of a vector. */
export const scaleColumns = (A: Tensor, x: Tensor): Tensor => mul(A, row(x));
