/**
 * What the two attention kernels share. Both walk over blocks: `rows` queries times `keys` keys of one head, of whose products only
 * a band is needed. Query r of a block sees its keys low + r ≤ j < high + r, cut to 0 ≤ j < keys; that says causal masks with any
 * offset, sliding windows and no mask at all. Products go by the tiles of `matmul-tiles.ts`, each only where the band passes.
 *
 * A block has a row a key, so that neighbouring lanes are neighbouring queries: the maximum and the sum of a softmax go down a column
 * and never across lanes. Columns are cut into panels of 8 queries. What a panel has of a block is what one of its queries sees, with
 * zeros where another does not, and a few zeros more before and after, since the tiles of the next product take 6 queries or 6 keys.
 */
import { type Expression, type FunctionBuilder, load, type ModuleBuilder } from "../../src/devices/wasm/assembler.ts";
import { type Integer, smaller } from "./argument-block.ts";
import { cut, larger, product, roundUpTo8, sum } from "./attention-task.ts";
import type { MatmulVariant } from "./matmul-arguments.ts";
import { emitPackColumns, emitPackRows, emitTile, panelColumns, tileRows } from "./matmul-tiles.ts";
import { SimdMath, type V128 } from "./simd-math.ts";

/** Bytes of a row of a panel: a float32 for each of its queries. */
export const panelRowBytes = 4 * panelColumns;
/** What a cache takes in at once. */
const lineBytes = 64;

/** Stands where the log-sum of nothing would be −∞, so that no difference is NaN. */
export const lowest = -1e20;

const plain: MatmulVariant = {
  method: "tiles",
  rows: 0,
  a: "rows",
  b: "rows",
  bType: "float32",
  aStride: 0,
  addend: "none",
  update: "none",
};

/** The functions of a module that both kernels call. */
export interface Blocks {
  /** (a, aStride, panel, …) for 1 … 6 rows, see `emitTile`. */
  readonly tiles: Tiles;
  /** (b, bStride, packed, depth, columns, panelBytes) with B's columns contiguous, see `emitPackRows`. */
  readonly packRows: FunctionBuilder;
  /** The same with k contiguous. */
  readonly packColumns: FunctionBuilder;
  /** (panels, panelBytes, depth, columns, factor): multiplies what is packed. */
  readonly scale: FunctionBuilder;
  /** (a, aStride, panels, panelBytes, depth, block, blockStride, rows, keys, low, high): block = a · panels, a row of `a` a key. */
  readonly scores: FunctionBuilder;
  /** (block, blockStride, panels, panelBytes, out, outStride, rows, columns, keys, low, high): out += blockᵀ · panels, a row a query. */
  readonly weighted: FunctionBuilder;
  /** (from, fromStride, to, toStride, rows, columns, factors, factorStride): row of `to` = factor · row of `from`. */
  readonly copy: FunctionBuilder;
  /** (at, stride, rows, columns): writes zeros, in whole panels. */
  readonly clear: FunctionBuilder;
  /** (at, stride, rows, columns): reads a value of each line, so that what comes next does not wait for one line after the other. */
  readonly touch: FunctionBuilder;
}

/** The functions of {@link Blocks}, written into a module once. @param fused multiplies and adds in one instruction (relaxed SIMD) */
export function emitBlocks(module: ModuleBuilder, fused: boolean): Blocks {
  return module.shared(`attention blocks ${fused}`, () => writeBlocks(module, fused));
}

function writeBlocks(module: ModuleBuilder, fused: boolean): Blocks {
  const tiles = Array.from({ length: tileRows }, (_, i) => emitTile(module, i + 1, fused));
  return {
    tiles,
    packRows: emitPackRows(module, plain, fused),
    packColumns: emitPackColumns(module, plain, fused),
    scale: emitScale(module, fused),
    scores: emitScores(module, tiles),
    weighted: emitWeighted(module, fused),
    copy: emitCopy(module, fused),
    clear: emitColumns(module, panelRowBytes, (f, at) => {
      for (const offset of [0, 16]) f.store("v128.store", at, f.constant("f32", 0), offset);
    }),
    // a load is not left out for want of a reader: it may trap
    touch: emitColumns(module, lineBytes, (f, at) => f.load("i32.load", at).op("drop")),
  };
}

