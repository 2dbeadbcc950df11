/** `lorikeet gguf`: an adapter's folder as a file for llama.cpp and what is built on it. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { Command } from "commander";
import { loadAdapter } from "../peft/adapter-file.ts";
import { saveGgufAdapter } from "../peft/gguf-adapter.ts";
import { openModel } from "./model-option.ts";
import { path } from "./option.ts";
import { say } from "./terminal.ts";

interface GgufOptions {
  readonly model?: string;
  readonly out?: string;
  readonly half?: boolean;
}

/** Adds `lorikeet gguf`. */
export function addGguf(program: Command): void {
  program
    .command("gguf")
    .description("write a LoRA adapter as a GGUF file, for llama.cpp, Ollama and LM Studio")
    .argument("<adapter>", "its folder, as finetune or Hugging Face PEFT writes it", path)
    .option("--model <folder>", "the model it is for; the one that the adapter names when absent", path)
    .option("--out <file>", "file to write (default: adapter.gguf in the adapter's folder, or here if that is on the Hub)", path)
    .option("--half", "store 16-bit values, half the size")
    .action(async (adapter: string, { model, half, ...given }: GgufOptions) => {
      const out = given.out ?? join(existsSync(adapter) ? adapter : "", "adapter.gguf");
      const { loaded } = await openModel("gguf", { ...(model !== undefined && { model }), adapter: [adapter] });
      await loadAdapter(loaded.model, adapter);
      await saveGgufAdapter(loaded.model, out, { dtype: half ? "float16" : "float32" });
      say(`${out}   (llama-cli -m model.gguf --lora ${out})`);
    });
}
