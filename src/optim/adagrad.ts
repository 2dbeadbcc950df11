/** Optimisers that divide by the root of past squared gradients: all of them (Adagrad), or a running mean (RMSprop, Adadelta). */
import { add, div, max, mul, sqrt, sub } from "../graph/elementwise.ts";
import type { Tensor } from "../graph/node.ts";
import { number } from "../graph/source.ts";
import { mix } from "./adam.ts";
import {
  type LearningRate,
  mixSquare,
  Optimizer,
  type Trained,
  type UpdateInputs,
  type UpdateResult,
  type Values,
  withDecay,
} from "./optimizer.ts";

interface Common extends LearningRate {
  /** Added to the root. */
  readonly eps: number;
  /** Added to the gradient, times the parameter. */
  readonly weightDecay: number;
}

/** Settings of Adagrad. */
export interface AdagradOptions extends Common {
  /** The rate of step t (from 0) is lr / (1 + t·lrDecay). */
  readonly lrDecay: number;
  readonly initialAccumulatorValue: number;
}

/**
 * s ← s + g², p ← p − lr·g / (√s + ε).
 * @see https://jmlr.org/papers/v12/duchi11a.html
 */
export class Adagrad extends Optimizer<AdagradOptions> {
  constructor(parameters: Trained<AdagradOptions>, options: Partial<AdagradOptions> = {}) {
    super(parameters, { lr: 1e-2, lrDecay: 0, weightDecay: 0, initialAccumulatorValue: 0, eps: 1e-10 }, options);
  }

  protected override slots({ initialAccumulatorValue }: AdagradOptions): Record<string, number> {
    return { sum: initialAccumulatorValue };
  }

  protected override counters(): Record<string, number> {
    return { step: 0 };
  }

  protected override derive({ lr, step }: Values, { lrDecay }: AdagradOptions): Values {
    const since = mul(sub(step!, number(step!, 1)), number(step!, lrDecay));
    return { rate: div(lr!, add(since, number(since, 1))) };
  }

  protected override update({ parameter, gradient, state, scalars, options }: UpdateInputs<AdagradOptions>): UpdateResult {
    const g = withDecay(gradient, parameter, options.weightDecay);
    const sum = add(state["sum"]!, mul(g, g));
    const step = div(g, add(sqrt(sum), number(g, options.eps)));
    return { parameter: sub(parameter, mul(scalars["rate"]!, step)), state: { sum } };
  }
}

/** Settings of RMSprop. */
export interface RMSpropOptions extends Common {
  /** Decay of the running mean of squares. */
  readonly alpha: number;
  readonly momentum: number;
  /** Divides by an estimate of the standard deviation instead of the root of the mean square. */
  readonly centered: boolean;
}

/**
 * v ← αv + (1 − α)g², p ← p − lr·g / (√v + ε); with momentum the quotient goes into b ← momentum·b + quotient first.
 * @see https://www.cs.toronto.edu/~tijmen/csc321/slides/lecture_slides_lec6.pdf
 */
export class RMSprop extends Optimizer<RMSpropOptions> {
  constructor(parameters: Trained<RMSpropOptions>, options: Partial<RMSpropOptions> = {}) {
    super(parameters, { lr: 1e-2, alpha: 0.99, eps: 1e-8, weightDecay: 0, momentum: 0, centered: false }, options);
  }

  protected override slots({ momentum, centered }: RMSpropOptions): Record<string, number> {
    return { squareAvg: 0, ...(centered ? { gradAvg: 0 } : {}), ...(momentum === 0 ? {} : { momentumBuffer: 0 }) };
  }

  protected override update({ parameter, gradient, state, scalars, options }: UpdateInputs<RMSpropOptions>): UpdateResult {
    const { alpha, momentum, centered, eps, weightDecay } = options;
    const g = withDecay(gradient, parameter, weightDecay);
    const squareAvg = mixSquare(state["squareAvg"]!, g, alpha);
    const gradAvg = centered ? mix(state["gradAvg"]!, g, alpha) : null;
    // rounding may leave a variance below 0, whose root would be no number; PyTorch does not guard against it
    const spread = gradAvg ? max(sub(squareAvg, mul(gradAvg, gradAvg)), number(g, 0)) : squareAvg;
    const quotient = div(g, add(sqrt(spread), number(g, eps)));
    const momentumBuffer = momentum === 0 ? null : add(mul(state["momentumBuffer"]!, number(g, momentum)), quotient);
    return {
      parameter: sub(parameter, mul(scalars["lr"]!, momentumBuffer ?? quotient)),
      state: { squareAvg, ...(gradAvg ? { gradAvg } : {}), ...(momentumBuffer ? { momentumBuffer } : {}) },
    };
  }
}

/** Settings of Adadelta. */
export interface AdadeltaOptions extends Common {
  /** Decay of both running means. */
  readonly rho: number;
}

/**
 * v ← ρv + (1 − ρ)g², Δ = g·√(d + ε)/√(v + ε), d ← ρd + (1 − ρ)Δ², p ← p − lr·Δ.
 * @see https://arxiv.org/abs/1212.5701
 */
export class Adadelta extends Optimizer<AdadeltaOptions> {
  constructor(parameters: Trained<AdadeltaOptions>, options: Partial<AdadeltaOptions> = {}) {
    super(parameters, { lr: 1, rho: 0.9, eps: 1e-6, weightDecay: 0 }, options);
  }

  protected override slots(): Record<string, number> {
    return { squareAvg: 0, accDelta: 0 };
  }

  protected override update({ parameter, gradient, state, scalars, options }: UpdateInputs<AdadeltaOptions>): UpdateResult {
    const { rho, eps, weightDecay } = options;
    const g = withDecay(gradient, parameter, weightDecay);
    const root = (x: Tensor) => sqrt(add(x, number(x, eps)));
    const squareAvg = mixSquare(state["squareAvg"]!, g, rho);
    const delta = mul(g, div(root(state["accDelta"]!), root(squareAvg)));
    const accDelta = mixSquare(state["accDelta"]!, delta, rho);
    return { parameter: sub(parameter, mul(scalars["lr"]!, delta)), state: { squareAvg, accDelta } };
  }
}
