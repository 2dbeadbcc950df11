/** Activation functions by the names that Hugging Face's `hidden_act` uses. */
import { ConfigError, nearestName } from "../errors.ts";
import { mul, tanh } from "../graph/elementwise.ts";
import type { Tensor } from "../graph/node.ts";
import { constant } from "../graph/source.ts";
import { elu, gelu, geluTanh, hardswish, leakyRelu, mish, quickGelu, relu, sigmoid, silu, softplus } from "../tensor/math.ts";

/** `gelu` is the exact one; `gelu_new`, `gelu_fast` and `gelu_pytorch_tanh` are its approximation through tanh. */
export const activations = {
  silu,
  swish: silu,
  gelu,
  gelu_python: gelu,
  gelu_new: geluTanh,
  gelu_fast: geluTanh,
  gelu_pytorch_tanh: geluTanh,
  quick_gelu: quickGelu,
  relu,
  relu2: (x) => mul(relu(x), relu(x)),
  leaky_relu: (x) => leakyRelu(x),
  elu: (x) => elu(x),
  hardswish,
  mish,
  sigmoid,
  softplus,
  tanh,
  linear: (x) => x,
} as const satisfies Record<string, (x: Tensor) => Tensor>;

/** A name that `hidden_act` may have. */
export type ActivationName = keyof typeof activations;

/** c·tanh(x/c): values stay within ±c; x itself where c is 0. @see https://arxiv.org/abs/2408.00118, section 2 */
export function softcap(x: Tensor, c: number): Tensor {
  if (c === 0) return x;
  const factor = (value: number) => constant(value, [], x.dtype);
  return mul(tanh(mul(x, factor(1 / c))), factor(c));
}

/** The activation of this name. @throws {ConfigError} naming the nearest one when there is none */
export function activation(name: string): (x: Tensor) => Tensor {
  if (Object.hasOwn(activations, name)) return activations[name as ActivationName];
  const near = nearestName(name, Object.keys(activations));
  throw new ConfigError(`there is no activation "${name}".`, {
    operation: "activation",
    expected: Object.keys(activations),
    got: name,
    hint: near ? `Did you mean "${near}"?` : `There are ${Object.keys(activations).join(", ")}.`,
  });
}
