/** What a mode can hold and index, asked before anything runs. */
import { DeviceError } from "../../errors.ts";
import type { CallGeometry } from "../../graph/primitive.ts";
import type { KernelCall } from "../device.ts";
import type { Geometry, LoopProgram } from "../loop-program.ts";
import type { Backend } from "./backend.ts";
import { countsOf, floatsPerElement, type Plan } from "./plan.ts";

/** Whole numbers that a float32 holds exactly: kernels of GPU.js compute their indices in it. */
export const exactIn32Bits = 2 ** 24;

/** Floats of a value from its first to the last that is read, given the extents and strides of its axes. */
function reach(offset: number, axes: readonly (readonly [extent: number, stride: number])[]): number {
  if (axes.some(([extent]) => extent === 0)) return 0;
  return axes.reduce((last, [extent, stride]) => last + Math.max(0, (extent - 1) * stride), offset) + 1;
}

/** The least and the largest address of a slot. */
export function rangeOf({ outer, inner, reduce, slots }: Geometry, slot: number): [least: number, most: number] {
  const at = slots[slot]!;
  const extents = [...outer, inner, ...reduce];
  const ends = [...at.outer, at.inner, ...at.reduce].map((stride, axis) => (extents[axis]! - 1) * stride);
  const sum = (numbers: readonly number[]) => numbers.reduce((a, b) => a + b, at.offset);
  return [sum(ends.map((end) => Math.min(0, end))), sum(ends.map((end) => Math.max(0, end)))];
}

/** By binding. */
export function loopReach({ slots }: LoopProgram, geometry: Geometry): number[] {
  const reaches: number[] = [];
  slots.forEach(({ buffer, dtype }, i) => {
    const at = geometry.slots[i]!;
    const axes = [
      ...geometry.outer.map((extent, axis) => [extent, at.outer[axis]!] as const),
      [geometry.inner, at.inner] as const,
      ...geometry.reduce.map((extent, axis) => [extent, at.reduce[axis]!] as const),
    ];
    reaches[buffer] = Math.max(reaches[buffer] ?? 0, reach(at.offset, axes) * floatsPerElement(dtype));
  });
  return reaches;
}

/** By binding. */
export const callReach = ({ operands: dtypes }: KernelCall, { operands }: CallGeometry): number[] =>
  operands.map(({ shape, strides, offset }, i) => {
    const axes = shape.map((extent, axis) => [extent, strides[axis]!] as const);
    return reach(offset, axes) * floatsPerElement(dtypes[i]!);
  });

/** @throws {DeviceError} for a value of more floats than one array of the mode holds */
export function checkHeld(floats: number, { limit, mode }: Pick<Backend, "limit" | "mode">, operation: string): void {
  if (floats <= limit) return;
  throw new DeviceError(`a value takes ${floats} floats, mode ${mode} of the gpu device holds ${limit} in one array.`, {
    operation,
    expected: limit,
    got: floats,
    hint: "Use a smaller batch, or the wasm device.",
  });
}

/**
 * @param reaches floats of each binding that are read
 * @throws {DeviceError} for values that the mode cannot hold, or whose elements its kernels cannot tell apart: indices are floats,
 *   but for tables that are read by row and column, and for shaders of our own
 */
export function checkLimits({ passes }: Plan, reaches: readonly number[], backend: Backend, operation: string): void {
  const written = passes.flatMap(countsOf);
  for (const each of passes) {
    const { args, wgsl } = each;
    const counts = countsOf(each);
    for (const count of counts) checkHeld(count, backend, operation);
    const read = args.map((arg) => {
      if (arg.kind === "number" || arg.row !== undefined) return 0;
      return arg.kind === "pass" ? written[arg.index]! : (reaches[arg.index] ?? 0);
    });
    const most = Math.max(...counts, ...read);
    if (most <= backend.exact || (wgsl && !wgsl.indices && backend.mode === "webgpu")) continue;
    throw new DeviceError(
      `a value takes ${most} floats, of which kernels in mode ${backend.mode} of the gpu device can tell ${backend.exact} apart.`,
      {
        operation,
        expected: backend.exact,
        got: most,
        hint: "Use a smaller batch, or the wasm device.",
      },
    );
  }
}
