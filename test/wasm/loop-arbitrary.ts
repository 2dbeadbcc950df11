/** Random loop programs with geometries and data, for the tests of devices. */
import fc from "fast-check";
import {
  type Geometry,
  type Instruction,
  type Level,
  type LoopProgram,
  loopProgramKey,
  type Slot,
  type SlotGeometry,
  type Store,
} from "../../src/devices/loop-program.ts";
import { type DType, isFloat } from "../../src/graph/dtype.ts";
import { elementwise } from "../../src/graph/elementwise.ts";
import type { Elementwise } from "../../src/graph/primitive.ts";
import { reductions } from "../../src/graph/reduction.ts";
import { type Facts, factsOf, unit } from "./register-facts.ts";

/** A loop program, the sizes that it runs with and the buffers that it reads and writes. */
export interface LoopCase {
  readonly program: LoopProgram;
  readonly geometry: Geometry;
  /** `tolerance`: by how much an output may differ from its value in float64. */
  readonly buffers: readonly {
    readonly dtype: DType;
    readonly length: number;
    readonly output: boolean;
    readonly tolerance: number;
  }[];
  /** Seed of the buffers' contents. */
  readonly seed: number;
  toString(): string;
}

/** A source of random choices: `pick(n)` in 0 … n − 1. */
export type Pick = (n: number) => number;

const memoryTypes: readonly DType[] = ["float32", "float32", "float32", "int32", "bool", "uint8", "float16", "bfloat16"];

function rowMajor(sizes: readonly number[]): { strides: number[]; size: number } {
  let size = 1;
  const strides = sizes.map(() => 0);
  for (let axis = sizes.length - 1; axis >= 0; axis--) {
    strides[axis] = size;
    size *= sizes[axis]!;
  }
  return { strides, size };
}

class Draft {
  readonly instructions: Instruction[] = [];
  readonly slots: Slot[] = [];
  readonly slotGeometry: SlotGeometry[] = [];
  readonly stores: Store[] = [];
  readonly facts: Facts[] = [];
  readonly buffers: { dtype: DType; length: number; output: boolean; tolerance: number }[] = [];
  /** Slots that read a buffer of their own densely, so that an output may take its place. */
  private readonly dense: number[] = [];
  readonly pick: Pick;
  readonly shape: "rows" | "columns";
  readonly outer: number[];
  readonly inner: number;
  readonly reduce: number[];

  constructor(pick: Pick, large: boolean) {
    this.pick = pick;
    this.shape = pick(3) === 0 ? "columns" : "rows";
    this.outer = Array.from({ length: pick(4) }, () => 1 + pick(large ? 8 : 4));
    this.inner = [1, 2, 3, 4, 5, 7, 8, 12, 13, 16, 17, 31, 33, 64, 70][pick(15)]! * (large ? 1 + pick(30) : 1);
    this.reduce = this.shape === "columns" ? Array.from({ length: 1 + pick(3) }, () => 1 + pick(5)) : [];
  }

  push(instruction: Instruction): number {
    const reduced = this.shape === "rows" ? this.inner : this.reduce.reduce((a, b) => a * b, 1);
    this.facts.push(factsOf(instruction, this.instructions, this.facts, reduced));
    return this.instructions.push(instruction) - 1;
  }

  /** Whether a comparison or a step gives the same in float32 and float64. */
  private isExact(register: number): boolean {
    return this.facts[register]!.error === 0 && this.facts[register]!.magnitude < 2 ** 30;
  }

