/**
 * Columns form in bands: the folds of all columns stay in scratch memory, and four rows at a time are taken into them from left to right.
 * A walk down a column touches a page a row and, where rows lie a power of two apart, always the same few lines of the first-level
 * cache; four rows side by side are four streams that the processor fetches ahead.
 *
 * Every column takes in its rows one after the other in the same blocks as elsewhere, so that not a bit depends on which way was taken.
 * Where there are fewer units than threads, each block of rows is one thread's work, and what they come to is folded in their order by a second
 * launch: short pieces of rows would cost more than a second thread saves.
 */
import { bytesPerElement } from "../../graph/dtype.ts";
import { sizeOf } from "../../graph/shape.ts";
import { type Geometry, type LoopProgram, loopProgramKey, type Register, type Slot, type SlotGeometry } from "../loop-program.ts";
import { load } from "./assembler.ts";
import { type Cursor, cursorAt, type I32, SlotAccess } from "./cursor.ts";
import { type Accumulator, blockLength, Folds, forEachBlock } from "./folds.ts";
import type { LaneMath } from "./lanes.ts";
import type { LoopFrame } from "./loop-frame.ts";
import type { Fold, LoopPlan } from "./loop-plan.ts";
import { LoopValues } from "./loop-values.ts";

/** Rows that are taken in together. */
const bandRows = 4;
/** Columns of a unit: with more of them the folds would leave the first-level cache between two bands. */
export const bandColumns = 1024;
/** Shorter rows, or fewer of them, are not worth the way through scratch memory. */
const fewestColumns = 256;
const fewestRows = 16;
/** What costs more computes longer than it waits for memory. */
const mostCost = 20;

/** Whether a launch goes in bands. */
export function inBandsOf(program: LoopProgram, plan: LoopPlan, { inner, reduce }: Geometry): boolean {
  if (program.shape !== "columns" || inner < fewestColumns || reduce.at(-1)! < fewestRows) return false;
  const [body] = plan.passes;
  return (
    body!.hoisted.length === 0 &&
    body!.cost <= mostCost &&
    [...body!.computed].every((register) => {
      const instruction = program.instructions[register]!;
      if (instruction.kind !== "load") return instruction.kind !== "index";
      const { inner, masked } = program.slots[instruction.slot]!;
      return masked.length === 0 && (inner === "unit" || plan.places[register] === "uniform");
    })
  );
}

/** A loop program at the sizes of one launch. */
interface Sized {
  readonly program: LoopProgram;
  readonly geometry: Geometry;
}

/** A fold of columns in two steps, which share a buffer behind those of the program. */
export interface RowBlocks {
  /** Folds blocks of rows: all whole ones, and what is left. */
  readonly blocks: readonly Sized[];
  /** Folds the blocks, and goes on as the program does. */
  readonly total: Sized;
  /** Elements of the buffer, which are float32. */
  readonly elements: number;
}

