/**
 * A rows program on webgpu: one shader does all its folds and what comes after them. Softmax, norms and cross-entropy,
 * forward and backward, are such programs: each is one launch that finds its row in the cache after the first fold, where passes through
 * memory (loop-passes.ts) take one or two for every fold and one for the value.
 *
 * On a card a workgroup takes a row: its threads take every 64th (256th) element, or four of them, so that neighbours read neighbours, and
 * meet in workgroup memory. Where a processor plays the card, a thread takes a whole row.
 */
import type { Reduction } from "../../graph/primitive.ts";
import type { Geometry, LoopProgram, Register } from "../loop-program.ts";
import { type Single, single } from "./code.ts";
import { writeFoldStart, writeFoldStep } from "./expressions.ts";
import { assemble, firstOf, readsOf } from "./loop-shader.ts";
import { LoopWriter, neededFor, valuesAt } from "./loop-source.ts";
import type { Pass } from "./plan.ts";
import type { Lanes, ShaderCode } from "./shader-code.ts";
import { WgslCode } from "./wgsl-code.ts";

/** Rows shorter than this are folded by a thread each. */
const shortestRow = 64;
/** Rows at least this long get four times the threads. */
const longRow = 1024;
/** Below this many elements a thread there is no need for more workgroups than there are rows. */
const mostPerThread = 128;
/** Threads that are many enough, whatever they have to do. */
const manyThreads = 8192;

const threadsOf = (inner: number): number => (inner >= longRow ? 256 : 64);

/** Everything that `roots` are made of, in order, through the folds. */
function closure(program: LoopProgram, roots: readonly Register[], known: ReadonlyMap<Register, number>): Register[] {
  const found = new Set<Register>();
  const visit = (register: Register): void => {
    for (const each of neededFor(program, [register], known)) {
      if (found.has(each)) continue;
      found.add(each);
      const instruction = program.instructions[each]!;
      if (instruction.kind === "reduce" && !known.has(each)) visit(instruction.arg);
    }
  };
  roots.forEach(visit);
  return [...found].sort((a, b) => a - b);
}

/** What all ways of rendering rows start from. */
export interface Rows {
  readonly registers: readonly Register[];
  /** Folds that need none of each other, in the order of the groups: each is one walk along the row. */
  readonly folds: readonly (readonly Register[])[];
}

/** Whether a register has a value for each element of a row, and not one for all of it. */
export const isElement = ({ instructions }: LoopProgram, register: Register): boolean => instructions[register]!.level !== "row";

/** `null` where the program is not one for a shader: then passes through memory do it. */
export function rowsOf(
  program: LoopProgram,
  geometry: Geometry,
  roots: readonly Register[],
  known: ReadonlyMap<Register, number>,
): Rows | null {
  if (program.shape !== "rows" || valuesAt("row", geometry) === 0) return null;
  const registers = closure(program, roots, known);
  const instructionAt = (register: Register) => program.instructions[register]!;
  const folds = registers.filter((register) => instructionAt(register).kind === "reduce" && !known.has(register));
  if ([...roots, ...folds].some((register) => instructionAt(register).dtype === "int32")) return null;
  // who compares with the largest must see the very value that it was found among, which is why that one goes through memory
  const compares = registers.some((register) => {
    const instruction = instructionAt(register);
    return instruction.kind === "apply" && instruction.op.name === "equal";
  });
  const computedMax = folds.some((register) => {
    const instruction = instructionAt(register);
    return (
      instruction.kind === "reduce" && instruction.op.name === "maxReduce" && instructionAt(instruction.arg).kind === "apply"
    );
  });
  if (compares && computedMax) return null;
  const stages = [...new Set(folds.map((register) => instructionAt(register).stage))].sort((a, b) => a - b);
  const groups = stages.map((stage) => folds.filter((register) => instructionAt(register).stage === stage));
  return { registers, folds: groups };
}

