import fc from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import { createWasm } from "../../src/devices/wasm/device.ts";
import { partition } from "../../src/devices/wasm/loop-arguments.ts";
import { planLoop } from "../../src/devices/wasm/loop-plan.ts";
import { matmulOp } from "../../src/graph/contraction.ts";
import type { DType, TypedArray } from "../../src/graph/dtype.ts";
import { takeOp } from "../../src/graph/indexing.ts";
import type { CallGeometry, Operand } from "../../src/graph/primitive.ts";
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

describe("kernel calls on wasm", () => {
  test.each([
    { batch: [], M: 5, K: 7, N: 9 },
    { batch: [2, 3], M: 4, K: 3, N: 5 },
    { batch: [2, 1, 2, 3], M: 3, K: 4, N: 2 },
    { batch: [], M: 64, K: 33, N: 65 },
  ])("a matrix product %o equals its plain meaning, with and without something to start from", ({ batch, M, K, N }) => {
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
    const [A, B, D] = [random(size(a)), random(size(b)), random(N)];
    for (const operands of [
      [a, turned],
      [a, turned, bias],
    ]) {
      const expected = new Float32Array(size(c));
      matmulOp.host([A, B, D].slice(0, operands.length), [expected], { operands, results: [c], attributes: {} });
      const inputs = operands.map((operand, i): [Operand, TypedArray, DType] => [operand, [A, B, D][i]!, "float32"]);
      const got = call("matmul", matmulOp.host, inputs, c);
      for (let i = 0; i < got.length; i++) expect(got[i]).toBeCloseTo(expected[i]!, 4);
    }
  });

  test("a call without a kernel runs its plain meaning, at the operands' offsets", () => {
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
