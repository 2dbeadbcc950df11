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
import { type Integer, smaller } from "./argument-block.ts";
import {
  type Blocks,
  callTile,
  emitBlocks,
  fillBeside,
  forEdges,
  forPanels,
  laneSums,
  lanesBelow,
  panelRowBytes,
  powerOfDifference,
} from "./attention-blocks.ts";
import { argument, beginTask, cut, forUnits, keepSeenKeys, product, roundUpTo8, seen, sum } from "./attention-task.ts";
import { panelColumns, tileRows } from "./matmul-tiles.ts";
import { SimdMath } from "./simd-math.ts";

/** Regions of scratch, by number: a row of constants, packed operands, two blocks of scores, row sums, results. */
export const backwardRegions = {
  constants: 0,
  queryColumns: 1,
  cotangentColumns: 2,
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
  const turned = emitTurned(module, blocks);
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
  /** Whether tiles may write where dq is; else they write into scratch. */
  const wholePanels = integer(["i32.eqz", ["i32.and", D, panelColumns - 1]]);
  const factors = place.constants;
  f.store("f32.store", factors, () => f.f32(1));

  f.if(wantsQueries, () => {
    forUnits(f, task, 0, ({ head, row, rows }) => {
      const dq = integer(sum(x.dq.at(head), product(row, x.dq.time)));
      f.if(
        wholePanels,
        () => f.call(blocks.clear, dq, x.dq.time, rows, D),
        () =>
          f.repeat(rows, () => {
            f.memoryFill(dq, 0, product(D, 4));
            f.increment(dq, x.dq.time);
          }),
      );
    });
  });
  f.if(["i32.eqz", wantsKeys], () => keepSeenKeys(f, task));
  const [key, keys] = [integer(), integer()];
  f.for(key, firstKey, endKey, keyBlock, () => {
    f.set(keys, ["i32.sub", endKey, key]).set(keys, smaller(keys, keyBlock));
    const k = integer(sum(x.k.at(group), product(key, x.k.time)));
    const v = integer(sum(x.v.at(group), product(key, x.v.time)));
    f.call(blocks.touch, k, x.k.time, keys, D);
    f.call(blocks.touch, v, x.v.time, keys, E);
    f.if(wantsQueries, () => f.call(blocks.packRows, k, x.k.time, place.keyRows, keys, D, panelKeys));
    f.memoryFill(place.dk, 0, product(keys, strideD));
    f.memoryFill(place.dv, 0, product(keys, strideE));

    forUnits(f, task, key, (block) => {
      const { head, row, rows, low, high } = block;
      f.if(seen(block, keys), () => {
        const band = [keys, low, high];
        const q = integer(sum(x.q.at(head), product(row, x.q.time)));
        const g = integer(sum(x.g.at(head), product(row, x.g.time)));
        const [weights, slope] = [place.weights, place.slopes];
        const y = integer(sum(x.y.at(head), product(row, x.y.time)));
        f.call(blocks.touch, q, x.q.time, rows, D);
        f.call(blocks.touch, g, x.g.time, rows, E);
        f.call(blocks.touch, y, x.y.time, rows, E);
        f.call(rowDots, g, x.g.time, y, x.y.time, rows, E, place.deltas);
        f.call(blocks.packColumns, q, x.q.time, place.queryColumns, D, rows, panelD);
        f.call(blocks.packColumns, g, x.g.time, place.cotangentColumns, E, rows, panelE);
        f.call(blocks.scores, k, x.k.time, place.queryColumns, panelD, D, weights, blockStride, rows, ...band);
        f.call(blocks.scores, v, x.v.time, place.cotangentColumns, panelE, E, slope, blockStride, rows, ...band);
        const logSums = sum(x.logSum.at(head), product(row, 4));
        f.call(slopes, weights, slope, blockStride, rows, ...band, logSums, place.deltas, scale);
        f.if(wantsKeys, () => {
          f.call(blocks.packRows, g, x.g.time, place.cotangentRows, rows, E, panelRows);
          f.call(turned, weights, blockStride, place.cotangentRows, panelRows, place.dv, strideE, rows, E, ...band);
          f.call(blocks.packRows, q, x.q.time, place.queryRows, rows, D, panelRows);
          f.call(turned, slope, blockStride, place.queryRows, panelRows, place.dk, strideD, rows, D, ...band);
        });
        f.if(wantsQueries, () => {
          const dq = integer(sum(x.dq.at(head), product(row, x.dq.time)));
          const add = (out: Integer, outStride: Integer) =>
            f.call(blocks.weighted, slope, blockStride, place.keyRows, panelKeys, out, outStride, rows, D, ...band);
          f.if(
            wholePanels,
            () => add(dq, x.dq.time),
            () => {
              f.call(blocks.copy, dq, x.dq.time, place.dq, strideD, rows, D, factors, 0);
              add(place.dq, strideD);
              f.call(blocks.copy, place.dq, strideD, dq, x.dq.time, rows, D, factors, 0);
            },
          );
        });
      });
    });
    f.if(wantsKeys, () => {
      const own = (name: "dk" | "dv") => sum(x[name].at(group), product(key, x[name].time));
      f.call(blocks.copy, place.dk, strideD, own("dk"), x.dk.time, keys, D, factors, 0);
      f.call(blocks.copy, place.dv, strideE, own("dv"), x.dv.time, keys, E, factors, 0);
    });
  });
}

/**
 * Emits slopes(block, slopes, blockStride, rows, keys, low, high, logSums, deltas, scale): scores become weights P, and g·vᵀ in
 * `slopes` becomes scale · P∘(g·vᵀ − delta).
 */
