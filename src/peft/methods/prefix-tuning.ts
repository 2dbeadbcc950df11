/**
 * Prefix tuning: every self-attention looks at n trained keys and values in front of its own, attend(q, [K_P; k], [V_P; v]), and nothing else is
 * trained. Keys are not turned by rotary positions; the text's positions go on from n. With `prefixProjection` they come from a table
 * [n, d] by tanh(P·W₁ᵀ + b₁)·W₂ᵀ + b₂ while they are trained; the file holds what comes out, [n, 2·layers·d]. It equals no LoRA.
 *
 * In models that answer a text the decoder has them; there PEFT takes every other pair of the table for the first half of the layers and
 * then begins anew (see prompted-model.ts).
 */
import { boolean, choice, configSchema, integer, key } from "../../formats/peft-config.ts";
import { add, tanh } from "../../graph/elementwise.ts";
import type { Tensor } from "../../graph/node.ts";
import { defineMethod } from "../method.ts";
import type { MethodConfig } from "../method-config.ts";
import { drawLinear } from "../prompt/linear-start.ts";
import { type PromptConfig, type PromptMethod, promptKeys } from "../prompt/prompt-method.ts";
import { through } from "../weight-change.ts";

const schema = configSchema("PREFIX_TUNING", "prefix_tuning_", {
  ...promptKeys,
  init_weights: key(null, choice("zero")),
  encoder_hidden_size: key(null, integer(1)),
  prefix_projection: key(false, boolean),
});
type Config = MethodConfig<typeof schema>;

/** Values of a virtual token: keys and values of all layers. */
export const width = ({ numLayers, tokenDim }: PromptConfig): number => 2 * numLayers * tokenDim;

const prompt: PromptMethod<Config> = {
  place: "cache",
  tables: (config) => ({ prompt_embeddings: [config.numVirtualTokens, width(config)] }),
  encoder(config) {
    if (!config.prefixProjection) return null;
    const { numVirtualTokens: n, tokenDim: d, encoderHiddenSize } = config;
    const h = encoderHiddenSize as number;
    return {
      parameters: {
        "embedding.weight": { shape: [n, d] },
        "transform.0.weight": { shape: [h, d] },
        "transform.0.bias": { shape: [h] },
        "transform.2.weight": { shape: [width(config), h] },
        "transform.2.bias": { shape: [width(config)] },
      },
      encode(p) {
        const linear = (x: Tensor, i: number) =>
          add(through(x, p[`transform.${i}.weight`] as Tensor), p[`transform.${i}.bias`] as Tensor);
        return linear(tanh(linear(p["embedding.weight"] as Tensor, 0)), 2);
      },
    };
  },
  initialise(config, random) {
    const { numVirtualTokens: n, tokenDim: d, encoderHiddenSize, prefixProjection, initWeights } = config;
    const size = prefixProjection ? d : width(config);
    const table = random.normal(n * size, 0, 1);
    if (!prefixProjection) return { prompt_embeddings: initWeights === "zero" ? table.fill(0) : table };
    const h = encoderHiddenSize as number;
    const first = drawLinear(random, "transform.0", d, h);
    const last = drawLinear(random, "transform.2", h, width(config));
    if (initWeights === "zero") for (const values of Object.values(last)) values.fill(0);
    return { "embedding.weight": table, ...first, ...last };
  },
};

/** Prefix tuning: `prefixTuning({ numVirtualTokens: 20 })`. */
export const prefixTuning = defineMethod({
  schema,
  papers: ["https://arxiv.org/abs/2101.00190", "https://arxiv.org/abs/2110.07602"],
  formula: "attend(q, [K_P; k], [V_P; v])",
  layers: {},
  prompt,
  samples: (draw) => ({
    numVirtualTokens: draw.integer(1, 4),
    prefixProjection: draw.integer(0, 1) === 1,
    encoderHiddenSize: draw.integer(1, 6),
  }),
});
