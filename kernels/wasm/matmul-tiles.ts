/**
 * Matrix product by register tiles: B is packed into panels 8 columns wide that stay in the first-level cache, and each panel meets
 * the rows of A six at a time, so that 12 accumulators of four lanes keep both multiply units busy. The loop over k is not unrolled:
 * V8 then runs out of registers. Every element is a sum of chains of multiply-adds in the order of k, one for
 * each block of at most 512 values of k, however rows and columns are cut: results do not depend on how the work was split, and
 * rounding errors grow with √512 inside of a chain, not with √K.
 */
import { type Expression, type FunctionBuilder, load, type ModuleBuilder } from "../../src/devices/wasm/assembler.ts";
import { type Integer, smaller } from "./argument-block.ts";
import { beginTask, bytesOfB, emitTranspose, loadB, type MatmulVariant, type Task } from "./matmul-arguments.ts";
import { SimdBasics } from "./simd-basics.ts";

/** Rows of A that a tile takes: with two vectors of columns, twelve sums in registers. */
export const tileRows = 6;
/** Columns of B that a tile takes and a packed panel holds. */
export const panelColumns = 8;
/**
 * Deepest packed panel: 8 columns × 512 × 4 bytes = 16 KiB beside 12 KiB of A in a first-level cache of 32 KiB. Every round over C costs each
 * tile some 140 cycles, a deeper one rounds more. Where A is packed, too, blocks would have to be smaller, and packing them costs more than that.
 */
const depthLimit = { rows: 512, columns: 256, narrow: 256 } as const;

/** Rows that meet one panel after the other: 48 × 256 × 4 bytes of A stay in a second-level cache. */
const stripRows = 48;
/** Up to this depth a tile takes less time than its part of C. */
const shallowDepth = 32;

const panelRowBytes = 4 * panelColumns;
/** Scratch: one tile, then packed B, then packed A. */
const packedOffset = tileRows * panelRowBytes;

/** Added to the distance of panels and of packed rows: at a power of two all of them would compete for the same lines of the cache. */
const lineBytes = 64;

const roundUp = (value: number, step: number): number => Math.ceil(value / step) * step;

/** Values of k that are packed at once: K in equal parts, so that no round over C is for a few of them. */
export const depthBlockOf = ({ a }: Pick<MatmulVariant, "a">, K: number): number =>
  roundUp(Math.ceil(K / Math.max(1, Math.ceil(K / depthLimit[a]))), 4);

/** Bytes of scratch that a thread needs for blocks of these sizes. */
export function tileScratchBytes(
  variant: MatmulVariant,
  rowBlock: number,
  columnBlock: number,
  K: number,
  updateK: number,
): number {
  const depth = depthBlockOf(variant, K) + roundUp(updateK, 4);
  const packedA = variant.a === "columns" ? roundUp(rowBlock, 4) * (depth * 4 + lineBytes) : 0;
  return packedOffset + Math.ceil(columnBlock / panelColumns) * (depth * panelRowBytes + lineBytes) + packedA;
}

/** ⌈columns / 8⌉ */
const panelsOf = (columns: Integer): Expression => ["i32.shr_u", ["i32.add", columns, panelColumns - 1], 3];

/** Adds the kernel to a module. */
export function emitTiles(module: ModuleBuilder, name: string, variant: MatmulVariant, fused: boolean): void {
  const layout = variant.a === "narrow" ? "columns" : "rows";
  const withUpdate = variant.update !== "none";
  const smallTiles = module.shared(`tiles ${fused} ${layout} ${withUpdate}`, () =>
    Array.from({ length: tileRows - 1 }, (_, i) => emitTile(module, i + 1, fused, layout, { withUpdate })),
  );
  const tiles = [...smallTiles, emitTile(module, tileRows, fused, layout, { withUpdate, knownStride: variant.aStride })];
  // the distance of A's rows is known to the one tile, and to nothing else
  const { aStride: _, ...others } = variant;
  module.shared(`${name} ${fused} ${Object.values(others).join(" ")}`, () => emitKernel(module, name, variant, tiles, fused));
}

