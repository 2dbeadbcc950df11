/** Renders one value of a loop program to the source of a GPU.js kernel: a thread per float of the result. */
import type { Geometry, LoopProgram, Register } from "../loop-program.ts";
import { type Bound, Code, single, type Value } from "./code.ts";
import { writeElementwise, writeFoldStart, writeFoldStep } from "./expressions.ts";
import { limbsConstant, limbsFromIndex } from "./limbs.ts";
import { rangeOf } from "./limits.ts";
import { type Argument, type ArrayArgument, floatsPerElement, type Pass } from "./plan.ts";

const product = (sizes: readonly number[]): number => sizes.reduce((a, b) => a * b, 1);

/** Values of a level that a program has: body, element or row. */
export function valuesAt(level: "body" | "element" | "row", geometry: Geometry): number {
  const rows = product(geometry.outer);
  if (level === "row") return rows;
  return rows * geometry.inner * (level === "body" ? product(geometry.reduce) : 1);
}

/**
 * Part of a fold that a pass does: rows are cut into chunks where there are few of them, so that there is work for many threads.
 * A chunk is every `count`-th element, at most `size` of them.
 */
export interface Chunks {
  readonly count: number;
  readonly size: number;
}

/** Registers that are stored, each once. */
export const storedIn = ({ stores }: LoopProgram): Register[] => [...new Set(stores.map(({ register }) => register))];

/** Registers that have to be computed in the kernel for `roots`, in order; those in `known` come from memory. */
export function neededFor(program: LoopProgram, roots: readonly Register[], known: ReadonlyMap<Register, number>): Register[] {
  const needed = new Set<Register>();
  const visit = (register: Register): void => {
    if (needed.has(register)) return;
    needed.add(register);
    if (known.has(register)) return;
    const instruction = program.instructions[register]!;
    if (instruction.kind === "apply") instruction.args.forEach(visit);
  };
  roots.forEach(visit);
  return [...needed].sort((a, b) => a - b);
}

/** Name of an array in a kernel. */
export const nameOf = ({ kind, index }: Pick<ArrayArgument, "kind" | "index">): string =>
  `${kind === "binding" ? "b" : "p"}${index}`;

/** A kernel being written: its indices and what it reads. */
export class LoopWriter {
  readonly code: Code;
  private readonly args: ArrayArgument[] = [];
  private readonly values = new Map<Register, Value>();
  private readonly program: LoopProgram;
  private readonly geometry: Geometry;
  /** Registers that lie in memory, by the pass that wrote them. */
  private readonly known: ReadonlyMap<Register, number>;
  /** Where the row begins in a slot, once it is known. */
  private readonly bases = new Map<number, string>();
  /** The element's number, where the kernel is at one. */
  private element = "";
  private indices: { outer: string[]; inner: string; reduce: string[]; row: string } = {
    outer: [],
    inner: "0",
    reduce: [],
    row: "0",
  };

  constructor(program: LoopProgram, geometry: Geometry, known: ReadonlyMap<Register, number>, code = new Code()) {
    this.code = code;
    this.program = program;
    this.geometry = geometry;
    this.known = known;
  }

  /** Indices of the outer axes for a row number. */
  atRow(row: string): void {
    const { outer } = this.geometry;
    const names = new Array<string>(outer.length).fill("0");
    let rest = row;
    let rows = product(outer);
    const last = outer.findIndex((extent) => extent !== 1);
    for (let axis = outer.length - 1; axis >= 0; axis--) {
      if (outer[axis] === 1) continue;
      if (axis === last) names[axis] = rest;
      else {
        [rest, names[axis]] = this.code.split(rest, outer[axis]!, rows) as [string, string];
        rows /= outer[axis]!;
      }
    }
    this.indices = { ...this.indices, outer: names, row };
  }

  /** At element `x` of all rows; `apart` says whether anything asks for its indices. */
  atElement(x: string, apart = true): void {
    this.element = x;
    if (!apart) return;
    const { inner, outer } = this.geometry;
    const rows = product(outer);
    const [row, i] = rows === 1 ? ["0", x] : this.code.split(x, inner, rows * inner);
    this.atRow(row);
    this.indices.inner = i;
  }

