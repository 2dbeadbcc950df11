/** Adam and its relatives, with PyTorch's semantics. */
import { add, max, mul, recip, sqrt, sub } from "../graph/elementwise.ts";
import type { Tensor } from "../graph/node.ts";
import { number } from "../graph/source.ts";
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

/** Settings of Adam and AdamW. */
export interface AdamOptions extends LearningRate {
  /** Decay of the running means of the gradient and of its square. */
  readonly betas: readonly [number, number];
  /** Added to the root of the second mean. */
  readonly eps: number;
  readonly weightDecay: number;
  /** Divides by the largest second mean so far. */
  readonly amsgrad: boolean;
}

/** Optimisers whose running means start at 0, which makes them too small by 1 − β₁ᵗ and 1 − β₂ᵗ: those are counted. */
export abstract class BiasCorrected<
  Options extends Pick<AdamOptions, "lr" | "betas" | "eps" | "weightDecay">,
> extends Optimizer<Options> {
  protected override counters(_options: Options): Readonly<Record<string, number>> {
    return { correction1: 0, correction2: 0 };
  }

  /** 1 − βᵗ from 1 − βᵗ⁻¹: c + (1 − β)(1 − c). No power and no difference of near equals, so float32 is enough. */
  protected override advance({ correction1, correction2 }: Values, { betas: [beta1, beta2] }: Options): Values {
    const next = (c: Tensor, beta: number) => add(c, mul(number(c, 1 - beta), sub(number(c, 1), c)));
    return { correction1: next(correction1!, beta1), correction2: next(correction2!, beta2) };
  }
}

/**
 * m ← β₁m + (1 − β₁)g, v ← β₂v + (1 − β₂)g², p ← p − lr·m̂ / (√v̂ + ε) with m̂ = m/(1 − β₁ᵗ), v̂ = v/(1 − β₂ᵗ).
 * Weight decay is added to the gradient: g + weightDecay·p.
 *
 * @see https://arxiv.org/abs/1412.6980; https://openreview.net/forum?id=ryQu7f-RZ for amsgrad
 */
export class Adam extends BiasCorrected<AdamOptions> {
  /** @param defaults what a relative starts from in place of Adam's settings */
  constructor(parameters: Trained<AdamOptions>, options: Partial<AdamOptions> = {}, defaults: Partial<AdamOptions> = {}) {
    super(parameters, { lr: 1e-3, betas: [0.9, 0.999], eps: 1e-8, weightDecay: 0, amsgrad: false, ...defaults }, options);
  }

  protected override slots({ amsgrad }: AdamOptions): Record<string, number> {
    return { expAvg: 0, expAvgSq: 0, ...(amsgrad ? { maxExpAvgSq: 0 } : {}) };
  }

  protected override derive({ lr, correction1, correction2 }: Values): Values {
    return { lr: lr!, rate: mul(lr!, recip(correction1!)), rootCorrection: recip(sqrt(correction2!)) };
  }

  /** The gradient and the parameter after weight decay. */
  protected decay({ parameter, gradient, options }: UpdateInputs<AdamOptions>): { p: Tensor; g: Tensor } {
    return { p: parameter, g: withDecay(gradient, parameter, options.weightDecay) };
  }

  protected override update(inputs: UpdateInputs<AdamOptions>): UpdateResult {
    const { state, scalars, options } = inputs;
    const { p, g } = this.decay(inputs);
    const [beta1, beta2] = options.betas;
    const m = mix(state["expAvg"]!, g, beta1);
    const v = mixSquare(state["expAvgSq"]!, g, beta2);
    const largest = options.amsgrad ? max(state["maxExpAvgSq"]!, v) : v;
    const root = add(mul(sqrt(largest), scalars["rootCorrection"]!), number(g, options.eps));
    return {
      parameter: sub(p, mul(scalars["rate"]!, mul(m, recip(root)))),
      state: { expAvg: m, expAvgSq: v, ...(options.amsgrad ? { maxExpAvgSq: largest } : {}) },
    };
  }
}

/**
 * Adam whose weight decay acts on the parameter, not on the gradient: p ← p·(1 − lr·weightDecay) before the step of Adam.
 * @see https://arxiv.org/abs/1711.05101
 */
export class AdamW extends Adam {
  constructor(parameters: Trained<AdamOptions>, options: Partial<AdamOptions> = {}) {
    super(parameters, options, { weightDecay: 0.01 });
  }

  protected override derive(scalars: Values, options: AdamOptions = {} as AdamOptions): Values {
    const { lr } = scalars;
    return { ...super.derive(scalars), kept: sub(number(lr!, 1), mul(lr!, number(lr!, options.weightDecay))) };
  }

  protected override decay({ parameter, gradient, scalars, options }: UpdateInputs<AdamOptions>): { p: Tensor; g: Tensor } {
    return { p: options.weightDecay === 0 ? parameter : mul(parameter, scalars["kept"]!), g: gradient };
  }
}

/** β·old + (1 − β)·x, as PyTorch's lerp computes it. */
export const mix = (old: Tensor, x: Tensor, beta: number): Tensor => add(old, mul(sub(x, old), number(x, 1 - beta)));
