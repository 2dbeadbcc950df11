/** How far off a register of a loop program may be: bounds that follow from its instruction and from the registers that go into it. */
import type { Instruction } from "../../src/devices/loop-program.ts";
import { type DType, isFloat } from "../../src/graph/dtype.ts";

/** What is known of a register: a bound of its magnitude, its binary digits after the point, a bound of its error. */
export interface Facts {
  readonly magnitude: number;
  readonly digits: number;
  /** 0: computed exactly in float32, so that steps and comparisons cannot go either way. */
  readonly error: number;
}

/** Size of a rounding, relative to the value. */
export const unit: Partial<Record<DType, number>> = { float32: 2 ** -23, float16: 2 ** -10, bfloat16: 2 ** -7 };

/**
 * What is known of the value of an instruction.
 *
 * @param before  the instructions before it
 * @param known   what is known of those
 * @param reduced values that a reduction takes together
 */
export function factsOf(
  instruction: Instruction,
  before: readonly Instruction[],
  known: readonly Facts[],
  reduced: number,
): Facts {
  const { dtype } = instruction;
  if (instruction.kind === "constant") return { magnitude: Math.abs(instruction.value), digits: 2, error: 0 };
  if (instruction.kind === "index") return { magnitude: 2 ** 20, digits: 0, error: 0 };
  if (instruction.kind === "load") return { magnitude: isFloat(dtype) ? 4 : 256, digits: 3, error: 0 };
  const args = (instruction.kind === "apply" ? instruction.args : [instruction.arg]).map((arg) => known[arg]!);
  const from = before[instruction.kind === "apply" ? instruction.args[0]! : instruction.arg]!.dtype;
  const [x, y, z] = args as [Facts, Facts, Facts];
  const rounded = ({ magnitude, digits, error }: Facts): Facts => {
    if (!isFloat(dtype)) return { magnitude, digits: 0, error: 0 };
    // a 16-bit float rounds what is exact the same way everywhere
    const exact = error === 0 && (dtype !== "float32" || Math.log2(magnitude) + digits < 23);
    return { magnitude, digits, error: exact ? 0 : error + unit[dtype]! * magnitude };
  };
  const wider = {
    magnitude: Math.max(...args.map((a) => a.magnitude)),
    digits: Math.max(...args.map((a) => a.digits)),
    error: Math.max(...args.map((a) => a.error)),
  };
  const smooth = (error: number, magnitude: number): Facts => ({ magnitude, digits: 40, error: error + 2e-6 * magnitude });
  if (instruction.kind === "reduce") {
    if (instruction.op.name === "maxReduce") return { ...x, error: x.error };
    return rounded({
      magnitude: x.magnitude * reduced,
      digits: x.digits,
      error: x.error === 0 ? 0 : reduced * x.error + reduced * 1e-7 * x.magnitude * reduced,
    });
  }
  switch (instruction.op.name) {
    case "add":
      return rounded({ magnitude: x.magnitude + y.magnitude, digits: wider.digits, error: x.error + y.error });
    case "mul":
      return rounded({
        magnitude: x.magnitude * y.magnitude,
        digits: x.digits + y.digits,
        error: x.error * y.magnitude + y.error * x.magnitude,
      });
    case "tanh":
    case "sin":
    case "erf":
      return smooth(1.2 * x.error, 1);
    case "exp":
      return smooth(3 * x.error, 3);
    case "sqrt":
      return smooth(x.error, Math.sqrt(x.magnitude));
    case "recip":
      return smooth(x.error, 1);
    case "where":
      return {
        magnitude: Math.max(y.magnitude, z.magnitude),
        digits: Math.max(y.digits, z.digits),
        error: Math.max(y.error, z.error),
      };
    case "less":
    case "equal":
      return { magnitude: 1, digits: 0, error: 0 };
    case "shiftLeft":
    case "shiftRight":
    case "bitcast":
      return { magnitude: 2 ** 31, digits: 0, error: 0 };
    case "cast":
      return dtype === "uint8" || dtype === "bool"
        ? { magnitude: 256, digits: 0, error: 0 }
        : isFloat(from)
          ? rounded(wider)
          : rounded({ ...wider, digits: 0 });
    default:
      return wider;
  }
}
