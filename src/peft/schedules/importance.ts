/**
 * How much the loss depends on a parameter's entries, as the budgets of adapters judge it: I = |p·∂L/∂p| after the optimiser's step, its
 * moving average S ← β₁·S + (1 − β₁)·I, the sensitivity, and that of its distance from S, the uncertainty U. An entry's score is S·U.
 *
 * @see https://arxiv.org/abs/2303.10512, §3.2
 */
import { currentDevice, upload } from "../../compile/program.ts";
import { add, max, mul, neg, sub, where } from "../../graph/elementwise.ts";
import type { Tensor } from "../../graph/node.ts";
import { reduceSum } from "../../graph/reduction.ts";
import { constant, number } from "../../graph/source.ts";
import { Variable } from "../../graph/variable.ts";
import type { Parameter } from "../../nn/module.ts";
import type { Gradients } from "../../optim/optimizer.ts";

/** S and U of one parameter. */
export interface Importance {
  readonly parameter: Parameter;
  readonly sensitivity: Variable;
  readonly uncertainty: Variable;
}

/** What is known of a parameter before training: nothing, S = U = 0. */
export const importanceOf = (parameter: Parameter): Importance => ({
  parameter,
  sensitivity: zerosFor(parameter),
  uncertainty: zerosFor(parameter),
});

/** A variable of the parameter's shape, 0. */
export const zerosFor = ({ size, shape }: Parameter): Variable =>
  new Variable(upload(currentDevice(), new Float32Array(size), shape, "float32"), { requiresGrad: false });

/** How S and U move. */
export interface Averaging {
  readonly beta1: number;
  readonly beta2: number;
  /** U is of the distance from the S of this step (AdaLoRA) or of the one before (AdaMSS). */
  readonly from: "this" | "before";
}

/** What S and U become, where `open` is 1; where it is 0 they stay. */
export function observed(
  { parameter, sensitivity, uncertainty }: Importance,
  gradients: Gradients,
  open: Tensor,
  { beta1, beta2, from }: Averaging,
): (readonly [Variable, Tensor])[] {
  const mix = (old: Tensor, next: Tensor, beta: number) => add(mul(old, number(old, beta)), mul(next, number(next, 1 - beta)));
  const gradient = gradients.get(parameter) ?? constant(0, parameter.shape);
  const importance = absolute(mul(parameter.value, gradient));
  const [S, U] = [sensitivity.value, uncertainty.value];
  const mean = mix(S, importance, beta1);
  const spread = mix(U, absolute(sub(importance, from === "this" ? mean : S)), beta2);
  return [
    [sensitivity, where(open, mean, S)],
    [uncertainty, where(open, spread, U)],
  ];
}

/** S·U of every entry. */
export const scores = ({ sensitivity, uncertainty }: Importance): Tensor => mul(sensitivity.value, uncertainty.value);

/** S = U = 0 again. */
export const forgotten = ({ sensitivity, uncertainty }: Importance): (readonly [Variable, Tensor])[] =>
  [sensitivity, uncertainty].map((variable) => [variable, constant(0, variable.shape)] as const);

/** The mean over some axes, which stay with size 1. */
export const meanOver = (x: Tensor, axes: readonly number[]): Tensor =>
  mul(reduceSum(x, [...axes]), constant(1 / axes.reduce((size, axis) => size * (x.shape[axis] as number), 1)));

const absolute = (x: Tensor): Tensor => max(x, neg(x));
