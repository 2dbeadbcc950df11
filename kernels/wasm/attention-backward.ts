/**
 * The derivative of attention for the wasm device: weights are computed again from the log-sums, block by block, so no T×T matrix
 * is kept. Stands for `attentionBackward` of graph/attention.ts, in the letters used there:
 *
 *     P = exp(scale · q·kᵀ − logSum)    delta = Σ g∘y    dS = P∘(g·vᵀ − delta)
 *     dv = Pᵀ·g    dk = scale · dSᵀ·q    dq = scale · dS·k
 *
 * A task goes over its blocks of keys and, for each, over its units (blocks of queries of the heads that share the key head). dk and
 * dv need all units of a block of keys, dq all blocks of keys of a unit. So one task may do all of a key head, or dk and dv are cut
 * by keys and dq by units, at the price of computing weights twice. Sums have the same order either way.
 *
 * @see https://arxiv.org/abs/2307.08691, algorithm 2
 */
import { type Expression, type FunctionBuilder, load, ModuleBuilder } from "../../src/devices/wasm/assembler.ts";
import {
  type Blocks,
  callTile,
  emitBlocks,
  fillAfter,
  fillBefore,
  forRows,
  lanesBelow,
  panelRowBytes,
  powerOfDifference,
} from "./attention-blocks.ts";
import { argument, beginTask, cut, forUnits, keepSeenKeys, larger, product, roundUpTo8, seen, sum } from "./attention-task.ts";
import { type Integer, smaller } from "./matmul-arguments.ts";
import { emitTile, panelColumns, tileRows } from "./matmul-tiles.ts";
import { SimdMath } from "./simd-math.ts";

/** Regions of scratch, by number: a row of constants, packed operands, two blocks of scores, row sums, results. */
export const backwardRegions = {
  constants: 0,
  keyColumns: 1,
  valueColumns: 2,
  keyRows: 3,
  queryRows: 4,
  cotangentRows: 5,
  weights: 6,
  slopes: 7,
  deltas: 8,
  dq: 9,
  dk: 10,
  dv: 11,
} as const;
/** Whether dk and dv are wanted, and dq. */
export const backwardSwitches = { keys: 0, queries: 1 } as const;
const tensor = { q: 0, k: 1, v: 2, y: 3, logSum: 4, g: 5, dq: 6, dk: 7, dv: 8 } as const;

/** A module with one kernel, `attentionBackward`. */
export function attentionBackwardModule(options: { readonly shared: boolean; readonly fused: boolean }): Uint8Array<ArrayBuffer> {
  const module = new ModuleBuilder({ shared: options.shared });
  emitBackward(module, emitBlocks(module, options.fused), options.fused);
  return module.bytes();
}

