/** Derivatives by hand, and recomputation instead of memory. */
import { after, customOp } from "../graph/movement.ts";
import { Tensor } from "../graph/node.ts";
import { pullback } from "./grad.ts";

/**
 * `forward` with a derivative of its own: `backward(g, y, ...inputs)` gives one cotangent per input, `null` for none.
 * Used where the composed derivative is slow or unstable; a law checks it against the composed one.
 */
export function withVjp(
  forward: (...inputs: Tensor[]) => Tensor,
  backward: (g: Tensor, y: Tensor, ...inputs: Tensor[]) => readonly (Tensor | null)[],
): (...inputs: Tensor[]) => Tensor {
  return (...inputs) => {
    const value = forward(...inputs);
    return new Tensor(customOp, [value, ...inputs], value.shape, value.dtype, { backward });
  };
}

/**
 * Runs `f` without keeping its intermediate values for the derivative: the reverse walk computes them again from the
 * inputs. Costs a second forward pass of `f`, saves the memory of everything between its inputs and its output.
 */
export function checkpoint(f: (...inputs: Tensor[]) => Tensor): (...inputs: Tensor[]) => Tensor {
  return withVjp(f, (g, _y, ...inputs) => {
    // not before g is there, or the recomputed values would live as long as the first ones
    const again = inputs.map((x) => after(x, g));
    return pullback([f(...again)], [g], again);
  });
}
