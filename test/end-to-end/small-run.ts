/** What the command line is tried on: a model of random values with the tokenizer of the real one, and a book of one sentence. */
import { cpSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll } from "vitest";
import "../../src/devices/choose.ts";
import { LlamaForCausalLM } from "../../src/models/llama.ts";
import type { ConfigJson } from "../../src/models/llama-config.ts";
import { normal } from "../../src/nn/init.ts";
import { TorchGenerator } from "../../src/random/torch-generator.ts";
import { saveModel } from "../../src/train/load-model.ts";
import { root } from "./command.ts";

const config: ConfigJson = {
  architectures: ["LlamaForCausalLM"],
  model_type: "llama",
  vocab_size: 2048,
  hidden_size: 32,
  intermediate_size: 48,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  max_position_embeddings: 128,
  rms_norm_eps: 1e-5,
  tie_word_embeddings: true,
};

/** A folder for the tests of a file, with the model and the book in it: quick to train, and it says nothing. */
export function smallRun() {
  const folder = mkdtempSync(join(tmpdir(), "lorikeet-end-to-end-"));
  const at = (name: string): string => join(folder, name);
  const [model, text] = [at("model"), at("book.txt")];
  beforeAll(async () => {
    const init = normal({ std: 0.1, generator: new TorchGenerator(1) });
    await saveModel(model, new LlamaForCausalLM(config, { init }), config);
    for (const name of ["tokenizer.json", "tokenizer_config.json"]) cpSync(join(root, "models/tiny", name), join(model, name));
    const sentence = "It was the whale, and the whale was white; the sea went on as it had five thousand years ago. ";
    writeFileSync(text, sentence.repeat(60));
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  return { at, model, args: ["--model", model, "--data", text, "--window", "32", "--batch", "2", "--prompt", "Call me"] };
}
