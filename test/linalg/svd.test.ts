import fc from "fast-check";
import { SingularValueDecomposition } from "ml-matrix";
import { expect, test } from "vitest";
import { useDevice } from "../../src/compile/program.ts";
import { createReference } from "../../src/devices/reference/device.ts";
import { matmul } from "../../src/graph/contraction.ts";
import type { Tensor } from "../../src/graph/node.ts";
import type { Matrix } from "../../src/linalg/matrix.ts";
import { lstsq, pinv, svd, svdMatrix, svdvals } from "../../src/linalg/svd.ts";
import { svdLowrank, svdLowrankMatrix } from "../../src/linalg/svd-lowrank.ts";
import { TorchGenerator } from "../../src/random/torch-generator.ts";
import { fromTypedArray, tensor } from "../../src/tensor/create.ts";
import "../../src/tensor/methods.ts";
import { expectDerivative, float64 } from "../tensor/gradient.ts";
import reference from "./lowrank.json" with { type: "json" };
import { arrays, distance, filled, matrices, noise, product, turned } from "./matrices.ts";

useDevice(createReference());

/** U·diag(S)·Vᵀ */
const rebuilt = ({ U, S, Vt }: ReturnType<typeof svdMatrix>): Matrix =>
  product({ ...U, values: U.values.map((value, i) => value * S[i % U.columns]!) }, Vt);

function expectSvd(A: Matrix): void {
  const found = svdMatrix(A);
  const { U, S, Vt } = found;
  const k = Math.min(A.rows, A.columns);
  expect([U.rows, U.columns, S.length, Vt.rows, Vt.columns]).toEqual([A.rows, k, k, k, A.columns]);
  const allowed = 1e-14 * Math.max(A.rows, A.columns);
  expect(distance(rebuilt(found), A)).toBeLessThanOrEqual(allowed * (S[0] ?? 0));
  expect(distance(product(turned(U), U), "identity")).toBeLessThanOrEqual(allowed);
  expect(distance(product(Vt, turned(Vt)), "identity")).toBeLessThanOrEqual(allowed);
  for (let i = 0; i < k; i++) expect(S[i]!).toBeGreaterThanOrEqual(S[i + 1] ?? 0);
}

test("is a decomposition: orthonormal, descending, its product the matrix", () => {
  fc.assert(fc.property(matrices(12), expectSvd), { numRuns: 200 });
  fc.assert(fc.property(matrices(90), expectSvd), { numRuns: 12 });
});

test("gives the singular values that ml-matrix gives", () => {
  fc.assert(
    fc.property(matrices(12, ["dense", "low rank", "bidiagonal", "sparse"]), (A) => {
      const { S } = svdMatrix(A);
      const want = new SingularValueDecomposition(arrays(A), { autoTranspose: true }).diagonal;
      for (const [i, value] of S.entries()) expect(Math.abs(value - want[i]!)).toBeLessThanOrEqual(1e-13 * (1 + S[0]!));
    }),
    { numRuns: 100 },
  );
});

test("zeros, single numbers and matrices without rows have decompositions", () => {
  expect([...svdMatrix(filled(3, 2, () => 0)).S]).toEqual([0, 0]);
  expect([...svdMatrix(filled(1, 1, () => -3)).S]).toEqual([3]);
  expect(svd(tensor([[0, -2]])).S.toArray()).toEqual([2]);
  expect(svdMatrix(filled(0, 3, () => 0)).S).toHaveLength(0);
});

test("keeps the dtype, and widens halves", () => {
  expect(svd(tensor([[1, 2]], { dtype: "float64" })).U.dtype).toBe("float64");
  expect(svd(tensor([[1, 2]], { dtype: "float16" })).U.dtype).toBe("float32");
});

test("is of one finite matrix of floats", () => {
  expect(() => svd(tensor([1, 2]))).toThrow("svd: needs one matrix, got [2].");
  expect(() => svd(tensor([[1, Number.NaN]]))).toThrow("svd: entry [0, 1] of the matrix [1, 2] is NaN.");
  expect(() => svd(tensor([[1], [Number.POSITIVE_INFINITY]]))).toThrow("entry [1, 0]");
  expect(() => svd(tensor([[1, 2]], { dtype: "int32" }))).toThrow("svd: needs floating-point values");
});

test("has first and second derivatives, of its values and of what does not depend on signs", () => {
  const next = noise(3);
  for (const [m, n] of [
    [2, 2],
    [3, 2],
    [2, 3],
  ] as const) {
    const values = Array.from({ length: m * n }, next);
    expectDerivative(svdvals, values, [m, n], 1e-5);
    const polar = (x: Tensor) => {
      const { U, Vt } = svd(x);
      return matmul(U, Vt);
    };
    expectDerivative(polar, values, [m, n], 1e-5);
  }
});

test("pinv satisfies Penrose's four equations", () => {
  fc.assert(
    fc.property(matrices(8, ["dense", "low rank", "identity", "whole"]), (A) => {
      const P = pinv(float64([...A.values], [A.rows, A.columns])).dataSync() as Float64Array;
      const inverse = { rows: A.columns, columns: A.rows, values: P };
      const [left, right] = [product(A, inverse), product(inverse, A)];
      const size = 1 + Math.hypot(...P) * Math.hypot(...A.values);
      expect(distance(product(left, A), A)).toBeLessThanOrEqual(1e-13 * size * (1 + Math.hypot(...A.values)));
      expect(distance(product(right, inverse), inverse)).toBeLessThanOrEqual(1e-13 * size * (1 + Math.hypot(...P)));
      expect(distance(turned(left), left)).toBeLessThanOrEqual(1e-13 * size);
      expect(distance(turned(right), right)).toBeLessThanOrEqual(1e-13 * size);
    }),
    { numRuns: 50 },
  );
});

test("lstsq fits a line", () => {
  const A = tensor([
    [1, 0],
    [1, 1],
    [1, 2],
  ]);
  const [c, slope] = lstsq(A, tensor([[1], [3], [5]])).dataSync();
  expect(c).toBeCloseTo(1);
  expect(slope).toBeCloseTo(2);
});

test("svdLowrank is torch.svd_lowrank", () => {
  for (const { seed, shape, q, niter, A, S, product: want } of reference) {
    const found = svdLowrank(fromTypedArray(Float32Array.from(A), shape), q, { niter, random: new TorchGenerator(seed) });
    const values = found.S.dataSync();
    for (const [i, value] of S.entries()) expect(values[i]).toBeCloseTo(value, 4);
    const got = matmul(found.U.mul(found.S), found.Vt).dataSync();
    for (const [i, value] of want.entries()) expect(got[i]).toBeCloseTo(value, 4);
  }
});

test("svdLowrank finds a matrix of low rank exactly", () => {
  fc.assert(
    fc.property(matrices(20, ["low rank"]), (A) => {
      const q = Math.min(2, A.rows, A.columns);
      const found = svdLowrankMatrix(A, q, { niter: 1, random: new TorchGenerator(1) });
      expect(distance(rebuilt(found), A)).toBeLessThanOrEqual(1e-12 * Math.hypot(...A.values));
      const full = svdMatrix(A).S;
      for (const [i, value] of found.S.entries()) expect(Math.abs(value - full[i]!)).toBeLessThanOrEqual(1e-12 * full[0]!);
    }),
    { numRuns: 50 },
  );
  expect(() => svdLowrank(tensor([[1, 2]]), 2, { random: new TorchGenerator(0) })).toThrow("svdLowrank: `q` (= 2)");
});
