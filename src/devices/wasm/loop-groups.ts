/**
 * Short rows in groups: neighbouring rows of a program without folds go through one piece of code. What lies between them is part of the
 * code, so that a group moves its pointers once, and reads once what several of its rows read: heads are turned by their positions in two
 * halves, each of which reads both, and the heads of a token by the same table.
 */
import { bytesPerElement } from "../../graph/dtype.ts";
import { type Geometry, type LoopProgram, loopProgramKey, type Register, type Slot, type SlotGeometry } from "../loop-program.ts";
import { ModuleBuilder } from "./assembler.ts";
import { type Cursor, cursorAt, type I32, SlotAccess } from "./cursor.ts";
import { LaneMath, type Vector } from "./lanes.ts";
import { layoutArguments } from "./loop-arguments.ts";
import type { EmitOptions } from "./loop-emitter.ts";
import { LoopFrame } from "./loop-frame.ts";
import { type LoopPlan, mostTogether } from "./loop-plan.ts";
import { LoopValues } from "./loop-values.ts";

/** In longer rows their ends no longer matter. */
const longestRow = 128;
/** Vectors of one row that have code of their own, without a loop. */
const withoutLoop = 4;
/** Vectors of all rows of a group, and where rows of two axes share what they read. */
const mostVectors = 8;
const mostShared = 16;
/** What a group reads before it writes has to fit into the processor's registers. */
const mostReads = 12;

/** How a program's rows are taken together. */
export interface Group {
  /** The program with a group for a row; slots that are walked alike are one. */
  readonly program: LoopProgram;
  readonly plan: LoopPlan;
  readonly geometry: Geometry;
  /** Rows of a group: how many along the last outer axis, and, where that is all of it, along the axis before. */
  readonly near: number;
  readonly far: number;
  readonly rows: number;
  /** Vectors of a row that go through the code together, and whether that is all of the row. */
  readonly vectors: number;
  readonly isWhole: boolean;
  /** Bytes from a slot's pointer to each row, by load (a register) and by store. */
  readonly loads: ReadonlyMap<number, readonly number[]>;
  readonly stores: readonly (readonly number[])[];
  /** Identity of the code. */
  readonly key: string;
}

/** The rows of a launch in groups; `null` where they are too long, or read what does not lie side by side. */
export function groupOf(program: LoopProgram, plan: LoopPlan, geometry: Geometry): Group | null {
  const { outer, inner } = geometry;
  const last = outer.length - 1;
  const isRegular = ({ buffer, inner, masked }: Slot) => buffer >= 0 && inner !== "strided" && masked.length === 0;
  if (program.shape !== "rows" || !plan.splittable || last < 0 || inner > longestRow || inner % 4 !== 0 || inner === 0)
    return null;
  if (!program.slots.every(isRegular) || plan.passes.length !== 1 || plan.rowStores.length > 0) return null;
  const isWhole = inner <= 4 * withoutLoop;
  const vectors = isWhole ? inner / 4 : inner % 8 === 0 ? 2 : 1;
  const { cost } = plan.passes[0]!;
  const fits = (axis: number, count: number, rows: number, most: number) =>
    outer[axis]! % count === 0 && rows * vectors <= most && cost * rows * vectors <= mostTogether;
  const near = [4, 2].find((count) => fits(last, count, count, mostVectors)) ?? 1;
  if (near === 1 && (!isWhole || cost * vectors > mostTogether)) return null;
  const isShared = near === outer[last] && last > 0 && geometry.slots.some(({ outer }) => outer[last - 1] === 0);
  const far = (isShared && [4, 2].find((count) => fits(last - 1, count, count * near, mostShared))) || 1;
  return grouped(program, plan, geometry, { near, far, rows: near * far, vectors, isWhole });
}