/** Where a fold sums `index = at ? value : 0` over the row, with the index counting from 0: what it picks, and at which index. */
function pickOf(
  program: LoopProgram,
  { inner, outer, slots }: Geometry,
  register: Register,
  known: ReadonlyMap<Register, number>,
): { readonly value: Register; readonly at: Register } | null {
  const applied = (of: Register, name: string): readonly Register[] => {
    const instruction = program.instructions[of]!;
    return instruction.kind === "apply" && instruction.op.name === name && !known.has(of) ? instruction.args : [];
  };
  const fold = program.instructions[register]!;
  if (fold.kind !== "reduce" || fold.op.name !== "sum") return null;
  const [condition, value, otherwise] = applied(fold.arg, "where");
  const zero = otherwise === undefined ? null : program.instructions[otherwise]!;
  if (condition === undefined || zero?.kind !== "constant" || zero.value !== 0) return null;
  const sides = applied(condition, "equal");
  const index = sides.find((side) => {
    const instruction = program.instructions[side]!;
    if (instruction.kind !== "index") return false;
    const at = slots[instruction.slot]!;
    return (
      at.offset === 0 && at.inner === 1 && at.outer.every((stride, axis) => stride === 0 || outer[axis] === 1) && inner < 2 ** 24
    );
  });
  const at = sides.find((side) => side !== index);
  if (index === undefined || at === undefined) return null;
  const { level, dtype } = program.instructions[at]!;
  return level === "row" && dtype === "int32" ? { value: value!, at } : null;
}

/** A fold of two floats; the largest is NaN when either is. */
const combined = (code: ShaderCode, { name }: Reduction, mine: string, other: string): string =>
  name === "maxReduce" ? code.largest(mine, other) : `${mine} ${name === "sum" ? "+" : "*"} ${other}`;

/** Who computes a row. */
interface Sharing {
  /** The thread's number among those of the row, and how many they are. */
  readonly thread: string;
  readonly threads: number;
  /** Joins what the threads have folded, in place. */
  meet(code: ShaderCode, name: string, combine: (mine: string, other: string) => string): void;
}

/** Writes the row `number`, of whose elements each thread takes some. */
export class RowWriter {
  readonly code: ShaderCode;
  readonly writer: LoopWriter;
  private readonly program: LoopProgram;
  private readonly geometry: Geometry;
  private readonly known: ReadonlyMap<Register, number>;
  /** Neighbours that a thread takes at once, as often as the row has so many; what is left is taken one by one. */
  private readonly lanes: Lanes;
  private readonly sharing: Sharing;

  constructor(
    program: LoopProgram,
    geometry: Geometry,
    known: ReadonlyMap<Register, number>,
    code: ShaderCode,
    lanes: Lanes,
    sharing: Sharing = { thread: "0", threads: 1, meet() {} },
  ) {
    this.program = program;
    this.geometry = geometry;
    this.known = known;
    this.code = code;
    this.writer = new LoopWriter(program, geometry, known, code);
    this.lanes = lanes;
    this.sharing = sharing;
  }

  /** Walks along the thread's elements of the row; `body` finds everything that is needed for `args` computed. */
  private overRow(args: readonly Register[], start: () => void, body: (i: string, lanes: Lanes) => void): void {
    const { code, writer, program, lanes } = this;
    const { thread, threads } = this.sharing;
    const { inner } = this.geometry;
    const needed = neededFor(program, args, this.known);
    writer.compute(needed.filter((register) => program.instructions[register]!.level === "row"));
    const walk = (from: number, to: number, width: Lanes): void => {
      if (from === to) return;
      code.each(width, () => {
        start();
        const first = thread === "0" ? `${from}` : `${from} + ${thread} * ${width}`;
        const i = code.walk(first, to, threads * width, width);
        writer.inner = i;
        const before = writer.remember();
        writer.compute(needed);
        body(i, width);
        writer.forget(before);
        code.raw("}");
      });
    };
    writer.beginRow(needed);
    const whole = inner - (inner % lanes);
    walk(0, whole, lanes);
    walk(whole, inner, 1);
  }

