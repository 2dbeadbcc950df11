/** Activation functions by the names that Hugging Face's `hidden_act` uses. */
import { ConfigError, nearestName, requireKind } from "../errors.ts";
import { add, erf, mul, sqrt, tanh } from "../graph/elementwise.ts";
import type { Tensor } from "../graph/node.ts";
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

/** c·tanh(x/c): values stay within ±c; x itself where c is 0. @see https://arxiv.org/abs/2408.00118, section 2 */
export function softcap(x: Tensor, c: number): Tensor {
  if (c === 0) return x;
  return mul(tanh(mul(x, number(x, 1 / c))), number(x, c));
}

/** The activation of this name. @throws {ConfigError} naming the nearest one when there is none */
export function activation(name: string): (x: Tensor) => Tensor {
  requireKind("activation", "a text", { name });
  if (Object.hasOwn(activations, name)) return activations[name as ActivationName];
  const near = nearestName(name, Object.keys(activations));
  throw new ConfigError(`there is no activation "${name}".`, {
    operation: "activation",
    expected: Object.keys(activations),
    got: name,
    hint: near ? `Did you mean "${near}"?` : `There are ${Object.keys(activations).join(", ")}.`,
  });
}
