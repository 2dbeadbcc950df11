/** Adam with another second moment (Adamax), Nesterov's momentum (NAdam) or a warm-up of its own (RAdam), as in PyTorch. */
import { add, div, less, max, mul, pow, recip, sqrt, sub, where } from "../graph/elementwise.ts";
import type { Tensor } from "../graph/node.ts";
import { number } from "../graph/source.ts";
import { abs } from "../tensor/math.ts";
import { BiasCorrected, mix } from "./adam.ts";
import {
  type LearningRate,
  mixSquare,
  type Trained,
  type UpdateInputs,
  type UpdateResult,
  type Values,
  withDecay,
} from "./optimizer.ts";

/** Settings of Adamax. */
export interface AdamaxOptions extends LearningRate {
  /** Decay of the running mean of the gradient and of its running maximum. */
  readonly betas: readonly [number, number];
  readonly eps: number;
  /** Added to the gradient, times the parameter. */
  readonly weightDecay: number;
}

/**
 * m ← β₁m + (1 − β₁)g, u ← max(β₂u, |g| + ε), p ← p − lr·m / ((1 − β₁ᵗ)·u).
 * @see https://arxiv.org/abs/1412.6980, section 7.1
 */
export class Adamax extends BiasCorrected<AdamaxOptions> {
  constructor(parameters: Trained<AdamaxOptions>, options: Partial<AdamaxOptions> = {}) {
    super(parameters, { lr: 2e-3, betas: [0.9, 0.999], eps: 1e-8, weightDecay: 0 }, options);
  }

  protected override slots(): Record<string, number> {
    return { expAvg: 0, expInf: 0 };
  }

  protected override derive({ lr, correction1 }: Values): Values {
    return { rate: div(lr!, correction1!) };
  }

  protected override update({ parameter, gradient, state, scalars, options }: UpdateInputs<AdamaxOptions>): UpdateResult {
    const [beta1, beta2] = options.betas;
    const g = withDecay(gradient, parameter, options.weightDecay);
    const expAvg = mix(state["expAvg"]!, g, beta1);
    const expInf = max(mul(state["expInf"]!, number(g, beta2)), add(abs(g), number(g, options.eps)));
    return { parameter: sub(parameter, mul(scalars["rate"]!, div(expAvg, expInf))), state: { expAvg, expInf } };
  }
}

/** Settings of RAdam. */
export interface RAdamOptions extends AdamaxOptions {
  /** Takes the decay off the parameter, as AdamW does, instead of adding it to the gradient. */
  readonly decoupledWeightDecay: boolean;
}

/** Both moments of Adam, with weight decay in the gradient or, decoupled, in the parameter. */
abstract class Moments<Options extends RAdamOptions> extends BiasCorrected<Options> {
  protected override slots(): Record<string, number> {
    return { expAvg: 0, expAvgSq: 0 };
  }

  /** @returns p and g after weight decay, the two moments, and √v̂ + ε */
  protected moments({ parameter, gradient, state, scalars, options }: UpdateInputs<Options>) {
    const [beta1, beta2] = options.betas;
    const { weightDecay, decoupledWeightDecay: decoupled } = options;
    const p =
      decoupled && weightDecay !== 0
        ? sub(parameter, mul(mul(scalars["lr"]!, number(parameter, weightDecay)), parameter))
        : parameter;
    const g = decoupled ? gradient : withDecay(gradient, parameter, weightDecay);
    const expAvg = mix(state["expAvg"]!, g, beta1);
    const expAvgSq = mixSquare(state["expAvgSq"]!, g, beta2);
    return { p, g, expAvg, expAvgSq };
  }
}

/** Settings of NAdam. */
export interface NAdamOptions extends RAdamOptions {
  /** How fast the momentum rises from half of β₁ to β₁. */
  readonly momentumDecay: number;
}

/**
 * Adam that looks ahead: with μₜ = β₁(1 − ½·0.96^(t·momentumDecay)) and M their product up to t,
 * p ← p − lr·(g·(1 − μₜ)/(1 − M) + m·μₜ₊₁/(1 − M·μₜ₊₁)) / (√v̂ + ε).
 *
 * @see https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ
 */
export class NAdam extends Moments<NAdamOptions> {
  constructor(parameters: Trained<NAdamOptions>, options: Partial<NAdamOptions> = {}) {
    super(
      parameters,
      { lr: 2e-3, betas: [0.9, 0.999], eps: 1e-8, weightDecay: 0, momentumDecay: 4e-3, decoupledWeightDecay: false },
      options,
    );
  }

