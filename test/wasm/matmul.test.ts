import fc from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import {
  type MatmulOperand,
  type MatmulProblem,
  type MatmulVariant,
  matmulArgumentWords,
  matmulModule,
  planMatmul,
  writeMatmulArguments,
} from "../../kernels/wasm/matmul.ts";
import { argument } from "../../kernels/wasm/matmul-arguments.ts";
import { features } from "../../src/devices/wasm/features.ts";
import { DeviceMemory } from "../../src/devices/wasm/memory.ts";
import { Pool } from "../../src/devices/wasm/pool.ts";
import { fromBFloat16Bits, fromFloat16Bits, toBFloat16Bits, toFloat16Bits } from "../../src/graph/dtype.ts";

/** One thread, three threads, and three without fused multiply-add: each with its own memory and cache of modules. */
const setups = [
  { threads: 1, fused: features().relaxedSimd },
  { threads: 3, fused: features().relaxedSimd },
  { threads: 2, fused: false },
].map(({ threads, fused }) => {
  const memory = new DeviceMemory({ shared: threads > 1 });
  return { threads, fused, memory, pool: new Pool(memory, { threads }), kernels: new Map<string, number>() };
});
afterAll(() => {
  for (const { pool } of setups) pool.dispose();
});

type Values = Float32Array | Uint16Array;
interface Data {
  readonly a: Float32Array;
  readonly b: Values;
  readonly addend: Float32Array | undefined;
  readonly update?: { readonly a: Float32Array; readonly b: Float32Array };
  /** Elements of C's buffer, gaps between rows included. */
  readonly cLength: number;
}
const sentinel = 12345.5;

/** C's whole buffer, filled with a sentinel before; `undefined` where the plan wants a copy. */
function multiply(setup: (typeof setups)[number], problem: MatmulProblem, data: Data): Float32Array | undefined {
  const { memory, pool, threads, fused, kernels } = setup;
  const plan = planMatmul(problem, threads);
  if (plan === undefined) return undefined;
  let kernel = kernels.get(plan.key);
  if (kernel === undefined) {
    kernel = pool.add(matmulModule(plan.variant, { shared: memory.shared, fused }))["matmul"]!;
    kernels.set(plan.key, kernel);
  }
  const put = (values: Values) => {
    const address = memory.allocate(values.byteLength);
    // what lies after an operand must not matter
    memory.f32(address + 4 * Math.floor(values.byteLength / 4), 16).fill(Number.NaN);
    if (values instanceof Float32Array) memory.f32(address, values.length).set(values);
    else memory.u16(address, values.length).set(values);
    return address;
  };
  const a = put(data.a);
  const b = put(data.b);
  const c = put(new Float32Array(data.cLength).fill(sentinel));
  const addend = data.addend === undefined ? undefined : put(data.addend);
  const scratch = memory.allocate(threads * plan.scratchBytes);
  memory.f32(scratch, (threads * plan.scratchBytes) / 4).fill(Number.NaN);
  const block = memory.allocate(4 * matmulArgumentWords);
  const update = data.update && { a: put(data.update.a), b: put(data.update.b) };
  const addresses = { a, b, c, scratch, ...(addend !== undefined && { addend }), ...(update && { update }) };
  writeMatmulArguments(memory.i32(block, matmulArgumentWords), plan, addresses);
  pool.run(kernel, plan.tasks, block);
  const result = memory.f32(c, data.cLength).slice();
  expect([...memory.f32(c + 4 * data.cLength, 16)].every(Number.isNaN), "the slack after C is untouched").toBe(true);
  const optional = [...(addend === undefined ? [] : [addend]), ...(update ? [update.a, update.b] : [])];
  for (const address of [a, b, c, scratch, block, ...optional]) memory.free(address);
  return result;
}

const at = (x: MatmulOperand, batch: readonly number[], row: number, column: number): number =>
  batch.reduce((sum, index, axis) => sum + index * x.batch[axis]!, row * x.row + column * x.column);

/** The product by its definition in float64, and per element the sum of magnitudes that bounds the rounding error. */
function expected(problem: MatmulProblem, data: Data): { values: Float64Array; scale: Float64Array } {
  const { M, N, K, a, b, c, addend, update, batch, bType = "float32" } = problem;
  const values = new Float64Array(data.cLength).fill(sentinel);
  const scale = new Float64Array(data.cLength);
  const widen = bType === "float16" ? fromFloat16Bits : bType === "bfloat16" ? fromBFloat16Bits : (x: number) => x;
  for (let i = 0; i < batch[0]; i++)
    for (let j = 0; j < batch[1]; j++)
      for (let l = 0; l < batch[2]; l++)
        for (let m = 0; m < M; m++)
          for (let n = 0; n < N; n++) {
            const index = [i, j, l];
            let sum = addend === undefined ? 0 : data.addend![at(addend, index, m, n)]!;
            let size = Math.abs(sum);
            for (let k = 0; k < K; k++) {
              const product = data.a[at(a, index, m, k)]! * widen(data.b[at(b, index, k, n)]!);
              sum += product;
              size += Math.abs(product);
            }
            for (let k = 0; update && k < update.K; k++) {
              const product = data.update!.a[at(update.a, index, m, k)]! * data.update!.b[at(update.b, index, k, n)]!;
              sum += product;
              size += Math.abs(product);
            }
            values[at(c, index, m, n)] = sum;
            scale[at(c, index, m, n)] = size;
          }
  return { values, scale };
}

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

