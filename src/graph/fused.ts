/**
 * Fused operations: compositions that a device may have a tuned kernel for. Their meaning is the composition,
 * which is also what runs where there is no kernel. They may have several results.
 */
import type { DType } from "./dtype.ts";
import { Tensor } from "./node.ts";
import type { Fused, Movement } from "./primitive.ts";
import type { Shape } from "./shape.ts";

/** One result of a fused operation. */
export const itemOp: Movement = { kind: "movement", name: "item", formula: "one of several results", vjp: () => [null] };

/** Shape and dtype of one of several results. */
export interface ResultType {
  readonly shape: Shape;
  readonly dtype: DType;
}

/** Applies `op` and gives its results, whose types `compose` would give too. */
export function applyFused(
  op: Fused,
  sources: readonly Tensor[],
  results: readonly ResultType[],
  attributes: Readonly<Record<string, unknown>> = {},
): Tensor[] {
  const node = new Tensor(op, sources, [], "float32", { ...attributes, results });
  return results.map(({ shape, dtype }, index) => new Tensor(itemOp, [node], shape, dtype, { index }));
}

/** Of all results of a fused node, in order. */
export const resultTypes = (node: Tensor): readonly ResultType[] => node.attributes["results"] as ResultType[];
/** Whether a node is one result of a fused one. */
export const isItem = (node: Tensor): boolean => node.op === itemOp;
