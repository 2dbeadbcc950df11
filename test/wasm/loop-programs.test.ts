import { afterAll, describe, expect, test } from "vitest";
import { type Instruction, type LoopProgram, loopProgramKey, type Slot, type Store } from "../../src/devices/loop-program.ts";
import { createWasm } from "../../src/devices/wasm/device.ts";
import { type DType, dtypes, type TypedArray } from "../../src/graph/dtype.ts";
import { elementwise } from "../../src/graph/elementwise.ts";
import { reductions } from "../../src/graph/reduction.ts";

const device = createWasm({ threads: 1 });
afterAll(() => device[Symbol.dispose]());

const element = { level: "element", stage: 0 } as const;
const row = (stage: number) => ({ level: "row", stage }) as const;
const slot = (buffer: number, dtype: DType, inner: Slot["inner"] = "unit"): Slot => ({ buffer, dtype, inner, masked: [] });

function rows(outer: number, stages: number, instructions: Instruction[], slots: Slot[], stores: Store[]): LoopProgram {
  const buffers = 1 + Math.max(...slots.map(({ buffer }) => buffer));
  const draft = { shape: "rows" as const, outer, reduce: 0, stages, instructions, slots, stores, buffers };
  return { ...draft, key: loopProgramKey(draft) };
}

/** Runs a program over [rows, inner] arrays whose slots all walk densely; per-row slots have inner "same". */
function run(program: LoopProgram, count: number, inner: number, arrays: readonly TypedArray[]): TypedArray[] {
  const types = arrays.map((_, buffer) => program.slots.find((s) => s.buffer === buffer)!.dtype);
  const bindings = arrays.map((values, i) => {
    const buffer = device.allocate(values.byteLength);
    device.upload(values, types[i]!, { buffer, offset: 0 });
    return { buffer, offset: 0 };
  });
  const walk = ({ inner: kind }: Slot) => ({
    offset: 0,
    outer: program.outer ? [kind === "same" ? 1 : inner] : [],
    inner: kind === "same" ? 0 : 1,
    reduce: [],
    valid: [],
  });
  const geometry = { outer: program.outer ? [count] : [], inner, reduce: [], slots: program.slots.map(walk) };
  const dispatch = device.bind(device.compile(program), geometry, bindings, "test");
  device.run([dispatch]);
  device.release(dispatch);
  return bindings.map((binding, i) => {
    const values = device.downloadSync!(binding, types[i]!, arrays[i]!.length);
    binding.buffer[Symbol.dispose]();
    return values;
  });
}

const load = (number: number, dtype: DType = "float32"): Instruction => ({ kind: "load", slot: number, dtype, ...element });
const apply = (
  op: keyof typeof elementwise,
  args: number[],
  dtype: DType = "float32",
  at: { level: "element" | "row"; stage: number } = element,
): Instruction => ({
  kind: "apply",
  op: elementwise[op],
  args,
  dtype,
  ...at,
});

