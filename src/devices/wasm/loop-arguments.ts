/**
 * The numbers of one launch as a kernel reads them: an args block of 32-bit words in wasm memory, and how the work is cut into
 * tasks. The kernel walks over "units": outer indices, times parts of the inner axis where that may be cut.
 */
import { bytesPerElement } from "../../graph/dtype.ts";
import type { Geometry, LoopProgram } from "../loop-program.ts";
import { bandColumns, bandStates, inBandsOf } from "./loop-bands.ts";
import { headBytes } from "./loop-frame.ts";
import { type LoopPlan, wholeRowsOf } from "./loop-plan.ts";

/** Byte offsets in the args block of what one slot needs. */
interface SlotLayout {
  /** Address of the first element, or the first index number. */
  readonly start: number;
  /** Strides of the walk axes, in bytes (index slots: in numbers). */
  readonly strides: number;
  /** What is added when a walk axis advances and all later ones start over. */
  readonly steps: number;
  readonly inner: number;
  /** Like `steps`, for the reduce axes. */
  readonly reduceSteps: number;
  /** Pairs from, to. */
  readonly valid: number;
}

/** Which word of the argument block holds which size, stride and address. */
export interface ArgumentLayout {
  readonly unitsPerTask: number;
  readonly units: number;
  readonly inner: number;
  /** Length of a part of the inner axis. */
  readonly part: number;
  /** Address of the first thread's scratch; the device fills it in. */
  readonly scratch: number;
  /** Bytes of scratch a thread. */
  readonly scratchStride: number;
  /** Bytes of one kept row. */
  readonly keptStride: number;
  /** Sizes of the walk axes. */
  readonly walk: number;
  readonly reduce: number;
  readonly slots: readonly SlotLayout[];
  readonly bytes: number;
  /** Parts of the inner axis are walk axis 0, the outer axes follow. */
  readonly walkAxes: number;
}

/** Gives every number that the code of a program needs a word of its own. */
export function layoutArguments(program: LoopProgram, plan: LoopPlan): ArgumentLayout {
  let words = 0;
  const take = (count: number): number => 4 * ((words += count) - count);
  const walkAxes = program.outer + (plan.splittable ? 1 : 0);
  const fixed = {
    unitsPerTask: take(1),
    units: take(1),
    inner: take(1),
    part: take(1),
    scratch: take(1),
    scratchStride: take(1),
    keptStride: take(1),
  };
  const sizes = { walk: take(walkAxes), reduce: take(program.reduce) };
  const slots = program.slots.map((slot) => ({
    start: take(1),
    strides: take(walkAxes),
    steps: take(walkAxes),
    inner: take(1),
    reduceSteps: take(program.reduce),
    valid: take(2 * slot.masked.length),
  }));
  return { ...fixed, ...sizes, slots, bytes: 4 * words, walkAxes };
}

const keptRowBytes = (length: number): number => 16 * Math.ceil(length / 4) + 64;
/** Whole cache lines, so that threads do not write to the same one. */
export function scratchBytes(program: LoopProgram, plan: LoopPlan, geometry: Geometry): number {
  const states = inBandsOf(program, plan, geometry) ? bandStates(plan) : 0;
  const together = wholeRowsOf(program, plan, geometry)?.order === "twos" ? 2 : 1;
  return 64 * Math.ceil((headBytes(program) + (together * plan.kept.size + states) * keptRowBytes(geometry.inner)) / 64);
}

/** How the work of one launch is cut. */
export interface Partition {
  readonly part: number;
  readonly parts: number;
  readonly unitsPerTask: number;
  readonly tasks: number;
}

/** Nanoseconds of one simple instruction on one element, its share of loads and stores included. */
const nanosecondsPerInstruction = 0.07;
const nanosecondsPerUnit = 12;
/** A second thread is woken for more work than this. */
const splitAbove = 10_000;
/** Smaller tasks cost more to hand out than they even out. */
const taskNanoseconds = 4_000;

/** What a launch costs on one thread, in nanoseconds, roughly. */
export function estimateCost(plan: LoopPlan, geometry: Geometry): number {
  const product = (sizes: readonly number[]) => sizes.reduce((a, b) => a * b, 1);
  const rows = product(geometry.outer);
  const elements = rows * geometry.inner;
  const [first, second] = plan.passes;
  const folded = geometry.reduce.length ? product(geometry.reduce) : 1;
  const perElement =
    geometry.reduce.length && first && second
      ? first.cost * folded + second.cost
      : plan.passes.reduce((sum, pass) => sum + pass.cost, 0);
  return elements * perElement * nanosecondsPerInstruction + rows * plan.passes.length * nanosecondsPerUnit;
}

