/**
 * Derivatives for users: the functions of src/autograd on whatever tensors can be made of, as the other public functions take it.
 * What is said there holds here.
 */
import * as functions from "../autograd/grad.ts";
import * as forward from "../autograd/jvp.ts";
import * as rows from "../autograd/vmap.ts";
import { ConfigError, checkOptions, under, wordJson, wordType } from "../errors.ts";
import type { Tensor } from "../graph/node.ts";
import { normalizeAxis } from "../graph/shape.ts";
import { moveAxis } from "./arrange.ts";
import { asTensor, type TensorLike } from "./create.ts";

type Differentiable = functions.Differentiable;
/** What may be given for each of these tensors. */
type Likes<Inputs extends readonly Tensor[]> = { [K in keyof Inputs]: TensorLike };
/** A tensor for each of these. */
type Tensors<Given extends readonly TensorLike[]> = { [K in keyof Given]: Tensor };

function requireFunction(operation: string, f: unknown): void {
  if (typeof f !== "function")
    throw new ConfigError(`needs a function of tensors, got ${wordType(f)}.`, {
      operation,
      got: f,
      hint: `Write ${operation}((x) => …).`,
    });
}

function tensors(operation: string, list: readonly TensorLike[]): Tensor[] {
  if (!Array.isArray(list))
    throw new ConfigError(`needs a list with one tensor for each input, got ${wordType(list)}.`, { operation, got: list });
  return under(operation, () => list.map(asTensor));
}

/** A tensor for each of these, and what is derived from them: all under one name. */
function derived<Y>(operation: string, likes: readonly TensorLike[], derive: (...inputs: Tensor[]) => Y): Y {
  const inputs = under(operation, () => likes.map(asTensor));
  return under(operation, () => derive(...inputs), ["grad", "vjp", "jvp"]);
}

/**
 * Gradients of a scalar function, one per input and of its shape, always as a list.
 *
 * @throws {ShapeError} when `f` does not give exactly one value; @throws {DTypeError} for integers
 * @example
 * const [dx, dy] = grad((x, y) => x.mul(y).sum())([1, 2], [3, 4]);
 * dx   // [3 4] float32 [2]
 */
export function grad<Inputs extends Tensor[]>(f: (...inputs: Inputs) => Tensor): (...inputs: Likes<Inputs>) => Inputs {
  requireFunction("grad", f);
  return (...inputs) => derived("grad", inputs, functions.grad(f as Differentiable)) as Inputs;
}

/**
 * Value of a scalar function and its gradient by each input, from one graph.
 *
 * @throws {ShapeError} when `f` does not give exactly one value; @throws {DTypeError} for integers
 * @example
 * const { value, gradients } = valueAndGrad((x) => x.square().sum())([1, 2]);
 * value          // 5 float32 []
 * gradients[0]   // [2 4] float32 [2]
 */
export function valueAndGrad<Inputs extends Tensor[]>(
  f: (...inputs: Inputs) => Tensor,
): (...inputs: Likes<Inputs>) => { value: Tensor; gradients: Inputs } {
  requireFunction("valueAndGrad", f);
  return (...inputs) => {
    const { value, gradients } = derived("valueAndGrad", inputs, functions.valueAndGrad(f as Differentiable));
    return { value, gradients: gradients as Inputs };
  };
}

/**
 * Vector–Jacobian product: the value y = f(inputs), and a function that takes a cotangent g of y's shape to gᵀ·∂y/∂inputs.
 *
 * @throws {DTypeError} for integers; the pullback throws a {ShapeError} for a cotangent of another shape
 * @example
 * const { value, pullback } = vjp((x) => x.square(), [1, 2]);
 * value                  // [1 4] float32 [2]
 * pullback([1, 10])[0]   // [ 2 40] float32 [2]
 */
export function vjp<Given extends TensorLike[]>(
  f: (...inputs: Tensors<Given>) => Tensor,
  ...inputs: Given
): { value: Tensor; pullback(g: TensorLike): Tensors<Given> } {
  requireFunction("vjp", f);
  const { value, pullback } = derived("vjp", inputs, (...xs) =>
    functions.vjp((...given) => f(...(given as Tensors<Given>)), ...xs),
  );
  return { value, pullback: (g) => derived("vjp", [g], pullback) as Tensors<Given> };
}

/**
 * Jacobian–vector product: f(inputs) and ∂f/∂inputs · tangents, of f's shape.
 *
 * @throws {ShapeError} when a tangent has another shape than its input
 * @example
 * jvp((x) => x.square(), [[1, 2]], [[1, 10]]).tangent   // [ 2 40] float32 [2]
 */
export function jvp(
  f: Differentiable,
  inputs: readonly TensorLike[],
  tangents: readonly TensorLike[],
): { value: Tensor; tangent: Tensor } {
  requireFunction("jvp", f);
  const [given, along] = [tensors("jvp", inputs), tensors("jvp", tangents)];
  return derived("jvp", [], () => forward.jvp(f, given, along));
}

/**
 * Hessian–vector product of a scalar function: ∂²f/∂x² · v, of x's shape, without the Hessian.
 *
 * @example
 * hvp((x) => x.pow(3).sum(), [1, 2], [1, 0])   // [6 0] float32 [2]
 */
