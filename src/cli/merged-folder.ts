/** A whole model in a folder, as transformers reads it. */
import { join } from "node:path";
import { writeFileAtomically } from "../formats/atomic-file.ts";
import { readText } from "../formats/folder.ts";
import { openSource } from "../formats/model-source.ts";
import { saveTokenizer } from "../text/bpe-trainer.ts";
import { type LoadedModel, type SaveOptions, saveModel } from "../train/load-model.ts";

/** Writes a model with its tokenizer, and what the source that it was loaded from says about generation. */
export async function saveFolder(out: string, source: string, loaded: LoadedModel, options: SaveOptions = {}): Promise<void> {
  const { model, config, tokenizer } = loaded;
  await saveModel(out, model, config, options);
  await saveTokenizer(out, tokenizer);
  const [{ folder }, file] = [await openSource(source, "saveModel"), "generation_config.json"];
  if (folder.files.has(file)) await writeFileAtomically(join(out, file), await readText(folder, file, "saveModel"));
}
