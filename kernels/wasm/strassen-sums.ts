/**
 * The sums of quarters of `matmul-strassen.ts`: of A and B before the seven products, of their results after them, and where in
 * scratch they lie.
 */
import { type Callable, type Expression, load, type ModuleBuilder } from "../../src/devices/wasm/assembler.ts";
import { bytesOfB, type Integer, loadB, type MatmulVariant } from "./matmul-arguments.ts";
import { depthLimit, panelColumns, panelsOf, tileRows } from "./matmul-tiles.ts";
import { SimdBasics, type V128 } from "./simd-basics.ts";

/** Rows of a quarter that meet one panel after the other: C's pages in all four quarters are as many as a first-level table of pages has. */
export const stripRows = 12;
const stripTiles = stripRows / tileRows;
export const panelRowBytes = 4 * panelColumns;
export const lineBytes = 64;
/** A row of a packed strip; a line more than a power of two. */
export const packedRowBytes = 4 * depthLimit + lineBytes;
export const packedQuarterBytes = stripRows * packedRowBytes;
/** Values of k that are packed and summed up while they are in a first-level cache. */
export const chunkDepth = 64;
export const tileBytes = tileRows * panelRowBytes;
export const tilesBytes = stripTiles * tileBytes;

/** Where what lies in a set of panels, in panels: B's quarters and Winograd's sums T. */
export const panelOf = { b11: 0, b12: 1, b21: 2, b22: 3, t1: 4, t2: 5, t3: 6, t4: 7 } as const;
export const panelsInSet = 8;
/** The same for A's sums S, in scratch. */
export const sumOf = { s1: 0, s2: 1, s3: 2, s4: 3 } as const;
export const quarters = ["11", "12", "21", "22"] as const;
export type Quarter = (typeof quarters)[number];

export const offset = (pointer: Expression, by: Expression): Expression => ["i32.add", pointer, by];
export const times = (x: Expression, y: Expression): Expression => ["i32.mul", x, y];

/** sums(a, stride, down, right, to, rows, depth): S1 = A21 + A22, S2 = S1 − A11, S3 = A11 − A21, S4 = A12 − S2. */
export function emitSumsOfA(module: ModuleBuilder): Callable {
  const f = module.function(null, ["i32", "i32", "i32", "i32", "i32", "i32", "i32"]);
  const [a, stride, down, right, to, rows, depth] = f.params;
  const integer = () => f.local("i32");
  const vector = () => f.local("v128");
  const [p11, p12, p21, p22, out] = [integer(), integer(), integer(), integer(), integer()];
  const [a11, a21, s1, s2] = [vector(), vector(), vector(), vector()];
  const store = (which: number, value: Expression) => f.store("v128.store", out, value, which * packedQuarterBytes);
  f.repeat(rows, () => {
    f.set(p11, a).set(p12, offset(a, right)).set(p21, offset(a, down)).set(p22, offset(p21, right)).set(out, to);
    f.repeat(["i32.shr_u", offset(depth, 3), 2], () => {
      f.set(a11, load("v128.load", p11)).set(a21, load("v128.load", p21));
      f.set(s1, ["f32x4.add", a21, load("v128.load", p22)]);
      store(sumOf.s1, s1);
      f.set(s2, ["f32x4.sub", s1, a11]);
      store(sumOf.s2, s2);
      store(sumOf.s3, ["f32x4.sub", a11, a21]);
      store(sumOf.s4, ["f32x4.sub", load("v128.load", p12), s2]);
      for (const pointer of [p11, p12, p21, p22, out]) f.increment(pointer, 16);
    });
    f.increment(a, stride).increment(to, packedRowBytes);
  });
  return f;
}

/** sums(set, panelBytes, depth): T1 = B12 − B11, T2 = B22 − T1, T3 = B22 − B12, T4 = T2 − B21 behind the packed quarters. */
export function emitSumsOfB(module: ModuleBuilder): Callable {
  const f = module.function(null, ["i32", "i32", "i32"]);
  const [set, panelBytes, depth] = f.params;
  const at = (which: keyof typeof panelOf) => f.local("i32", offset(set, times(panelBytes, panelOf[which])));
  const pointers = { b11: at("b11"), b12: at("b12"), b21: at("b21"), b22: at("b22") };
  const outs = { t1: at("t1"), t2: at("t2"), t3: at("t3"), t4: at("t4") };
  const vector = () => f.local("v128");
  const [b12, b22, t1, t2] = [vector(), vector(), vector(), vector()];
  f.repeat(times(depth, 2), () => {
    f.set(b12, load("v128.load", pointers.b12)).set(b22, load("v128.load", pointers.b22));
    f.set(t1, ["f32x4.sub", b12, load("v128.load", pointers.b11)]);
    f.store("v128.store", outs.t1, t1);
    f.set(t2, ["f32x4.sub", b22, t1]);
    f.store("v128.store", outs.t2, t2);
    f.store("v128.store", outs.t3, ["f32x4.sub", b22, b12]);
    f.store("v128.store", outs.t4, ["f32x4.sub", t2, load("v128.load", pointers.b21)]);
    for (const pointer of [...Object.values(pointers), ...Object.values(outs)]) f.increment(pointer, 16);
  });
  return f;
}

