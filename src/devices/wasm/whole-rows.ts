/**
 * Rows that end with a whole step of every pass: loops and nothing else. While a row waits for the end of its folds, or for its writes, the
 * processor is busy with the next one: light passes go one row ahead of each other, heavy ones two rows after each other.
 *
 * A row is folded in the same order in all of these loops, so that its bits do not depend on where a task begins.
 */
import type { Register } from "../loop-program.ts";
import type { Expression, Local } from "./assembler.ts";
import type { Cursor, I32 } from "./cursor.ts";
import type { Accumulator } from "./folds.ts";
import type { Vector } from "./lanes.ts";
import { LoopCode } from "./loop-code.ts";
import type { LoopFrame } from "./loop-frame.ts";
import { busyPasses, type Pass, roundOf, unrollOf, type WholeRows } from "./loop-plan.ts";

/** One pass over one row while its loop is emitted. */
interface Walk {
  readonly pass: Pass;
  readonly row: number;
  readonly cursors: ReadonlyMap<number, Cursor>;
  readonly stores: readonly (Cursor & { readonly register: Register })[];
  readonly kept: readonly { readonly register: Register; readonly restored: boolean; readonly pointer: I32 }[];
  /** By vector of a group and fold. */
  readonly parts: readonly (readonly Accumulator[])[];
}

/** Emits the loops for rows that end with a whole step of every pass. */
export class WholeRowsEmitter extends LoopCode {
  private readonly way: WholeRows;
  /** The walk whose code is being emitted. */
  private walk: Walk | null = null;

  constructor(frame: LoopFrame, relaxedSimd: boolean, way: WholeRows) {
    super(frame, relaxedSimd);
    this.way = way;
  }

  emit(): void {
    const { frame } = this;
    frame.measure();
    const passes = busyPasses(this.plan);
    if (this.way.order === "ahead") this.ahead(passes);
    else if (this.way.order === "twos") frame.byTwos((rows) => this.rows(passes, rows));
    else frame.forEachUnit(() => this.rows(passes, [0]));
  }

  /** Takes rows through each pass one after the other. */
  private rows(passes: readonly Pass[], rows: readonly number[]): void {
    this.values.beginRows();
    for (const pass of passes) {
      // no fold ends before the next row's loop, which the processor begins while it waits here
      for (const walk of rows.map((row) => this.loop(this.open(pass, row)))) this.finish(walk);
    }
    for (const row of rows) this.storeRowOf(row);
  }

  /** Takes each row through its last pass while the next one goes through its first. */
  private ahead(passes: readonly Pass[]): void {
    const { frame, values } = this;
    const [first, last] = [passes[0]!, passes.at(-1)!];
    /** What the last pass needs of its row, while the next row is computed. */
    const carried = new Map(last.hoisted.map((register) => [register, this.f.local("v128")]));
    const between = () => {
      for (const pass of passes.slice(1, -1)) this.finish(this.loop(this.open(pass, 1)));
      this.storeRowOf(1);
      const results = [...carried].map(([register, local]) => [local, values.get(register).local] as const);
      for (const [local, result] of results) this.f.set(local, result);
    };
    const begin = () => {
      values.beginRows();
      this.at(0);
      for (const [register, local] of carried) values.set(register, { dtype: this.program.instructions[register]!.dtype, local });
    };
    frame.overlapped({
      first: () => {
        values.beginRows();
        this.finish(this.loop(this.open(first, 1)));
        between();
      },
      both: () => {
        begin();
        const ahead = this.open(first, 1);
        // values that the first pass keeps replace those of the row behind just when they have been read
        this.loop(this.open(last, 0), ahead);
        this.finish(ahead);
        between();
      },
      last: () => {
        begin();
        this.loop(this.open(last, 0));
      },
    });
  }

  /** Turns to a row. */
  private at(row: number): void {
    this.values.row = row;
    this.frame.unit = row;
  }

