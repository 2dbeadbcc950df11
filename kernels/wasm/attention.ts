/**
 * softmax(scale · q·kᵀ) · v for the wasm device without the T×T matrix: scores of a block of queries and a block of keys at a time,
 * the softmax's maximum and sum carried from block to block. Stands for `attention` of graph/attention.ts.
 *
 * A task has some blocks of queries of one batch row and key head (all query heads that share it), so each packed block of keys and
 * values serves them all. Every result is computed in the order of the keys, in blocks that depend on sizes alone, so results do
 * not depend on the number of threads.
 *
 * @see https://arxiv.org/abs/2205.14135, algorithm 1
 */
import { type Expression, type FunctionBuilder, load, ModuleBuilder } from "../../src/devices/wasm/assembler.ts";
import { type Blocks, emitBlocks, fillAfter, fillBefore, forRows, lowest, powerOfDifference } from "./attention-blocks.ts";
import { emitFewScores, emitFewWeighted } from "./attention-few.ts";
import { argument, beginTask, forUnits, keepSeenKeys, product, roundUpTo8, seen, sum } from "./attention-task.ts";
import { type Integer, smaller } from "./matmul-arguments.ts";
import { SimdMath } from "./simd-math.ts";

/** Regions of scratch, by number. */
export const forwardRegions = { keys: 0, values: 1, scores: 2, tops: 3, sums: 4, out: 5 } as const;
/** Whether keys and values are read in place, for a few queries, or packed. */
export const forwardSwitches = { inPlace: 0 } as const;
const tensor = { q: 0, k: 1, v: 2, y: 3, logSum: 4 } as const;

/** A module with one kernel, `attention`. */
export function attentionModule(options: { readonly shared: boolean; readonly fused: boolean }): Uint8Array<ArrayBuffer> {
  const module = new ModuleBuilder({ shared: options.shared });
  emitAttention(module, emitBlocks(module, options.fused), options.fused);
  return module.bytes();
}

function emitAttention(module: ModuleBuilder, blocks: Blocks, fused: boolean): void {
  const softmax = emitSoftmax(module, fused);
  const finish = emitFinish(module, fused);
  const fewScores = emitFewScores(module, fused);
  const fewWeighted = emitFewWeighted(module, fused);
  const f = module.function("attention", ["i32", "i32", "i32"]);
  const task = beginTask(f);
  const inPlace = f.local("i32", task.word(argument.switches + forwardSwitches.inPlace));
  const { D, E, group, firstUnit, endUnit, firstKey, endKey, rowBlock, keyBlock, blockStride } = task;
  const integer = (value: Expression = 0): Integer => f.local("i32", value);
  const { q, k, v, y, logSum } = task.operands(tensor);
  const { keys: keyPanels, values: valuePanels, scores, tops, sums, out } = task.regions(forwardRegions);
  const panelD = integer(task.word(argument.panelD));
  // weights are powers of 2
  const scale: Expression = ["f32.mul", load("f32.load", f.params[1], 4 * argument.scale), () => f.f32(Math.LOG2E)];
  const panelKeys = integer(task.word(argument.panelKeys));
  const outStride = integer(product(roundUpTo8(E), 4));
  const outBytes = integer(product(outStride, rowBlock));
  const rowBytes = integer(product(rowBlock, 4));
  const units = integer(["i32.sub", endUnit, firstUnit]);

  f.memoryFill(sums, 0, product(units, rowBytes));
  f.memoryFill(out, 0, product(units, outBytes));
  const top = integer(tops);
  f.repeat(["i32.div_u", sum(product(units, rowBytes), 12), 16], () => {
    f.store("v128.store", top, f.constant("f32", lowest * Math.LOG2E));
    f.increment(top, 16);
  });

  keepSeenKeys(f, task);
  const key = integer();
  const keys = integer();
  const unitOut = (unit: Integer) => sum(out, product(["i32.sub", unit, firstUnit], outBytes));
  const unitRows = (rows: Integer, unit: Integer) => sum(rows, product(["i32.sub", unit, firstUnit], rowBytes));
  f.for(key, firstKey, endKey, keyBlock, () => {
    f.set(keys, ["i32.sub", endKey, key]).set(keys, smaller(keys, keyBlock));
    const kHere = integer(sum(k.at(group), product(key, k.time)));
    const vHere = integer(sum(v.at(group), product(key, v.time)));
    f.if(["i32.eqz", inPlace], () => {
      f.call(blocks.packColumns, kHere, k.time, keyPanels, D, keys, panelD);
      f.call(blocks.scale, keyPanels, panelD, D, keys, scale);
      f.call(blocks.packRows, vHere, v.time, valuePanels, keys, E, panelKeys);
    });
    forUnits(f, task, key, (block) => {
      const { unit, head, row, rows, low, high } = block;
      f.if(seen(block, keys), () => {
        const band = [keys, low, high];
        const queries = integer(sum(q.at(head), product(row, q.time)));
        const here = integer(unitOut(unit));
        f.if(
          inPlace,
          () => f.call(fewScores, queries, q.time, kHere, k.time, D, scale, scores, blockStride, rows, ...band),
          () => f.call(blocks.scores, queries, q.time, keyPanels, panelD, D, scores, blockStride, rows, ...band),
        );
        f.call(softmax, scores, blockStride, rows, ...band, unitRows(tops, unit), unitRows(sums, unit), here, outStride);
        f.if(
          inPlace,
          () => f.call(fewWeighted, scores, blockStride, vHere, v.time, here, outStride, rows, E, ...band),
          () => f.call(blocks.weighted, scores, blockStride, valuePanels, panelKeys, here, outStride, rows, E, ...band),
        );
      });
    });
  });
  forUnits(f, task, 0, ({ unit, head, row, rows }) => {
    const [top, total] = [integer(unitRows(tops, unit)), integer(unitRows(sums, unit))];
    f.call(finish, top, total, rows);
    f.memoryCopy(sum(logSum.at(head), product(row, 4)), top, product(rows, 4));
    f.call(blocks.copy, unitOut(unit), outStride, sum(y.at(head), product(row, y.time)), y.time, rows, E, total, 4);
  });
}

