/** Randomised singular value decomposition. */
import { ConfigError, checkOptions, requireKind } from "../errors.ts";
import type { Tensor } from "../graph/node.ts";
import { TorchGenerator } from "../random/torch-generator.ts";
import { type Matrix, matrix, readMatrix, toTensor, transposed } from "./matrix.ts";
import { product } from "./product.ts";
import { qrMatrix } from "./qr.ts";
import { type MatrixSvd, type Svd, svdMatrix } from "./svd.ts";

/** How `svdLowrank` looks for the subspace. */
export interface LowrankOptions {
  /** How often the matrix is applied, from both sides, to a first guess. */
  readonly niter?: number;
  /** Of the first guess; the same draws as torch's, in float32 for a float32 matrix. */
  readonly random: TorchGenerator;
}

/**
 * The `q` largest singular values of a matrix [m, n] and their vectors, approximately: exactly `torch.svd_lowrank` (which gives V, not
 * Vᵀ), computed in float64. Values and vectors have no derivative.
 *
 * @throws {ConfigError} when `q` is not between 1 and min(m, n), for NaN and infinities; @throws {ShapeError} when `x` is not one matrix
 * @see Halko, Martinsson, Tropp, https://arxiv.org/abs/0909.4061, algorithms 4.4 and 5.1
 */
export function svdLowrank(x: Tensor, q: number, options: LowrankOptions): Svd {
  checkOptions("svdLowrank", options, { niter: "a whole number from 0", random: TorchGenerator });
  requireKind("svdLowrank", "a function", { "random.randn": options.random?.randn });
  const A = readMatrix("svdLowrank", x);
  const { U, S, Vt } = svdLowrankMatrix(A, q, options, x.dtype === "float64");
  return {
    U: toTensor(U.values, [A.rows, q], x),
    S: toTensor(S, [q], x),
    Vt: toTensor(Vt.values, [q, A.columns], x),
  };
}

/** The same for a matrix outside of the graph. @param double draws float64 numbers. @param asLapack as in `svdMatrix` */
export function svdLowrankMatrix(
  A: Matrix,
  q: number,
  { niter = 2, random }: LowrankOptions,
  double = false,
  asLapack = false,
): MatrixSvd {
  if (!Number.isInteger(q) || q < 1 || q > Math.min(A.rows, A.columns) || !Number.isInteger(niter) || niter < 0)
    throw new ConfigError(
      `\`q\` (= ${q}) must be an integer from 1 to ${Math.min(A.rows, A.columns)} for a matrix [${A.rows}, ${A.columns}], \`niter\` (= ${niter}) one from 0.`,
      { operation: "svdLowrank", got: { q, niter } },
    );
  const [tall, wide] = A.rows < A.columns ? [transposed(A), A] : [A, transposed(A)];
  const drawn = double ? random.randn64(tall.columns * q) : Float64Array.from(random.randn(tall.columns * q));
  let { Q } = qrMatrix(product(tall, matrix(tall.columns, q, drawn)));
  for (let i = 0; i < niter; i++) {
    Q = qrMatrix(product(wide, Q)).Q;
    Q = qrMatrix(product(tall, Q)).Q;
  }
  const { U, S, Vt } = svdMatrix(product(transposed(Q), tall), asLapack);
  const left = product(Q, U);
  return A.rows < A.columns ? { U: transposed(Vt), S, Vt: transposed(left) } : { U: left, S, Vt };
}
