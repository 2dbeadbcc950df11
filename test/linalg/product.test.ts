import fc from "fast-check";
import { expect, test } from "vitest";
import { newKernels, plainLoops } from "../../src/linalg/kernel.ts";
import { multiplyAdd, part, turn } from "../../src/linalg/product.ts";
import { distance, filled, noise, product, turned } from "./matrices.ts";

test("products of parts of matrices, turned or not, are what three loops give", () => {
  const size = fc.oneof(fc.integer({ min: 1, max: 9 }), fc.integer({ min: 60, max: 70 }), fc.integer({ min: 250, max: 265 }));
  fc.assert(
    fc.property(size, size, size, fc.boolean(), fc.boolean(), fc.integer(), (m, n, k, turnA, turnB, seed) => {
      const next = noise(seed);
      const [A, B, C] = [filled(m, k, next), filled(k, n, next), filled(m, n, next)];
      const outer = filled(m + 1, n + 2, () => 7);
      C.values.forEach((value, at) => {
        outer.values[(1 + Math.floor(at / n)) * (n + 2) + 2 + (at % n)] = value;
      });
      const [a, b] = [turnA ? turn(part(turned(A), 0, 0)) : part(A, 0, 0), turnB ? turn(part(turned(B), 0, 0)) : part(B, 0, 0)];
      multiplyAdd(part(outer, 1, 2), a, b, -0.5);
      const AB = product(A, B);
      const want = filled(m + 1, n + 2, (i, j) =>
        i < 1 || j < 2 ? 7 : C.values[(i - 1) * n + j - 2]! - 0.5 * AB.values[(i - 1) * n + j - 2]!,
      );
      expect(distance(outer, want)).toBeLessThanOrEqual(1e-14 * k * Math.sqrt(m * n));
    }),
    { numRuns: 25 },
  );
});

test("the kernels are the plain loops", () => {
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 11 }), fc.integer({ min: 0, max: 11 }), fc.integer(), (rows, columns, seed) => {
      const next = noise(seed);
      const kernels = newKernels(1000);
      const step = columns + 1;
      const A = kernels.array(rows * step).map(() => 0);
      const [inMemory, x, y, z] = [
        kernels.array(rows * step),
        kernels.array(columns),
        kernels.array(rows),
        kernels.array(columns),
      ];
      for (const array of [inMemory, x, z]) array.forEach((_, i) => (array[i] = next()));
      A.set(inMemory);
      const [plainY, plainZ] = [new Float64Array(rows), z.slice()];
      kernels.dots(y, inMemory, x, rows, columns, step);
      plainLoops.dots(plainY, A, x, rows, columns, step);
      kernels.combine(z, inMemory, y, rows, columns, step);
      plainLoops.combine(plainZ, A, y, rows, columns, step);
      y.forEach((value, i) => {
        expect(value).toBeCloseTo(plainY[i]!, 12);
      });
      z.forEach((value, i) => {
        expect(value).toBeCloseTo(plainZ[i]!, 12);
      });
    }),
    { numRuns: 100 },
  );
  const kernels = newKernels(1000);
  const [a, b, c, plain] = [kernels.array(8 * 5), kernels.array(4 * 5), kernels.array(8 * 6), new Float64Array(8 * 6)];
  const next = noise(1);
  for (const array of [a, b]) array.forEach((_, i) => (array[i] = next()));
  kernels.multiply(a, b, c, 2, 1, 5, 6);
  plainLoops.multiply(a, b, plain, 2, 1, 5, 6);
  c.forEach((value, i) => {
    expect(value).toBeCloseTo(plain[i]!, 12);
  });
});
