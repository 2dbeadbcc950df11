/** The registers of a loop program while code is emitted: each is computed where it is first asked for, once per scope. */
import type { Instruction, LoopProgram, Register } from "../loop-program.ts";
import type { LaneMath, Vector } from "./lanes.ts";
import type { LoopPlan } from "./loop-plan.ts";

/** Reads of memory, which the loop around decides. */
export interface Reader {
  load(register: Register, slot: number): Vector;
  /** What an earlier pass has kept. */
  restore(register: Register): Vector | null;
}

type Instructions = LoopProgram["instructions"];

/** What an instruction makes of its arguments. */
export function applied(
  simd: LaneMath,
  instructions: Instructions,
  { op, args, dtype }: Extract<Instruction, { kind: "apply" }>,
  values: readonly Vector[],
): Vector {
  if (op.name === "exp" && isBelowMaximum(instructions, args[0]!)) return simd.expBelowZero(values[0]!);
  return op.wasm(simd, values, dtype) as Vector;
}

/**
 * Whether a register is x less the maximum of all x, as in softmax and ln Σ eˣ; the maximum may be replaced by 0 where it is −∞. Then it is
 * not above 0, or NaN is among the x.
 */
function isBelowMaximum(instructions: Instructions, register: Register): boolean {
  const argsOf = (register: Register, name: string): readonly Register[] | null => {
    const one = instructions[register]!;
    return one.kind === "apply" && one.op.name === name ? one.args : null;
  };
  const isConstant = (register: Register, value: number) => {
    const one = instructions[register]!;
    return one.kind === "constant" && Object.is(one.value, value);
  };
  const isMaximum = (register: Register, x: Register): boolean => {
    const one = instructions[register]!;
    if (one.kind === "reduce") return one.op.name === "maxReduce" && one.arg === x;
    const [condition, maximum, otherwise] = argsOf(register, "where") ?? [];
    if (condition === undefined || !isMaximum(maximum!, x) || !isConstant(otherwise!, 0)) return false;
    const [low, high] = argsOf(condition, "less") ?? [];
    return low !== undefined && isConstant(low, Number.NEGATIVE_INFINITY) && high === maximum;
  };
  const [x, y] = argsOf(register, "add") ?? [];
  const negated = y === undefined ? undefined : argsOf(y, "neg")?.[0];
  return negated !== undefined && isMaximum(negated, x!);
}

/** Where a value of a program is at the moment, computed when it is first asked for. */
export class LoopValues {
  private readonly program: LoopProgram;
  private readonly plan: LoopPlan;
  private readonly simd: LaneMath;
  private readonly reader: Reader;
  /** Values of the whole row, by row; of one vector of elements, by copy of the loop body; of all copies. */
  private rows: Map<Register, Vector>[] = [];
  private elements: Map<Register, Vector>[] = [];
  private uniforms = new Map<Register, Vector>();
  /** Which of the rows that are computed together is at hand. */
  row = 0;
  /** Which of the neighbouring vectors is being computed. */
  copy = 0;
  /** Set while a loop over the inner axis is emitted: whatever belongs to the row must be there by then. */
  inLoop = false;

  constructor(program: LoopProgram, plan: LoopPlan, simd: LaneMath, reader: Reader) {
    this.program = program;
    this.plan = plan;
    this.simd = simd;
    this.reader = reader;
  }

  /** Forgets all values: other rows follow. */
  beginRows(): void {
    this.rows = [];
    this.begin();
  }

  /** Forgets the values of the loop body before. */
  begin(): void {
    this.elements = [];
    this.uniforms = new Map();
  }

  set(register: Register, value: Vector): void {
    this.scope(register).set(register, value);
  }

  get(register: Register): Vector {
    const instruction = this.program.instructions[register]!;
    if (instruction.kind === "constant") return this.simd.constant(instruction.value, instruction.dtype);
    const known = this.scope(register).get(register);
    if (known) return known;
    const value = this.compute(register);
    this.set(register, value);
    return value;
  }

  /** The factors of a product that only `reader` needs, so that it can be part of a fused multiply-add. */
  factors(register: Register, reader: Register): readonly [Register, Register] | null {
    if (!this.simd.math.fused || this.program.instructions[register]!.dtype !== "float32") return null;
    return this.absorbed(register, "mul", reader) as [Register, Register] | null;
  }

  private scope(register: Register): Map<Register, Vector> {
    const place = this.plan.places[register];
    if (place === "row") return (this.rows[this.row] ??= new Map());
    if (place === "uniform") return this.uniforms;
    return (this.elements[this.copy] ??= new Map());
  }

  private compute(register: Register): Vector {
    if (this.inLoop && this.plan.places[register] === "row")
      throw new Error(`wasm: register ${register} was not computed before its loop.`);
    const restored = this.reader.restore(register);
    if (restored) return restored;
    const instruction = this.program.instructions[register]!;
    if (instruction.kind === "load" || instruction.kind === "index") return this.reader.load(register, instruction.slot);
    if (instruction.kind !== "apply") throw new Error(`wasm: register ${register} is read before it is folded.`);
    const { op, args, dtype } = instruction;
    const special =
      dtype === "int32" || args.length !== 2 ? null : this.contracted(register, op.name, args as [Register, Register]);
    if (special) return special;
    const values = args.map((arg) => this.get(arg));
    return applied(this.simd, this.program.instructions, instruction, values);
  }

  /** Sums and products whose argument is better made part of them: x − y, x / y, x · y + z. */
  private contracted(register: Register, name: string, [x, y]: readonly [Register, Register]): Vector | null {
    const { simd } = this;
    if (name !== "add" && name !== "mul") return null;
    for (const [other, arg] of [
      [x, y],
      [y, x],
    ] as const) {
      if (name === "mul") {
        const divisor = this.absorbed(arg, "recip", register)?.[0];
        if (divisor !== undefined) return simd.div(this.get(other), this.get(divisor));
        continue;
      }
      const subtrahend = this.absorbed(arg, "neg", register)?.[0];
      if (subtrahend !== undefined) {
        const product = this.factors(subtrahend, arg);
        if (product) return simd.nmadd(this.get(product[0]), this.get(product[1]), this.get(other));
        return simd.sub(this.get(other), this.get(subtrahend));
      }
    }
    if (name === "mul") return null;
    for (const [other, arg] of [
      [x, y],
      [y, x],
    ] as const) {
      const product = this.factors(arg, register);
      if (product) return simd.madd(this.get(product[0]), this.get(product[1]), this.get(other));
    }
    return null;
  }

  /** Arguments of `register` if it applies `name`, only `reader` needs it, and both are computed in the same place. */
  private absorbed(register: Register, name: string, reader: Register): readonly Register[] | null {
    const { plan, program } = this;
    const instruction = program.instructions[register]!;
    if (instruction.kind !== "apply" || instruction.op.name !== name || plan.uses[register] !== 1) return null;
    if (plan.kept.has(register)) return null;
    const place = plan.places[register];
    const inLoop = place === "element" || place === "body";
    return (program.instructions[reader]!.kind === "reduce" ? inLoop : plan.places[reader] === place) ? instruction.args : null;
  }
}
