/** First values of the linear layers of an encoder, as PyTorch draws them. */
import type { TorchGenerator } from "../../random/torch-generator.ts";

/** Weight [out, in] and bias [out] under a layer's name: uniform in ±1/√in. */
export function drawLinear(random: TorchGenerator, name: string, into: number, out: number): Record<string, Float32Array> {
  const bound = 1 / Math.sqrt(into);
  const weight = random.uniform(out * into, -bound, bound);
  return { [`${name}.weight`]: weight, [`${name}.bias`]: random.uniform(out, -bound, bound) };
}
