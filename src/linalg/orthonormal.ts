/** The orthonormal factor of a thin matrix, within the graph: it may be traced and trained. */
import { matmul } from "../graph/contraction.ts";
import { cast, equal, less, mul, neg, sqrt, sub, where } from "../graph/elementwise.ts";
import { reshape, sliceAxis, transpose } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { reduceSum } from "../graph/reduction.ts";
import { constant, iota, number } from "../graph/source.ts";
import { inverseOrZero } from "./factor.ts";

/**
 * Q [m, n] of the reduced QR decomposition of x [m, n], m ≥ n, with LAPACK's signs, by one Householder reflection a column. Each is a few
 * steps of the graph, so this is for matrices of few columns; see `qr` for others.
 */
export function orthonormal(x: Tensor): Tensor {
  const [m, n] = x.shape as [number, number];
  const [places, columns] = [reshape(iota([m]), [m, 1]), reshape(iota([n]), [1, n])];
  const int = (value: number): Tensor => constant(value, [], "int32");
  const reflections: ((y: Tensor) => Tensor)[] = [];
  let rest = x;
  for (let j = 0; j < Math.min(n, m - 1); j++) {
    const column = mul(sliceAxis(rest, 1, j, j + 1), cast(less(int(j - 1), places), x.dtype));
    const first = sliceAxis(column, 0, j, j + 1);
    const norm = sqrt(reduceSum(mul(column, column), [0, 1]));
    const beta = where(less(first, number(x, 0)), norm, neg(norm));
    const v = sub(column, mul(beta, cast(equal(places, int(j)), x.dtype)));
    const below = mul(column, cast(less(int(j), places), x.dtype));
    const isDone = equal(reduceSum(mul(below, below), [0, 1]), number(x, 0)); // and is left alone, sign and all
    const tau = where(isDone, number(x, 0), mul(inverseOrZero(reduceSum(mul(v, v), [0, 1])), number(x, 2)));
    const reflect = (y: Tensor): Tensor => sub(y, matmul(v, mul(matmul(transpose(v), y), tau)));
    reflections.push(reflect);
    rest = reflect(rest);
  }
  return reflections.reduceRight((Q, reflect) => reflect(Q), cast(equal(places, columns), x.dtype));
}
