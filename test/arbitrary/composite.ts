/** What a composite function is to the laws, and the usual cases that one is tried on. */
import { mod, mul } from "../../src/graph/elementwise.ts";
import type { Tensor } from "../../src/graph/node.ts";
import type { Draw, Interval, Sample } from "../../src/graph/primitive.ts";
import { constant, iota } from "../../src/graph/source.ts";

/** Cases of one function. Inputs are floats; whole numbers (targets, indices) are made inside of `apply`. */
export type Composite = (draw: Draw) => Sample[];

export const wide: Interval = [-2, 2];
export type Apply = (...inputs: Tensor[]) => Tensor;

export const sample = (shapes: readonly (readonly number[])[], apply: Apply, domain: Interval = wide): Sample => ({
  inputs: shapes.map((shape) => ({ shape, domain })),
  apply,
});
/** A function of one tensor of any shape, on each of `domains`. */
export const one =
  (apply: Apply, ...domains: Interval[]): Composite =>
  (draw) =>
    (domains.length ? domains : [wide]).map((domain) => sample([draw.shape(3)], apply, domain));
/** A function of tensors of one shape. */
export const same =
  (count: number, apply: Apply, ...domains: Interval[]): Composite =>
  (draw) => {
    const shape = draw.shape(3);
    return [{ inputs: Array.from({ length: count }, (_, i) => ({ shape, domain: domains[i] ?? wide })), apply }];
  };
/** Both sides of a kink at 0, and away from it. */
export const sides: Interval[] = [
  [-2, -0.2],
  [0.2, 2],
];
/** A fold over one axis, some axes, and all. */
export const fold =
  (apply: (x: Tensor, axes: number[] | undefined, keepDims: boolean) => Tensor, domain: Interval = wide): Composite =>
  (draw) => {
    const shape = draw.shape(3, 4, 1);
    const some = shape.flatMap((_, axis) => (draw.integer(0, 1) ? [axis] : []));
    const keep = draw.integer(0, 1) === 1;
    return [undefined, [-1], some].map((axes) => sample([shape], (x) => apply(x!, axes, keep), domain));
  };
export const alongAxis =
  (apply: (x: Tensor, axis: number) => Tensor, domain: Interval = wide): Composite =>
  (draw) => {
    const shape = draw.shape(3, 5, 1);
    const axis = draw.integer(0, shape.length - 1);
    return [sample([shape], (x) => apply(x!, axis), domain)];
  };
/** Whole numbers 0, 1, … below `count`, in an order that repeats. */
export const labels = (shape: readonly number[], count: number, stride = 3): Tensor =>
  mod(mul(iota(shape), constant(stride, [], "int32")), constant(count, [], "int32"));