function grouped(
  program: LoopProgram,
  plan: LoopPlan,
  { outer, inner, slots, reduce }: Geometry,
  size: Pick<Group, "near" | "far" | "rows" | "vectors" | "isWhole">,
): Group {
  /** How many rows along each axis are one unit; axes of which all are, at the end, disappear. */
  const counts = outer.map((_, axis) => (axis === outer.length - 1 ? size.near : axis === outer.length - 2 ? size.far : 1));
  const axes = outer.findLastIndex((extent, axis) => extent !== counts[axis]) + 1;
  /** Elements from a slot's first row to each row of a group, the last axis fastest. */
  const between = (strides: readonly number[]): readonly number[] =>
    strides.reduce<number[]>(
      (all, stride, axis) => all.flatMap((at) => Array.from({ length: counts[axis]! }, (_, i) => at + i * stride)),
      [0],
    );
  const walks = slots.map((slot): SlotGeometry => {
    const strides = slot.outer.slice(0, axes).map((stride, axis) => stride * counts[axis]!);
    return { ...slot, offset: slot.offset + Math.min(...between(slot.outer)), outer: strides };
  });
  const kept: number[] = [];
  const written = new Set(program.stores.map(({ slot }) => slot));
  /** The number among those kept of the slot that walks as this one does. */
  const places = program.slots.map((_, i) => {
    const text = (j: number) => JSON.stringify([program.slots[j], walks[j]]);
    const found = written.has(i) ? -1 : kept.findIndex((j) => !written.has(j) && text(j) === text(i));
    return found >= 0 ? found : kept.push(i) - 1;
  });
  const rowOffsets = (slot: number): readonly number[] => {
    const rows = between(slots[slot]!.outer);
    const first = Math.min(...rows);
    return rows.map((row) => bytesPerElement(program.slots[slot]!.dtype) * (row - first));
  };
  const loads = new Map<number, readonly number[]>();
  const instructions = program.instructions.map((instruction, register) => {
    if (instruction.kind !== "load") return instruction;
    loads.set(register, rowOffsets(instruction.slot));
    return { ...instruction, slot: places[instruction.slot]! };
  });
  const stores = program.stores.map((store) => ({ ...store, slot: places[store.slot]! }));
  const draft = { ...program, outer: axes, instructions, stores, slots: kept.map((slot) => program.slots[slot]!) };
  const storeOffsets = program.stores.map(({ slot }) => rowOffsets(slot));
  const key = `${loopProgramKey(draft)}/${JSON.stringify([size, [...loads.values()], storeOffsets])}`;
  return {
    ...size,
    program: { ...draft, key },
    // rows are short: no use in cutting them
    plan: { ...plan, splittable: false },
    geometry: {
      inner,
      reduce,
      outer: outer.slice(0, axes).map((extent, axis) => extent / counts[axis]!),
      slots: kept.map((slot) => walks[slot]!),
    },
    loads,
    stores: storeOffsets,
    key,
  };
}

/** A module like that of `emitLoop`, a group for a unit. */
export function emitGroup(group: Group, { shared, maximumPages, relaxedSimd }: EmitOptions): Uint8Array<ArrayBuffer> {
  const { program, plan } = group;
  const layout = layoutArguments(program, plan);
  const module = new ModuleBuilder({ shared, maximumPages });
  const frame = new LoopFrame(module.function("kernel", ["i32", "i32", "i32"]), program, plan, layout);
  const simd = new LaneMath(frame.f, relaxedSimd);
  frame.forEachUnit(() => emitUnit(group, frame, simd));
  return module.bytes();
}

function emitUnit({ program, plan, rows, vectors, isWhole, loads, stores }: Group, frame: LoopFrame, simd: LaneMath): void {
  const { f } = frame;
  const access = new SlotAccess(f, simd);
  const pass = plan.passes[0]!;
  /** Where the slots stand: at the rows' beginnings, or on their way through them. */
  const pointers = frame.pointers.map((pointer) => f.local("i32", pointer));
  const cursor = (slot: number, offset: number): Cursor => ({ ...cursorAt(program.slots[slot]!, pointers[slot]!), offset });
  /** What has been read since something was written. */
  let known = new Map<string, Vector>();
  const values = Array.from({ length: rows }, (_, row) => {
    const of: LoopValues = new LoopValues(program, plan, simd, {
      load: (register, slot) => {
        const offset = loads.get(register)![row]!;
        const isRow = plan.places[register] === "row";
        const key = `${slot} ${offset} ${isRow || of.copy}`;
        let value = known.get(key);
        if (!value) {
          value = isRow
            ? access.loadSame(program.slots[slot]!, frame.pointers[slot]!, [], offset)
            : access.load(cursor(slot, offset), of.copy);
          known.set(key, value);
        }
        return value;
      },
      restore: () => null,
    });
    return of;
  });
  for (const row of values) for (const register of pass.hoisted) row.get(register);
  const reads = [...pass.computed].filter((register) => program.instructions[register]!.kind === "load");
  const slotOf = (register: Register) => (program.instructions[register] as { readonly slot: number }).slot;
  const places = new Set(reads.flatMap((register) => loads.get(register)!.map((offset) => `${slotOf(register)} ${offset}`)));
  const batch = Math.max(1, Math.floor(mostReads / Math.max(1, places.size)));
  const body = () => {
    for (let from = 0; from < vectors; from += batch) {
      known = new Map();
      const each = (run: (row: LoopValues, number: number) => void) => {
        for (let copy = from; copy < Math.min(vectors, from + batch); copy++)
          values.forEach((row, number) => {
            row.copy = copy;
            run(row, number);
          });
      };
      each((row) => {
        for (const register of reads) row.get(register);
      });
      const results: (() => void)[] = [];
      each((row, number) => {
        const { copy } = row;
        program.stores.forEach((store, i) => {
          const value = row.get(store.register);
          results.push(() => access.store(cursor(store.slot, stores[i]![number]!), copy, value));
        });
      });
      for (const write of results) write();
    }
  };
  if (isWhole) {
    body();
    return;
  }
  const moved: [I32, number][] = program.slots.flatMap(({ inner, dtype }, slot): [I32, number][] =>
    inner === "unit" ? [[pointers[slot]!, 4 * vectors * bytesPerElement(dtype)]] : [],
  );
  f.repeat(["i32.div_u", frame.argument(frame.layout.inner), 4 * vectors], () => {
    body();
    for (const [pointer, bytes] of moved) f.increment(pointer, bytes);
  });
}
