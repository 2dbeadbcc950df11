/**
 * Adafactor: of a matrix of squared gradients only the means of rows and columns are kept, R + C values instead of R·C.
 * PyTorch's variant and that of transformers, which has more of the paper, agree in this and differ in all the rest.
 *
 * @see https://arxiv.org/abs/1804.04235
 */
import { ConfigError } from "../errors.ts";
import { add, div, max, mul, pow, recip, sqrt, sub } from "../graph/elementwise.ts";
import type { Tensor } from "../graph/node.ts";
import { number } from "../graph/source.ts";
import { minimum, rsqrt } from "../tensor/math.ts";
import { mean } from "../tensor/statistics.ts";
import { mix } from "./adam.ts";
import {
  type LearningRate,
  Optimizer,
  type Slot,
  type Trained,
  type UpdateInputs,
  type UpdateResult,
  type Values,
} from "./optimizer.ts";

/** Root of the mean square, []. */
const rms = (x: Tensor): Tensor => sqrt(mean(mul(x, x)));
/** x so that its root mean square is at most `limit`. */
const limited = (x: Tensor, limit: number): Tensor => div(x, max(number(x, 1), mul(rms(x), number(x, 1 / limit))));

/** Means over the last axis and over the one before: [..., R, 1] and [..., 1, C]; a vector is kept whole. */
const factors = (shape: readonly number[]): Record<string, Slot> =>
  shape.length < 2
    ? { expAvgSq: 0 }
    : {
        expAvgSqRow: { shape: [...shape.slice(0, -1), 1], value: 0 },
        expAvgSqCol: { shape: [...shape.slice(0, -2), 1, shape.at(-1) as number], value: 0 },
      };

/** The state after `squares` have been mixed in with the weight of this step, and the estimate of the mean square. */
function estimate(state: Values, squares: Tensor, weight: Tensor, leastMean: number): { state: Values; estimate: Tensor } {
  const blend = (old: Tensor, x: Tensor) => add(old, mul(sub(x, old), weight));
  const whole = state["expAvgSq"];
  if (whole) {
    const expAvgSq = blend(whole, squares);
    return { state: { expAvgSq }, estimate: expAvgSq };
  }
  const expAvgSqRow = blend(state["expAvgSqRow"]!, mean(squares, -1, true));
  const expAvgSqCol = blend(state["expAvgSqCol"]!, mean(squares, -2, true));
  const rows = div(expAvgSqRow, max(mean(expAvgSqRow, -2, true), number(squares, leastMean)));
  return { state: { expAvgSqRow, expAvgSqCol }, estimate: mul(rows, expAvgSqCol) };
}

/** PyTorch's settings of Adafactor. */
export interface AdafactorOptions extends LearningRate {
  /** Step t replaces the share t^beta2Decay of the mean squares. */
  readonly beta2Decay: number;
  /** Least root of a mean square, and least size of a parameter that the step is relative to. */
  readonly eps: readonly [number, number];
  /** Largest root mean square of the change before the rate. */
  readonly d: number;
  /** Taken off the parameter, times the rate. */
  readonly weightDecay: number;
}

/** Smallest float32 above 1, minus 1. */
const float32Epsilon = 2 ** -23;

/** PyTorch's Adafactor: steps of min(lr, 1/√t) relative to the size of the parameter. */
export class Adafactor extends Optimizer<AdafactorOptions> {
  constructor(parameters: Trained<AdafactorOptions>, options: Partial<AdafactorOptions> = {}) {
    super(parameters, { lr: 1e-2, beta2Decay: -0.8, eps: [float32Epsilon, 1e-3], d: 1, weightDecay: 0 }, options);
  }

  protected override slots(_: AdafactorOptions, shape: readonly number[]): Record<string, Slot> {
    return factors(shape);
  }

  protected override counters(): Record<string, number> {
    return { step: 0 };
  }

  protected override derive({ lr, step }: Values, { beta2Decay, weightDecay }: AdafactorOptions): Values {
    return {
      weight: pow(step!, number(step!, beta2Decay)),
      rate: minimum(lr!, rsqrt(step!)),
      kept: sub(number(lr!, 1), mul(lr!, number(lr!, weightDecay))),
    };
  }

