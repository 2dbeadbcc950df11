/**
 * Matrix product by one level of Strassen's recursion in Winograd's form: A, B and C in quarters, seven products of quarters instead of
 * eight, 15 sums. A task has the same block of all four quarters of C, so tasks know nothing of each other, and nothing but scratch is
 * written besides C:
 *
 * 1. All quarters of B are packed, and their sums formed beside them, so that a panel of 8 columns is eight panels one after the other.
 * 2. Of a strip of rows the sums of A's quarters are formed.
 * 3. Each panel meets the strip in seven products of the tiles of `matmul-tiles.ts`, into scratch; then four tiles of C are sums of those.
 *
 * An infinite or undefined value, or an overflow that only the sums have, spreads into tiles of C that the plain product leaves finite.
 * So a tile of C (with those at its place in the other quarters) that would not be finite is computed plainly; which tiles
 * those are depends on values, not on how work was split.
 *
 * @see Strassen, Gaussian Elimination is not Optimal, 1969; Winograd, On Multiplication of 2 × 2 Matrices, 1971
 * @see Huang, Smith, Henry, van de Geijn, Strassen's Algorithm Reloaded, SC16: sums formed while packing and in the tiles
 */
import { type Callable, type Expression, load, type ModuleBuilder, stacked } from "../../src/devices/wasm/assembler.ts";
import { argument, beginTask, bytesOfB, emitTranspose, type Integer, type MatmulVariant, smaller } from "./matmul-arguments.ts";
import { emitPackColumns, emitPackRows, emitTile, panelColumns, panelsOf, tileRows } from "./matmul-tiles.ts";
import {
  chunkDepth,
  emitCombine,
  emitCopy,
  emitPackSums,
  emitSumsOfA,
  emitSumsOfB,
  lineBytes,
  offset,
  packedQuarterBytes,
  packedRowBytes,
  panelOf,
  panelRowBytes,
  panelsInSet,
  type Quarter,
  quarters,
  stripRows,
  sumOf,
  tileBytes,
  tilesBytes,
  times,
} from "./strassen-sums.ts";

/** Scratch: results of the seven products for a strip, what C starts from, A's sums, A's quarters if they are packed, B. */
const startsOffset = 7 * tilesBytes;
const sumsOffset = startsOffset + 4 * tilesBytes + tileBytes;
const quartersOffset = sumsOffset + 4 * packedQuarterBytes;
const packedBOffset = (variant: MatmulVariant) => quartersOffset + (variant.a === "columns" ? 4 * packedQuarterBytes : 0);

/** Bytes of scratch that a thread needs for blocks of so many columns of a quarter. */
export function strassenScratchBytes(variant: MatmulVariant, columnBlock: number, depthBlock: number, updateK: number): number {
  const panels = Math.ceil(columnBlock / panelColumns);
  const update = 2 * panels * (updateK + 4) * panelRowBytes;
  return packedBOffset(variant) + panels * panelsInSet * (depthBlock * panelRowBytes + lineBytes) + update;
}

/** A place in the first quarter of a matrix, with the distances of the quarters below and beside it. */
interface Quartered {
  readonly pointer: Integer;
  readonly down: Integer;
  readonly right: Integer;
}
/** The same place in another quarter. */
const inQuarter = ({ pointer, down, right }: Quartered, quarter: Quarter): Expression =>
  offset(offset(pointer, quarter[0] === "2" ? down : 0), quarter[1] === "2" ? right : 0);

