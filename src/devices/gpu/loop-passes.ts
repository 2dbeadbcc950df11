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

/**
 * @param inputs    arrays that one kernel of the mode may read
 * @param given     shaders of ours that the mode may run
 * @param isVisible the processor computes, one thread after the other
 * @throws {DeviceError} when one operation reads more arrays than a kernel may, so that nothing is left to split
 */
export function loopPlan(program: LoopProgram, geometry: Geometry, inputs: number, given?: Shaders, isVisible = false): Plan {
  const drawing = given?.language === "glsl" ? { inputs, results: given.results } : null;
  const drawn = drawing && given!.adapter === "software" ? drawRows(program, geometry, drawing) : null;
  if (drawn) return drawn;
  const shaders = given?.language === "wgsl" && given.adapter;
  const software = shaders === "software";
  const passes = new Passes();
  /** Values that are registers in memory. */
  const known = new Map<Register, number>();

  /** What a kernel for `register` would read: buffers and earlier passes. */
  const readsOf = (register: Register): Set<string> => {
    const reads = new Set<string>();
    for (const each of neededFor(program, [register], known)) {
      const instruction = program.instructions[each]!;
      if (known.has(each)) reads.add(`p${known.get(each)}`);
      else if (instruction.kind === "load") reads.add(`b${program.slots[instruction.slot]!.buffer}`);
    }
    return reads;
  };

  const written = (register: Register): number => {
    let pass = known.get(register);
    if (pass === undefined) {
      const instruction = program.instructions[register]!;
      if (instruction.kind === "reduce") {
        // Whoever asks which element was the largest compares with this very value: computed again in another kernel it might
        // differ in its last bit (cpu mode computes in float64, GPUs contract products and sums as they like), and none be it.
        const compared = program.shape === "rows" && instruction.op.name === "maxReduce";
        if (compared && program.instructions[instruction.arg]!.kind === "apply") written(instruction.arg);
        settle(instruction.arg);
        const shader = software ? renderRows(program, geometry, [register], known, inputs, software) : null;
        const chunks = shader ? null : chunksOf(program, geometry);
        pass = passes.add(shader ?? renderFold(program, geometry, register, known, chunks));
        if (chunks) pass = passes.add(renderChunkFold(program, geometry, register, pass, chunks));
      } else {
        settle(register);
        const shader =
          software &&
          (renderRows(program, geometry, [register], known, inputs, software) ??
            renderElements(program, geometry, [register], known, inputs, shaders));
        pass = passes.add(shader || renderValue(program, geometry, register, known));
      }
      known.set(register, pass);
    }
    return pass;
  };

  /** Writes to memory what the kernel for `root` cannot compute itself. */
  const settle = (root: Register): void => {
    for (const register of neededFor(program, [root], known))
      if (program.instructions[register]!.kind === "reduce") written(register);
    while (readsOf(root).size > inputs) {
      let best: Register | null = null;
      let most = 1;
      for (const register of neededFor(program, [root], known)) {
        if (known.has(register) || register === root || program.instructions[register]!.kind !== "apply") continue;
        const { size } = readsOf(register);
        if (size > most && size <= inputs) [best, most] = [register, size];
      }
      if (best === null)
        throw new DeviceError(`a kernel would read ${readsOf(root).size} arrays, and one may read ${inputs} here.`, {
          operation: "gpu",
          expected: inputs,
          got: readsOf(root).size,
          hint: "Give large parts of the expression to realize() first, or use the wasm device.",
        });
      written(best);
    }
  };

  /** The one fold of a columns program and what comes after it, in one kernel. */
  const folded = (root: Register): number | null => {
    const folds = neededFor(program, [root], known).filter((register) => program.instructions[register]!.kind === "reduce");
    const [fold] = folds;
    if (program.shape !== "columns" || folds.length !== 1 || fold === root) return null;
    const instruction = program.instructions[fold!]!;
    const { size } = new Set([...readsOf(root), ...readsOf((instruction as { arg: Register }).arg)]);
    return size > inputs ? null : passes.add(renderFold(program, geometry, fold!, known, null, root));
  };

  /** All the folds of a rows program and what comes after them, in one shader; on a processor only where nothing else needs them. */
  const shaded = (root: Register): number | null => {
    if (!shaders || (software && program.stores.length > 1)) return null;
    const shader = renderRows(program, geometry, [root], known, inputs, software);
    if (shader === null) return null;
    const pass = passes.add(shader);
    known.set(root, pass);
    return pass;
  };

  /** All stored values in one shader, where there is one. */
  const together = (): void => {
    const roots = storedIn(program);
    if (program.shape !== "rows" || roots.length < 2) return;
    const shader = shaders
      ? (renderRows(program, geometry, roots, known, inputs, software) ??
        renderElements(program, geometry, roots, known, inputs, shaders))
      : drawing && drawElements(program, geometry, roots, drawing);
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