export function hvp(f: Differentiable, x: TensorLike, v: TensorLike): Tensor {
  requireFunction("hvp", f);
  return derived("hvp", [x, v], (point, direction) => forward.hvp(f, point!, direction!));
}

/**
 * Jacobian of `f` at `x`: shape [...y, ...x]. One reverse walk, done for every element of y at once, so that it takes the memory of
 * as many.
 *
 * @example
 * jacobian((x) => x.square(), [1, 2])
 * // [[2 0]
 * //  [0 4]] float32 [2, 2]
 */
export function jacobian(f: (x: Tensor) => Tensor, x: TensorLike): Tensor {
  requireFunction("jacobian", f);
  return derived("jacobian", [x], (point) => forward.jacobian(f, point!));
}

/**
 * Hessian of a scalar function: shape [...x, ...x].
 *
 * @example
 * hessian((x) => x.prod(), [2, 3])
 * // [[0 1]
 * //  [1 0]] float32 [2, 2]
 */
export function hessian(f: (x: Tensor) => Tensor, x: TensorLike): Tensor {
  requireFunction("hessian", f);
  return derived("hessian", [x], (point) => forward.hessian(f, point!));
}

/**
 * Gradients of a loss by `parameters`, one per sample: `f(parameters, ...row)` is the loss of one sample, whose inputs are
 * rows of `batch` tensors [N, ...]. Gives per parameter [N, ...parameter]. The graph is that of one sample, done for all at once.
 *
 * @throws {ShapeError} when the tensors of the batch differ in N, or a loss is more than one value
 * @example
 * perSampleGradients(([w], x) => x.mul(w).sum(), [[1, 1]], [[[1, 2], [3, 4], [5, 6]]])[0]
 * // [[1 2]
 * //  [3 4]
 * //  [5 6]] float32 [3, 2]
 */
export function perSampleGradients<Given extends TensorLike[]>(
  f: (parameters: Tensors<Given>, ...row: Tensor[]) => Tensor,
  parameters: readonly [...Given],
  batch: readonly TensorLike[],
): Tensors<Given> {
  requireFunction("perSampleGradients", f);
  const plain = f as (parameters: Tensor[], ...row: Tensor[]) => Tensor;
  const given = tensors("perSampleGradients", parameters);
  const rows = tensors("perSampleGradients", batch);
  return derived("perSampleGradients", [], () => forward.perSampleGradients(plain, given, rows)) as Tensors<Given>;
}

/** Where the rows lie. */
export interface VmapOptions {
  /** Along which axis of each input, or of all; `null` for one that is the same for every row. 0 by default. */
  readonly inAxes?: number | readonly (number | null)[];
  /** Along which axis of the result. 0 by default. */
  readonly outAxis?: number;
}

/**
 * `f` of one row, for all rows at once: `vmap(f)(x, y)` stacks f(x[0], y[0]), f(x[1], y[1]), … along a new first axis. What is the
 * same for every row, `f` takes from around it. Random keys are that too, unless rows of `split(key, N)` are given.
 *
 * @throws {ShapeError} when the inputs differ in their number of rows
 * @see https://docs.jax.dev/en/latest/_autosummary/jax.vmap.html
 * @example
 * vmap((x, y) => x.matmul(y))([[1, 2], [3, 4]], [[1, 1], [0, 1]])                          // [3 4] float32 [2]
 * vmap((x, y) => x.matmul(y), { inAxes: [1, null] })([[1, 2], [3, 4]], tensor([10, 1]))   // [13 24] float32 [2]
 */
export function vmap(f: (...row: Tensor[]) => Tensor, options: VmapOptions = {}): (...inputs: TensorLike[]) => Tensor {
  requireFunction("vmap", f);
  const { inAxes = 0, outAxis = 0 } = checkOptions("vmap", options, { inAxes: "a number or a list", outAxis: "a whole number" });
  if (![inAxes].flat().every((axis) => axis === null || Number.isInteger(axis)))
    throw new ConfigError(
      `\`inAxes\` (= ${wordJson(inAxes)}) must be whole numbers, or null for what is the same for every row.`,
      {
        operation: "vmap",
        got: inAxes,
      },
    );
  const mapped = (...inputs: Tensor[]): Tensor => {
    const axes = typeof inAxes === "number" ? inputs.map(() => inAxes) : inAxes;
    if (axes.length !== inputs.length)
      throw new ConfigError(`\`inAxes\` names ${axes.length} axes for ${inputs.length} inputs.`, {
        operation: "vmap",
        got: inAxes,
      });
    const toFront = (x: Tensor, axis: number) => moveAxis(x, normalizeAxis("vmap", axis, x.rank), 0);
    const varying = inputs.flatMap((x, i) => (axes[i] === null ? [] : [toFront(x, axes[i]!)]));
    const y = rows.vmap((...row) => {
      const next = row.values();
      return f(...inputs.map((x, i) => (axes[i] === null ? x : next.next().value!)));
    })(...varying);
    return moveAxis(y, 0, normalizeAxis("vmap", outAxis, y.rank));
  };
  return (...inputs) => derived("vmap", inputs, mapped);
}
