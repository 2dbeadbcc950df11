/** `dequantise` as a kernel call: codes, table and scales, all contiguous, to float32. */
import { blockOf } from "../../../kernels/wasm/argument-block.ts";
import { argument, dequantiseModule } from "../../../kernels/wasm/dequantise.ts";
import { bytesPerElement } from "../../graph/dtype.ts";
import { sizeOf } from "../../graph/shape.ts";
import type { CallEntry } from "./calls.ts";

/** Tasks a thread, so that a thread that is interrupted does not hold up the others. */
const tasksPerThread = 3;
/** Values below which a task is not split further. */
const smallestTask = 1 << 14;

/** `dequantise` as a kernel call: codes of 4 or 8 bits, a table, a scale for each block; float32 comes out. */
export const dequantise: CallEntry = ({ operands }, { memory, threads, module }) => {
  const widths = operands.map(bytesPerElement);
  return ({ operands: sources, results, attributes }, addresses) => {
    const bits = sizeOf(sources[1]!.shape) === 16 ? 4 : 8;
    const kernel = module(`dequantise ${bits}`, () => dequantiseModule(bits, { shared: memory.shared }))["dequantise"]!;
    const [codes, table, scales] = sources.map(({ offset }, i) => addresses[i]! + offset * widths[i]!) as [
      number,
      number,
      number,
    ];
    const count = sizeOf(results[0]!.shape);
    const block = attributes["block"]!;
    const wanted = Math.max(smallestTask, count / (threads === 1 ? 1 : threads * tasksPerThread));
    const chunk = Math.ceil(wanted / block) * block;
    const args = blockOf(argument, { codes, table, scales, out: addresses[3]!, count, block, chunk });
    return [{ kernel, tasks: Math.ceil(count / chunk), args }];
  };
};