  private open(pass: Pass, row: number): Walk {
    const { frame, plan, program, values } = this;
    this.at(row);
    for (const register of pass.hoisted) values.get(register);
    const cursors = new Map<number, Cursor>();
    for (const register of pass.computed) {
      const one = program.instructions[register]!;
      if ((one.kind === "load" || one.kind === "index") && !cursors.has(one.slot)) cursors.set(one.slot, frame.open(one.slot));
    }
    const before = this.way.order === "twos" ? row * plan.kept.size : 0;
    return {
      pass,
      row,
      cursors,
      stores: pass.stores.map(({ register, slot }) => ({ ...frame.open(slot), register })),
      kept: [...pass.kept, ...pass.restored].map((register) => ({
        register,
        restored: pass.restored.has(register),
        pointer: frame.scratchRow(before + plan.kept.get(register)!),
      })),
      parts: Array.from({ length: unrollOf(program, pass) }, () => pass.folds.map((fold) => this.folds.begin(fold, false))),
    };
  }

  /** Emits the loop that takes all walks over their rows. @returns the first of them */
  private loop(...walks: readonly [Walk, ...Walk[]]): Walk {
    const { f } = this;
    const passes = walks.map(({ pass }) => pass);
    const vectors = roundOf(this.program, passes, this.way.step);
    const moved = walks.flatMap(({ cursors, stores, kept }) => [
      ...[...cursors.values(), ...stores].map(({ pointer, step }) => ({ pointer, step })),
      ...kept.map(({ pointer }) => ({ pointer, step: 16 as Expression })),
    ]);
    const round = () => {
      // what folds comes last: V8 moves folds behind all writes, and what they read would have to wait in registers
      for (const walk of walks) for (let start = 0; start < vectors; start += walk.parts.length) this.group(walk, start);
      for (const { pointer, step } of moved)
        f.increment(pointer, typeof step === "number" ? vectors * step : ["i32.mul", step, vectors]);
    };
    const along = moved.find(({ step }) => typeof step === "number");
    if (along) {
      // where a row ends ends the loop: a counter would be one more variable, and there are few registers
      const { pointer, step } = along;
      const end = f.local("i32", ["i32.add", pointer, ["i32.mul", this.frame.count, (step as number) / 4]]);
      f.loop((again) => {
        round();
        f.brIf(again, ["i32.ne", pointer, end]);
      });
    } else f.repeat(["i32.shr_u", this.frame.count, 2 + Math.log2(vectors)], round);
    return walks[0];
  }

  /** Emits what a walk does to the neighbouring vectors from number `start` on. */
  private group(walk: Walk, start: number): void {
    const { values, simd } = this;
    const { pass, parts, stores, kept } = walk;
    this.walk = walk;
    this.at(walk.row);
    values.begin();
    values.inLoop = true;
    const each = (run: (copy: number, accumulators: readonly Accumulator[]) => void) => {
      for (const [i, accumulators] of parts.entries()) {
        values.copy = start + i;
        run(values.copy, accumulators);
      }
    };
    // all reads first, all writes last: V8 then mixes the copies' instructions, so that the processor sees several chains at a time
    each(() => {
      for (const register of [...pass.restored, ...pass.computed])
        if (pass.restored.has(register) || this.program.instructions[register]!.kind === "load") values.get(register);
    });
    each((copy, accumulators) => {
      for (const accumulator of accumulators) this.folds.takeFrom(values, accumulator, null);
      // all are known before one is written: an output may lie where an input was
      const results = stores.map(({ register }) => values.get(register));
      for (const [i, cursor] of stores.entries()) this.access.store(cursor, copy, results[i]!);
      for (const { register, restored, pointer } of kept)
        if (!restored) simd.math.store(pointer, values.get(register).local, 16 * copy);
    });
    values.inLoop = false;
  }

  /** Ends the folds of a walk. */
  private finish({ pass, row, parts }: Walk): void {
    this.at(row);
    this.endFolds(pass, parts);
  }

  private storeRowOf(row: number): void {
    this.at(row);
    this.storeRow();
  }

  protected load(register: Register, slot: number): Vector {
    const { plan, program, frame, values } = this;
    if (plan.places[register] === "row") return this.access.loadSame(program.slots[slot]!, frame.pointers[slot]!, []);
    return this.access.load(this.walk!.cursors.get(slot)!, values.copy);
  }

  protected restore(register: Register): Vector | null {
    if (!this.values.inLoop) return null;
    const place = this.walk!.kept.find((candidate) => candidate.restored && candidate.register === register);
    if (!place) return null;
    const local: Local<"v128"> = this.simd.math.load(place.pointer, 16 * this.values.copy);
    return { dtype: this.program.instructions[register]!.dtype, local };
  }
}