describe("loop programs on wasm", () => {
  test.each([1, 4, 13, 64, 103])("a softmax over rows of %i may overwrite its input", (inner) => {
    const count = 5;
    const x = Float32Array.from({ length: count * inner }, (_, i) => 3 * Math.sin(i * 7));
    const program = rows(
      1,
      3,
      [
        load(0),
        { kind: "reduce", op: reductions.maxReduce, arg: 0, dtype: "float32", ...row(1) },
        apply("neg", [1], "float32", row(1)),
        apply("add", [0, 2], "float32", { level: "element", stage: 1 }),
        apply("exp", [3], "float32", { level: "element", stage: 1 }),
        { kind: "reduce", op: reductions.sum, arg: 4, dtype: "float32", ...row(2) },
        apply("recip", [5], "float32", row(2)),
        apply("mul", [4, 6], "float32", { level: "element", stage: 2 }),
      ],
      [slot(0, "float32"), slot(0, "float32")],
      [{ register: 7, slot: 1, stage: 2 }],
    );
    const [y] = run(program, count, inner, [x]);
    for (let r = 0; r < count; r++) {
      const values = [...x.subarray(r * inner, (r + 1) * inner)];
      const total = values.reduce((sum, v) => sum + Math.exp(v), 0);
      values.forEach((v, i) => {
        expect(y![r * inner + i]).toBeCloseTo(Math.exp(v) / total, 6);
      });
    }
  });

  test.each([3, 8, 29])("two arrays of %i may change places", (inner) => {
    const x = Float32Array.from({ length: inner }, (_, i) => i);
    const y = Float32Array.from({ length: inner }, (_, i) => -i);
    const slots = [0, 1, 0, 1].map((buffer) => slot(buffer, "float32"));
    const program = rows(0, 1, [load(0), load(1)], slots, [
      { register: 1, slot: 2, stage: 0 },
      { register: 0, slot: 3, stage: 0 },
    ]);
    expect(run(program, 1, inner, [x, y])).toEqual([y, x]);
  });

  test("maxima, comparisons and their folds treat NaN as JavaScript does", () => {
    const x = Float32Array.of(1, Number.NaN, 3, -1, Number.NaN, 2, Number.NEGATIVE_INFINITY);
    const y = Float32Array.of(2, 1, Number.NaN, -2, Number.NaN, 2, 0);
    const program = rows(
      0,
      1,
      [
        load(0),
        load(1),
        apply("max", [0, 1]),
        apply("less", [0, 1], "bool"),
        apply("equal", [0, 1], "bool"),
        { kind: "reduce", op: reductions.maxReduce, arg: 0, dtype: "float32", ...row(1) },
      ],
      [slot(0, "float32"), slot(1, "float32"), slot(2, "float32"), slot(3, "bool"), slot(4, "bool"), slot(5, "float32", "same")],
      [2, 3, 4].map((register): Store => ({ register, slot: register, stage: 0 })).concat({ register: 5, slot: 5, stage: 0 }),
    );
    const [, , max, less, equal, largest] = run(program, 1, 7, [
      x,
      y,
      new Float32Array(7),
      new Uint8Array(7),
      new Uint8Array(7),
      new Float32Array(1),
    ]);
    expect([...max!]).toEqual(Array.from(x, (v, i) => Math.max(v, y[i]!)));
    expect([...less!]).toEqual(Array.from(x, (v, i) => Number(v < y[i]!)));
    expect([...equal!]).toEqual(Array.from(x, (v, i) => Number(v === y[i])));
    expect(largest![0]).toBeNaN();
  });

  test.each([
    { op: "sum", dtype: "int32", values: [2 ** 31 - 1, 1, 5], expected: (-(2 ** 31) + 5) | 0 },
    { op: "product", dtype: "int32", values: [3, -7, 1 << 30, 1], expected: Math.imul(-21, 1 << 30) },
    { op: "maxReduce", dtype: "int32", values: [-5, -3, -9], expected: -3 },
    { op: "maxReduce", dtype: "uint8", values: [5, 250, 9], expected: 250 },
    { op: "maxReduce", dtype: "bool", values: [0, 0, 1], expected: 1 },
    { op: "maxReduce", dtype: "bool", values: [0, 0, 0], expected: 0 },
    { op: "product", dtype: "float32", values: [1.5, -2, 4, 1, 0.5], expected: -6 },
    { op: "maxReduce", dtype: "float32", values: [-5, -3, -9], expected: -3 },
  ] as const)("$op of $dtype $values is $expected", ({ op, dtype, values, expected }) => {
    const program = rows(
      0,
      1,
      [load(0, dtype), { kind: "reduce", op: reductions[op], arg: 0, dtype, ...row(1) }],
      [slot(0, dtype), slot(1, dtype, "same")],
      [{ register: 1, slot: 1, stage: 0 }],
    );
    const input = dtypes[dtype].array.from(values as readonly number[]);
    expect(run(program, 1, values.length, [input, new dtypes[dtype].array(1)])[1]![0]).toBe(expected);
  });

  test("the remainder of integers has the sign of the divisor, and 0 for a divisor 0", () => {
    const x = Int32Array.of(7, -7, 7, -7, 5, -(2 ** 31), 0);
    const y = Int32Array.of(3, 3, -3, -3, 0, -1, 5);
    const program = rows(
      0,
      1,
      [load(0, "int32"), load(1, "int32"), apply("mod", [0, 1], "int32")],
      [0, 1, 2].map((b) => slot(b, "int32")),
      [{ register: 2, slot: 2, stage: 0 }],
    );
    expect([...run(program, 1, 7, [x, y, new Int32Array(7)])[2]!]).toEqual([1, 2, -2, -1, 0, 0, 0]);
  });

  test.each([
    { from: "float32", to: "int32", values: [1.9, -1.9, 0.5, -0.5], expected: [1, -1, 0, 0] },
    { from: "float32", to: "uint8", values: [255.9, 256, -1, 3], expected: [255, 0, 255, 3] },
    { from: "float32", to: "bool", values: [0, -0, 0.1, Number.NaN], expected: [0, 0, 1, 1] },
    { from: "int32", to: "uint8", values: [257, -1, 255, 0], expected: [1, 255, 255, 0] },
    { from: "bool", to: "float32", values: [0, 1, 1, 0], expected: [0, 1, 1, 0] },
    { from: "bool", to: "int32", values: [0, 1, 1, 0], expected: [0, 1, 1, 0] },
    { from: "float32", to: "bfloat16", values: [1, 1.00390625, 1.01171875, -0], expected: [0x3f80, 0x3f80, 0x3f82, 0x8000] },
    { from: "float32", to: "float16", values: [1, 65520, 6e-8, -0.1], expected: [0x3c00, 0x7c00, 1, 0xae66] },
    {
      from: "float16",
      to: "float32",
      values: [0x3c00, 0x7c00, 1, 0x8000],
      expected: [1, Number.POSITIVE_INFINITY, 2 ** -24, -0],
    },
  ] as const)("cast $from $values to $to", ({ from, to, values, expected }) => {
    const program = rows(
      0,
      1,
      [load(0, from), apply("cast", [0], to)],
      [slot(0, from), slot(1, to)],
      [{ register: 1, slot: 1, stage: 0 }],
    );
    const input = dtypes[from].array.from(values as readonly number[]);
    expect([...run(program, 1, 4, [input, new dtypes[to].array(4)])[1]!]).toEqual(expected);
  });

  test("a program in float64 is refused with the way out", () => {
    const program = rows(
      0,
      1,
      [load(0, "float64")],
      [slot(0, "float64"), slot(1, "float64")],
      [{ register: 0, slot: 1, stage: 0 }],
    );
    expect(() => device.compile(program)).toThrow(/^wasm: float64 runs on the reference device only\. Use x\.cast\("float32"\)/);
  });
});
