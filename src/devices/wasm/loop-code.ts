/** What the code of a loop program needs, whichever way its loops go: how its values are read, folded and written. */
import type { LoopProgram, Register } from "../loop-program.ts";
import type { FunctionBuilder } from "./assembler.ts";
import { SlotAccess } from "./cursor.ts";
import { type Accumulator, Folds } from "./folds.ts";
import { LaneMath, type Vector } from "./lanes.ts";
import type { LoopFrame } from "./loop-frame.ts";
import type { LoopPlan, Pass } from "./loop-plan.ts";
import { LoopValues } from "./loop-values.ts";

/** The code of one loop program, in whichever of the ways its loops go. */
export abstract class LoopCode {
  protected readonly frame: LoopFrame;
  protected readonly f: FunctionBuilder;
  protected readonly program: LoopProgram;
  protected readonly plan: LoopPlan;
  protected readonly simd: LaneMath;
  protected readonly folds: Folds;
  protected readonly access: SlotAccess;
  protected readonly values: LoopValues;

  constructor(frame: LoopFrame, relaxedSimd: boolean) {
    const { f, program, plan } = frame;
    this.frame = frame;
    this.f = f;
    this.program = program;
    this.plan = plan;
    this.simd = new LaneMath(f, relaxedSimd);
    this.folds = new Folds(this.simd);
    this.access = new SlotAccess(f, this.simd);
    this.values = new LoopValues(program, plan, this.simd, {
      load: (register, slot) => this.load(register, slot),
      restore: (register) => this.restore(register),
    });
  }

  abstract emit(): void;

  /** Reads a value of the row, or of the vector at hand. */
  protected abstract load(register: Register, slot: number): Vector;

  /** What an earlier pass has left of the vector at hand, if it has. */
  protected abstract restore(register: Register): Vector | null;

  /** Ends the folds of a row. @param parts by vector and fold */
  protected endFolds({ folds }: Pass, parts: readonly (readonly Accumulator[])[]): void {
    folds.forEach((fold, i) => {
      this.values.set(fold.register, this.folds.finishAcross(parts.map((accumulators) => accumulators[i]!)));
    });
  }

  /** Writes what there is once a row; all is known before one is written. */
  protected storeRow(): void {
    const { program, plan, frame } = this;
    const results = plan.rowStores.map(({ register }) => this.values.get(register));
    for (const [i, { slot }] of plan.rowStores.entries())
      this.access.storeSame(program.slots[slot]!, frame.pointers[slot]!, results[i]!);
  }
}