  /** Whether the address of a slot is the element's own number. */
  private isInOrder(slot: number): boolean {
    const { outer, inner, slots } = this.geometry;
    const at = slots[slot]!;
    const extents = [...outer, inner];
    const strides = [...at.outer, at.inner];
    let next = 1;
    for (let axis = extents.length - 1; axis >= 0; axis--) {
      if (extents[axis] !== 1 && strides[axis] !== next) return false;
      next *= extents[axis]!;
    }
    return at.offset === 0 && at.reduce.every((stride) => stride === 0);
  }

  /** Whether an element can compute a register from its own number alone. */
  isFlat(register: Register): boolean {
    const instruction = this.program.instructions[register]!;
    if (this.known.has(register)) return instruction.level === "element";
    if (instruction.kind === "load")
      return this.program.slots[instruction.slot]!.masked.length === 0 && this.isInOrder(instruction.slot);
    return instruction.kind === "index" ? this.isInOrder(instruction.slot) : true;
  }

  set inner(name: string) {
    this.indices.inner = name;
  }

  set reduce(names: string[]) {
    this.indices.reduce = names;
  }

  private term(index: string, stride: number): string[] {
    if (stride === 0 || index === "0") return [];
    if (stride === 1) return [index];
    return [stride < 0 ? `${index} * (${stride})` : `${index} * ${stride}`];
  }

  /** Address of a slot at the current indices. */
  private address(slot: number): string {
    if (this.element && this.isInOrder(slot)) return this.element;
    const at = this.geometry.slots[slot]!;
    const base = this.bases.get(slot);
    if (base !== undefined) return this.code.index([base, ...this.term(this.indices.inner, at.inner)].join(" + "));
    const terms = this.indices.outer.flatMap((name, axis) => this.term(name, at.outer[axis]!));
    terms.push(...this.term(this.indices.inner, at.inner));
    terms.push(...this.indices.reduce.flatMap((name, axis) => this.term(name, at.reduce[axis]!)));
    if (at.offset !== 0 || terms.length === 0) terms.unshift(String(at.offset));
    // a variable; GPU.js does not take a number of numbers for an index
    if (terms.length === 1 && /^\w*[a-z]\w*$/.test(terms[0]!)) return terms[0]!;
    return this.code.index(terms.join(" + "));
  }

  /** Finds out once for a walk along the row where it begins in what the registers load. */
  beginRow(registers: readonly Register[]): void {
    for (const register of registers) {
      const instruction = this.program.instructions[register]!;
      if (instruction.kind !== "load" || this.known.has(register) || this.bases.has(instruction.slot)) continue;
      const { outer, offset } = this.geometry.slots[instruction.slot]!;
      const terms = this.indices.outer.flatMap((name, axis) => this.term(name, outer[axis]!));
      if (offset !== 0) terms.unshift(String(offset));
      if (terms.length) this.bases.set(instruction.slot, this.code.base(terms.join(" + ")));
    }
  }

  /** Distance to the address of the next element. */
  private stride(slot: number): number {
    return this.element && this.isInOrder(slot) ? 1 : this.geometry.slots[slot]!.inner;
  }

  private parameter(argument: ArrayArgument): string {
    if (!this.args.some((known) => known.kind === argument.kind && known.index === argument.index)) this.args.push(argument);
    return nameOf(argument);
  }

  /** Reads an element, 0 outside of the bounds; `stride` is the distance to the next one along the inner axis. */
  private read(name: string, address: string, integer: boolean, bounds: readonly Bound[], stride: number): Value {
    const { code } = this;
    if (!integer) return single(code.read(name, address, bounds, stride));
    const low = code.read(name, `2 * ${address}`, bounds, 2 * stride);
    return { kind: "limbs", low, high: code.read(name, `2 * ${address} + 1`, bounds, 2 * stride) };
  }

  private load(slot: number): Value {
    const { buffer, dtype, masked } = this.program.slots[slot]!;
    const { valid } = this.geometry.slots[slot]!;
    const names = [...this.indices.outer, this.indices.inner, ...this.indices.reduce];
    const bounds = masked.map((axis, m): Bound => {
      const [from, to] = valid[m]!;
      return { index: names[axis]!, from, to, isInner: axis === this.geometry.outer.length };
    });
    const name = this.parameter({ kind: "binding", index: buffer });
    return this.read(name, this.address(slot), dtype === "int32", bounds, this.stride(slot));
  }

