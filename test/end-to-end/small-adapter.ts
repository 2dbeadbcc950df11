/** Adapters for the model that the command line is tried on, as training might have left them. */
import { saveAdapter } from "../../src/peft/adapter-file.ts";
import { attach } from "../../src/peft/attach.ts";
import { lora } from "../../src/peft/methods/lora.ts";
import { loadModel } from "../../src/train/load-model.ts";

/** Writes a LoRA adapter of random values into a folder. @returns the folder */
export async function saveSmallAdapter(model: string, folder: string, seed: number): Promise<string> {
  const loaded = await loadModel(model);
  const config = { r: 2, loraAlpha: 16, initLoraWeights: false, targetModules: "all-linear", taskType: "CAUSAL_LM" } as const;
  attach(loaded.model, lora(config), { seed });
  return saveAdapter(loaded.model, folder, { baseModel: model });
}
