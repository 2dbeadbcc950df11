/** What the two matrix-product kernels share: the layout of the argument block, the start of a task, and loads of B. */
import type { Expression, FunctionBuilder, ModuleBuilder } from "../../src/devices/wasm/assembler.ts";
import { beginKernel, type Integer, type KernelBuilder, smaller } from "./argument-block.ts";
import { SimdBasics, type V128 } from "./simd-basics.ts";

/** Everything the code of a kernel depends on; sizes, strides and addresses are arguments. */
export interface MatmulVariant {
  /** "tiles" packs B and computes 6 × 8 tiles; "vector" reads B in place for one to four rows of A. */
  readonly method: "tiles" | "vector";
  /** Rows of A, for "vector". */
  readonly rows: number;
  /** "rows": k is the contiguous axis of A; "columns": m is (A is stored transposed); "narrow": m too, and few columns, so that turning A does not pay. */
  readonly a: "rows" | "columns" | "narrow";
  /** "rows": n is the contiguous axis of B; "columns": k is (B is stored transposed). */
  readonly b: "rows" | "columns";
  readonly bType: "float32" | "float16" | "bfloat16";
  /** Bytes from one row of A to the next where the code may count on it, 0 where it is an argument. */
  readonly aStride: number;
  /** "matrix": n is the contiguous axis of the addend; "column": it is the same for every n. */
  readonly addend: "none" | "matrix" | "column";
  /** Whether a second, shallow pair of factors is added, and how its B is stored, as for `b`. Its A has k contiguous, as that of the first. */
  readonly update: "none" | "rows" | "columns";
}

/** The argument block: number of each 32-bit word. Strides are in bytes; `…Batch` are three words, outermost batch axis first. */
export const argument = {
  M: 0,
  N: 1,
  K: 2,
  a: 3,
  /** Between rows ("rows") or between k ("columns"). */
  aStride: 4,
  b: 5,
  /** Between k ("rows") or between n ("columns"). */
  bStride: 6,
  c: 7,
  cStride: 8,
  d: 9,
  dStride: 10,
  rowBlock: 11,
  columnBlock: 12,
  rowBlocks: 13,
  columnBlocks: 14,
  scratch: 15,
  /** Bytes of scratch a thread. */
  scratchStride: 16,
  /** Sizes of the last two batch axes. */
  batch1: 17,
  batch2: 18,
  aBatch: 19,
  bBatch: 22,
  cBatch: 25,
  dBatch: 28,
  /** Values of k that are packed at once. */
  depthBlock: 31,
  /** The second pair: its depth, and then as for the first. */
  updateK: 32,
  updateA: 33,
  updateAStride: 34,
  updateB: 35,
  updateBStride: 36,
  updateABatch: 37,
  updateBBatch: 40,
} as const;

/** Words of the argument block. */
export const argumentWords = 43;

/** One task's part of the product; pointers stand at its first element. */
export interface Task {
  readonly K: Integer;
  readonly depthBlock: Integer;
  readonly rows: Integer;
  readonly columns: Integer;
  readonly a: Integer;
  readonly aStride: Integer;
  readonly b: Integer;
  readonly bStride: Integer;
  readonly c: Integer;
  readonly cStride: Integer;
  readonly d: Integer;
  readonly dStride: Integer;
  readonly scratch: Integer;
  /** The second pair of factors; `undefined` where the variant has none. */
  readonly update: Pick<Task, "K" | "a" | "aStride" | "b" | "bStride"> | undefined;
}

/** Bytes of an element of B in memory; the kernels widen 16 bits while they load or pack. */
export const bytesOfB = (variant: MatmulVariant): 2 | 4 => (variant.bType === "float32" ? 4 : 2);

