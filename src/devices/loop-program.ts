/**
 * Loop programs: the one form in which fused elementwise work and reductions reach a device.
 *
 * A program is a list of instructions over registers and runs in one of two shapes.
 *
 * **rows**: for every outer index, one or more passes (`stage` 0, 1, …) over the inner axis. Registers at level `element`
 * have a value per inner index, registers at level `row` one per outer index. A `reduce` folds an element register over
 * the inner axis; its result is at level `row` and may be read from the next stage on. Softmax is three stages.
 *
 * ```
 * for each outer index
 *   for stage = 0 … stages−1
 *     for each inner index: element instructions of the stage, element stores of the stage, folds of the stage
 *     row instructions that are now known (a row register's stage is the first pass in which it may be read)
 *   row stores
 * ```
 *
 * **columns**: for every outer index and inner index, a loop over the `reduce` axes evaluates the `body` registers and
 * folds them; `element` registers come after the folds and are stored. There is one stage.
 *
 * Sizes and strides are not part of a program: they are its `Geometry`, so one compiled program serves all sizes.
 */
import type { DType } from "../graph/dtype.ts";
import type { Elementwise, Reduction } from "../graph/primitive.ts";

/** Index into `instructions`. */
export type Register = number;
/** How often a register has a value: per place of a reduction (`body`), of the inner axis (`element`), or of the outer ones (`row`). */
export type Level = "body" | "element" | "row";

interface Typed {
  readonly dtype: DType;
  readonly level: Level;
  /** First stage in which the value exists. */
  readonly stage: number;
}

/** One register of a program: a value read, computed, folded or counted, with its dtype. */
export type Instruction = Typed &
  (
    | { readonly kind: "load"; readonly slot: number }
    /** The address that the slot's geometry gives, as int32: index numbers under any view. Its slot has no buffer. */
    | { readonly kind: "index"; readonly slot: number }
    | { readonly kind: "constant"; readonly value: number }
    | { readonly kind: "apply"; readonly op: Elementwise; readonly args: readonly Register[] }
    | { readonly kind: "reduce"; readonly op: Reduction; readonly arg: Register }
  );

/** One way of walking over a buffer. Several slots may share a buffer. */
export interface Slot {
  /** Position among the program's buffers, or −1 for index slots. */
  readonly buffer: number;
  readonly dtype: DType;
  /** Inner stride: 1, 0 or another. In columns form also says nothing about the reduce axes, whose strides are free. */
  readonly inner: "unit" | "same" | "strided";
  /** Axes (outer 0…, then inner, then reduce) along which only part of the indices is inside; loads give 0 outside. */
  readonly masked: readonly number[];
}

/** A register written through a slot, in the stage in which it is known. */
export interface Store {
  readonly register: Register;
  readonly slot: number;
  readonly stage: number;
}

/** What a device compiles; the comment above says what it means. */
export interface LoopProgram {
  readonly shape: "rows" | "columns";
  /** Number of outer axes (0 means that the inner axis is all there is) and of reduce axes (columns only). */
  readonly outer: number;
  readonly reduce: number;
  readonly stages: number;
  readonly instructions: readonly Instruction[];
  readonly slots: readonly Slot[];
  readonly stores: readonly Store[];
  /** Number of buffers; slots refer to them. */
  readonly buffers: number;
  /** Identity of the code: equal keys, equal code. */
  readonly key: string;
}

/** Strides and bounds of a slot, in elements, axis by axis in the order outer, inner, reduce. */
export interface SlotGeometry {
  readonly offset: number;
  readonly outer: readonly number[];
  readonly inner: number;
  readonly reduce: readonly number[];
  /** [from, to) of the valid indices for each axis in the slot's `masked`. */
  readonly valid: readonly (readonly [from: number, to: number])[];
}

/** The sizes of one launch. */
export interface Geometry {
  readonly outer: readonly number[];
  readonly inner: number;
  readonly reduce: readonly number[];
  readonly slots: readonly SlotGeometry[];
}

/** Makes the key: everything a code generator looks at. `instructions` are the keys of the instructions, for those who have them already. */
export function loopProgramKey(
  program: Omit<LoopProgram, "key">,
  instructions: readonly string[] = program.instructions.map(instructionKey),
): string {
  return [
    program.shape,
    program.outer,
    program.reduce,
    instructions.join(";"),
    program.slots.map((s) => `${s.buffer}${s.dtype}${s.inner}${s.masked.join()}`).join(";"),
    program.stores.map((s) => `${s.register}>${s.slot}@${s.stage}`).join(";"),
  ].join("|");
}

/** The same text for equal instructions, and only for them. */
export function instructionKey(i: Instruction): string {
  const head = `${i.level[0]}${i.stage}${i.dtype}`;
  switch (i.kind) {
    case "load":
      return `${head}L${i.slot}`;
    case "index":
      return `${head}I${i.slot}`;
    case "constant":
      return `${head}C${Object.is(i.value, -0) ? "-0" : i.value}`;
    case "apply":
      return `${head}A${i.op.name}(${i.args.join()})`;
    case "reduce":
      return `${head}R${i.op.name}(${i.arg})`;
  }
}
