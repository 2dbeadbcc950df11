/** Kernel calls as plans. */
import { dequantise4, dequantise8 } from "../../../kernels/gpu/dequantise.ts";
import { scatterAdd, scatterAddInteger, take } from "../../../kernels/gpu/indexing.ts";
import { order, rank, rankInteger, scanStep, scanStepInteger } from "../../../kernels/gpu/sorting.ts";
import { checkIndex } from "../../graph/indexing.ts";
import type { CallGeometry } from "../../graph/primitive.ts";
import { sizeOf } from "../../graph/shape.ts";
import type { KernelCall } from "../device.ts";
import { attentionBackwardPlan, attentionPlan } from "./attention-call.ts";
import type { Backend } from "./backend.ts";
import { matmulPlan } from "./matmul-call.ts";
import { binding, floatsPerElement, kernel, type Pass, type Plan, pass } from "./plan.ts";

type PlanCall = (call: KernelCall, geometry: CallGeometry, target: Pick<Backend, "mode" | "inputs">) => Plan;

/** @throws {ShapeError} for an index outside, in the modes whose memory can be looked at; in the others the row is NaN */
function checkIndices(operation: string, lying: ArrayLike<number>, rows: number, extent: number | undefined): void {
  for (let n = 0; n < lying.length; n += 2) {
    const index = (lying[n + 1]! << 16) | lying[n]! | 0;
    checkIndex(operation, index, rows, extent);
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

const dequantise: PlanCall = (_call, { operands, results, attributes }) => ({
  passes: [
    kernel(
      sizeOf(operands[1]!.shape) === 16 ? dequantise4 : dequantise8,
      { block: attributes["block"]! },
      [binding(0), binding(1), binding(2)],
      sizeOf(results[0]!.shape),
    ),
  ],
  results: [{ binding: 3, pass: 0 }],
});

/** By the name of the kernel call. */
export const callPlans: Readonly<Record<string, PlanCall>> = {
  matmul: matmulPlan,
  take: takeRows,
  scatterAdd: scatterAddRows,
  cumulativeSum,
  argsort,
  attention: attentionPlan,
  attentionBackward: attentionBackwardPlan,
  dequantise,
};