function emitBackward(module: ModuleBuilder, blocks: Blocks, fused: boolean): void {
  const slopes = emitSlopes(module, fused);
  const rowDots = emitRowDots(module, fused);
  const turned = emitTurned(module, fused);
  const f = module.function("attentionBackward", ["i32", "i32", "i32"]);
  const task = beginTask(f);
  const { D, E, group, firstKey, endKey, keyBlock, blockStride } = task;
  const integer = (value: Expression = 0): Integer => f.local("i32", value);
  const place = task.regions(backwardRegions);
  const x = task.operands(tensor);
  const panelD = integer(task.word(argument.panelD));
  const panelE = integer(task.word(argument.panelE));
  const panelKeys = integer(task.word(argument.panelKeys));
  const panelRows = integer(task.word(argument.panelRows));
  const wantsKeys = integer(task.word(argument.switches + backwardSwitches.keys));
  const wantsQueries = integer(task.word(argument.switches + backwardSwitches.queries));
  const scale = load("f32.load", f.params[1], 4 * argument.scale);
  const strideD = integer(product(roundUpTo8(D), 4));
  const strideE = integer(product(roundUpTo8(E), 4));
  const factors = place.constants;
  f.store("f32.store", factors, () => f.f32(1));
  f.store("f32.store", factors, scale, 4);

  f.if(wantsQueries, () => {
    forUnits(f, task, 0, ({ head, row, rows }) => {
      const dq = integer(sum(x.dq.at(head), product(row, x.dq.time)));
      f.repeat(rows, () => {
        f.memoryFill(dq, 0, product(D, 4));
        f.increment(dq, x.dq.time);
      });
    });
  });
  f.if(["i32.eqz", wantsKeys], () => keepSeenKeys(f, task));
  const [key, keys] = [integer(), integer()];
  f.for(key, firstKey, endKey, keyBlock, () => {
    f.set(keys, ["i32.sub", endKey, key]).set(keys, smaller(keys, keyBlock));
    const k = integer(sum(x.k.at(group), product(key, x.k.time)));
    f.call(blocks.packColumns, k, x.k.time, place.keyColumns, D, keys, panelD);
    // weights are powers of 2
    f.call(blocks.scale, place.keyColumns, panelD, D, keys, ["f32.mul", scale, () => f.f32(Math.LOG2E)]);
    f.call(blocks.packColumns, sum(x.v.at(group), product(key, x.v.time)), x.v.time, place.valueColumns, E, keys, panelE);
    f.if(wantsQueries, () => {
      f.call(blocks.packRows, k, x.k.time, place.keyRows, keys, D, panelKeys);
      f.call(blocks.scale, place.keyRows, panelKeys, keys, D, scale);
    });
    f.memoryFill(place.dk, 0, product(keys, strideD));
    f.memoryFill(place.dv, 0, product(keys, strideE));

    forUnits(f, task, key, (block) => {
      const { head, row, rows, low, high } = block;
      f.if(seen(block, keys), () => {
        const band = [keys, low, high];
        const q = integer(sum(x.q.at(head), product(row, x.q.time)));
        const g = integer(sum(x.g.at(head), product(row, x.g.time)));
        const [weights, slope] = [place.weights, place.slopes];
        f.call(rowDots, g, x.g.time, sum(x.y.at(head), product(row, x.y.time)), x.y.time, rows, E, place.deltas);
        f.call(blocks.scores, q, x.q.time, place.keyColumns, panelD, D, weights, blockStride, rows, ...band);
        f.call(blocks.scores, g, x.g.time, place.valueColumns, panelE, E, slope, blockStride, rows, ...band);
        const logSums = sum(x.logSum.at(head), product(row, 4));
        f.call(slopes, weights, slope, blockStride, rows, ...band, logSums, place.deltas);
        f.if(wantsKeys, () => {
          f.call(blocks.packRows, g, x.g.time, place.cotangentRows, rows, E, panelRows);
          f.call(turned, weights, blockStride, place.cotangentRows, panelRows, place.dv, strideE, rows, E, ...band);
          f.call(blocks.packRows, q, x.q.time, place.queryRows, rows, D, panelRows);
          f.call(turned, slope, blockStride, place.queryRows, panelRows, place.dk, strideD, rows, D, ...band);
        });
        f.if(wantsQueries, () => {
          const dq = integer(sum(x.dq.at(head), product(row, x.dq.time)));
          f.call(blocks.copy, dq, x.dq.time, place.dq, strideD, rows, D, factors, 0);
          f.call(blocks.weighted, slope, blockStride, place.keyRows, panelKeys, place.dq, strideD, rows, D, ...band);
          f.call(blocks.copy, place.dq, strideD, dq, x.dq.time, rows, D, factors, 0);
        });
      });
    });
    f.if(wantsKeys, () => {
      const own = (name: "dk" | "dv") => sum(x[name].at(group), product(key, x[name].time));
      f.call(blocks.copy, place.dk, strideD, own("dk"), x.dk.time, keys, D, sum(factors, 4), 0);
      f.call(blocks.copy, place.dv, strideE, own("dv"), x.dv.time, keys, E, factors, 0);
    });
  });
}

/**
 * Emits slopes(block, slopes, blockStride, rows, keys, low, high, logSums, deltas): scores become weights P, and g·vᵀ in `slopes`
 * becomes P∘(g·vᵀ − delta). Up to 8 keys beside the band become zeros, which `turned` may read.
 */
