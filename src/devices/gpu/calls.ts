/** Kernel calls as plans. */
import { dequantise4, dequantise8 } from "../../../kernels/gpu/dequantise.ts";
import {
  scatterAdd,
  scatterAddInteger,
  segmentStart,
  segmentSum,
  segmentSumInteger,
  take,
} from "../../../kernels/gpu/indexing.ts";
import {
  order,
  rank,
  rankInteger,
  scanStep,
  scanStepInteger,
  sortedOrder,
  sortStart,
  sortStep,
  sortStepInteger,
} from "../../../kernels/gpu/sorting.ts";
import { checkIndex } from "../../graph/indexing.ts";
import type { CallGeometry } from "../../graph/primitive.ts";
import { sizeOf } from "../../graph/shape.ts";
import type { KernelCall } from "../device.ts";
import { attentionBackwardPlan, attentionPlan } from "./attention-call.ts";
import type { Backend } from "./backend.ts";
import { matmulPlan } from "./matmul-call.ts";
import { binding, floatsPerElement, kernel, type Pass, type Plan, pass, rowsOf } from "./plan.ts";

type PlanCall = (
  call: KernelCall,
  geometry: CallGeometry,
  target: Pick<Backend, "mode" | "inputs" | "software" | "draws">,
) => Plan;

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
  const args = [rowsOf(0, width), binding(1), { kind: "number", value: Number.NaN } as const];
  const count = sizeOf(results[0]!.shape) * floatsPerElement(call.results[0]!);
  return {
    passes: [kernel(take, { rows, width }, args, count)],
    results: [{ binding: 2, pass: 0 }],
    check: (read) => checkIndices("take", read(1), rows, attributes["extent"]),
  };
};

/** Indices up to which looking through all of them is faster than sorting them, which takes three passes more. */
const fewIndices = 32;

const scatterAddRows: PlanCall = (call, { operands, results, attributes }) => {
  const [rows, width] = results[0]!.shape as [number, number];
  const count = operands[0]!.shape[0]!;
  const integer = call.results[0] === "int32";
  const floats = rows * width * floatsPerElement(call.results[0]!);
  const [index, updates] = [binding(0), binding(1)];
  const check: Plan["check"] = (read) => checkIndices("scatterAdd", read(0), rows, attributes["extent"]);
  if (count <= fewIndices) {
    const sums = kernel(integer ? scatterAddInteger : scatterAdd, { count, width }, [index, updates], floats);
    return { passes: [sums], results: [{ binding: 2, pass: 0 }], check };
  }
  const passes = sortPasses(1, count, true, false);
  const order = pass(passes.length - 1);
  const starts = passes.push(kernel(segmentStart, { count, steps: Math.ceil(Math.log2(count)) + 1 }, [index, order], rows)) - 1;
  const sums = integer ? segmentSumInteger : segmentSum;
  passes.push(kernel(sums, { count, width }, [index, order, pass(starts), updates], floats));
  return { passes, results: [{ binding: 2, pass: passes.length - 1 }], check };
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

/** Rows longer than this are sorted by a network of many passes, others by counting. */
const longRow = 1024;

/** Passes that sort the rows of binding 0; the last one writes their order as int32. */
function sortPasses(rows: number, width: number, integer: boolean, isDescending: boolean): Pass[] {
  const descending = isDescending ? 1 : 0;
  if (width <= longRow)
    return [
      kernel(integer ? rankInteger : rank, { width, descending }, [binding(0)], rows * width),
      kernel(order, { width }, [pass(0)], 2 * rows * width),
    ];
  const padded = 2 ** Math.ceil(Math.log2(width));
  const passes = [kernel(sortStart, { padded }, [{ kind: "number", value: 0 }], rows * padded)];
  for (let block = 2; block <= padded; block *= 2)
    for (let step = block / 2; step >= 1; step /= 2) {
      // as arguments, so that one kernel does all the steps
      const numbers = [block, step].map((value) => ({ kind: "number", value }) as const);
      const args = [binding(0), pass(passes.length - 1), ...numbers];
      passes.push(kernel(integer ? sortStepInteger : sortStep, { width, padded, descending }, args, rows * padded));
    }
  passes.push(kernel(sortedOrder, { width, padded }, [pass(passes.length - 1)], 2 * rows * width));
  return passes;
}

const argsort: PlanCall = (call, { operands, attributes }) => {
  const { shape } = operands[0]!;
  const width = shape[shape.length - 1]!;
  const passes = sortPasses(sizeOf(shape.slice(0, -1)), width, call.operands[0] === "int32", Boolean(attributes["descending"]));
  return { passes, results: [{ binding: 1, pass: passes.length - 1 }] };
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
