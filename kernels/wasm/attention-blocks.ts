/**
 * What the two attention kernels share. Both walk over blocks: `rows` queries times `keys` keys of one head, of whose products only
 * a band is needed. Row r of a block sees its keys low + r ≤ j < high + r, cut to 0 ≤ j < keys; that says causal masks with any
 * offset, sliding windows and no mask at all. Products go by the tiles of `matmul-tiles.ts`, each only where the band passes.
 *
 * Rows of a block lie `blockStride` apart, those of results in scratch are a multiple of 8 wide, so every tile is whole.
 */
import { type Expression, type FunctionBuilder, load, type ModuleBuilder } from "../../src/devices/wasm/assembler.ts";
import { cut, larger, product, roundUpTo8, sum } from "./attention-task.ts";
import { type Integer, type MatmulVariant, smaller } from "./matmul-arguments.ts";
import { emitPackColumns, emitPackRows, emitTile, panelColumns, tileRows } from "./matmul-tiles.ts";
import { SimdMath, type V128 } from "./simd-math.ts";

export const panelRowBytes = 4 * panelColumns;

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
  /** (b, bStride, packed, depth, columns, panelBytes) with B's columns contiguous, see `emitPackRows`. */
  readonly packRows: FunctionBuilder;
  /** The same with k contiguous. */
  readonly packColumns: FunctionBuilder;
  /** (panels, panelBytes, depth, columns, factor): multiplies what is packed. */
  readonly scale: FunctionBuilder;
  /** (a, aStride, panels, panelBytes, depth, block, blockStride, rows, keys, low, high): block = a · panels. */
  readonly scores: FunctionBuilder;
  /** (block, blockStride, panels, panelBytes, out, outStride, rows, columns, keys, low, high): out += block · panels. */
  readonly weighted: FunctionBuilder;
  /** (from, fromStride, to, toStride, rows, columns, factors, factorStride): row of `to` = factor · row of `from`. */
  readonly copy: FunctionBuilder;
}

export function emitBlocks(module: ModuleBuilder, fused: boolean): Blocks {
  const tiles = Array.from({ length: tileRows }, (_, i) => emitTile(module, i + 1, fused));
  return {
    packRows: emitPackRows(module, plain, fused),
    packColumns: emitPackColumns(module, plain, fused),
    scale: emitScale(module, fused),
    scores: emitScores(module, tiles),
    weighted: emitWeighted(module, tiles),
    copy: emitCopy(module, fused),
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
  const [panel, column, out, end, here] = [
    f.local("i32", panels),
    f.local("i32"),
    f.local("i32"),
    f.local("i32"),
    f.local("i32"),
  ];
  const [row, aRow, outRow] = [f.local("i32"), f.local("i32"), f.local("i32")];
  const aStep = f.local("i32", product(aStride, tileRows));
  const outStep = f.local("i32", product(blockStride, tileRows));
  f.set(out, block);
  f.for(column, 0, keys, panelColumns, () => {
    // rows whose band meets this panel
    f.set(row, ["i32.sub", sum(column, 1), high]).set(row, larger(row, 0));
    f.set(end, ["i32.sub", sum(column, panelColumns), low]).set(end, smaller(end, rows));
    f.set(aRow, sum(a, product(row, aStride))).set(outRow, sum(out, product(row, blockStride)));
    f.while(["i32.lt_s", row, end], () => {
      f.set(here, ["i32.sub", end, row]).set(here, smaller(here, tileRows));
      callTile(f, tiles, here, aRow, aStride, panel, depth, 0, 0, outRow, blockStride);
      f.increment(row, tileRows).increment(aRow, aStep).increment(outRow, outStep);
    });
    f.increment(panel, panelBytes).increment(out, panelRowBytes);
  });
  return f;
}

function emitWeighted(module: ModuleBuilder, tiles: Tiles): FunctionBuilder {
  const f = module.function(null, ["i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32"]);
  const [block, blockStride, panels, panelBytes, out, outStride, rows, columns, keys, low, high] = f.params;
  const [panel, outPanel, column, here] = [f.local("i32", panels), f.local("i32", out), f.local("i32"), f.local("i32")];
  const [row, blockRow, outRow] = [f.local("i32"), f.local("i32"), f.local("i32")];
  const blockStep = f.local("i32", product(blockStride, tileRows));
  const outStep = f.local("i32", product(outStride, tileRows));
  f.for(column, 0, columns, panelColumns, () => {
    f.set(blockRow, block).set(outRow, outPanel);
    f.for(row, 0, rows, tileRows, () => {
      f.set(here, ["i32.sub", rows, row]).set(here, smaller(here, tileRows));
      const from = cut(f, sum(row, low), keys);
      const depth = cut(f, ["i32.sub", sum(row, here, high), 1], keys);
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

/** The keys of one row and of its tile in a block. */
export interface RowRange {
  readonly row: Integer;
  /** What the row sees. */
  readonly from: Integer;
  readonly to: Integer;
  /** What the tile needs, in whole panels. */
  readonly tileFrom: Integer;
  readonly tileTo: Integer;
}

/** Runs `body` for each row of a block whose tile has anything in the band; `advance` after every row. */
export function forRows(
  f: FunctionBuilder,
  { rows, keys, low, high }: { readonly rows: Integer; readonly keys: Integer; readonly low: Integer; readonly high: Integer },
  advance: () => void,
  body: (range: RowRange) => void,
): void {
  const [row, tile, end] = [f.local("i32"), f.local("i32"), f.local("i32")];
  f.for(tile, 0, rows, tileRows, () => {
    f.set(end, sum(tile, tileRows)).set(end, smaller(end, rows));
    const tileFrom = cut(f, sum(tile, low), keys);
    const tileTo = cut(f, ["i32.sub", sum(end, high), 1], keys);
    const some = f.local("i32", ["i32.lt_s", tileFrom, tileTo]);
    f.set(tileFrom, ["i32.and", tileFrom, -8]).set(tileTo, roundUpTo8(tileTo));
    f.for(row, tile, end, 1, () => {
      f.if(some, () => {
        const from = cut(f, sum(row, low), keys);
        const to = cut(f, sum(row, high), keys);
        body({ row, from, to, tileFrom, tileTo });
      });
      advance();
    });
  });
}

/** Writes `value` to elements from … end of a row, and up to three more. */
export function fillAfter(f: FunctionBuilder, row: Integer, from: Integer, end: Expression, value: V128): void {
  const address = f.local("i32", sum(row, product(from, 4)));
  const last = f.local("i32", sum(row, product(end, 4)));
  f.while(["i32.lt_u", address, last], () => {
    f.store("v128.store", address, value);
    f.increment(address, 16);
  });
}

/** Writes `value` to elements start … to of a row. */
export function fillBefore(f: FunctionBuilder, row: Integer, start: Expression, to: Integer, value: V128): void {
  const address = f.local("i32", sum(row, product(start, 4)));
  const last = f.local("i32", sum(row, product(to, 4)));
  f.while(["i32.lt_u", address, last], () => {
    f.laneAccess("v128.store32_lane", 0, address, value);
    f.increment(address, 4);
  });
}