  /** A slot for reading: any strides, any bounds, over a buffer just large enough. */
  readSlot(dtype: DType, options: { readonly uniform: boolean; readonly reduce: boolean; readonly index: boolean }): number {
    const { pick } = this;
    const sizes = [...this.outer, this.inner, ...this.reduce];
    const innerAxis = this.outer.length;
    if (!options.uniform && !options.index && this.shape === "rows" && pick(3) === 0) {
      const { strides, size } = rowMajor(sizes);
      const buffer = this.buffers.push({ dtype, length: size, output: false, tolerance: 0 }) - 1;
      this.slotGeometry.push({ offset: 0, outer: strides.slice(0, -1), inner: 1, reduce: [], valid: [] });
      this.dense.push(this.slots.length);
      return this.slots.push({ buffer, dtype, inner: "unit", masked: [] }) - 1;
    }
    const kind = options.uniform ? "same" : (["unit", "unit", "unit", "strided", "same"] as const)[pick(5)]!;
    const strides = sizes.map((_, axis) => {
      if (axis === innerAxis) return kind === "unit" ? 1 : kind === "same" ? 0 : [2, -1, 3, 17, -2][pick(5)]!;
      if (axis > innerAxis && !options.reduce) return 0;
      return [0, 1, 5, this.inner, 70, -3][pick(6)]!;
    });
    const masked = options.index
      ? []
      : sizes.flatMap((_, axis) =>
          pick(8) === 0 && !(options.uniform && axis >= innerAxis) && !(axis > innerAxis && !options.reduce) ? [axis] : [],
        );
    const valid = masked.map((axis): [number, number] => {
      const from = pick(sizes[axis]! + 1);
      return [from, pick(5) === 0 ? from - pick(2) : from + pick(sizes[axis]! - from + 1)];
    });
    // addresses that are touched: only indices inside count
    let [low, high] = [0, 0];
    sizes.forEach((size, axis) => {
      const m = masked.indexOf(axis);
      const [from, to] = m < 0 ? [0, size] : valid[m]!;
      const ends = [from * strides[axis]!, (Math.max(to, from + 1) - 1) * strides[axis]!];
      low += Math.min(...ends);
      high += Math.max(...ends);
    });
    const offset = options.index ? pick(100) - 50 : -low;
    const buffer = options.index ? -1 : this.buffers.push({ dtype, length: high - low + 1, output: false, tolerance: 0 }) - 1;
    this.slotGeometry.push({
      offset,
      outer: strides.slice(0, innerAxis),
      inner: strides[innerAxis]!,
      reduce: strides.slice(innerAxis + 1),
      valid,
    });
    return this.slots.push({ buffer, dtype, inner: kind, masked }) - 1;
  }

  store(register: number, stage: number, last: boolean): void {
    const { dtype, level } = this.instructions[register]!;
    const { error, magnitude } = this.facts[register]!;
    const tolerance = error === 0 ? 0 : error + (unit[dtype] ?? 0) * magnitude;
    const rowLevel = level === "row";
    // over an input that is read in the same way and not later
    const over = this.dense.findIndex((slot) => this.slots[slot]!.dtype === dtype);
    if (last && level === "element" && over >= 0 && this.pick(2)) {
      const [slot] = this.dense.splice(over, 1) as [number];
      const { buffer } = this.slots[slot]!;
      this.buffers[buffer] = { ...this.buffers[buffer]!, output: true, tolerance };
      this.slots.push(this.slots[slot]!);
      this.slotGeometry.push(this.slotGeometry[slot]!);
    } else {
      const innerAxis = this.outer.length;
      // row-major, perhaps with the inner axis outermost
      const transposed = !rowLevel && this.pick(4) === 0;
      const sizes = [...this.outer, ...(rowLevel ? [] : [this.inner])];
      if (transposed) sizes.unshift(sizes.pop()!);
      const { strides, size } = rowMajor(sizes);
      if (transposed) strides.push(strides.shift()!);
      const buffer = this.buffers.push({ dtype, length: size, output: true, tolerance }) - 1;
      const inner = rowLevel ? 0 : strides[innerAxis]!;
      this.slots.push({ buffer, dtype, inner: rowLevel ? "same" : inner === 1 ? "unit" : "strided", masked: [] });
      this.slotGeometry.push({
        offset: 0,
        outer: strides.slice(0, innerAxis),
        inner,
        reduce: this.reduce.map(() => 0),
        valid: [],
      });
    }
    this.stores.push({ register, slot: this.slots.length - 1, stage });
  }

  /** A new load, index or constant. */
  leaf(level: Level, uniform: boolean): number {
    const { pick } = this;
    const kind = pick(8);
    if (kind === 0) {
      const dtype = (["float32", "int32", "bool"] as const)[pick(3)]!;
      const value = dtype === "float32" ? [0, -0, 1, 0.5, -2.25, 3][pick(6)]! : dtype === "int32" ? pick(9) - 4 : pick(2);
      return this.push({ kind: "constant", value, dtype, level, stage: 0 });
    }
    const reduce = level === "body";
    if (kind === 1)
      return this.push({
        kind: "index",
        slot: this.readSlot("int32", { uniform, reduce, index: true }),
        dtype: "int32",
        level,
        stage: 0,
      });
    const dtype = memoryTypes[pick(memoryTypes.length)]!;
    return this.push({ kind: "load", slot: this.readSlot(dtype, { uniform, reduce, index: false }), dtype, level, stage: 0 });
  }

  apply(op: Elementwise, args: readonly number[], dtype: DType, level: Level): number {
    const stage = Math.max(...args.map((arg) => this.instructions[arg]!.stage));
    return this.push({ kind: "apply", op, args, dtype, level, stage });
  }

