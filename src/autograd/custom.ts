/** Derivatives by hand, and recomputation instead of memory. */
import { LorikeetError } from "../errors.ts";
import { after, customOp } from "../graph/movement.ts";
import { requireTensors, Tensor } from "../graph/node.ts";
import { recordingReads, replayingReads } from "../graph/variable.ts";
import { pullback } from "./grad.ts";

/**
 * `forward` with a derivative of its own: `backward(g, y, ...inputs)` gives one cotangent per input, `null` for none.
 * Used where the composed derivative is slow or unstable; a law checks it against the composed one.
 *
 * @throws {ConfigError} when `backward` gives another number of cotangents; @throws {ShapeError} when one has not its input's shape.
 *   Both when the derivative is asked for.
 * @example
 * const clipped = withVjp((x) => x!.exp(), (g, y) => [g.mul(minimum(y, 10))]);
 * grad((x) => clipped(x).sum())([0, 5])[0]   // [ 1 10] float32 [2]
 */
export function withVjp(
  forward: (...inputs: Tensor[]) => Tensor,
  backward: (g: Tensor, y: Tensor, ...inputs: Tensor[]) => readonly (Tensor | null)[],
): (...inputs: Tensor[]) => Tensor {
  return (...inputs) => {
    const value = resultOf(forward, inputs);
    if (!inputs.every((x) => x instanceof Tensor)) requireTensors("withVjp", { ...inputs });
    return new Tensor(customOp, [value, ...inputs], value.shape, value.dtype, { backward });
  };
}

/** What `forward` gives. What is no tensor it refuses under a name of its own, or else it is refused here. */
function resultOf(forward: (...inputs: Tensor[]) => Tensor, inputs: Tensor[]): Tensor {
  try {
    return forward(...inputs);
  } catch (error) {
    if (!(error instanceof LorikeetError)) requireTensors("withVjp", { ...inputs });
    throw error;
  }
}

/**
 * Runs `f` without keeping its intermediate values for the derivative: the reverse walk computes them again from the
 * inputs. Costs a second forward pass of `f`, saves the memory of everything between its inputs and its output.
 *
 * Variables that `f` reads (parameters, the count of a random generator) are inputs too: they get gradients, and the second
 * pass sees what the first one saw. Tensors that `f` has from elsewhere are constants.
 *
 * @throws {ConfigError} when the second pass reads other variables than the first
 * @see https://arxiv.org/abs/1604.06174
 * @example
 * const block = checkpoint((x) => x!.matmul(x!).gelu().softmax());
 * grad((x) => block(x).square().sum())(ones([2, 2]))[0]   // float32 [2, 2]
 */
export function checkpoint(f: (...inputs: Tensor[]) => Tensor): (...inputs: Tensor[]) => Tensor {
  return (...inputs) => {
    requireTensors("checkpoint", { ...inputs });
    const { result, reads } = recordingReads(() => f(...inputs));
    const captured = [...new Set(reads)];
    const places = reads.map((x) => captured.indexOf(x));
    const backward = (g: Tensor, _y: Tensor, ...sources: Tensor[]): (Tensor | null)[] => {
      // not before g is there, or the recomputed values would live as long as the first ones
      const again = sources.map((x) => after(x, g));
      const variables = again.slice(inputs.length);
      const value = replayingReads(
        places.map((place) => variables[place]!),
        () => f(...again.slice(0, inputs.length)),
      );
      return pullback([value], [g], again);
    };
    return new Tensor(customOp, [result, ...inputs, ...captured], result.shape, result.dtype, { backward });
  };
}