type Tiles = readonly FunctionBuilder[];

/** Calls the tile for `rows` (1 … 6) rows. */
export function callTile(f: FunctionBuilder, tiles: Tiles, rows: Integer, ...operands: Expression[]): void {
  const from = (count: number): void => {
    const call = () => f.call(tiles[count - 1]!, ...operands);
    if (count === 1) call();
    else f.if(["i32.eq", rows, count], call, () => from(count - 1));
  };
  from(tileRows);
}

function emitScores(module: ModuleBuilder, tiles: Tiles): FunctionBuilder {
  const f = module.function(null, ["i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32"]);
  const [a, aStride, panels, panelBytes, depth, block, blockStride, rows, keys, low, high] = f.params;
  const integer = (value: Expression = 0): Integer => f.local("i32", value);
  const [panel, here, aRow, outRow, left] = [integer(panels), integer(), integer(), integer(), integer()];
  /** Up to so many rows go as two tiles of nearly equal height: one with few sums would wait for them. */
  const mostForTwo = 2 * tileRows - 2;
  forPanels(f, { rows, keys, low, high }, ({ row, from, to }) => {
    f.set(aRow, sum(a, product(from, aStride)));
    f.set(outRow, sum(block, product(from, blockStride), product(row, 4)));
    f.set(left, ["i32.sub", to, from]);
    f.while(["i32.gt_s", left, 0], () => {
      f.set(here, smaller(left, tileRows));
      f.if(["i32.and", ["i32.gt_s", left, tileRows], ["i32.le_s", left, mostForTwo]], () =>
        f.set(here, ["i32.shr_u", sum(left, 1), 1]),
      );
      callTile(f, tiles, here, aRow, aStride, panel, depth, 0, 0, outRow, blockStride);
      f.increment(aRow, product(here, aStride)).increment(outRow, product(here, blockStride));
      f.increment(left, ["i32.sub", 0, here]);
    });
    f.increment(panel, panelBytes);
  });
  return f;
}

function emitWeighted(module: ModuleBuilder, fused: boolean): FunctionBuilder {
  const tiles = Array.from({ length: tileRows }, (_, i) => emitTile(module, i + 1, fused, "columns"));
  const f = module.function(null, ["i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32"]);
  const [block, blockStride, panels, panelBytes, out, outStride, rows, columns, keys, low, high] = f.params;
  const [panel, outPanel, column, here] = [f.local("i32", panels), f.local("i32", out), f.local("i32"), f.local("i32")];
  const [row, outRow] = [f.local("i32"), f.local("i32")];
  const outStep = f.local("i32", product(outStride, tileRows));
  f.for(column, 0, columns, panelColumns, () => {
    f.set(outRow, outPanel);
    f.for(row, 0, rows, tileRows, () => {
      f.set(here, ["i32.sub", rows, row]).set(here, smaller(here, tileRows));
      const from = cut(f, sum(row, low), keys);
      const depth = cut(f, ["i32.sub", sum(row, here, high), 1], keys);
      f.increment(depth, ["i32.sub", 0, from]);
      f.if(["i32.gt_s", depth, 0], () => {
        const a = f.local("i32", sum(block, product(from, blockStride), product(row, 4)));
        const b = f.local("i32", sum(panel, product(from, panelRowBytes)));
        callTile(f, tiles, here, a, blockStride, b, depth, outRow, outStride, outRow, outStride);
      });
      f.increment(outRow, outStep);
    });
    f.increment(panel, panelBytes).increment(outPanel, panelRowBytes);
  });
  return f;
}

