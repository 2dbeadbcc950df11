/** Kernel calls as plans: the matrix product as a loop program, the others by the kernels in kernels/gpu. */
import { scatterAdd, scatterAddInteger, take } from "../../../kernels/gpu/indexing.ts";
import { order, rank, rankInteger, scanStep, scanStepInteger } from "../../../kernels/gpu/sorting.ts";
import { ShapeError } from "../../errors.ts";
import { addOp, mulOp } from "../../graph/elementwise.ts";
import type { CallGeometry, Operand } from "../../graph/primitive.ts";
import { sumOp } from "../../graph/reduction.ts";
import { sizeOf } from "../../graph/shape.ts";
import type { KernelCall } from "../device.ts";
import type { Geometry, Instruction, LoopProgram, Slot, SlotGeometry } from "../loop-program.ts";
import { loopPlan } from "./loop-passes.ts";
import { type Argument, floatsPerElement, type Pass, type Plan } from "./plan.ts";

type PlanCall = (call: KernelCall, geometry: CallGeometry, inputs: number) => Plan;

const binding = (index: number): Argument => ({ kind: "binding", index });
const pass = (index: number): Argument => ({ kind: "pass", index });

function kernel(
  source: (...args: never[]) => number,
  constants: Record<string, number>,
  args: readonly Argument[],
  count: number,
): Pass {
  return { source: String(source), functions: [], constants, args, count };
}

/** Σₖ a[m, k] · b[k, n] (+ start): for every batch, row and column a loop over k. */
function matmulProgram(start: boolean, batchAxes: number): LoopProgram {
  const slot = (buffer: number): Slot => ({ buffer, dtype: "float32", inner: "strided", masked: [] });
  const typed = { dtype: "float32", stage: 0 } as const;
  const instructions: Instruction[] = [
    { ...typed, kind: "load", slot: 0, level: "body" },
    { ...typed, kind: "load", slot: 1, level: "body" },
    { ...typed, kind: "apply", op: mulOp, args: [0, 1], level: "body" },
    { ...typed, kind: "reduce", op: sumOp, arg: 2, level: "element" },
  ];
  if (start) {
    instructions.push({ ...typed, kind: "load", slot: 2, level: "element" });
    instructions.push({ ...typed, kind: "apply", op: addOp, args: [3, 4], level: "element" });
  }
  const out = start ? 3 : 2;
  return {
    shape: "columns",
    outer: batchAxes + 1,
    reduce: 1,
    stages: 1,
    instructions,
    slots: Array.from({ length: out + 1 }, (_, buffer) => slot(buffer)),
    stores: [{ register: instructions.length - 1, slot: out, stage: 0 }],
    buffers: out + 1,
    key: `matmul${start}${batchAxes}`,
  };
}

const matmul: PlanCall = (call, { operands, results }, inputs) => {
  const [a, b, start] = operands as [Operand, Operand, Operand?];
  const c = results[0]!;
  const rank = c.shape.length;
  const walk = ({ strides, offset }: Operand, row: number, column: number, reduce: number): SlotGeometry => ({
    offset,
    outer: [...strides.slice(0, rank - 2), row],
    inner: column,
    reduce: [reduce],
    valid: [],
  });
  const [row, column] = [rank - 2, rank - 1];
  const geometry: Geometry = {
    outer: c.shape.slice(0, -1),
    inner: c.shape[column]!,
    reduce: [a.shape[column]!],
    slots: [
      walk(a, a.strides[row]!, 0, a.strides[column]!),
      walk(b, 0, b.strides[column]!, b.strides[row]!),
      ...(start ? [walk(start, start.strides[row]!, start.strides[column]!, 0)] : []),
      walk(c, c.strides[row]!, c.strides[column]!, 0),
    ],
  };
  return loopPlan(matmulProgram(call.operands.length > 2, rank - 2), geometry, inputs);
};

/** @throws {ShapeError} for an index outside, in the modes whose memory can be looked at; in the others the row is NaN */
function checkIndices(operation: string, lying: ArrayLike<number>, rows: number, extent: number | undefined): void {
  for (let n = 0; n < lying.length; n += 2) {
    const index = (lying[n + 1]! << 16) | lying[n]! | 0;
    if (index >= 0 && index < rows) continue;
    throw extent === undefined
      ? new ShapeError(`index ${index} is outside a table of ${rows} rows.`, { operation, expected: rows, got: index })
      : new ShapeError(`an index is outside its axis of ${extent}.`, {
          operation: operation === "take" ? "gather" : "scatter",
          expected: extent,
          hint: "Indices count from 0.",
        });
  }
}

const takeRows: PlanCall = (call, { operands, results, attributes }) => {
  const [rows, elements] = operands[0]!.shape as [number, number];
  const width = elements * floatsPerElement(call.operands[0]!);
  const args = [binding(0), binding(1), { kind: "number", value: Number.NaN } as const];
  const count = sizeOf(results[0]!.shape) * floatsPerElement(call.results[0]!);
  return {
    passes: [kernel(take, { rows, width }, args, count)],
    results: [{ binding: 2, pass: 0 }],
    check: (read) => checkIndices("take", read(1), rows, attributes["extent"]),
  };
};

const scatterAddRows: PlanCall = (call, { operands, results, attributes }) => {
  const [rows, width] = results[0]!.shape as [number, number];
  const count = operands[0]!.shape[0]!;
  const integer = call.results[0] === "int32";
  const floats = rows * width * floatsPerElement(call.results[0]!);
  return {
    passes: [kernel(integer ? scatterAddInteger : scatterAdd, { count, width }, [binding(0), binding(1)], floats)],
    results: [{ binding: 2, pass: 0 }],
    check: (read) => checkIndices("scatterAdd", read(0), rows, attributes["extent"]),
  };
};

const cumulativeSum: PlanCall = (call, { operands }) => {
  const { shape } = operands[0]!;
  const width = shape[shape.length - 1]!;
  const integer = call.operands[0] === "int32";
  const count = sizeOf(shape) * floatsPerElement(call.operands[0]!);
  const passes: Pass[] = [];
  for (let step = 1; step < width || step === 1; step *= 2)
    passes.push(
      kernel(
        integer ? scanStepInteger : scanStep,
        { width, step },
        [passes.length ? pass(passes.length - 1) : binding(0)],
        count,
      ),
    );
  return { passes, results: [{ binding: 1, pass: passes.length - 1 }] };
};

const argsort: PlanCall = (call, { operands, attributes }) => {
  const { shape } = operands[0]!;
  const width = shape[shape.length - 1]!;
  const descending = attributes["descending"] ? 1 : 0;
  const size = sizeOf(shape);
  return {
    passes: [
      kernel(call.operands[0] === "int32" ? rankInteger : rank, { width, descending }, [binding(0)], size),
      kernel(order, { width }, [pass(0)], 2 * size),
    ],
    results: [{ binding: 1, pass: 1 }],
  };
};

/** By the name of the kernel call. */
export const callPlans: Readonly<Record<string, PlanCall>> = {
  matmul,
  take: takeRows,
  scatterAdd: scatterAddRows,
  cumulativeSum,
  argsort,
};
