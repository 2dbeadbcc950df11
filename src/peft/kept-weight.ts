/** Weights as they were before adapters changed them. Two layers may share one, so they are kept by parameter, not by layer. */
import { realize } from "../compile/program.ts";
import type { Tensor } from "../graph/node.ts";
import type { Parameter } from "../nn/module.ts";

/** From the value that a parameter has now to the one that it had before, up to rounding. */
type WayBack = (value: Tensor) => Tensor;

/** Parameters with other values for a while. */
export class KeptWeights {
  readonly #kept = new Map<Parameter, Tensor | WayBack>();

  /**
   * Gives the parameter another value and remembers the first one that it had here.
   *
   * @param back where it is given the old value is not kept, but computed again when it is asked for
   */
  change(parameter: Parameter, next: Tensor, back?: WayBack): void {
    realize([next]);
    const kept = this.#kept.get(parameter);
    if (kept === undefined) this.#kept.set(parameter, back ?? parameter.stored);
    else if (typeof kept === "function") {
      const stored = parameter.stored;
      this.#kept.set(parameter, back ? (value) => kept(back(value)) : realized(kept(stored)));
    }
    parameter.replace(next);
  }

  /** The value that is kept, if the parameter was changed. */
  get(parameter: Parameter): Tensor | undefined {
    const kept = this.#kept.get(parameter);
    return typeof kept === "function" ? realized(kept(parameter.stored)) : kept;
  }

  /** Whether the old value of some parameter is not kept. */
  get isComputed(): boolean {
    return [...this.#kept.values()].some((kept) => typeof kept === "function");
  }

  /** The parameters that were changed. */
  parameters(): Iterable<Parameter> {
    return this.#kept.keys();
  }

  /** Puts the values back, into all or the given ones: the very same where they were kept. */
  restore(parameters: Iterable<Parameter> = [...this.#kept.keys()]): void {
    for (const parameter of parameters) {
      const kept = this.get(parameter);
      if (kept) parameter.replace(kept);
      this.#kept.delete(parameter);
    }
  }

  /** Calling what it gives forgets what is remembered from now on; the parameters are not touched. */
  mark(): () => void {
    const kept = new Map(this.#kept);
    return () => {
      this.#kept.clear();
      for (const [parameter, value] of kept) this.#kept.set(parameter, value);
    };
  }

  /** Lets the present values be for good. */
  forget(): void {
    this.#kept.clear();
  }
}

function realized(value: Tensor): Tensor {
  realize([value]);
  return value;
}
