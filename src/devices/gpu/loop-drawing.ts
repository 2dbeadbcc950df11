/**
 * Loop programs on WebGL 2 in shaders of ours, whose threads write a place of several textures at once.
 *
 * A program of rows is drawn twice: a thread a row folds it and writes what the row's elements need and what is stored of the row, then a thread
 * four elements writes all that is stored of them. What is read and written by fours is copied from flat values and back, through a buffer:
 * that is quick in the memory of a processor, but some drivers of cards wait for it. Values of no folds are one draw on flat textures.
 */
import { shaderHead } from "../../../kernels/gpu/matmul-glsl.ts";
import type { Geometry, LoopProgram, Register } from "../loop-program.ts";
import type { Single } from "./code.ts";
import { GlslCode, onBooleans } from "./glsl-code.ts";
import { rangeOf } from "./limits.ts";
import { elementsOf, readsOf } from "./loop-shader.ts";
import { LoopWriter, nameOf, neededFor, storedIn, valuesAt } from "./loop-source.ts";
import { binding, type Pass, Passes, type Plan, pass } from "./plan.ts";
import { enoughRows, isElement, RowWriter, rowsOf } from "./row-shader.ts";

/** The longest side of a texture that every device has. */
const mostTexels = 4096;

type Size = readonly [width: number, height: number];

/** Size of a texture of so many texels, of which a row has so many: rows below each other, where that is possible. */
function textureSize(texels: number, row: number): Size {
  const width = row <= mostTexels && texels <= row * mostTexels ? row : 2 ** Math.ceil(Math.log2(Math.sqrt(texels)));
  return [width, Math.ceil(texels / width)];
}

