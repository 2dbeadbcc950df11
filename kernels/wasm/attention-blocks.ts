/**
 * What the two attention kernels share. Both walk over blocks: `rows` queries times `keys` keys of one head, of whose products only
 * a band is needed. Row r of a block sees its keys low + r ≤ j < high + r, cut to 0 ≤ j < keys; that says causal masks with any
 * offset, sliding windows and no mask at all. Products go by the tiles of `matmul-tiles.ts`, each only where the band passes.
 *
 * Rows of a block lie `blockStride` apart, those of results in scratch are a multiple of 8 wide, so every tile is whole.
 */
import { type Expression, type FunctionBuilder, load, type ModuleBuilder } from "../../src/devices/wasm/assembler.ts";
import { type Integer, type KernelBuilder, type MatmulVariant, smaller } from "./matmul-arguments.ts";
import { emitPackColumns, emitPackRows, emitTile, panelColumns, tileRows } from "./matmul-tiles.ts";
import { SimdMath, type V128 } from "./simd-math.ts";

export const panelRowBytes = 4 * panelColumns;

/** Stands where the log-sum of nothing would be −∞, so that no difference is NaN. */
export const lowest = -1e20;

/** The argument block: number of each 32-bit word. */
export const argument = {
  Tq: 0,
  Tk: 1,
  /** Size of q and k. */
  D: 2,
  /** Size of v. */
  E: 3,
  /** Key heads, and query heads to each of them. */
  groups: 4,
  share: 5,
  /** Query i sees keys low + i ≤ j < high + i. */
  low: 6,
  high: 7,
  /** float32 */
  scale: 8,
  /** Queries and keys of a block. */
  rowBlock: 9,
  keyBlock: 10,
  /** A task does this many keys, a multiple of keyBlock, for this many units (see `unit`) of one batch row and key head. */
  keysInTask: 11,
  unitsInTask: 12,
  keyParts: 13,
  unitParts: 14,
  /** Two switches of the kernel's own choice. */
  switches: 15,
  scratch: 17,
  /** Bytes of scratch a thread. */
  scratchStride: 18,
  /** Bytes between rows of a block of scores. */
  blockStride: 19,
  /** Bytes of a panel that is D, keyBlock or rowBlock deep, or E deep. */
  panelD: 20,
  panelE: 21,
  panelKeys: 22,
  panelRows: 23,
  /** Offsets in scratch: twelve regions of the kernel's own choice. */
  regions: 24,
  /** Four words a tensor: address, and bytes between batch rows, between tokens, between heads. */
  tensors: 36,
} as const;

export const tensorWords = 4;

const plain: MatmulVariant = { method: "tiles", rows: 0, a: "rows", b: "rows", bType: "float32", addend: "none" };

/** The larger of two integers, signed. Both are evaluated twice. */
export const larger = (x: Integer | number, y: Integer | number): Expression => ["select", x, y, ["i32.gt_s", x, y]];

/** A new local with `value` cut to 0 … high. */
export function cut(f: FunctionBuilder, value: Expression, high: Integer): Integer {
  const x = f.local("i32", value);
  f.set(x, larger(x, 0)).set(x, smaller(x, high));
  return x;
}

export const roundUpTo8 = (x: Expression): Expression => ["i32.and", ["i32.add", x, 7], -8];
export const product = (x: Expression, y: Expression): Expression => ["i32.mul", x, y];
export const sum = (...terms: Expression[]): Expression => terms.reduce((x, y) => ["i32.add", x, y]);

/** A tensor of the argument block. */
export interface Operand {
  /** Address of batch row and head. */
  at(head: Expression): Expression;
  readonly time: Integer;
}

/** What a task has read of its arguments. */
export interface Task {
  readonly Tq: Integer;
  readonly Tk: Integer;
  readonly D: Integer;
  readonly E: Integer;
  readonly share: Integer;
  readonly low: Integer;
  readonly high: Integer;
  readonly rowBlock: Integer;
  readonly keyBlock: Integer;
  readonly blockStride: Integer;
  readonly group: Integer;
  /** Units of this task: first and past the last. Unit u is block ⌊u / share⌋ of queries, head u mod share of the group. */
  readonly firstUnit: Integer;
  readonly endUnit: Integer;
  /** Keys of this task that some of its queries see or, in the backward kernel, that it is there for. */
  readonly firstKey: Integer;
  readonly endKey: Integer;
  word(index: number): Expression;
  operand(index: number): Operand;
  /** Address of a region of this thread's scratch. */
  region(index: number): Integer;
}