/** How a launch in bands is cut into blocks of rows for several threads; `null` where it is not. */
export function rowBlocksOf(program: LoopProgram, plan: LoopPlan, geometry: Geometry, threads: number): RowBlocks | null {
  const { outer, inner, reduce, slots } = geometry;
  const [rows] = reduce as [number];
  const count = Math.ceil(rows / blockLength);
  const [fold, another] = plan.passes[0]?.folds ?? [];
  const units = sizeOf(outer) * Math.ceil(inner / bandColumns);
  // blocks of more than a block's blocks would form blocks in turn, and only a sum or a maximum is the same in two steps
  if (threads === 1 || units >= threads || reduce.length !== 1 || count < 2 || count > blockLength || !fold || another)
    return null;
  if (!inBandsOf(program, plan, geometry) || program.slots.some(({ masked }) => masked.length > 0)) return null;
  if (fold.dtype !== "float32" || (fold.op.name !== "sum" && fold.op.name !== "maxReduce")) return null;
  if (program.instructions[fold.arg]!.level !== "body" || fold.stage !== program.stores[0]!.stage) return null;

  const slot: Slot = { buffer: program.buffers, dtype: "float32", inner: "unit", masked: [] };
  const number = program.slots.length;
  const added = { ...program, slots: [...program.slots, slot], buffers: program.buffers + 1 };
  const keyed = (draft: Omit<LoopProgram, "key">): LoopProgram => ({ ...draft, key: loopProgramKey(draft) });
  /** Of the buffer, [...outer, count, inner]. */
  const strides = outer.map((_, axis) => sizeOf(outer.slice(axis + 1)) * count * inner);
  const partial = { offset: 0, inner: 1, valid: [] };
  const ofBlocks = keyed({
    ...added,
    outer: program.outer + 1,
    stores: [{ register: fold.register, slot: number, stage: fold.stage }],
  });
  const block = (first: number, blocks: number, length: number): Sized => ({
    program: ofBlocks,
    geometry: {
      outer: [...outer, blocks],
      inner,
      reduce: [length],
      slots: [
        ...slots.map((walk): SlotGeometry => {
          const between = blockLength * walk.reduce[0]!;
          return { ...walk, offset: walk.offset + first * between, outer: [...walk.outer, between] };
        }),
        { ...partial, offset: first * inner, outer: [...strides, inner], reduce: [0] },
      ],
    },
  });
  const whole = Math.floor(rows / blockLength);
  const rest = rows % blockLength;
  const total = keyed({
    ...added,
    instructions: program.instructions.map((instruction, register) =>
      register === fold.arg
        ? { kind: "load", slot: number, dtype: "float32", level: instruction.level, stage: instruction.stage }
        : instruction,
    ),
  });
  return {
    blocks: [block(0, whole, blockLength), ...(rest > 0 ? [block(whole, 1, rest)] : [])],
    total: {
      program: total,
      geometry: { ...geometry, reduce: [count], slots: [...slots, { ...partial, outer: strides, reduce: [inner] }] },
    },
    elements: sizeOf(outer) * count * inner,
  };
}

/** Rows of scratch that the folds of a program take at most: each its value, the sum of its blocks, and where NaN was met. */
export const bandStates = (plan: LoopPlan): number => 3 * plan.passes[0]!.folds.length;

/** A fold of all columns of a unit: addresses of its state in scratch. */
interface FoldRow {
  readonly fold: Fold;
  readonly value: I32;
  readonly nan: I32 | null;
  readonly blocks: I32 | null;
}

/** Emits the loops over the bands of a row. */
export class Bands {
  private readonly frame: LoopFrame;
  private readonly simd: LaneMath;
  private readonly folds: Folds;
  private readonly access: SlotAccess;

  constructor(frame: LoopFrame, simd: LaneMath) {
    this.frame = frame;
    this.simd = simd;
    this.folds = new Folds(simd);
    this.access = new SlotAccess(frame.f, simd);
  }

  /**
   * Emits the folds of the columns of the unit at hand.
   *
   * @param state address of the i-th row of scratch
   * @returns where each fold's results begin, by register
   */
  fold(state: (row: number) => I32): ReadonlyMap<Register, I32> {
    const { f, program, plan, count } = this.frame;
    const vectors = f.local("i32", ["i32.shr_u", ["i32.add", count, 3], 2]);
    const rows = plan.passes[0]!.folds.map((fold, i): FoldRow => {
      const { nan, blocks } = this.folds.begin(fold);
      return { fold, value: state(3 * i), nan: nan && state(3 * i + 1), blocks: blocks && state(3 * i + 2) };
    });
    this.overStates(rows, vectors, (part) => this.folds.begin(part.fold));
    const reads = [...plan.passes[0]!.computed].map((register) => program.instructions[register]!);
    const slots = new Set(reads.flatMap((read) => (read.kind === "load" ? [read.slot] : [])));
    const walked = [...slots].map((slot) => [slot, f.local("i32", this.frame.pointers[slot]!)] as const);
    this.frame.overReduced(walked, (count, advance) => {
      const band = (height: number) => this.band(height, walked, advance, rows, vectors);
      const sums = rows.filter(({ blocks }) => blocks);
      forEachBlock(f, count, (length) => {
        f.repeat(["i32.div_u", length, bandRows], () => band(bandRows));
        f.repeat(["i32.rem_u", length, bandRows], () => band(1));
        this.overStates(sums, vectors, (part) => {
          this.folds.flush(part);
          return part;
        });
      });
    });
    this.overStates(rows, vectors, (part) => ({ ...part, value: this.folds.finish(part).local }));
    return new Map(rows.map(({ fold, value }) => [fold.register, value]));
  }

