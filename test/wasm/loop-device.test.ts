import fc from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import type { Binding, Device, Dispatch } from "../../src/devices/device.ts";
import { type Instruction, loopProgramKey, type Slot } from "../../src/devices/loop-program.ts";
import { createWasm } from "../../src/devices/wasm/device.ts";
import { partition } from "../../src/devices/wasm/loop-arguments.ts";
import { planLoop } from "../../src/devices/wasm/loop-plan.ts";
import { matmulOp } from "../../src/graph/contraction.ts";
import type { DType, TypedArray } from "../../src/graph/dtype.ts";
import { elementwise } from "../../src/graph/elementwise.ts";
import { cumulativeSumOp, takeOp } from "../../src/graph/indexing.ts";
import type { CallGeometry, Operand } from "../../src/graph/primitive.ts";
import { reductions } from "../../src/graph/reduction.ts";
import { largeLoopCases } from "./loop-arbitrary.ts";
import { runCase } from "./loop-devices.ts";

const device = createWasm({ threads: 2 });
const single = createWasm({ threads: 1 });
const many = createWasm({ threads: 3 });
afterAll(() => {
  device[Symbol.dispose]();
  single[Symbol.dispose]();
  many[Symbol.dispose]();
});

const dense = (...shape: number[]): Operand => ({
  shape,
  strides: shape.map((_, axis) => shape.slice(axis + 1).reduce((a, b) => a * b, 1)),
  offset: 0,
});

function put(values: TypedArray, dtype: DType) {
  const buffer = device.allocate(values.byteLength);
  device.upload(values, dtype, { buffer, offset: 0 });
  return { buffer, offset: 0 };
}

/** Runs a call on float32 operands. */
function call(
  name: string,
  host: typeof matmulOp.host,
  operands: readonly [Operand, TypedArray, DType][],
  result: Operand,
): Float32Array {
  const executable = device.compileCall({ name, operands: operands.map(([, , dtype]) => dtype), results: ["float32"], host });
  const size = result.shape.reduce((a, b) => a * b, 1);
  const out = put(new Float32Array(size + result.offset), "float32");
  const inputs = operands.map(([, values, dtype]) => put(values, dtype));
  const geometry: CallGeometry = { operands: operands.map(([operand]) => operand), results: [result], attributes: {} };
  const dispatch = device.bind(executable, geometry, [...inputs, out], name);
  device.run([dispatch]);
  device.release(dispatch);
  const values = device.downloadSync!(out, "float32", size + result.offset) as Float32Array;
  for (const { buffer } of [...inputs, out]) buffer[Symbol.dispose]();
  return values.slice(result.offset);
}

const sameBits = (x: TypedArray, y: TypedArray) => Buffer.from(x.buffer).equals(Buffer.from(y.buffer));
const random = (length: number) => Float32Array.from({ length }, (_, i) => Math.sin(i * 12.9898) * 2);

/** A softmax over two rows: it keeps a row in scratch. */
function bindSoftmax(on: Device, inner: number, bindings: readonly Binding[]): Dispatch {
  const { exp, recip, mul } = elementwise;
  const instructions: Instruction[] = [
    { kind: "load", slot: 0, dtype: "float32", level: "element", stage: 0 },
    { kind: "apply", op: exp, args: [0], dtype: "float32", level: "element", stage: 0 },
    { kind: "reduce", op: reductions.sum, arg: 1, dtype: "float32", level: "row", stage: 1 },
    { kind: "apply", op: recip, args: [2], dtype: "float32", level: "row", stage: 1 },
    { kind: "apply", op: mul, args: [1, 3], dtype: "float32", level: "element", stage: 1 },
  ];
  const slots = [0, 1].map((buffer): Slot => ({ buffer, dtype: "float32", inner: "unit", masked: [] }));
  const stores = [{ register: 4, slot: 1, stage: 1 }];
  const draft = { shape: "rows" as const, outer: 1, reduce: 0, stages: 2, instructions, slots, stores, buffers: 2 };
  const walk = { offset: 0, outer: [inner], inner: 1, reduce: [], valid: [] };
  const geometry = { outer: [2], inner, reduce: [], slots: [walk, walk] };
  return on.bind(on.compile({ ...draft, key: loopProgramKey(draft) }), geometry, bindings, "softmax");
}