function emitScale(module: ModuleBuilder, fused: boolean): FunctionBuilder {
  const f = module.function(null, ["i32", "i32", "i32", "i32", "f32"]);
  const [panels, panelBytes, depth, columns, factor] = f.params;
  const simd = new SimdMath(f, fused);
  const by = simd.keep(["f32x4.splat", factor]);
  const at = f.local("i32");
  f.repeat(["i32.shr_u", roundUpTo8(columns), 3], () => {
    f.set(at, panels);
    f.repeat(depth, () => {
      for (let offset = 0; offset < panelRowBytes; offset += 16) simd.store(at, simd.mul(simd.load(at, offset), by), offset);
      f.increment(at, panelRowBytes);
    });
    f.increment(panels, panelBytes);
  });
  return f;
}

function emitCopy(module: ModuleBuilder, fused: boolean): FunctionBuilder {
  const f = module.function(null, ["i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32"]);
  const [from, fromStride, to, toStride, rows, columns, factors, factorStride] = f.params;
  const simd = new SimdMath(f, fused);
  const [source, target] = [f.local("i32"), f.local("i32")];
  const factor = f.local("v128");
  f.repeat(rows, () => {
    f.set(source, from).set(target, to);
    f.set(factor, load("v128.load32_splat", factors));
    f.repeat(["i32.shr_u", columns, 2], () => {
      simd.store(target, simd.mul(simd.load(source), factor));
      f.increment(source, 16).increment(target, 16);
    });
    f.repeat(["i32.and", columns, 3], () => {
      const lane: Expression = () => f.lane("f32x4.extract_lane", 0, factor);
      f.store("f32.store", target, ["f32.mul", load("f32.load", source), lane]);
      f.increment(source, 4).increment(target, 4);
    });
    f.increment(from, fromStride).increment(to, toStride).increment(factors, factorStride);
  });
  return f;
}

/** Emits (at, stride, rows, columns): `body` for every `step` bytes of each row, column by column. */
function emitColumns(module: ModuleBuilder, step: number, body: (f: FunctionBuilder, at: Integer) => void): FunctionBuilder {
  const f = module.function(null, ["i32", "i32", "i32", "i32"]);
  const [at, stride, rows, columns] = f.params;
  const [offset, here] = [f.local("i32"), f.local("i32")];
  const bytes = f.local("i32", product(columns, 4));
  f.for(offset, 0, bytes, step, () => {
    f.set(here, sum(at, offset));
    f.repeat(rows, () => {
      body(f, here);
      f.increment(here, stride);
    });
  });
  return f;
}

/** The sums of the lanes of four vectors, as the lanes of one. */
export function laneSums(simd: SimdMath, sums: readonly V128[]): V128 {
  const [a, b, c, d] = sums as [V128, V128, V128, V128];
  const shuffle = (order: [number, number, number, number], x: V128, y: V128) => simd.keep(() => simd.f.shuffle(order, x, y));
  const pair = (x: V128, y: V128) => simd.add(shuffle([0, 4, 1, 5], x, y), shuffle([2, 6, 3, 7], x, y));
  const [ab, cd] = [pair(a, b), pair(c, d)];
  return simd.add(shuffle([0, 1, 4, 5], ab, cd), shuffle([2, 3, 6, 7], ab, cd));
}

/** (2ˣ − 1) / x for |x| ≤ ½ by Remez exchange, relative to 2ˣ. */
const powerOfTwo = [
  1.5594677824992687e-4, 1.3406643411144614e-3, 9.617692790925503e-3, 5.5503103882074356e-2, 2.4022652208805084e-1,
  6.931472420692444e-1,
];
/** Adding and subtracting it rounds to an integer, which then stands in the low bits. */
const roundToInteger = 1.5 * 2 ** 23;

/**
 * 2ˣ for x ≤ 0 as it comes out of a softmax: exactly 0 from −127 down, −∞ included; NaN stays NaN. Error < 1.5 ulp above −126.
 * Half the instructions of `SimdMath.exp`: the exponent is added to the bits, which at −127 gives those of 0.
 */
export function powerOfDifference(simd: SimdMath, x: V128): V128 {
  const bounded = simd.apply("f32x4.pmax", x, -127);
  const shifted = simd.add(bounded, roundToInteger);
  const fraction = simd.sub(bounded, simd.sub(shifted, roundToInteger));
  return simd.i32Add(simd.polynomial(fraction, [...powerOfTwo, 1]), simd.shift("shl", shifted, 23));
}

