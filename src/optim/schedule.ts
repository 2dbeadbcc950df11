/**
 * Learning-rate schedules: the rate of step i (from 0) given the rate that the optimiser was made with.
 * `optimizer.setLearningRate((base) => schedule(i, base))` before step i.
 */
import { checkOptions, type Rule, requireOption } from "../errors.ts";

/** The learning rate of a step, given the rate that the optimiser was made with. */
export type Schedule = (step: number, base: number) => number;

/** Steps in which the rate rises from 0 to the base rate. */
interface Warmup {
  readonly warmupSteps?: number;
}

interface Total extends Warmup {
  /** Steps of the whole training, warm-up included. */
  readonly totalSteps: number;
}

/** Rise from 0 to 1 while progress does. */
const curves = {
  linear: (done: number) => done,
  cosine: (done: number) => 0.5 * (1 - Math.cos(Math.PI * done)),
  "1-sqrt": (done: number) => 1 - Math.sqrt(1 - done),
};
type Curve = keyof typeof curves;

/** An option is the same thing in every schedule that has it. */
const rules: Readonly<Record<string, Rule>> = {
  warmupSteps: "a whole number from 0",
  decaySteps: "a whole number from 0",
  totalSteps: "a whole number from 1",
  stepSize: "a whole number from 1",
  halfPeriod: "a whole number from 1",
  first: "a whole number from 1",
  factor: "a whole number from 1",
  milestones: "a list of numbers",
  cycles: "a finite number",
  power: "a finite number",
  gamma: "a finite number",
  end: "a finite number",
  min: "a finite number",
  minRatio: "a number from 0 to 1",
  warmupShare: "a number from 0 to 1",
  timescale: "a number above 0",
  max: "a number above 0",
  divFactor: "a number above 0",
  finalDivFactor: "a number above 0",
  warmup: Object.keys(curves),
  decay: Object.keys(curves),
  anneal: ["cos", "linear"],
};

/**
 * All options of a schedule.
 *
 * @param usual what is taken for those that are not given; `undefined` for those that must be
 * @throws {ConfigError} for an option that there is not, or that is missing or out of range
 */
function readOptions<Options extends object>(
  operation: string,
  options: Options,
  usual: { readonly [Name in keyof Options]-?: Options[Name] | undefined },
): { readonly [Name in keyof Options]-?: Exclude<Options[Name], undefined> } {
  const own = Object.keys(usual).map((name) => [name, rules[name]!] as const);
  checkOptions<object>(operation, options, Object.fromEntries(own));
  const given = Object.entries(options).filter(([, value]) => value !== undefined);
  const all = { ...usual, ...Object.fromEntries(given) };
  for (const [name, value] of Object.entries(all)) requireOption(operation, rules[name]!, name, value);
  return all as { [Name in keyof Options]-?: Exclude<Options[Name], undefined> };
}

/** Base rate times a factor: rising over the warm-up, then `after(steps since)`. */
const warmed =
  (warmupSteps: number, after: (step: number) => number): Schedule =>
  (step, base) =>
    base * (step < warmupSteps ? step / Math.max(1, warmupSteps) : after(step));

/** Share of the steps after the warm-up that are over at `step`. */
const progress = (step: number, warmup: number, total: number): number => (step - warmup) / Math.max(1, total - warmup);

/** The base rate, after a warm-up if there is one. */
export const constantSchedule = (options: Warmup = {}): Schedule =>
  warmed(readOptions("constantSchedule", options, { warmupSteps: 0 }).warmupSteps, () => 1);

/** Falls in a straight line to 0 at `totalSteps`. */
export function linearSchedule(options: Total): Schedule {
  const { warmupSteps, totalSteps } = readOptions("linearSchedule", options, { warmupSteps: 0, totalSteps: undefined });
  return warmed(warmupSteps, (step) => Math.max(0, 1 - progress(step, warmupSteps, totalSteps)));
}

/**
 * ½(1 + cos(2π·cycles·progress)): half a wave from the base rate to 0.
 * @see https://arxiv.org/abs/1608.03983
 */
export function cosineSchedule(options: Total & { readonly cycles?: number }): Schedule {
  const { warmupSteps, totalSteps, cycles } = readOptions("cosineSchedule", options, {
    warmupSteps: 0,
    totalSteps: undefined,
    cycles: 0.5,
  });
  return warmed(warmupSteps, (step) =>
    Math.max(0, 0.5 * (1 + Math.cos(Math.PI * cycles * 2 * progress(step, warmupSteps, totalSteps)))),
  );
}

/** Half a wave from the base rate to 0, `cycles` times. */
export function cosineWithRestartsSchedule(options: Total & { readonly cycles?: number }): Schedule {
  const { warmupSteps, totalSteps, cycles } = readOptions("cosineWithRestartsSchedule", options, {
    warmupSteps: 0,
    totalSteps: undefined,
    cycles: 1,
  });
  return warmed(warmupSteps, (step) => {
    const done = progress(step, warmupSteps, totalSteps);
    return done >= 1 ? 0 : Math.max(0, 0.5 * (1 + Math.cos(Math.PI * ((cycles * done) % 1))));
  });
}

