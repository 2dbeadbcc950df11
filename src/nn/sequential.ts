/** Layers one after the other. */
import { requireKind } from "../errors.ts";
import type { Tensor } from "../graph/node.ts";
import { type Layer, Module } from "./module.ts";

/** A layer, or a function of one tensor. */
export type Step = Layer | ((x: Tensor) => Tensor);

/**
 * Each step reads what the one before gives. Paths begin with the place of a step, functions counted, as in PyTorch: `0.weight`, `2.weight`.
 *
 * @throws {ConfigError} for a step that is neither a layer nor a function
 * @example
 * [...new Sequential(new Linear(3, 8), (x) => x.relu(), new Linear(8, 1)).stateDict().keys()]   // ["0.weight", "0.bias", "2.weight", "2.bias"]
 */
export class Sequential extends Module {
  readonly #length: number;

  constructor(...steps: readonly Step[]) {
    super();
    for (const [i, step] of steps.entries())
      if (typeof step !== "function")
        requireKind("Sequential", "a function", { [`step ${i}`]: (step as Partial<Layer> | null)?.forward });
    Object.assign(this, steps);
    this.#length = steps.length;
  }

  forward(x: Tensor): Tensor {
    let y = x;
    for (let i = 0; i < this.#length; i++) {
      const step = Reflect.get(this, String(i)) as Step;
      y = typeof step === "function" ? step(y) : step.forward(y);
    }
    return y;
  }
}
