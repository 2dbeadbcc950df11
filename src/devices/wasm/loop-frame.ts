/**
 * The frame of a loop program's wasm function (task, args, thread). A task is a range of units; a unit is one outer index, or a part
 * of the inner axis at one outer index. Every size, stride and address comes from the args block (`loop-arguments.ts`), so one
 * function serves all sizes.
 */
import type { LoopProgram } from "../loop-program.ts";
import { type Expression, type FunctionBuilder, type Local, load } from "./assembler.ts";
import { type Cursor, cursorAt, type I32 } from "./cursor.ts";
import type { ArgumentLayout } from "./loop-arguments.ts";
import type { LoopPlan } from "./loop-plan.ts";

/** The smaller of two signed integers; both are evaluated twice. */
export const smaller = (x: Expression, y: Expression): Expression => ["select", x, y, ["i32.lt_s", x, y]];

/** 0, 1, 2, 3. */
export const lanePositions = (f: FunctionBuilder): Local<"v128"> =>
  f.vectorConstant([0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0]);

/** Numbers of the walk over units: the unit, the end, the index of each axis, and the address of every slot for up to two rows and the next. */
const walkWords = ({ outer, slots }: LoopProgram): number => 3 + outer + 3 * slots.length;

/**
 * A thread's scratch begins with a patch of 16 bytes for every store and the numbers of the walk; then come the kept rows, of two rows where
 * they go by twos.
 */
export const headBytes = (program: LoopProgram): number => 16 * (program.stores.length + Math.ceil(walkWords(program) / 4));

/** A number of the walk over units. */
interface Cell {
  readonly value: Expression;
  set(value: Expression): void;
}

/** Locals, loops over units and addresses that all emitters of a loop program share. */
export class LoopFrame {
  readonly f: FunctionBuilder;
  readonly program: LoopProgram;
  readonly plan: LoopPlan;
  readonly layout: ArgumentLayout;
  /** Which of the units at hand is being computed: 0, and 1 for the one ahead of it. */
  unit = 0;
  /** Elements of the unit along the inner axis. */
  readonly count: I32;
  /** This thread's scratch. */
  readonly scratch: I32;
  readonly reduceIndices: readonly I32[];
  private readonly task: I32;
  private readonly args: I32;
  private readonly thread: I32;
  /** Words of scratch that hold numbers of the walk; `null` where local variables do. */
  private words: number | null;
  /** Indices of the walk axes. */
  private readonly walk: readonly Cell[];
  /** Inner index where the unit starts. */
  private readonly start: I32;
  private readonly lanesOf = new Map<number, I32[]>();
  /** Addresses of the slots as they walk from unit to unit, and of each of the units at hand. */
  private readonly walking: readonly Cell[];
  private cellsOf: readonly (readonly Cell[])[];
  private readonly rampOf = new Map<number, Local<"v128">>();

  /**
   * @param isWalkInScratch keeps the numbers of the walk in scratch, not in local variables. V8 gives registers to what it meets first: to these
   * numbers, which a loop over a row does not need, and the counter of that loop and the address of the memory go to the stack and back in each round
   */
  constructor(
    f: FunctionBuilder<readonly ["i32", "i32", "i32"]>,
    program: LoopProgram,
    plan: LoopPlan,
    layout: ArgumentLayout,
    isWalkInScratch = false,
  ) {
    this.f = f;
    [this.task, this.args, this.thread] = f.params;
    this.program = program;
    this.plan = plan;
    this.layout = layout;
    const locals = (count: number) => Array.from({ length: count }, () => f.local("i32"));
    this.reduceIndices = locals(program.reduce);
    [this.scratch, this.count, this.start] = locals(3) as [I32, I32, I32];
    this.words = isWalkInScratch ? 0 : null;
    this.walk = this.cells(layout.walkAxes);
    this.walking = this.cells(program.slots.length);
    this.cellsOf = [this.walking];
  }

  /** Address of every slot at the first element of the unit at hand. */
  get pointers(): readonly Expression[] {
    return this.cellsOf[this.unit]!.map(({ value }) => value);
  }

  /** Emits `body` for every unit of the task, with pointers set. */
  forEachUnit(body: () => void): void {
    const { f } = this;
    const { unit, end } = this.begin();
    f.while(["i32.lt_u", unit.value, end.value], () => {
      body();
      this.advance();
      unit.set(["i32.add", unit.value, 1]);
    });
  }

