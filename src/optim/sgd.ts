/** Gradient descent and momentum. */
import { ConfigError } from "../errors.ts";
import { add, equal, mul, sub, where } from "../graph/elementwise.ts";
import { number } from "../graph/source.ts";
import { type LearningRate, Optimizer, type Trained, type UpdateInputs, type UpdateResult, withDecay } from "./optimizer.ts";

/** Settings of gradient descent. */
export interface SGDOptions extends LearningRate {
  readonly momentum: number;
  /** Share of the gradient that does not enter the momentum. */
  readonly dampening: number;
  /** Added to the gradient, times the parameter. */
  readonly weightDecay: number;
  /** Looks ahead: steps along g + momentum·b instead of b. */
  readonly nesterov: boolean;
}

/**
 * p ← p − lr·b with b ← momentum·b + (1 − dampening)·g, which starts as the first g; without momentum p ← p − lr·g.
 * @see https://proceedings.mlr.press/v28/sutskever13.html
 */
export class SGD extends Optimizer<SGDOptions> {
  constructor(parameters: Trained<SGDOptions>, options: Partial<SGDOptions> = {}) {
    super(parameters, { lr: 1e-3, momentum: 0, dampening: 0, weightDecay: 0, nesterov: false }, options);
  }

  protected override check({ momentum, dampening, nesterov }: SGDOptions): void {
    if (nesterov && (momentum === 0 || dampening !== 0))
      throw new ConfigError("`nesterov` needs a momentum and no dampening.", { operation: "SGD", got: { momentum, dampening } });
  }

  protected override slots({ momentum }: SGDOptions): Record<string, number> {
    return momentum === 0 ? {} : { momentumBuffer: 0 };
  }

  protected override counters({ momentum, dampening }: SGDOptions): Record<string, number> {
    return momentum !== 0 && dampening !== 0 ? { step: 0 } : {};
  }

  protected override update({ parameter, gradient, state, scalars, options }: UpdateInputs<SGDOptions>): UpdateResult {
    const g = withDecay(gradient, parameter, options.weightDecay);
    const old = state["momentumBuffer"];
    if (!old) return { parameter: sub(parameter, mul(scalars["lr"]!, g)), state: {} };
    const { step } = scalars;
    const damped = mul(g, number(parameter, 1 - options.dampening));
    const momentum = number(parameter, options.momentum);
    const momentumBuffer = add(mul(old, momentum), step ? where(equal(step, number(step, 1)), g, damped) : g);
    const direction = options.nesterov ? add(g, mul(momentumBuffer, momentum)) : momentumBuffer;
    return { parameter: sub(parameter, mul(scalars["lr"]!, direction)), state: { momentumBuffer } };
  }
}
