/** `codedLinear` as a kernel call: x, codes, scales and a table or none, all contiguous; a launch for every four rows of x. */
import { blockOf } from "../../../kernels/wasm/argument-block.ts";
import {
  argument,
  type CodedVariant,
  codedLinearModule,
  codedRound,
  codedRows,
  codedScratchBytes,
} from "../../../kernels/wasm/coded-linear.ts";
import { bytesPerElement } from "../../graph/dtype.ts";
import type { CallEntry, Step } from "./calls.ts";

/** Tasks a thread, so that a thread that is interrupted does not hold up the others. */
const tasksPerThread = 3;
/** Multiply-adds below which a task is not split further: about 3 µs. */
const smallestTask = 1 << 14;

/** `codedLinear` as a kernel call: codes of 4 bits with a table of 16, or of 8 bits. */
export const codedLinear: CallEntry = ({ operands }, { memory, threads, relaxedSimd, module }) => {
  const widths = operands.map(bytesPerElement);
  const bits = operands.length === 4 ? 4 : 8;
  return ({ operands: sources, results, attributes }, addresses) => {
    const [M, K] = sources[0]!.shape as [number, number];
    const N = results[0]!.shape[1]!;
    const [x, codes, scales, table = 0] = sources.map(({ offset }, i) => addresses[i]! + offset * widths[i]!) as [
      number,
      number,
      number,
      number?,
    ];
    const wanted = Math.ceil(N / (threads === 1 ? 1 : threads * tasksPerThread));
    const columnBlock = Math.max(1, wanted, Math.ceil(smallestTask / Math.max(1, K)));
    return Array.from({ length: Math.ceil(M / codedRows) }, (_, i): Step => {
      const first = i * codedRows;
      const variant: CodedVariant = { rows: Math.min(codedRows, M - first), bits };
      const options = { shared: memory.shared, fused: relaxedSimd };
      const kernel = module(`codedLinear ${variant.rows} ${bits}`, () => codedLinearModule(variant, options))["codedLinear"]!;
      const scratchBytes = Math.ceil(codedScratchBytes(variant, K) / 64) * 64;
      const args = blockOf(argument, {
        x: x + 4 * first * K,
        out: addresses.at(-1)! + 4 * first * N,
        scaleShift: Math.log2(attributes["block"]! / codedRound),
        scratchStride: scratchBytes,
        ...{ codes, scales, table, K, N, columnBlock, unit: 0, scratch: 0 },
      });
      new Float32Array(args.buffer)[argument.unit] = attributes["unit"]!;
      return { kernel, tasks: Math.ceil(N / columnBlock), args, scratch: { word: argument.scratch, bytes: scratchBytes } };
    });
  };
};
