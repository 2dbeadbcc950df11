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

/** The variables that stand for a register. */
export type Value = Single | Limbs;

/** A value that is one float, in the variable `name`. */
export const single = (name: string): Single => ({ kind: "single", name });

/** Indices of an axis at which there are elements: from ≤ index < to. */
export interface Bound {
  readonly index: string;
  readonly from: number;
  readonly to: number;
  /** Whether the axis is the inner one, along which a shader may compute several elements at once. */
  readonly isInner: boolean;
}

/** Whole numbers below this are split by a product that needs no mending. */
export const fewEnough = 2 ** 20;

/**
 * 1 / n without an exponent: GPU.js writes it as it stands, and not every language takes one. Where whole numbers below `fewEnough` are
 * split, x + ½ keeps the product away from whole quotients by more than it is wrong by.
 */
export const inverseText = (n: number): string => (1 / n).toFixed(24).replace(/0+$/, "");

/**
 * The statements of a kernel, the functions it calls and the numbers it takes as arguments, in the JavaScript of GPU.js: all variables
 * are floats, addresses too. `WgslCode` writes the same for shaders of ours.
 */
export class Code {
  readonly lines: string[] = [];
  readonly functions = new Set<string>();
  /** Numbers that GPU.js cannot be trusted to print as literals, by the name of their argument. */
  readonly numbers = new Map<string, number>();
  protected next = 0;

  line(text: string): void {
    this.lines.push(text);
  }

  /** A new variable with that value. */
  let(expression: string): string {
    const name = `v${this.next++}`;
    this.lines.push(`let ${name} = ${expression};`);
    return name;
  }

  /** A new variable that holds a whole number, an index or an address, made of such. */
  index(expression: string): string {
    return this.let(expression);
  }

  /** A new variable for the part of addresses that is the same along a row. */
  base(expression: string): string {
    return this.index(expression);
  }

  /** An index or address of the element as a number to compute with; the next one's along the inner axis is larger by `stride`. */
  number(index: string, _stride: number): string {
    return index;
  }

  /** A new variable to fold into, which starts at `expression`. */
  accumulator(expression: string): string {
    return this.let(expression);
  }

  assign(name: string, expression: string): void {
    this.line(`${name} = ${expression};`);
  }

  /** Assigns where all conditions hold. They are asked one after the other: the first should be the rarest. */
  update(name: string, conditions: readonly string[], expression: string): void {
    const tests = conditions.map((condition) => `if (${condition}) { `);
    this.line(`${tests.join("")}${name} = ${expression};${" }".repeat(tests.length)}`);
  }

  /**
   * A new variable with the float at `address` of an array, 0 outside of the bounds.
   *
   * @param _stride distance in floats to that of the next element along the inner axis
   */
  read(array: string, address: string, bounds: readonly Bound[], _stride: number): string {
    if (!bounds.length) return this.let(`${array}[${address}]`);
    const inside = bounds.map(({ index, from, to }) => `${index} >= ${from} && ${index} < ${to}`).join(" && ");
    return this.choose(inside, `${array}[${address}]`, "0");
  }

  /** Splits an index, a whole number below `most`, into x / n and x mod n, by a product that is mended where it may be wrong. */
  split(x: string, n: number, most: number): [quotient: string, rest: string] {
    if (n === 1) return [x, "0"];
    const isSmall = most <= fewEnough;
    const quotient = this.let(`Math.floor(${isSmall ? `(${x} + 0.5)` : x} * ${inverseText(n)})`);
    const rest = this.let(`${x} - ${quotient} * ${n}`);
    if (!isSmall) {
      this.line(`if (${rest} < 0) { ${quotient} = ${quotient} - 1; ${rest} = ${rest} + ${n}; }`);
      this.line(`if (${rest} >= ${n}) { ${quotient} = ${quotient} + 1; ${rest} = ${rest} - ${n}; }`);
    }
    return [quotient, rest];
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
