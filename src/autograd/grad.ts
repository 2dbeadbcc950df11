/** Reverse-mode differentiation: one walk over the graph from the outputs back, adding up cotangents. */
import { ConfigError, DTypeError, ShapeError, wordShape, wordType } from "../errors.ts";
import { isFloat } from "../graph/dtype.ts";
import { add } from "../graph/elementwise.ts";
import { isItem } from "../graph/fused.ts";
import { customOp } from "../graph/movement.ts";
import { Tensor, topologicalOrder, withSources } from "../graph/node.ts";
import { addUp, filled } from "../graph/piece.ts";
import type { Fused } from "../graph/primitive.ts";
import { sameShape } from "../graph/shape.ts";
import { constant, input } from "../graph/source.ts";
import { computeTogether } from "../graph/together.ts";
import { Variable } from "../graph/variable.ts";

/** What arrives at nodes from their readers. */
class Cotangents {
  readonly #sums = new Map<Tensor, Tensor>();
  /** Terms of which each fills only a piece of the node, and how much of it together. */
  readonly #pieces = new Map<Tensor, { readonly terms: Tensor[]; filled: number }>();

  add(node: Tensor, g: Tensor): void {
    if (2 * filled(g) > g.size) this.#put(node, [g]);
    else {
      const pieces = this.#pieces.get(node) ?? { terms: [], filled: 0 };
      this.#pieces.set(node, pieces);
      pieces.terms.push(g);
      pieces.filled += filled(g);
      // kept for as long as they take no more memory than their sum
      if (pieces.filled > node.size) this.sum(node);
    }
  }

  /** All that has arrived so far. */
  sum(node: Tensor): Tensor | null {
    const pieces = this.#pieces.get(node);
    this.#pieces.delete(node);
    if (pieces) this.#put(node, pieces.terms);
    return this.#sums.get(node) ?? null;
  }

  #put(node: Tensor, terms: readonly Tensor[]): void {
    const before = this.#sums.get(node);
    this.#sums.set(node, addUp(before ? [before, ...terms] : terms));
  }
}

/**
 * Pulls cotangents of `outputs` back to `inputs`: Σ over outputs of gᵀ·∂output/∂input.
 * @returns one gradient per input, `null` where no output depends on it
 */
export function pullback(
  outputs: readonly Tensor[],
  cotangents: readonly Tensor[],
  inputs: readonly Tensor[],
): (Tensor | null)[] {
  const order = topologicalOrder(outputs);
  const wanted = new Set(inputs);
  const depends = new Set<Tensor>();
  for (const node of order) if (wanted.has(node) || node.sources.some((source) => depends.has(source))) depends.add(node);
  const gradients = new Cotangents();
  const ofItems = new Map<Tensor, (Tensor | null)[]>();
  const receive = (node: Tensor, g: Tensor | null): void => {
    if (g !== null && depends.has(node) && isFloat(node.dtype)) gradients.add(node, g);
  };
  outputs.forEach((output, i) => {
    receive(output, cotangents[i]!);
  });
  for (let i = order.length - 1; i >= 0; i--) {
    const node = order[i]!;
    if (!depends.has(node)) continue;
    if (node.op.kind === "fused") {
      const gs = ofItems.get(node);
      if (gs) fusedPullback(node, gs).forEach((g, s) => receive(node.sources[s]!, g));
      continue;
    }
    const g = gradients.sum(node);
    if (!g) continue;
    if (isItem(node)) {
      const fused = node.sources[0]!;
      const gs = ofItems.get(fused) ?? [];
      const index = node.attributes["index"] as number;
      // a derivative by hand may have made another node of the same result
      gs[index] = gs[index] ? add(gs[index], g) : g;
      ofItems.set(fused, gs);
      continue;
    }
    if (node.sources.length === 0) continue;
    const cotangents = node.op.vjp(g, node, ...node.sources);
    if (node.op === customOp) checkCotangents(node, cotangents);
    cotangents.forEach((cotangent, s) => receive(node.sources[s]!, cotangent));
  }
  return inputs.map((x) => gradients.sum(x));
}

/** A derivative by hand is checked as one by the engine need not be: a wrong shape would broadcast into wrong numbers. */
function checkCotangents(node: Tensor, cotangents: readonly (Tensor | null)[]): void {
  const inputs = node.sources.slice(1);
  if (cotangents.length !== node.sources.length)
    throw new ConfigError(`\`backward\` gave ${cotangents.length - 1} cotangents for ${inputs.length} inputs.`, {
      operation: "withVjp",
      expected: inputs.length,
      got: cotangents.length - 1,
      hint: "Give one for each, null where there is none.",
    });
  inputs.forEach((x, i) => {
    const g = cotangents[i + 1];
    if (g && !sameShape(g.shape, x.shape))
      throw new ShapeError(`the cotangent of input ${i} is ${wordShape(g.shape)}, the input ${wordShape(x.shape)}.`, {
        operation: "withVjp",
        expected: x.shape,
        got: g.shape,
      });
  });
}

/** Derivative of a fused operation: its own where it has one, otherwise that of its composition. */
function fusedPullback(node: Tensor, gs: readonly (Tensor | null)[]): readonly (Tensor | null)[] {
  const op = node.op as Fused;
  const own = op.pullback?.(gs, node);
  if (own) return own;
  const stand = node.sources.map((source) => input(source.shape, source.dtype));
  const results = op.compose(stand, node.attributes);
  const used = gs.flatMap((g, i) => (g ? [{ g, result: results[i]! }] : []));
  const back = pullback(
    used.map(({ result }) => result),
    used.map(({ g }) => g),
    stand,
  );
  return substitute(back, stand, node.sources);
}

