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

/** Number of the texel that a thread writes. */
const ownTexel = "int(gl_FragCoord.y) * WIDTH + int(gl_FragCoord.x)";

/** The passes of a program of rows while they are written. */
class RowDrawing {
  readonly passes = new Passes();
  private readonly program: LoopProgram;
  private readonly geometry: Geometry;
  private readonly inputs: number;
  /** Values by fours of the arrays that have any. */
  private readonly byFours = new Map<string, number>();
  private readonly sizes = new Map<number, Size>();

  constructor(program: LoopProgram, geometry: Geometry, inputs: number) {
    this.program = program;
    this.geometry = geometry;
    this.inputs = inputs;
  }

  /** What a shader reads by fours, once for all of them. */
  private wideOf(registers: readonly Register[], known: ReadonlyMap<Register, number>): ReadonlySet<string> {
    const { program, geometry } = this;
    const { wide } = readsOf(program, geometry, registers, known, false);
    program.slots.forEach(({ buffer }) => {
      const name = nameOf(binding(buffer));
      if (buffer < 0 || !wide.has(name) || this.byFours.has(name)) return;
      const most = program.slots.map((slot, i) => (slot.buffer === buffer ? rangeOf(geometry, i)[1] + 1 : 0));
      const size = textureSize(Math.ceil(Math.max(...most) / 4), geometry.inner / 4);
      const value = this.passes.add(fours(buffer, size));
      this.byFours.set(name, value);
      this.sizes.set(value, size);
    });
    return wide;
  }

  /** @returns the first value that the shader writes, or `null` where it reads too much or nothing */
  private add(writer: LoopWriter, code: GlslCode, written: Pick<Pass, "count" | "also" | "size">): number | null {
    const { arrays } = writer;
    if (arrays.length === 0 || arrays.length > this.inputs || code.isForeign) return null;
    const args = writer.reads().args.map((arg) => {
      const value = arg.kind === "number" ? undefined : this.byFours.get(nameOf(arg));
      return value !== undefined && code.isWide(nameOf(arg as { kind: "binding"; index: number })) ? pass(value) : arg;
    });
    const sizes = args.flatMap((arg) => (arg.kind === "pass" ? (this.sizes.get(arg.index)?.join("x") ?? []) : []));
    const glsl = shader(code, arrays, 1 + (written.also?.length ?? 0), sizes.join());
    return this.passes.add({ source: "", functions: [], args, glsl, ...written });
  }

  /** A thread a row: the values `ofRow`, by their registers. */
  rows(ofRow: readonly Register[]): Map<Register, number> | null {
    const { program, geometry } = this;
    const none = new Map<Register, number>();
    const folded = rowsOf(program, geometry, ofRow, none)!;
    const code = new GlslCode(this.wideOf(folded.registers, none), "number", false);
    code.raw(`int number = ${ownTexel};`);
    const row = new RowWriter(program, geometry, none, code, 4);
    row.folds(folded);
    row.storeRow(ofRow);
    const count = valuesAt("row", geometry);
    const first = this.add(row.writer, code, { count, also: ofRow.slice(1).map(() => count) });
    return first === null ? null : new Map(ofRow.map((register, i) => [register, first + i]));
  }

  /** A thread four elements: `roots`, which read what is known of their row. */
  elements(roots: readonly Register[], known: ReadonlyMap<Register, number>): Map<Register, number> | null {
    const { program, geometry } = this;
    const { inner } = geometry;
    const needed = neededFor(program, roots, known);
    const count = valuesAt("element", geometry);
    const size = textureSize(count / 4, inner / 4);
    const [width, height] = size;
    const texels = width * height;
    const code = new GlslCode(this.wideOf(needed, known), "place", true);
    code.raw(`int place = ${ownTexel};`);
    let [line, q] = ["int(gl_FragCoord.y)", "int(gl_FragCoord.x)"];
    if (width !== inner / 4) [line, q] = code.split("place", inner / 4, texels);
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
      roots.forEach((root, i) => {
        code.store("number", (writer.get(root) as Single).name, 4, true, i);
      });
    });
    const drawn = this.add(writer, code, { count: texels, also: roots.slice(1).map(() => texels), size });
    if (drawn === null) return null;
    const flat = { source: `rows of ${width}`, functions: [], count, copiedColumns: width };
    return new Map(roots.map((root, i) => [root, this.passes.add({ ...flat, args: [pass(drawn + i)] })]));
  }
}

/** A program of rows, or `null` where there is no shader for it. */
export function drawRows(program: LoopProgram, geometry: Geometry, { inputs, results }: DrawingLimits): Plan | null {
  const { inner } = geometry;
  if (program.shape !== "rows" || inner % 4 !== 0 || !enoughRows(valuesAt("row", geometry), inner)) return null;
  const roots = storedIn(program);
  const none = new Map<Register, number>();
  if (!rowsOf(program, geometry, roots, none)?.folds.length) return null;
  const elements = roots.filter((root) => isElement(program, root));
  const handed = handedOn(program, neededFor(program, elements, none));
  const ofRow = [...new Set([...handed, ...roots.filter((root) => !isElement(program, root))])];
  if (ofRow.some((register) => program.instructions[register]!.dtype === "int32")) return null;
  if (ofRow.length > results || elements.length > results) return null;
  const drawing = new RowDrawing(program, geometry, inputs);
  const known = drawing.rows(ofRow);
  const written = known && elements.length > 0 ? drawing.elements(elements, known) : known;
  if (!known || !written) return null;
  return {
    passes: drawing.passes.all,
    results: program.stores.map(({ register, slot }) => ({
      binding: program.slots[slot]!.buffer,
      pass: (written.get(register) ?? known.get(register))!,
    })),
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
  code.raw(`int number = ${ownTexel};`);
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
