import fc from "fast-check";
import { EigenvalueDecomposition } from "ml-matrix";
import { expect, test } from "vitest";
import { useDevice } from "../../src/compile/program.ts";
import { createReference } from "../../src/devices/reference/device.ts";
import { matmul } from "../../src/graph/contraction.ts";
import { sliceAxis, transpose } from "../../src/graph/movement.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { eigh, eighMatrix } from "../../src/linalg/eigh.ts";
import type { Matrix } from "../../src/linalg/matrix.ts";
import { tensor } from "../../src/tensor/create.ts";
import "../../src/tensor/methods.ts";
import { expectDerivative } from "../tensor/gradient.ts";
import { arrays, distance, filled, matrices, noise, product, turned } from "./matrices.ts";

useDevice(createReference());

/** The square in the corner, made symmetric. */
function symmetric(A: Matrix): Matrix {
  const n = Math.min(A.rows, A.columns);
  const at = (i: number, j: number) => A.values[i * A.columns + j]!;
  return filled(n, n, (i, j) => (at(i, j) + at(j, i)) / 2);
}

function expectEigen(A: Matrix): void {
  const { values, vectors } = eighMatrix(A);
  const allowed = 1e-14 * A.rows;
  const shares = { ...vectors, values: vectors.values.map((value, at) => value * values[Math.floor(at / A.rows)]!) };
  expect(distance(product(turned(vectors), shares), A)).toBeLessThanOrEqual(allowed * Math.hypot(...A.values));
  expect(distance(product(vectors, turned(vectors)), "identity")).toBeLessThanOrEqual(allowed);
  for (let i = 1; i < A.rows; i++) expect(values[i]!).toBeGreaterThanOrEqual(values[i - 1]!);
}

test("is a decomposition: orthonormal, ascending, its product the matrix", () => {
  fc.assert(fc.property(matrices(12).map(symmetric), expectEigen), { numRuns: 200 });
  fc.assert(fc.property(matrices(90).map(symmetric), expectEigen), { numRuns: 12 });
});

test("gives the eigenvalues that ml-matrix gives", () => {
  fc.assert(
    fc.property(matrices(12, ["dense", "low rank", "sparse"]).map(symmetric), (A) => {
      const { values } = eighMatrix(A);
      const want = new EigenvalueDecomposition(arrays(A), { assumeSymmetric: true }).realEigenvalues.sort((a, b) => a - b);
      const size = Math.hypot(...A.values);
      for (const [i, value] of values.entries()) expect(Math.abs(value - want[i]!)).toBeLessThanOrEqual(1e-13 * (1 + size));
    }),
    { numRuns: 100 },
  );
});

test("reads the entries on and below the diagonal", () => {
  const { values } = eigh(
    tensor([
      [2, 99],
      [1, 2],
    ]),
  );
  expect(values.toArray()).toEqual([1, 3]);
});

test("has first and second derivatives, of its values and of what does not depend on signs", () => {
  const next = noise(8);
  const values = Array.from({ length: 9 }, next);
  const even = (x: Tensor) => x.add(transpose(x));
  expectDerivative((x) => eigh(even(x)).values, values, [3, 3], 1e-5);
  const projector = (x: Tensor) => {
    const V = sliceAxis(eigh(even(x)).vectors, 1, 0, 1);
    return matmul(V, transpose(V));
  };
  expectDerivative(projector, values, [3, 3], 1e-5);
});

test("is of one finite square matrix", () => {
  expect(() => eigh(tensor([[1, 2]]))).toThrow("eigh: needs a square matrix, got [1, 2].");
  expect(() => eigh(tensor([[Number.NaN]]))).toThrow("eigh: entry [0, 0]");
});
