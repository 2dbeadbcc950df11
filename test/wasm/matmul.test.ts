import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  type MatmulProblem,
  matmulArgumentWords,
  matmulModule,
  planMatmul,
  writeMatmulArguments,
} from "../../kernels/wasm/matmul.ts";
import { build, type Data, expected, multiply, plain, type Shape, setups, withUpdate } from "./matmul-problems.ts";

function check(problem: MatmulProblem, data: Data): void {
  const results = setups.map((setup) => multiply(setup, problem, data));
  const { values, scale } = expected(problem, data);
  for (const result of results) {
    expect(result).toBeDefined();
    values.forEach((want, i) => {
      const error = Math.abs(result![i]! - want);
      if (!(error <= (problem.K + (problem.update?.K ?? 0) + 2) * 2 ** -24 * scale[i]!))
        expect([i, result![i]]).toEqual([i, want]);
    });
  }
  expect(
    Buffer.compare(Buffer.from(results[0]!.buffer), Buffer.from(results[1]!.buffer)),
    "1 and 3 threads agree to the bit",
  ).toBe(0);
}

test("random products of all layouts agree with the definition, and threads do not change a bit", async () => {
  await setups[1]!.pool.ready();
  const size = fc.oneof(fc.integer({ min: 0, max: 9 }), fc.integer({ min: 10, max: 40 }));
  const flags = fc.tuple(fc.boolean(), fc.boolean(), fc.boolean());
  const few = fc.oneof({ weight: 3, arbitrary: fc.constant(1) }, fc.integer({ min: 0, max: 3 }));
  const shape = fc.record({
    batch: fc.tuple(few, few, few),
    M: size,
    N: size,
    K: size,
    aTurned: fc.boolean(),
    bTurned: fc.boolean(),
    bType: fc.constantFrom("float32", "float16", "bfloat16"),
    addend: fc.constantFrom("none", "matrix", "row", "column", "number"),
    gap: fc.integer({ min: 0, max: 3 }),
    repeatA: flags,
    repeatB: flags,
  });
  fc.assert(
    fc.property(shape, (drawn) => check(...build(drawn))),
    { numRuns: 400 },
  );
}, 180_000);

test("a second, shallow product is added in the tiles of the first", () => {
  const size = fc.integer({ min: 5, max: 40 });
  const shape = fc.record({
    batch: fc.tuple(fc.integer({ min: 1, max: 2 }), fc.integer({ min: 1, max: 2 }), fc.constant(1)),
    M: size,
    N: size,
    K: fc.oneof(fc.integer({ min: 0, max: 40 }), fc.constantFrom(255, 300, 514)),
    aTurned: fc.constant(false),
    bTurned: fc.boolean(),
    bType: fc.constantFrom("float32", "float16", "bfloat16"),
    addend: fc.constantFrom("none", "matrix", "row", "column", "number"),
    gap: fc.integer({ min: 0, max: 3 }),
    repeatA: fc.constant([false, false, false]),
    repeatB: fc.tuple(fc.boolean(), fc.boolean(), fc.boolean()),
  });
  fc.assert(
    fc.property(shape, fc.integer({ min: 0, max: 64 }), fc.boolean(), (drawn, depth, bTurned) =>
      check(...withUpdate(build(drawn), drawn, depth, bTurned)),
    ),
    { numRuns: 150 },
  );
}, 60_000);

test("a second product that cannot share the tiles has no plan", () => {
  const shape: Shape = { ...plain, M: 20, N: 20, K: 20 };
  const [problem] = withUpdate(build(shape), shape, 8, false);
  const update = problem.update!;
  const turned = build({ ...shape, aTurned: true })[0].a;
  expect(planMatmul(problem, 2)).toBeDefined();
  expect(planMatmul({ ...problem, M: 3 }, 2)).toBeUndefined();
  expect(planMatmul({ ...problem, a: turned }, 2)).toBeUndefined();
  expect(planMatmul({ ...problem, update: { ...update, a: turned } }, 2)).toBeUndefined();
  expect(planMatmul({ ...problem, update: { ...update, b: { ...update.b, row: 40, column: 2 } } }, 2)).toBeUndefined();
  expect(planMatmul({ ...problem, update: { ...update, K: 65 } }, 2)).toBeUndefined();
});

