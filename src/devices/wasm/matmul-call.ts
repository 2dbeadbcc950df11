/** The matrix product as a kernel call: operands [..., M, K] · [..., K, N] (+ addend [..., M, N]), any strides the GEMM can walk. */

import {
  type MatmulOperand,
  matmulArgumentWords,
  matmulModule,
  planMatmul,
  writeMatmulArguments,
} from "../../../kernels/wasm/matmul.ts";
import { argument as matmulArgument } from "../../../kernels/wasm/matmul-arguments.ts";
import { bytesPerElement } from "../../graph/dtype.ts";
import type { Operand } from "../../graph/primitive.ts";
import type { CallEntry, Step } from "./calls.ts";

/** Batch axes that one launch walks over; those before them are launches of their own. */
const batchAxes = 3;

export const matmul: CallEntry = ({ operands, results }, { memory, threads, relaxedSimd, module }) => {
  const [aType, bType, addendType] = operands;
  if (aType !== "float32" || results[0] !== "float32" || (addendType !== undefined && addendType !== "float32")) return null;
  if (bType !== "float32" && bType !== "float16" && bType !== "bfloat16") return null;
  const widths = [...operands, ...results].map(bytesPerElement);

  return (geometry, addresses) => {
    const all = [...geometry.operands, ...geometry.results];
    const c = all[all.length - 1]!;
    const rank = c.shape.length;
    const lead = Math.max(0, rank - 2 - batchAxes);
    const walks = all.map((operand) => walkOf(operand, lead));
    const [a, b, addend] = walks as [MatmulOperand, MatmulOperand, MatmulOperand?];
    const plan = planMatmul(
      {
        batch: triple(c.shape.slice(lead, -2), 1),
        M: c.shape[rank - 2]!,
        N: c.shape[rank - 1]!,
        K: geometry.operands[0]!.shape[rank - 1]!,
        a,
        b,
        bType,
        c: walks[walks.length - 1]!,
        ...(operands.length === 3 && addend ? { addend } : {}),
      },
      threads,
    );
    if (!plan) return null;
    const options = { shared: memory.shared, fused: relaxedSimd };
    const kernel = module(`matmul ${plan.key}`, () => matmulModule(plan.variant, options))["matmul"]!;
    return indicesOf(c.shape.slice(0, lead)).map((index): Step => {
      const at = all.map((operand, i) => {
        const element = index.reduce((sum, position, axis) => sum + position * operand.strides[axis]!, operand.offset);
        return addresses[i]! + widths[i]! * element;
      });
      const args = new Int32Array(matmulArgumentWords);
      const placed = { a: at[0]!, b: at[1]!, c: at[at.length - 1]!, scratch: 0 };
      writeMatmulArguments(args, plan, operands.length === 3 ? { ...placed, addend: at[2]! } : placed);
      return { kernel, tasks: plan.tasks, args, scratch: { word: matmulArgument.scratch, bytes: plan.scratchBytes } };
    });
  };
};

/** The last three batch strides, then those of rows and columns. */
function walkOf({ strides }: Operand, lead: number): MatmulOperand {
  return { batch: triple(strides.slice(lead, -2), 0), row: strides[strides.length - 2]!, column: strides[strides.length - 1]! };
}

/** Filled up from the left. */
function triple(values: readonly number[], fill: number): [number, number, number] {
  const [x = fill, y = fill, z = fill] = [...new Array<number>(batchAxes - values.length).fill(fill), ...values];
  return [x, y, z];
}

/** All indices of a shape, in row-major order. */
const indicesOf = (shape: readonly number[]): number[][] =>
  shape.reduce<number[][]>(
    (all, extent) => all.flatMap((index) => Array.from({ length: extent }, (_, i) => [...index, i])),
    [[]],
  );