  cast(register: number, dtype: DType, level: Level): number {
    return this.instructions[register]!.dtype === dtype ? register : this.apply(elementwise.cast, [register], dtype, level);
  }

  constant(value: number, dtype: DType, level: Level): number {
    return this.push({ kind: "constant", value, dtype, level, stage: 0 });
  }

  /** One of `pool` as `dtype`; exact where `step` is set. Integers become small before they become floats. */
  operand(pool: readonly number[], dtype: DType, level: Level, step = false): number {
    const { pick } = this;
    const limit = dtype === "float16" ? 100 : 2 ** 40;
    const usable = (register: number): boolean => {
      const from = this.instructions[register]!.dtype;
      if (!isFloat(from)) return true;
      if (step || !isFloat(dtype)) return this.isExact(register);
      return this.facts[register]!.magnitude <= limit;
    };
    const start = pick(pool.length);
    const found = [...pool.slice(start), ...pool.slice(0, start)].find(usable);
    const register = found ?? this.constant(1, isFloat(dtype) ? "float32" : "int32", level);
    const from = this.instructions[register]!.dtype;
    if (from === "int32" && isFloat(dtype))
      return this.cast(this.apply(elementwise.mod, [register, this.constant(8, from, level)], from, level), dtype, level);
    return this.cast(register, dtype, level);
  }

  step(pool: readonly number[], level: Level): number {
    const { pick } = this;
    const dtype = (["float32", "float32", "float32", "int32", "float16", "bfloat16"] as const)[pick(6)]!;
    const x = () => this.operand(pool, dtype, level);
    const exact = () => this.operand(pool, dtype, level, true);
    const real = () => this.operand(pool, "float32", level);
    const integer = () => this.operand(pool, "int32", level);
    const {
      add,
      mul,
      max,
      neg,
      less,
      equal,
      where,
      floor,
      mod,
      and,
      or,
      xor,
      shiftLeft,
      shiftRight,
      sqrt,
      exp,
      tanh,
      sin,
      erf,
      recip,
      bitcast,
    } = elementwise;
    // the reference rounds 16-bit floats where it is told to
    const arithmetic = (op: Elementwise, ...args: number[]) => {
      const result = this.apply(op, args, dtype, level);
      return dtype === "float16" || dtype === "bfloat16" ? this.apply(elementwise.cast, [result], dtype, level) : result;
    };
    switch (pick(17)) {
      case 0:
      case 1:
        return arithmetic(add, x(), x());
      case 2:
        return arithmetic(mul, x(), x());
      case 3:
        return arithmetic(max, x(), x());
      case 4:
        return arithmetic(add, x(), this.apply(neg, [x()], dtype, level));
      case 5:
        return this.apply(pick(2) ? less : equal, [exact(), exact()], "bool", level);
      case 6:
        return this.apply(where, [this.operand(pool, "bool", level), x(), x()], dtype, level);
      case 7:
        return dtype === "float32"
          ? this.apply(floor, [exact()], dtype, level)
          : this.apply(mod, [integer(), integer()], "int32", level);
      case 8: {
        const type = (["int32", "uint8", "bool"] as const)[pick(3)]!;
        return this.apply(
          [and, or, xor][pick(3)]!,
          [this.operand(pool, type, level), this.operand(pool, type, level)],
          type,
          level,
        );
      }
      case 9: {
        const by = pick(2)
          ? this.constant(pick(32), "int32", level)
          : this.apply(and, [integer(), this.constant(31, "int32", level)], "int32", level);
        return this.apply(pick(2) ? shiftLeft : shiftRight, [integer(), by], "int32", level);
      }
      case 10: {
        // square root and reciprocal of something at least 1
        const y = real();
        const positive = this.apply(
          add,
          [this.apply(mul, [y, y], "float32", level), this.constant(1, "float32", level)],
          "float32",
          level,
        );
        if (pick(2)) return this.apply(sqrt, [positive], "float32", level);
        return this.apply(mul, [real(), this.apply(recip, [positive], "float32", level)], "float32", level);
      }
      case 11:
        return this.apply([tanh, sin, erf][pick(3)]!, [real()], "float32", level);
      case 12:
        return this.apply(exp, [this.apply(tanh, [real()], "float32", level)], "float32", level);
      case 13: {
        const type = memoryTypes[pick(memoryTypes.length)]!;
        return this.operand(pool, type, level);
      }
      case 14:
        return arithmetic(add, arithmetic(mul, x(), x()), x());
      case 15:
        return this.apply(
          mul,
          [real(), this.apply(recip, [this.constant([2, 3, -4, 7][pick(4)]!, "float32", level)], "float32", level)],
          "float32",
          level,
        );
      default: {
        const loads = pool.filter(
          (register) => this.instructions[register]!.kind === "load" && this.instructions[register]!.dtype === "float32",
        );
        return loads.length ? this.apply(bitcast, [loads[pick(loads.length)]!], "int32", level) : integer();
      }
    }
  }

