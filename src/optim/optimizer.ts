/**
 * What all optimisers share: groups of parameters with settings of their own, state kept in variables, and one step that
 * assigns everything at once. State, step counts and learning rates are variables, so that a compiled training step
 * replays with all of them advancing; a rule says only what becomes of one parameter.
 */
import { pullback } from "../autograd/grad.ts";
import { currentDevice, upload } from "../compile/program.ts";
import type { Buffer, Device } from "../devices/device.ts";
import {
  ConfigError,
  checkOptions,
  DTypeError,
  type Rule,
  requireKind,
  requireOption,
  ShapeError,
  wordShape,
  wordType,
} from "../errors.ts";
import { dtypes } from "../graph/dtype.ts";
import { add, mul } from "../graph/elementwise.ts";
import { requireTensors, Tensor } from "../graph/node.ts";
import { sameShape, sizeOf } from "../graph/shape.ts";
import { constant, number } from "../graph/source.ts";
import { computeTogether } from "../graph/together.ts";
import { assignAll, isObserved, Variable } from "../graph/variable.ts";
import { fittingState } from "./saved-state.ts";

/** Settings that every optimiser has. */
export interface LearningRate {
  /** Learning rate. */
  readonly lr: number;
}

/** Parameters with settings of their own; those that are not given are the optimiser's. */
export type ParameterGroup<Options extends LearningRate> = Partial<Options> & { readonly parameters: readonly Variable[] };

/** What is trained: parameters, or groups of them with settings of their own. */
export type Trained<Options extends LearningRate> = readonly Variable[] | readonly ParameterGroup<Options>[];

/** Values by name: what is kept for a parameter, or for a group. */
export type Values = Readonly<Record<string, Tensor>>;

/** What a rule knows when it updates one parameter. */
export interface UpdateInputs<Options> {
  readonly parameter: Tensor;
  readonly gradient: Tensor;
  /** Values kept for this parameter. */
  readonly state: Values;
  /** Scalars of the group, already advanced to this step, the learning rate `lr` among them. */
  readonly scalars: Values;
  readonly options: Options;
}

/** What becomes of one parameter and the values kept for it. */
export interface UpdateResult {
  readonly parameter: Tensor;
  readonly state: Values;
}

/** Gradients by parameter; a parameter without one is left as it is. */
export type Gradients = ReadonlyMap<Variable, Tensor>;

interface Group<Options extends LearningRate> {
  readonly parameters: readonly Variable[];
  readonly options: Options;
  readonly lr: Variable;
  readonly counters: Readonly<Record<string, Variable>>;
}

/** Without what is only named, so that defaults stay. */
const defined = <T extends object>(options: T): T =>
  Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as T;

/** A setting is the same thing in every optimiser that has it; of two, each. */
const ranges: Readonly<Record<string, Rule>> = {
  lr: "a number from 0",
  eps: "a number from 0",
  weightDecay: "a number from 0",
  momentum: "a number from 0",
  momentumDecay: "a number from 0",
  lrDecay: "a number from 0",
  initialAccumulatorValue: "a number from 0",
  alpha: "a number from 0 below 1",
  betas: "a number from 0 below 1",
  beta1: "a number from 0 below 1",
  rho: "a number from 0 below 1",
  beta2Decay: "a number up to 0",
  decayRate: "a number up to 0",
  d: "a number above 0, or Infinity",
  clipThreshold: "a number above 0, or Infinity",
};

/** @throws {ConfigError} for a setting out of range */
function checkRanges(operation: string, settings: object): void {
  for (const [name, value] of Object.entries(settings))
    for (const [i, one] of [value].flat().entries())
      if (one !== null) requireOption(operation, ranges[name] ?? null, Array.isArray(value) ? `${name}[${i}]` : name, one);
}

/** An option is of the kind that its usual value is. */
const rulesOf = (defaults: object): Readonly<Record<string, Rule>> =>
  Object.fromEntries(
    Object.entries(defaults).map(([name, usual]): [string, Rule] => {
      if (Array.isArray(usual)) return [name, "two numbers"];
      return [name, typeof usual === "boolean" ? "true or false" : typeof usual === "number" ? "a number" : null];
    }),
  );