function emitSlopes(module: ModuleBuilder, fused: boolean): FunctionBuilder {
  const f = module.function(null, ["i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32"]);
  const [block, slopes, blockStride, rows, keys, low, high, logSums, deltas] = f.params;
  const simd = new SimdMath(f, fused);
  const [p, s] = [f.local("i32"), f.local("i32")];
  const advance = () => f.increment(block, blockStride).increment(slopes, blockStride).increment(logSums, 4).increment(deltas, 4);
  forRows(f, { rows, keys, low, high }, advance, ({ from, to, tileFrom, tileTo }) => {
    const logSum = simd.mul(simd.keep(load("v128.load32_splat", logSums)), Math.LOG2E);
    const delta = simd.keep(load("v128.load32_splat", deltas));
    const start = f.local("i32", ["i32.and", from, -8]);
    f.set(p, sum(block, product(start, 4))).set(s, sum(slopes, product(start, 4)));
    f.if(["i32.lt_s", from, to], () => {
      f.repeat(["i32.shr_u", sum(["i32.sub", to, start], 7), 3], () => {
        for (const offset of [0, 16]) {
          const weight = powerOfDifference(simd, simd.sub(simd.load(p, offset), logSum));
          simd.store(p, weight, offset);
          simd.store(s, simd.mul(weight, simd.sub(simd.load(s, offset), delta)), offset);
        }
        f.increment(p, 32).increment(s, 32);
      });
    });
    const before = f.local("i32", ["i32.sub", tileFrom, panelColumns]);
    f.set(before, larger(before, 0));
    for (const row of [block, slopes]) {
      fillBefore(f, row, before, from, simd.f32(0));
      fillAfter(f, row, to, sum(tileTo, panelColumns), simd.f32(0));
    }
  });
  return f;
}

/** Emits dots(a, aStride, b, bStride, rows, columns, out): out = Σ a∘b of each row. */
function emitRowDots(module: ModuleBuilder, fused: boolean): FunctionBuilder {
  const f = module.function(null, ["i32", "i32", "i32", "i32", "i32", "i32", "i32"]);
  const [a, aStride, b, bStride, rows, columns, out] = f.params;
  const simd = new SimdMath(f, fused);
  const [x, y] = [f.local("i32"), f.local("i32")];
  const total = f.local("v128");
  const rest = f.local("i32", ["i32.and", columns, 3]);
  const inside = lanesBelow(simd, rest);
  f.repeat(rows, () => {
    f.set(x, a).set(y, b).set(total, simd.f32(0));
    f.repeat(["i32.shr_u", columns, 2], () => {
      f.set(total, simd.madd(simd.load(x), simd.load(y), total));
      f.increment(x, 16).increment(y, 16);
    });
    // what lies past the last column counts as 0
    f.if(rest, () => {
      f.set(total, simd.madd(simd.and(simd.load(x), inside), simd.and(simd.load(y), inside), total));
    });
    f.laneAccess("v128.store32_lane", 0, out, simd.sumAcross(total));
    f.increment(a, aStride).increment(b, bStride).increment(out, 4);
  });
  return f;
}

/** Emits turned(block, blockStride, panels, panelBytes, out, outStride, rows, columns, keys, low, high): out += blockᵀ · panels. */
function emitTurned(module: ModuleBuilder, fused: boolean): FunctionBuilder {
  const tiles = Array.from({ length: tileRows }, (_, i) => emitTile(module, i + 1, fused, "columns"));
  const f = module.function(null, ["i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32"]);
  const [block, blockStride, panels, panelBytes, out, outStride, rows, columns, keys, low, high] = f.params;
  const [panel, outPanel, column, here] = [f.local("i32", panels), f.local("i32", out), f.local("i32"), f.local("i32")];
  const [key, outRow] = [f.local("i32"), f.local("i32")];
  const outStep = f.local("i32", product(outStride, tileRows));
  f.for(column, 0, columns, panelColumns, () => {
    f.set(outRow, outPanel);
    f.for(key, 0, keys, tileRows, () => {
      f.set(here, ["i32.sub", keys, key]).set(here, smaller(here, tileRows));
      // rows that see some of these keys
      const from = cut(f, ["i32.sub", sum(key, 1), high], rows);
      const depth = cut(f, ["i32.sub", sum(key, here), low], rows);
      f.increment(depth, ["i32.sub", 0, from]);
      f.if(["i32.gt_s", depth, 0], () => {
        const a = f.local("i32", sum(block, product(from, blockStride), product(key, 4)));
        const b = f.local("i32", sum(panel, product(from, panelRowBytes)));
        callTile(f, tiles, here, a, blockStride, b, depth, outRow, outStride, outRow, outStride);
      });
      f.increment(outRow, outStep);
    });
    f.increment(panel, panelBytes).increment(outPanel, panelRowBytes);
  });
  return f;
}
