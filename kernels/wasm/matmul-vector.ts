/**
 * Matrix product for one to four rows of A, as in generating one token: B is read once, in place, at the speed of memory.
 * Where n is contiguous, sums lie in scratch and a few rows of B are added to them at a time; where k is, a few dot products run
 * side by side. Sums are taken in an order that depends on K and the number of rows alone.
 */
import { type Expression, load, type ModuleBuilder } from "../../src/devices/wasm/assembler.ts";
import { type Integer, type KernelBuilder, smaller } from "./argument-block.ts";
import { beginTask, bytesOfB, emitTranspose, loadB, type MatmulVariant, type Task } from "./matmul-arguments.ts";
import { SimdBasics, type V128 } from "./simd-basics.ts";

/** Rows of A that this method takes at most. */
export const vectorRows = 4;

const roundUp = (value: number, step: number): number => Math.ceil(value / step) * step;

/** Bytes of scratch that a thread needs: A turned into rows, then sums. */
export function vectorScratchBytes(variant: MatmulVariant, columnBlock: number, K: number): number {
  const turnedA = variant.a === "columns" ? vectorRows * roundUp(K, 4) * 4 : 0;
  const sums = variant.b === "rows" ? vectorRows * roundUp(columnBlock, 8) * 4 : 0;
  return turnedA + sums + 64;
}

/** Adds the kernel to a module. `variant.rows` is the number of rows of A; M must be that. */
export function emitVector(module: ModuleBuilder, name: string, variant: MatmulVariant, fused: boolean): void {
  const transpose = variant.a === "columns" ? emitTranspose(module, 4, (simd, address) => simd.load(address), fused) : undefined;
  const f = module.function(name, ["i32", "i32", "i32"]);
  const simd = new SimdBasics(f, fused);
  const task = beginTask(f, variant);
  const aStride = f.local("i32", task.aStride);
  const a = f.local("i32", task.a);
  const sums = f.local("i32", task.scratch);
  if (transpose !== undefined) {
    f.set(aStride, ["i32.mul", ["i32.and", ["i32.add", task.K, 3], -4], 4]);
    f.call(transpose, a, task.aStride, task.K, variant.rows, task.scratch, aStride);
    f.set(a, task.scratch);
    f.increment(sums, ["i32.mul", aStride, vectorRows]);
  }
  const aRows = [a];
  for (let m = 1; m < variant.rows; m++) aRows.push(f.local("i32", ["i32.add", aRows[m - 1] as Integer, aStride]));
  if (variant.b === "rows") emitSums(f, simd, variant, task, aRows, sums);
  else emitDots(f, simd, variant, task, aRows);
}

/** Address of element (m, 0) of C or of the addend. */
const rowOf = (pointer: Integer, m: number, stride: Integer): Expression => ["i32.add", pointer, ["i32.mul", stride, m]];

/** B with contiguous n: sums[m][n] += a[m][k] · B[k][n], for a few k in one sweep over n. */
function emitSums(
  f: KernelBuilder,
  simd: SimdBasics,
  variant: MatmulVariant,
  task: Task,
  aRows: readonly Integer[],
  sums: Integer,
): void {
  const { K, columns, bStride } = task;
  const sumStride = f.local("i32", ["i32.mul", ["i32.and", ["i32.add", columns, 7], -8], 4]);
  const sumRows = aRows.map((_, m) => f.local("i32", rowOf(sums, m, sumStride)));
  const rowBytes = f.local("i32", ["i32.mul", columns, 4]);
  const pairs = f.local("i32", ["i32.shr_u", sumStride, 5]); // vectors of B, two at a time

  sumRows.forEach((sum, m) => {
    if (variant.addend === "matrix") f.memoryCopy(sum, rowOf(task.d, m, task.dStride), rowBytes);
    else if (variant.addend === "none") f.memoryFill(sum, 0, sumStride);
    else {
      const value = simd.keep(load("v128.load32_splat", rowOf(task.d, m, task.dStride)));
      const to = f.local("i32", sum);
      f.repeat(pairs, () => {
        simd.store(to, value);
        simd.store(to, value, 16);
        f.increment(to, 32);
      });
    }
  });

  const aNow = aRows.map((row) => f.local("i32", row));
  const bNow = f.local("i32", task.b);
  const sweep = (depth: number) => {
    const factors = aNow.map((row) => Array.from({ length: depth }, (_, k) => simd.keep(load("v128.load32_splat", row, 4 * k))));
    const bRows = [f.local("i32", bNow)];
    for (let k = 1; k < depth; k++) bRows.push(f.local("i32", ["i32.add", bRows[k - 1] as Integer, bStride]));
    const targets = sumRows.map((sum) => f.local("i32", sum));
    f.repeat(pairs, () => {
      const totals = targets.map((target) => [simd.load(target), simd.load(target, 16)]);
      bRows.forEach((row, k) => {
        for (const half of [0, 1]) {
          const b = loadB(simd, variant, row, 4 * half);
          for (const [m, total] of totals.entries()) total[half] = simd.madd(factors[m]?.[k] as V128, b, total[half] as V128);
        }
        f.increment(row, 8 * bytesOfB(variant));
      });
      targets.forEach((target, m) => {
        for (const half of [0, 1]) simd.store(target, totals[m]?.[half] as V128, 16 * half);
        f.increment(target, 32);
      });
    });
    f.increment(bNow, ["i32.mul", bStride, depth]);
    for (const row of aNow) f.increment(row, 4 * depth);
  };
  const depth = variant.rows === 1 ? 8 : variant.rows === 2 ? 4 : 2;
  f.repeat(["i32.div_u", K, depth], () => sweep(depth));
  f.repeat(["i32.rem_u", K, depth], () => sweep(1));
  sumRows.forEach((sum, m) => f.memoryCopy(rowOf(task.c, m, task.cStride), sum, rowBytes));
}