/**
 * What all optimisers can do. Gradients come from `gradientsOf`, or from `backward` as in PyTorch.
 *
 * @example
 * const optimizer = new AdamW(model.trainableParameters(), { lr: 1e-3 });
 * optimizer.step(gradientsOf(loss, model.trainableParameters()));
 */
export abstract class Optimizer<Options extends LearningRate> {
  readonly groups: readonly Group<Options>[];
  readonly #state = new Map<Variable, Readonly<Record<string, Variable>>>();

  /**
   * @param parameters the parameters, or groups of them with settings of their own
   * @param defaults   all settings, as they are when nobody gives them
   * @param options    settings of all groups that do not give them
   * @throws {ConfigError} for no parameters, a parameter given twice, a setting that there is not, or one out of range
   */
  constructor(parameters: Trained<Options>, defaults: Options, options: Partial<Options>) {
    const operation = this.#operation;
    const rules = rulesOf(defaults);
    checkOptions<object>(operation, options, rules);
    requireKind(operation, "a list", { parameters });
    if (parameters.length === 0) throw new ConfigError("got no parameters.", { operation });
    const none: Partial<Options> = {};
    const groups: readonly ParameterGroup<Options>[] =
      parameters[0] instanceof Variable || parameters[0] instanceof Tensor
        ? [{ ...none, parameters: parameters as readonly Variable[] }]
        : (parameters as readonly ParameterGroup<Options>[]);
    const seen = new Set<Variable>();
    for (const group of groups) {
      requireVariables(operation, (group as Partial<typeof group> | null)?.parameters);
      for (const parameter of group.parameters) {
        if (seen.has(parameter))
          throw new ConfigError(`a parameter of ${wordShape(parameter.shape)} is given twice.`, { operation });
        seen.add(parameter);
      }
    }
    this.groups = groups.map(({ parameters: own, ...given }) => {
      checkOptions<object>(operation, given, rules);
      const settings: Options = { ...defaults, ...defined(options), ...defined(given) };
      checkRanges(operation, settings);
      this.check(settings);
      const dtype = own.some((parameter) => parameter.dtype === "float64") ? "float64" : "float32";
      const scalar = (value: number) =>
        new Variable(upload(currentDevice(), dtypes[dtype].array.of(value), [], dtype), { requiresGrad: false });
      const counters = Object.entries(this.counters(settings)).map(([name, first]) => [name, scalar(first)] as const);
      return { parameters: own, options: settings, lr: scalar(settings.lr), counters: Object.fromEntries(counters) };
    });
  }