/** Reads the arguments and finds the part of the work that is this task's. */
export function beginTask(f: KernelBuilder): Task {
  const [task, args, thread] = f.params;
  const word = (index: number): Expression => load("i32.load", args, 4 * index);
  const integer = (value: Expression): Integer => f.local("i32", value);
  const rest = integer(task);
  /** rest mod size, leaving ⌊rest / size⌋ in rest. */
  const digit = (size: Expression): Integer => {
    const divisor = integer(size);
    const value = integer(["i32.rem_u", rest, divisor]);
    f.set(rest, ["i32.div_u", rest, divisor]);
    return value;
  };
  const keyPart = digit(word(argument.keyParts));
  const unitPart = digit(word(argument.unitParts));
  const group = digit(word(argument.groups));
  const batch = rest;
  const [Tq, Tk, D, E, share] = [argument.Tq, argument.Tk, argument.D, argument.E, argument.share].map((index) =>
    integer(word(index)),
  ) as [Integer, Integer, Integer, Integer, Integer];
  const rowBlock = integer(word(argument.rowBlock));
  const units = integer(product(["i32.div_u", ["i32.sub", sum(Tq, rowBlock), 1], rowBlock], share));
  const firstUnit = integer(product(unitPart, word(argument.unitsInTask)));
  const endUnit = integer(sum(firstUnit, word(argument.unitsInTask)));
  f.set(endUnit, smaller(endUnit, units));
  const firstKey = integer(product(keyPart, word(argument.keysInTask)));
  const endKey = integer(sum(firstKey, word(argument.keysInTask)));
  f.set(endKey, smaller(endKey, Tk));
  const scratch = integer(sum(word(argument.scratch), product(thread, word(argument.scratchStride))));
  return {
    Tq,
    Tk,
    D,
    E,
    share,
    low: integer(word(argument.low)),
    high: integer(word(argument.high)),
    rowBlock,
    keyBlock: integer(word(argument.keyBlock)),
    blockStride: integer(word(argument.blockStride)),
    group,
    firstUnit,
    endUnit,
    firstKey,
    endKey,
    word,
    operand(index) {
      const first = argument.tensors + tensorWords * index;
      const base = integer(sum(word(first), product(batch, word(first + 1))));
      const headStride = integer(word(first + 3));
      return { at: (head) => sum(base, product(head, headStride)), time: integer(word(first + 2)) };
    },
    region: (index) => integer(sum(scratch, word(argument.regions + index))),
  };
}

/** Cuts a task's keys to those that its queries see, in whole blocks: what the first query sees first, the last one last. */
export function keepSeenKeys(f: FunctionBuilder, task: Task): void {
  const { firstUnit, endUnit, firstKey, endKey, share, rowBlock, keyBlock, Tq, low, high } = task;
  const bound = f.local("i32", sum(product(["i32.div_u", firstUnit, share], rowBlock), low));
  f.set(firstKey, larger(bound, firstKey)).set(firstKey, product(["i32.div_u", firstKey, keyBlock], keyBlock));
  f.set(bound, product(sum(["i32.div_u", ["i32.sub", endUnit, 1], share], 1), rowBlock));
  f.set(bound, smaller(bound, Tq)).increment(bound, ["i32.sub", high, 1]);
  f.set(endKey, smaller(endKey, bound));
}

/** One unit against the keys from `key` on: which head and queries, and the band in coordinates of the block. */
export interface Block {
  readonly unit: Integer;
  readonly head: Integer;
  /** First query. */
  readonly row: Integer;
  readonly rows: Integer;
  readonly low: Integer;
  readonly high: Integer;
}

/** Runs `body` for the units of a task. */
export function forUnits(f: KernelBuilder, task: Task, key: Integer | number, body: (block: Block) => void): void {
  const { share, Tq, rowBlock } = task;
  const [unit, head, row, rows, low, high] = Array.from({ length: 6 }, () => f.local("i32")) as [
    Integer,
    Integer,
    Integer,
    Integer,
    Integer,
    Integer,
  ];
  f.for(unit, task.firstUnit, task.endUnit, 1, () => {
    f.set(head, sum(product(task.group, share), ["i32.rem_u", unit, share]));
    f.set(row, product(["i32.div_u", unit, share], rowBlock));
    f.set(rows, ["i32.sub", Tq, row]).set(rows, smaller(rows, rowBlock));
    f.set(low, ["i32.sub", sum(row, task.low), key]).set(high, ["i32.sub", sum(row, task.high), key]);
    body({ unit, head, row, rows, low, high });
  });
}

/** Whether a block has anything in its band. */
export const seen = ({ rows, low, high }: Block, keys: Integer): Expression => [
  "i32.and",
  ["i32.gt_s", ["i32.sub", sum(rows, high), 1], 0],
  ["i32.lt_s", low, keys],
];

/** The functions of a module that both kernels call. */
export interface Blocks {
  /** (b, bStride, packed, depth, columns, panelBytes) with B's columns contiguous, see `emitPackRows`. */
  readonly packRows: FunctionBuilder;
  /** The same with k contiguous. */
  readonly packColumns: FunctionBuilder;
  /** (panels, panelBytes, depth, columns, factor): multiplies what is packed. */
  readonly scale: FunctionBuilder;
  /** (a, aStride, panels, panelBytes, depth, block, blockStride, rows, keys, low, high, zeros): block = a · panels. */
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
  const f = module.function(null, ["i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32"]);
  const [a, aStride, panels, panelBytes, depth, block, blockStride, rows, keys, low, high, zeros] = f.params;
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
      callTile(f, tiles, here, aRow, aStride, panel, depth, zeros, 0, outRow, blockStride);
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
