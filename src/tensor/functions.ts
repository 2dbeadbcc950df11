/**
 * The public functions of tensors. Each takes tensors, variables, numbers, nested arrays or typed arrays and is named
 * like the plain function behind it, in math.ts, statistics.ts, arrange.ts, pick.ts, convolution.ts and their kin.
 */
import { under } from "../errors.ts";
import { asTensor, type TensorLike } from "./create.ts";
import { type PrintOptions, print as plainPrint } from "./print.ts";

export * from "./functions/contraction.ts";
export * from "./functions/elementwise.ts";
export * from "./functions/indexing.ts";
export * from "./functions/movement.ts";
export * from "./functions/reduction.ts";

/** Values, dtype and shape as text. */
export const print = (x: TensorLike, options?: PrintOptions): string => under("print", () => plainPrint(asTensor(x), options));
