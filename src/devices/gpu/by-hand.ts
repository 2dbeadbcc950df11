/**
 * Values of a loop program for which there are kernels by hand, in the modes that run functions of GPU.js. Kernels state what they compute
 * (kernels/gpu/rows.ts says how); a register is such a value where its instructions are those, whatever is around them and however long
 * rows are. What nobody has stated is rendered.
 */
import { normKernels } from "../../../kernels/gpu/norms.ts";
import { optimiserKernels } from "../../../kernels/gpu/optimiser.ts";
import { rowKernels } from "../../../kernels/gpu/rows.ts";
import type { Geometry, LoopProgram, Register, SlotGeometry } from "../loop-program.ts";
import { storedIn, valuesAt } from "./loop-source.ts";
import { type Argument, binding, kernel, type Pass, type Passes, pass } from "./plan.ts";

/** What a kernel states: an operation, an array, or a number that is given or chosen. */
type Term =
  | { readonly op: string; readonly args: readonly Term[] }
  | { readonly array: string; readonly walk: string; readonly dtype: string }
  | { readonly chosen: string }
  | { readonly number: number }
  | { readonly column: true };

/** Reads what a kernel states. */
function termOf(text: string): Term {
  const words = text.match(/\$?\w+(\[[^\]]*\](:\w+)?)?|-?(Infinity|[\d.]+)|[()]/g)!;
  let at = 0;
  const read = (): Term => {
    const word = words[at++]!;
    if (words[at] === "(") {
      const args: Term[] = [];
      for (at++; words[at] !== ")"; ) args.push(read());
      at++;
      return { op: word, args };
    }
    if (word === "column") return { column: true };
    if (word.startsWith("$")) return { chosen: word };
    const [, array, walk, , dtype = "float32"] = /^(\w+)\[(.*)\](:(\w+))?$/.exec(word) ?? [];
    return array === undefined ? { number: Number(word) } : { array, walk: walk!, dtype };
  };
  return read();
}

const folds = new Set(["sum", "maxReduce"]);

/** Whether a term has a value an element, and not one a row. */
const isOfElements = (term: Term): boolean =>
  "op" in term ? !folds.has(term.op) && term.args.some(isOfElements) : "array" in term && /^(rc|cr)$/.test(term.walk);

const stated = [...rowKernels, ...normKernels, ...optimiserKernels].map((each) => {
  const term = termOf(each.computes);
  return { ...each, term, level: isOfElements(term) ? "element" : "row" };
});

/** A kernel for a register: the registers and numbers that it reads. */
interface ByHand {
  readonly reads: readonly ({ readonly register: Register } | { readonly number: number })[];
  /** The pass, once it is known where those registers lie. */
  pass(args: readonly Argument[]): Pass;
}

/** Whether rows follow each other, each `row` long. */
function followRows({ outer, offset }: SlotGeometry, geometry: Geometry, row: number): boolean {
  let next = row;
  for (let axis = outer.length - 1; axis >= 0; axis--) {
    if (geometry.outer[axis] !== 1 && outer[axis] !== next) return false;
    next *= geometry.outer[axis]!;
  }
  return offset === 0;
}

/** Whether a slot walks over its array as a kernel does. */
function isWalked(at: SlotGeometry, geometry: Geometry, walk: string): boolean {
  const { inner } = geometry;
  const isSame = at.offset === 0 && at.outer.every((stride, axis) => stride === 0 || geometry.outer[axis] === 1);
  switch (walk) {
    case "rc":
      return (at.inner === 1 || inner === 1) && followRows(at, geometry, inner);
    case "cr":
      return at.offset === 0 && at.outer.length === 1 && at.outer[0] === 1 && at.inner === geometry.outer[0];
    case "r":
      return (at.inner === 0 || inner === 1) && followRows(at, geometry, 1);
    case "c":
      return (at.inner === 1 || inner === 1) && isSame;
    default:
      return (at.inner === 0 || inner === 1) && isSame;
  }
}

/**
 * The kernels for registers of a program.
 *
 * @param inputs arrays that one kernel may read
 * @param keeps  whether reading a value takes less than an exponential does
 */
