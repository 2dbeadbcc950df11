/** Singular value decomposition. */
import { requireKind, ShapeError, wordShape } from "../errors.ts";
import { matmul } from "../graph/contraction.ts";
import { add, less, mul, where } from "../graph/elementwise.ts";
import { sliceAxis, transpose } from "../graph/movement.ts";
import { requireTensors, type Tensor } from "../graph/node.ts";
import { number } from "../graph/source.ts";
import { square } from "../tensor/math.ts";
import { bidiagonalSvd } from "./conquer-singular.ts";
import {
  chain,
  diagonalMatrix,
  factors,
  inverseGaps,
  inverseOrZero,
  outside,
  scaleColumns,
  scaleRows,
  skewPart,
} from "./factor.ts";
import { type Matrix, matrix, readMatrix, scaled, scaleOf, transposed } from "./matrix.ts";
import { triangularise } from "./qr.ts";
import { crossDiagonal, type Rotation } from "./qr-iteration.ts";
import { type Bidiagonal, bidiagonalise } from "./reduction.ts";
import { reflectAll } from "./reflection.ts";

/** A = U·diag(S)·Vᵀ with orthonormal columns of U and rows of Vᵀ, S ≥ 0 descending. */
export interface Svd {
  /** [m, k] with k = min(m, n). */
  readonly U: Tensor;
  /** [k] */
  readonly S: Tensor;
  /** [k, n] */
  readonly Vt: Tensor;
}

/** The same in float64. */
export interface MatrixSvd {
  readonly U: Matrix;
  readonly S: Float64Array;
  readonly Vt: Matrix;
}

/**
 * Thin singular value decomposition of a matrix [m, n], computed in float64. Signs are free: only the product is determined.
 * The values are needed at once, so a device that can only be read asynchronously is refused, and so is a function being traced.
 *
 * The derivative of U and V is not defined where singular values are equal (or, for m ≠ n, zero); the shares of such pairs are left out.
 *
 * @throws {ShapeError} when `x` is not one matrix; @throws {ConfigError} for NaN and infinities
 * @example
 * const { U, S, Vt } = svd(tensor([[3, 0], [4, 5]]));
 * S   // [6.7082 2.2361] float32 [2]
 */
export const svd = (x: Tensor): Svd => factorised("svd", x);

function factorised(operation: string, x: Tensor): Svd {
  const A = readMatrix(operation, x);
  const k = Math.min(A.rows, A.columns);
  const [U, S, Vt] = factors(
    x,
    [[A.rows, k], [k], [k, A.columns]],
    () => {
      const found = svdMatrix(A);
      return [found.U.values, found.S, found.Vt.values];
    },
    ([gU, gS, gVt], [U, S, Vt]) => {
      const [V, gV] = [transpose(Vt), transpose(gVt)];
      const gaps = inverseGaps(square(S));
      const turnU = mul(gaps, skewPart(matmul(transpose(U), gU)));
      const turnV = mul(gaps, skewPart(matmul(Vt, gV)));
      const inner = add(add(scaleColumns(turnU, S), scaleRows(turnV, S)), diagonalMatrix(gS));
      let g = chain(U, inner, Vt);
      const inverse = inverseOrZero(S);
      if (A.rows > k) g = add(g, matmul(scaleColumns(outside(U, gU), inverse), Vt));
      if (A.columns > k) g = add(g, matmul(scaleColumns(U, inverse), transpose(outside(V, gV))));
      return g;
    },
  );
  return { U, S, Vt };
}

/** Singular values of a matrix, descending; errors are those of `svd`. */
export const svdvals = (x: Tensor): Tensor => factorised("svdvals", x).S;

/**
 * Moore–Penrose inverse of a matrix [m, n]: [n, m], from its singular value decomposition.
 *
 * @param cutoff singular values below this part of the largest one count as zero; rounding of max(m, n) entries when absent
 */
export const pinv = (x: Tensor, cutoff?: number): Tensor => pseudoInverse("pinv", x, cutoff);

function pseudoInverse(operation: string, x: Tensor, cutoff?: number): Tensor {
  const { U, S, Vt } = factorised(operation, x);
  if (cutoff !== undefined) requireKind(operation, "a number", { cutoff });
  const epsilon = x.dtype === "float64" ? Number.EPSILON : 2 ** -23;
  const least = mul(number(S, cutoff ?? epsilon * Math.max(U.shape[0] as number, Vt.shape[1] as number)), sliceAxis(S, 0, 0, 1));
  const inverse = where(less(least, S), inverseOrZero(S), number(S, 0));
  return matmul(scaleColumns(transpose(Vt), inverse), transpose(U));
}

