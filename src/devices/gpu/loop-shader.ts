/**
 * Values of loop programs as shaders on webgpu, where GPU.js's would do more than they have to: how the text of one is put together, and
 * values without folds, of which a thread computes several where a processor plays the card. Rows are in row-shader.ts. The statements are
 * those of `LoopWriter`, on four neighbours at once where sizes and strides allow.
 */
import type { Geometry, LoopProgram, Register } from "../loop-program.ts";
import type { AdapterKind } from "./backend.ts";
import type { Single } from "./code.ts";
import { LoopWriter, nameOf, neededFor, valuesAt } from "./loop-source.ts";
import { binding, type Pass, pass } from "./plan.ts";
import type { Lanes } from "./shader-code.ts";
import { resultName, WgslCode } from "./wgsl-code.ts";

/** Arrays of which a value is made. */
interface Reads {
  /** Names of those whose neighbours along the inner axis, from one at a four on, are a vec4. */
  readonly wide: Set<string>;
  /** Whether there are others, whose neighbours have to be gathered. */
  readonly isGathered: boolean;
}

/** @param flat whether elements are counted through all rows, and lie everywhere in that order */
export function readsOf(
  program: LoopProgram,
  { outer, inner, slots }: Geometry,
  registers: readonly Register[],
  known: ReadonlyMap<Register, number>,
  flat: boolean,
): Reads {
  const wide = new Set<string>();
  const gathered = new Set<string>();
  const single = new Set<string>();
  for (const register of registers) {
    const instruction = program.instructions[register]!;
    const inFours = flat || inner % 4 === 0;
    const earlier = known.get(register);
    if (earlier !== undefined) {
      const isWide = inFours && instruction.dtype !== "int32";
      if (instruction.level === "element") (isWide ? wide : gathered).add(nameOf(pass(earlier)));
    } else if (instruction.kind === "load") {
      const { buffer, dtype, masked } = program.slots[instruction.slot]!;
      const at = slots[instruction.slot]!;
      const distances = [at.offset, ...at.outer.filter((_, axis) => outer[axis] !== 1), ...at.reduce];
      const ends = masked.flatMap((axis, m) => (axis === outer.length ? at.valid[m]! : []));
      const isAligned = at.inner === 1 && [...distances, ...ends].every((each) => each % 4 === 0);
      const isWide = dtype !== "int32" && inFours && (flat || isAligned);
      (isWide ? wide : flat || at.inner ? gathered : single).add(nameOf(binding(buffer)));
    }
  }
  // the last floats of an array may be fewer than four, and are out of reach where it is one of vec4
  for (const name of [...gathered, ...single]) wide.delete(name);
  return { wide, isGathered: gathered.size > 0 };
}

/** The pass of a shader whose statements are written, `null` where there were some that it has no form for. */
export function assemble(
  writer: LoopWriter,
  code: WgslCode,
  inputs: number,
  { threads, workgroups, results, declarations = "" }: Assembly,
): Pass | null {
  const { arrays } = writer;
  if (arrays.length === 0 || arrays.length + results.length - code.inPlace.size - 1 > inputs || code.isForeign) return null;
  const { names, args } = writer.reads();
  const numbers = [...code.numbers.keys()];
  const written = new Set(code.inPlace.values());
  const typeOf = (isWide: boolean) => `array<${isWide ? code.types.vector : code.types.float}>`;
  const text = `struct Params { x : u32, y : u32, z : u32, width : u32, ${arrays.map((name) => `${name}_ : vec4<u32>, `).join("")}${numbers.map((name) => `${name} : f32, `).join("")}}
@group(0) @binding(0) var<uniform> params : Params;
${arrays.map((name, i) => `@group(0) @binding(${i + 1}) var<storage, ${written.has(name) ? "read_write" : "read"}> ${name} : ${typeOf(code.isWide(name))};`).join("\n")}
${results.map(({ isWide }, i) => (code.inPlace.has(i) ? "" : `@group(0) @binding(${arrays.length + 1 + i}) var<storage, read_write> ${resultName(i)} : ${typeOf(isWide)};`)).join("\n")}
${declarations}
@compute @workgroup_size(${threads})
fn main(@builtin(workgroup_id) group : vec3<u32>, @builtin(num_workgroups) groups : vec3<u32>, @builtin(local_invocation_index) t : u32) {
let place = i32(group.y * groups.x + group.x);
${numbers.map((name) => `let ${name} = params.${name};\n`).join("")}${code.lines.join("\n")}
}`;
  // GPU.js takes the names of the arguments from a body that never runs
  const read = names.map((name) => (arrays.includes(name) ? `${name}[0]` : name)).join(" + ");
  const source = `function (${names.join(", ")}) { return ${read}; }`;
  const [count, ...also] = results.map((result) => result.count) as [number, ...number[]];
  const inPlace = results.map((_, i) => (code.inPlace.has(i) ? names.indexOf(code.inPlace.get(i)!) : undefined));
  const wgsl = { code: text, workgroups, indices: "float" } as const;
  return { source, functions: [], args, count, also, ...(written.size > 0 && { inPlace }), wgsl };
}

