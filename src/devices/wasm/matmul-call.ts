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

/** Two factors by their numbers among the operands. */
interface Pair {
  readonly a: number;
  readonly b: number;
}

/** `matmul` as a kernel call: float32, B in 16 bits too; `null` for other dtypes. */
export const matmul: CallEntry = ({ operands, results }, { memory, threads, relaxedSimd, module }) => {
  const [main, update] = pairsOf(operands.length);
  const bType = operands[main.b];
  if (bType !== "float32" && bType !== "float16" && bType !== "bfloat16") return null;
  if ([...operands, ...results].some((type, i) => type !== "float32" && i !== main.b)) return null;
  const widths = [...operands, ...results].map(bytesPerElement);

  return (geometry, addresses) => {
    const all = [...geometry.operands, ...geometry.results];
    const result = all.length - 1;
    const c = all[result]!;
    const rank = c.shape.length;
    const lead = Math.max(0, rank - 2 - batchAxes);
    const walks = all.map((operand) => walkOf(operand, lead));
    const depthOf = ({ a }: Pair): number => all[a]!.shape[rank - 1]!;

    /** Launches of one product, perhaps with another one that is added to it; `start` is the number of what both are added to. */
    const launches = (pair: Pair, start: number | undefined, added?: Pair): readonly Step[] | null => {
      const plan = planMatmul(
        {
          batch: triple(c.shape.slice(lead, -2), 1),
          M: c.shape[rank - 2]!,
          N: c.shape[rank - 1]!,
          K: depthOf(pair),
          a: walks[pair.a]!,
          b: walks[pair.b]!,
          bType: operands[pair.b] as typeof bType,
          c: walks[result]!,
          ...(start !== undefined && { addend: walks[start]! }),
          ...(added && { update: { K: depthOf(added), a: walks[added.a]!, b: walks[added.b]! } }),
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
        writeMatmulArguments(args, plan, {
          a: at[pair.a]!,
          b: at[pair.b]!,
          c: at[result]!,
          scratch: 0,
          ...(start !== undefined && { addend: at[start]! }),
          ...(added && { update: { a: at[added.a]!, b: at[added.b]! } }),
        });
        return { kernel, tasks: plan.tasks, args, scratch: { word: matmulArgument.scratch, bytes: plan.scratchBytes } };
      });
    };

    const start = operands.length % 2 === 1 ? operands.length - 1 : undefined;
    const whole = launches(main, start, update);
    if (whole || !update) return whole;
    // one after the other: the second starts from what the first has written
    const [first, second] = [launches(main, start), launches(update, result)];
    return first && second && [...first, ...second];
  };
};

/** The operands two by two; a last one by itself is what is added. */
const pairsOf = (operands: number): readonly [Pair, Pair?] =>
  operands < 4
    ? [{ a: 0, b: 1 }]
    : [
        { a: 0, b: 1 },
        { a: 2, b: 3 },
      ];

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
