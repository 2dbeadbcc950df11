/** Recurrent layers, as PyTorch names and lays them out. Their steps are written out in the graph, which compiles to one program. */
import { ConfigError, checkOptions, isRecord, requireKind, ShapeError, wordShape, wordType } from "../errors.ts";
import { matmul } from "../graph/contraction.ts";
import { add, mul, sub, tanh } from "../graph/elementwise.ts";
import { reshape, slice, sliceAxis, transpose } from "../graph/movement.ts";
import { requireTensors, Tensor } from "../graph/node.ts";
import { sameShape } from "../graph/shape.ts";
import { constant } from "../graph/source.ts";
import { concatenate, stack } from "../tensor/arrange.ts";
import { relu, sigmoid } from "../tensor/math.ts";
import { dropout as drop } from "./dropout.ts";
import { uniform } from "./init.ts";
import { Module, Parameter } from "./module.ts";

/** One step: what the input and the state before come to, both [N, gates·h], and the state [N, h], of which the first is the output. */
export interface Cell {
  readonly gates: number;
  readonly states: number;
  step(into: Tensor, past: Tensor, state: readonly Tensor[], part: (x: Tensor, i: number) => Tensor): Tensor[];
}

const plainCell = (activation: (x: Tensor) => Tensor): Cell => ({
  gates: 1,
  states: 1,
  step: (into, past) => [activation(add(into, past))],
});

const cells = {
  tanh: plainCell(tanh),
  relu: plainCell(relu),
  /** c ← σ(f)·c + σ(i)·tanh(g), h ← σ(o)·tanh(c), in the order i, f, g, o. @see https://doi.org/10.1162/neco.1997.9.8.1735 */
  lstm: {
    gates: 4,
    states: 2,
    step: (into, past, [, c], part) => {
      const gates = add(into, past);
      const next = add(mul(sigmoid(part(gates, 1)), c!), mul(sigmoid(part(gates, 0)), tanh(part(gates, 2))));
      return [mul(sigmoid(part(gates, 3)), tanh(next)), next];
    },
  },
  /** n = tanh(x_n + σ(r)·h_n), h ← n + σ(z)·(h − n), in the order r, z, n. @see https://arxiv.org/abs/1406.1078 */
  gru: {
    gates: 3,
    states: 1,
    step: (into, past, [h], part) => {
      const gate = (i: number) => sigmoid(add(part(into, i), part(past, i)));
      const fresh = tanh(add(part(into, 2), mul(gate(0), part(past, 2))));
      return [add(fresh, mul(gate(1), sub(h!, fresh)))];
    },
  },
} satisfies Record<string, Cell>;

/** Weights as PyTorch keeps them: gates one below the other. */
export interface RecurrentWeights {
  /** [gates·h, in] */
  readonly weightIh: Tensor;
  /** [gates·h, h] */
  readonly weightHh: Tensor;
  /** [gates·h] */
  readonly biasIh: Tensor | null;
  /** [gates·h] */
  readonly biasHh: Tensor | null;
}

/**
 * One direction of one layer.
 *
 * @param x     [T, N, in]
 * @param state what it begins with, [N, h] each; zeros when absent
 * @param reverse from the last place to the first; the results stay at their places
 * @returns the output of every place [T, N, h], and the state after the last step
 */
export function recur(
  kind: keyof typeof cells,
  x: Tensor,
  { weightIh, weightHh, biasIh, biasHh }: RecurrentWeights,
  state?: readonly Tensor[],
  reverse = false,
): { readonly output: Tensor; readonly state: readonly Tensor[] } {
  const cell: Cell = cells[kind];
  const [T, N, into] = x.shape as [number, number, number];
  const size = weightHh.shape[1] as number;
  const biased = (y: Tensor, bias: Tensor | null) => (bias ? add(y, bias) : y);
  // what does not wait for the state is one product for all places
  const ahead = biased(reshape(matmul(reshape(x, [T * N, into]), transpose(weightIh)), [T, N, cell.gates * size]), biasIh);
  const recurrent = transpose(weightHh);
  const part = (y: Tensor, i: number) => sliceAxis(y, 1, i * size, (i + 1) * size);
  let now = state ?? Array.from({ length: cell.states }, () => constant(0, [N, size], x.dtype));
  const outputs: Tensor[] = [];
  for (let step = 0; step < T; step++) {
    const t = reverse ? T - 1 - step : step;
    const here = reshape(slice(ahead, [t, 0, 0], [t + 1, N, cell.gates * size]), [N, cell.gates * size]);
    now = cell.step(here, biased(matmul(now[0]!, recurrent), biasHh), now, part);
    outputs[t] = now[0]!;
  }
  return { output: stack(outputs, 0), state: now };
}

