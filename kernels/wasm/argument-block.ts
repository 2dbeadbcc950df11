/** The argument block of a kernel: 32-bit words by name, which the host writes and a task reads. */
import { type Expression, type FunctionBuilder, type Local, load } from "../../src/devices/wasm/assembler.ts";

/** A local of 32 bits. */
export type Integer = Local<"i32">;
/** A function (task, args, thread) → (), see `pool.ts`. */
export type KernelBuilder = FunctionBuilder<readonly ["i32", "i32", "i32"]>;

/** The number of each word, in the order of the names. */
export const numbered = <Name extends string>(...names: Name[]): Readonly<Record<Name, number>> =>
  Object.fromEntries(names.map((name, i) => [name, i])) as Record<Name, number>;

/** A block with these values. */
export const blockOf = <Name extends string>(
  argument: Readonly<Record<Name, number>>,
  values: Readonly<Record<NoInfer<Name>, number>>,
): Int32Array => Int32Array.from(Object.keys(argument), (name) => values[name as Name]);

/** What the code of a task reads its arguments with. */
export function beginKernel(f: KernelBuilder) {
  const [task, args, thread] = f.params;
  const integer = (value: Expression = 0): Integer => f.local("i32", value);
  const word = (index: number): Expression => load("i32.load", args, 4 * index);
  /** `rest` mod size, leaving ⌊rest / size⌋ in `rest`. */
  const digit = (rest: Integer, size: Expression): Integer => {
    const divisor = integer(size);
    const value = integer(["i32.rem_u", rest, divisor]);
    f.set(rest, ["i32.div_u", rest, divisor]);
    return value;
  };
  return { task, args, thread, integer, word, digit };
}

/** The smaller of two integers, signed. Both are evaluated twice, so they should be locals or numbers. */
export const smaller = (x: Integer | number, y: Integer | number): Expression => ["select", x, y, ["i32.lt_s", x, y]];