/** Whether a slot lies across: neighbours along the inner axis on different cache lines, neighbours along the last outer axis on one. */
function crossesLines(program: LoopProgram, { outer, slots }: Geometry): boolean {
  if (program.shape === "columns" || program.instructions.some(({ kind }) => kind === "reduce")) return false;
  const last = outer.length - 1;
  return program.slots.some(({ buffer, dtype, inner }, i) => {
    const bytes = bytesPerElement(dtype);
    const next = slots[i]!.outer[last];
    return (
      buffer >= 0 &&
      inner === "strided" &&
      Math.abs(slots[i]!.inner) * bytes >= 64 &&
      next !== undefined &&
      Math.abs(next) * bytes < 64
    );
  });
}

/**
 * Cuts a launch into tasks. Which elements are computed together never changes a result, only who computes them.
 *
 * @param together rows of a unit
 */
export function partition(program: LoopProgram, plan: LoopPlan, geometry: Geometry, threads: number, together = 1): Partition {
  const rows = geometry.outer.reduce((a, b) => a * b, 1);
  const cost = together * estimateCost(plan, geometry);
  const wanted =
    threads === 1 || cost < splitAbove ? 1 : Math.max(threads, Math.min(4 * threads, Math.floor(cost / taskNanoseconds)));
  const inBands = inBandsOf(program, plan, geometry);
  // short pieces of rows are read at half the speed: no more of them than threads
  const pieces = inBands ? Math.min(wanted, threads) : wanted;
  let part = Math.max(geometry.inner, 1);
  let parts = 1;
  if (crossesLines(program, geometry)) {
    // as many lines as surely stay in the first-level cache until the neighbouring row reads on in them
    part = Math.min(part, 16);
    parts = Math.ceil(geometry.inner / part);
  } else if (plan.splittable && wanted > 1 && rows < pieces) {
    // whole cache lines, so that threads do not write to the same one
    const grain = program.shape === "columns" ? 16 : 64;
    part = Math.max(grain, Math.ceil(geometry.inner / Math.ceil(pieces / rows) / grain) * grain);
    parts = Math.max(1, Math.ceil(geometry.inner / part));
  }
  if (part > bandColumns && inBands) {
    part = bandColumns;
    parts = Math.ceil(geometry.inner / part);
  }
  const units = rows * parts;
  const unitsPerTask = Math.max(1, Math.ceil(units / wanted));
  return { part, parts, unitsPerTask, tasks: Math.ceil(units / unitsPerTask) };
}

/** The args block but for the scratch address. `addresses` follow the program's buffers. */
export function writeArguments(
  program: LoopProgram,
  plan: LoopPlan,
  layout: ArgumentLayout,
  geometry: Geometry,
  cut: Partition,
  addresses: readonly number[],
): Int32Array {
  const words = new Int32Array(layout.bytes / 4);
  const put = (offset: number, value: number) => {
    words[offset >> 2] = value;
  };
  const walk = [...(plan.splittable ? [cut.parts] : []), ...geometry.outer];
  put(layout.unitsPerTask, cut.unitsPerTask);
  put(
    layout.units,
    walk.reduce((a, b) => a * b, 1),
  );
  put(layout.inner, geometry.inner);
  put(layout.part, cut.part);
  put(layout.scratchStride, scratchBytes(program, plan, geometry));
  put(layout.keptStride, keptRowBytes(geometry.inner));
  walk.forEach((size, axis) => {
    put(layout.walk + 4 * axis, size);
  });
  geometry.reduce.forEach((size, axis) => {
    put(layout.reduce + 4 * axis, size);
  });
  program.slots.forEach((slot, index) => {
    const at = layout.slots[index]!;
    const { offset, outer, inner, reduce, valid } = geometry.slots[index]!;
    const unit = slot.buffer < 0 ? 1 : bytesPerElement(slot.dtype);
    put(at.start, (slot.buffer < 0 ? 0 : addresses[slot.buffer]!) + unit * offset);
    const strides = [...(plan.splittable ? [cut.part * inner] : []), ...outer];
    strides.forEach((stride, axis) => {
      put(at.strides + 4 * axis, unit * stride);
    });
    stepsOf(strides, walk).forEach((step, axis) => {
      put(at.steps + 4 * axis, unit * step);
    });
    put(at.inner, unit * inner);
    stepsOf(reduce, geometry.reduce).forEach((step, axis) => {
      put(at.reduceSteps + 4 * axis, unit * step);
    });
    valid.forEach(([from, to], axis) => {
      put(at.valid + 8 * axis, from);
      put(at.valid + 8 * axis + 4, to);
    });
  });
  return words;
}

/** When axis a advances, axis a + 1 has just gone past its end. */
const stepsOf = (strides: readonly number[], sizes: readonly number[]): number[] =>
  strides.map((stride, axis) => stride - (axis + 1 < strides.length ? strides[axis + 1]! * sizes[axis + 1]! : 0));