  /** Like `forEachUnit` for two units at a time, 0 and 1, and for one that is left. */
  byTwos(body: (units: readonly number[]) => void): void {
    const { f, walking } = this;
    const both = [0, 1].map(() => this.cells(walking.length));
    this.cellsOf = both;
    const set = (unit: number) => {
      for (const [slot, pointer] of both[unit]!.entries()) pointer.set(walking[slot]!.value);
      this.advance();
    };
    const { unit, end } = this.begin();
    f.while(["i32.lt_u", ["i32.add", unit.value, 1], end.value], () => {
      set(0);
      set(1);
      body([0, 1]);
      unit.set(["i32.add", unit.value, 2]);
    });
    f.if(["i32.lt_u", unit.value, end.value], () => {
      set(0);
      body([0]);
    });
  }

  /**
   * Emits the units of the task one ahead of the other: `first` for the first unit, `both` for each two neighbours, `last` for the last
   * unit. `unit` 1 is the one ahead, 0 the one behind it.
   */
  overlapped({ first, both, last }: Readonly<Record<"first" | "both" | "last", () => void>>): void {
    const { f, walking } = this;
    const behind = this.cells(walking.length);
    this.cellsOf = [behind, walking];
    const follow = () => {
      for (const [slot, pointer] of walking.entries()) behind[slot]!.set(pointer.value);
    };
    const { unit, end } = this.begin();
    const next = () => unit.set(["i32.add", unit.value, 1]);
    f.if(["i32.lt_u", unit.value, end.value], () => {
      first();
      next();
      f.while(["i32.lt_u", unit.value, end.value], () => {
        follow();
        this.advance();
        both();
        next();
      });
      follow();
      last();
    });
  }

  /** Where a row of scratch begins. */
  scratchRow(row: number): I32 {
    const rows: Expression = ["i32.add", this.scratch, headBytes(this.program)];
    return this.f.local("i32", ["i32.add", rows, ["i32.mul", this.argument(this.layout.keptStride), row]]);
  }

  private cells(count: number): Cell[] {
    return Array.from({ length: count }, () => this.cell());
  }

  private cell(): Cell {
    const { f, scratch, program } = this;
    if (this.words === null) {
      const local = f.local("i32");
      return { value: local, set: (value) => f.set(local, value) };
    }
    const offset = 16 * program.stores.length + 4 * this.words++;
    return { value: load("i32.load", scratch, offset), set: (value) => f.store("i32.store", scratch, value, offset) };
  }

  /** Sets scratch, and the indices and pointers of the task's first unit. */
  private begin(): { readonly unit: Cell; readonly end: Cell } {
    const { f, layout, walk, walking } = this;
    if (this.program.stores.length > 0) {
      const offset: Expression = ["i32.mul", this.thread, this.argument(layout.scratchStride)];
      f.set(this.scratch, ["i32.add", this.argument(layout.scratch), offset]);
    }
    const [unit, end] = this.cells(2) as [Cell, Cell];
    const first = f.local("i32", ["i32.mul", this.task, this.argument(layout.unitsPerTask)]);
    const past = f.local("i32", ["i32.add", first, this.argument(layout.unitsPerTask)]);
    unit.set(first);
    end.set(smaller(past, this.argument(layout.units)));
    // the first unit's indices, last axis fastest
    const rest = f.local("i32", first);
    for (let axis = walk.length - 1; axis > 0; axis--) {
      walk[axis]!.set(["i32.rem_u", rest, this.argument(layout.walk + 4 * axis)]);
      f.set(rest, ["i32.div_u", rest, this.argument(layout.walk + 4 * axis)]);
    }
    walk[0]?.set(rest);
    walking.forEach((pointer, slot) => {
      const at = layout.slots[slot]!;
      pointer.set(
        walk.reduce<Expression>(
          (address, index, axis) => ["i32.add", address, ["i32.mul", index.value, this.argument(at.strides + 4 * axis)]],
          this.argument(at.start),
        ),
      );
    });
    return { unit, end };
  }

  /** Sets the count and start of a unit whose inner axis may have any length. */
  measure(): void {
    const { f, layout, plan } = this;
    f.set(this.count, this.argument(layout.inner));
    if (plan.splittable) {
      f.set(this.start, ["i32.mul", this.walk[0]!.value, this.argument(layout.part)]);
      f.set(this.count, smaller(["i32.sub", this.count, this.start], this.argument(layout.part)));
    }
  }