function emitSlopes(module: ModuleBuilder, fused: boolean): FunctionBuilder {
  const f = module.function(null, ["i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32", "f32"]);
  const [block, slopes, blockStride, rows, keys, low, high, logSums, deltas, scale] = f.params;
  const simd = new SimdMath(f, fused);
  const [p, s] = [f.local("i32"), f.local("i32")];
  const factor = simd.keep(["f32x4.splat", scale]);
  const power = simd.mul(factor, Math.LOG2E);
  const band = { rows, keys, low, high };
  forPanels(f, band, (panel) => {
    const { row, from, to } = panel;
    const count = f.local("i32", ["i32.sub", to, from]);
    f.if(["i32.gt_s", count, 0], () => {
      const first = f.local("i32", sum(product(from, blockStride), product(row, 4)));
      const [logSum, delta] = [sum(logSums, product(row, 4)), sum(deltas, product(row, 4))];
      const halves = [0, 16].map((offset) => ({
        offset,
        logSum: simd.mul(simd.load(logSum, offset), -Math.LOG2E),
        delta: simd.load(delta, offset),
      }));
      f.set(p, sum(block, first)).set(s, sum(slopes, first));
      f.repeat(count, () => {
        for (const { offset, logSum, delta } of halves) {
          const weight = powerOfDifference(simd, simd.madd(simd.load(p, offset), power, logSum));
          simd.store(p, weight, offset);
          simd.store(s, simd.mul(simd.mul(weight, factor), simd.sub(simd.load(s, offset), delta)), offset);
        }
        f.increment(p, blockStride).increment(s, blockStride);
      });
      for (const values of [block, slopes])
        forEdges(simd, band, panel, [values, blockStride], (at, masks) => {
          for (const [i, offset] of [0, 16].entries()) simd.store(at, simd.and(simd.load(at, offset), masks[i]!), offset);
        });
    });
    for (const values of [block, slopes]) fillBeside(simd, keys, panel, [values, blockStride]);
  });
  return f;
}

/** Emits dots(a, aStride, b, bStride, rows, columns, out): out = Σ a∘b of each row, four rows at a time: what comes after the last is arbitrary. */
function emitRowDots(module: ModuleBuilder, fused: boolean): FunctionBuilder {
  const f = module.function(null, ["i32", "i32", "i32", "i32", "i32", "i32", "i32"]);
  const [a, aStride, b, bStride, rows, columns, out] = f.params;
  const simd = new SimdMath(f, fused);
  const [row, offset, index] = [f.local("i32"), f.local("i32"), f.local("i32")];
  const four = [0, 1, 2, 3].map(() => ({ x: f.local("i32"), y: f.local("i32"), total: f.local("v128") }));
  const last = f.local("i32", ["i32.sub", rows, 1]);
  const whole = f.local("i32", product(["i32.and", columns, -4], 4));
  const rest = f.local("i32", ["i32.and", columns, 3]);
  const inside = lanesBelow(simd, rest);
  f.for(row, 0, rows, 4, () => {
    for (const [i, { x, y, total }] of four.entries()) {
      f.set(index, sum(row, i)).set(index, smaller(index, last));
      f.set(x, sum(a, product(index, aStride))).set(y, sum(b, product(index, bStride)));
      f.set(total, simd.f32(0));
    }
    f.for(offset, 0, whole, 16, () => {
      for (const { x, y, total } of four) f.set(total, simd.madd(simd.load(sum(x, offset)), simd.load(sum(y, offset)), total));
    });
    // what lies past the last column counts as 0
    f.if(rest, () => {
      const part = (from: Integer) => simd.and(simd.load(sum(from, whole)), inside);
      for (const { x, y, total } of four) f.set(total, simd.madd(part(x), part(y), total));
    });
    simd.store(
      sum(out, product(row, 4)),
      laneSums(
        simd,
        four.map(({ total }) => total),
      ),
    );
  });
  return f;
}

/** Emits turned(block, blockStride, panels, panelBytes, out, outStride, rows, columns, keys, low, high): out += block · panels, a row a key. */
function emitTurned(module: ModuleBuilder, { tiles }: Blocks): FunctionBuilder {
  const f = module.function(null, ["i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32"]);
  const [block, blockStride, panels, panelBytes, out, outStride, rows, columns, keys, low, high] = f.params;
  const [panel, outPanel, column, here] = [f.local("i32", panels), f.local("i32", out), f.local("i32"), f.local("i32")];
  const [key, blockRow, outRow] = [f.local("i32"), f.local("i32"), f.local("i32")];
  const blockStep = f.local("i32", product(blockStride, tileRows));
  const outStep = f.local("i32", product(outStride, tileRows));
  f.for(column, 0, columns, panelColumns, () => {
    f.set(blockRow, block).set(outRow, outPanel);
    f.for(key, 0, keys, tileRows, () => {
      f.set(here, ["i32.sub", keys, key]).set(here, smaller(here, tileRows));
      // queries that see some of these keys
      const from = cut(f, ["i32.sub", sum(key, 1), high], rows);
      const depth = cut(f, ["i32.sub", sum(key, here), low], rows);
      f.increment(depth, ["i32.sub", 0, from]);
      f.if(["i32.gt_s", depth, 0], () => {
        const a = f.local("i32", sum(blockRow, product(from, 4)));
        const b = f.local("i32", sum(panel, product(from, panelRowBytes)));
        callTile(f, tiles, here, a, blockStride, b, depth, outRow, outStride, outRow, outStride);
      });
      f.increment(blockRow, blockStep).increment(outRow, outStep);
    });
    f.increment(panel, panelBytes).increment(outPanel, panelRowBytes);
  });
  return f;
}
