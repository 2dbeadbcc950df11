/** Scores and weighted sums for a few queries: keys and values are read once, in place, since packing them would cost more. */
import { type FunctionBuilder, load, type ModuleBuilder } from "../../src/devices/wasm/assembler.ts";
import { type Integer, smaller } from "./argument-block.ts";
import { laneSums, lanesBelow, powerOfDifference } from "./attention-blocks.ts";
import { cut, product, sum } from "./attention-task.ts";
import { panelColumns } from "./matmul-tiles.ts";
import { SimdMath, type V128 } from "./simd-math.ts";

/** Queries of a head for which this is faster than tiles. */
export const fewRows = 3;

/** Keys whose dot products run side by side. */
const keysAtOnce = 4;

/** Emits scores(q, qStride, k, kStride, depth, scale, block, blockStride, rows, keys, low, high): block = scale · q·kᵀ in the band. */
export function emitFewScores(module: ModuleBuilder, fused: boolean): FunctionBuilder {
  const f = module.function(null, ["i32", "i32", "i32", "i32", "i32", "f32", "i32", "i32", "i32", "i32", "i32", "i32"]);
  const [q, qStride, k, kStride, depth, scale, block, blockStride, rows, keys, low, high] = f.params;
  const simd = new SimdMath(f, fused);
  const factor = simd.keep(["f32x4.splat", scale]);
  const inside = lanesBelow(simd, f.local("i32", ["i32.and", depth, 3]));
  const [row, key, last, x] = [f.local("i32"), f.local("i32"), f.local("i32"), f.local("i32")];
  const pointers = Array.from({ length: keysAtOnce }, () => f.local("i32"));
  const sums = pointers.map(() => f.local("v128"));
  const add = (mask?: V128) => {
    const masked = (value: V128) => (mask ? simd.and(value, mask) : value);
    const query = masked(simd.load(x));
    pointers.forEach((pointer, i) => f.set(sums[i]!, simd.madd(masked(simd.load(pointer)), query, sums[i]!)));
  };
  f.for(row, 0, rows, 1, () => {
    const from = cut(f, sum(row, low), keys);
    const to = cut(f, sum(row, high), keys);
    f.set(last, ["i32.sub", to, 1]);
    f.for(key, from, to, keysAtOnce, () => {
      // past the last key comes the last one again
      pointers.forEach((pointer, i) => {
        f.set(pointer, sum(key, i)).set(pointer, smaller(pointer, last));
        f.set(pointer, sum(k, product(pointer, kStride))).set(sums[i]!, simd.f32(0));
      });
      f.set(x, q);
      f.repeat(["i32.shr_u", depth, 2], () => {
        add();
        for (const pointer of [x, ...pointers]) f.increment(pointer, 16);
      });
      f.if(["i32.and", depth, 3], () => add(inside));
      simd.store(sum(block, product(key, 4)), simd.mul(laneSums(simd, sums), factor));
    });
    f.increment(q, qStride).increment(block, blockStride);
  });
  return f;
}

