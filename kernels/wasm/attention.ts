/**
 * softmax(scale · q·kᵀ) · v for the wasm device without the T×T matrix: scores of a block of queries and a block of keys at a time,
 * the softmax's maximum and sum carried from block to block. Stands for `attention` of graph/attention.ts.
 *
 * A task has some blocks of queries of one batch row and key head (all query heads that share it), so each packed block of values
 * serves them all. Every result is computed in the order of the keys, in blocks that depend on sizes alone, so results do
 * not depend on the number of threads.
 *
 * @see https://arxiv.org/abs/2205.14135, algorithm 1
 */
import { type Expression, type FunctionBuilder, load, ModuleBuilder } from "../../src/devices/wasm/assembler.ts";
import { type Integer, smaller } from "./argument-block.ts";
import { type Blocks, emitBlocks, fillBeside, forEdges, forPanels, lowest, powerOfDifference } from "./attention-blocks.ts";
import { emitFewScores, emitFewSoftmax, emitFewWeighted } from "./attention-few.ts";
import { argument, beginTask, forUnits, keepSeenKeys, product, roundUpTo8, seen, sum } from "./attention-task.ts";
import { SimdMath } from "./simd-math.ts";

/** Regions of scratch, by number. */
export const forwardRegions = { queries: 0, values: 1, scores: 2, tops: 3, sums: 4, shrinks: 5, out: 6 } as const;
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
  const softmax = emitSoftmax(module, blocks, fused);
  const finish = emitFinish(module, fused);
  const fewScores = emitFewScores(module, fused);
  const fewSoftmax = emitFewSoftmax(module, fused);
  const fewWeighted = emitFewWeighted(module, fused);
  const f = module.function("attention", ["i32", "i32", "i32"]);
  const task = beginTask(f);
  const inPlace = f.local("i32", task.word(argument.switches + forwardSwitches.inPlace));
  const { D, E, group, firstUnit, endUnit, firstKey, endKey, rowBlock, keyBlock, blockStride } = task;
  const integer = (value: Expression = 0): Integer => f.local("i32", value);
  const { q, k, v, y, logSum } = task.operands(tensor);
  const { queries: queryPanels, values: valuePanels, scores, tops, sums, shrinks, out } = task.regions(forwardRegions);
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
      f.call(blocks.touch, kHere, k.time, keys, D);
      f.call(blocks.touch, vHere, v.time, keys, E);
      f.call(blocks.packRows, vHere, v.time, valuePanels, keys, E, panelKeys);
    });
    forUnits(f, task, key, (block) => {
      const { unit, head, row, rows, low, high } = block;
      f.if(seen(block, keys), () => {
        const band = [keys, low, high];
        const queries = integer(sum(q.at(head), product(row, q.time)));
        const here = integer(unitOut(unit));
        const soFar = [unitRows(tops, unit), unitRows(sums, unit), here, outStride];
        f.if(
          inPlace,
          () => {
            f.call(fewScores, queries, q.time, kHere, k.time, D, scale, scores, blockStride, rows, ...band);
            f.call(fewSoftmax, scores, blockStride, rows, ...band, ...soFar);
            f.call(fewWeighted, scores, blockStride, vHere, v.time, here, outStride, rows, E, ...band);
          },
          () => {
            f.call(blocks.touch, queries, q.time, rows, D);
            f.call(blocks.packColumns, queries, q.time, queryPanels, D, rows, panelD);
            f.call(blocks.scale, queryPanels, panelD, D, rows, scale);
            f.call(blocks.scores, kHere, k.time, queryPanels, panelD, D, scores, blockStride, rows, ...band);
            f.call(softmax, scores, blockStride, rows, ...band, ...soFar, shrinks);
            f.call(blocks.weighted, scores, blockStride, valuePanels, panelKeys, here, outStride, rows, E, ...band);
          },
        );
      });
    });
  });
  forUnits(f, task, 0, ({ unit, head, row, rows }) => {
    const [top, total] = [integer(unitRows(tops, unit)), integer(unitRows(sums, unit))];
    const result = integer(sum(y.at(head), product(row, y.time)));
    f.call(blocks.touch, result, y.time, rows, E);
    f.call(finish, top, total, rows);
    f.memoryCopy(sum(logSum.at(head), product(row, 4)), top, product(rows, 4));
    f.call(blocks.copy, unitOut(unit), outStride, result, y.time, rows, E, total, 4);
  });
}