/** How a recurrent layer is built. */
export interface RecurrentOptions {
  /** Layers, each reading what the one before gives. */
  readonly numLayers?: number;
  /** Reads in both directions, whose outputs stand side by side. */
  readonly bidirectional?: boolean;
  readonly bias?: boolean;
  /** Takes and gives [N, T, …] in place of [T, N, …]. */
  readonly batchFirst?: boolean;
  /** Of what goes from layer to layer, in training. */
  readonly dropout?: number;
}

const optionRules = {
  numLayers: "a whole number from 1",
  bidirectional: "true or false",
  bias: "true or false",
  batchFirst: "true or false",
  dropout: "a number from 0 below 1",
} as const;

/** What a recurrent layer gives. */
export interface RecurrentResult {
  /** h of every place in the last layer: [T, N, directions·h] */
  readonly output: Tensor;
  /** h after the last step, [layers·directions, N, h] */
  readonly hidden: Tensor;
}

/** Layers and directions; parameters are `weight_ih_l0`, `weight_hh_l0`, `bias_ih_l0`, `bias_hh_l0`, and with `_reverse` behind. */
abstract class Recurrent extends Module {
  readonly inputSize: number;
  readonly hiddenSize: number;
  readonly options: Required<RecurrentOptions>;
  readonly #kind: keyof typeof cells;

  protected constructor(kind: keyof typeof cells, inputSize: number, hiddenSize: number, given: RecurrentOptions) {
    super();
    requireKind(new.target.name, "a whole number from 1", { inputSize, hiddenSize });
    this.#kind = kind;
    this.inputSize = inputSize;
    this.hiddenSize = hiddenSize;
    this.options = { numLayers: 1, bidirectional: false, bias: true, batchFirst: false, dropout: 0, ...given };
    const draw = uniform(-1 / Math.sqrt(hiddenSize), 1 / Math.sqrt(hiddenSize));
    const rows = cells[kind].gates * hiddenSize;
    for (const { name, layer } of this.#ways()) {
      const into = layer === 0 ? inputSize : hiddenSize * (this.options.bidirectional ? 2 : 1);
      const shapes = { weight_ih: [rows, into], weight_hh: [rows, hiddenSize], bias_ih: [rows], bias_hh: [rows] };
      for (const [key, shape] of Object.entries(shapes))
        if (this.options.bias || !key.startsWith("bias")) Reflect.set(this, `${key}_${name}`, Parameter.from(draw(shape), shape));
    }
  }