/** The shader whose statements are written; `sizes` says those of arrays that it is compiled for, beside what their lengths say. */
function shader(code: GlslCode, arrays: readonly string[], results: number, sizes = ""): string {
  return `${shaderHead(arrays, results)}
${sizes && `// ${sizes}\n`}${onBooleans}
void main() {
${code.lines.join("\n")}
}`;
}

/** A flat value by fours; the texture is drawn where it cannot be copied. */
const fours = (of: number, size: Size): Pass => ({
  source: "",
  functions: [],
  args: [binding(of)],
  count: size[0] * size[1],
  size,
  copiesFours: true,
  glsl: `${shaderHead(["a"])}
void main() {
int first = 4 * (int(gl_FragCoord.y) * WIDTH + int(gl_FragCoord.x));
data0 = vec4(at_a(first), at_a(first + 1), at_a(first + 2), at_a(first + 3));
}`,
  // a weight is copied once, and what several programs read as well
  kept: `fours: ${size}`,
});

/** What the threads of the rows hand on: registers of the row that elements are made of, and which need a fold. */
function handedOn({ instructions }: LoopProgram, needed: readonly Register[]): Register[] {
  const isFolded = (register: Register): boolean => {
    const instruction = instructions[register]!;
    return instruction.kind === "reduce" || (instruction.kind === "apply" && instruction.args.some(isFolded));
  };
  const read = needed.flatMap((register) => {
    const instruction = instructions[register]!;
    return instruction.level === "element" && instruction.kind === "apply" ? instruction.args : [];
  });
  return [...new Set(read)].filter((register) => instructions[register]!.level === "row" && isFolded(register));
}

/** What shaders may read and write. */
export interface DrawingLimits {
  readonly inputs: number;
  readonly results: number;
}

/** A program of rows, or `null` where there is no shader for it. */
export function drawRows(program: LoopProgram, geometry: Geometry, { inputs, results }: DrawingLimits): Plan | null {
  const { inner } = geometry;
  const rows = valuesAt("row", geometry);
  if (program.shape !== "rows" || inner % 4 !== 0 || !enoughRows(rows, inner)) return null;
  const roots = storedIn(program);
  const none = new Map<Register, number>();
  if (!rowsOf(program, geometry, roots, none)?.folds.length) return null;
  const elements = roots.filter((root) => isElement(program, root));
  const handed = handedOn(program, neededFor(program, elements, none));
  const ofRow = [...new Set([...handed, ...roots.filter((root) => !isElement(program, root))])];
  if (ofRow.some((register) => program.instructions[register]!.dtype === "int32")) return null;
  if (ofRow.length > results || elements.length > results) return null;

  const passes = new Passes();
  /** Values by fours of the arrays that have any. */
  const byFours = new Map<string, number>();
  const sizesOf = new Map<number, Size>();
  const quarters = textureSize((rows * inner) / 4, inner / 4);
  const addFours = (wide: ReadonlySet<string>): void => {
    program.slots.forEach(({ buffer }) => {
      const name = nameOf(binding(buffer));
      if (buffer < 0 || !wide.has(name) || byFours.has(name)) return;
      const most = program.slots.map((slot, i) => (slot.buffer === buffer ? rangeOf(geometry, i)[1] + 1 : 0));
      const size = textureSize(Math.ceil(Math.max(...most) / 4), inner / 4);
      const value = passes.add(fours(buffer, size));
      byFours.set(name, value);
      sizesOf.set(value, size);
    });
  };
  const addShader = (writer: LoopWriter, code: GlslCode, written: Pick<Pass, "count" | "also" | "size">): number | null => {
    const { arrays } = writer;
    if (arrays.length === 0 || arrays.length > inputs || code.isForeign) return null;
    const args = writer.reads().args.map((arg) => {
      const value = arg.kind === "number" ? undefined : byFours.get(nameOf(arg));
      return value !== undefined && code.isWide(nameOf(arg as { kind: "binding"; index: number })) ? pass(value) : arg;
    });
    const sizes = args.flatMap((arg) => (arg.kind === "pass" ? (sizesOf.get(arg.index)?.join("x") ?? []) : []));
    const glsl = shader(code, arrays, 1 + (written.also?.length ?? 0), sizes.join());
    return passes.add({ source: "", functions: [], args, glsl, ...written });
  };

  const folded = rowsOf(program, geometry, ofRow, none)!;
  const { wide } = readsOf(program, geometry, folded.registers, none, false);
  addFours(wide);
  const code = new GlslCode(wide, "number", false);
  code.raw("int number = int(gl_FragCoord.y) * WIDTH + int(gl_FragCoord.x);");
  const row = new RowWriter(program, geometry, none, code, 4);
  row.folds(folded);
  row.storeRow(ofRow);
  const first = addShader(row.writer, code, { count: rows, also: ofRow.slice(1).map(() => rows) });
  if (first === null) return null;
  const known = new Map(ofRow.map((register, i) => [register, first + i]));

  if (elements.length) {
    const needed = neededFor(program, elements, known);
    const { wide } = readsOf(program, geometry, needed, known, false);
    addFours(wide);
    const code = new GlslCode(wide, "place", true);
    code.raw("int place = int(gl_FragCoord.y) * WIDTH + int(gl_FragCoord.x);");
    const [width, height] = quarters;
    let [line, q] = ["int(gl_FragCoord.y)", "int(gl_FragCoord.x)"];
    if (width !== inner / 4) [line, q] = code.split("place", inner / 4, width * height);
    code.raw(`int number = 4 * place; int row = ${line}; int q = ${q}; int k = 4 * q;`);
    code.isFour("number", "place");
    code.isFour("k", "q");
    const writer = new LoopWriter(program, geometry, known, code);
    writer.atElement("number", false);
    writer.atRow("row");
    writer.inner = "k";
    writer.beginRow(needed);
    code.each(4, () => {
      writer.compute(needed);
      elements.forEach((root, i) => {
        code.store("number", (writer.get(root) as Single).name, 4, true, i);
      });
    });
    const texels = width * height;
    const drawn = addShader(writer, code, { count: texels, also: elements.slice(1).map(() => texels), size: quarters });
    if (drawn === null) return null;
    elements.forEach((root, i) => {
      const flat = { source: `rows of ${width}`, functions: [], count: rows * inner, copiedColumns: width };
      known.set(root, passes.add({ ...flat, args: [pass(drawn + i)] }));
    });
  }
  return {
    passes: passes.all,
    results: program.stores.map(({ register, slot }) => ({ binding: program.slots[slot]!.buffer, pass: known.get(register)! })),
  };
}

/** Several values of no folds as one pass, or `null` where there is no shader for them. */
export function drawElements(
  program: LoopProgram,
  geometry: Geometry,
  roots: readonly Register[],
  { inputs, results }: DrawingLimits,
): Pass | null {
  const none = new Map<Register, number>();
  const elements = elementsOf(program, geometry, roots, none);
  if (!elements || roots.length > results) return null;
  const code = new GlslCode(new Set(), "number", false);
  code.raw("int number = int(gl_FragCoord.y) * WIDTH + int(gl_FragCoord.x);");
  const writer = new LoopWriter(program, geometry, none, code);
  writer.atElement("number", !elements.flat);
  writer.compute(elements.needed);
  roots.forEach((root, i) => {
    code.store("number", (writer.get(root) as Single).name, 1, false, i);
  });
  const { arrays } = writer;
  if (arrays.length === 0 || arrays.length > inputs || code.isForeign) return null;
  const count = valuesAt("element", geometry);
  const glsl = shader(code, arrays, roots.length);
  return { source: "", functions: [], args: writer.reads().args, glsl, count, also: roots.slice(1).map(() => count) };
}
