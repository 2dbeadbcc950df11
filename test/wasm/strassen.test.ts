import fc from "fast-check";
import { expect, test } from "vitest";
import {
  type MatmulProblem,
  matmulArgumentWords,
  matmulModule,
  planMatmul,
  strassenSize,
  writeMatmulArguments,
} from "../../kernels/wasm/matmul.ts";
import { build, type Data, expected, multiply, plain, setups, withUpdate } from "./matmul-problems.ts";

/** Sizes from which these tests have products by quarters. */
const from = 16;

/** Within what Higham's bound (Accuracy and Stability of Numerical Algorithms, (23.20), one level) allows, and the same on any number of threads. */
function check(problem: MatmulProblem, data: Data): void {
  for (const setup of setups) expect(planMatmul(problem, setup.threads, from)!.variant.method).toBe("strassen");
  const results = setups.map((setup) => multiply(setup, problem, data, from)!);
  const { values, scale } = expected(problem, data);
  const half = problem.K / 2;
  // operands lie in [−1, 1)
  const bound = 18 * half * (half + 6) * 2 ** -24;
  for (const result of results)
    values.forEach((want, i) => {
      const error = Math.abs(result[i]! - want);
      if (!(error <= bound + (problem.K + (problem.update?.K ?? 0) + 2) * 2 ** -24 * scale[i]!))
        expect([i, result[i]]).toEqual([i, want]);
    });
  expect(Buffer.compare(Buffer.from(results[0]!.buffer), Buffer.from(results[1]!.buffer)), "to the bit").toBe(0);
}

const even = fc.integer({ min: 8, max: 30 }).map((half) => 2 * half);
const shapes = fc.record({
  batch: fc.tuple(fc.integer({ min: 1, max: 2 }), fc.integer({ min: 1, max: 2 }), fc.constant(1)),
  M: even,
  N: fc.constantFrom(32, 48, 80),
  K: fc.constantFrom(16, 24, 40, 136),
  aTurned: fc.boolean(),
  bTurned: fc.boolean(),
  bType: fc.constantFrom("float32" as const, "float16" as const, "bfloat16" as const),
  addend: fc.constantFrom("none" as const, "matrix" as const, "row" as const),
  gap: fc.integer({ min: 0, max: 3 }),
  repeatA: fc.tuple(fc.boolean(), fc.boolean(), fc.boolean()),
  repeatB: fc.tuple(fc.boolean(), fc.boolean(), fc.boolean()),
});

test("products by quarters of all layouts agree with the definition, and threads do not change a bit", () => {
  fc.assert(
    fc.property(shapes, (drawn) => check(...build(drawn))),
    { numRuns: 40 },
  );
}, 60_000);

test("a second, shallow product is added to them", () => {
  fc.assert(
    fc.property(shapes, fc.integer({ min: 0, max: 64 }), fc.boolean(), (drawn, depth, bTurned) => {
      const shape = { ...drawn, aTurned: false };
      check(...withUpdate(build(shape), shape, depth, bTurned));
    }),
    { numRuns: 25 },
  );
}, 60_000);

test("several rounds over the depth, and more blocks than one", () => {
  for (const [aTurned, bTurned] of [
    [false, true],
    [true, false],
  ] as const) {
    const shape = { ...plain, M: 28, N: 288, K: 1032, aTurned, bTurned, addend: "matrix" as const };
    check(...build(shape));
    if (!aTurned) check(...withUpdate(build(shape), shape, 8, bTurned));
  }
});

