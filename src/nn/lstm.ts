/** Long short-term memory, one direction of one layer, for short sequences: its steps are written out in the graph. */
import { concatenate } from "../graph/composite.ts";
import { matmul } from "../graph/contraction.ts";
import { add, mul, tanh } from "../graph/elementwise.ts";
import { sliceAxis, transpose } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { constant } from "../graph/source.ts";
import { sigmoid } from "../tensor/math.ts";

/** Weights as PyTorch keeps them: gates one below the other, in the order input, forget, cell, output. */
export interface LstmWeights {
  /** [4·h, in] */
  readonly weightIh: Tensor;
  /** [4·h, h] */
  readonly weightHh: Tensor;
  /** [4·h] */
  readonly biasIh: Tensor;
  /** [4·h] */
  readonly biasHh: Tensor;
}

/**
 * c ← σ(f)·c + σ(i)·tanh(g), h ← σ(o)·tanh(c), where i, f, g, o are the quarters of W_ih·x + b_ih + W_hh·h + b_hh; h and c begin at zero.
 *
 * @param x [T, in], one sequence
 * @param options.reverse from the last place to the first; the results stay at their places
 * @returns h of every place, [T, h]
 * @see https://doi.org/10.1162/neco.1997.9.8.1735; PyTorch's nn.LSTM
 */
export function lstm(x: Tensor, weights: LstmWeights, { reverse = false }: { readonly reverse?: boolean } = {}): Tensor {
  const [T, size] = [x.shape[0] as number, weights.weightHh.shape[1] as number];
  const into = add(matmul(x, transpose(weights.weightIh)), add(weights.biasIh, weights.biasHh)); // [T, 4·h]
  const recurrent = transpose(weights.weightHh);
  let [h, c] = [constant(0, [1, size], x.dtype), constant(0, [1, size], x.dtype)];
  const states: Tensor[] = [];
  for (let step = 0; step < T; step++) {
    const t = reverse ? T - 1 - step : step;
    const gates = add(sliceAxis(into, 0, t, t + 1), matmul(h, recurrent));
    const quarter = (i: number) => sliceAxis(gates, 1, i * size, (i + 1) * size);
    c = add(mul(sigmoid(quarter(1)), c), mul(sigmoid(quarter(0)), tanh(quarter(2))));
    h = mul(sigmoid(quarter(3)), tanh(c));
    states[t] = h;
  }
  return concatenate(states, 0);
}
