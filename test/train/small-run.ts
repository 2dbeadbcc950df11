/** A Llama of a few thousand values and a text of a few hundred letters, for tests of training. */
import { LlamaForCausalLM } from "../../src/models/llama.ts";
import { normal } from "../../src/nn/init.ts";
import { TorchGenerator } from "../../src/random/torch-generator.ts";
import { type TextDataset, type TextDatasetOptions, textDataset } from "../../src/text/dataset.ts";

const letters = " abcdefghijklmnopqrstuvwxyz.";

/** One token a letter. */
export const letterTokenizer = {
  eosId: undefined,
  encode: (text: string) => Int32Array.from(text, (letter) => Math.max(0, letters.indexOf(letter))),
};

export const smallText = "the whale swam under the ship and the sailors saw the whale swim away. ".repeat(8);

export const smallDataset = (options: TextDatasetOptions = {}): TextDataset =>
  textDataset({ text: smallText }, letterTokenizer, { window: 16, stride: 8, heldOut: 0.1, seed: 3, ...options });

export const smallModel = (seed = 0): LlamaForCausalLM =>
  new LlamaForCausalLM(
    {
      model_type: "llama",
      vocab_size: letters.length,
      hidden_size: 16,
      intermediate_size: 24,
      num_hidden_layers: 2,
      num_attention_heads: 4,
      num_key_value_heads: 2,
      max_position_embeddings: 32,
      tie_word_embeddings: true,
    },
    { init: normal({ std: 0.1, generator: new TorchGenerator(seed) }) },
  );
