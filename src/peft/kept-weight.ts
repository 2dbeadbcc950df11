/** Weights as they were before adapters changed them. Two layers may share one, so they are kept by parameter, not by layer. */
import { realize } from "../compile/program.ts";
import type { Tensor } from "../graph/node.ts";
import type { Parameter } from "../nn/module.ts";

/** Parameters with other values for a while. */
export class KeptWeights {
  readonly #kept = new Map<Parameter, Tensor>();

  /** Gives the parameter another value and remembers the first one that it had here. */
  change(parameter: Parameter, next: Tensor): void {
    realize([next]);
    if (!this.#kept.has(parameter)) this.#kept.set(parameter, parameter.stored);
    parameter.replace(next);
  }

  /** The value that is kept, if the parameter was changed. */
  get(parameter: Parameter): Tensor | undefined {
    return this.#kept.get(parameter);
  }

  /** The parameters that were changed. */
  parameters(): Iterable<Parameter> {
    return this.#kept.keys();
  }

  /** Puts the very same values back, into all or the given ones. */
  restore(parameters: Iterable<Parameter> = [...this.#kept.keys()]): void {
    for (const parameter of parameters) {
      const kept = this.#kept.get(parameter);
      if (kept) parameter.replace(kept);
      this.#kept.delete(parameter);
    }
  }

  /** Lets the present values be for good. */
  forget(): void {
    this.#kept.clear();
  }
}