  fold(pool: readonly number[], level: Level, stage: number): number {
    const { pick } = this;
    const arg = pool[pick(pool.length)]!;
    const from = this.instructions[arg]!.dtype;
    const op = [reductions.sum, reductions.sum, reductions.maxReduce][pick(3)]!;
    const dtype =
      from === "bool" || from === "uint8" || from === "float16" || from === "bfloat16"
        ? op === reductions.maxReduce
          ? from
          : "float32"
        : from;
    const value = this.cast(arg, dtype, level);
    return this.push({ kind: "reduce", op, arg: value, dtype, level: this.shape === "rows" ? "row" : "element", stage });
  }

  build(): LoopCase {
    const { pick, instructions } = this;
    let stages = 1;
    if (this.shape === "rows") {
      const elements = Array.from({ length: 1 + pick(3) }, () => this.leaf("element", false));
      const rows = pick(2) ? [this.leaf("row", true)] : [];
      stages = 1 + (pick(2) ? pick(3) : 0);
      for (let stage = 0; stage < stages; stage++) {
        for (let i = 1 + pick(4); i > 0; i--) elements.push(this.step([...elements, ...rows], "element"));
        if (stage < stages - 1 || pick(3) === 0) {
          rows.push(this.fold(elements, "element", stage + 1));
          if (pick(2)) rows.push(this.step(rows, "row"));
          if (pick(2) && stage < stages - 1) rows.push(this.fold(elements, "element", stage + 1));
        }
      }
      const late = instructions.flatMap((instruction, register) =>
        instruction.kind === "constant" || (instruction.level === "element" && instruction.stage >= stages) ? [] : [register],
      );
      const candidates = late.filter((register) => instructions[register]!.level === "element");
      if (candidates.length === 0) candidates.push(this.constant(2, "float32", "element"));
      for (let i = 1 + pick(3); i > 0; i--) {
        const register = candidates[candidates.length - 1 - pick(Math.min(candidates.length, 3))]!;
        const stage = instructions[register]!.stage + pick(stages - instructions[register]!.stage);
        this.store(register, stage, stage === stages - 1);
      }
      const perRow = late.filter((register) => instructions[register]!.level === "row");
      if (perRow.length && pick(2)) this.store(perRow[pick(perRow.length)]!, stages - 1, false);
    } else {
      const body = Array.from({ length: 1 + pick(3) }, () => this.leaf("body", false));
      for (let i = pick(4); i > 0; i--) body.push(this.step(body, "body"));
      const elements = Array.from({ length: 1 + pick(2) }, () => this.fold(body, "body", 0));
      if (pick(2)) elements.push(this.leaf("element", false));
      for (let i = pick(3); i > 0; i--) elements.push(this.step(elements, "element"));
      this.store(elements.at(-1)!, 0, false);
      if (pick(2)) this.store(elements[0]!, 0, false);
    }
    const draft = {
      shape: this.shape,
      outer: this.outer.length,
      reduce: this.reduce.length,
      stages,
      instructions,
      slots: this.slots,
      stores: this.stores,
      buffers: this.buffers.length,
    };
    const program = { ...draft, key: loopProgramKey(draft) };
    const geometry = { outer: this.outer, inner: this.inner, reduce: this.reduce, slots: this.slotGeometry };
    const { buffers } = this;
    const seed = pick(2 ** 30);
    return {
      program,
      geometry,
      buffers,
      seed,
      toString: () => `${program.key}\n${JSON.stringify(geometry)}\n${JSON.stringify(buffers)}\nseed ${seed}`,
    };
  }
}

/** A program drawn with `pick`; `large` ones have work for several threads. */
export const drawLoopCase = (pick: Pick, large: boolean): LoopCase => new Draft(pick, large).build();

const cases = (large: boolean): fc.Arbitrary<LoopCase> =>
  fc.infiniteStream(fc.nat({ max: 2 ** 30 })).map((stream) => drawLoopCase((n) => (stream.next().value as number) % n, large));

export const loopCases: fc.Arbitrary<LoopCase> = cases(false);
export const largeLoopCases: fc.Arbitrary<LoopCase> = cases(true);
