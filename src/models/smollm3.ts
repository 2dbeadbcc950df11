/** SmolLM3: a Llama in which every fourth layer has no positions (NoPE). @see https://huggingface.co/HuggingFaceTB/SmolLM3-3B */
import { sequenceClassifier, tokenClassifier } from "./family.ts";
import { type LlamaFamilyMember, llamaCausalLM, llamaFamily, llamaQuestionAnswerer } from "./llama.ts";

const smollm3: LlamaFamilyMember = {
  modelType: "smollm3",
  defaults: {
    num_key_value_heads: 4,
    max_position_embeddings: 32768,
    rope_theta: 2e6,
    tie_word_embeddings: true,
    pad_token_id: 128004,
  },
  read(config, { numHiddenLayers: layers, rope }) {
    const step = config.count("no_rope_layer_interval", 4);
    const given = config.get("no_rope_layers");
    const isList = Array.isArray(given) && given.length >= layers && given.every((each) => each === 0 || each === 1);
    if (given !== undefined && !isList) config.refuse("no_rope_layers", given, `must be a list of ${layers} times 0 or 1`);
    const turned: readonly boolean[] = Array.from({ length: layers }, (_, i) => (isList ? given[i] === 1 : (i + 1) % step !== 0));
    const isUsed = config.flag("use_sliding_window", false) && config.get("sliding_window") !== undefined;
    return {
      mlpBias: config.flag("mlp_bias", false),
      windows: config.windows(layers, (i) => isUsed && !turned[i]),
      layerRopes: turned.map((each) => (each ? rope : null)),
    };
  },
};

/** A SmolLM3 that predicts the next token. */
export const SmolLM3ForCausalLM = llamaCausalLM("SmolLM3ForCausalLM", smollm3);

/** A SmolLM3 that classifies texts. */
export const SmolLM3ForSequenceClassification = sequenceClassifier("SmolLM3ForSequenceClassification", llamaFamily(smollm3));

/** A SmolLM3 that classifies every token. */
export const SmolLM3ForTokenClassification = tokenClassifier("SmolLM3ForTokenClassification", llamaFamily(smollm3), "score");

/** A SmolLM3 that extracts the answer to a question from a text. */
export const SmolLM3ForQuestionAnswering = llamaQuestionAnswerer("SmolLM3ForQuestionAnswering", smollm3);