/** The same graphs with `from` replaced by `to`. */
function substitute(roots: readonly (Tensor | null)[], from: readonly Tensor[], to: readonly Tensor[]): (Tensor | null)[] {
  const done = new Map<Tensor, Tensor>(from.map((node, i) => [node, to[i]!]));
  for (const node of topologicalOrder(
    roots.filter((root) => root !== null),
    (n) => done.has(n),
  )) {
    const sources = () => node.sources.map((source) => done.get(source)!);
    if (!done.has(node)) done.set(node, withSources(node, sources()));
  }
  return roots.map((root) => root && done.get(root)!);
}

/** What a differentiated function may give back besides tensors. */
export type Differentiable = (...inputs: Tensor[]) => Tensor;

const zerosLike = (x: Tensor): Tensor => constant(0, x.shape, x.dtype);

function requireDifferentiable(operation: string, x: Tensor): void {
  if (!(x instanceof Tensor))
    throw new ConfigError(`a differentiated function takes and gives tensors, got ${wordType(x)}.`, { operation, got: x });
  if (!isFloat(x.dtype))
    throw new DTypeError(`derivatives need floating-point values, got ${x.dtype}.`, {
      operation,
      got: x.dtype,
      hint: 'Use x.cast("float32").',
    });
}

function requireScalar(operation: string, y: Tensor): void {
  if (y.size !== 1)
    throw new ShapeError(`needs one value to differentiate, got ${wordShape(y.shape)}.`, {
      operation,
      got: y.shape,
      hint: "Use .sum() or .mean(), or vjp with a cotangent.",
    });
}

/**
 * Value of `f` at `inputs` and its gradient by each input.
 * @throws {ShapeError} when `f` does not give exactly one value
 */
export function valueAndGrad(f: Differentiable): (...inputs: Tensor[]) => { value: Tensor; gradients: Tensor[] } {
  return (...inputs) => {
    const both = differentiated(f, inputs);
    computeTogether(both.value, both.gradients);
    return both;
  };
}

/**
 * Gradients of a scalar function, one per input and of its shape, always as a list: `const [dx, dy] = grad(f)(x, y)`.
 * @throws {ShapeError} when `f` does not give exactly one value; @throws {DTypeError} for integers
 */
export function grad(f: Differentiable): (...inputs: Tensor[]) => Tensor[] {
  return (...inputs) => differentiated(f, inputs).gradients;
}

function differentiated(f: Differentiable, inputs: readonly Tensor[]): { value: Tensor; gradients: Tensor[] } {
  for (const x of inputs) requireDifferentiable("grad", x);
  // a fresh node per input: differentiating by the same tensor twice, or by one inside the other, stays apart
  const fresh = inputs.map(renew);
  const value = f(...fresh);
  requireDifferentiable("grad", value);
  requireScalar("grad", value);
  const gradients = pullback([value], [constant(1, value.shape, value.dtype)], fresh).map((g, i) => g ?? zerosLike(inputs[i]!));
  return { value, gradients };
}

/**
 * Vector–Jacobian product: the value y = f(inputs), and a function that takes a cotangent of y's shape to gᵀ·∂y/∂inputs.
 * @throws {DTypeError} for integers; the pullback throws a {ShapeError} for a cotangent of another shape
 */
export function vjp(f: Differentiable, ...inputs: Tensor[]): { value: Tensor; pullback(g: Tensor): Tensor[] } {
  for (const x of inputs) requireDifferentiable("vjp", x);
  const fresh = inputs.map(renew);
  const value = f(...fresh);
  requireDifferentiable("vjp", value);
  return {
    value,
    pullback(g) {
      if (!sameShape(g.shape, value.shape))
        throw new ShapeError(`the cotangent is ${wordShape(g.shape)}, the value ${wordShape(value.shape)}.`, {
          operation: "vjp",
          expected: value.shape,
          got: g.shape,
        });
      return pullback([value], [g], fresh).map((x, i) => x ?? zerosLike(inputs[i]!));
    },
  };
}

/** The same value as another node, so that derivatives by it are told apart from other uses of `x`. */
function renew(x: Tensor): Tensor {
  return new Tensor(renewOp, [x], x.shape, x.dtype);
}
const renewOp = { kind: "movement", name: "renew", formula: "x", vjp: (g: Tensor) => [g] } as const;

/**
 * PyTorch-style: differentiates `loss` by every variable in its graph that requires a gradient and adds the results to
 * their `.grad`. In a loop, clear `.grad` (or call `optimizer.zeroGrad()`) between steps.
 *
 * @throws {ShapeError} for more than one value; @throws {DTypeError} for integers; @throws {ConfigError} when no such variable is
 *   there, as after `detach` or a function that was given plain tensors
 * @example
 * const w = new Variable(tensor([1, 2]));
 * w.value.square().sum().backward();
 * w.grad   // [2 4] float32 [2]
 */
export function backward(loss: Tensor): void {
  requireDifferentiable("backward", loss);
  requireScalar("backward", loss);
  const leaves = topologicalOrder([loss]).filter((node) => node.variable instanceof Variable && node.variable.requiresGrad);
  if (leaves.length === 0)
    throw new ConfigError("this value does not depend on any variable that requires a gradient.", {
      operation: "backward",
      hint: "Make it from the `.value` of a Variable, or use grad(f).",
    });
  const gradients = pullback([loss], [constant(1, loss.shape, loss.dtype)], leaves);
  leaves.forEach((leaf, i) => {
    const g = gradients[i];
    const variable = leaf.variable as Variable;
    if (g) variable.grad = variable.grad ? add(variable.grad, g) : g;
  });
  computeTogether(
    loss,
    leaves.flatMap((leaf) => (leaf.variable as Variable).grad ?? []),
  );
}