/** From the base rate to `end` along (1 − progress)^power. */
export function polynomialSchedule(options: Total & { readonly end?: number; readonly power?: number }): Schedule {
  const { warmupSteps, totalSteps, end, power } = readOptions("polynomialSchedule", options, {
    warmupSteps: 0,
    totalSteps: undefined,
    end: 1e-7,
    power: 1,
  });
  const warm = warmed(warmupSteps, () => 1);
  return (step, base) => {
    if (step < warmupSteps) return warm(step, base);
    if (step > totalSteps) return end;
    return (base - end) * (1 - progress(step, warmupSteps, totalSteps)) ** power + end;
  };
}

/** Base rate·√(warmupSteps / step) after the warm-up. @see https://arxiv.org/abs/2106.04560 */
export function inverseSqrtSchedule(options: Warmup & { readonly timescale?: number } = {}): Schedule {
  const { warmupSteps, timescale } = readOptions("inverseSqrtSchedule", options, {
    warmupSteps: 0,
    timescale: options?.warmupSteps || 10_000,
  });
  const shift = timescale - warmupSteps;
  return warmed(warmupSteps, (step) => 1 / Math.sqrt((step + shift) / timescale));
}

/**
 * Warm-up, a stretch at the base rate, then a decay to `minRatio` of it.
 * @see https://arxiv.org/abs/2404.06395
 */
export function warmupStableDecaySchedule(
  options: Total & {
    readonly decaySteps: number;
    readonly minRatio?: number;
    readonly warmup?: Curve;
    readonly decay?: Curve;
  },
): Schedule {
  const { warmupSteps, decaySteps, totalSteps, minRatio, warmup, decay } = readOptions("warmupStableDecaySchedule", options, {
    warmupSteps: 0,
    decaySteps: undefined,
    totalSteps: undefined,
    minRatio: 0,
    warmup: "linear",
    decay: "cosine",
  });
  const stable = totalSteps - decaySteps;
  const scaled = (factor: number) => Math.max(0, factor * (1 - minRatio) + minRatio);
  return (step, base) => {
    if (step < warmupSteps) return base * scaled(curves[warmup](step / Math.max(1, warmupSteps)));
    if (step < stable) return base;
    if (step >= totalSteps) return base * minRatio;
    const done = (step - stable) / Math.max(1, decaySteps);
    return base * scaled(curves[decay](1 - done));
  };
}

/** Times `gamma` every `stepSize` steps. */
export function stepSchedule(options: { readonly stepSize: number; readonly gamma?: number }): Schedule {
  const { stepSize, gamma } = readOptions("stepSchedule", options, { stepSize: undefined, gamma: 0.1 });
  return (step, base) => base * gamma ** Math.floor(step / stepSize);
}

/** Times `gamma` at each milestone. */
export function multiStepSchedule(options: { readonly milestones: readonly number[]; readonly gamma?: number }): Schedule {
  const { milestones, gamma } = readOptions("multiStepSchedule", options, { milestones: undefined, gamma: 0.1 });
  return (step, base) => base * gamma ** milestones.filter((milestone) => milestone <= step).length;
}

/** Times `gamma` at every step. */
export function exponentialSchedule(options: { readonly gamma: number }): Schedule {
  const { gamma } = readOptions("exponentialSchedule", options, { gamma: undefined });
  return (step, base) => base * gamma ** step;
}

/** A wave between the base rate and `min`, half of it in `halfPeriod` steps. @see https://arxiv.org/abs/1608.03983 */
export function cosineAnnealingSchedule(options: { readonly halfPeriod: number; readonly min?: number }): Schedule {
  const { halfPeriod, min } = readOptions("cosineAnnealingSchedule", options, { halfPeriod: undefined, min: 0 });
  return (step, base) => min + (base - min) * 0.5 * (1 + Math.cos((Math.PI * step) / halfPeriod));
}

/** Half a wave from the base rate to `min`, again and again, each `factor` times longer than the one before. */
export function cosineAnnealingWarmRestartsSchedule(options: {
  readonly first: number;
  readonly factor?: number;
  readonly min?: number;
}): Schedule {
  const { first, factor, min } = readOptions("cosineAnnealingWarmRestartsSchedule", options, {
    first: undefined,
    factor: 1,
    min: 0,
  });
  return (step, base) => {
    let [start, length] = [0, first];
    while (step >= start + length) {
      start += length;
      length *= factor;
    }
    return min + (base - min) * 0.5 * (1 + Math.cos((Math.PI * (step - start)) / length));
  };
}

/**
 * One rise from max / divFactor to `max` and one fall to max / (divFactor·finalDivFactor); the base rate does not count.
 * @see https://arxiv.org/abs/1708.07120
 */
export function oneCycleSchedule(options: {
  readonly max: number;
  readonly totalSteps: number;
  readonly warmupShare?: number;
  readonly divFactor?: number;
  readonly finalDivFactor?: number;
  readonly anneal?: "cos" | "linear";
}): Schedule {
  const { max, totalSteps, warmupShare, divFactor, finalDivFactor, anneal } = readOptions("oneCycleSchedule", options, {
    max: undefined,
    totalSteps: undefined,
    warmupShare: 0.3,
    divFactor: 25,
    finalDivFactor: 1e4,
    anneal: "cos",
  });
  const [first, last] = [max / divFactor, max / divFactor / finalDivFactor];
  const top = warmupShare * totalSteps - 1;
  const move = (from: number, to: number, done: number) =>
    anneal === "cos" ? to + ((from - to) / 2) * (1 + Math.cos(Math.PI * done)) : from + (to - from) * done;
  return (step) =>
    step <= top
      ? move(first, max, top > 0 ? step / top : 1)
      : move(max, last, Math.min(1, (step - top) / (totalSteps - 1 - top)));
}
