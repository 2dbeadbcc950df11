/** Rotations made of skew-symmetric matrices, block by block, for methods that turn what goes into a layer. */
import { matmul } from "../graph/contraction.ts";
import { add, equal, less, max, mul, shiftRight, sub, where } from "../graph/elementwise.ts";
import { take } from "../graph/indexing.ts";
import { permute, reshape, transpose } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { constant, iota } from "../graph/source.ts";
import { identity } from "../linalg/cayley.ts";

const int = (value: number): Tensor => constant(value, [], "int32");

/** Rows of b·(b − 1)/2 numbers as skew-symmetric matrices: [n, b·(b − 1)/2] → [n, b, b], above the diagonal row by row. */
export function skew(rows: Tensor, b: number): Tensor {
  const n = rows.shape[0] as number;
  if (b === 1) return constant(0, [n, 1, 1]);
  const [i, j] = [reshape(iota([b]), [b, 1]), reshape(iota([b]), [1, b])];
  const high = max(i, j);
  const low = sub(add(i, j), high);
  // above row `low` there are b − 1, b − 2, … entries
  const before = shiftRight(mul(low, sub(int(2 * b - 1), low)), int(1));
  const place = where(equal(i, j), int(0), sub(add(before, sub(high, low)), int(1)));
  const sign = where(less(i, j), constant(1), where(less(j, i), constant(-1), constant(0)));
  const entries = take(transpose(rows), reshape(place, [b * b])); // [b·b, n]
  return mul(reshape(transpose(entries), [n, b, b]), sign);
}

/** Blocks of the last axis through matrices: each block x of b values becomes x·R. R [n, b, b] has one for each block or one for all. */
export function turnBlocks(x: Tensor, R: Tensor): Tensor {
  const [n, b] = R.shape as [number, number];
  if (n === 1) return reshape(matmul(reshape(x, [x.size / b, b]), reshape(R, [b, b])), x.shape);
  const blocks = permute(reshape(x, [x.size / (n * b), n, b]), [1, 0, 2]);
  return reshape(permute(matmul(blocks, R), [1, 0, 2]), x.shape);
}

/** I + 2·Q + 2·Q² + … + Qᵐ. PEFT has the same m = 3 for three terms and for four. */
export function neumann(Q: Tensor, terms: number): Tensor {
  let R = identity(Q.shape[1] as number);
  if (terms === 1) return add(mul(Q, constant(0)), R);
  R = add(R, mul(Q, constant(2)));
  if (terms === 2) return R;
  let power = Q;
  const last = Math.max(3, terms - 1);
  for (let m = 2; m <= last; m++) {
    power = matmul(power, Q);
    R = add(R, m === last ? power : mul(power, constant(2)));
  }
  return R;
}