describe("kernel calls on wasm", () => {
  test.each([
    { batch: [], M: 5, K: 7, N: 9 },
    { batch: [2, 3], M: 4, K: 3, N: 5 },
    { batch: [2, 1, 2, 3], M: 3, K: 4, N: 2 },
    { batch: [], M: 64, K: 33, N: 65 },
    { batch: [2], M: 9, K: 5, N: 11 },
  ])(
    "a matrix product %o equals its plain meaning, with and without a second one and something to start from",
    ({ batch, M, K, N }) => {
      const size = (operand: Operand) => operand.shape.reduce((a, b) => a * b, 1);
      const a = dense(...batch, M, K);
      const b = dense(...batch, N, K);
      const turned: Operand = {
        ...b,
        shape: [...batch, K, N],
        strides: [...b.strides.slice(0, -2), b.strides.at(-1)!, b.strides.at(-2)!],
      };
      const bias: Operand = { ...dense(...batch, M, N), strides: [...batch.map(() => 0), 0, 1] };
      const c = dense(...batch, M, N);
      const [narrowA, narrowB] = [dense(...batch, M, 2), dense(...batch, 2, N)];
      // its rows lie a column apart, so it cannot share the tiles of the first product
      const turnedA: Operand = { ...narrowA, strides: [...narrowA.strides.slice(0, -2), 1, M] };
      const values = new Map(
        [a, turned, bias, narrowA, turnedA, narrowB].map((operand) => [operand, random(operand === bias ? N : size(operand))]),
      );
      for (const operands of [
        [a, turned],
        [a, turned, bias],
        [a, turned, narrowA, narrowB],
        [a, turned, narrowA, narrowB, bias],
        [a, turned, turnedA, narrowB, bias],
      ]) {
        const expected = new Float32Array(size(c));
        const given = operands.map((operand) => values.get(operand)!);
        matmulOp.host(given, [expected], { operands, results: [c], attributes: {} });
        const inputs = operands.map((operand, i): [Operand, TypedArray, DType] => [operand, given[i]!, "float32"]);
        const got = call("matmul", matmulOp.host, inputs, c);
        for (let i = 0; i < got.length; i++) expect(got[i]).toBeCloseTo(expected[i]!, 4);
      }
    },
  );

  test("a call without a kernel runs its plain meaning, at the operands' offsets", () => {
    const x = { ...dense(2, 3), offset: 2 };
    const values = Float32Array.of(9, 9, 1, 2, 3, 4, 5, 6);
    const got = call("cumulativeSum", cumulativeSumOp.host, [[x, values, "float32"]], { ...dense(2, 3), offset: 1 });
    expect([...got]).toEqual([1, 3, 6, 4, 9, 15]);
  });

  test("rows are taken from and put at the operands' offsets", () => {
    const table = { ...dense(3, 2), offset: 4 };
    const values = Float32Array.of(9, 9, 9, 9, 1, 2, 3, 4, 5, 6);
    const got = call(
      "take",
      takeOp.host,
      [
        [table, values, "float32"],
        [dense(2), Int32Array.of(2, 0), "int32"],
      ],
      { ...dense(2, 2), offset: 1 },
    );
    expect([...got]).toEqual([5, 6, 1, 2]);
  });
});

describe("the wasm device", () => {
  test("gives the same bits for any number of threads", () => {
    let split = 0;
    fc.assert(
      fc.property(largeLoopCases, (sample) => {
        const { program, geometry } = sample;
        if (partition(program, planLoop(program), geometry, 3).tasks > 1) split++;
        const alone = runCase(single, sample);
        runCase(many, sample).forEach((values, i) => {
          if (values && !sameBits(values, alone[i]!)) throw new Error(`buffer ${i} differs`);
        });
      }),
      { numRuns: 100 },
    );
    expect(split).toBeGreaterThan(5);
  });

  test("a launch stays valid when a later one needs more scratch or memory", () => {
    const own = createWasm({ shared: false });
    const launch = (length: number) => {
      const bindings = [0, 1].map(() => ({ buffer: own.allocate(4 * 2 * length), offset: 0 }));
      own.upload(
        Float32Array.from({ length: 2 * length }, (_, i) => (i < length ? 1 : 2)),
        "float32",
        bindings[0]!,
      );
      return { dispatch: bindSoftmax(own, length, bindings), out: bindings[1]!, length };
    };
    const launches = [launch(10), launch(300_000), launch(70)];
    const lookup = own.compileCall({ name: "take", operands: ["float32", "int32"], results: ["float32"], host: takeOp.host });
    const [table, index, row] = [8, 4, 8].map((bytes) => ({ buffer: own.allocate(bytes), offset: 0 }));
    own.upload(Float32Array.of(3, 4), "float32", table!);
    own.upload(Int32Array.of(0), "int32", index!);
    const geometry = { operands: [dense(1, 2), dense(1)], results: [dense(1, 2)], attributes: {} };
    const take = own.bind(lookup, geometry, [table!, index!, row!], "take");
    own.run([take]);
    own.allocate(2 ** 24); // grows, so that views are empty
    own.run([...launches.map(({ dispatch }) => dispatch), take]);
    for (const { out, length } of launches) {
      const values = own.downloadSync!(out, "float32", 2 * length) as Float32Array;
      expect(values.reduce((worst, value) => Math.max(worst, Math.abs(value * length - 1)), 0)).toBeLessThan(1e-5);
    }
    expect([...own.downloadSync!(row!, "float32", 2)]).toEqual([3, 4]);
    own[Symbol.dispose]();
  });

  test("copies bytes from one buffer to another", () => {
    const from = put(Float32Array.of(1, 2, 3, 4), "float32");
    const to = put(new Float32Array(4), "float32");
    device.copy({ ...from, offset: 4 }, { ...to, offset: 8 }, 8);
    expect([...device.downloadSync!(to, "float32", 4)]).toEqual([0, 0, 2, 3]);
    for (const { buffer } of [from, to]) buffer[Symbol.dispose]();
  });

  test("says how it runs", () => {
    expect(device.about).toMatch(/^wasm: 2 threads, (relaxed )?SIMD, shared memory$/);
    expect(createWasm({ shared: false, relaxedSimd: false }).about).toBe("wasm: 1 thread, SIMD, memory of its own");
  });

  test("gives back what it has taken", () => {
    const before = device.statistics;
    const buffer = device.allocate(1000);
    expect(device.statistics.bytesInUse).toBe(before.bytesInUse + 1000);
    buffer[Symbol.dispose]();
    buffer[Symbol.dispose]();
    expect(device.statistics.buffers).toBe(before.buffers);
    expect(device.statistics.bytesInUse).toBe(before.bytesInUse);
  });
});
