import { expect, test } from "vitest";
import { type FunctionBuilder, load, ModuleBuilder, type SimpleOp, type ValueType } from "../../src/devices/wasm/assembler.ts";
import { features } from "../../src/devices/wasm/features.ts";
import { simple } from "../../src/devices/wasm/opcodes.ts";

const memory = new WebAssembly.Memory({ initial: 1, maximum: 65536 });

function instantiate(module: ModuleBuilder, imports: WebAssembly.ModuleImports = {}): Record<string, (...x: number[]) => number> {
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(module.bytes()), { env: { memory }, host: imports });
  return exports as Record<string, (...x: number[]) => number>;
}

function run(params: ValueType[], result: ValueType, write: (f: FunctionBuilder) => void): (...x: number[]) => number {
  const module = new ModuleBuilder({ shared: false });
  write(module.function("f", params, [result]) as unknown as FunctionBuilder);
  return instantiate(module)["f"]!;
}

test("this engine has SIMD, relaxed SIMD and threads", () => {
  expect(features()).toEqual({ simd: true, relaxedSimd: true, threads: true });
});

test("every instruction of the table validates with some operands", () => {
  const types: ValueType[] = ["i32", "i64", "f32", "f64", "v128"];
  const signatures: ValueType[][] = [[]];
  for (const a of types) {
    signatures.push([a]);
    for (const b of types) signatures.push([a, b]);
  }
  signatures.push(["v128", "v128", "v128"], ["i32", "i32", "i32"]);
  features();
  for (const op of Object.keys(simple) as SimpleOp[]) {
    const accepted = signatures.some((signature) =>
      types.some((result) => {
        const module = new ModuleBuilder({ shared: false });
        const f = module.function("f", signature, [result]);
        f.op(op, ...f.params);
        return WebAssembly.validate(module.bytes());
      }),
    );
    const plain = ["unreachable", "nop", "return", "drop"].includes(op);
    expect([op, accepted || plain]).toEqual([op, true]);
  }
});

test("constants, signed and unsigned LEB128, and nested expressions", () => {
  for (const value of [0, 1, -1, 63, 64, -64, -65, 127, 128, 8191, -8192, 2 ** 31 - 1, -(2 ** 31)])
    expect(run([], "i32", (f) => f.i32(value))()).toBe(value);
  expect(run([], "f32", (f) => f.f32(0.1))()).toBe(Math.fround(0.1));
  expect(run([], "f64", (f) => f.f64(0.1))()).toBe(0.1);
  const affine = run(["i32", "i32"], "i32", (f) => f.push(["i32.add", f.params[0]!, ["i32.mul", f.params[1]!, 4]]));
  expect(affine(10, 3)).toBe(22);
});

test("loops: repeat, for and while run as often as they say, zero times included", () => {
  const module = new ModuleBuilder({ shared: false });
  for (const kind of ["repeat", "for", "while"] as const) {
    const f = module.function(kind, ["i32"], ["i32"]);
    const [n] = f.params;
    const sum = f.local("i32");
    const i = f.local("i32");
    if (kind === "repeat") f.repeat(n, () => f.increment(sum, 1));
    else if (kind === "for") f.for(i, 0, n, 2, () => f.increment(sum, 1));
    else
      f.while(["i32.lt_s", i, n], () => {
        f.increment(i, 1);
        f.increment(sum, i);
      });
    f.get(sum);
  }
  const exports = instantiate(module);
  expect([0, 1, 5].map((n) => exports["repeat"]!(n))).toEqual([0, 1, 5]);
  expect([0, 1, 5].map((n) => exports["for"]!(n))).toEqual([0, 1, 3]);
  expect([0, 1, 5].map((n) => exports["while"]!(n))).toEqual([0, 1, 15]);
});

test("branches reach the label they name through any nesting", () => {
  const f = run(["i32"], "i32", (f) => {
    const [x] = f.params as unknown as [ReturnType<typeof f.local<"i32">>];
    const result = f.local("i32");
    f.block((outer) => {
      f.loop((again) => {
        f.if(
          ["i32.gt_s", x, 100],
          () => {
            f.set(result, 1);
            f.br(outer);
          },
          () => f.increment(x, 30),
        );
        f.brIf(again, ["i32.lt_s", x, 1000]);
      });
      f.set(result, 2);
    });
    f.push(["i32.add", result, ["i32.mul", x, 10]]);
  });
  expect(f(50)).toBe(1101);
});

test("functions call each other and imported ones, and a long function grows its buffer", () => {
  const module = new ModuleBuilder({ shared: false });
  const seen: number[] = [];
  const report = module.importFunction("host", "report", ["i32"], []);
  const add = module.function(null, ["i32", "i32"], ["i32"]);
  add.push(["i32.add", ...add.params]);
  const f = module.function("f", ["i32"], ["i32"]);
  const [x] = f.params;
  for (let i = 0; i < 1000; i++) f.call(add, x, 1).set(x);
  f.call(report, x).get(x);
  const exports = instantiate(module, { report: (value: number) => seen.push(value) });
  expect(exports["f"]!(5)).toBe(1005);
  expect(seen).toEqual([1005]);
});

test("loads, stores, lanes, shuffles, bulk copies and atomics touch the bytes they should", () => {
  const module = new ModuleBuilder({ shared: false });
  const f = module.function("f", ["i32", "i32"], ["i32"]);
  const [source, target] = f.params;
  const v = f.local("v128", load("v128.load", source));
  f.store("v128.store", target, () => f.shuffle([3, 2, 1, 0], v));
  f.store("f32.store", target, () => f.lane("f32x4.extract_lane", 2, v), 16);
  f.laneAccess("v128.store32_lane", 1, target, v, 20);
  f.memoryCopy(["i32.add", target, 24], source, 8);
  f.memoryFill(["i32.add", target, 32], 0, 4);
  f.store("v128.store", target, f.constant("f32", 0.5), 48);
  f.atomic("i32.atomic.rmw.add", target, [5], 64);
  const values = new Float32Array(memory.buffer);
  const integers = new Int32Array(memory.buffer);
  values.set([1, 2, 3, 4], 64);
  values[136] = 9;
  integers[128 + 16] = 37;
  expect(instantiate(module)["f"]!(256, 512)).toBe(37);
  expect([...values.subarray(128, 144)]).toEqual([4, 3, 2, 1, 3, 2, 1, 2, 0, 0, 0, 0, 0.5, 0.5, 0.5, 0.5]);
  expect(integers[144]).toBe(42);
});

test("an import after a function is refused, since it would renumber the functions", () => {
  const module = new ModuleBuilder({ shared: false });
  module.function("f", []);
  expect(() => module.importFunction("host", "late", [], [])).toThrow("before the first function");
});
