/** The argument block of the two attention kernels, and what a task does with it: which keys and which queries are its own. */
import type { Expression, FunctionBuilder } from "../../src/devices/wasm/assembler.ts";
import { beginKernel, type Integer, type KernelBuilder, smaller } from "./argument-block.ts";

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
  batches: 36,
  /** Four words a tensor: address, and bytes between batch rows, between tokens, between heads. */
  tensors: 37,
} as const;

/** Words of the argument block that each tensor takes. */
export const tensorWords = 4;

/** The larger of two integers, signed. Both are evaluated twice. */
export const larger = (x: Integer | number, y: Integer | number): Expression => ["select", x, y, ["i32.gt_s", x, y]];

/** A new local with `value` cut to 0 … high. */
export function cut(f: FunctionBuilder, value: Expression, high: Integer): Integer {
  const x = f.local("i32", value);
  f.set(x, larger(x, 0)).set(x, smaller(x, high));
  return x;
}

/** The next multiple of 8, as an expression. */
export const roundUpTo8 = (x: Expression): Expression => ["i32.and", ["i32.add", x, 7], -8];
/** x · y of integers, as an expression. */
export const product = (x: Expression, y: Expression): Expression => ["i32.mul", x, y];
/** The sum of integers, as an expression. */
export const sum = (...terms: Expression[]): Expression => terms.reduce((x, y) => ["i32.add", x, y]);

/** A tensor of the argument block. */
export interface Operand {
  /** Address of batch row and head. */
  at(head: Expression): Expression;
  readonly time: Integer;
}

/** The same names for what `make` gives for their numbers. */
const eachOf = <Name extends string, T>(numbers: Readonly<Record<Name, number>>, make: (number: number) => T): Record<Name, T> =>
  Object.fromEntries(Object.entries<number>(numbers).map(([name, number]) => [name, make(number)])) as Record<Name, T>;

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
  /** Tensors of the argument block, by the kernel's names for their numbers. */
  operands<Name extends string>(numbers: Readonly<Record<Name, number>>): Readonly<Record<Name, Operand>>;
  /** Addresses of regions of this thread's scratch, by the kernel's names for their numbers. */
  regions<Name extends string>(numbers: Readonly<Record<Name, number>>): Readonly<Record<Name, Integer>>;
}

/**
 * Reads the arguments and finds the part of the work that is this task's. Under a causal mask the last queries see the most keys and
 * the first keys are seen by the most queries: these parts come first, so that the threads end with small ones.
 */
export function beginTask(f: KernelBuilder): Task {
  const { task, thread, integer, word, digit } = beginKernel(f);
  const rest = integer(task);
  const group = digit(rest, word(argument.groups));
  const batch = digit(rest, word(argument.batches));
  const keyPart = digit(rest, word(argument.keyParts));
  const unitPart = integer(["i32.sub", ["i32.sub", word(argument.unitParts), 1], rest]);
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
    operands: (numbers) =>
      eachOf(numbers, (index): Operand => {
        const first = argument.tensors + tensorWords * index;
        const base = integer(sum(word(first), product(batch, word(first + 1))));
        const headStride = integer(word(first + 3));
        return { at: (head) => sum(base, product(head, headStride)), time: integer(word(first + 2)) };
      }),
    regions: (numbers) => eachOf(numbers, (index) => integer(sum(scratch, word(argument.regions + index)))),
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
