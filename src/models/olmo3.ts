/** OLMo 3: OLMo 2 with a window in three of four layers; their positions are not scaled. @see https://arxiv.org/abs/2512.13961 */
import { sequenceClassifier } from "./family.ts";
import { type LlamaFamilyMember, llamaCausalLM, llamaFamily } from "./llama.ts";
import { windowedRopes } from "./llama-config.ts";
import { olmo2 } from "./olmo2.ts";

const olmo3: LlamaFamilyMember = {
  ...olmo2,
  modelType: "olmo3",
  defaults: { ...olmo2.defaults, rope_theta: 5e5, sliding_window: 4096 },
  read(config, { numHiddenLayers, rope }) {
    const windows = config.windows(numHiddenLayers, (i) => (i + 1) % 4 !== 0);
    return { queryKeyNorm: "token", windows, layerRopes: windowedRopes(config, windows, rope, "rope_theta") };
  },
};

/** An OLMo 3 that predicts the next token. */
export const Olmo3ForCausalLM = llamaCausalLM("Olmo3ForCausalLM", olmo3);

/** An OLMo 3 that classifies texts. */
export const Olmo3ForSequenceClassification = sequenceClassifier("Olmo3ForSequenceClassification", llamaFamily(olmo3));
