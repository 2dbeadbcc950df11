/**
 * A rows program on webgpu: one shader per stored value does all its folds and what comes after them, a workgroup a row. Softmax, norms
 * and cross-entropy, forward and backward, are such programs: each is one launch that finds its row in the cache after the first
 * fold, where passes through memory (loop-passes.ts) take one or two for every fold and one for the value.
 *
 * The lanes of a workgroup take every 64th (256th) element, so that neighbours read neighbours, and meet in workgroup memory. The
 * statements are those of `LoopWriter`, whose JavaScript is close enough to WGSL to be rewritten line by line.
 *
 * Where a processor plays the card, a thread takes a whole row, and several elements of what has no folds.
 */
import type { Geometry, LoopProgram, Register } from "../loop-program.ts";
import type { Single } from "./code.ts";
import { isNaNText, writeFoldStart, writeFoldStep } from "./expressions.ts";
import { LoopWriter, neededFor, valuesAt } from "./loop-source.ts";
import type { Argument, Pass } from "./plan.ts";

/** Rows shorter than this are folded by a thread each. */
const shortestRow = 64;
/** Rows at least this long get four times the lanes. */
const longRow = 1024;
/** Below this many elements a lane there is no need for more workgroups than there are rows. */
const mostPerLane = 128;
/** Lanes that are many enough, whatever they have to do. */
const manyLanes = 8192;

const lanesOf = (inner: number): number => (inner >= longRow ? 256 : 64);

/** Everything that `root` is made of, in order, through the folds. */
function closure(program: LoopProgram, root: Register, known: ReadonlyMap<Register, number>): Register[] {
  const found = new Set<Register>();
  const visit = (register: Register): void => {
    for (const each of neededFor(program, register, known)) {
      if (found.has(each)) continue;
      found.add(each);
      const instruction = program.instructions[each]!;
      if (instruction.kind === "reduce" && !known.has(each)) visit(instruction.arg);
    }
  };
  visit(root);
  return [...found].sort((a, b) => a - b);
}

/**
 * Conditions are all computed: a compiler makes branches of `&&`, and SwiftShader needs minutes for a few dozen of them in a loop.
 */
const withoutBranches = (line: string): string =>
  /&&|\|\|/.test(line)
    ? line
        .replace(/[\w.]+ (?:[<>]=?|[=!]==?) -?[\w.]+/g, "($&)")
        .replaceAll("&&", "&")
        .replaceAll("||", "|")
    : line;

/** A statement of `LoopWriter` in WGSL: variables have types, floats have points, addresses are whole numbers. */
const statement = (line: string): string =>
  withoutBranches(line)
    .replace(/\blet (\w+) =/g, "var $1 : f32 =")
    .replace(/\bMath\./g, "")
    .replaceAll("===", "==")
    .replaceAll("!==", "!=")
    .replace(/\b([bp]\d+)\[([^\]]+)\]/g, "$1[u32($2)]")
    .replace(/(?<![\w.])(\d+)(?![\w.])/g, "$1.0");

/** What has no WGSL of the same look: whole numbers' bits, and both of "and" and "or", which have no order there. */
const isForeign = (line: string): boolean => /[^&]&[^&]|[^|]\|[^|]|\^|&&.*\|\||\|\|.*&&/.test(line);

const combined = { sum: "mine + other", product: "mine * other" } as Record<string, string>;

/** The text of a shader whose statements are written: what it reads and writes, and `main` around `body`. */
function assemble(writer: LoopWriter, inputs: number, threads: number, declarations: string, body: string): Shader | null {
  const { code, arrays } = writer;
  if (arrays.length === 0 || arrays.length > inputs || code.functions.size > 0 || code.lines.some(isForeign)) return null;
  if ([...code.numbers.values()].some(Number.isInteger)) return null;
  const { names, args } = writer.reads();
  const text = `struct Params { x : u32, y : u32, z : u32, width : u32, ${arrays.map((name) => `${name}_ : vec4<u32>, `).join("")}${[...code.numbers.keys()].map((name) => `${name} : f32, `).join("")}}
@group(0) @binding(0) var<uniform> params : Params;
${arrays.map((name, i) => `@group(0) @binding(${i + 1}) var<storage, read> ${name} : array<f32>;`).join("\n")}
@group(0) @binding(${arrays.length + 1}) var<storage, read_write> result : array<f32>;
${declarations}
@compute @workgroup_size(${threads})
fn main(@builtin(workgroup_id) group : vec3<u32>, @builtin(num_workgroups) groups : vec3<u32>, @builtin(local_invocation_index) t : u32) {
let place = group.y * groups.x + group.x;
${[...code.numbers.keys()].map((name) => `let ${name} = params.${name};\n`).join("")}${body}
}`;
  // GPU.js takes the names of the arguments from a body that never runs
  const read = names.map((name) => (arrays.includes(name) ? `${name}[0]` : name)).join(" + ");
  return { text, args, source: `function (${names.join(", ")}) { return ${read}; }` };
}

interface Shader {
  readonly text: string;
  readonly args: readonly Argument[];
  readonly source: string;
}

const passOf = ({ text, args, source }: Shader, count: number, workgroups: number): Pass => ({
  source,
  functions: [],
  args,
  count,
  wgsl: { code: text, workgroups, indices: "float" },
});

