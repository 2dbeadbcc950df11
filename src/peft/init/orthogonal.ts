/**
 * Orthogonal start: neither factor is zero, and yet B·A = 0, because A and B are random mixtures of different rows of one orthogonal
 * matrix. Draws are those of PEFT with torch's generator.
 *
 * @see https://datta0.github.io/posts/rethink-lora-init/#orthogonal-initialisation
 */
import { ConfigError } from "../../errors.ts";
import { matrix } from "../../linalg/matrix.ts";
import { multiplyAdd, part, turn, type View } from "../../linalg/product.ts";
import { qrMatrix } from "../../linalg/qr.ts";
import type { Initialiser } from "../initialiser.ts";
import { requireLinear } from "./factors.ts";

/** `initLoraWeights: "orthogonal"`. @throws {ConfigError} for an odd rank */
export const orthogonal: Initialiser = {
  startsAtZero: true,
  start(base, { r }, random) {
    requireLinear("orthogonal", base);
    if (r % 2 !== 0)
      throw new ConfigError(`\`r\` (= ${r}) must be even for \`initLoraWeights\` "orthogonal".`, { operation: "attach", got: r });
    const half = r / 2;
    const drawn = (rows: number, columns: number) => matrix(rows, columns, Float64Array.from(random.randn(rows * columns)));
    const { Q } = qrMatrix(drawn(r, r));
    /** Every other row of Q. */
    const rows = (first: number): View => ({
      values: Q.values,
      at: first * r,
      rows: half,
      columns: r,
      rowStep: 2 * r,
      columnStep: 1,
    });
    const A = matrix(r, base.in);
    multiplyAdd(part(A, 0, 0), turn(rows(0)), turn(part(drawn(base.in, half), 0, 0)), 0.1);
    const B = matrix(base.out, r);
    multiplyAdd(part(B, 0, 0), turn(part(drawn(half, base.out), 0, 0)), rows(1), 0.1);
    return { values: { A: new Float32Array(A.values), B: new Float32Array(B.values) } };
  },
};
