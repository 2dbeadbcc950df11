import fc from "fast-check";
import { expect, test } from "vitest";
import { useDevice } from "../../src/compile/program.ts";
import { createReference } from "../../src/devices/reference/device.ts";
import { matmul } from "../../src/graph/contraction.ts";
import type { Matrix } from "../../src/linalg/matrix.ts";
import { qr, qrMatrix } from "../../src/linalg/qr.ts";
import { tensor } from "../../src/tensor/create.ts";
import "../../src/tensor/methods.ts";
import { expectDerivative } from "../tensor/gradient.ts";
import { distance, matrices, noise, product, turned } from "./matrices.ts";

useDevice(createReference());

test("Q has orthonormal columns, R is upper triangular, their product the matrix; signs are fixed when asked", () => {
  const check = (A: Matrix, positive: boolean) => {
    const { Q, R } = qrMatrix(A, positive);
    const k = Math.min(A.rows, A.columns);
    expect([Q.rows, Q.columns, R.rows, R.columns]).toEqual([A.rows, k, k, A.columns]);
    const allowed = 1e-14 * Math.max(A.rows, A.columns);
    expect(distance(product(Q, R), A)).toBeLessThanOrEqual(allowed * Math.hypot(...A.values));
    expect(distance(product(turned(Q), Q), "identity")).toBeLessThanOrEqual(allowed);
    for (let i = 0; i < k; i++) {
      for (let j = 0; j < i; j++) expect(R.values[i * R.columns + j] === 0).toBe(true);
      if (positive) expect(R.values[i * R.columns + i]).toBeGreaterThanOrEqual(0);
    }
  };
  fc.assert(fc.property(matrices(12), fc.boolean(), check), { numRuns: 200 });
  fc.assert(fc.property(matrices(90), fc.boolean(), check), { numRuns: 12 });
});

test("has LAPACK's signs", () => {
  expect(qr(tensor([[3], [4]])).R.item()).toBeCloseTo(-5);
  expect(qr(tensor([[0], [4]])).R.item()).toBeCloseTo(-4);
  expect(qr(tensor([[3], [4]]), { positive: true }).R.item()).toBeCloseTo(5);
});

test("has first and second derivatives", () => {
  const next = noise(1);
  for (const shape of [
    [2, 2],
    [3, 2],
    [2, 3],
  ] as const) {
    const values = Array.from({ length: shape[0] * shape[1] }, next);
    expectDerivative((x) => qr(x, { positive: true }).Q, values, shape as unknown as number[], 1e-5);
    expectDerivative((x) => qr(x).R, values, shape as unknown as number[], 1e-5);
    expectDerivative(
      (x) => {
        const { Q, R } = qr(x);
        return matmul(Q, R).square();
      },
      values,
      shape as unknown as number[],
      1e-5,
    );
  }
});

test("is of one finite matrix", () => {
  expect(() => qr(tensor(2))).toThrow("qr: needs one matrix, got [].");
  expect(() => qr(tensor([[Number.NaN]]))).toThrow("qr: entry [0, 0]");
});