  *#ways(): Generator<{ readonly name: string; readonly layer: number; readonly reverse: boolean }> {
    for (let layer = 0; layer < this.options.numLayers; layer++)
      for (const reverse of this.options.bidirectional ? [false, true] : [false])
        yield { name: `l${layer}${reverse ? "_reverse" : ""}`, layer, reverse };
  }

  /** The output, and each state after the last step. */
  protected run(x: Tensor, states: readonly (Tensor | undefined)[]): { output: Tensor; states: Tensor[] } {
    const operation = this.constructor.name;
    const { batchFirst, numLayers, dropout } = this.options;
    requireTensors(operation, { x });
    if (x.rank !== 3 || x.shape[2] !== this.inputSize || x.shape[batchFirst ? 1 : 0] === 0)
      throw new ShapeError(`x is ${wordShape(x.shape)}, not [${batchFirst ? "N, T" : "T, N"}, ${this.inputSize}].`, {
        operation,
        expected: this.inputSize,
        got: x.shape,
      });
    let y = batchFirst ? transpose(x, 0, 1) : x;
    const ways = [...this.#ways()];
    const stateShape = [ways.length, y.shape[1]!, this.hiddenSize];
    for (const state of states) {
      if (state) requireTensors(operation, { state });
      if (state && !sameShape(state.shape, stateShape))
        throw new ShapeError(`a state is ${wordShape(state.shape)}, not ${wordShape(stateShape)}.`, {
          operation,
          expected: stateShape,
          got: state.shape,
        });
    }
    const given = states.some((state) => state) ? states.map((state) => state ?? constant(0, stateShape, x.dtype)) : undefined;
    const value = (name: string) => (Reflect.get(this, name) as Parameter | undefined)?.value ?? null;
    const last: (readonly Tensor[])[] = [];
    for (let layer = 0; layer < numLayers; layer++) {
      if (layer > 0 && this.training) y = drop(y, dropout);
      const outputs = ways.flatMap((way, i) => {
        if (way.layer !== layer) return [];
        const weights = {
          weightIh: value(`weight_ih_${way.name}`)!,
          weightHh: value(`weight_hh_${way.name}`)!,
          biasIh: value(`bias_ih_${way.name}`),
          biasHh: value(`bias_hh_${way.name}`),
        };
        const own = given?.map((state) => reshape(sliceAxis(state, 0, i, i + 1), stateShape.slice(1)));
        const { output, state } = recur(this.#kind, y, weights, own, way.reverse);
        last.push(state);
        return [output];
      });
      y = outputs.length === 1 ? outputs[0]! : concatenate(outputs, 2);
    }
    const after = Array.from({ length: cells[this.#kind].states }, (_, i) =>
      stack(
        last.map((state) => state[i]!),
        0,
      ),
    );
    return { output: batchFirst ? transpose(y, 0, 1) : y, states: after };
  }
}

/** h ← tanh(W_ih·x + b_ih + W_hh·h + b_hh), or with ReLU. */
export class RNN extends Recurrent {
  constructor(
    inputSize: number,
    hiddenSize: number,
    options: RecurrentOptions & { readonly nonlinearity?: "tanh" | "relu" } = {},
  ) {
    const { nonlinearity = "tanh", ...others } = checkOptions("RNN", options, { ...optionRules, nonlinearity: ["tanh", "relu"] });
    super(nonlinearity, inputSize, hiddenSize, others);
  }

  /** @param hidden [layers·directions, N, h]; zeros when absent */
  forward(x: Tensor, hidden?: Tensor): RecurrentResult {
    const { output, states } = this.run(x, [hidden]);
    return { output, hidden: states[0]! };
  }
}

/** Gated recurrent units, as in PyTorch: the reset gate acts on W_hh·h + b_hh. @see https://arxiv.org/abs/1406.1078 */
export class GRU extends Recurrent {
  constructor(inputSize: number, hiddenSize: number, options: RecurrentOptions = {}) {
    super("gru", inputSize, hiddenSize, checkOptions("GRU", options, optionRules));
  }

  /** @param hidden [layers·directions, N, h]; zeros when absent */
  forward(x: Tensor, hidden?: Tensor): RecurrentResult {
    const { output, states } = this.run(x, [hidden]);
    return { output, hidden: states[0]! };
  }
}

/** Long short-term memory. @see https://doi.org/10.1162/neco.1997.9.8.1735 */
export class LSTM extends Recurrent {
  constructor(inputSize: number, hiddenSize: number, options: RecurrentOptions = {}) {
    super("lstm", inputSize, hiddenSize, checkOptions("LSTM", options, optionRules));
  }

  /** @param state what it begins with, [layers·directions, N, h], zeros where absent: what another call returned, for one */
  forward(
    x: Tensor,
    state: { readonly hidden?: Tensor; readonly cell?: Tensor; readonly output?: Tensor } = {},
  ): RecurrentResult & { readonly cell: Tensor } {
    if (!isRecord(state) || state instanceof Tensor)
      throw new ConfigError(`the state is ${wordType(state)}, not an object of \`hidden\` and \`cell\`.`, {
        operation: "LSTM",
        got: state,
        hint: "Write { hidden, cell }, or pass what a call before returned.",
      });
    checkOptions("LSTM", state, { hidden: Tensor, cell: Tensor, output: Tensor });
    const { output, states } = this.run(x, [state.hidden, state.cell]);
    return { output, hidden: states[0]!, cell: states[1]! };
  }
}