export function byHand(program: LoopProgram, geometry: Geometry, inputs: number, keeps: boolean): ReadonlyMap<Register, ByHand> {
  const found = new Map<Register, ByHand>();
  const { instructions, slots } = program;
  const { inner: width } = geometry;
  if (program.shape !== "rows" || valuesAt("element", geometry) === 0) return found;
  const stores = new Set(storedIn(program));

  type Bound = Map<string, Register | number>;
  const bind = (bound: Bound, name: string, value: Register | number): boolean => {
    if (!bound.has(name)) bound.set(name, value);
    return Object.is(bound.get(name), value);
  };
  const isArray = (register: Register, walk: string, dtype: string): boolean => {
    const instruction = instructions[register]!;
    if (instruction.dtype !== dtype) return false;
    if (instruction.kind === "load") {
      const { masked } = slots[instruction.slot]!;
      return masked.length === 0 && isWalked(geometry.slots[instruction.slot]!, geometry, walk);
    }
    // what is written in the course of the program
    const level = walk === "rc" ? "element" : walk === "r" ? "row" : "";
    return instruction.level === level && (found.has(register) || stores.has(register));
  };
  const fits = (term: Term, register: Register, bound: Bound): boolean => {
    const instruction = instructions[register]!;
    if ("array" in term) return isArray(register, term.walk, term.dtype) && bind(bound, term.array, register);
    if ("chosen" in term) return instruction.kind === "constant" && bind(bound, term.chosen, instruction.value);
    if ("number" in term) return instruction.kind === "constant" && Object.is(instruction.value, term.number);
    if ("column" in term) {
      return (
        instruction.kind === "index" &&
        slots[instruction.slot]!.masked.length === 0 &&
        isWalked(geometry.slots[instruction.slot]!, geometry, "c")
      );
    }
    if (instruction.kind !== "apply" && instruction.kind !== "reduce") return false;
    const args = instruction.kind === "apply" ? instruction.args : [instruction.arg];
    return instruction.op.name === term.op && term.args.every((arg, i) => fits(arg, args[i]!, bound));
  };

  const uses = instructions.map(() => 0);
  for (const instruction of instructions)
    if (instruction.kind === "apply") for (const arg of instruction.args) uses[arg]!++;
    else if (instruction.kind === "reduce") uses[instruction.arg]!++;

  for (const made of stated)
    instructions.forEach(({ level, dtype }, register) => {
      const bound: Bound = new Map();
      // a row's number may be wanted once an element: a kernel has a thread for each of its own values
      if (
        dtype !== "float32" ||
        level !== made.level ||
        (made.isKept && !(keeps && uses[register]! > 1)) ||
        !fits(made.term, register, bound)
      )
        return;
      const reads = made.reads.split(" ").map((name) => {
        const value = bound.get(name);
        return value === undefined || name.startsWith("$") ? { number: value ?? Number(name) } : { register: value };
      });
      if (reads.filter((each) => "register" in each).length > inputs) return;
      const fours = Math.floor(width / 4);
      const constants = { rows: valuesAt("row", geometry), width, reciprocal: 1 / width, fours, rest: 4 * fours };
      const count = valuesAt(level, geometry);
      found.set(register, { reads, pass: (args) => kernel(made.kernel, constants, args, count) });
    });
  return found;
}

/**
 * Adds the kernels for what is stored, for what is the same along a row, and for what these read.
 *
 * @param kernels what `byHand` has found
 * @param known   values that lie in memory, by the pass that wrote them; those of the kernels come to it
 * @param written renders a value that a kernel reads
 */
export function takeByHand(
  program: LoopProgram,
  kernels: ReadonlyMap<Register, ByHand>,
  passes: Passes,
  known: Map<Register, number>,
  written: (register: Register) => number,
): void {
  const stored = storedIn(program);
  const seen = new Set<Register>();
  const placeOf = (register: Register): Argument => {
    const instruction = program.instructions[register]!;
    if (instruction.kind === "load") return binding(program.slots[instruction.slot]!.buffer);
    if (kernels.has(register)) take(register);
    else look(register);
    return pass(written(register));
  };
  const take = (register: Register): void => {
    if (known.has(register)) return;
    const { reads, pass } = kernels.get(register)!;
    const args = reads.map(
      (each): Argument => ("number" in each ? { kind: "number", value: each.number } : placeOf(each.register)),
    );
    known.set(register, passes.add(pass(args)));
  };
  const look = (register: Register): void => {
    if (seen.has(register) || known.has(register)) return;
    seen.add(register);
    const instruction = program.instructions[register]!;
    // an element that only a rendered kernel reads is computed there
    if (kernels.has(register) && (instruction.level === "row" || stored.includes(register))) take(register);
    else if (instruction.kind === "apply") instruction.args.forEach(look);
    else if (instruction.kind === "reduce") look(instruction.arg);
  };
  stored.forEach(look);
}
