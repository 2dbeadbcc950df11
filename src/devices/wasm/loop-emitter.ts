/**
 * Emits one wasm function for a loop program: the loops over the inner axis. The loop around them, over outer indices, is
 * `loop-frame.ts`; the arithmetic is `loop-values.ts`.
 *
 * The inner axis goes four elements at a time. Its last, partial vector runs through the same code as the others, so that an
 * element's bits never depend on where it stands: stores go to a patch of scratch memory from which the valid elements are
 * copied, folds take in the valid lanes only, and strided reads stay at the first lane's address.
 */
import { DTypeError } from "../../errors.ts";
import type { LoopProgram, Register, Store } from "../loop-program.ts";
import { type Local, ModuleBuilder } from "./assembler.ts";
import type { Cursor, I32 } from "./cursor.ts";
import type { Accumulator } from "./folds.ts";
import type { Vector } from "./lanes.ts";
import { type ArgumentLayout, layoutArguments } from "./loop-arguments.ts";
import { Bands } from "./loop-bands.ts";
import { LoopCode } from "./loop-code.ts";
import { LoopFrame, lanePositions } from "./loop-frame.ts";
import { busyPasses, isIrregular, type LoopPlan, type Pass, planLoop, unrollOf, type WholeRows } from "./loop-plan.ts";
import { WholeRowsEmitter } from "./whole-rows.ts";

/** What the code may use, and where its data lies. */
export interface EmitOptions {
  readonly shared: boolean;
  readonly maximumPages: number;
  readonly relaxedSimd: boolean;
  /** Code for inner axes of exactly so many whole vectors, `vectorsOf` says when: no loop over them. */
  readonly vectors?: number | null;
  /** Code for long rows whose columns are folded, `inBandsOf` says when. */
  readonly inBands?: boolean;
  /** Code for rows that end with a whole step: `wholeRowsOf` says when. */
  readonly wholeRows?: WholeRows | null;
}

/** What is known of a loop program before sizes are: all of its code, whichever form, goes by it. */
export interface PlannedLoop {
  readonly plan: LoopPlan;
  readonly layout: ArgumentLayout;
}

/** @throws {DTypeError} for float64 */
export function plannedLoop(program: LoopProgram): PlannedLoop {
  for (const { dtype } of [...program.instructions, ...program.slots])
    if (dtype === "float64")
      throw new DTypeError("float64 runs on the reference device only.", {
        operation: "wasm",
        got: dtype,
        hint: 'Use x.cast("float32"), or device "reference".',
      });
  const plan = planLoop(program);
  return { plan, layout: layoutArguments(program, plan) };
}

/** A module that exports the function as `kernel`. */
export function emitLoop(program: LoopProgram, { plan, layout }: PlannedLoop, options: EmitOptions): Uint8Array<ArrayBuffer> {
  const module = new ModuleBuilder({ shared: options.shared, maximumPages: options.maximumPages });
  const kernel = module.function("kernel", ["i32", "i32", "i32"]);
  const { wholeRows, relaxedSimd } = options;
  // rows that go by twos are short: the way through scratch would cost more than the registers gain
  const isWalkInScratch = wholeRows ? wholeRows.order !== "twos" : false;
  const frame = new LoopFrame(kernel, program, plan, layout, isWalkInScratch);
  if (wholeRows) new WholeRowsEmitter(frame, relaxedSimd, wholeRows).emit();
  else new LoopEmitter(frame, options).emit();
  return module.bytes();
}

/** A store while a loop is emitted. */
interface StoreCursor extends Cursor {
  readonly store: Store;
  readonly patch: number;
  /** Where the last, partial vector belongs. */
  readonly saved: I32;
}

/** A walk through a kept row. */
interface KeptCursor {
  readonly register: Register;
  readonly restored: boolean;
  readonly pointer: I32;
}

class LoopEmitter extends LoopCode {
  private readonly vectors: number | null;
  private readonly bands: Bands | null;
  /** Lanes of the vector at hand that exist. */
  private readonly valid: Local<"v128">;
  /** Slots as they are walked at the moment, by slot number. */
  private cursors = new Map<number, Cursor>();
  private keptCursors: KeptCursor[] = [];

  constructor(frame: LoopFrame, { relaxedSimd, vectors, inBands }: EmitOptions) {
    super(frame, relaxedSimd);
    this.vectors = vectors ?? null;
    this.valid = this.f.local("v128");
    this.bands = inBands ? new Bands(frame, this.simd) : null;
  }

  emit(): void {
    this.frame.forEachUnit(() => {
      if (this.vectors === null) this.frame.measure();
      if (this.program.shape === "rows") this.rows();
      else this.columns();
    });
  }