/** The rest of it: what packs, and the kernel itself. */
function emitKernel(
  module: ModuleBuilder,
  name: string,
  variant: MatmulVariant,
  tiles: readonly FunctionBuilder[],
  fused: boolean,
): void {
  const layout = variant.a === "narrow" ? "columns" : "rows";
  const transposeA = emitTranspose(module, 4, (simd, address) => simd.load(address), fused);
  const packOf = (which: MatmulVariant) => (which.b === "rows" ? emitPackRows : emitPackColumns)(module, which, fused);
  const packB = packOf(variant);
  const packUpdate = variant.update === "none" ? undefined : packOf({ ...variant, b: variant.update, bType: "float32" });

  const f = module.function(name, ["i32", "i32", "i32"]);
  const task = beginTask(f, variant);
  const { K, depthBlock, rows, columns, scratch } = task;
  const integer = () => f.local("i32");
  if (variant.addend === "column") fillFromColumn(f, task);

  const first = f.local("i32");
  const depth = integer();
  const paddedDepth = integer();
  const panelBytes = integer();
  const packedB = f.local("i32", ["i32.add", scratch, packedOffset]);
  const start: Start = { pointer: integer(), stride: integer() };
  const aStride = f.local("i32", task.aStride);
  const a: A = { pointer: f.local("i32", task.a), stride: aStride, rowStep: layout === "rows" ? aStride : 4 };
  const padded = (rows: Integer): Expression => ["i32.and", ["i32.add", rows, 3], -4];
  const { update } = task;
  const tail: Tail | undefined = update && { pointer: update.a, stride: update.aStride, depth: f.local("i32", update.K) };
  // at least one round, which for K = 0 only copies the addend or zeros
  f.loop((nextDepth) => {
    f.set(depth, smaller(depthBlock, f.local("i32", ["i32.sub", K, first])));
    f.set(paddedDepth, tail ? ["i32.add", padded(tail.depth), padded(depth)] : padded(depth));
    f.set(panelBytes, ["i32.add", ["i32.mul", paddedDepth, panelRowBytes], lineBytes]);
    // added to the addend, later to what the rounds before left in C
    f.set(start.pointer, task.c).set(start.stride, task.cStride);
    if (variant.addend !== "column")
      f.if(["i32.eqz", first], () => {
        if (variant.addend === "matrix") f.set(start.pointer, task.d).set(start.stride, task.dStride);
        else f.set(start.pointer, 0).set(start.stride, 0);
      });
    /** Where k = first begins. */
    const atDepth = (pointer: Integer, step: Integer | number): Expression => ["i32.add", pointer, ["i32.mul", first, step]];
    const bStart = atDepth(task.b, variant.b === "rows" ? task.bStride : bytesOfB(variant));
    f.call(packB, bStart, task.bStride, packedB, depth, columns, panelBytes);
    // over what packing has written past the last row
    if (update && tail && packUpdate)
      f.if(tail.depth, () => {
        const packedTail: Expression = ["i32.add", packedB, ["i32.mul", depth, panelRowBytes]];
        f.call(packUpdate, update.b, update.bStride, packedTail, tail.depth, columns, panelBytes);
      });
    f.set(a.pointer, atDepth(task.a, variant.a === "rows" ? 4 : task.aStride));
    if (variant.a === "columns") {
      const packedA = f.local("i32", ["i32.add", packedB, ["i32.mul", panelBytes, panelsOf(columns)]]);
      f.set(a.stride, ["i32.add", ["i32.mul", paddedDepth, 4], lineBytes]);
      f.call(transposeA, a.pointer, task.aStride, depth, rows, packedA, a.stride);
      f.set(a.pointer, packedA);
    }
    emitPanels(f, task, tiles, a, tail, start, packedB, panelBytes, depth);
    if (tail) f.set(tail.depth, 0);
    f.increment(first, depth);
    f.brIf(nextDepth, ["i32.lt_s", first, K]);
  });
}

