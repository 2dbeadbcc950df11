/** Mixtral: a Mistral whose feed-forward parts are mixtures of experts. @see https://arxiv.org/abs/2401.04088 */
import { questionAnswerer, sequenceClassifier, tokenClassifier } from "./family.ts";
import { type LlamaFamilyMember, llamaCausalLM, llamaFamily } from "./llama.ts";
import { type MixtureConfig, mixture, mixtureNames, readMixture } from "./mixture.ts";

const mixtral: LlamaFamilyMember = {
  ...mixture,
  modelType: "mixtral",
  defaults: {
    num_key_value_heads: 8,
    max_position_embeddings: 131072,
    rms_norm_eps: 1e-5,
    rope_theta: 1e6,
    num_local_experts: 8,
    num_experts_per_tok: 2,
  },
  read(config, llama) {
    if (config.number("router_jitter_noise", 0) !== 0) config.fixed("router_jitter_noise", 0);
    const own: Partial<MixtureConfig> = {
      ...readMixture(config, llama),
      attentionBias: false,
      outputBias: false,
      windows: config.sameWindows(llama.numHiddenLayers),
      normTopkProb: true,
    };
    return own;
  },
  names: mixtureNames({ block: "block_sparse_moe", gate: "w1", up: "w3", down: "w2" }),
};

/** A Mixtral that predicts the next token. */
export const MixtralForCausalLM = llamaCausalLM("MixtralForCausalLM", mixtral);

/** A Mixtral that classifies texts. */
export const MixtralForSequenceClassification = sequenceClassifier("MixtralForSequenceClassification", llamaFamily(mixtral));

/** A Mixtral that classifies every token. */
export const MixtralForTokenClassification = tokenClassifier("MixtralForTokenClassification", llamaFamily(mixtral), "score");

/** A Mixtral that extracts the answer to a question from a text. */
export const MixtralForQuestionAnswering = questionAnswerer("MixtralForQuestionAnswering", llamaFamily(mixtral), {
  countsPadding: true,
});
