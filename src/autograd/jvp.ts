/** Forward-mode and second-order derivatives, all made of reverse walks. */
import { ShapeError, wordShape } from "../errors.ts";
import { add, cast, equal, mul } from "../graph/elementwise.ts";
import { reshape } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { reduceSum } from "../graph/reduction.ts";
import { sameShape } from "../graph/shape.ts";
import { constant, iota } from "../graph/source.ts";
import { type Differentiable, grad, pullback, vjp } from "./grad.ts";
import { mapRows } from "./vmap.ts";

/**
 * Jacobian–vector product: f(inputs) and ∂f/∂inputs · tangents, of f's shape.
 * The pullback u ↦ Jᵀu is linear in u, so pulling the tangents back through it gives J·tangents; no rules of its own.
 * @throws {ShapeError} for a tangent of another shape than its input; @throws {DTypeError} for integers
 */
export function jvp(
  f: Differentiable,
  inputs: readonly Tensor[],
  tangents: readonly Tensor[],
): { value: Tensor; tangent: Tensor } {
  inputs.forEach((x, i) => {
    if (!tangents[i] || !sameShape(x.shape, tangents[i].shape))
      throw new ShapeError(
        `tangent ${i} is ${tangents[i] ? wordShape(tangents[i].shape) : "missing"}, the input ${wordShape(x.shape)}.`,
        { operation: "jvp", expected: x.shape, got: tangents[i]?.shape, hint: "Give one of its shape for each input." },
      );
  });
  const { value, pullback: back } = vjp(f, ...inputs);
  // any point serves: the map is linear
  const zero = constant(0, value.shape, value.dtype);
  const u = add(zero, zero);
  const images = back(u);
  const [tangent] = pullback(images, tangents, [u]);
  return { value, tangent: tangent ?? zero };
}

/** Hessian–vector product of a scalar function: ∂²f/∂x² · v, of x's shape. @throws {ShapeError} for more than one value */
export function hvp(f: Differentiable, x: Tensor, v: Tensor): Tensor {
  return jvp((y) => grad(f)(y)[0]!, [x], [v]).tangent;
}

/**
 * Jacobian of `f` at `x`: shape [...y, ...x]. One reverse walk, done for every element of y at once, so that it takes the memory of
 * as many.
 */
export function jacobian(f: (x: Tensor) => Tensor, x: Tensor): Tensor {
  const { value, pullback: back } = vjp(f, x);
  const index = (shape: number[]) => reshape(iota([value.size]), shape);
  const each = cast(equal(index([value.size, 1]), index([1, value.size])), value.dtype);
  const [rows] = mapRows("jacobian", (g) => back(g), [reshape(each, [value.size, ...value.shape])]);
  return reshape(rows!, [...value.shape, ...x.shape]);
}

/** Hessian of a scalar function: shape [...x, ...x]. */
export const hessian = (f: (x: Tensor) => Tensor, x: Tensor): Tensor => jacobian((y) => grad(f)(y)[0]!, x);

/**
 * Gradients of a loss by `parameters`, one per sample: `f(parameters, ...row)` is the loss of one sample, whose inputs are
 * rows of `batch` tensors [N, ...]. Gives per parameter [N, ...parameter]. The graph is that of one sample, done for all at once.
 *
 * @throws {ShapeError} when the tensors of the batch differ in N, or a loss is more than one value
 * @see https://arxiv.org/abs/1510.01799 for doing it layer by layer
 */
export const perSampleGradients = (
  f: (parameters: Tensor[], ...row: Tensor[]) => Tensor,
  parameters: readonly Tensor[],
  batch: readonly Tensor[],
): Tensor[] => mapRows("perSampleGradients", (...row) => grad((...ps) => f(ps, ...row))(...parameters), batch);

/** Inner product of two tensors of one shape: Σ x·y. */
export const inner = (x: Tensor, y: Tensor): Tensor =>
  reshape(
    reduceSum(
      mul(x, y),
      x.shape.map((_, axis) => axis),
    ),
    [],
  );