/** Adds the kernel to a module. M, N and K of the arguments are those of a quarter. */
export function emitStrassen(module: ModuleBuilder, name: string, variant: MatmulVariant, fused: boolean): void {
  const tiles = Array.from({ length: tileRows }, (_, i) => emitTile(module, i + 1, fused));
  const inPlace = variant.aStride ? emitTile(module, tileRows, fused, "rows", { knownStride: variant.aStride }) : undefined;
  const anyTile = emitAnyTile(module, tiles);
  const packedTile = emitTile(module, tileRows, fused, "rows", { knownStride: packedRowBytes });
  const rowsOfPacked = emitStrip(module, packedTile, anyTile);
  const rowsOfQuarter =
    variant.a === "columns" ? rowsOfPacked : emitStrip(module, inPlace ?? (tiles[tileRows - 1] as Callable), anyTile);
  const rowsOfUpdate = emitStrip(module, tiles[tileRows - 1] as Callable, anyTile);
  const transposeA = variant.a === "columns" ? emitTranspose(module, 4, (simd, address) => simd.load(address), fused) : undefined;
  const packOf = (which: MatmulVariant) => (which.b === "rows" ? emitPackRows : emitPackColumns)(module, which, fused);
  const packB = variant.b === "columns" ? packOf(variant) : undefined;
  const packRows = variant.b === "rows" ? emitPackSums(module, variant, fused) : undefined;
  const packUpdate = variant.update === "none" ? undefined : packOf({ ...variant, b: variant.update, bType: "float32" });
  const sumsOfA = emitSumsOfA(module);
  const sumsOfB = emitSumsOfB(module);
  const copyRows = emitCopy(module);
  const combine = emitCombine(module);
  const plainly = emitPlainly(module, anyTile);

  const f = module.function(name, ["i32", "i32", "i32"]);
  const task = beginTask(f, variant);
  const { K, rows, columns, scratch, update, aStride, bStride, cStride } = task;
  const integer = (value: Expression = 0) => f.local("i32", value);
  // from a quarter to the next one below it, and to its right
  const word = (index: number): Expression => load("i32.load", f.params[1], 4 * index);
  const [M, N] = [integer(word(argument.M)), integer(word(argument.N))];
  const aDown = integer(times(M, variant.a === "rows" ? aStride : 4));
  const aRight = integer(times(K, variant.a === "rows" ? 4 : aStride));
  const bDown = integer(times(K, variant.b === "rows" ? bStride : bytesOfB(variant)));
  const bRight = integer(times(N, variant.b === "rows" ? bytesOfB(variant) : bStride));
  const cDown = integer(times(M, cStride));
  const cRight = integer(times(N, 4));

  const panels = integer(panelsOf(columns));
  const packedB = integer(offset(scratch, packedBOffset(variant)));
  const [products, starts, sums] = [scratch, integer(offset(scratch, startsOffset)), integer(offset(scratch, sumsOffset))];
  const spare = integer(offset(starts, 4 * tilesBytes));
  const [first, depth, panelBytes, setBytes] = [integer(), integer(), integer(), integer()];
  const [left, panel, row, rowsHere] = [integer(), integer(), integer(), integer()];
  // A's quarters as the tiles see them
  const a = { pointer: integer(), stride: integer(aStride), down: integer(aDown), right: integer(aRight) };
  const d = { pointer: integer(), stride: integer(), down: integer(), right: integer() };
  /** Where a tile of C starts from, in `d` or copied. */
  const s = { pointer: integer(), stride: integer(), down: integer(), right: integer(), tile: integer() };
  const [c, cPanel, dPanel, tileA, tileP, tileS] = [integer(), integer(), integer(), integer(), integer(), integer()];
  const [updatePanel, updateBytes, copies] = [integer(), integer(), integer()];
  /** The first round has the second pair of factors, too. Its panels lie in pairs: those of C's left and right half. */
  const joins = (updateK: Integer): Expression => ["i32.and", ["i32.eqz", first], ["i32.ne", updateK, 0]];
  const half = (pair: Integer): Expression => offset(pair, ["i32.shr_u", updateBytes, 1]);

  f.loop((nextDepth) => {
    f.set(depth, smaller(task.depthBlock, integer(["i32.sub", K, first])));
    f.set(panelBytes, offset(times(depth, panelRowBytes), lineBytes)).set(setBytes, times(panelBytes, panelsInSet));
    const bStart = integer(offset(task.b, times(first, variant.b === "rows" ? bStride : bytesOfB(variant))));
    if (packRows) f.call(packRows, bStart, bStride, bDown, bRight, packedB, depth, columns, panelBytes);
    else {
      f.set(panel, packedB).set(left, columns);
      const [k, chunk] = [integer(), integer()];
      f.repeat(panels, () => {
        f.for(k, 0, depth, chunkDepth, () => {
          f.set(chunk, smaller(integer(["i32.sub", depth, k]), chunkDepth));
          const part = integer(offset(panel, times(k, panelRowBytes)));
          const start = integer(offset(bStart, times(k, bytesOfB(variant))));
          for (const quarter of quarters) {
            const from = inQuarter({ pointer: start, down: bDown, right: bRight }, quarter);
            const to = offset(part, times(panelBytes, panelOf[`b${quarter}`]));
            f.call(packB!, from, bStride, to, chunk, smaller(left, panelColumns), setBytes);
          }
          f.call(sumsOfB, part, panelBytes, chunk);
        });
        f.increment(panel, setBytes).increment(bStart, times(bStride, panelColumns)).increment(left, -panelColumns);
      });
    }
    // what C starts from: the addend, later what the rounds before have left in C
    f.set(d.pointer, task.c).set(d.stride, cStride).set(d.down, cDown).set(d.right, cRight).set(copies, 1);
    f.if(["i32.eqz", first], () => {
      if (variant.addend === "matrix") {
        f.set(d.pointer, task.d).set(d.stride, task.dStride).set(d.down, times(M, task.dStride));
        f.set(copies, ["i32.eq", task.c, task.d]);
      } else {
        for (const value of [d.pointer, d.stride, d.down, d.right, copies]) f.set(value, 0);
      }
    });
    if (update && packUpdate)
      f.if(joins(update.K), () => {
        f.set(updatePanel, offset(packedB, times(setBytes, panels)));
        f.set(updateBytes, times(offset(update.K, 4), 2 * panelRowBytes));
        f.call(packUpdate, update.b, update.bStride, updatePanel, update.K, columns, updateBytes);
        const right = offset(update.b, times(N, variant.update === "rows" ? 4 : update.bStride));
        f.call(packUpdate, right, update.bStride, half(updatePanel), update.K, columns, updateBytes);
      });

    f.for(row, 0, rows, stripRows, () => {
      f.set(rowsHere, smaller(integer(["i32.sub", rows, row]), stripRows));
      const rowStep = variant.a === "rows" ? aStride : 4;
      f.set(a.pointer, offset(offset(task.a, times(row, rowStep)), times(first, variant.a === "rows" ? 4 : aStride)));
      if (transposeA) {
        const packed = integer(offset(scratch, quartersOffset));
        for (const [i, quarter] of quarters.entries()) {
          const from = inQuarter({ pointer: a.pointer, down: aDown, right: aRight }, quarter);
          f.call(transposeA, from, aStride, depth, rowsHere, offset(packed, i * packedQuarterBytes), packedRowBytes);
        }
        f.set(a.pointer, packed).set(a.stride, packedRowBytes);
        f.set(a.down, 2 * packedQuarterBytes).set(a.right, packedQuarterBytes);
      }
      f.call(sumsOfA, a.pointer, a.stride, a.down, a.right, sums, rowsHere, depth);

      f.set(panel, packedB);
      f.set(cPanel, offset(task.c, times(row, cStride))).set(dPanel, offset(d.pointer, times(row, d.stride)));
      const updateAt = integer(updatePanel);
      f.repeat(panels, () => {
        const panelFor = (which: keyof typeof panelOf): Expression => offset(panel, times(panelBytes, panelOf[which]));
        const ofQuarter = (number: number, quarter: Quarter, which: keyof typeof panelOf) => {
          const to = offset(products, (number - 1) * tilesBytes);
          f.call(rowsOfQuarter, inQuarter(a, quarter), a.stride, panelFor(which), depth, 0, 0, to, rowsHere);
        };
        const ofSum = (number: number, sum: keyof typeof sumOf, which: keyof typeof panelOf) => {
          const to = offset(products, (number - 1) * tilesBytes);
          const from = offset(sums, sumOf[sum] * packedQuarterBytes);
          f.call(rowsOfPacked, from, packedRowBytes, panelFor(which), depth, 0, 0, to, rowsHere);
        };
        ofQuarter(1, "11", "b11");
        ofQuarter(2, "12", "b21");
        ofSum(3, "s4", "b22");
        ofQuarter(4, "22", "t4");
        ofSum(5, "s1", "t1");
        ofSum(6, "s2", "t2");

        f.set(s.pointer, dPanel).set(s.stride, d.stride).set(s.down, d.down).set(s.right, d.right);
        f.set(s.tile, times(d.stride, tileRows));
        const toCopies = () => {
          f.set(s.pointer, starts).set(s.stride, panelRowBytes).set(s.tile, tileBytes);
          f.set(s.down, 2 * tilesBytes).set(s.right, tilesBytes);
        };
        const copy = () => {
          for (const [i, quarter] of quarters.entries())
            f.call(copyRows, inQuarter(s, quarter), s.stride, offset(starts, i * tilesBytes), rowsHere);
          toCopies();
        };
        if (update) {
          const join = () => {
            const updateRow = integer(offset(update.a, times(row, update.aStride)));
            const down = times(M, update.aStride);
            for (const [i, quarter] of quarters.entries()) {
              const from = offset(updateRow, quarter[0] === "2" ? down : 0);
              const which = quarter[1] === "2" ? half(updateAt) : updateAt;
              const to = offset(starts, i * tilesBytes);
              f.call(rowsOfUpdate, from, update.aStride, which, update.K, inQuarter(s, quarter), s.stride, to, rowsHere);
            }
            toCopies();
          };
          f.if(joins(update.K), join, () => f.if(copies, copy));
        } else f.if(copies, copy);

        f.set(c, cPanel).set(tileA, a.pointer).set(tileP, products).set(left, rowsHere);
        f.set(tileS, offset(sums, sumOf.s3 * packedQuarterBytes));
        f.while(["i32.gt_s", left, 0], () => {
          const height = integer(smaller(left, tileRows));
          // P7 tile by tile, so that C is written while the next one is computed
          const last = offset(tileP, 6 * tilesBytes);
          f.call(rowsOfPacked, tileS, packedRowBytes, panelFor("t3"), depth, 0, 0, last, height);
          f.increment(tileS, tileRows * packedRowBytes);
          const ends = [s.pointer, s.stride, s.down, s.right, c, cStride, cDown, cRight];
          f.call(combine, tileP, ...ends, height);
          f.if(stacked, () => {
            f.call(plainly, height, tileA, a.stride, a.down, a.right, panel, panelBytes, depth, ...ends, spare);
          });
          f.increment(tileA, times(a.stride, tileRows)).increment(tileP, tileBytes).increment(s.pointer, s.tile);
          f.increment(c, times(cStride, tileRows)).increment(left, -tileRows);
        });
        f.increment(panel, setBytes).increment(cPanel, panelRowBytes);
        f.increment(dPanel, ["select", panelRowBytes, 0, d.pointer]);
        if (update) f.increment(updateAt, updateBytes);
      });
    });
    f.increment(first, depth);
    f.brIf(nextDepth, ["i32.lt_s", first, K]);
  });
}