interface Start {
  readonly pointer: Integer;
  readonly stride: Integer;
}
/** A of the second pair, which the first round adds after its part of the first. */
interface Tail extends Start {
  readonly depth: Integer;
}
/** `stride` as the tile takes it; `rowStep` from one row to the next. */
interface A extends Start {
  readonly rowStep: Integer | number;
}

/**
 * Strip by strip of rows, each packed panel with the rows of the strip. The last panel goes through a tile in scratch, so that
 * nothing past the end of C is written.
 */
function emitPanels(
  f: FunctionBuilder,
  task: Task,
  tiles: readonly FunctionBuilder[],
  a: A,
  tail: Tail | undefined,
  start: Start,
  packedB: Integer,
  panelBytes: Integer,
  depth: Integer,
): void {
  const { columns, cStride } = task;
  const integer = (value: Expression = 0) => f.local("i32", value);
  const tile = integer(task.scratch);
  const [aRow, cRow, startRow, rowsLeft, tailRow] = [integer(), integer(), integer(), integer(), integer()];
  const steps: [pointer: Integer, stride: Integer | number][] = [
    [aRow, a.rowStep],
    [cRow, cStride],
    [startRow, start.stride],
    ...(tail ? [[tailRow, tail.stride] as [Integer, Integer]] : []),
  ];
  const tileSteps = steps.map(([pointer, stride]) => [pointer, integer(["i32.mul", stride, tileRows])] as const);
  const tailOperands = tail ? [tailRow, tail.stride, tail.depth] : [];
  const compute = (rows: number, out: Integer, outStride: Integer | number) =>
    f.call(
      tiles[rows - 1] as FunctionBuilder,
      ...[aRow, a.stride, panel, depth, startRow, start.stride, out, outStride],
      ...tailOperands,
    );
  /** Two tiles of nearly equal height rather than a high one and one whose few sums wait for themselves. */
  const mostForTwo = 2 * tileRows - 2;
  const computeRest = (out: Integer, outStride: Integer | number, after: (rows: Integer) => void) =>
    f.while(["i32.gt_s", rowsLeft, 0], () => {
      const half: Expression = ["i32.shr_u", ["i32.add", rowsLeft, 1], 1];
      const rows = integer(smaller(rowsLeft, tileRows));
      f.if(["i32.and", ["i32.gt_s", rowsLeft, tileRows], ["i32.le_s", rowsLeft, mostForTwo]], () => f.set(rows, half));
      for (let count = tileRows; count > 0; count--) f.if(["i32.eq", rows, count], () => compute(count, out, outStride));
      after(rows);
      for (const [pointer, stride] of steps) f.increment(pointer, ["i32.mul", stride, rows]);
      f.increment(rowsLeft, ["i32.sub", 0, rows]);
    });

  // deep tiles pay for themselves; for shallow ones the time is in C, which is then best written row by row
  const strip = integer(["select", tileRows, stripRows, ["i32.le_s", depth, shallowDepth]]);
  const [row, column, rowsHere, left] = [integer(), integer(), integer(), integer()];
  const [panel, cPanel, startPanel] = [integer(), integer(), integer()];
  const offsetOf = (pointer: Integer, stride: Integer | number): Expression => ["i32.add", pointer, ["i32.mul", row, stride]];
  const startStep = integer(["select", panelRowBytes, 0, start.pointer]);
  f.for(row, 0, task.rows, strip, () => {
    f.set(rowsHere, smaller(strip, integer(["i32.sub", task.rows, row])));
    f.set(panel, packedB).set(cPanel, offsetOf(task.c, cStride)).set(startPanel, offsetOf(start.pointer, start.stride));
    f.for(column, 0, columns, panelColumns, () => {
      f.set(left, ["i32.sub", columns, column]);
      f.set(aRow, offsetOf(a.pointer, a.rowStep)).set(cRow, cPanel).set(startRow, startPanel).set(rowsLeft, rowsHere);
      if (tail) f.set(tailRow, offsetOf(tail.pointer, tail.stride));
      f.if(
        ["i32.ge_s", left, panelColumns],
        () => {
          f.while(["i32.gt_s", rowsLeft, mostForTwo], () => {
            compute(tileRows, cRow, cStride);
            for (const [pointer, step] of tileSteps) f.increment(pointer, step);
            f.increment(rowsLeft, -tileRows);
          });
          computeRest(cRow, cStride, () => {});
        },
        () => computeRest(tile, panelRowBytes, (rows) => copyColumns(f, tile, cRow, cStride, rows, left)),
      );
      f.increment(panel, panelBytes).increment(cPanel, panelRowBytes).increment(startPanel, startStep);
    });
  });
}

