/**
 * The inner loops of the factorisations, in float64: a product of packed panels, and a matrix times a vector from either side.
 * One thread, plain pointers; what they compute is written out in src/linalg/kernel.ts.
 */
import { type Expression, type Local, load, ModuleBuilder } from "../../src/devices/wasm/assembler.ts";

type Integer = Local<"i32">;
type Vector = Local<"v128">;

/** Rows and columns of the tile whose sums stay in registers. */
export const tile = 4;

/** A module with `multiply`, `dots` and `combine`. @param fused with fused multiply-add */
export function float64Module(fused: boolean): Uint8Array<ArrayBuffer> {
  const module = new ModuleBuilder({ shared: false });
  const madd = (x: Expression, y: Expression, z: Expression): Expression =>
    fused ? ["f64x2.relaxed_madd", x, y, z] : ["f64x2.add", z, ["f64x2.mul", x, y]];
  emitMultiply(module, madd);
  emitDots(module, madd);
  emitCombine(module, madd);
  return module.bytes();
}

type MultiplyAdd = (x: Expression, y: Expression, z: Expression) => Expression;

/** (a, b, c, row panels, column panels, depth, bytes from row to row of c): c = a·b, tile by tile. */
function emitMultiply(module: ModuleBuilder, madd: MultiplyAdd): void {
  const f = module.function("multiply", ["i32", "i32", "i32", "i32", "i32", "i32", "i32"]);
  const [a, b, c, rowPanels, columnPanels, depth, rowBytes] = f.params;
  const panelBytes = f.local("i32", ["i32.mul", depth, 8 * tile]);
  const [aNow, bNow, cNow, top] = [f.local("i32"), f.local("i32"), f.local("i32"), f.local("i32")];
  const sums = Array.from({ length: tile }, () => [f.local("v128"), f.local("v128")] as const);
  const [left, right, factor] = [f.local("v128"), f.local("v128"), f.local("v128")];
  const zero = f.constant("f64", 0);
  f.repeat(columnPanels, () => {
    f.set(aNow, a).set(top, c);
    f.repeat(rowPanels, () => {
      f.set(bNow, b);
      for (const [low, high] of sums) f.set(low, zero).set(high, zero);
      f.repeat(depth, () => {
        f.set(left, load("v128.load", bNow)).set(right, load("v128.load", bNow, 16));
        sums.forEach(([low, high], row) => {
          f.set(factor, load("v128.load64_splat", aNow, 8 * row));
          f.set(low, madd(factor, left, low)).set(high, madd(factor, right, high));
        });
        f.increment(aNow, 8 * tile).increment(bNow, 8 * tile);
      });
      f.set(cNow, top);
      for (const [low, high] of sums) {
        f.store("v128.store", cNow, low).store("v128.store", cNow, high, 16);
        f.increment(cNow, rowBytes);
      }
      f.set(top, cNow);
    });
    f.increment(b, panelBytes).increment(c, 8 * tile);
  });
}

/** (y, A, x, rows, columns, bytes from row to row of A): y = A·x. */
function emitDots(module: ModuleBuilder, madd: MultiplyAdd): void {
  const f = module.function("dots", ["i32", "i32", "i32", "i32", "i32", "i32"]);
  const [y, A, x, rows, columns, rowBytes] = f.params;
  const zero = f.constant("f64", 0);
  const [xNow, value] = [f.local("i32"), f.local("v128")];
  const pointers = Array.from({ length: 4 }, () => f.local("i32"));
  const sums = Array.from({ length: 4 }, () => [f.local("v128"), f.local("v128")] as const);
  const total = f.local("f64");
  const block = (count: number) => {
    const [at, accumulators] = [pointers.slice(0, count), sums.slice(0, count)];
    at.forEach((pointer, row) => f.set(pointer, row === 0 ? A : ["i32.add", pointers[row - 1] as Integer, rowBytes]));
    for (const pair of accumulators) for (const sum of pair) f.set(sum, zero);
    f.set(xNow, x);
    f.repeat(["i32.shr_u", columns, 2], () => {
      for (const half of [0, 1]) {
        f.set(value, load("v128.load", xNow, 16 * half));
        accumulators.forEach((pair, row) => {
          const sum = pair[half] as Vector;
          f.set(sum, madd(load("v128.load", at[row] as Integer, 16 * half), value, sum));
        });
      }
      f.increment(xNow, 32);
      for (const pointer of at) f.increment(pointer, 32);
    });
    for (const [low, high] of accumulators) f.set(low, ["f64x2.add", low, high]);
    // the last columns, one by one, in the first lane
    f.repeat(["i32.and", columns, 3], () => {
      f.set(value, load("v128.load64_zero", xNow));
      accumulators.forEach(([low], row) => {
        f.set(low, madd(load("v128.load64_zero", at[row] as Integer), value, low));
      });
      f.increment(xNow, 8);
      for (const pointer of at) f.increment(pointer, 8);
    });
    accumulators.forEach(([low], row) => {
      f.lane("f64x2.extract_lane", 0, low).lane("f64x2.extract_lane", 1, low).op("f64.add").set(total);
      f.store("f64.store", y, total, 8 * row);
    });
    f.increment(y, 8 * count).increment(A, ["i32.mul", rowBytes, count]);
  };
  f.repeat(["i32.shr_u", rows, 2], () => block(4));
  f.repeat(["i32.and", rows, 3], () => block(1));
}

/** (y, A, x, rows, columns, bytes from row to row of A): y += Aᵀ·x. */
function emitCombine(module: ModuleBuilder, madd: MultiplyAdd): void {
  const f = module.function("combine", ["i32", "i32", "i32", "i32", "i32", "i32"]);
  const [y, A, x, rows, columns, rowBytes] = f.params;
  const [yNow, sum] = [f.local("i32"), f.local("v128")];
  const pointers = Array.from({ length: 4 }, () => f.local("i32"));
  const factors = Array.from({ length: 4 }, () => f.local("v128"));
  const block = (count: number) => {
    const at = pointers.slice(0, count);
    at.forEach((pointer, row) => {
      f.set(pointer, row === 0 ? A : ["i32.add", pointers[row - 1] as Integer, rowBytes]);
      f.set(factors[row] as Vector, load("v128.load64_splat", x, 8 * row));
    });
    f.set(yNow, y);
    f.repeat(["i32.shr_u", columns, 2], () => {
      for (const offset of [0, 16]) {
        f.set(sum, load("v128.load", yNow, offset));
        at.forEach((pointer, row) => f.set(sum, madd(load("v128.load", pointer, offset), factors[row] as Vector, sum)));
        f.store("v128.store", yNow, sum, offset);
      }
      for (const pointer of [yNow, ...at]) f.increment(pointer, 32);
    });
    // the last columns, one by one, in the first lane
    f.repeat(["i32.and", columns, 3], () => {
      f.set(sum, load("v128.load64_zero", yNow));
      at.forEach((pointer, row) => f.set(sum, madd(load("v128.load64_zero", pointer), factors[row] as Vector, sum)));
      f.laneAccess("v128.store64_lane", 0, yNow, sum);
      for (const pointer of [yNow, ...at]) f.increment(pointer, 8);
    });
    f.increment(x, 8 * count).increment(A, ["i32.mul", rowBytes, count]);
  };
  f.repeat(["i32.shr_u", rows, 2], () => block(4));
  f.repeat(["i32.and", rows, 3], () => block(1));
}