/** Reads the arguments and finds the part of the product that this task computes. */
export function beginTask(f: KernelBuilder, variant: MatmulVariant): Task {
  const { task, thread, integer, word, digit } = beginKernel(f);
  const rest = integer(task);
  const rowBlock = integer(word(argument.rowBlock));
  const columnBlock = integer(word(argument.columnBlock));
  const row = integer(["i32.mul", digit(rest, word(argument.rowBlocks)), rowBlock]);
  const column = integer(["i32.mul", digit(rest, word(argument.columnBlocks)), columnBlock]);
  const batch2 = digit(rest, word(argument.batch2));
  const batch1 = digit(rest, word(argument.batch1));
  const batch0 = rest;

  /** An operand's first address of this task: its own, the batch's offset, and the offset of this block. */
  const pointer = (address: number, batch: number, offset: Expression): Integer => {
    const part = (index: Integer, axis: number): Expression => ["i32.mul", index, word(batch + axis)];
    const offsets: Expression = ["i32.add", part(batch0, 0), ["i32.add", part(batch1, 1), part(batch2, 2)]];
    return integer(["i32.add", ["i32.add", word(address), offsets], offset]);
  };
  const aStride = integer(word(argument.aStride));
  const bStride = integer(word(argument.bStride));
  const cStride = integer(word(argument.cStride));
  const dStride = integer(word(argument.dStride));
  const inRow = (stride: Integer): Expression => ["i32.add", ["i32.mul", row, stride], ["i32.mul", column, 4]];
  const secondPair = (): Task["update"] => {
    const [aStride, bStride] = [integer(word(argument.updateAStride)), integer(word(argument.updateBStride))];
    return {
      K: integer(word(argument.updateK)),
      a: pointer(argument.updateA, argument.updateABatch, ["i32.mul", row, aStride]),
      aStride,
      b: pointer(argument.updateB, argument.updateBBatch, ["i32.mul", column, variant.update === "rows" ? 4 : bStride]),
      bStride,
    };
  };
  return {
    K: integer(word(argument.K)),
    depthBlock: integer(word(argument.depthBlock)),
    rows: integer(smaller(rowBlock, integer(["i32.sub", word(argument.M), row]))),
    columns: integer(smaller(columnBlock, integer(["i32.sub", word(argument.N), column]))),
    a: pointer(argument.a, argument.aBatch, ["i32.mul", row, variant.a === "rows" ? aStride : 4]),
    aStride,
    b: pointer(argument.b, argument.bBatch, ["i32.mul", column, variant.b === "rows" ? bytesOfB(variant) : bStride]),
    bStride,
    c: pointer(argument.c, argument.cBatch, inRow(cStride)),
    cStride,
    d: pointer(argument.d, argument.dBatch, variant.addend === "column" ? ["i32.mul", row, dStride] : inRow(dStride)),
    dStride,
    scratch: integer(["i32.add", word(argument.scratch), ["i32.mul", thread, word(argument.scratchStride)]]),
    update: variant.update === "none" ? undefined : secondPair(),
  };
}

/** Four elements of B as float32, `element` elements after `address`. */
export function loadB(simd: SimdBasics, variant: MatmulVariant, address: Expression, element = 0): V128 {
  const offset = element * bytesOfB(variant);
  if (variant.bType === "float16") return simd.loadFloat16(address, offset);
  if (variant.bType === "bfloat16") return simd.loadBFloat16(address, offset);
  return simd.load(address, offset);
}

/**
 * Emits transpose(source, sourceStride, rows, length, target, targetStride): target[x][r] = source[r][x] as float32, in squares of
 * 4 × 4. `length` and `rows` are rounded up to a multiple of 4: what is written past them is arbitrary. Reads past `length` end
 * within the slack after a buffer; rows past the last are not read, the last one is taken again.
 */
export function emitTranspose(
  module: ModuleBuilder,
  elementBytes: number,
  load4: (simd: SimdBasics, address: Integer) => V128,
  fused: boolean,
): FunctionBuilder {
  const f = module.function(null, ["i32", "i32", "i32", "i32", "i32", "i32"]);
  const [source, sourceStride, rows, length, target, targetStride] = f.params;
  const simd = new SimdBasics(f, fused);
  const last = f.local("i32", ["i32.sub", rows, 1]);
  const row = f.local("i32");
  const from = [0, 1, 2, 3].map(() => f.local("i32"));
  const to = f.local("i32");
  const lanes = (order: [number, number, number, number], x: V128, y: V128) => simd.keep(() => f.shuffle(order, x, y));
  f.for(row, 0, rows, 4, () => {
    from.forEach((pointer, i) => {
      const index = f.local("i32", ["i32.add", row, i]);
      f.set(pointer, ["i32.add", source, ["i32.mul", smaller(index, last), sourceStride]]);
    });
    f.set(to, ["i32.add", target, ["i32.mul", row, 4]]);
    f.repeat(["i32.shr_u", ["i32.add", length, 3], 2], () => {
      const [r0, r1, r2, r3] = from.map((pointer) => load4(simd, pointer)) as [V128, V128, V128, V128];
      const low01 = lanes([0, 4, 1, 5], r0, r1);
      const high01 = lanes([2, 6, 3, 7], r0, r1);
      const low23 = lanes([0, 4, 1, 5], r2, r3);
      const high23 = lanes([2, 6, 3, 7], r2, r3);
      const turned = [
        lanes([0, 1, 4, 5], low01, low23),
        lanes([2, 3, 6, 7], low01, low23),
        lanes([0, 1, 4, 5], high01, high23),
        lanes([2, 3, 6, 7], high01, high23),
      ];
      for (const column of turned) {
        simd.store(to, column);
        f.increment(to, targetStride);
      }
      for (const pointer of from) f.increment(pointer, 4 * elementBytes);
    });
  });
  return f;
}