  get #operation(): string {
    return this.constructor.name;
  }

  /** Refuses settings that do not go together. */
  protected check(_options: Options): void {}
  /** Names of the values that are kept for a parameter of this shape, and what they start at. */
  protected abstract slots(options: Options, shape: readonly number[]): Readonly<Record<string, Slot>>;
  /** Scalars that a group counts with, and what they start at. */
  protected counters(_options: Options): Readonly<Record<string, number>> {
    return {};
  }
  /** The scalars of this step from those of the step before: `step`, if there is one, counts. */
  protected advance({ step }: Values, _options: Options): Values {
    return step ? { step: add(step, number(step, 1)) } : {};
  }
  /** Everything that depends on scalars alone, computed once per group: what `update` gets as `scalars`. */
  protected derive(scalars: Values, _options: Options): Values {
    return scalars;
  }
  protected abstract update(inputs: UpdateInputs<Options>): UpdateResult;

  /**
   * Changes all parameters that have a gradient, and the state kept for them, in one program.
   *
   * @param gradients by parameter; what `backward()` left in `.grad` when absent
   * @throws {ConfigError} when there is no gradient at all; @throws {ShapeError} when one does not fit its parameter
   */
  step(gradients?: Gradients): void {
    const operation = this.#operation;
    if (gradients !== undefined) requireKind(operation, "a Map", { gradients });
    const next: [Variable, Tensor][] = [];
    let updated = 0;
    for (const { parameters, options, lr, counters } of this.groups) {
      const before = Object.fromEntries(Object.entries(counters).map(([name, variable]) => [name, variable.value]));
      const after = this.advance(before, options);
      for (const [name, variable] of Object.entries(counters)) next.push([variable, after[name]!]);
      const scalars = this.derive({ ...after, lr: lr.value }, options);
      for (const parameter of parameters) {
        const gradient = gradients ? gradients.get(parameter) : parameter.grad;
        if (!gradient) continue;
        requireTensors(operation, { gradient });
        if (!sameShape(gradient.shape, parameter.shape))
          throw new ShapeError(
            `a gradient of ${wordShape(gradient.shape)} does not fit a parameter of ${wordShape(parameter.shape)}.`,
            {
              operation,
              expected: parameter.shape,
              got: gradient.shape,
            },
          );
        const kept = this.#stateOf(parameter, options);
        const state = Object.fromEntries(Object.entries(kept).map(([name, variable]) => [name, variable.value]));
        const result = this.update({ parameter: parameter.value, gradient, state, scalars, options });
        next.push([parameter, result.parameter]);
        for (const [name, variable] of Object.entries(kept)) next.push([variable, result.state[name]!]);
        updated++;
      }
    }
    if (updated === 0)
      throw new ConfigError("no parameter has a gradient.", {
        operation,
        hint: gradients ? "The gradients are of other parameters." : "Call backward(loss) first, or pass gradients.",
      });
    assignAll(next);
  }

  /** Forgets the gradients that `backward()` left. */
  zeroGrad(): void {
    for (const { parameters } of this.groups) for (const parameter of parameters) parameter.grad = null;
  }

  /**
   * Sets the learning rate, without tracing a compiled step again.
   *
   * @param lr one for all groups, or a function of a group's own first rate (see schedule.ts)
   */
  setLearningRate(lr: number | ((base: number) => number)): void {
    if (typeof lr !== "function") requireKind("setLearningRate", "a number from 0", { lr });
    if (isObserved())
      throw new ConfigError("inside a compiled function it would be set once only, while tracing.", {
        operation: "setLearningRate",
        hint: "Call it before the compiled step.",
      });
    for (const group of this.groups) {
      const value = typeof lr === "number" ? lr : lr(group.options.lr);
      checkRanges(this.#operation, { lr: value });
      const { storage, dtype } = group.lr.stored;
      const values = dtypes[dtype as "float32" | "float64"].array.of(value);
      // in place: a new tensor would have another address, and every compiled step would be bound to it anew
      (storage!.device as Device).upload(values, dtype, { buffer: storage!.buffer as Buffer, offset: 0 });
    }
  }

  /** All state by name, for a checkpoint: `groups.0.lr`, `groups.0.<counter>`, `state.<number of the parameter>.<name>`. */
  stateDict(): Map<string, Tensor> {
    return new Map([...this.#named()].map(([name, variable]) => [name, variable.stored]));
  }

  /**
   * Goes on from a saved state. The parameters themselves are the model's to load.
   *
   * @throws {FormatError} for a missing or an unknown name; @throws {ShapeError} when a value does not fit. Nothing is changed then.
   */
  loadStateDict(saved: ReadonlyMap<string, Tensor>): void {
    requireKind("loadStateDict", "a Map", { saved });
    const parameters = this.groups.flatMap((group) => group.parameters.map((parameter) => ({ parameter, group })));
    // state appears with the first gradient of a parameter, so a saved one decides which parameters have it
    const touched = parameters.filter((_, i) => [...saved.keys()].some((name) => name.startsWith(`state.${i}.`)));
    const fresh = new Map(
      touched
        .filter(({ parameter }) => !this.#state.has(parameter))
        .map(({ parameter, group }) => [parameter, this.#make(parameter, group.options)]),
    );
    const pairs = fittingState(new Map(this.#named(fresh)), saved, "optimiser");
    for (const [parameter, state] of fresh) this.#state.set(parameter, state);
    assignAll(pairs);
  }

  #stateOf(parameter: Variable, options: Options): Readonly<Record<string, Variable>> {
    let state = this.#state.get(parameter);
    if (!state) this.#state.set(parameter, (state = this.#make(parameter, options)));
    return state;
  }

  #make(parameter: Variable, options: Options): Readonly<Record<string, Variable>> {
    const make = (slot: Slot) => {
      const { shape, value } = typeof slot === "number" ? { shape: parameter.shape, value: slot } : slot;
      const size = sizeOf(shape);
      const device = (parameter.stored.storage?.device as Device | undefined) ?? currentDevice();
      const dtype = parameter.dtype === "float64" ? "float64" : "float32";
      return new Variable(upload(device, new dtypes[dtype].array(size).fill(value), shape, dtype), { requiresGrad: false });
    };
    return Object.fromEntries(Object.entries(this.slots(options, parameter.shape)).map(([name, slot]) => [name, make(slot)]));
  }

  *#named(extra: ReadonlyMap<Variable, Readonly<Record<string, Variable>>> = new Map()): Generator<[string, Variable]> {
    let index = 0;
    for (const [i, { parameters, lr, counters }] of this.groups.entries()) {
      yield [`groups.${i}.lr`, lr];
      for (const [name, variable] of Object.entries(counters)) yield [`groups.${i}.${name}`, variable];
      for (const parameter of parameters) {
        const state = this.#state.get(parameter) ?? extra.get(parameter) ?? {};
        for (const [name, variable] of Object.entries(state)) yield [`state.${index}.${name}`, variable];
        index++;
      }
    }
  }
}

/** First value of something kept for a parameter; of the parameter's shape unless it says another. */
export type Slot = number | { readonly shape: readonly number[]; readonly value: number };

/** The gradient of the loss with ½·weightDecay·‖p‖² added: what most optimisers but AdamW call weight decay. */
export const withDecay = (gradient: Tensor, parameter: Tensor, weightDecay: number): Tensor =>
  weightDecay === 0 ? gradient : add(gradient, mul(parameter, number(parameter, weightDecay)));

/** β·old + (1 − β)·x². */
export const mixSquare = (old: Tensor, x: Tensor, beta: number): Tensor =>
  add(mul(old, number(x, beta)), mul(mul(x, x), number(x, 1 - beta)));

/** @throws {DTypeError} for what is no list of variables */
export function requireVariables(operation: string, parameters: unknown): void {
  requireKind(operation, "a list", { parameters });
  for (const parameter of parameters as unknown[])
    if (!(parameter instanceof Variable))
      throw new DTypeError(`a parameter is ${wordType(parameter)}, not a Variable.`, {
        operation,
        got: parameter,
        ...(parameter instanceof Tensor && { hint: "Use new Variable(x), which holds one value after another." }),
      });
}

/**
 * Gradients of a scalar loss by parameters, for `optimizer.step`. Parameters that the loss does not depend on are left out.
 *
 * @throws {ShapeError} when the loss is not one value
 */
export function gradientsOf<P extends Variable>(loss: Tensor, parameters: readonly P[]): Map<P, Tensor> {
  requireTensors("gradientsOf", { loss });
  requireVariables("gradientsOf", parameters);
  if (loss.size !== 1)
    throw new ShapeError(`needs one value to differentiate, got ${wordShape(loss.shape)}.`, {
      operation: "gradientsOf",
      got: loss.shape,
    });
  const values = parameters.map((parameter) => parameter.value);
  const found = pullback([loss], [constant(1, loss.shape, loss.dtype)], values);
  const gradients = new Map(parameters.flatMap((parameter, i) => (found[i] ? [[parameter, found[i]] as const] : [])));
  computeTogether(loss, gradients.values());
  return gradients;
}
