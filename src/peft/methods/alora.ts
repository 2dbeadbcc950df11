/**
 * Activated LoRA: LoRA that acts only from certain words on, W for all tokens before the last place where `aloraInvocationTokens` stand in
 * a text, W + s·B·A from there to its end. Keys and values of what comes before are the base model's, so that a cache that the base model
 * has filled serves the adapter, too. A text without those words is left to the base model. Since one layer has two weights then, it
 * cannot be merged.
 *
 * In generation the prompt decides for all that is written after it, as in PEFT.
 */
import { ConfigError } from "../../errors.ts";
import { add, cast, mul } from "../../graph/elementwise.ts";
import { defineMethod, type LayerMethod } from "../method.ts";
import { product } from "../scale.ts";
import { through, times } from "../weight-change.ts";
import { complete, type LoraConfig, lora, refuseMica, scaling, startsAtZero, variantKeys, variantOfLora } from "./lora.ts";

const { delta: _, biasDelta: __, ...plain } = lora.layers.linear as LayerMethod<LoraConfig, "A" | "B", "bias">;

const linear: LayerMethod<LoraConfig, "A" | "B", "bias"> = {
  ...plain,
  readsText: "words",
  forward(x, base, { A, B, bias }, c, use) {
    const acts = use.since(c.aloraInvocationTokens ?? [], x);
    const s = product(scaling(c), use.scale);
    const share = through(times(through(use.dropout(x, c.loraDropout), A), s), B);
    return add(base(x), mul(bias ? add(share, times(bias, s)) : share, cast(acts, share.dtype)));
  },
};

/** aLoRA: `alora({ r: 32, aloraInvocationTokens: tokenizer.encode("<check>"), targetModules: ["q_proj"] })`, with LoRA's options. */
export const alora = defineMethod({
  ...variantOfLora,
  variant: { aloraInvocationTokens: [] },
  isMeant: ({ aloraInvocationTokens }) => aloraInvocationTokens !== null,
  papers: ["https://arxiv.org/abs/2504.12397"],
  formula: "W, then W + s·B·A from certain words on",
  keys: variantKeys("loraBias", "layerReplication", "aloraInvocationTokens"),
  check(config) {
    lora.check?.(config);
    if (!config.aloraInvocationTokens?.length)
      throw new ConfigError("`aloraInvocationTokens` are the tokens of the words from which on it acts; there must be some.", {
        operation: "alora",
        got: config.aloraInvocationTokens,
        hint: "Write aloraInvocationTokens: tokenizer.encode(words), or call lora.",
      });
    refuseMica("alora", "aloraInvocationTokens", config);
  },
  complete,
  startsAtZero,
  layers: { linear },
  samples: (draw) => ({ r: draw.integer(1, 6), loraAlpha: draw.integer(1, 32) / 2, aloraInvocationTokens: [draw.integer(0, 3)] }),
});
