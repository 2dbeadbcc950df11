/** What a micro-benchmark is. */
import type { Tensor } from "../../src/graph/node.ts";

export interface Case {
  readonly name: string;
  readonly shapes: readonly (readonly number[])[];
  readonly run: (...x: Tensor[]) => Tensor;
  /** The second operand has whole numbers below this. */
  readonly integers?: number;
  /** Times the limit that it should stay within. */
  readonly bar?: number;
}

export const square = [1024, 1024] as const;