/** The X with the least ‖A·X − B‖, and of those the one with the least ‖X‖: A [m, n], B [m, k], X [n, k]. */
export function lstsq(A: Tensor, B: Tensor): Tensor {
  requireTensors("lstsq", { A, B });
  if (B.rank !== 2 || B.shape[0] !== A.shape[0])
    throw new ShapeError(`needs B with as many rows as A ${wordShape(A.shape)}, got ${wordShape(B.shape)}.`, {
      operation: "lstsq",
      expected: [A.shape[0], "k"],
      got: B.shape,
    });
  return matmul(pseudoInverse("lstsq", A), B);
}

/**
 * Thin singular value decomposition of a finite matrix.
 *
 * @param asLapack signs of the vectors are, but for rare pairs, those that `torch.linalg.svd` gives float32 matrices on a CPU: of LAPACK's
 *   `sgesdd` in Intel's library. For what was computed with those and is not in a file.
 */
export function svdMatrix(A: Matrix, asLapack = false): MatrixSvd {
  const wide = A.rows < A.columns;
  const exponent = scaleOf(A);
  const given = scaled(A, -exponent);
  const { Ut, S, Vt } = asLapack && wide ? wideSvd(given) : tallSvd(wide ? transposed(given) : given, asLapack);
  const values = scaled({ rows: 1, columns: S.length, values: S }, exponent).values;
  return wide && !asLapack ? { U: transposed(Vt), S: values, Vt: Ut } : { U: transposed(Ut), S: values, Vt };
}

interface Turned {
  readonly Ut: Matrix;
  readonly S: Float64Array;
  readonly Vt: Matrix;
}

/** Vectors of a bidiagonal matrix, in descending order, into the first columns of matrices as wide as the whole. */
function vectorsOf({ d, e }: Pick<Bidiagonal, "d" | "e">, Ut: Matrix, Vt: Matrix, asLapack: boolean): Float64Array {
  const n = d.length;
  const found = bidiagonalSvd(d, e, asLapack);
  for (let i = 0; i < n; i++) {
    const from = (n - 1 - i) * n;
    Ut.values.set(found.left.values.subarray(from, from + n), i * Ut.columns);
    Vt.values.set(found.right.values.subarray(from, from + n), i * Vt.columns);
  }
  return found.values.reverse();
}

/** For entries near 1 and at least as many rows as columns. */
function tallSvd(A: Matrix, asLapack: boolean): Turned {
  const { rows: m, columns: n } = A;
  const [Ut, Vt] = [matrix(n, m), matrix(n, n)];
  // of a much taller matrix only the triangle is worth the work of both sides
  const tall = (asLapack ? m >= 1.5 * n : m > 1.6 * n) ? triangularise(A) : undefined;
  const { left, right, ...diagonals } = bidiagonalise(tall ? tall.R : A);
  const S = vectorsOf(diagonals, Ut, Vt, asLapack);
  reflectAll(Ut, left);
  if (tall) reflectAll(Ut, tall.reflections);
  reflectAll(Vt, right);
  return { Ut, S, Vt };
}

/** For fewer rows than columns, as LAPACK does it: not by the transpose, but by a lower bidiagonal matrix. */
function wideSvd(A: Matrix): Turned {
  const { rows: m, columns: n } = A;
  const [Ut, Vt] = [matrix(m, m), matrix(m, n)];
  const { d, e, left, right } = bidiagonalise(transposed(A));
  // the diagonal e is below d: rotations of neighbouring rows bring it above
  const turns = crossDiagonal(d, e);
  const S = vectorsOf({ d, e }, Ut, Vt, true);
  const { values } = Ut;
  for (let row = 0; row < m; row++)
    for (let i = m - 2; i >= 0; i--) {
      const { cosine, sine } = turns[i] as Rotation;
      const at = row * m + i;
      const [a, b] = [values[at]!, values[at + 1]!];
      values[at] = cosine * a - sine * b;
      values[at + 1] = cosine * b + sine * a;
    }
  reflectAll(Ut, right);
  reflectAll(Vt, left);
  return { Ut, S, Vt };
}
