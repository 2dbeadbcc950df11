/**
 * Numeric derivatives, to check analytic ones with. Everything here only builds a graph; give it float64 inputs on the
 * reference device, because in float32 little is left after the subtraction.
 */
import { checkOptions, requireKind, ShapeError, under } from "../errors.ts";
import { add, max, mul, neg, recip, sub } from "../graph/elementwise.ts";
import { requireTensorList, requireTensors, type Tensor } from "../graph/node.ts";
import { number } from "../graph/source.ts";
import { type Differentiable, vjp } from "./grad.ts";
import { inner } from "./jvp.ts";

/** How differences are taken. */
export interface DifferenceOptions {
  /** Distance h between the points. The error is about h⁴ times the fifth derivative, and rounding divided by h. */
  readonly step?: number;
}

const magnitude = (x: Tensor): Tensor => max(x, neg(x));

/** A derivative by differences, of the shape of the function's value. */
export interface Difference {
  readonly value: Tensor;
  /** |value − the same with twice the step|: about 15 times what the steps leave out; large where the function has a kink. */
  readonly uncertainty: Tensor;
}

function checkGiven(operation: string, f: unknown, inputs: unknown, tangents: unknown): void {
  requireKind(operation, "a function", { f });
  requireTensorList(operation, "inputs", inputs);
  requireTensorList(operation, "tangents", tangents);
  if (inputs.length === 0 || inputs.length !== tangents.length)
    throw new ShapeError(`got ${inputs.length} inputs and ${tangents.length} tangents.`, { operation, got: tangents.length });
}

/**
 * Central difference of five points along `tangents`: what `jvp(f, inputs, tangents)` should give,
 * (8·(f(x+ht) − f(x−ht)) − (f(x+2ht) − f(x−2ht))) / 12h.
 *
 * @see Abramowitz & Stegun, Handbook of Mathematical Functions, 25.3.6
 */
export function centralDifference(
  f: Differentiable,
  inputs: readonly Tensor[],
  tangents: readonly Tensor[],
  options: DifferenceOptions = {},
): Difference {
  const { step = 1e-3 } = checkOptions("centralDifference", options, { step: "a number above 0" });
  checkGiven("centralDifference", f, inputs, tangents);
  const at = (distance: number): Tensor => {
    const value = f(...inputs.map((x, i) => add(x, mul(tangents[i]!, number(x, distance)))));
    requireTensors("centralDifference", { "f(x)": value });
    return value;
  };
  const [one, two, four] = [1, 2, 4].map((k) => {
    const difference = sub(at(k * step), at(-k * step));
    return mul(difference, number(difference, 1 / (2 * k * step)));
  }) as [Tensor, Tensor, Tensor];
  // the error of the three-point difference is a·h² + b·h⁴ + …: two of them cancel a
  const refine = (near: Tensor, far: Tensor): Tensor => add(near, mul(sub(near, far), number(near, 1 / 3)));
  const value = refine(one, two);
  return { value, uncertainty: magnitude(sub(value, refine(two, four))) };
}

/**
 * How far the reverse-mode derivative of `f` is from the central difference along `tangents`, relative to the larger of
 * both sides and 1: |⟨vjp(g), t⟩ − ⟨g, Df·t⟩|. Below 1e-6 is good in float64.
 *
 * @param cotangent g, of the shape of f's value
 * @returns one value
 * @example
 * gradientError((x) => x.square().sum(), [tensor([1, 2])], [tensor([1, 1])], tensor(1)).item() < 1e-2   // true
 */
export function gradientError(
  f: Differentiable,
  inputs: readonly Tensor[],
  tangents: readonly Tensor[],
  cotangent: Tensor,
  options: DifferenceOptions = {},
): Tensor {
  checkOptions("gradientError", options, { step: "a number above 0" });
  checkGiven("gradientError", f, inputs, tangents);
  requireTensors("gradientError", { cotangent });
  const gradients = under("gradientError", () => vjp(f, ...inputs).pullback(cotangent), ["vjp"]);
  const analytic = gradients.map((g, i) => inner(g, tangents[i]!)).reduce(add);
  const numeric = inner(cotangent, centralDifference(f, inputs, tangents, options).value);
  const scale = max(max(magnitude(analytic), magnitude(numeric)), number(analytic, 1));
  return mul(magnitude(sub(analytic, numeric)), recip(scale));
}
