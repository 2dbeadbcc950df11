/** Forward-mode and second-order derivatives, all made of reverse walks. */
import { ShapeError, wordShape } from "../errors.ts";
import { concatenate } from "../graph/composite.ts";
import { add, mul } from "../graph/elementwise.ts";
import { reshape, slice } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { reduceSum } from "../graph/reduction.ts";
import { sameShape } from "../graph/shape.ts";
import { constant } from "../graph/source.ts";
import { type Differentiable, grad, pullback, vjp } from "./grad.ts";

/**
 * Jacobian–vector product: f(inputs) and ∂f/∂inputs · tangents, of f's shape.
 * The pullback u ↦ Jᵀu is linear in u, so pulling the tangents back through it gives J·tangents; no rules of its own.
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
        { operation: "jvp" },
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

/** Hessian–vector product of a scalar function: ∂²f/∂x² · v, of x's shape. */
export function hvp(f: Differentiable, x: Tensor, v: Tensor): Tensor {
  return jvp((y) => grad(f)(y)[0]!, [x], [v]).tangent;
}

/** Jacobian of `f` at `x`: shape [...y, ...x]. Costs one reverse walk per element of y. */
export function jacobian(f: (x: Tensor) => Tensor, x: Tensor): Tensor {
  const { value, pullback: back } = vjp(f, x);
  const rows = Array.from({ length: value.size }, (_, i) => {
    const g = oneHot(i, value);
    return reshape(back(g)[0]!, [1, x.size]);
  });
  return reshape(concatenate(rows, 0), [...value.shape, ...x.shape]);
}

/** Hessian of a scalar function: shape [...x, ...x]. */
export const hessian = (f: (x: Tensor) => Tensor, x: Tensor): Tensor => jacobian((y) => grad(f)(y)[0]!, x);

function oneHot(index: number, like: Tensor): Tensor {
  const before = constant(0, [index], like.dtype);
  const rest = constant(0, [like.size - index - 1], like.dtype);
  return reshape(concatenate([before, constant(1, [1], like.dtype), rest], 0), like.shape);
}

/**
 * Gradients of a loss by `parameters`, one per sample: `f(parameters, ...row)` is the loss of one sample, whose inputs are
 * rows of `batch` tensors [N, ...]. Gives per parameter [N, ...parameter].
 */
export function perSampleGradients(
  f: (parameters: Tensor[], ...row: Tensor[]) => Tensor,
  parameters: readonly Tensor[],
  batch: readonly Tensor[],
): Tensor[] {
  const N = batch[0]?.shape[0];
  if (N === undefined)
    throw new ShapeError("needs at least one tensor of the batch, with rows.", { operation: "perSampleGradients", got: batch });
  for (const x of batch)
    if (x.shape[0] !== N)
      throw new ShapeError(`tensors of the batch have ${N} and ${x.shape[0]} rows.`, {
        operation: "perSampleGradients",
        expected: N,
        got: x.shape[0],
      });
  const perSample = Array.from({ length: N }, (_, n) => {
    const row = batch.map((x) =>
      reshape(
        slice(
          x,
          x.shape.map((_e, axis) => (axis === 0 ? n : 0)),
          x.shape.map((extent, axis) => (axis === 0 ? n + 1 : extent)),
        ),
        x.shape.slice(1),
      ),
    );
    return grad((...ps) => f(ps, ...row))(...parameters);
  });
  return parameters.map((parameter, p) =>
    concatenate(
      perSample.map((gradients) => reshape(gradients[p]!, [1, ...parameter.shape])),
      0,
    ),
  );
}

/** Inner product of two tensors of one shape: Σ x·y. */
export const inner = (x: Tensor, y: Tensor): Tensor =>
  reshape(
    reduceSum(
      mul(x, y),
      x.shape.map((_, axis) => axis),
    ),
    [],
  );
