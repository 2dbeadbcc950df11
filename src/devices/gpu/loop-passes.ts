/**
 * A loop program becomes passes: one a fold, one a stored value. A GPU.js kernel writes one value, so what several stores
 * need is computed in each, and only folds, and what would need more inputs than a kernel may have, go through memory.
 * Shaders of ours write several: on webgpu a program of rows is one pass with all its folds (row-shader.ts), and where there are
 * none, all values are one (loop-shader.ts). Elsewhere there are kernels by hand for what is known of rows (by-hand.ts); the rest is rendered.
 */
import { DeviceError } from "../../errors.ts";
import type { Geometry, LoopProgram, Register } from "../loop-program.ts";
import type { AdapterKind } from "./backend.ts";
import { byHand, takeByHand } from "./by-hand.ts";
import { drawElements, drawRows } from "./loop-drawing.ts";
import { renderElements } from "./loop-shader.ts";
import { type Chunks, neededFor, renderChunkFold, renderFold, renderValue, storedIn, valuesAt } from "./loop-source.ts";
import { Passes, type Plan } from "./plan.ts";
import { renderRows } from "./row-shader.ts";

/** Rows at least this long are folded in chunks when there are fewer rows than `manyRows`. */
const longRow = 256;
const manyRows = 512;

function chunksOf(program: LoopProgram, geometry: Geometry): Chunks | null {
  if (program.shape !== "rows" || geometry.inner < longRow || valuesAt("row", geometry) >= manyRows) return null;
  const size = Math.ceil(Math.sqrt(geometry.inner));
  return { size, count: Math.ceil(geometry.inner / size) };
}

/** Where shaders of our own may run. */
export interface Shaders {
  readonly language: "wgsl" | "glsl";
  readonly adapter: AdapterKind;
  /** Values that one may write. */
  readonly results: number;
}

/** What a kernel for `register` would read: buffers and earlier passes. */
function readsOf(program: LoopProgram, known: ReadonlyMap<Register, number>, register: Register): Set<string> {
  const reads = new Set<string>();
  for (const each of neededFor(program, [register], known)) {
    const instruction = program.instructions[each]!;
    if (known.has(each)) reads.add(`p${known.get(each)}`);
    else if (instruction.kind === "load") reads.add(`b${program.slots[instruction.slot]!.buffer}`);
  }
  return reads;
}

/**
 * The part of what `root` needs that reads the most arrays, as many as a kernel may.
 *
 * @throws {DeviceError} when one operation reads more
 */
function largestPart(program: LoopProgram, known: ReadonlyMap<Register, number>, root: Register, inputs: number): Register {
  let best: Register | null = null;
  let most = 1;
  for (const register of neededFor(program, [root], known)) {
    if (known.has(register) || register === root || program.instructions[register]!.kind !== "apply") continue;
    const { size } = readsOf(program, known, register);
    if (size > most && size <= inputs) [best, most] = [register, size];
  }
  if (best !== null) return best;
  const { size } = readsOf(program, known, root);
  throw new DeviceError(`a kernel would read ${size} arrays, and one may read ${inputs} here.`, {
    operation: "gpu",
    expected: inputs,
    got: size,
    hint: "Give large parts of the expression to realize() first, or use the wasm device.",
  });
}

/**
 * @param inputs    arrays that one kernel of the mode may read
 * @param given     shaders of ours that the mode may run
 * @param isVisible the processor computes, one thread after the other
 * @param inPlace   buffers that are written, each with one that is read and lies at the same place
 * @throws {DeviceError} when one operation reads more arrays than a kernel may, so that nothing is left to split
 */
