/**
 * Cohere's Command R and R7B: a Llama with parallel attention and feed-forward part after one layer norm without bias, interleaved
 * rotary pairs, and scaled logits. In the newer one (`cohere2`) three of four layers have a window, and the others no positions.
 *
 * @see https://huggingface.co/CohereLabs/c4ai-command-r-v01, https://arxiv.org/abs/2504.00698
 */
import type { ConfigReader } from "./config-reader.ts";
import { type LlamaFamilyMember, llamaCausalLM } from "./llama.ts";
import type { LlamaConfig } from "./llama-config.ts";

const defaults = { max_position_embeddings: 8192, pad_token_id: 0, tie_word_embeddings: true };

const read = (config: ConfigReader): Partial<LlamaConfig> => ({
  normType: "layer without bias",
  rmsNormEps: config.number("layer_norm_eps", 1e-5),
  parallelResidual: true,
  rotaryPairs: "interleaved",
  logitScale: config.number("logit_scale", 0.0625),
});

const cohere: LlamaFamilyMember = {
  modelType: "cohere",
  defaults: { ...defaults, rope_theta: 5e5 },
  read: (config) => ({ ...read(config), queryKeyNorm: config.flag("use_qk_norm", false) ? "own head" : "none" }),
};

const cohere2: LlamaFamilyMember = {
  modelType: "cohere2",
  defaults: { ...defaults, sliding_window: 4096 },
  read(config, { numHiddenLayers, rope }) {
    const full = config.count("sliding_window_pattern", 4);
    const windows = config.windows(numHiddenLayers, (i) => (i + 1) % full !== 0);
    return { ...read(config), windows, layerRopes: windows.map((window) => (window > 0 ? rope : null)) };
  },
};

/** A Cohere that predicts the next token. */
export const CohereForCausalLM = llamaCausalLM("CohereForCausalLM", cohere);

/** A Cohere 2 that predicts the next token. */
export const Cohere2ForCausalLM = llamaCausalLM("Cohere2ForCausalLM", cohere2);