  /** The value at `address` of what an earlier pass wrote. */
  partial(pass: number, address: string, integer: boolean, stride = 0): Value {
    return this.read(this.parameter({ kind: "pass", index: pass }), address, integer, [], stride);
  }

  /** A value that an earlier pass wrote, in row-major order of its level. */
  private recall(register: Register, pass: number): Value {
    const { level, dtype } = this.program.instructions[register]!;
    const { row, inner, reduce } = this.indices;
    let address = level === "row" ? row : this.element;
    if (!address) address = this.code.index([...this.term(row, this.geometry.inner), inner].join(" + "));
    if (level === "body")
      reduce.forEach((name, axis) => {
        address = this.code.index(`${address} * ${this.geometry.reduce[axis]} + ${name}`);
      });
    return this.partial(pass, address, dtype === "int32", level === "row" ? 0 : 1);
  }

  compute(registers: readonly Register[]): void {
    for (const register of registers) if (!this.values.has(register)) this.values.set(register, this.value(register));
  }

  private value(register: Register): Value {
    const pass = this.known.get(register);
    if (pass !== undefined) return this.recall(register, pass);
    const instruction = this.program.instructions[register]!;
    switch (instruction.kind) {
      case "load":
        return this.load(instruction.slot);
      case "index": {
        const number = this.code.number(this.address(instruction.slot), this.stride(instruction.slot));
        return limbsFromIndex(this.code, number, ...rangeOf(this.geometry, instruction.slot));
      }
      case "constant":
        return instruction.dtype === "int32"
          ? limbsConstant(instruction.value)
          : single(this.code.let(this.code.literal(instruction.value)));
      case "apply":
        return writeElementwise(
          this.code,
          instruction.op,
          instruction.args.map((arg) => this.values.get(arg)!),
          instruction.args.map((arg) => this.program.instructions[arg]!.dtype),
          instruction.dtype,
        );
      case "reduce":
        throw new Error("gpu: a fold is a pass of its own");
    }
  }

  /** Registers computed so far, for `forget`. */
  remember(): ReadonlySet<Register> {
    return new Set(this.values.keys());
  }

  /** Takes back what was computed since: its variables go out of scope. */
  forget(before: ReadonlySet<Register>): void {
    for (const register of this.values.keys()) if (!before.has(register)) this.values.delete(register);
  }

  /** Names of the arrays that it reads. */
  get arrays(): string[] {
    return this.args.map(nameOf);
  }

  /** What it takes as arguments: arrays, then numbers. */
  reads(): { names: string[]; args: Argument[] } {
    const { numbers } = this.code;
    return {
      names: [...this.arrays, ...numbers.keys()],
      args: [...this.args, ...[...numbers.values()].map((value): Argument => ({ kind: "number", value }))],
    };
  }

  get(register: Register): Value {
    return this.values.get(register)!;
  }

  set(register: Register, value: Value): void {
    this.values.set(register, value);
  }

  /** The finished kernel, `count` values long. */
  finish(value: Value, part: string, count: number): Pass {
    const { code } = this;
    if (value.kind === "limbs") code.line(`if (${part} < 0.5) { return ${value.low}; } return ${value.high};`);
    else code.line(`return ${value.name};`);
    // GPU.js takes a function without parameters for one with a parameter
    if (this.args.length + code.numbers.size === 0) code.numbers.set("n0", 0);
    const { names, args } = this.reads();
    const source = `function (${names.join(", ")}) {\n${code.lines.join("\n")}\n}`;
    return { source, functions: [...code.functions], args, count: count * (value.kind === "limbs" ? 2 : 1) };
  }
}

/** The thread's number, halved where two threads share an int32: which of its limbs the thread writes. */
function start(writer: LoopWriter, dtype: string, count: number): { x: string; part: string } {
  const x = writer.code.let("this.thread.x");
  if (floatsPerElement(dtype) === 1) return { x, part: "0" };
  const [half, part] = writer.code.split(x, 2, 2 * count);
  return { x: half, part };
}