/** Emits softmax(block, blockStride, rows, keys, low, high, tops, sums, out, outStride): as in `attention.ts`, of a block with a row a query. */
export function emitFewSoftmax(module: ModuleBuilder, fused: boolean): FunctionBuilder {
  const f = module.function(null, ["i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32"]);
  const [block, blockStride, rows, keys, low, high, tops, sums, out, outStride] = f.params;
  const simd = new SimdMath(f, fused);
  const [row, at] = [f.local("i32"), f.local("i32")];
  const [top, total] = [f.local("v128"), f.local("v128")];
  f.for(row, 0, rows, 1, () => {
    const from = cut(f, sum(row, low), keys);
    const count = cut(f, sum(row, high), keys);
    f.increment(count, ["i32.sub", 0, from]);
    f.if(["i32.gt_s", count, 0], () => {
      const first = f.local("i32", sum(block, product(from, 4)));
      const vectors = f.local("i32", ["i32.shr_u", sum(count, 3), 2]);
      // past the last score stand scores that are none
      const past = f.local("i32", sum(first, product(["i32.and", count, -4], 4)));
      const inside = lanesBelow(simd, f.local("i32", ["i32.and", count, 3]));
      f.if(["i32.and", count, 3], () => simd.store(past, simd.select(inside, simd.load(past), Number.NEGATIVE_INFINITY)));
      const before = simd.keep(load("v128.load32_splat", tops));
      f.set(top, before).set(at, first);
      f.repeat(vectors, () => {
        f.set(top, ["f32x4.pmax", top, load("v128.load", at)]);
        f.increment(at, 16);
      });
      f.set(
        top,
        simd.across(top, (a, b) => simd.apply("f32x4.pmax", a, b)),
      );
      f.laneAccess("v128.store32_lane", 0, tops, top);
      f.set(total, simd.f32(0)).set(at, first);
      f.repeat(vectors, () => {
        const weight = powerOfDifference(simd, simd.sub(simd.load(at), top));
        simd.store(at, weight);
        f.set(total, simd.add(total, weight));
        f.increment(at, 16);
      });
      const shrink = powerOfDifference(simd, simd.sub(before, top));
      const summed = simd.madd(simd.keep(load("v128.load32_splat", sums)), shrink, simd.sumAcross(total));
      f.laneAccess("v128.store32_lane", 0, sums, summed);
      f.if(["v128.any_true", simd.less(shrink, 1)], () => {
        f.set(at, out);
        f.repeat(["i32.shr_u", outStride, 4], () => {
          simd.store(at, simd.mul(simd.load(at), shrink));
          f.increment(at, 16);
        });
      });
    });
    f.increment(block, blockStride).increment(tops, 4).increment(sums, 4).increment(out, outStride);
  });
  return f;
}

/** Emits weighted(block, blockStride, v, vStride, out, outStride, rows, columns, keys, low, high): out += block · v. */
export function emitFewWeighted(module: ModuleBuilder, fused: boolean): FunctionBuilder {
  const f = module.function(null, ["i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32"]);
  const [block, blockStride, v, vStride, out, outStride, rows, columns, keys, low, high] = f.params;
  const simd = new SimdMath(f, fused);
  const [row, column, weight, value, target] = Array.from({ length: 5 }, () => f.local("i32")) as [
    Integer,
    Integer,
    Integer,
    Integer,
    Integer,
  ];
  f.for(row, 0, rows, 1, () => {
    const from = cut(f, sum(row, low), keys);
    const count = cut(f, sum(row, high), keys);
    f.increment(count, ["i32.sub", 0, from]);
    /** Sums of `vectors` times four columns in registers, as long as so many are left. */
    const sweep = (vectors: number, left: number) => {
      const sums = Array.from({ length: vectors }, () => f.local("v128"));
      f.while(["i32.lt_s", sum(column, left - 1), columns], () => {
        f.set(target, sum(out, product(column, 4)));
        f.set(weight, sum(block, product(from, 4)));
        f.set(value, sum(v, product(from, vStride), product(column, 4)));
        sums.forEach((total, i) => f.set(total, load("v128.load", target, 16 * i)));
        f.repeat(count, () => {
          const factor = simd.keep(load("v128.load32_splat", weight));
          sums.forEach((total, i) => f.set(total, simd.madd(simd.load(value, 16 * i), factor, total)));
          f.increment(weight, 4).increment(value, vStride);
        });
        sums.forEach((total, i) => simd.store(target, total, 16 * i));
        f.increment(column, 4 * vectors);
      });
    };
    f.set(column, 0);
    f.if(["i32.gt_s", count, 0], () => {
      sweep(8, 32);
      // rows of `out` are whole panels wide
      sweep(panelColumns / 4, 1);
    });
    f.increment(block, blockStride).increment(out, outStride);
  });
  return f;
}