/**
 * Emits softmax(block, blockStride, rows, keys, low, high, tops, sums, out, outStride): scores, in powers of 2, become
 * weights relative to the maximum so far, `tops`; where that has grown, what `sums` and `out` have so far shrinks with it.
 */
function emitSoftmax(module: ModuleBuilder, fused: boolean): FunctionBuilder {
  const f = module.function(null, ["i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32"]);
  const [block, blockStride, rows, keys, low, high, tops, sums, out, outStride] = f.params;
  const simd = new SimdMath(f, fused);
  const masked = simd.f32(Number.NEGATIVE_INFINITY);
  const pointer = f.local("i32");
  const [x, y, before] = [f.local("v128"), f.local("v128"), f.local("v128")];
  const advance = () => f.increment(block, blockStride).increment(tops, 4).increment(sums, 4).increment(out, outStride);
  forRows(f, { rows, keys, low, high }, advance, ({ from, to, tileFrom, tileTo }) => {
    fillBefore(f, block, tileFrom, from, masked);
    fillAfter(f, block, to, tileTo, masked);
    const first = f.local("i32", sum(block, product(tileFrom, 4)));
    const pairs = f.local("i32", ["i32.shr_u", ["i32.sub", tileTo, tileFrom], 3]);
    // the maximum may miss NaN; the sum will not
    f.set(before, load("v128.load32_splat", tops));
    f.set(x, before).set(y, before).set(pointer, first);
    f.repeat(pairs, () => {
      f.set(x, ["f32x4.pmax", x, load("v128.load", pointer)]).set(y, ["f32x4.pmax", y, load("v128.load", pointer, 16)]);
      f.increment(pointer, 32);
    });
    const top = simd.across(simd.apply("f32x4.pmax", x, y), (a, b) => simd.apply("f32x4.pmax", a, b));
    f.laneAccess("v128.store32_lane", 0, tops, top);
    f.set(x, simd.f32(0)).set(y, x).set(pointer, first);
    f.repeat(pairs, () => {
      for (const [half, total] of [x, y].entries()) {
        const weight = powerOfDifference(simd, simd.sub(simd.load(pointer, 16 * half), top));
        simd.store(pointer, weight, 16 * half);
        f.set(total, simd.add(total, weight));
      }
      f.increment(pointer, 32);
    });
    const total = simd.sumAcross(simd.add(x, y));
    const shrink = powerOfDifference(simd, simd.sub(before, top));
    f.laneAccess("v128.store32_lane", 0, sums, simd.madd(simd.keep(load("v128.load32_splat", sums)), shrink, total));
    f.if(["v128.any_true", simd.less(shrink, 1)], () => {
      f.set(pointer, out);
      f.repeat(["i32.shr_u", outStride, 4], () => {
        simd.store(pointer, simd.mul(simd.load(pointer), shrink));
        f.increment(pointer, 16);
      });
    });
  });
  return f;
}

/** Emits finish(tops, sums, rows): tops become log-sums, sums the factors that make weights sum to 1 (0 for a query that sees nothing). */
function emitFinish(module: ModuleBuilder, fused: boolean): FunctionBuilder {
  const f = module.function(null, ["i32", "i32", "i32"]);
  const [tops, sums, rows] = f.params;
  const simd = new SimdMath(f, fused);
  f.repeat(["i32.shr_u", sum(rows, 3), 2], () => {
    const total = simd.load(sums);
    simd.store(tops, simd.madd(simd.load(tops), Math.LN2, simd.log(simd.apply("f32x4.pmax", total, 1e-30))));
    simd.store(sums, simd.andNot(simd.recip(total), simd.equal(total, 0)));
    f.increment(tops, 16).increment(sums, 16);
  });
  return f;
}
