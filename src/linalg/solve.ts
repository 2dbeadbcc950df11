/** Inverses and systems of equations. */
import { withVjp } from "../autograd/custom.ts";
import { ConfigError, under } from "../errors.ts";
import { matmul } from "../graph/contraction.ts";
import { exp, mul, neg } from "../graph/elementwise.ts";
import { reshape, transpose } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import {
  fromMatrices,
  identityMatrix,
  largestOf,
  type Matrix,
  matrix,
  readMatrices,
  requireSquare,
  requireSystem,
  sliceColumns,
  toTensor,
} from "./matrix.ts";
import { multiplyAdd, part } from "./product.ts";

/**
 * Inverse of square matrices [..., n, n], computed in float64. The values are needed at once, as in `svd`.
 *
 * @throws {ShapeError} for matrices that are not square; @throws {ConfigError} for a singular one, NaN and infinities
 */
export const inverse: (x: Tensor) => Tensor = withVjp(
  (x) => {
    const A = x as Tensor;
    requireSquare("inverse", A);
    return fromMatrices(
      readMatrices("inverse", A).map((each) => solveMatrix("inverse", each, identityMatrix(each.rows))),
      A,
      A.shape,
    );
  },
  (g, y) => [neg(matmul(matmul(transpose(y), g), transpose(y)))],
);

/**
 * The X with A·X = B, computed in float64: A [..., n, n], B [..., n, k] with the same axes before. The values are needed at once.
 *
 * @throws {ShapeError} when the shapes do not fit; @throws {ConfigError} for a singular A, NaN and infinities
 */
export const solve: (A: Tensor, B: Tensor) => Tensor = withVjp(
  (a, b) => {
    const [A, B] = [a as Tensor, b as Tensor];
    requireSystem("solve", A, B);
    const right = readMatrices("solve", B);
    return fromMatrices(
      readMatrices("solve", A).map((each, i) => solveMatrix("solve", each, right[i] as Matrix)),
      A.dtype === "float64" ? A : B,
      B.shape,
    );
  },
  (g, y, A) => {
    const gB = matmul(transpose(inverse(A as Tensor)), g);
    return [neg(matmul(gB, transpose(y))), gB];
  },
);

/** Sign of the determinant, and the logarithm of its size. */
export interface SignedLogarithm {
  /** 1, −1, or 0 for a singular matrix. [...] */
  readonly sign: Tensor;
  /** −∞ for a singular matrix. [...] */
  readonly logAbsDet: Tensor;
}

/**
 * Determinants of square matrices [..., n, n] that neither overflow nor vanish, computed in float64. The values are needed at once;
 * the derivative is that of `logAbsDet`, for matrices that are not singular.
 *
 * @throws {ShapeError} for matrices that are not square; @throws {ConfigError} for NaN and infinities
 * @example
 * slogdet(tensor([[0, 2], [3, 0]])).sign   // -1 float32 []
 */
export function slogdet(x: Tensor): SignedLogarithm {
  requireSquare("slogdet", x);
  const found = readMatrices("slogdet", x).map((A) => eliminate(A, matrix(A.rows, 0), 0));
  const shape = x.shape.slice(0, -2);
  const size = ({ W, sign }: Eliminated): number => {
    let sum = 0;
    for (let i = 0; i < W.rows; i++) sum += Math.log(Math.abs(W.values[i * W.rows + i]!));
    return sign === 0 ? Number.NEGATIVE_INFINITY : sum;
  };
  const logAbsDet = withVjp(
    () => toTensor(Float64Array.from(found, size), shape, x),
    (g, _y, A) => [mul(reshape(g, [...shape, 1, 1]), transpose(inverse(A as Tensor)))],
  );
  return {
    sign: toTensor(
      Float64Array.from(found, ({ sign }) => sign),
      shape,
      x,
    ),
    logAbsDet: logAbsDet(x),
  };
}

