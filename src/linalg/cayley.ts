/** Rotations made of skew-symmetric matrices, within the graph: they may be traced and trained. */
import { withVjp } from "../autograd/custom.ts";
import { ShapeError, wordShape } from "../errors.ts";
import { concatenate } from "../graph/composite.ts";
import { matmul } from "../graph/contraction.ts";
import { add, equal, mul, neg, recip, sub, where } from "../graph/elementwise.ts";
import { reshape, sliceAxis, transpose } from "../graph/movement.ts";
import { requireTensors, type Tensor } from "../graph/node.ts";
import { constant, iota } from "../graph/source.ts";

/** The identity [b, b], which broadcasts over batches. */
export const identity = (b: number): Tensor =>
  where(equal(reshape(iota([b]), [b, 1]), reshape(iota([b]), [1, b])), constant(1), constant(0));

/**
 * Inverses of [n, b, b] by halves. Without exchange of rows: for matrices whose symmetric part is positive, such as I + skew, and for
 * no others; see `inverse`.
 */
export const inverseByHalves: (M: Tensor) => Tensor = withVjp(
  (M) => invert(M as Tensor),
  (g, y) => [neg(matmul(matmul(transpose(y), g), transpose(y)))],
);

function invert(M: Tensor): Tensor {
  const b = M.shape[1] as number;
  if (b === 1) return recip(M);
  const half = b >> 1;
  const part = (row: number, column: number) =>
    sliceAxis(sliceAxis(M, 1, row, row === 0 ? half : b), 2, column, column === 0 ? half : b);
  const A = invert(part(0, 0));
  const [AB, CA] = [matmul(A, part(0, half)), matmul(part(half, 0), A)];
  const D = invert(sub(part(half, half), matmul(CA, part(0, half)))); // of the Schur complement
  const right = concatenate([neg(matmul(AB, D)), D], 1);
  const left = concatenate([add(A, matmul(matmul(AB, D), CA)), neg(matmul(D, CA))], 1);
  return concatenate([left, right], 2);
}

/** (I − Q)·(I + Q)⁻¹, a rotation for skew-symmetric Q [n, b, b]. */
export function cayley(Q: Tensor): Tensor {
  requireTensors("cayley", { Q });
  if (Q.rank !== 3 || Q.shape[1] !== Q.shape[2])
    throw new ShapeError(`needs square matrices [n, b, b], got ${wordShape(Q.shape)}.`, { operation: "cayley", got: Q.shape });
  const I = identity(Q.shape[1] as number);
  return sub(mul(inverseByHalves(add(Q, I)), constant(2)), I);
}