/**
 * Emits softmax(block, blockStride, rows, keys, low, high, tops, sums, out, outStride, shrinks): scores, in powers of 2, become
 * weights relative to the maximum so far, `tops`; where that has grown, what `sums` and `out` have so far shrinks with it.
 * `shrinks` is room for 8 factors.
 */
function emitSoftmax(module: ModuleBuilder, blocks: Blocks, fused: boolean): FunctionBuilder {
  const f = module.function(null, ["i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32"]);
  const [block, blockStride, rows, keys, low, high, tops, sums, out, outStride, shrinks] = f.params;
  const simd = new SimdMath(f, fused);
  const at = f.local("i32");
  const [tops0, tops1, sums0, sums1] = [f.local("v128"), f.local("v128"), f.local("v128"), f.local("v128")];
  const band = { rows, keys, low, high };
  /** Twice, for queries 0–3 and 4–7 of a panel. */
  const halves = [
    { offset: 0, top: tops0, total: sums0 },
    { offset: 16, top: tops1, total: sums1 },
  ];
  forPanels(f, band, (panel) => {
    const { row, last, from, to } = panel;
    const count = f.local("i32", ["i32.sub", to, from]);
    f.if(["i32.gt_s", count, 0], () => {
      const masked = simd.f32(Number.NEGATIVE_INFINITY);
      forEdges(simd, band, panel, [block, blockStride], (edge, masks) => {
        for (const [i, { offset }] of halves.entries())
          simd.store(edge, simd.select(masks[i]!, simd.load(edge, offset), masked), offset);
      });
      const first = f.local("i32", sum(block, product(from, blockStride), product(row, 4)));
      const [topsHere, sumsHere] = [f.local("i32", sum(tops, product(row, 4))), f.local("i32", sum(sums, product(row, 4)))];
      const before = halves.map(({ offset }) => simd.load(topsHere, offset));
      // the maximum may miss NaN; the sum will not
      for (const [i, { top }] of halves.entries()) f.set(top, before[i]!);
      f.set(at, first);
      f.repeat(count, () => {
        for (const { offset, top } of halves) f.set(top, ["f32x4.pmax", top, load("v128.load", at, offset)]);
        f.increment(at, blockStride);
      });
      for (const { total } of halves) f.set(total, simd.f32(0));
      f.set(at, first);
      f.repeat(count, () => {
        for (const { offset, top, total } of halves) {
          const weight = powerOfDifference(simd, simd.sub(simd.load(at, offset), top));
          simd.store(at, weight, offset);
          f.set(total, simd.add(total, weight));
        }
        f.increment(at, blockStride);
      });
      const grown = halves.map(({ offset, top, total }, i) => {
        const shrink = powerOfDifference(simd, simd.sub(before[i]!, top));
        simd.store(topsHere, top, offset);
        simd.store(sumsHere, simd.madd(simd.load(sumsHere, offset), shrink, total), offset);
        simd.store(shrinks, shrink, offset);
        // nothing to shrink where nothing was seen before
        return simd.and(simd.less(shrink, 1), simd.less(lowest, before[i]!));
      });
      f.if(["v128.any_true", ["v128.or", ...grown]], () => {
        const outHere = f.local("i32", sum(out, product(row, outStride)));
        const width: Expression = ["i32.shr_u", outStride, 2];
        f.call(blocks.copy, outHere, outStride, outHere, outStride, ["i32.sub", sum(last, 1), row], width, shrinks, 4);
      });
    });
    fillBeside(simd, keys, panel, [block, blockStride]);
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