  /** Moves to the next outer index: the last axis advances, those before it when it has come round. */
  private advance(): void {
    const { f, layout, walk } = this;
    f.block((done) => {
      for (let axis = walk.length - 1; axis >= 0; axis--) {
        this.walking.forEach((pointer, slot) => {
          pointer.set(["i32.add", pointer.value, this.argument(layout.slots[slot]!.steps + 4 * axis)]);
        });
        const index = walk[axis]!;
        index.set(["i32.add", index.value, 1]);
        if (axis === 0) break;
        f.brIf(done, ["i32.lt_u", index.value, this.argument(layout.walk + 4 * axis)]);
        index.set(0);
      }
    });
  }

  /**
   * Emits the loops over the reduce axes from `axis` on; `walked` are the slots that move in them, with their pointers.
   *
   * @param innermost emits the loop over the last axis, `count` rounds that end with `advance`
   */
  overReduced(walked: readonly (readonly [number, I32])[], innermost: (count: I32, advance: () => void) => void, axis = 0): void {
    const { f, layout, reduceIndices } = this;
    const index = reduceIndices[axis]!;
    const last = axis === reduceIndices.length - 1;
    const steps = walked.map(([slot, pointer]) => {
      const step = this.argument(layout.slots[slot]!.reduceSteps + 4 * axis);
      return [pointer, last ? f.local("i32", step) : step] as const;
    });
    const counted = this.program.slots.some((slot) => slot.masked.includes(this.program.outer + 1 + axis));
    if (counted) f.set(index, 0);
    const advance = () => {
      for (const [pointer, step] of steps) f.increment(pointer, step);
      if (counted) f.increment(index, 1);
    };
    const size = this.argument(layout.reduce + 4 * axis);
    if (last) innermost(f.local("i32", size), advance);
    else
      f.repeat(size, () => {
        this.overReduced(walked, innermost, axis + 1);
        advance();
      });
  }

  /** A cursor at the unit's first element. */
  open(number: number): Cursor {
    const { f, layout, program } = this;
    const slot = program.slots[number]!;
    const at = layout.slots[number]!;
    const pointer = f.local("i32", this.pointers[number]!);
    const bounds = slot.masked.includes(program.outer) ? this.bounds(number) : null;
    const guards = this.guards(number);
    if (slot.buffer < 0) {
      const step = f.local("i32", ["i32.mul", this.argument(at.inner), 4]);
      return { slot, pointer, step, lanes: null, ramp: this.ramp(number), guards: [], bounds: null };
    }
    if (slot.inner === "unit") return { ...cursorAt(slot, pointer), guards, bounds };
    const lanes = this.lanes(number);
    lanes.forEach((lane, i) => {
      f.set(lane, ["i32.mul", this.argument(at.inner), i + 1]);
    });
    const step = f.local("i32", ["i32.mul", this.argument(at.inner), 4]);
    return { slot, pointer, step, lanes, ramp: null, guards, bounds };
  }

  private lanes(slot: number): I32[] {
    let lanes = this.lanesOf.get(slot);
    if (!lanes) this.lanesOf.set(slot, (lanes = [1, 2, 3].map(() => this.f.local("i32"))));
    return lanes;
  }

  private ramp(slot: number): Local<"v128"> {
    const inner: Expression = ["i32x4.splat", this.argument(this.layout.slots[slot]!.inner)];
    const ramp = this.rampOf.get(slot) ?? this.f.local("v128");
    this.rampOf.set(slot, ramp);
    this.f.set(ramp, ["i32x4.mul", lanePositions(this.f), inner]);
    return ramp;
  }

  /** Where the slot is inside along the inner axis. */
  private bounds(number: number): NonNullable<Cursor["bounds"]> {
    const { f } = this;
    const [from, to] = this.validRange(number, this.program.outer);
    return { from: f.local("i32", from), to: f.local("i32", to), index: f.local("i32", this.start) };
  }

  /** Conditions on the outer and reduce indices for the slot to be inside. */
  guards(number: number): Expression[] {
    const { program } = this;
    return program.slots[number]!.masked.flatMap((axis) => {
      if (axis === program.outer) return [];
      const index =
        axis < program.outer
          ? this.walk[axis + (this.plan.splittable ? 1 : 0)]!.value
          : this.reduceIndices[axis - program.outer - 1]!;
      const [from, to] = this.validRange(number, axis);
      return [
        ["i32.ge_s", index, from],
        ["i32.lt_s", index, to],
      ] as Expression[];
    });
  }

  private validRange(slot: number, axis: number): [Expression, Expression] {
    const at = this.layout.slots[slot]!.valid + 8 * this.program.slots[slot]!.masked.indexOf(axis);
    return [this.argument(at), this.argument(at + 4)];
  }

  /** A word of the args block. */
  argument(offset: number): Expression {
    return load("i32.load", this.args, offset);
  }
}
