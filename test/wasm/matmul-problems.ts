/** Products with their operands, their kernels run on several devices' memories, and what they should be. */
import { afterAll, expect } from "vitest";
import {
  type MatmulOperand,
  type MatmulProblem,
  type MatmulVariant,
  matmulArgumentWords,
  matmulModule,
  planMatmul,
  writeMatmulArguments,
} from "../../kernels/wasm/matmul.ts";
import { features } from "../../src/devices/wasm/features.ts";
import { DeviceMemory } from "../../src/devices/wasm/memory.ts";
import { Pool } from "../../src/devices/wasm/pool.ts";
import { fromBFloat16Bits, fromFloat16Bits, toBFloat16Bits, toFloat16Bits } from "../../src/graph/dtype.ts";

/** One thread, three threads, and three without fused multiply-add: each with its own memory and cache of modules. */
export const setups = [
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
export interface Data {
  readonly a: Float32Array;
  readonly b: Values;
  readonly addend: Float32Array | undefined;
  readonly update?: { readonly a: Float32Array; readonly b: Float32Array };
  /** Elements of C's buffer, gaps between rows included. */
  readonly cLength: number;
}
const sentinel = 12345.5;

/** C's whole buffer, filled with a sentinel before; `undefined` where the plan wants a copy. */
export function multiply(
  setup: (typeof setups)[number],
  problem: MatmulProblem,
  data: Data,
  strassenFrom = Number.POSITIVE_INFINITY,
): Float32Array | undefined {
  const { memory, pool, threads, fused, kernels } = setup;
  const plan = planMatmul(problem, threads, strassenFrom);
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
export function expected(problem: MatmulProblem, data: Data): { values: Float64Array; scale: Float64Array } {
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

let seed = 1;
/** Deterministic values in [−1, 1). */
function random(): number {
  seed = (Math.imul(seed, 1664525) + 1013904223) | 0;
  return seed / 2 ** 31;
}

export interface Shape {
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
export function build(shape: Shape): [MatmulProblem, Data] {
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

export const plain: Shape = {
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

/** The problem with a second product of depth `K` added. */
export function withUpdate(
  [problem, data]: [MatmulProblem, Data],
  shape: Shape,
  K: number,
  bTurned: boolean,
): [MatmulProblem, Data] {
  const [second, secondData] = build({ ...shape, K, aTurned: false, bTurned, bType: "float32", addend: "none" });
  return [
    { ...problem, update: { K, a: second.a, b: second.b } },
    { ...data, update: { a: secondData.a, b: secondData.b as Float32Array } },
  ];
}
