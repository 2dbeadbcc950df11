/** `place` as a kernel call: table, rows and position, all contiguous. */
import { blockOf } from "../../../kernels/wasm/argument-block.ts";
import { argument, placeModule } from "../../../kernels/wasm/place.ts";
import { sizeOf } from "../../graph/shape.ts";
import type { CallEntry } from "./calls.ts";

/** See {@link placeModule}. */
export const place: CallEntry = (_, { memory, module }) => {
  const kernel = module("place", () => placeModule({ shared: memory.shared }))["place"]!;
  return ({ operands }, addresses) => {
    const [table, rows, offset] = operands.map((operand, i) => addresses[i]! + 4 * operand.offset) as [number, number, number];
    const [B, S, ...row] = operands[0]!.shape as [number, number, ...number[]];
    const [T, rowBytes] = [operands[1]!.shape[1]!, 4 * sizeOf(row)];
    const args = blockOf(argument, { table, rows, offset, out: addresses[3]!, B, S, T, rowBytes });
    return [{ kernel, tasks: 1, args }];
  };
};