  /** Emits a loop over all vectors of all states that writes what `next` makes of them. */
  private overStates(rows: readonly FoldRow[], vectors: I32, next: (part: Accumulator) => Accumulator): void {
    const { f } = this.frame;
    for (const row of rows) {
      const pointers = [row.value, row.nan, row.blocks].map((start) => start && f.local("i32", start));
      const read = (i: number) => pointers[i]! && f.local("v128", load("v128.load", pointers[i]!));
      f.repeat(vectors, () => {
        const after = next({ fold: row.fold, value: read(0)!, nan: read(1) ?? null, blocks: read(2) ?? null });
        for (const [i, value] of [after.value, after.nan, after.blocks].entries())
          if (value && pointers[i]) f.store("v128.store", pointers[i], value);
        for (const pointer of pointers) if (pointer) f.increment(pointer, 16);
      });
    }
  }

  /** Takes in `height` rows from where the slots `walked` stand; `advance` moves those behind one. */
  private band(
    height: number,
    walked: readonly (readonly [number, I32])[],
    advance: () => void,
    rows: readonly FoldRow[],
    vectors: I32,
  ): void {
    const { f, program, plan } = this.frame;
    const body = plan.passes[0]!;
    const isUniform = (register: Register) => plan.places[register] === "uniform";
    const cursorsOf = Array.from({ length: height }, () => {
      const cursors = new Map(walked.map(([slot, at]) => [slot, cursorAt(program.slots[slot]!, f.local("i32", at))]));
      advance();
      return cursors;
    });
    /** Values of one row, which know those that all columns share. */
    const valuesOf = (cursors: ReadonlyMap<number, Cursor>, shared?: LoopValues): LoopValues => {
      const values: LoopValues = new LoopValues(program, plan, this.simd, {
        load: (register, slot) => {
          const cursor = cursors.get(slot)!;
          return isUniform(register)
            ? this.access.loadSame(cursor.slot, cursor.pointer, [])
            : this.access.load(cursor, values.copy);
        },
        restore: () => null,
      });
      for (const register of body.computed)
        if (isUniform(register)) {
          if (shared) values.set(register, shared.get(register));
          else values.get(register);
        }
      return values;
    };
    const shared = cursorsOf.map((cursors) => valuesOf(cursors));
    const moving = cursorsOf.flatMap((cursors) => [...cursors.values()].filter(({ slot }) => slot.inner === "unit"));
    const states = rows.map((row) => ({
      ...row,
      value: f.local("i32", row.value),
      nan: row.nan && f.local("i32", row.nan),
    }));
    const group = (copies: number) => {
      const values = cursorsOf.map((cursors, row) => valuesOf(cursors, shared[row]));
      const each = (run: (copy: number) => void) => {
        for (let copy = 0; copy < copies; copy++) {
          for (const row of values) row.copy = copy;
          run(copy);
        }
      };
      const parts: Accumulator[][] = [];
      each((copy) => {
        const read = (at: I32) => f.local("v128", load("v128.load", at, 16 * copy));
        parts.push(states.map(({ fold, value, nan }) => ({ fold, value: read(value), nan: nan && read(nan), blocks: null })));
      });
      each((copy) => {
        for (const row of values) for (const part of parts[copy]!) this.folds.takeFrom(row, part, null);
      });
      each((copy) => {
        states.forEach(({ value, nan }, i) => {
          f.store("v128.store", value, parts[copy]![i]!.value, 16 * copy);
          if (nan) f.store("v128.store", nan, parts[copy]![i]!.nan!, 16 * copy);
        });
      });
      for (const { pointer, slot } of moving) f.increment(pointer, 4 * bytesPerElement(slot.dtype) * copies);
      for (const { value, nan } of states) for (const pointer of [value, nan]) if (pointer) f.increment(pointer, 16 * copies);
    };
    f.repeat(["i32.shr_u", vectors, 1], () => group(2));
    f.if(["i32.and", vectors, 1], () => group(1));
  }
}