  protected override update({ parameter, gradient, state, scalars, options }: UpdateInputs<AdafactorOptions>): UpdateResult {
    const [least, smallest] = options.eps;
    const next = estimate(state, mul(gradient, gradient), scalars["weight"]!, least);
    const change = mul(gradient, rsqrt(max(next.estimate, number(gradient, least * least))));
    const rate = mul(scalars["rate"]!, max(rms(parameter), number(parameter, smallest)));
    const p = options.weightDecay === 0 ? parameter : mul(parameter, scalars["kept"]!);
    return { parameter: sub(p, mul(rate, limited(change, options.d))), state: next.state };
  }
}

/** The settings that transformers has. */
export interface TransformersAdafactorOptions extends LearningRate {
  /** Added to squared gradients, and least size of a parameter that the step is relative to. */
  readonly eps: readonly [number, number];
  /** Largest root mean square of the change before the rate. */
  readonly clipThreshold: number;
  /** Step t replaces the share t^decayRate of the mean squares. */
  readonly decayRate: number;
  /** Decay of a running mean of the changes; none when `null`. */
  readonly beta1: number | null;
  /** Taken off the parameter, times the rate. */
  readonly weightDecay: number;
  /** Steps relative to the size of the parameter. */
  readonly scaleParameter: boolean;
  /** The rate is min(1e-2, 1/√t), and `lr` does not count. */
  readonly relativeStep: boolean;
  /** With `relativeStep`: min(1e-6·t, 1/√t). */
  readonly warmupInit: boolean;
}

/** Adafactor with the options of `transformers.Adafactor`, of which `lr: null` is `relativeStep` here. */
export class TransformersAdafactor extends Optimizer<TransformersAdafactorOptions> {
  constructor(parameters: Trained<TransformersAdafactorOptions>, options: Partial<TransformersAdafactorOptions> = {}) {
    super(
      parameters,
      {
        lr: 1e-3,
        eps: [1e-30, 1e-3],
        clipThreshold: 1,
        decayRate: -0.8,
        beta1: null,
        weightDecay: 0,
        scaleParameter: true,
        relativeStep: true,
        warmupInit: false,
      },
      options,
    );
  }

  protected override check(options: TransformersAdafactorOptions): void {
    if (options.warmupInit && !options.relativeStep)
      throw new ConfigError("`warmupInit` needs `relativeStep`.", {
        operation: "TransformersAdafactor",
        got: options.warmupInit,
      });
  }

  protected override slots({ beta1 }: TransformersAdafactorOptions, shape: readonly number[]): Record<string, Slot> {
    return { ...factors(shape), ...(beta1 === null ? {} : { expAvg: 0 }) };
  }

  protected override counters(): Record<string, number> {
    return { step: 0 };
  }

  protected override derive({ lr, step }: Values, options: TransformersAdafactorOptions): Values {
    const most = options.warmupInit ? mul(step!, number(step!, 1e-6)) : number(step!, 1e-2);
    return {
      weight: pow(step!, number(step!, options.decayRate)),
      rate: options.relativeStep ? minimum(most, rsqrt(step!)) : lr!,
    };
  }

  protected override update(inputs: UpdateInputs<TransformersAdafactorOptions>): UpdateResult {
    const { parameter, gradient, scalars, options } = inputs;
    const { beta1, scaleParameter, weightDecay } = options;
    const { expAvg: oldMean, ...old } = inputs.state;
    const squares = add(mul(gradient, gradient), number(gradient, options.eps[0]));
    const next = estimate(old, squares, scalars["weight"]!, 0);
    const size = scaleParameter ? max(rms(parameter), number(parameter, options.eps[1])) : number(parameter, 1);
    const rate = mul(scalars["rate"]!, size);
    const change = mul(rate, limited(mul(gradient, recip(sqrt(next.estimate))), options.clipThreshold));
    const expAvg = oldMean && beta1 !== null ? mix(oldMean, change, beta1) : null;
    const p = weightDecay === 0 ? parameter : sub(parameter, mul(mul(rate, number(rate, weightDecay)), parameter));
    return { parameter: sub(p, expAvg ?? change), state: { ...next.state, ...(expAvg ? { expAvg } : {}) } };
  }
}