/**
 * Determinants of square matrices [..., n, n]; see `slogdet`.
 *
 * @throws {ShapeError} for matrices that are not square; @throws {ConfigError} for NaN and infinities
 * @example
 * det(tensor([[1, 2], [3, 4]]))   // -2 float32 []
 */
export function det(x: Tensor): Tensor {
  const { sign, logAbsDet } = under("det", () => slogdet(x), ["slogdet"]);
  return mul(sign, exp(logAbsDet));
}

/** Columns that are eliminated before the others hear of it, by a product. */
const block = 32;

/** A and B, of one width, once all below A's diagonal is eliminated, and the sign of the exchanges and pivots: 0 for one too small. */
interface Eliminated {
  readonly W: Matrix;
  readonly sign: number;
}

/** Elimination with exchange of rows, as long as the largest pivots are larger than `least`. */
function eliminate(A: Matrix, B: Matrix, least: number): Eliminated {
  const [n, k] = [A.rows, B.columns];
  const width = n + k;
  const W = matrix(n, width); // A beside B
  const { values } = W;
  for (let i = 0; i < n; i++) {
    values.set(A.values.subarray(i * n, (i + 1) * n), i * width);
    values.set(B.values.subarray(i * k, (i + 1) * k), i * width + n);
  }
  let sign = 1;
  for (let s = 0; s < n; s += block) {
    const end = Math.min(n, s + block);
    for (let i = s; i < end; i++) {
      let pivot = i;
      for (let r = i + 1; r < n; r++) if (Math.abs(values[r * width + i]!) > Math.abs(values[pivot * width + i]!)) pivot = r;
      if (Math.abs(values[pivot * width + i]!) <= least) return { W, sign: 0 };
      if (pivot !== i) {
        sign = -sign;
        const kept = values.slice(i * width, (i + 1) * width);
        values.copyWithin(i * width, pivot * width, (pivot + 1) * width);
        values.set(kept, pivot * width);
      }
      const head = values[i * width + i]!;
      if (head < 0) sign = -sign;
      for (let r = i + 1; r < n; r++) {
        const factor = values[r * width + i]! / head;
        values[r * width + i] = factor; // kept where the zero would be
        subtract(W, r, i, factor, i + 1, end);
      }
    }
    for (let i = s + 1; i < end; i++) for (let j = s; j < i; j++) subtract(W, i, j, values[i * width + j]!, end, width);
    const [factors, rows] = [part(W, end, s, n - end, end - s), part(W, s, end, end - s)];
    multiplyAdd(part(W, end, end), factors, rows, -1);
  }
  return { W, sign };
}

/** Row `to` loses `factor` times row `from`, in the columns from `start` to `end`. */
function subtract({ values, columns }: Matrix, to: number, from: number, factor: number, start: number, end: number): void {
  const [a, b] = [from * columns, to * columns];
  for (let j = start; j < end; j++) values[b + j] = values[b + j]! - factor * values[a + j]!;
}

/** A⁻¹·B. @throws {ConfigError} when A is singular to working precision */
export function solveMatrix(operation: string, A: Matrix, B: Matrix): Matrix {
  const n = A.rows;
  const { W, sign } = eliminate(A, B, n * Number.EPSILON * largestOf(A));
  if (sign === 0)
    throw new ConfigError(`the matrix [${n}, ${n}] is singular.`, { operation, hint: "Use pinv, or add to its diagonal." });
  const { values, columns: width } = W;
  for (let s = Math.floor((n - 1) / block) * block; s >= 0; s -= block) {
    const end = Math.min(n, s + block);
    multiplyAdd(part(W, s, n, end - s), part(W, s, end, end - s, n - end), part(W, end, n), -1);
    for (let i = end - 1; i >= s; i--) {
      for (let j = i + 1; j < end; j++) subtract(W, i, j, values[i * width + j]!, n, width);
      for (let j = n; j < width; j++) values[i * width + j] = values[i * width + j]! / values[i * width + i]!;
    }
  }
  return sliceColumns(W, n, width);
}
