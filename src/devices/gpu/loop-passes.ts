/**
 * A loop program becomes passes: one a fold, one a stored value. A GPU.js kernel writes one value, so what several stores
 * need is computed in each, and only folds, and what would need more inputs than a kernel may have, go through memory.
 * On webgpu a value that needs folds of rows is one pass with all of them (row-shader.ts).
 */
import type { Geometry, LoopProgram, Register } from "../loop-program.ts";
import type { AdapterKind } from "./backend.ts";
import { renderElements } from "./loop-shader.ts";
import { type Chunks, neededFor, renderChunkFold, renderFold, renderValue, valuesAt } from "./loop-source.ts";
import type { Pass, Plan } from "./plan.ts";
import { renderRows } from "./row-shader.ts";

/** Rows at least this long are folded in chunks when there are fewer rows than `manyRows`. */
const longRow = 256;
const manyRows = 512;

function chunksOf(program: LoopProgram, geometry: Geometry): Chunks | null {
  if (program.shape !== "rows" || geometry.inner < longRow || valuesAt("row", geometry) >= manyRows) return null;
  const size = Math.ceil(Math.sqrt(geometry.inner));
  return { size, count: Math.ceil(geometry.inner / size) };
}

/**
 * @param inputs  arrays that one kernel of the mode may read
 * @param shaders what shaders of our own would run on, where they may
 */
export function loopPlan(program: LoopProgram, geometry: Geometry, inputs: number, shaders: AdapterKind | false = false): Plan {
  const software = shaders === "software";
  const passes: Pass[] = [];
  /** The pass that wrote a register to memory. */
  const known = new Map<Register, number>();

  /** What a kernel for `register` would read: buffers and earlier passes. */
  const readsOf = (register: Register): Set<string> => {
    const reads = new Set<string>();
    for (const each of neededFor(program, register, known)) {
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
        const shader = software ? renderRows(program, geometry, register, known, inputs, software) : null;
        const chunks = shader ? null : chunksOf(program, geometry);
        pass = passes.push(shader ?? renderFold(program, geometry, register, known, chunks)) - 1;
        if (chunks) pass = passes.push(renderChunkFold(program, geometry, register, pass, chunks)) - 1;
      } else {
        settle(register);
        const shader =
          software &&
          (renderRows(program, geometry, register, known, inputs, software) ??
            renderElements(program, geometry, register, known, inputs));
        pass = passes.push(shader || renderValue(program, geometry, register, known)) - 1;
      }
      known.set(register, pass);
    }
    return pass;
  };

  /** Writes to memory what the kernel for `root` cannot compute itself. */
  const settle = (root: Register): void => {
    for (const register of neededFor(program, root, known))
      if (program.instructions[register]!.kind === "reduce") written(register);
    while (readsOf(root).size > inputs) {
      let best: Register | null = null;
      let most = 1;
      for (const register of neededFor(program, root, known)) {
        if (known.has(register) || register === root || program.instructions[register]!.kind !== "apply") continue;
        const { size } = readsOf(register);
        if (size > most && size <= inputs) [best, most] = [register, size];
      }
      if (best === null) throw new Error(`gpu: a kernel would read ${readsOf(root).size} arrays, ${inputs} are allowed`);
      written(best);
    }
  };

  /** The one fold of a columns program and what comes after it, in one kernel. */
  const folded = (root: Register): number | null => {
    const folds = neededFor(program, root, known).filter((register) => program.instructions[register]!.kind === "reduce");
    const [fold] = folds;
    if (program.shape !== "columns" || folds.length !== 1 || fold === root) return null;
    const instruction = program.instructions[fold!]!;
    const { size } = new Set([...readsOf(root), ...readsOf((instruction as { arg: Register }).arg)]);
    return size > inputs ? null : passes.push(renderFold(program, geometry, fold!, known, null, root)) - 1;
  };

  /** All the folds of a rows program and what comes after them, in one shader; on a processor only where nothing else needs them. */
  const shaded = (root: Register): number | null => {
    if (!shaders || (software && program.stores.length > 1)) return null;
    const shader = renderRows(program, geometry, root, known, inputs, software);
    if (shader === null) return null;
    const pass = passes.push(shader) - 1;
    known.set(root, pass);
    return pass;
  };

  const results = program.stores.map(({ register, slot }) => ({
    binding: program.slots[slot]!.buffer,
    pass: known.get(register) ?? folded(register) ?? shaded(register) ?? written(register),
  }));
  return { passes, results };
}