/** Copies the first `columns` columns of a tile to C. */
function copyColumns(f: FunctionBuilder, tile: Integer, c: Integer, cStride: Integer, rows: Integer, columns: Integer): void {
  const [from, to, offset] = [f.local("i32", tile), f.local("i32", c), f.local("i32")];
  const bytes = f.local("i32", ["i32.mul", columns, 4]);
  f.repeat(rows, () => {
    f.for(offset, 0, bytes, 4, () => {
      f.store("f32.store", ["i32.add", to, offset], load("f32.load", ["i32.add", from, offset]));
    });
    f.increment(from, panelRowBytes).increment(to, cStride);
  });
}

/**
 * tile(a, aStride, panel, depth, start, startStride, out, outStride): out = a · panel + start for `rows` rows of 8 columns; `start` is
 * an address, 0 where nothing is added. It comes last: a sum that begins at a large value is rounded like that in every step.
 *
 * @param layout "rows": k is the contiguous axis of A and `aStride` lies between rows; "columns": the other way round
 * @param options.knownStride `aStride` where it is known, else 0: one pointer with constant offsets then walks all rows. A round takes 27
 * instructions instead of 32, and decoding them is what it waits for where another guest shares the core
 * @param options.withUpdate the tile takes three more: (update, updateStride, updateDepth), another A, whose B follows in the panel
 */
export function emitTile(
  module: ModuleBuilder,
  rows: number,
  fused: boolean,
  layout: "rows" | "columns" = "rows",
  { withUpdate = false, knownStride = 0 } = {},
): FunctionBuilder {
  const f = module.function(null, withUpdate ? [...tileParameters, ...updateParameters] : tileParameters);
  const [a, aStride, panel, depth, start, startStride, out, outStride, update, updateStride, updateDepth] =
    f.params as readonly Integer[] as TileLocals;
  const vectors = panelColumns / 4;
  const accumulators = Array.from({ length: rows }, () => Array.from({ length: vectors }, () => f.local("v128")));
  const b = Array.from({ length: vectors }, () => f.local("v128"));
  const aValue = f.local("v128");

  const zero = f.constant("f32", 0);
  for (const accumulator of accumulators.flat()) f.set(accumulator, zero);
  /** Adds the products of so many values of k; `known` is the distance of A's rows, 0 where only `stride` says it. */
  const sumUp = (a: Integer, stride: Integer, known: number, depth: Integer) => {
    const walks = layout === "rows" && known === 0;
    const pointers = [a];
    for (let i = 1; walks && i < rows; i++) pointers.push(f.local("i32", ["i32.add", pointers[i - 1] as Integer, stride]));
    f.repeat(depth, () => {
      b.forEach((vector, v) => f.set(vector, load("v128.load", panel, 16 * v)));
      accumulators.forEach((row, i) => {
        const next = layout === "rows" ? known : 4;
        f.set(aValue, walks ? load("v128.load32_splat", pointers[i] as Integer) : load("v128.load32_splat", a, next * i));
        row.forEach((sum, v) => {
          const bValue = b[v] as typeof aValue;
          if (fused) f.set(sum, ["f32x4.relaxed_madd", aValue, bValue, sum]);
          else f.set(sum, ["f32x4.add", sum, ["f32x4.mul", aValue, bValue]]);
        });
      });
      f.increment(panel, panelRowBytes);
      for (const pointer of pointers) f.increment(pointer, layout === "rows" ? 4 : stride);
    });
  };
  const finish = (adds: boolean) => () =>
    accumulators.forEach((row, i) => {
      row.forEach((sum, v) =>
        f.store("v128.store", out, adds ? ["f32x4.add", sum, load("v128.load", start, 16 * v)] : sum, 16 * v),
      );
      if (i < rows - 1) f.increment(out, outStride);
      if (i < rows - 1 && adds) f.increment(start, startStride);
    });
  /** Two branches: with one end only V8 orders the loop above by the reads of `start`, and it takes twice as long. */
  const end = () => f.if(start, finish(true), finish(false));

  sumUp(a, aStride, knownStride, depth);
  if (!withUpdate) {
    end();
    return f;
  }
  // an end of its own for either loop, and a loop around the second: without them V8 spoils the one or the other in the same way
  f.if(
    updateDepth,
    () => {
      const part = f.local("i32");
      f.loop((again) => {
        f.set(part, smaller(updateDepth, depthLimit.rows));
        sumUp(update, updateStride, 0, part);
        f.increment(updateDepth, ["i32.sub", 0, part]);
        f.brIf(again, updateDepth);
      });
      end();
    },
    end,
  );
  return f;
}