export function loopPlan(
  program: LoopProgram,
  geometry: Geometry,
  inputs: number,
  given?: Shaders,
  isVisible = false,
  inPlace: ReadonlyMap<number, number> = new Map(),
): Plan {
  const drawing = given?.language === "glsl" ? { inputs, results: given.results } : null;
  const drawn = drawing && given!.adapter === "software" ? drawRows(program, geometry, drawing) : null;
  if (drawn) return drawn;
  const shaders = given?.language === "wgsl" && given.adapter;
  const software = shaders === "software";
  const passes = new Passes();
  /** Values that are registers in memory. */
  const known = new Map<Register, number>();

  /** A shader for `roots` with all folds that they need, where there is one. */
  const rowShader = (roots: readonly Register[]) =>
    shaders ? renderRows(program, geometry, roots, known, inputs, software) : null;
  /** That one, or one without folds. */
  const shaderOf = (roots: readonly Register[], places?: ReadonlyMap<number, number>) =>
    shaders ? (rowShader(roots) ?? renderElements(program, geometry, roots, known, inputs, shaders, places)) : null;

  const written = (register: Register): number => {
    const before = known.get(register);
    if (before !== undefined) return before;
    const instruction = program.instructions[register]!;
    let pass: number;
    if (instruction.kind === "reduce") {
      // Whoever asks which element was the largest compares with this very value: computed again in another kernel it might
      // differ in its last bit (cpu mode computes in float64, GPUs contract products and sums as they like), and none be it.
      const compared = program.shape === "rows" && instruction.op.name === "maxReduce";
      if (compared && program.instructions[instruction.arg]!.kind === "apply") written(instruction.arg);
      settle(instruction.arg);
      const shader = software ? rowShader([register]) : null;
      const chunks = shader ? null : chunksOf(program, geometry);
      pass = passes.add(shader ?? renderFold(program, geometry, register, known, chunks));
      if (chunks) pass = passes.add(renderChunkFold(program, geometry, register, pass, chunks));
    } else {
      settle(register);
      const shader = software ? shaderOf([register]) : null;
      pass = passes.add(shader ?? renderValue(program, geometry, register, known));
    }
    known.set(register, pass);
    return pass;
  };

  /** Writes to memory what the kernel for `root` cannot compute itself. */
  const settle = (root: Register): void => {
    for (const register of neededFor(program, [root], known))
      if (program.instructions[register]!.kind === "reduce") written(register);
    while (readsOf(program, known, root).size > inputs) written(largestPart(program, known, root, inputs));
  };

  /** The one fold of a columns program and what comes after it, in one kernel. */
  const folded = (root: Register): number | null => {
    const folds = neededFor(program, [root], known).filter((register) => program.instructions[register]!.kind === "reduce");
    const [fold] = folds;
    if (program.shape !== "columns" || folds.length !== 1 || fold === root) return null;
    const { arg } = program.instructions[fold!] as { arg: Register };
    const { size } = new Set([root, arg].flatMap((register) => [...readsOf(program, known, register)]));
    return size > inputs ? null : passes.add(renderFold(program, geometry, fold!, known, null, root));
  };

  /** All the folds of a rows program and what comes after them, in one shader; on a processor only where nothing else needs them. */
  const shaded = (root: Register): number | null => {
    const shader = software && program.stores.length > 1 ? null : rowShader([root]);
    if (!shader) return null;
    const pass = passes.add(shader);
    known.set(root, pass);
    return pass;
  };

  /** All stored values in one shader, where there is one. */
  const together = (): void => {
    const roots = storedIn(program);
    if (program.shape !== "rows" || (roots.length < 2 && !inPlace.size)) return;
    // nothing else reads what is written over, this being the only pass
    const shader = shaderOf(roots, inPlace) ?? (drawing && drawElements(program, geometry, roots, drawing));
    if (!shader) return;
    const first = passes.add(shader);
    roots.forEach((root, i) => {
      known.set(root, first + i);
    });
  };

  together();
  // where rows are cut, so that there are threads enough, nothing is by hand
  if (!shaders && (isVisible || !chunksOf(program, geometry)))
    takeByHand(program, byHand(program, geometry, inputs, isVisible), passes, known, written);
  const results = program.stores.map(({ register, slot }) => ({
    binding: program.slots[slot]!.buffer,
    pass: known.get(register) ?? folded(register) ?? shaded(register) ?? written(register),
  }));
  return { passes: passes.all, results };
}
