/** `place` as a kernel call: table, rows and position, all contiguous. */
import { argument, argumentWords, placeModule } from "../../../kernels/wasm/place.ts";
import { sizeOf } from "../../graph/shape.ts";
import type { CallEntry } from "./calls.ts";

/** See {@link placeModule}. */
export const place: CallEntry = (_, { memory, module }) => {
  const kernel = module("place", () => placeModule({ shared: memory.shared }))["place"]!;
  return ({ operands }, addresses) => {
    const [table, rows, offset] = operands.map((operand, i) => addresses[i]! + 4 * operand.offset) as [number, number, number];
    const [B, S, ...row] = operands[0]!.shape as [number, number, ...number[]];
    const args = new Int32Array(argumentWords);
    args[argument.table] = table;
    args[argument.rows] = rows;
    args[argument.offset] = offset;
    args[argument.out] = addresses[3]!;
    args[argument.B] = B;
    args[argument.S] = S;
    args[argument.T] = operands[1]!.shape[1]!;
    args[argument.rowBytes] = 4 * sizeOf(row);
    return [{ kernel, tasks: 1, args }];
  };
};
