/**
 * Renders a loop program to plain JavaScript: nested loops over ordinary arrays, every value in float64.
 * This is what a loop program means; the other devices are tested against it.
 */
import { fromBFloat16Bits, fromFloat16Bits, type TypedArray, toBFloat16Bits, toFloat16Bits } from "../../graph/dtype.ts";
import type { Geometry, Instruction, LoopProgram } from "../loop-program.ts";

/** A loop program as a JavaScript function over arrays of float64 (or whole numbers). */
export type RenderedProgram = (buffers: readonly TypedArray[], geometry: Geometry) => void;

const bits = new DataView(new ArrayBuffer(4));

/** Functions that the `js` of an elementwise entry may call besides Math. */
export const scalarFunctions = {
  /** Error function by its Taylor series near 0 and a continued fraction of erfc beyond; correct to about 1e-15. */
  erf(x: number): number {
    const a = Math.abs(x);
    if (Number.isNaN(x)) return x;
    if (a > 6) return Math.sign(x);
    if (a < 2.5) {
      let term = x;
      let sum = x;
      for (let n = 1; Math.abs(term) > 1e-18 * Math.abs(sum); n++) {
        term *= (-x * x) / n;
        sum += term / (2 * n + 1);
        if (n > 200) break;
      }
      return (2 / Math.sqrt(Math.PI)) * sum;
    }
    let fraction = 0;
    for (let n = 60; n > 0; n--) fraction = n / 2 / (a + fraction);
    return Math.sign(x) * (1 - Math.exp(-a * a) / Math.sqrt(Math.PI) / (a + fraction));
  },
  /** Remainder with the sign of the divisor. Integers give 0 for a divisor 0. */
  mod(x: number, y: number): number {
    const r = x % y;
    return r !== 0 && r < 0 !== y < 0 ? r + y : r;
  },
  floatBits(x: number): number {
    bits.setFloat32(0, x);
    return bits.getInt32(0);
  },
  bitsFloat(x: number): number {
    bits.setInt32(0, x);
    return bits.getFloat32(0);
  },
  roundFloat16: (x: number): number => fromFloat16Bits(toFloat16Bits(x)),
  roundBFloat16: (x: number): number => fromBFloat16Bits(toBFloat16Bits(x)),
};

/** The plain loops that a program means, as JavaScript: what every other device is compared with. */
export function renderLoopProgram(program: LoopProgram): RenderedProgram {
  const source = program.shape === "rows" ? rows(program) : columns(program);
  const names = Object.keys(scalarFunctions);
  return new Function(...names, `"use strict"; return function (buffers, geometry) {\n${source}\n};`)(
    ...Object.values(scalarFunctions),
  ) as RenderedProgram;
}

const outerIndices = (program: LoopProgram): string[] => Array.from({ length: program.outer }, (_, axis) => `o${axis}`);
const reduceIndices = (program: LoopProgram): string[] => Array.from({ length: program.reduce }, (_, axis) => `k${axis}`);

/** Address of a slot at the current indices. `i` is absent at row level. */
function address(program: LoopProgram, slot: number, inner: boolean, reduce: boolean): string {
  const terms = [`geometry.slots[${slot}].offset`];
  for (const [axis, name] of outerIndices(program).entries()) terms.push(`${name} * geometry.slots[${slot}].outer[${axis}]`);
  if (inner) terms.push(`i * geometry.slots[${slot}].inner`);
  if (reduce)
    for (const [axis, name] of reduceIndices(program).entries()) terms.push(`${name} * geometry.slots[${slot}].reduce[${axis}]`);
  return terms.join(" + ");
}

function expression(program: LoopProgram, instruction: Instruction, inner: boolean, reduce: boolean): string {
  switch (instruction.kind) {
    case "constant":
      return Object.is(instruction.value, -0) ? "-0" : String(instruction.value);
    case "index":
      return address(program, instruction.slot, inner, reduce);
    case "load": {
      const slot = program.slots[instruction.slot]!;
      const indices = [...outerIndices(program), "i", ...reduceIndices(program)];
      const inside = slot.masked.map(
        (axis, m) =>
          `${indices[axis]} >= geometry.slots[${instruction.slot}].valid[${m}][0] && ${indices[axis]} < geometry.slots[${instruction.slot}].valid[${m}][1]`,
      );
      const value = `buffers[${slot.buffer}][${address(program, instruction.slot, inner, reduce)}]`;
      return inside.length ? `(${inside.join(" && ")} ? ${value} : 0)` : value;
    }
    case "apply": {
      const from = instruction.args.map((register) => program.instructions[register]!.dtype);
      const value = instruction.op.js(
        instruction.args.map((register) => `r${register}`),
        { from, to: instruction.dtype },
      );
      // integers live in 32 bits, or 8
      if (instruction.dtype === "int32") return `(${value}) | 0`;
      return instruction.dtype === "uint8" ? `(${value}) & 255` : value;
    }
    case "reduce":
      throw new Error("a fold is not an expression");
  }
}