interface Assembly {
  /** Of a workgroup. */
  readonly threads: number;
  readonly workgroups: number;
  /** Elements of each result, and whether it is written by vec4. */
  readonly results: readonly { readonly count: number; readonly isWide: boolean }[];
  readonly declarations?: string;
}

/** The first shader that can be written: one that has no form for four neighbours may have one for each alone. */
export const firstOf = (lanes: Lanes, render: (lanes: Lanes) => Pass | null): Pass | null =>
  render(lanes) ?? (lanes > 1 ? render(1) : null);

/** Elements that a thread of `renderElements` computes: a processor takes as long to begin a thread as to compute a few of them. */
const perThread = { software: 8, card: 4 };
const elementThreads = 64;

/** Registers of which values without folds are made, and whether each element finds them at its own number; `null` for other values. */
export function elementsOf(
  program: LoopProgram,
  geometry: Geometry,
  roots: readonly Register[],
  known: ReadonlyMap<Register, number>,
): { readonly needed: readonly Register[]; readonly flat: boolean } | null {
  if (valuesAt("element", geometry) === 0) return null;
  const needed = neededFor(program, roots, known);
  const isFolded = needed.some((register) => program.instructions[register]!.kind === "reduce" && !known.has(register));
  const isOther = roots.some((root) => {
    const { level, dtype } = program.instructions[root]!;
    return level !== "element" || dtype === "int32";
  });
  if (isFolded || isOther) return null;
  const writer = new LoopWriter(program, geometry, known);
  return { needed, flat: needed.every((register) => writer.isFlat(register)) };
}

/**
 * Values that may be written over an array, by its name: it is read at each element's own number only, before anything is written.
 *
 * @param inPlace buffers that are written, each with one that is read and lies at the same place
 */
function overwritten(
  program: LoopProgram,
  roots: readonly Register[],
  needed: readonly Register[],
  writer: LoopWriter,
  inPlace: ReadonlyMap<number, number>,
): Map<number, string> {
  const bufferOf = (slot: number): number => program.slots[slot]!.buffer;
  const loadsOf = (buffer: number): Register[] =>
    needed.filter((register) => {
      const instruction = program.instructions[register]!;
      return instruction.kind === "load" && bufferOf(instruction.slot) === buffer;
    });
  const names = new Map<number, string>();
  roots.forEach((root, i) => {
    const stores = program.stores.filter(({ register }) => register === root);
    const read = stores.length === 1 ? inPlace.get(bufferOf(stores[0]!.slot)) : undefined;
    if (read === undefined) return;
    const loads = loadsOf(read);
    if (loads.length > 0 && loads.every((register) => writer.isFlat(register))) names.set(i, nameOf(binding(read)));
  });
  return names;
}

/** Values of no folds; `null` as for `renderRows`. */
export function renderElements(
  program: LoopProgram,
  geometry: Geometry,
  roots: readonly Register[],
  known: ReadonlyMap<Register, number>,
  inputs: number,
  adapter: AdapterKind,
  inPlace: ReadonlyMap<number, number> = new Map(),
): Pass | null {
  const elements = elementsOf(program, geometry, roots, known);
  if (!elements) return null;
  const { needed, flat } = elements;
  const count = valuesAt("element", geometry);
  const each = perThread[adapter];
  return firstOf((flat ? count : geometry.inner) % 4 === 0 ? 4 : 1, (lanes) => {
    const wide = lanes > 1 ? readsOf(program, geometry, needed, known, flat).wide : new Set<string>();
    const code = new WgslCode(wide);
    const writer = new LoopWriter(program, geometry, known, code);
    for (const [i, name] of overwritten(program, roots, needed, writer, inPlace))
      if (wide.has(name) === lanes > 1) code.inPlace.set(i, name);
    code.raw(`let first = (place * ${elementThreads} + i32(t)) * ${each};`);
    code.raw(`for (var e = 0; e < ${each}; e += ${lanes}) {`);
    code.raw("let number = first + e;");
    code.raw(`if (number >= ${count}) { return; }`);
    code.each(lanes, () => {
      writer.atElement("number", !flat);
      writer.compute(needed);
      roots.forEach((root, i) => {
        code.store("number", (writer.get(root) as Single).name, lanes, true, i);
      });
    });
    code.raw("}");
    const workgroups = Math.ceil(count / (each * elementThreads));
    const results = roots.map(() => ({ count, isWide: lanes > 1 }));
    return assemble(writer, code, inputs, { threads: elementThreads, workgroups, results });
  });
}