  /**
   * The sum of what is 0 everywhere but at one index, as the logit of the target is found, is read there: x + 0 = x. Every thread reads it.
   */
  private picked(register: Register): boolean {
    const { code, writer, program } = this;
    const { inner } = this.geometry;
    const place = pickOf(program, this.geometry, register, this.known);
    if (!place) return false;
    writer.compute(neededFor(program, [place.at], this.known));
    const at = code.wholeOf(writer.get(place.at));
    const needed = neededFor(program, [place.value], this.known);
    writer.compute(needed.filter((each) => program.instructions[each]!.level === "row"));
    const before = writer.remember();
    writer.inner = at;
    writer.compute(needed);
    const value = (writer.get(place.value) as Single).name;
    writer.forget(before);
    writer.set(register, single(code.within(at, inner, value)));
    return true;
  }

  private fold(group: readonly Register[]): void {
    const { code, writer } = this;
    const registers = group.filter((register) => !this.picked(register));
    if (!registers.length) return;
    const folds = registers.flatMap((register) => {
      const instruction = this.program.instructions[register]!;
      return instruction.kind === "reduce" ? [{ ...instruction, register, name: "" }] : [];
    });
    const join = () => {
      for (const fold of folds) fold.name = code.folded(fold.name, (mine, other) => combined(code, fold.op, mine, other));
    };
    this.overRow(
      folds.map(({ arg }) => arg),
      () => {
        if (folds[0]!.name) join();
        else for (const fold of folds) fold.name = (writeFoldStart(code, fold.op, fold.dtype).value as Single).name;
      },
      () => {
        for (const { op, arg, name } of folds) writeFoldStep(code, op, { value: single(name), started: "" }, writer.get(arg));
      },
    );
    join();
    for (const { op, register, name } of folds) {
      this.sharing.meet(code, name, (mine, other) => combined(code, op, mine, other));
      writer.set(register, single(name));
    }
  }

  /** Folds the row `number`. */
  folds({ folds }: Rows): void {
    this.writer.atRow("number");
    for (const group of folds) this.fold(group);
  }

  private name(register: Register): string {
    return (this.writer.get(register) as Single).name;
  }

  /** Writes those of the values that are one of the row, each to the result of its place. */
  storeRow(roots: readonly Register[]): void {
    const { code, writer, program, known } = this;
    const ofRow = roots.filter((root) => !isElement(program, root));
    writer.compute(neededFor(program, ofRow, known));
    const { thread, threads } = this.sharing;
    if (ofRow.length && threads > 1) code.raw(`if (${thread} == 0) {`);
    for (const root of ofRow) code.store("number", this.name(root), 1, false, roots.indexOf(root));
    if (ofRow.length && threads > 1) code.raw("}");
  }

  /** Writes the others, in one walk along the row. */
  storeElements(roots: readonly Register[]): void {
    const { code } = this;
    const { inner } = this.geometry;
    const elements = roots.filter((root) => isElement(this.program, root));
    if (!elements.length) return;
    const row = code.base(`number * ${inner}`);
    const isWide = inner % 4 === 0 && this.lanes > 1;
    this.overRow(
      elements,
      () => {},
      (i, lanes) => {
        for (const root of elements) code.store(`${row} + ${i}`, this.name(root), lanes, isWide, roots.indexOf(root));
      },
    );
  }

  /** Writes all of the row, where there is one of the number. */
  write(rows: number, shape: Rows, roots: readonly Register[]): void {
    this.code.raw(`if (number >= ${rows}) { return; }`);
    this.folds(shape);
    this.storeRow(roots);
    this.storeElements(roots);
  }
}

/** Rows that are enough for a thread each, on a processor, unless there is little to do. */
const manyRows = 32;
const fewElements = 4096;
const rowThreads = 8;
/** Whether rows are worth a thread each: where they are few and long, more threads take them. */
export const enoughRows = (rows: number, inner: number): boolean => rows >= manyRows || rows * inner <= fewElements;
/** Rows at least this long are taken by fours even where that leaves a rest. */
const worthTwoLoops = 16;

/** Whether elements without folds are made with values of their row, which a thread that takes the row computes once. */
const sharesRow = (program: LoopProgram, { registers }: Rows, roots: readonly Register[], rows: number, inner: number): boolean =>
  roots.every((root) => isElement(program, root)) &&
  rows >= manyRows &&
  inner >= worthTwoLoops &&
  registers.some((register) => !isElement(program, register) && program.instructions[register]!.kind !== "constant");