function rows(program: LoopProgram): string {
  const lines: string[] = [];
  const say = (line: string) => lines.push(line);
  outerIndices(program).forEach((name, axis) => {
    say(`for (let ${name} = 0; ${name} < geometry.outer[${axis}]; ${name}++) {`);
  });
  const rowAt = (stage: number) => {
    program.instructions.forEach((instruction, register) => {
      if (instruction.level === "row" && instruction.stage === stage && instruction.kind !== "reduce")
        say(`const r${register} = ${expression(program, instruction, false, false)};`);
    });
  };
  for (let stage = 0; stage < program.stages; stage++) {
    rowAt(stage);
    const folds = program.instructions.flatMap((instruction, register) =>
      instruction.kind === "reduce" && instruction.stage === stage + 1 ? [{ instruction, register }] : [],
    );
    for (const { instruction, register } of folds) say(`let r${register} = ${instruction.op.identity};`);
    say("for (let i = 0; i < geometry.inner; i++) {");
    program.instructions.forEach((instruction, register) => {
      if (instruction.level === "element" && instruction.stage <= stage && instruction.kind !== "reduce")
        say(`const r${register} = ${expression(program, instruction, true, false)};`);
    });
    for (const { instruction, register } of folds)
      say(
        `r${register} = ${instruction.op.js(`r${register}`, `r${instruction.arg}`)}${instruction.dtype === "int32" ? " | 0" : ""};`,
      );
    for (const store of program.stores)
      if (store.stage === stage && program.instructions[store.register]!.level === "element")
        say(`buffers[${program.slots[store.slot]!.buffer}][${address(program, store.slot, true, false)}] = r${store.register};`);
    say("}");
  }
  rowAt(program.stages);
  for (const store of program.stores)
    if (program.instructions[store.register]!.level === "row")
      say(`buffers[${program.slots[store.slot]!.buffer}][${address(program, store.slot, false, false)}] = r${store.register};`);
  say("}".repeat(program.outer));
  return lines.join("\n");
}

function columns(program: LoopProgram): string {
  const lines: string[] = [];
  const say = (line: string) => lines.push(line);
  outerIndices(program).forEach((name, axis) => {
    say(`for (let ${name} = 0; ${name} < geometry.outer[${axis}]; ${name}++) {`);
  });
  say("for (let i = 0; i < geometry.inner; i++) {");
  const folds = program.instructions.flatMap((instruction, register) =>
    instruction.kind === "reduce" ? [{ instruction, register }] : [],
  );
  for (const { instruction, register } of folds) say(`let r${register} = ${instruction.op.identity};`);
  reduceIndices(program).forEach((name, axis) => {
    say(`for (let ${name} = 0; ${name} < geometry.reduce[${axis}]; ${name}++) {`);
  });
  program.instructions.forEach((instruction, register) => {
    if (instruction.level === "body") say(`const r${register} = ${expression(program, instruction, true, true)};`);
  });
  for (const { instruction, register } of folds)
    say(
      `r${register} = ${instruction.op.js(`r${register}`, `r${instruction.arg}`)}${instruction.dtype === "int32" ? " | 0" : ""};`,
    );
  say("}".repeat(program.reduce));
  program.instructions.forEach((instruction, register) => {
    if (instruction.level === "element" && instruction.kind !== "reduce")
      say(`const r${register} = ${expression(program, instruction, true, false)};`);
  });
  for (const store of program.stores)
    say(`buffers[${program.slots[store.slot]!.buffer}][${address(program, store.slot, true, false)}] = r${store.register};`);
  say("}".repeat(program.outer + 1));
  return lines.join("\n");
}
