/**
 * Writing the body of a GPU.js kernel. Registers are floats; an int32 is two of them, its upper and its lower 16 bits as
 * whole numbers 0…65535: a float32 holds whole numbers exactly only up to 2²⁴, and on most of GPU.js's backends there is
 * nothing else to hold a number in, neither in a kernel nor in memory.
 */

/** A float, or a whole number of at most 8 bits: the name of a variable. */
export interface Single {
  readonly kind: "single";
  readonly name: string;
}

/** An int32 as two variables. */
export interface Limbs {
  readonly kind: "limbs";
  readonly high: string;
  readonly low: string;
}

export type Value = Single | Limbs;

export const single = (name: string): Single => ({ kind: "single", name });

/** The statements of a kernel, the functions it calls and the numbers it takes as arguments. */
export class Code {
  readonly lines: string[] = [];
  readonly functions = new Set<string>();
  /** Numbers that GPU.js cannot be trusted to print as literals, by the name of their argument. */
  readonly numbers = new Map<string, number>();
  private next = 0;

  line(text: string): void {
    this.lines.push(text);
  }

  /** A new variable with that value. */
  let(expression: string): string {
    const name = `v${this.next++}`;
    this.lines.push(`let ${name} = ${expression};`);
    return name;
  }

  /** A new variable: `expression` where the condition holds, else `otherwise`. */
  choose(condition: string, expression: string, otherwise: string): string {
    const name = this.let(otherwise);
    this.line(`if (${condition}) { ${name} = ${expression}; }`);
    return name;
  }

  /** A call of a function in kernels/gpu/math.ts. */
  call(name: string, ...args: string[]): string {
    this.functions.add(name);
    return this.let(`${name}(${args.join(", ")})`);
  }

  /** A number as float32 has it. What has no short literal (infinities, NaN, long exponents) becomes an argument. */
  literal(value: number): string {
    const rounded = Math.fround(value);
    const text = String(rounded);
    if (Object.is(rounded, -0)) return "0";
    if (Number.isFinite(rounded) && !text.includes("e")) return rounded < 0 ? `(${text})` : text;
    for (const [name, known] of this.numbers) if (Object.is(known, rounded)) return name;
    const name = `n${this.numbers.size}`;
    this.numbers.set(name, rounded);
    return name;
  }
}
