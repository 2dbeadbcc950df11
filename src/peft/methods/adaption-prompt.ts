/**
 * Adaption prompt (LLaMA-Adapter): the last `adapterLayers` self-attentions look at n = `adapterLen` trained vectors P, too, by a softmax of
 * its own and a gate g that starts at zero: y = attention(x) + o_proj(g · softmax(q·K(P)ᵀ/√D)·V(P)). q are the queries as they meet the
 * keys, turned by their positions; K(P) and V(P) come from the layer's own projections and are not turned. It equals no LoRA.
 *
 * In GPT-2, as in PEFT, the added term does not go through `c_proj`. PEFT knows the model types below and no others.
 */
import { ConfigError } from "../../errors.ts";
import { configSchema, integer, key, text } from "../../formats/peft-config.ts";
import { add, cast, mul } from "../../graph/elementwise.ts";
import { expand, reshape } from "../../graph/movement.ts";
import type { Tensor } from "../../graph/node.ts";
import type { Pass, SelfAttention } from "../../models/decoder.ts";
import { attend } from "../../nn/attention.ts";
import type { Layer, Module } from "../../nn/module.ts";
import { defineMethod, type LayerMethod } from "../method.ts";
import type { MethodConfig } from "../method-config.ts";
import { times } from "../weight-change.ts";

const schema = configSchema("ADAPTION_PROMPT", "adaption_prompt_", {
  target_modules: key(null, text),
  adapter_len: key(null, integer(1)),
  adapter_layers: key(null, integer(1)),
});
type Config = MethodConfig<typeof schema>;

/** What the self-attentions are called, by model type. */
const attentions: Readonly<Record<string, string>> = { llama: "self_attn", mistral: "self_attn", gpt2: "attn" };
const operation = "attach";

const attention: LayerMethod<Config, "prompt" | "gate"> = {
  files: { prompt: "adaption_prompt", gate: "adaption_gate" },
  parameters: (base, { adapterLen }) => ({ prompt: { shape: [1, adapterLen as number, base.out] }, gate: { shape: [1] } }),
  initialise: (base, { adapterLen }, random) => ({
    values: { prompt: random.normal((adapterLen as number) * base.out, 0, 1), gate: new Float32Array(1) },
  }),
  forward(x, base, { prompt, gate }, _, { scale }) {
    // `kindOf` calls nothing else an attention
    const layer = base.layer as Module as SelfAttention & { readonly o_proj?: Layer };
    const [B, T] = x.shape as [number, number];
    const forAll = (y: Tensor) => expand(y, [B, ...y.shape.slice(1)]);
    const { k, v } = layer.project(cast(prompt, x.dtype));
    const q = layer.queries(x, base.more[0] as Pass);
    const seen = attend(q, forAll(k), forAll(v));
    const added = times(reshape(mul(seen, gate), [B, T, -1]), scale);
    return add(base(x), layer.o_proj?.forward(added) ?? added);
  },
};

/** Adaption prompt: `adaptionPrompt({ adapterLen: 10, adapterLayers: 30 })`. */
export const adaptionPrompt = defineMethod({
  schema,
  papers: ["https://arxiv.org/abs/2303.16199"],
  formula: "y + o_proj(g · softmax(q·K(P)ᵀ/√D)·V(P))",
  check({ adapterLen, adapterLayers }) {
    for (const [name, value] of Object.entries({ adapterLen, adapterLayers }))
      if (value === null)
        throw new ConfigError(`\`${name}\` must be given.`, {
          operation: "adaption_prompt",
          got: value,
          hint: "It is a number.",
        });
  },
  complete(config, modelType) {
    const name = modelType === undefined ? undefined : attentions[modelType];
    if (name === undefined)
      throw new ConfigError(
        `an adaption prompt is for ${Object.keys(attentions).join(", ")}, not for ${modelType ?? "this model"}.`,
        {
          operation,
          got: modelType,
        },
      );
    return { ...config, targetModules: config.targetModules ?? name };
  },
  choose(paths, { targetModules, adapterLayers }) {
    const all = paths.filter((path) => path.endsWith(`.${targetModules}`));
    if (all.length < (adapterLayers as number))
      throw new ConfigError(
        `\`adapterLayers\` (= ${adapterLayers}) are more than the ${all.length} modules called "${targetModules}".`,
        {
          operation,
          got: adapterLayers,
        },
      );
    return all.slice(-(adapterLayers as number));
  },
  startsAtZero: () => true,
  layers: { attention },
  samples: (draw) => ({ adapterLen: draw.integer(1, 4), adapterLayers: 1 }),
});
