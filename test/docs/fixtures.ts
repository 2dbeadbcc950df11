/** What examples speak of without making it: queries and keys, a model, a dataset, files in the current folder. */
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { arange, createWasm, type Tensor, tensor, useDevice } from "../../src/index.ts";
import { LlamaForCausalLM } from "../../src/models/index.ts";
import {
  type AdapterConfig,
  adapterNames,
  attach,
  cartridge,
  detach,
  lora,
  multitaskPrompt,
  saveAdapter,
} from "../../src/peft/index.ts";
import { loadTokenizer, type TextDataset, type Tokenizer, textDataset } from "../../src/text/index.ts";
import { saveModel } from "../../src/train/index.ts";

const root = resolve(import.meta.dirname, "../..");
const device = createWasm({ threads: 1 });
useDevice(device);

const numbers = (...shape: number[]): Tensor => arange(shape.reduce((a, b) => a * b, 1)).reshape(shape);

export const q: Tensor = numbers(1, 4, 2, 8);
export const k: Tensor = numbers(1, 4, 2, 8);
export const text = "Every ship shall carry a lamp, and every lamp shall be lit at dusk. ".repeat(20);
export const inputIds: Tensor = tensor([[1, 2, 3, 4]], { dtype: "int32" });
export const memory = new WebAssembly.Memory({ initial: 1, maximum: 65536 });

// files are looked for in a folder of their own
const folder = mkdtempSync(join(tmpdir(), "lorikeet-examples-"));
process.on("exit", () => rmSync(folder, { recursive: true, force: true }));
for (const file of ["tokenizer.json", "tokenizer_config.json"])
  cpSync(join(root, "models/tiny", file), join(folder, "models/tiny", file));
writeFileSync(join(folder, "moby-dick.txt"), "Call me Ishmael. Some years ago I went to sea, and the sea was wide. ".repeat(120));
writeFileSync(
  join(folder, "chats.jsonl"),
  JSON.stringify([
    { role: "user", content: "Who are you?" },
    { role: "assistant", content: "Call me Ishmael. ".repeat(100) },
  ]),
);
cpSync(join(root, "test/fixtures/gguf/llama.gguf"), join(folder, "llama-3.2-1b-q4_k_m.gguf"));
process.chdir(folder);

const settings = JSON.parse(readFileSync("models/tiny/tokenizer_config.json", "utf8"));
const template = "{% for m in messages %}<{{ m.role }}> {% generation %}{{ m.content }}\n{% endgeneration %}{% endfor %}";
writeFileSync("models/tiny/tokenizer_config.json", JSON.stringify({ ...settings, chat_template: template }));
export const tokenizer: Tokenizer = await loadTokenizer("models/tiny");
export const dataset: TextDataset = textDataset("moby-dick.txt", tokenizer, { window: 32, heldOut: 0.2 });
const config = {
  model_type: "llama",
  vocab_size: tokenizer.vocabularySize,
  hidden_size: 16,
  intermediate_size: 24,
  num_hidden_layers: 1,
  num_attention_heads: 2,
  max_position_embeddings: 256,
};
export const model = new LlamaForCausalLM(config);
await saveModel("models/tiny", model, config);
cpSync("models/tiny/model.safetensors", "model.safetensors");
export const loss: Tensor = model.forward({ inputIds, labels: inputIds }).loss!;

const saved: readonly (readonly [path: string, adapter: AdapterConfig])[] = [
  ["cartridges/laws", cartridge({ numVirtualTokens: 4 })],
  ["cartridges/letters", cartridge({ numVirtualTokens: 6 })],
  ["adapters/source", multitaskPrompt({ numVirtualTokens: 20, numTasks: 3 })],
  ["adapters/sums", lora({ r: 2, targetModules: ["q_proj"] })],
  ["adapters/poems", lora({ r: 2, targetModules: ["q_proj"] })],
];
for (const [path, adapter] of saved) {
  attach(model, adapter);
  await saveAdapter(model, path);
  detach(model);
}

/** Undoes what examples do to what they share. */
export function restore(): void {
  useDevice(device);
  if (adapterNames(model).length > 0) detach(model);
}

/** Stands for what a reader does with a batch. */
export const step = (..._batch: unknown[]): void => {};