  // --- rows form

  private rows(): void {
    const { values, plan } = this;
    values.beginRows();
    for (const pass of busyPasses(plan)) {
      for (const register of pass.hoisted) values.get(register);
      this.endFolds(pass, this.pass(pass));
    }
    this.storeRow();
  }

  /** @returns accumulators by vector and fold */
  private pass(pass: Pass): Accumulator[][] {
    const { values } = this;
    const unroll = this.vectors ?? unrollOf(this.program, pass);
    const parts = Array.from({ length: unroll }, () => pass.folds.map((fold) => this.folds.begin(fold)));
    const stores = this.openStores(pass.stores);
    this.openLoads(pass);
    this.openKept(pass);
    this.vectorLoop(unroll > 1 ? [unroll] : [], stores, parts.flat(), (copies, valid) => {
      values.begin();
      // all reads first, all writes last: V8 then mixes the copies' instructions, so that the processor sees several chains at a time
      this.forEachCopy(copies, () => {
        for (const register of [...pass.restored, ...pass.computed]) if (this.isRead(register)) values.get(register);
      });
      this.forEachCopy(copies, (copy) => {
        for (const accumulator of parts[copy]!) this.folds.takeFrom(values, accumulator, valid);
        this.store(stores, copy);
        for (const { register, restored, pointer } of this.keptCursors)
          if (!restored) this.simd.math.store(pointer, values.get(register).local, 16 * copy);
      });
    });
    this.cursors = new Map();
    this.keptCursors = [];
    return parts;
  }

  private isRead(register: Register): boolean {
    return (
      this.program.instructions[register]!.kind === "load" ||
      this.keptCursors.some((kept) => kept.restored && kept.register === register)
    );
  }

  // --- columns form

  private columns(): void {
    const { values, f } = this;
    const [body, after] = this.plan.passes as [Pass, Pass];
    const irregular = [...body.computed].some(
      (register) => this.plan.places[register] === "body" && isIrregular(this.program, register),
    );
    // a column's sum waits for itself: neighbours fill the time, and whole cache lines are used at once
    const unroll = irregular || body.cost > 20 ? [] : body.cost > 8 ? [2] : body.cost > 3 ? [4] : [8, 2];
    const stores = this.openStores(after.stores);
    this.openLoads(after);
    if (this.bands) {
      this.inBands(this.bands, stores);
      return;
    }
    this.openLoads(body);
    const columns = this.cursors;
    this.vectorLoop(unroll, stores, [], (copies) => {
      values.begin();
      const each = (run: (copy: number) => void) => this.forEachCopy(copies, run);
      each(() => {
        for (const register of body.hoisted) values.get(register);
      });
      const parts = Array.from({ length: copies }, () => body.folds.map((fold) => this.folds.begin(fold)));
      // the body's slots walk from the column's top
      this.cursors = new Map(columns);
      const walked: [number, I32][] = [];
      for (const register of body.computed) {
        const instruction = this.program.instructions[register]!;
        if (instruction.kind !== "load" && instruction.kind !== "index") continue;
        const { slot } = instruction;
        if (walked.some(([known]) => known === slot)) continue;
        const pointer = f.local("i32", columns.get(slot)!.pointer);
        this.cursors.set(slot, { ...columns.get(slot)!, pointer });
        walked.push([slot, pointer]);
      }
      this.frame.overReduced(walked, (count, advance) => {
        this.folds.inBlocks(count, parts.flat(), () => {
          each((copy) => {
            for (const accumulator of parts[copy]!) this.folds.takeFrom(values, accumulator, null);
          });
          advance();
        });
      });
      this.cursors = columns;
      each((copy) => {
        for (const accumulator of parts[copy]!) values.set(accumulator.fold.register, this.folds.finish(accumulator));
        this.store(stores, copy);
      });
    });
    this.cursors = new Map();
  }

  /** What follows the folds, which lie in scratch memory by then. */
  private inBands(bands: Bands, stores: readonly StoreCursor[]): void {
    const folded = bands.fold((row) => this.frame.scratchRow(row));
    this.keptCursors = [...folded].map(([register, start]) => ({
      register,
      restored: true,
      pointer: this.f.local("i32", start),
    }));
    this.vectorLoop([], stores, [], () => {
      this.values.begin();
      this.store(stores, 0);
    });
    this.cursors = new Map();
    this.keptCursors = [];
  }

  // --- loops over the inner axis

  private forEachCopy(copies: number, run: (copy: number) => void): void {
    for (let copy = 0; copy < copies; copy++) {
      this.values.copy = copy;
      run(copy);
    }
  }