/** pack(b, stride, down, right, packed, depth, columns, panelBytes): sets of panels of B with contiguous n. */
export function emitPackSums(module: ModuleBuilder, variant: MatmulVariant, fused: boolean): Callable {
  const f = module.function(null, ["i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32"]);
  const [b, stride, down, right, packed, depth, columns, panelBytes] = f.params;
  const simd = new SimdBasics(f, fused);
  const integer = (value: Expression = 0) => f.local("i32", value);
  const [p11, p12, p21, p22] = [integer(), integer(), integer(), integer()];
  const outs = Array.from({ length: panelsInSet }, () => integer());
  const step = integer(times(panelBytes, panelsInSet));
  f.repeat(depth, () => {
    f.set(p11, b).set(p12, offset(b, right)).set(p21, offset(b, down)).set(p22, offset(p21, right));
    outs.forEach((out, i) => f.set(out, i === 0 ? packed : offset(outs[i - 1]!, panelBytes)));
    f.repeat(panelsOf(columns), () => {
      for (const v of [0, 4]) {
        const store = (which: keyof typeof panelOf, value: V128) => f.store("v128.store", outs[panelOf[which]]!, value, 4 * v);
        const [b11, b12, b21, b22] = [p11, p12, p21, p22].map((p) => loadB(simd, variant, p, v)) as [V128, V128, V128, V128];
        const t1 = simd.sub(b12, b11);
        const t2 = simd.sub(b22, t1);
        store("b11", b11);
        store("b12", b12);
        store("b21", b21);
        store("b22", b22);
        store("t1", t1);
        store("t2", t2);
        store("t3", simd.sub(b22, b12));
        store("t4", simd.sub(t2, b21));
      }
      for (const pointer of [p11, p12, p21, p22]) f.increment(pointer, panelColumns * bytesOfB(variant));
      for (const out of outs) f.increment(out, step);
    });
    f.increment(b, stride).increment(packed, panelRowBytes);
  });
  return f;
}

/** copy(from, stride, to, rows): rows of 8 values from a matrix into tiles. */
export function emitCopy(module: ModuleBuilder): Callable {
  const f = module.function(null, ["i32", "i32", "i32", "i32"]);
  const [from, stride, to, rows] = f.params;
  f.repeat(rows, () => {
    for (const byte of [0, 16]) f.store("v128.store", to, load("v128.load", from, byte), byte);
    f.increment(from, stride).increment(to, panelRowBytes);
  });
  return f;
}

/**
 * combine(products, start, startStride, startDown, startRight, c, cStride, cDown, cRight, rows) → not finite: a tile in each quarter of C
 * from the seven products, P1 first, and from what it starts from if `start` is not 0.
 */
export function emitCombine(module: ModuleBuilder): Callable {
  const f = module.function(null, ["i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32"], ["i32"]);
  const [products, start, startStride, startDown, startRight, c, cStride, cDown, cRight, rows] = f.params;
  const vector = () => f.local("v128");
  const broken = vector();
  const [p1, p5, u2, u3] = [vector(), vector(), vector(), vector()];
  const results = quarters.map(vector);
  const corner = (pointer: Integer, down: Integer, right: Integer) => {
    const below = f.local("i32", offset(pointer, down));
    return [pointer, f.local("i32", offset(pointer, right)), below, f.local("i32", offset(below, right))];
  };
  const to = corner(c, cDown, cRight);
  const from = corner(start, startDown, startRight);
  const body = (adds: boolean) => () => {
    f.repeat(rows, () => {
      for (const byte of [0, 16]) {
        const product = (i: number) => load("v128.load", products, (i - 1) * tilesBytes + byte);
        f.set(p1, product(1)).set(p5, product(5));
        f.set(u2, ["f32x4.add", p1, product(6)]);
        f.set(u3, ["f32x4.add", u2, product(7)]);
        const values: Expression[] = [
          ["f32x4.add", p1, product(2)],
          ["f32x4.add", ["f32x4.add", u2, p5], product(3)],
          ["f32x4.sub", u3, product(4)],
          ["f32x4.add", u3, p5],
        ];
        values.forEach((value, i) => {
          const result = results[i]!;
          f.set(result, adds ? ["f32x4.add", value, load("v128.load", from[i]!, byte)] : value);
          f.store("v128.store", to[i]!, result, byte);
          f.set(broken, ["v128.or", broken, ["f32x4.sub", result, result]]);
        });
      }
      f.increment(products, panelRowBytes);
      for (const pointer of to) f.increment(pointer, cStride);
      if (adds) for (const pointer of from) f.increment(pointer, startStride);
    });
  };
  f.if(start, body(true), body(false));
  f.push(["v128.any_true", broken]);
  return f;
}
