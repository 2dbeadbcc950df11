/** Averages of weights over training, which often generalise better than the last ones. */
import { checkOptions } from "../errors.ts";
import { add, recip } from "../graph/elementwise.ts";
import type { Tensor } from "../graph/node.ts";
import { constant, number } from "../graph/source.ts";
import { assignAll, Variable } from "../graph/variable.ts";
import { lerp, minimum } from "../tensor/math.ts";
import { requireVariables } from "./optimizer.ts";
import { fittingState } from "./saved-state.ts";

/**
 * The average of parameters over the calls of `update`: an exponential one with a decay, else their mean (stochastic weight averaging).
 * Parameters that are not trained are left out. PyTorch's `AveragedModel`.
 *
 * @see https://arxiv.org/abs/1803.05407
 * @example
 * const net = new Linear(3, 2);
 * const average = new WeightAverage(net.parameters(), { decay: 0.999 });
 * average.update(); // after each step
 * average.swap(); // the model has the averages, to be judged or saved
 * average.swap(); // and its own again
 */
export class WeightAverage {
  readonly decay: number | null;
  readonly #pairs: readonly (readonly [parameter: Variable, average: Variable])[];
  readonly #count = new Variable(constant(0), { requiresGrad: false });

  /** @throws {DTypeError} for what is no parameter */
  constructor(parameters: readonly Variable[], options: { readonly decay?: number } = {}) {
    const { decay = null } = checkOptions("WeightAverage", options, { decay: "a number from 0 to 1" });
    requireVariables("WeightAverage", parameters);
    this.decay = decay;
    this.#pairs = parameters
      .filter(({ requiresGrad }) => requiresGrad)
      .map((parameter) => [parameter, new Variable(add(parameter.value, number(parameter.value, 0)), { requiresGrad: false })]);
  }

  /** Takes the parameters in as they are now; the first time they are the average. Part of a compiled step, where it is called in one. */
  update(): void {
    const before = this.#count.value;
    const count = add(before, constant(1));
    const share = this.decay === null ? recip(count) : lerp(constant(1), constant(1 - this.decay), minimum(before, constant(1)));
    assignAll([
      [this.#count, count],
      ...this.#pairs.map(([parameter, average]) => [average, lerp(average.value, parameter.value, share)] as const),
    ]);
  }

  /** Exchanges parameters and averages. */
  swap(): void {
    assignAll(
      this.#pairs.flatMap(([parameter, average]) => [
        [parameter, average.value],
        [average, parameter.value],
      ]),
    );
  }

  /** The averages by number, and of how many updates they are. */
  stateDict(): Map<string, Tensor> {
    return new Map([...this.#named()].map(([name, variable]) => [name, variable.stored]));
  }

  /** Goes on from a saved state. @throws {FormatError} for a missing or an unknown name; @throws {ShapeError} when a value does not fit */
  loadStateDict(saved: ReadonlyMap<string, Tensor>): void {
    assignAll(fittingState(this.#named(), saved, "average"));
  }

  #named(): Map<string, Variable> {
    return new Map([["count", this.#count], ...this.#pairs.map(([, average], i) => [`${i}`, average] as const)]);
  }
}
