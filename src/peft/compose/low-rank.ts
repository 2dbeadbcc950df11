/** The nearest matrices of low rank, as the factors of LoRA. */
import { downloadSync } from "../../compile/program.ts";
import { matmulOp } from "../../graph/contraction.ts";
import { mul } from "../../graph/elementwise.ts";
import { expandOp, permuteOp, reshape, sliceAxis, transpose } from "../../graph/movement.ts";
import type { Tensor } from "../../graph/node.ts";
import { constant, isConstant } from "../../graph/source.ts";
import { type Matrix, readMatrices, readMatrix, toTensor, transposed } from "../../linalg/matrix.ts";
import { product } from "../../linalg/product.ts";
import { qrMatrix } from "../../linalg/qr.ts";
import { type MatrixSvd, type Svd, svdMatrix } from "../../linalg/svd.ts";
import { clamp } from "../../tensor/math.ts";

/** D ≈ B·A. */
export interface Factors {
  /** [r, in] */
  readonly A: Tensor;
  /** [out, r] */
  readonly B: Tensor;
}

const columnsTimes = (x: Tensor, s: Tensor): Tensor => mul(x, reshape(s, [1, s.size]));

/** That of B·A, without making it: r singular values, at a cost of (out + in)·r². */
function svdOfFactors(B: Matrix, A: Matrix): MatrixSvd {
  const [left, right] = [qrMatrix(B), qrMatrix(transposed(A))];
  const core = svdMatrix(product(left.R, transposed(right.R)));
  return { U: product(left.Q, core.U), S: core.S, Vt: product(core.Vt, transposed(right.Q)) };
}

/** The one value that a tensor has everywhere. */
function soleValue(x: Tensor): Tensor | null {
  if (isConstant(x)) return constant(x.attributes["value"] as number, [], x.dtype);
  if (x.op === expandOp) return soleValue(x.sources[0] as Tensor);
  return x.size === 1 ? reshape(x, []) : null;
}

/** B and s·A of a graph that is s·B·A, or the transpose of one. */
function factorsOf(x: Tensor): Factors | null {
  const [first, second] = x.sources as [Tensor, Tensor];
  if (x.op === matmulOp) return { B: first, A: second };
  if (x.op === permuteOp && x.rank === 2) {
    const turned = factorsOf(first);
    return turned && { B: transpose(turned.A), A: transpose(turned.B) };
  }
  const s = x.op.name === "mul" ? soleValue(second) : null;
  const found = s && factorsOf(first);
  return found && { B: found.B, A: mul(found.A, s) };
}

/**
 * Singular values and vectors of a change of a weight, in float64: those of each matrix, where it is one for each expert. What is a
 * product of smaller matrices is not multiplied out.
 */
export function svdOfChange(operation: string, change: Tensor): MatrixSvd[] {
  const factors = factorsOf(change);
  const [out, into] = change.shape.slice(-2) as [number, number];
  if (!factors || (factors.A.shape.at(-2) as number) >= Math.min(out, into))
    return readMatrices(operation, change).map((each) => svdMatrix(each));
  const As = readMatrices(operation, factors.A);
  return readMatrices(operation, factors.B).map((B, i) => svdOfFactors(B, As[i] as Matrix));
}

/** That of B·A, on its device. */
export const svdOfProduct = ({ A, B }: Factors): Svd => asTensors(svdOfFactors(readMatrix("svd", B), readMatrix("svd", A)), B);

/** On the device of `like`. */
export function asTensors({ U, S, Vt }: MatrixSvd, like: Tensor): Svd {
  const r = S.length;
  return {
    U: toTensor(U.values, [U.rows, r], like),
    S: toTensor(S, [r], like),
    Vt: toTensor(Vt.values, [r, Vt.columns], like),
  };
}

/** B = U·S and A = Vᵀ of the `rank` largest singular values. @see Eckart and Young 1936, The approximation of one matrix by another */
export function truncated({ U, S, Vt }: Svd, rank: number): Factors {
  const k = Math.min(rank, S.size);
  return { B: columnsTimes(sliceAxis(U, 1, 0, k), sliceAxis(S, 0, 0, k)), A: sliceAxis(Vt, 0, 0, k) };
}

/** How many of the largest singular values hold this share of Σσ²; at least one. */
export function rankOfEnergy(S: ArrayLike<number>, share: number): number {
  const squares = Array.from(S, (value) => value * value);
  const wanted = share * squares.reduce((sum, value) => sum + value, 0);
  let sum = 0;
  const last = squares.findIndex((value) => {
    sum += value;
    return sum >= wanted;
  });
  return last === -1 ? squares.length : last + 1;
}

/** Both factors held within ±h, h being this quantile of all their values. */
export function clamped({ A, B }: Factors, quantile: number): Factors {
  const values = Float64Array.from([...downloadSync(B), ...downloadSync(A)]).sort();
  const at = quantile * (values.length - 1);
  const [low, high] = [values[Math.floor(at)] as number, values[Math.ceil(at)] as number];
  const h = low + (high - low) * (at - Math.floor(at));
  // no value is between −h and h when h is negative; PyTorch gives h then
  const hold = (x: Tensor) => (h < 0 ? constant(h, x.shape, x.dtype) : clamp(x, { min: -h, max: h }));
  return { A: hold(A), B: hold(B) };
}
