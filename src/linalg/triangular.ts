/** Cholesky factors and triangular systems: what Gaussians are made of. */
import { withVjp } from "../autograd/custom.ts";
import { ConfigError, checkOptions } from "../errors.ts";
import { matmul } from "../graph/contraction.ts";
import { add, mul, neg } from "../graph/elementwise.ts";
import { transpose } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { number } from "../graph/source.ts";
import { tril, triu } from "../tensor/math.ts";
import { fromMatrices, type Matrix, matrix, readMatrices, requireSquare, requireSystem } from "./matrix.ts";
import { multiplyAdd, part, turn } from "./product.ts";

/** Columns that are worked on before the others hear of it, by a product. */
const block = 32;

/**
 * The lower triangular L with L·Lᵀ = x, for symmetric positive definite matrices [..., n, n], computed in float64. Only the lower
 * triangle of x is read; the derivative is the symmetric one. The values are needed at once, as in `svd`.
 *
 * @throws {ShapeError} for matrices that are not square; @throws {ConfigError} for one that is not positive definite, NaN and infinities
 * @see https://arxiv.org/abs/1602.07527 for the derivative
 * @example
 * cholesky(tensor([[4, 2], [2, 10]]))
 * // [[2 0]
 * //  [1 3]] float32 [2, 2]
 */
export const cholesky: (x: Tensor) => Tensor = withVjp(
  (x) => {
    const A = x as Tensor;
    requireSquare("cholesky", A);
    return fromMatrices(readMatrices("cholesky", A).map(choleskyMatrix), A, A.shape);
  },
  (g, L) => {
    // S = L⁻ᵀ·Φ(Lᵀ·g)·L⁻¹, Φ taking the lower triangle with half of the diagonal; half of S + Sᵀ
    const whole = matmul(transpose(L), g);
    const phi = mul(add(tril(whole), tril(whole, -1)), number(whole, 0.5));
    const up = (X: Tensor): Tensor => solveTriangular(transpose(L), X, { upper: true });
    const S = up(transpose(up(phi)));
    return [mul(add(S, transpose(S)), number(S, 0.5))];
  },
);

/**
 * The X with A·X = B for triangular A [..., n, n], computed in float64: B [..., n, k] with the same axes before. Of A only the lower
 * triangle is read, or the upper one. The values are needed at once.
 *
 * @throws {ShapeError} when the shapes do not fit; @throws {ConfigError} for a zero on the diagonal of A, NaN and infinities
 * @example
 * solveTriangular(tensor([[2, 0], [1, 3]]), tensor([[4], [5]]))
 * // [[2]
 * //  [1]] float32 [2, 1]
 */
export function solveTriangular(A: Tensor, B: Tensor, options: { readonly upper?: boolean } = {}): Tensor {
  const { upper = false } = checkOptions("solveTriangular", options, { upper: "true or false" });
  requireSystem("solveTriangular", A, B);
  const solved = withVjp(
    (a, b) => {
      const right = readMatrices("solveTriangular", b as Tensor);
      const left = readMatrices("solveTriangular", a as Tensor);
      return fromMatrices(
        left.map((each, i) => substitute(each, right[i] as Matrix, upper)),
        A.dtype === "float64" ? A : B,
        B.shape,
      );
    },
    (g, y, a) => {
      const gB = solveTriangular(transpose(a as Tensor), g, { upper: !upper });
      const gA = neg(matmul(gB, transpose(y)));
      return [upper ? triu(gA) : tril(gA), gB];
    },
  );
  return solved(A, B);
}

/** L of a matrix whose lower triangle is read. @throws {ConfigError} when it is not positive definite */
function choleskyMatrix({ rows: n, values: given }: Matrix): Matrix {
  const L = matrix(n, n, given.slice());
  const { values } = L;
  for (let s = 0; s < n; s += block) {
    const end = Math.min(n, s + block);
    for (let j = s; j < end; j++) {
      for (let i = j; i < n; i++) {
        let rest = values[i * n + j]!;
        for (let k = s; k < j; k++) rest -= values[i * n + k]! * values[j * n + k]!;
        if (i > j) values[i * n + j] = rest / values[j * n + j]!;
        else if (rest > 0) values[j * n + j] = Math.sqrt(rest);
        else
          throw new ConfigError(`the matrix [${n}, ${n}] is not positive definite: its leading ${j + 1} rows are not.`, {
            operation: "cholesky",
            hint: "Add to its diagonal.",
          });
      }
    }
    const panel = part(L, end, s, n - end, end - s);
    multiplyAdd(part(L, end, end), panel, turn(panel), -1);
  }
  for (let i = 0; i < n; i++) values.fill(0, i * n + i + 1, (i + 1) * n);
  return L;
}

/** A⁻¹·B of a triangle. @throws {ConfigError} for a zero on its diagonal */
function substitute(A: Matrix, B: Matrix, upper: boolean): Matrix {
  const [n, k] = [A.rows, B.columns];
  const X = matrix(n, k, B.values.slice());
  const { values } = X;
  const blocks = Array.from({ length: Math.ceil(n / block) }, (_, i) => i * block);
  for (const s of upper ? blocks.reverse() : blocks) {
    const end = Math.min(n, s + block);
    const [from, count] = upper ? [end, n - end] : [0, s];
    multiplyAdd(part(X, s, 0, end - s), part(A, s, from, end - s, count), part(X, from, 0, count), -1);
    for (let step = s; step < end; step++) {
      const i = upper ? s + end - 1 - step : step;
      for (let j = upper ? i + 1 : s; j < (upper ? end : i); j++) {
        const factor = A.values[i * n + j]!;
        for (let c = 0; c < k; c++) values[i * k + c] = values[i * k + c]! - factor * values[j * k + c]!;
      }
      const head = A.values[i * n + i]!;
      if (head === 0)
        throw new ConfigError(`the matrix [${n}, ${n}] is singular: row ${i} of its diagonal is 0.`, {
          operation: "solveTriangular",
        });
      for (let c = 0; c < k; c++) values[i * k + c] = values[i * k + c]! / head;
    }
  }
  return X;
}
