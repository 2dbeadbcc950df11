/** Lion: only the sign of the momentum counts. */
import { add, mul, sub } from "../graph/elementwise.ts";
import { number } from "../graph/source.ts";
import { sign } from "../tensor/math.ts";
import { mix } from "./adam.ts";
import { type LearningRate, Optimizer, type Trained, type UpdateInputs, type UpdateResult, type Values } from "./optimizer.ts";

/** Settings of Lion. */
export interface LionOptions extends LearningRate {
  /** Weight of the momentum in the step, and its decay. */
  readonly betas: readonly [number, number];
  readonly weightDecay: number;
}

/**
 * p ← p·(1 − lr·weightDecay) − lr·sign(β₁m + (1 − β₁)g), then m ← β₂m + (1 − β₂)g.
 * One value of state per parameter; the learning rate is about a tenth of AdamW's.
 *
 * @see https://arxiv.org/abs/2302.06675
 */
export class Lion extends Optimizer<LionOptions> {
  constructor(parameters: Trained<LionOptions>, options: Partial<LionOptions> = {}) {
    super(parameters, { lr: 1e-4, betas: [0.9, 0.99], weightDecay: 0 }, options);
  }

  protected override slots(): Record<string, number> {
    return { expAvg: 0 };
  }

  protected override derive({ lr }: Values, { weightDecay }: LionOptions): Values {
    return { lr: lr!, kept: sub(number(lr!, 1), mul(lr!, number(lr!, weightDecay))) };
  }

  protected override update({ parameter, gradient, state, scalars, options }: UpdateInputs<LionOptions>): UpdateResult {
    const [beta1, beta2] = options.betas;
    const m = state["expAvg"]!;
    // as a sum, not as `mix` computes it: where both terms cancel the sign decides everything
    const direction = sign(add(mul(m, number(m, beta1)), mul(gradient, number(m, 1 - beta1))));
    const p = options.weightDecay === 0 ? parameter : mul(parameter, scalars["kept"]!);
    return { parameter: sub(p, mul(scalars["lr"]!, direction)), state: { expAvg: mix(m, gradient, beta2) } };
  }
}