const tileParameters = ["i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32"] as const;

/** anyTile(rows, …): the tile of that height. */
function emitAnyTile(module: ModuleBuilder, tiles: readonly Callable[]): Callable {
  const f = module.function(null, ["i32", ...tileParameters]);
  const [rows, ...operands] = f.params;
  for (const [i, tile] of tiles.entries()) f.if(["i32.eq", rows, i + 1], () => f.call(tile, ...operands));
  return f;
}

/** strip(a, aStride, panel, depth, start, startStride, out, rows): tile after tile down the rows; `out` gets tiles, one after the other. */
function emitStrip(module: ModuleBuilder, tile: Callable, anyTile: Callable): Callable {
  const f = module.function(null, tileParameters);
  const [a, aStride, panel, depth, start, startStride, out, rows] = f.params;
  const aStep = f.local("i32", times(aStride, tileRows));
  const startStep = f.local("i32", times(startStride, tileRows));
  f.while(["i32.ge_s", rows, tileRows], () => {
    f.call(tile, a, aStride, panel, depth, start, startStride, out, panelRowBytes);
    f.increment(a, aStep).increment(start, startStep).increment(out, tileBytes).increment(rows, -tileRows);
  });
  f.if(rows, () => f.call(anyTile, rows, a, aStride, panel, depth, start, startStride, out, panelRowBytes));
  return f;
}

