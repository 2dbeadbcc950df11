import fc from "fast-check";
import { expect, test } from "vitest";
import { useDevice } from "../../src/compile/program.ts";
import { createReference } from "../../src/devices/reference/device.ts";
import type { Matrix } from "../../src/linalg/matrix.ts";
import { svd, svdMatrix } from "../../src/linalg/svd.ts";
import { tensor } from "../../src/tensor/create.ts";
import { distance, matrices, product, turned } from "./matrices.ts";

useDevice(createReference());

/** U·diag(S)·Vᵀ */
const rebuilt = ({ U, S, Vt }: ReturnType<typeof svdMatrix>): Matrix =>
  product({ ...U, values: U.values.map((value, i) => value * S[i % U.columns]!) }, Vt);

test("is a decomposition: orthonormal, descending, its product the matrix", () => {
  fc.assert(
    fc.property(matrices(), (A) => {
      const found = svdMatrix(A);
      const { U, S, Vt } = found;
      const k = Math.min(A.rows, A.columns);
      expect([U.rows, U.columns, S.length, Vt.rows, Vt.columns]).toEqual([A.rows, k, k, k, A.columns]);
      const allowed = 1e-14 * Math.max(A.rows, A.columns);
      expect(distance(rebuilt(found), A)).toBeLessThanOrEqual(allowed * (S[0] ?? 0));
      expect(distance(product(turned(U), U), "identity")).toBeLessThanOrEqual(allowed);
      expect(distance(product(Vt, turned(Vt)), "identity")).toBeLessThanOrEqual(allowed);
      for (let i = 0; i < k; i++) expect(S[i]!).toBeGreaterThanOrEqual(S[i + 1] ?? 0);
    }),
    { numRuns: 300 },
  );
});

test("is of one finite matrix", () => {
  expect(() => svd(tensor([1, 2]))).toThrow("svd: needs one matrix, got [2].");
  expect(() => svd(tensor([[1, Number.NaN]]))).toThrow("svd: entry [0, 1] of the matrix [1, 2] is NaN.");
});