/**
 * B with contiguous k: dot products of a few columns of B (rows in memory) with all rows of A at a time. The columns that run side
 * by side come from different parts of the task's block: a processor fetches ahead within a page of memory, so walking several
 * pages at once keeps several such streams going, where neighbouring columns would share one and wait at the end of each page.
 */
function emitDots(f: KernelBuilder, simd: SimdBasics, variant: MatmulVariant, task: Task, aRows: readonly Integer[]): void {
  const { K, columns, bStride } = task;
  const group = variant.rows <= 2 ? 4 : 2;
  // with one row, two sums a dot product, so that enough multiply-adds are under way
  const chains = variant.rows === 1 ? 2 : 1;
  const isHalf = variant.bType === "float16";
  const unroll = isHalf ? 2 : chains;
  const column = f.local("i32");
  const part = f.local("i32", ["i32.div_u", ["i32.add", columns, group - 1], group]);
  const last = f.local("i32", ["i32.sub", columns, 1]);
  const indices = Array.from({ length: group }, () => f.local("i32"));
  const bRows = Array.from({ length: group }, () => f.local("i32"));
  const aNow = aRows.map((row) => f.local("i32", row));
  // all ones in the lanes of the last vector that k reaches
  const iota = f.vectorConstant([0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0]);
  const mask = simd.apply("i32x4.lt_s", iota, simd.keep(["i32x4.splat", ["i32.and", K, 3]]));
  const sums = bRows.map(() => aRows.map(() => Array.from({ length: chains }, () => f.local("v128"))));
  const largest = f.local("v128");

  const step = (count: number, masked: boolean, quick = false) => {
    const keep = (x: V128): V128 => (masked ? simd.and(x, mask) : x);
    const a = Array.from({ length: count }, (_, u) => aNow.map((row) => keep(simd.load(row, 16 * u))));
    bRows.forEach((row, g) => {
      const b = quick ? simd.loadFiniteFloat16(row, largest) : a.map((_, u) => keep(loadB(simd, variant, row, 4 * u)));
      a.forEach((rows, u) => {
        rows.forEach((value, m) => {
          const sum = sums[g]?.[m]?.[u % chains] as V128;
          f.set(sum, simd.madd(value, b[u] as V128, sum));
        });
      });
    });
    for (const row of aNow) f.increment(row, 16 * count);
    for (const row of bRows) f.increment(row, 4 * count * bytesOfB(variant));
  };
  const walk = (quick: boolean) => {
    bRows.forEach((row, g) => f.set(row, ["i32.add", task.b, ["i32.mul", smaller(indices[g] as Integer, last), bStride]]));
    aNow.forEach((row, m) => f.set(row, aRows[m] as Integer));
    for (const sum of sums.flat(2)) f.set(sum, simd.f32(0));
    f.repeat(["i32.div_u", K, 4 * unroll], () => step(unroll, false, quick));
    if (unroll === 2) f.if(["i32.and", K, 4], () => step(1, false));
    f.if(["i32.and", K, 3], () => step(1, true));
  };
  f.for(column, 0, part, 1, () => {
    indices.forEach((index, g) => f.set(index, ["i32.add", column, ["i32.mul", part, g]]));
    if (isHalf) f.set(largest, simd.i32(0));
    walk(isHalf);
    // all over again, for a row with ±∞ or NaN
    if (isHalf) f.if(simd.isInfiniteFloat16(largest), () => walk(false));
    bRows.forEach((_, g) => {
      const index = indices[g] as Integer;
      f.if(["i32.lt_s", index, columns], () => {
        aRows.forEach((_, m) => {
          const parts = sums[g]?.[m] as V128[];
          const sum = simd.sumAcross(parts.reduce((x, y) => simd.add(x, y)));
          const offset: Expression = ["i32.mul", index, 4];
          const dot: Expression = () => f.lane("f32x4.extract_lane", 0, sum);
          const addendRow = rowOf(task.d, m, task.dStride);
          const addend = load("f32.load", variant.addend === "matrix" ? ["i32.add", addendRow, offset] : addendRow);
          f.store(
            "f32.store",
            ["i32.add", rowOf(task.c, m, task.cStride), offset],
            variant.addend === "none" ? dot : ["f32.add", dot, addend],
          );
        });
      });
    });
  });
}