  /** Emits `group` for vectors in groups of the sizes in `unroll`, then one at a time, the last one perhaps partial. */
  private vectorLoop(
    unroll: readonly number[],
    stores: readonly StoreCursor[],
    parts: readonly Accumulator[],
    group: (copies: number, valid: Local<"v128"> | null) => void,
  ): void {
    if (this.vectors !== null) {
      group(this.vectors, null);
      return;
    }
    const masked = parts.length > 0;
    const { f, simd } = this;
    const { count, scratch } = this.frame;
    const cursors = [...this.cursors.values(), ...stores];
    const indices = new Set(cursors.flatMap(({ bounds }) => (bounds ? [bounds.index] : [])));
    const run = (copies: number, valid: Local<"v128"> | null) => {
      this.values.inLoop = true;
      group(copies, valid);
      this.values.inLoop = false;
      for (const { pointer, step } of cursors)
        f.increment(pointer, typeof step === "number" ? copies * step : copies === 1 ? step : ["i32.mul", step, copies]);
      for (const { pointer } of this.keptCursors) f.increment(pointer, 16 * copies);
      for (const index of indices) f.increment(index, 4 * copies);
    };
    const left = f.local("i32", ["i32.shr_u", count, 2]);
    for (const copies of unroll) {
      this.folds.inBlocks(f.local("i32", ["i32.shr_u", left, Math.log2(copies)]), parts, () => run(copies, null));
      f.set(left, ["i32.and", left, copies - 1]);
    }
    const pending = f.local("i32", ["i32.and", count, 3]);
    if (masked) f.set(this.valid, simd.math.i32(-1));
    f.block((done) => {
      f.loop((again) => {
        this.folds.inBlocks(left, parts, () => run(1, masked ? this.valid : null));
        f.brIf(done, ["i32.eqz", pending]);
        f.set(left, 1);
        if (masked) f.set(this.valid, ["i32x4.lt_s", lanePositions(f), ["i32x4.splat", pending]]);
        for (const lanes of new Set(cursors.map((cursor) => cursor.lanes)))
          lanes?.forEach((lane, i) => {
            f.set(lane, ["select", lane, 0, ["i32.gt_s", pending, i + 1]]);
          });
        for (const { lanes, saved, pointer, patch } of stores)
          if (!lanes) f.set(saved, pointer).set(pointer, ["i32.add", scratch, patch]);
        f.set(pending, 0);
        f.br(again);
      });
    });
    const units = stores.filter(({ lanes }) => !lanes);
    if (units.length === 0) return;
    f.set(pending, ["i32.and", count, 3]);
    f.if(pending, () => {
      for (const { slot, saved, patch } of units) this.access.copyFew(slot, saved, ["i32.add", scratch, patch], pending);
    });
  }

  /** Writes one vector of every store, when all are known: an output may lie where an input was. */
  private store(stores: readonly StoreCursor[], copy: number): void {
    const values = stores.map(({ store }) => this.values.get(store.register));
    stores.forEach((cursor, i) => {
      this.access.store(cursor, copy, values[i]!);
    });
  }

  private openLoads(pass: Pass): void {
    for (const register of pass.computed) {
      const instruction = this.program.instructions[register]!;
      if ((instruction.kind === "load" || instruction.kind === "index") && !this.cursors.has(instruction.slot))
        this.cursors.set(instruction.slot, this.frame.open(instruction.slot));
    }
  }

  private openStores(stores: readonly Store[]): StoreCursor[] {
    return stores.map((store) => ({
      ...this.frame.open(store.slot),
      store,
      patch: 16 * this.program.stores.indexOf(store),
      saved: this.f.local("i32"),
    }));
  }

  private openKept(pass: Pass): void {
    const { kept } = this.plan;
    this.keptCursors = [...pass.kept, ...pass.restored].map((register) => ({
      register,
      restored: pass.restored.has(register),
      pointer: this.frame.scratchRow(kept.get(register)!),
    }));
  }

  // --- reads

  protected load(register: Register, slot: number): Vector {
    const place = this.plan.places[register];
    if (place === "row")
      return this.access.loadSame(this.program.slots[slot]!, this.frame.pointers[slot]!, this.frame.guards(slot));
    const cursor = this.cursors.get(slot)!;
    if (place === "uniform") return this.access.loadSame(cursor.slot, cursor.pointer, cursor.guards);
    return this.access.load(cursor, this.values.copy);
  }

  protected restore(register: Register): Vector | null {
    const cursor = this.keptCursors.find((candidate) => candidate.restored && candidate.register === register);
    if (!cursor) return null;
    return {
      dtype: this.program.instructions[register]!.dtype,
      local: this.simd.math.load(cursor.pointer, 16 * this.values.copy),
    };
  }
}