/**
 * plainly(rows, a, aStride, aDown, aRight, set, panelBytes, depth, start, startStride, startDown, startRight, c, cStride, cDown, cRight,
 * spare): the same tiles of C by eight products. `spare` is room for a tile.
 */
function emitPlainly(module: ModuleBuilder, anyTile: Callable): Callable {
  const seven = ["i32", "i32", "i32", "i32", "i32", "i32", "i32"] as const;
  const f = module.function(null, [...seven, ...seven, "i32", "i32", "i32"]);
  const [rows, a, aStride, aDown, aRight, set, panelBytes, depth, start, startStride, startDown, startRight] = f.params;
  const [, , , , , , , , , , , , c, cStride, cDown, cRight, spare] = f.params;
  for (const quarter of quarters) {
    const [down, right] = [quarter[0] === "2", quarter[1] === "2"];
    const at = (pointer: Integer, below: Integer, beside: Integer): Expression =>
      offset(offset(pointer, down ? below : 0), right ? beside : 0);
    const b = (of11: number): Expression => offset(set, times(panelBytes, right ? of11 + 1 : of11));
    const row = f.local("i32", offset(a, down ? aDown : 0));
    const from = [at(start, startDown, startRight), startStride];
    f.call(anyTile, rows, row, aStride, b(panelOf.b11), depth, ...from, spare, panelRowBytes);
    const to = [at(c, cDown, cRight), cStride];
    f.call(anyTile, rows, offset(row, aRight), aStride, b(panelOf.b21), depth, spare, panelRowBytes, ...to);
  }
  return f;
}