test("the addend may be the result's own buffer, also where values are not finite", () => {
  const [problem, data] = build({ ...plain, M: 60, N: 48, K: 520, addend: "matrix" });
  const { values } = expected(problem, data);
  data.a[3 * 520] = Number.POSITIVE_INFINITY;
  for (const setup of setups) {
    const { memory, pool, threads, fused } = setup;
    const plan = planMatmul(problem, threads, from)!;
    const kernel = pool.add(matmulModule(plan.variant, { shared: memory.shared, fused }))["matmul"]!;
    const bytes = [4 * data.a.length, 4 * data.b.length, 4 * data.cLength, threads * plan.scratchBytes, 4 * matmulArgumentWords];
    const [a, b, c, scratch, block] = bytes.map((size) => memory.allocate(size)) as [number, number, number, number, number];
    memory.f32(a, data.a.length).set(data.a);
    memory.f32(b, data.b.length).set(data.b);
    memory.f32(c, data.cLength).set(data.addend!.subarray(0, data.cLength));
    writeMatmulArguments(memory.i32(block, matmulArgumentWords), plan, { a, b, c, addend: c, scratch });
    pool.run(kernel, plan.tasks, block);
    memory.f32(c, data.cLength).forEach((value, i) => {
      if (Math.floor(i / 48) === 3) expect(Number.isFinite(value)).toBe(false);
      else expect(Math.abs(value - values[i]!)).toBeLessThan(1e-3);
    });
    for (const address of [a, b, c, scratch, block]) memory.free(address);
  }
});

test("values that are not finite, and overflows of sums, give what the plain product gives", () => {
  const [M, N, K] = [36, 64, 528];
  const half = K / 2;
  const cases: [name: string, change: (data: Data) => void][] = [
    ["−∞ in the addend", ({ addend }) => addend!.fill(Number.NEGATIVE_INFINITY, 5 * N + 30, 5 * N + 32)],
    ["∞ in A", ({ a }) => a.fill(Number.POSITIVE_INFINITY, 20 * K + 300, 20 * K + 301)],
    ["NaN in B, second half of the depth", ({ b }) => b.fill(Number.NaN, 400 * N + 40, 400 * N + 41)],
    [
      "∞ in A and −∞ in B",
      ({ a, b }) => {
        a[7] = Number.POSITIVE_INFINITY;
        b[500 * N + 63] = Number.NEGATIVE_INFINITY;
      },
    ],
    [
      "sums that overflow",
      ({ a, b }) => {
        a.fill(3e38, 2 * K, 3 * K).fill(3e38, 20 * K, 21 * K);
        b.fill(1e-20);
      },
    ],
    [
      "products that overflow",
      ({ a, b }) => {
        a.fill(1e30, 0, half).fill(0, half, K);
        b.fill(1e-30, 0, half * N).fill(1e30, half * N);
      },
    ],
  ];
  for (const [name, change] of cases) {
    const [problem, data] = build({ ...plain, M, N, K, addend: "matrix" });
    change(data);
    const plainly = multiply(setups[0]!, problem, data, Number.POSITIVE_INFINITY)!;
    const scale = plainly.reduce((most, value) => (Number.isFinite(value) ? Math.max(most, Math.abs(value)) : most), 1);
    const results = setups.map((setup) => multiply(setup, problem, data, from)!);
    for (const result of results)
      plainly.forEach((want, i) => {
        const close = Number.isFinite(want) ? Math.abs(result[i]! - want) <= 1e-4 * scale : Object.is(result[i], want);
        if (!close) expect([name, i, result[i]]).toEqual([name, i, want]);
      });
    expect(Buffer.compare(Buffer.from(results[0]!.buffer), Buffer.from(results[1]!.buffer)), `${name}: to the bit`).toBe(0);
  }
});

test("only big products whose halves are whole panels are computed so, and only where that is asked for", () => {
  const methodOf = (M: number, N: number, K: number, addend: "none" | "column" = "none", smallest = strassenSize) =>
    planMatmul(build({ ...plain, M, N, K, addend })[0], 2, smallest)!.variant.method;
  const size = strassenSize;
  expect(planMatmul(build({ ...plain, M: size, N: size, K: size })[0], 2)!.variant.method).toBe("tiles");
  expect(methodOf(size, size, size)).toBe("strassen");
  for (const sizes of [
    [size - 2, size, size],
    [size, size - 16, size],
    [size, size, size - 8],
  ] as [number, number, number][])
    expect(methodOf(...sizes)).toBe("tiles");
  for (const sizes of [
    [size + 1, size, size],
    [size, size + 8, size],
    [size, size, size + 4],
  ] as [number, number, number][])
    expect(methodOf(...sizes)).toBe("tiles");
  expect(methodOf(size, size, size, "column")).toBe("tiles");
  expect(methodOf(size, size, size, "none", Number.POSITIVE_INFINITY)).toBe("tiles");
});
