/** The list of all operations. */
import { fusedOperations } from "./attention.ts";
import { codedLinearOp } from "./coded-linear.ts";
import { contractions } from "./contraction.ts";
import { dequantiseOp } from "./dequantise.ts";
import { elementwise } from "./elementwise.ts";
import { indexing } from "./indexing.ts";
import { movements } from "./movement.ts";
import { placeOp } from "./placement.ts";
import type { Primitive } from "./primitive.ts";
import { reductions } from "./reduction.ts";
import { sources } from "./source.ts";

/** Every operation that a node can have, by name: what laws, devices and reference pages go through. */
export const primitives = {
  ...sources,
  ...movements,
  ...elementwise,
  ...reductions,
  ...contractions,
  ...indexing,
  ...fusedOperations,
  dequantise: dequantiseOp,
  codedLinear: codedLinearOp,
  place: placeOp,
} as const satisfies Record<string, Primitive>;