describe("larger products, split over threads and over the depth", () => {
  const sizes: [M: number, N: number, K: number][] = [
    [70, 150, 300],
    [200, 8, 256],
    [133, 260, 8],
    [1, 1000, 300],
    [1, 70, 513],
    [3, 300, 257],
    [4, 129, 1000],
    [500, 1, 300],
    [6, 8, 1025],
  ];
  for (const [M, N, K] of sizes)
    for (const [aTurned, bTurned] of [
      [false, false],
      [true, false],
      [false, true],
      [true, true],
    ] as const)
      test(`[${M}, ${K}]${aTurned ? "ᵀ" : ""} · [${K}, ${N}]${bTurned ? "ᵀ" : ""}`, () => {
        check(...build({ ...plain, M, N, K, aTurned, bTurned, addend: N % 2 === 0 ? "row" : "matrix" }));
      });
});

test("the addend may be the result's own buffer", () => {
  for (const M of [1, 3, 20]) {
    const [problem, data] = build({ ...plain, M, N: 21, K: 300, addend: "matrix" });
    const { values } = expected(problem, data);
    for (const setup of setups) {
      const { memory, pool } = setup;
      const plan = planMatmul(problem, setup.threads)!;
      const kernel = pool.add(matmulModule(plan.variant, { shared: memory.shared, fused: setup.fused }))["matmul"]!;
      const [a, b, c, scratch, block] = [
        data.a.length * 4,
        data.b.length * 4,
        data.cLength * 4,
        setup.threads * plan.scratchBytes,
        256,
      ].map((bytes) => memory.allocate(bytes)) as [number, number, number, number, number];
      memory.f32(a, data.a.length).set(data.a);
      memory.f32(b, data.b.length).set(data.b);
      memory.f32(c, data.cLength).set(data.addend!.subarray(0, data.cLength));
      writeMatmulArguments(memory.i32(block, matmulArgumentWords), plan, { a, b, c, addend: c, scratch });
      pool.run(kernel, plan.tasks, block);
      memory.f32(c, data.cLength).forEach((value, i) => {
        expect(Math.abs(value - values[i]!)).toBeLessThan(1e-4);
      });
      for (const address of [a, b, c, scratch, block]) memory.free(address);
    }
  }
});

test("NaN and infinity stay in the rows and columns they belong to", () => {
  const [problem, data] = build({ ...plain, M: 13, N: 21, K: 10 });
  data.a[3 * 10 + 2] = Number.NaN;
  data.b[4 * 21 + 20] = Number.POSITIVE_INFINITY;
  for (const setup of setups) {
    const result = multiply(setup, problem, data)!;
    result.forEach((value, i) => {
      expect(Number.isFinite(value)).toBe(Math.floor(i / 21) !== 3 && i % 21 !== 20);
    });
  }
});

test("operands without a contiguous axis have no plan", () => {
  const [problem] = build({ ...plain, M: 8, N: 8, K: 8 });
  const strided = { ...problem.a, row: 16, column: 2 };
  expect(planMatmul({ ...problem, a: strided }, 2)).toBeUndefined();
  expect(planMatmul({ ...problem, b: strided }, 2)).toBeUndefined();
  expect(planMatmul({ ...problem, c: strided }, 2)).toBeUndefined();
  expect(planMatmul({ ...problem, addend: strided }, 2)).toBeUndefined();
});

test("large products have tasks for every thread, whatever their shape; small ones are left whole", () => {
  for (const [M, N, K] of [
    [512, 512, 512],
    [512, 8, 256],
    [8, 512, 256],
    [1, 1024, 512],
    [1024, 1, 512],
  ] as const)
    for (const [aTurned, bTurned] of [
      [false, false],
      [true, true],
    ] as const) {
      const [problem] = build({ ...plain, M, N, K, aTurned, bTurned });
      expect(planMatmul(problem, 4)!.tasks, `${M} ${N} ${K}`).toBeGreaterThanOrEqual(8);
    }
  const [problem] = build({ ...plain, M: 16, N: 16, K: 16 });
  expect(planMatmul(problem, 4)).toMatchObject({ tasks: 1, small: true });
});