/** All ones in the first `count` lanes. */
export function lanesBelow(simd: SimdMath, count: Integer): V128 {
  const counting = simd.f.vectorConstant(new Uint8Array(Int32Array.of(0, 1, 2, 3).buffer));
  return simd.keep(["i32x4.lt_s", counting, ["i32x4.splat", count]]);
}

/** A band in a block, in coordinates of the block. */
export interface Band {
  readonly rows: Integer;
  readonly keys: Integer;
  readonly low: Integer;
  readonly high: Integer;
}

/** A panel of queries in a block, with the keys that at least one of them sees: from … to, which may be none. */
export interface Panel {
  /** First query. */
  readonly row: Integer;
  /** Last query. */
  readonly last: Integer;
  readonly from: Integer;
  readonly to: Integer;
}

/** Runs `body` for each panel of a block. */
export function forPanels(f: FunctionBuilder, { rows, keys, low, high }: Band, body: (panel: Panel) => void): void {
  const [row, last] = [f.local("i32"), f.local("i32")];
  f.for(row, 0, rows, panelColumns, () => {
    f.set(last, sum(row, panelColumns)).set(last, smaller(last, rows)).increment(last, -1);
    body({ row, last, from: cut(f, sum(row, low), keys), to: cut(f, sum(last, high), keys) });
  });
}

/**
 * Runs `body` for the keys of a panel that some of its queries see and some do not, with masks of the lanes that do: queries 0–3
 * and 4–7. `at` steps through the rows of a block from `block` on.
 */
export function forEdges(
  simd: SimdMath,
  { low, high }: Band,
  { row, last, from, to }: Panel,
  [block, blockStride]: readonly [Integer, Integer],
  body: (at: Integer, masks: readonly [V128, V128]) => void,
): void {
  const { f } = simd;
  const counting = f.vectorConstant(new Uint8Array(Int32Array.of(0, 1, 2, 3).buffer));
  const queries = [0, 4].map((first) => simd.keep(["i32x4.add", counting, ["i32x4.splat", sum(row, first)]]));
  const [key, end, at] = [f.local("i32"), f.local("i32"), f.local("i32")];
  const walk = () => {
    f.set(at, sum(block, product(key, blockStride), product(row, 4)));
    f.while(["i32.lt_s", key, end], () => {
      const latest = simd.keep(["i32x4.splat", ["i32.sub", key, low]]);
      const before = simd.keep(["i32x4.splat", ["i32.sub", key, high]]);
      const [first, second] = queries.map((query) =>
        simd.and(simd.apply("i32x4.le_s", query, latest), simd.apply("i32x4.gt_s", query, before)),
      ) as [V128, V128];
      body(at, [first, second]);
      f.increment(key, 1).increment(at, blockStride);
    });
  };
  f.set(key, from).set(end, sum(last, low)).set(end, smaller(end, to));
  walk();
  f.set(key, sum(row, high)).set(key, larger(key, from)).set(end, to);
  walk();
}

/** Writes zeros to the rows of a panel just before `from` and from `to` on, which tiles may read beside what its queries see. */
export function fillBeside(
  simd: SimdMath,
  keys: Integer,
  { row, from, to }: Panel,
  [block, blockStride]: readonly [Integer, Integer],
): void {
  const { f } = simd;
  const [key, end, at] = [f.local("i32"), f.local("i32"), f.local("i32")];
  const walk = () => {
    f.set(at, sum(block, product(key, blockStride), product(row, 4)));
    f.while(["i32.lt_s", key, end], () => {
      for (const offset of [0, 16]) simd.store(at, 0, offset);
      f.increment(key, 1).increment(at, blockStride);
    });
  };
  f.set(key, ["i32.sub", from, tileRows - 1])
    .set(key, larger(key, 0))
    .set(end, from);
  walk();
  f.set(key, to)
    .set(end, sum(to, tileRows - 1))
    .set(end, smaller(end, keys));
  walk();
}
