/** Samples of every operation that has a derivative to compare. */
import { cast, elementwise } from "../../src/graph/elementwise.ts";
import type { Draw, Elementwise, Primitive, Sample } from "../../src/graph/primitive.ts";
import { primitives } from "../../src/graph/primitives.ts";
import { elementwiseFunction } from "./graph-move.ts";

/** Entries without a derivative to compare: their results, or their sources, are no real numbers. */
const discrete: ReadonlySet<Primitive> = new Set([elementwise.bitcast]);

/** The primitives with a derivative, by name. */
export const differentiable = (Object.entries(primitives) as [string, Primitive][]).filter(
  ([, op]) => !discrete.has(op) && (op.kind === "elementwise" ? op.takes !== "integer" : op.samples !== undefined),
);

/** An elementwise entry on random shapes that broadcast. */
function elementwiseSamples(name: string, op: Elementwise, draw: Draw): Sample[] {
  const shape = draw.shape(3, 4);
  const inputs = op.domain.map((domain) => ({
    shape: shape
      .map((extent) => (op.arity > 1 && draw.integer(0, 3) === 0 ? 1 : extent))
      .slice(op.arity > 1 ? draw.integer(0, shape.length) : 0),
    domain,
  }));
  // what takes a dtype is tried with its own and with a narrower one
  return name === "cast"
    ? (["float64", "float32"] as const).map((dtype) => ({ inputs, apply: (x) => cast(x!, dtype) }))
    : [{ inputs, apply: (...xs) => elementwiseFunction(name)(...xs) }];
}

export const samplesOf = (name: string, op: Primitive, draw: Draw): Sample[] =>
  op.kind === "elementwise" ? elementwiseSamples(name, op, draw) : (op.samples?.(draw) ?? []);