/** Elements that a thread of `renderElements` computes: a processor takes as long to begin a thread as to compute a few of them. */
const perThread = 8;
const elementThreads = 64;

/** A value of no folds for an adapter that computes on the processor; `null` as for `renderShader`. */
export function renderElements(
  program: LoopProgram,
  geometry: Geometry,
  root: Register,
  known: ReadonlyMap<Register, number>,
  inputs: number,
): Pass | null {
  const { level, dtype } = program.instructions[root]!;
  const count = valuesAt("element", geometry);
  if (level !== "element" || dtype === "int32" || count === 0) return null;
  const writer = new LoopWriter(program, geometry, known);
  const { code } = writer;
  const needed = neededFor(program, root, known);
  const x = code.let("f32(number)");
  writer.atElement(
    x,
    needed.some((register) => !writer.isFlat(register)),
  );
  writer.compute(needed);
  const { name } = writer.get(root) as Single;
  const body = `let first = (place * ${elementThreads}u + t) * ${perThread}u;
for (var e = 0u; e < ${perThread}u; e++) {
let number = first + e;
if (number >= ${count}u) { return; }
${code.lines.map(statement).join("\n")}
result[number] = ${name};
}`;
  const shader = assemble(writer, inputs, elementThreads, "", body);
  return shader && passOf(shader, count, Math.ceil(count / (perThread * elementThreads)));
}

/** Rows that are enough for a thread each, on a processor, unless there is little to do. */
const manyRows = 32;
const fewElements = 4096;
const rowThreads = 8;

/**
 * The pass, or `null` where the program is not one for a shader: then passes through memory do it.
 *
 * @param software whether a processor runs it: there every lane of a workgroup waits for all others at a barrier, so a thread takes a row
 */
export function renderShader(
  program: LoopProgram,
  geometry: Geometry,
  root: Register,
  known: ReadonlyMap<Register, number>,
  inputs: number,
  software: boolean,
): Pass | null {
  const { inner } = geometry;
  const rows = valuesAt("row", geometry);
  const lanes = software ? 1 : lanesOf(inner);
  if (program.shape !== "rows" || rows === 0) return null;
  if (
    software
      ? rows < manyRows && rows * inner > fewElements
      : inner < shortestRow || (inner > mostPerLane * lanes && rows * lanes < manyLanes)
  )
    return null;
  const registers = closure(program, root, known);
  const instructionAt = (register: Register) => program.instructions[register]!;
  const folds = registers.filter((register) => instructionAt(register).kind === "reduce" && !known.has(register));
  if (folds.length === 0 || [root, ...folds].some((register) => instructionAt(register).dtype === "int32")) return null;
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

  const writer = new LoopWriter(program, geometry, known);
  const { code } = writer;
  writer.atRow(code.let("f32(number)"));
  const rowsOf = (needed: readonly Register[]) => needed.filter((register) => instructionAt(register).level === "row");
  /** A loop over the lane's elements of the row; `body` finds everything that is needed for `arg` computed. */
  const overRow = (arg: Register, body: (i: string) => void): void => {
    const needed = neededFor(program, arg, known);
    writer.compute(rowsOf(needed));
    const i = `i${code.lines.length}`;
    code.line(`for (var ${i} = ${software ? "0.0" : "f32(t)"}; ${i} < ${inner}; ${i} += ${lanes}) {`);
    writer.inner = i;
    const before = writer.remember();
    writer.compute(needed);
    body(i);
    writer.forget(before);
    code.line("}");
  };
  for (const fold of folds) {
    const instruction = instructionAt(fold);
    if (instruction.kind !== "reduce") continue;
    const { op, arg, dtype } = instruction;
    const accumulator = writeFoldStart(code, op, dtype);
    overRow(arg, () => writeFoldStep(code, op, accumulator, writer.get(arg)));
    writer.set(fold, accumulator.value);
    if (software) continue;
    const { name } = accumulator.value as Single;
    const together = combined[op.name] ?? `select(mine, other, other > mine || ${isNaNText("other")})`;
    code.line(`meeting[t] = ${name};`);
    code.line("workgroupBarrier();");
    code.line(`for (var span = ${lanes / 2}u; span > 0u; span >>= 1u) {`);
    code.line("if (t < span) { let mine = meeting[t]; let other = meeting[t + span];");
    code.line(`meeting[t] = ${together}; }`);
    code.line("workgroupBarrier(); }");
    code.line(`${name} = meeting[0u];`);
    code.line("workgroupBarrier();");
  }
  const isElement = instructionAt(root).level !== "row";
  if (isElement)
    overRow(root, (i) => code.line(`result[number * ${inner}u + u32(${i})] = ${(writer.get(root) as Single).name};`));
  else {
    writer.compute(neededFor(program, root, known));
    code.line(`${software ? "" : "if (t == 0u) "}{ result[number] = ${(writer.get(root) as Single).name}; }`);
  }
  const threads = software ? rowThreads : lanes;
  const body = `let number = ${software ? `place * ${rowThreads}u + t` : "place"};
if (number >= ${rows}u) { return; }
${code.lines.map(statement).join("\n")}`;
  const shader = assemble(writer, inputs, threads, software ? "" : `var<workgroup> meeting : array<f32, ${lanes}>;`, body);
  return shader && passOf(shader, isElement ? rows * inner : rows, software ? Math.ceil(rows / rowThreads) : rows);
}