const tileParameters = ["i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32"] as const;
const updateParameters = ["i32", "i32", "i32"] as const;
type TileLocals = [Integer, Integer, Integer, Integer, Integer, Integer, Integer, Integer, Integer, Integer, Integer];
const packParameters = ["i32", "i32", "i32", "i32", "i32", "i32"] as const;

/** pack(b, bStride, packed, depth, columns, panelBytes) for B with contiguous n. Columns past the end take what lies there; nobody uses them. */
export function emitPackRows(module: ModuleBuilder, variant: MatmulVariant, fused: boolean): FunctionBuilder {
  const f = module.function(null, packParameters);
  const [b, bStride, packed, depth, columns, panelBytes] = f.params;
  const simd = new SimdBasics(f, fused);
  const [from, to] = [f.local("i32"), f.local("i32")];
  const panels = f.local("i32", panelsOf(columns));
  f.repeat(depth, () => {
    f.set(from, b).set(to, packed);
    f.repeat(panels, () => {
      for (let v = 0; v < panelColumns; v += 4) simd.store(to, loadB(simd, variant, from, v), 4 * v);
      f.increment(from, panelColumns * bytesOfB(variant)).increment(to, panelBytes);
    });
    f.increment(b, bStride).increment(packed, panelRowBytes);
  });
  return f;
}

/** The same for B with contiguous k. */
export function emitPackColumns(module: ModuleBuilder, variant: MatmulVariant, fused: boolean): FunctionBuilder {
  const transpose = emitTranspose(module, bytesOfB(variant), (simd, address) => loadB(simd, variant, address), fused);
  const f = module.function(null, packParameters);
  const [b, bStride, packed, depth, columns, panelBytes] = f.params;
  f.while(["i32.gt_s", columns, 0], () => {
    f.call(transpose, b, bStride, smaller(columns, panelColumns), depth, packed, panelRowBytes);
    f.increment(b, ["i32.mul", bStride, panelColumns]).increment(packed, panelBytes);
    f.increment(columns, -panelColumns);
  });
  return f;
}

/** Writes the addend, the same for every column, into C before the product is added to it. */
function fillFromColumn(f: FunctionBuilder, task: Task): void {
  const [row, to, from, left] = [f.local("i32", task.c), f.local("i32"), f.local("i32", task.d), f.local("i32")];
  f.repeat(task.rows, () => {
    f.set(to, row).set(left, task.columns);
    f.repeat(left, () => {
      f.store("f32.store", to, load("f32.load", from));
      f.increment(to, 4);
    });
    f.increment(row, task.cStride).increment(from, task.dStride);
  });
}