let seed = 1;
/** Deterministic values in [−1, 1). */
function random(): number {
  seed = (Math.imul(seed, 1664525) + 1013904223) | 0;
  return seed / 2 ** 31;
}

interface Shape {
  readonly batch: readonly [number, number, number];
  readonly M: number;
  readonly N: number;
  readonly K: number;
  readonly aTurned: boolean;
  readonly bTurned: boolean;
  readonly bType: MatmulVariant["bType"];
  readonly addend: "none" | "matrix" | "row" | "column" | "number";
  /** Elements between rows more than needed. */
  readonly gap: number;
  /** Batch axes along which an operand repeats. */
  readonly repeatA: readonly boolean[];
  readonly repeatB: readonly boolean[];
}

/** Strides and data of a problem. */
function build(shape: Shape): [MatmulProblem, Data] {
  const { batch, M, N, K, gap } = shape;
  const layout = (rows: number, columns: number, turned: boolean, repeat: readonly boolean[]): [MatmulOperand, number] => {
    const long = (turned ? rows : columns) + gap;
    const matrix = long * (turned ? columns : rows);
    const strides: [number, number, number] = [0, 0, 0];
    let length = matrix;
    for (let axis = 2; axis >= 0; axis--) {
      if (repeat[axis]) continue;
      strides[axis] = length;
      length *= batch[axis]!;
    }
    return [{ batch: strides, row: turned ? 1 : long, column: turned ? long : 1 }, length];
  };
  const none = [false, false, false];
  const [a, aLength] = layout(M, K, shape.aTurned, shape.repeatA);
  const [b, bLength] = layout(K, N, shape.bTurned, shape.repeatB);
  const [c, cLength] = layout(M, N, false, none);
  const floats = (length: number) => Float32Array.from({ length }, random);
  const narrow = shape.bType === "float16" ? toFloat16Bits : toBFloat16Bits;
  const bValues = shape.bType === "float32" ? floats(bLength) : Uint16Array.from(floats(bLength), narrow);
  const strides = { matrix: [c.row, 1], row: [0, 1], column: [1, 0], number: [0, 0], none: [0, 0] }[shape.addend] as [
    number,
    number,
  ];
  const addend: MatmulOperand = { batch: shape.addend === "matrix" ? c.batch : [0, 0, 0], row: strides[0], column: strides[1] };
  const problem: MatmulProblem = { batch, M, N, K, a, b, c, bType: shape.bType, ...(shape.addend !== "none" && { addend }) };
  return [
    problem,
    { a: floats(aLength), b: bValues, addend: shape.addend === "none" ? undefined : floats(Math.max(cLength, M, N)), cLength },
  ];
}

const plain: Shape = {
  batch: [1, 1, 1],
  M: 1,
  N: 1,
  K: 1,
  aTurned: false,
  bTurned: false,
  bType: "float32",
  addend: "none",
  gap: 0,
  repeatA: [false, false, false],
  repeatB: [false, false, false],
};

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
});

/** The problem with a second product of depth `K` added. */
function withUpdate([problem, data]: [MatmulProblem, Data], shape: Shape, K: number, bTurned: boolean): [MatmulProblem, Data] {
  const [second, secondData] = build({ ...shape, K, aTurned: false, bTurned, bType: "float32", addend: "none" });
  return [
    { ...problem, update: { K, a: second.a, b: second.b } },
    { ...data, update: { a: secondData.a, b: secondData.b as Float32Array } },
  ];
}

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
});

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
  // many a thread where narrow columns cost nothing, and rows no lower than one thread has them
  const [big] = build({ ...plain, M: 512, N: 512, K: 256 });
  expect(planMatmul(big, 2)!.tasks).toBeGreaterThanOrEqual(2 * 16);
  expect(planMatmul(big, 2)!.words[argument.rowBlock]).toBe(planMatmul(big, 1)!.words[argument.rowBlock]);
  const [problem] = build({ ...plain, M: 16, N: 16, K: 16 });
  expect(planMatmul(problem, 4)).toMatchObject({ tasks: 1, small: true });
});
