// Which kernels a mode keeps ready when it is asked for more of them than it keeps at first.
import { expect, test } from "vitest";
import { type GpuKernel, KernelCache } from "../../src/devices/gpu/backend.ts";
import { kernelsKept } from "../../src/devices/gpu/gl-backend.ts";
import type { Pass } from "../../src/devices/gpu/plan.ts";

const passOf = (n: number): Pass => ({ source: `function () { return ${n}; }`, functions: [], args: [], count: 1 });

/** A cache of kernels that do nothing, and how many of them live. */
function watched(most: number, mostOfAll: number) {
  const living = new Set<number>();
  const cache = new KernelCache(most, mostOfAll, (pass) => {
    const n = Number(/return (\d+)/.exec(pass.source)![1]);
    expect(living).not.toContain(n);
    living.add(n);
    return Object.assign(() => 0, { destroy: () => void living.delete(n) }) as unknown as GpuKernel;
  });
  /** One training step: so many passes, one after the other. */
  const step = (from: number, to: number) => {
    for (let n = from; n < to; n++) cache.get(passOf(n), []);
  };
  return { cache, living, step };
}

test("the kernels that were used longest ago make room, and are destroyed", () => {
  const { cache, living, step } = watched(10, 40);
  step(0, 10);
  step(5, 10);
  step(10, 15);
  expect([...living].sort((a, b) => a - b)).toEqual([5, 6, 7, 8, 9, 10, 11, 12, 13, 14]);
  expect(cache.size).toBe(10);
});

test.each([11, 25, 40])(
  "a step of %i kernels, where 10 are kept at first, compiles nothing from its third time on",
  (kernels) => {
    const { cache, living, step } = watched(10, 40);
    for (let i = 0; i < 3; i++) step(0, kernels);
    const { compilations } = cache;
    // most of them twice: they had to go before anybody knew that they would be back
    expect(compilations).toBeLessThanOrEqual(2 * kernels);
    for (let i = 0; i < 5; i++) step(0, kernels);
    expect(cache.compilations).toBe(compilations);
    expect(living.size).toBe(kernels);
  },
);

test("many batch shapes, each for a while, keep as many kernels as at first", () => {
  const { cache, living, step } = watched(10, 40);
  for (let shape = 0; shape < 20; shape++) for (let i = 0; i < 3; i++) step(8 * shape, 8 * shape + 8);
  expect(cache.compilations).toBe(160);
  expect(living.size).toBe(10);
});

test("there is a most of all", () => {
  const { living, step } = watched(10, 40);
  for (let i = 0; i < 4; i++) step(0, 45);
  expect(living.size).toBe(40);
  expect(kernelsKept.mostOfAll).toBeGreaterThanOrEqual(4 * kernelsKept.most);
});

test("a step of more kernels than may be kept compiles them all anyway, and raises nothing", () => {
  const { living, step } = watched(10, 40);
  for (let i = 0; i < 3; i++) step(0, 100);
  expect(living.size).toBe(10);
});

test("names and texts are remembered of as many kernels as may be kept, however many there were", () => {
  const { cache, living, step } = watched(10, 40);
  step(0, 1000);
  expect(living.size).toBe(10);
  expect(cache.remembered).toBe(40 + 80);
  // the last ones that went are known, and their coming back raises what is kept
  step(970, 990);
  expect(living.size).toBeGreaterThan(10);
});

test("a text that was forgotten while its kernel lived is compiled once more", () => {
  const made: number[] = [];
  const cache = new KernelCache(10, 10, (pass) => {
    made.push(Number(/return (\d+)/.exec(pass.source)![1]));
    return Object.assign(() => 0, { destroy() {} }) as unknown as GpuKernel;
  });
  const [first, ...others] = Array.from({ length: 22 }, (_, n) => passOf(n));
  for (const other of others) {
    cache.get(first!, []);
    cache.get(other, []);
  }
  expect(made.filter((n) => n === 0)).toEqual([0]);
  cache.get(passOf(0), []);
  cache.get(passOf(0), []);
  expect(made.filter((n) => n === 0)).toEqual([0, 0]);
});
