/** Activation functions by the names that Hugging Face's `hidden_act` uses. */
import { ConfigError, checkOptions, nearestName, requireKind, ShapeError, under, wordShape } from "../errors.ts";
import { add, erf, less, mul, neg, sqrt, tanh, where } from "../graph/elementwise.ts";
import { reshape, sliceAxis } from "../graph/movement.ts";
import { requireTensors, type Tensor } from "../graph/node.ts";
import { normalizeAxis } from "../graph/shape.ts";
import { number } from "../graph/source.ts";
import {
  clamp,
  elu,
  gelu,
  geluTanh,
  hardswish,
  leakyRelu,
  minimum,
  mish,
  quickGelu,
  relu,
  sigmoid,
  silu,
  softplus,
} from "../tensor/math.ts";
import { fill } from "./init.ts";
import { Module, Parameter } from "./module.ts";

/** The normal distribution function with mean μ = √½ and deviation σ = √(1/4π). @see https://arxiv.org/abs/2209.10655, section 3.4 */
function laplace(x: Tensor): Tensor {
  const slope = Math.sqrt(2 * Math.PI); // 1 / (σ√2)
  const moved = mul(number(x, slope), add(x, number(x, -Math.SQRT1_2)));
  return mul(number(x, 0.5), add(number(x, 1), erf(moved)));
}

/** `gelu` is the exact one; `gelu_new`, `gelu_fast`, `gelu_accurate` and those with "tanh" are its approximation through tanh. */
export const activations = {
  silu,
  swish: silu,
  gelu,
  gelu_python: gelu,
  gelu_new: geluTanh,
  gelu_fast: geluTanh,
  gelu_pytorch_tanh: geluTanh,
  gelu_python_tanh: geluTanh,
  gelu_accurate: geluTanh,
  gelu_10: (x) => clamp(gelu(x), { min: -10, max: 10 }),
  quick_gelu: quickGelu,
  relu,
  relu2: (x) => mul(relu(x), relu(x)),
  relu6: (x) => minimum(relu(x), number(x, 6)),
  leaky_relu: (x) => leakyRelu(x),
  elu: (x) => elu(x),
  hardswish,
  mish,
  sigmoid,
  softplus,
  sqrtsoftplus: (x) => sqrt(softplus(x)),
  laplace,
  tanh,
  linear: (x) => x,
} as const satisfies Record<string, (x: Tensor) => Tensor>;

/** A name that `hidden_act` may have. */
export type ActivationName = keyof typeof activations;

/** scale·x where it is positive, else scale·alpha·(eˣ − 1): keeps mean 0 and variance 1. @see https://arxiv.org/abs/1706.02515 */
export function selu(x: Tensor): Tensor {
  requireTensors("selu", { x });
  return under("selu", () => mul(number(x, 1.0507009873554805), elu(x, 1.6732632423543772)));
}

/** ln σ(x), without overflow. */
export function logSigmoid(x: Tensor): Tensor {
  requireTensors("logSigmoid", { x });
  return under("logSigmoid", () => neg(softplus(neg(x))));
}

/**
 * The first half along `axis` times σ of the second: gated linear units.
 * @throws {ShapeError} when the axis has no halves
 * @see https://arxiv.org/abs/1612.08083
 */
export function glu(x: Tensor, axis = -1): Tensor {
  requireTensors("glu", { x });
  const at = normalizeAxis("glu", axis, x.rank);
  const size = x.shape[at]!;
  if (size % 2 !== 0)
    throw new ShapeError(`axis ${axis} of ${wordShape(x.shape)} cannot be split into halves.`, {
      operation: "glu",
      got: x.shape,
    });
  return under("glu", () => mul(sliceAxis(x, at, 0, size / 2), sigmoid(sliceAxis(x, at, size / 2, size))));
}

/** x where it is positive, else weight·x, with a learned weight for all values or for each channel of [N, C, ...]. @see https://arxiv.org/abs/1502.01852 */
export class PReLU extends Module {
  readonly weight: Parameter;

  constructor(channels = 1, options: { readonly init?: number } = {}) {
    super();
    const { init = 0.25 } = checkOptions("PReLU", options, { init: "a finite number" });
    requireKind("PReLU", "a whole number from 1", { channels });
    this.weight = Parameter.from(fill(init)([channels]), [channels]);
  }

  forward(x: Tensor): Tensor {
    requireTensors("PReLU", { x });
    const C = this.weight.size;
    if (C > 1 && x.shape[1] !== C)
      throw new ShapeError(`${wordShape(x.shape)} does not have ${C} channels.`, {
        operation: "PReLU",
        expected: C,
        got: x.shape,
      });
    const slope = C > 1 ? reshape(this.weight.value, [C, ...x.shape.slice(2).map(() => 1)]) : this.weight.value;
    return where(less(number(x, 0), x), x, mul(slope, x));
  }
}

/** c·tanh(x/c): values stay within ±c; x itself where c is 0. @see https://arxiv.org/abs/2408.00118, section 2 */
export function softcap(x: Tensor, c: number): Tensor {
  if (c === 0) return x;
  return mul(tanh(mul(x, number(x, 1 / c))), number(x, c));
}

/** The activation of this name. @throws {ConfigError} naming the nearest one when there is none */
export function activation(name: string): (x: Tensor) => Tensor {
  requireKind("activation", "a string", { name });
  if (Object.hasOwn(activations, name)) return activations[name as ActivationName];
  const near = nearestName(name, Object.keys(activations));
  throw new ConfigError(`there is no activation "${name}".`, {
    operation: "activation",
    expected: Object.keys(activations),
    got: name,
    hint: near ? `Did you mean "${near}"?` : `There are ${Object.keys(activations).join(", ")}.`,
  });
}