/** A pass that computes one register at each of its places. */
export function renderValue(
  program: LoopProgram,
  geometry: Geometry,
  root: Register,
  known: ReadonlyMap<Register, number>,
): Pass {
  const { level, dtype } = program.instructions[root]!;
  const writer = new LoopWriter(program, geometry, known);
  let most = valuesAt(level, geometry);
  let { x, part } = start(writer, dtype, most);
  const needed = neededFor(program, [root], known);
  if (level === "row") writer.atRow(x);
  else {
    if (level === "body") {
      const names: string[] = [];
      for (let axis = geometry.reduce.length - 1; axis >= 0; axis--) {
        const [rest, name] = writer.code.split(x, geometry.reduce[axis]!, most);
        names.unshift(name);
        x = rest;
        most /= geometry.reduce[axis]!;
      }
      writer.reduce = names;
    }
    writer.atElement(
      x,
      needed.some((register) => !writer.isFlat(register)),
    );
  }
  writer.compute(needed);
  return writer.finish(writer.get(root), part, valuesAt(level, geometry));
}

/**
 * A pass that folds: one value per row, or per chunk of a row; in columns form one per outer and inner index, and what comes
 * after the fold up to `root`, which is the fold itself elsewhere.
 */
export function renderFold(
  program: LoopProgram,
  geometry: Geometry,
  fold: Register,
  known: ReadonlyMap<Register, number>,
  chunks: Chunks | null,
  root: Register = fold,
): Pass {
  const instruction = program.instructions[fold]!;
  if (instruction.kind !== "reduce") throw new Error("gpu: not a fold");
  const writer = new LoopWriter(program, geometry, known);
  const { code } = writer;
  const rows = program.shape === "rows";
  const count = rows ? valuesAt("row", geometry) * (chunks?.count ?? 1) : valuesAt("element", geometry);
  let { x, part } = start(writer, program.instructions[root]!.dtype, count);
  const needed = neededFor(program, [instruction.arg], known);
  let first = "0";
  if (rows) {
    if (chunks) {
      // neighbours in memory are the work of neighbouring threads
      [x, first] = writer.code.split(x, chunks.count, count);
    }
    writer.atRow(x);
    // what is the same along the row is computed once
    writer.compute(needed.filter((register) => program.instructions[register]!.level === "row"));
  } else writer.atElement(x);
  const acc = writeFoldStart(code, instruction.op, instruction.dtype);
  if (rows) {
    const extent = chunks?.size ?? geometry.inner;
    code.line(`for (let k0 = 0; k0 < ${extent}; k0++) {`);
    const i = chunks ? code.let(`${first} + k0 * ${chunks.count}`) : "k0";
    writer.inner = i;
    if (chunks) code.line(`if (${i} < ${geometry.inner}) {`);
  } else {
    writer.reduce = geometry.reduce.map((_, axis) => `k${axis}`);
    geometry.reduce.forEach((extent, axis) => {
      code.line(`for (let k${axis} = 0; k${axis} < ${extent}; k${axis}++) {`);
    });
  }
  writer.compute(needed);
  writeFoldStep(code, instruction.op, acc, writer.get(instruction.arg));
  code.line("}".repeat(rows ? (chunks ? 2 : 1) : geometry.reduce.length));
  writer.set(fold, acc.value);
  writer.compute(neededFor(program, [root], known).filter((register) => program.instructions[register]!.level === "element"));
  return writer.finish(writer.get(root), part, count);
}

/** Folds the chunks of each row that `partial` wrote. */
export function renderChunkFold(program: LoopProgram, geometry: Geometry, fold: Register, partial: number, chunks: Chunks): Pass {
  const instruction = program.instructions[fold]!;
  if (instruction.kind !== "reduce") throw new Error("gpu: not a fold");
  const writer = new LoopWriter(program, geometry, new Map());
  const { code } = writer;
  const { x, part } = start(writer, instruction.dtype, valuesAt("row", geometry));
  const acc = writeFoldStart(code, instruction.op, instruction.dtype);
  code.line(`for (let k0 = 0; k0 < ${chunks.count}; k0++) {`);
  const value = writer.partial(partial, code.let(`${x} * ${chunks.count} + k0`), instruction.dtype === "int32");
  writeFoldStep(code, instruction.op, acc, value);
  code.line("}");
  return writer.finish(acc.value, part, valuesAt("row", geometry));
}