/** Sizes of what the values are written to, and whether that is done by fours. */
const resultsOf = (program: LoopProgram, geometry: Geometry, roots: readonly Register[], lanes: Lanes) =>
  roots.map((root) => {
    const ofElements = isElement(program, root);
    const isWide = ofElements && lanes > 1 && geometry.inner % 4 === 0;
    return { count: valuesAt(ofElements ? "element" : "row", geometry), isWide };
  });

/** Joins what the threads of a workgroup have folded, in the workgroup's memory. */
const meeting =
  (threads: number): Sharing["meet"] =>
  (code, name, combine) => {
    code.raw(`meeting[t] = ${name};`);
    code.raw("workgroupBarrier();");
    code.raw(`for (var span = ${threads / 2}u; span > 0u; span >>= 1u) {`);
    code.raw("if (t < span) { let mine = meeting[t]; let other = meeting[t + span];");
    code.raw(`meeting[t] = ${combine("mine", "other")}; }`);
    code.raw("workgroupBarrier(); }");
    code.raw(`${name} = meeting[0u];`);
    code.raw("workgroupBarrier();");
  };

/** How rows are shared out among threads. */
interface Way {
  /** The row of a thread. */
  readonly number: string;
  /** Whether a thread takes elements by fours. @param isGathered what it reads would not lie side by side in every array */
  takesFours(isGathered: boolean): boolean;
  /** Whether it is worth it for elements that are made with values of their row, without a fold. */
  readonly sharesRows: boolean;
  readonly sharing?: Sharing;
  readonly launch: { readonly threads: number; readonly workgroups: number; readonly declarations?: string };
}

/** A thread a row, without barriers: on a processor every thread of a workgroup waits for all others at one. */
const threadEach = (rows: number, inner: number): Way | null =>
  enoughRows(rows, inner)
    ? {
        number: `place * ${rowThreads} + i32(t)`,
        takesFours: () => inner % 4 === 0 || inner >= worthTwoLoops,
        sharesRows: true,
        launch: { threads: rowThreads, workgroups: Math.ceil(rows / rowThreads) },
      }
    : null;

/**
 * A workgroup a row. Four neighbours a thread where they are a vec4 in every array, so that a workgroup reads whole stretches of memory as it
 * does one by one, in fewer and larger pieces; where some would have to be gathered, threads that take neighbours one by one read nearer to
 * each other.
 */
function workgroupEach(rows: number, inner: number): Way | null {
  const threads = threadsOf(inner);
  if (inner < shortestRow || (inner > mostPerThread * threads && rows * threads < manyThreads)) return null;
  return {
    number: "place",
    takesFours: (isGathered) => inner % 4 === 0 && inner >= 4 * threads && !isGathered,
    sharesRows: false,
    sharing: { thread: "i32(t)", threads, meet: meeting(threads) },
    launch: { threads, workgroups: rows, declarations: `var<workgroup> meeting : array<f32, ${threads}>;` },
  };
}

/** The pass with all the folds of values, for a card or for a processor that plays one; `null` where there is none. */
export function renderRows(
  program: LoopProgram,
  geometry: Geometry,
  roots: readonly Register[],
  known: ReadonlyMap<Register, number>,
  inputs: number,
  software: boolean,
): Pass | null {
  const { inner } = geometry;
  const rows = valuesAt("row", geometry);
  const way = (software ? threadEach : workgroupEach)(rows, inner);
  const shape = way && rowsOf(program, geometry, roots, known);
  if (!shape) return null;
  if (!shape.folds.length && !(way.sharesRows && sharesRow(program, shape, roots, rows, inner))) return null;
  const { wide, isGathered } = readsOf(program, geometry, shape.registers, known, false);
  return firstOf(way.takesFours(isGathered) ? 4 : 1, (lanes) => {
    const code = new WgslCode(lanes > 1 ? wide : new Set());
    const row = new RowWriter(program, geometry, known, code, lanes, way.sharing);
    code.raw(`let number = ${way.number};`);
    row.write(rows, shape, roots);
    return assemble(row.writer, code, inputs, { ...way.launch, results: resultsOf(program, geometry, roots, lanes) });
  });
}
