/**
 * LoRA whose start has taken s·B₀·A₀ out of the weights, as plain LoRA for the weights as they were:
 * W − s·B₀·A₀ + s·B·A = W + s·[B, −B₀]·[A; A₀].
 */
import { currentDevice, upload } from "../compile/program.ts";
import { ConfigError } from "../errors.ts";
import { concatenate } from "../graph/composite.ts";
import { neg } from "../graph/elementwise.ts";
import { Tensor } from "../graph/node.ts";
import { constant } from "../graph/source.ts";
import type { Adapter } from "./adapted-model.ts";
import { findInitialiser } from "./initialiser.ts";
import type { AnyConfig } from "./method-config.ts";
import { type LoraConfig, lora } from "./methods/lora.ts";

/**
 * Config and parameters of the plain adapter: of twice the rank, with the same s.
 *
 * @throws {ConfigError} when the adapter is not LoRA, or DoRA, which is no sum, or LoftQ, which is made for rounded weights
 */
export function toPlainLora({ name, method, config, taken, layers }: Adapter): {
  readonly config: AnyConfig;
  value(path: string, key: string, now: Tensor): Tensor;
} {
  if (method.schema !== lora.schema || config["useDora"] === true)
    throw new ConfigError(`the adapter "${name}" is not LoRA, which \`plainLora\` makes plain.`, {
      operation: "saveAdapter",
      got: method.peftType,
    });
  const start = findInitialiser(config["initLoraWeights"]);
  if (start.residual && !start.startsAtZero)
    throw new ConfigError(`the adapter "${name}" was made for weights that are rounded to codes, not for the original ones.`, {
      operation: "saveAdapter",
      got: config["initLoraWeights"],
      hint: "Save it without `plainLora`.",
    });
  const plain = { ...config, initLoraWeights: true, evaConfig: null, cordaConfig: null, loraGaConfig: null };
  if (taken.size === 0) return { config: plain, value: (_path, _key, now) => now };
  const { r, loraAlpha, rankPattern, alphaPattern, useRslora } = config as LoraConfig;
  const alpha = useRslora ? Math.SQRT2 : 2;
  const times = (pattern: Readonly<Record<string, number>>, factor: number) =>
    Object.fromEntries(Object.entries(pattern).map(([key, value]) => [key, value * factor]));
  return {
    config: {
      ...plain,
      r: 2 * r,
      loraAlpha: loraAlpha * alpha,
      rankPattern: times(rankPattern, 2),
      alphaPattern: times(alphaPattern, alpha),
    },
    value(path, key, now) {
      const adapted = layers.get(path)?.adapters.get(name)?.method;
      if ((key !== "A" && key !== "B") || !Object.values(lora.layers).includes(adapted as never)) return now;
      const first = taken.get(path)?.[key];
      const start =
        first === undefined
          ? constant(0, now.shape)
          : first instanceof Tensor
            ? first
            : upload(currentDevice(), first, now.shape, "float32");
      return key === "A" ? concatenate([now, start], 0) : concatenate([now, neg(start)], 1);
    },
  };
}