  protected override counters(options: NAdamOptions): Readonly<Record<string, number>> {
    return { step: 0, product: 1, ...super.counters(options) };
  }

  protected override advance({ step, product, ...bias }: Values, options: NAdamOptions): Values {
    const next = add(step!, number(step!, 1));
    return { step: next, product: mul(product!, momentum(next, options)), ...super.advance(bias, options) };
  }

  protected override derive({ lr, step, product, correction2 }: Values, options: NAdamOptions): Values {
    const one = number(step!, 1);
    const [now, next] = [momentum(step!, options), momentum(add(step!, one), options)];
    return {
      lr: lr!,
      ofGradient: mul(lr!, div(sub(one, now), sub(one, product!))),
      ofMean: mul(lr!, div(next, sub(one, mul(product!, next)))),
      rootCorrection: recip(sqrt(correction2!)),
    };
  }

  protected override update(inputs: UpdateInputs<NAdamOptions>): UpdateResult {
    const { ofGradient, ofMean, rootCorrection } = inputs.scalars;
    const { p, g, expAvg, expAvgSq } = this.moments(inputs);
    const root = add(mul(sqrt(expAvgSq), rootCorrection!), number(g, inputs.options.eps));
    return {
      parameter: sub(p, div(add(mul(ofGradient!, g), mul(ofMean!, expAvg)), root)),
      state: { expAvg, expAvgSq },
    };
  }
}

/** μ at a step. */
function momentum(step: Tensor, { betas, momentumDecay }: NAdamOptions): Tensor {
  const fallen = pow(number(step, 0.96), mul(step, number(step, momentumDecay)));
  return mul(number(step, betas[0]), sub(number(step, 1), mul(fallen, number(step, 0.5))));
}

/**
 * Adam that takes plain momentum steps until enough gradients have been seen for the second moment to be trusted, and
 * weighs it by its certainty afterwards.
 *
 * @see https://arxiv.org/abs/1908.03265
 */
export class RAdam extends Moments<RAdamOptions> {
  constructor(parameters: Trained<RAdamOptions>, options: Partial<RAdamOptions> = {}) {
    super(parameters, { lr: 1e-3, betas: [0.9, 0.999], eps: 1e-8, weightDecay: 0, decoupledWeightDecay: false }, options);
  }

  protected override counters(options: RAdamOptions): Readonly<Record<string, number>> {
    return { step: 0, missing: 0, ...super.counters(options) };
  }

  protected override advance({ step, missing, ...bias }: Values, options: RAdamOptions): Values {
    // Σ(1 − β₂ˢ) over the steps before: what `length` needs without a difference of near equals
    return {
      step: add(step!, number(step!, 1)),
      missing: add(missing!, bias["correction2"]!),
      ...super.advance(bias, options),
    };
  }

  protected override derive({ lr, step, missing, correction1, correction2 }: Values, { betas }: RAdamOptions): Values {
    const n = (value: number) => number(step!, value);
    const longest = 2 / (1 - betas[1]) - 1;
    // length of the running mean, ρ∞ − 2t·β₂ᵗ/(1 − β₂ᵗ) = 2t − 1 − 2·missing/(1 − β₂ᵗ)
    const length = sub(sub(mul(step!, n(2)), n(1)), div(mul(missing!, n(2)), correction2!));
    const certainty = div(
      mul(mul(sub(length, n(4)), sub(length, n(2))), n(longest)),
      mul(length, n((longest - 4) * (longest - 2))),
    );
    const trusted = less(n(5), length);
    const adaptive = mul(sqrt(where(trusted, certainty, n(1))), sqrt(correction2!));
    return { lr: lr!, rate: div(lr!, correction1!), adaptive, trusted };
  }

  protected override update(inputs: UpdateInputs<RAdamOptions>): UpdateResult {
    const { rate, adaptive, trusted } = inputs.scalars;
    const { p, g, expAvg, expAvgSq } = this.moments(inputs);
    const factor = where(trusted!, div(adaptive!, add(sqrt(expAvgSq), number(g, inputs.options.eps))), number(g, 1));
    return { parameter: sub(p, mul(mul(rate!, expAvg), factor)), state: { expAvg, expAvgSq } };
  }
}
