/** Kernels by hand without a GPU, and in the steps of a Trainer. */
import { expect, test } from "vitest";
import { useDevice } from "../../src/compile/program.ts";
import { createGpu } from "../../src/devices/gpu/index.ts";
import { GPT2LMHeadModel } from "../../src/models/gpt2.ts";
import { attach } from "../../src/peft/attach.ts";
import { lora } from "../../src/peft/methods/lora.ts";
import { Trainer } from "../../src/train/trainer.ts";
import { byHandOn, kernelsOf } from "../arbitrary/by-hand.ts";
import { gpuVariants } from "../arbitrary/devices.ts";
import { nearlyByHandOn } from "../arbitrary/nearly-by-hand.ts";
import { smallDataset, smallModel } from "../train/small-run.ts";

byHandOn(gpuVariants, true);
nearlyByHandOn(gpuVariants, true);

const attention = [
  "attentionScores",
  "logSums",
  "rowWeights",
  "attentionByQueries",
  "attentionByKeys",
  "attentionDeltas",
  "attentionSlopes",
];
const loss = ["rowShift", "rowExponentials", "rowSum", "crossEntropy", "crossEntropyDerivativeOf"];

test.each([
  {
    name: "a Llama with LoRA",
    taken: [...loss, "inverseRms", "rmsNorm", "weightedDot", "adamMeanTurned", "adamSquareTurned", "adamStep"],
  },
  { name: "a GPT-2", taken: [...loss, "rowSum", "layerNorm", "weightedDot", "adamMean", "adamSquare", "adamStep"] },
])("a step of a Trainer takes them: $name", async ({ name, taken }) => {
  using device = await createGpu({ mode: "cpu" });
  useDevice(device);
  const dropout = { resid_pdrop: 0, embd_pdrop: 0, attn_pdrop: 0 };
  const sizes = { vocab_size: 28, n_positions: 32, n_embd: 16, n_layer: 1, n_head: 2, ...dropout };
  const model = name.endsWith("LoRA") ? smallModel() : new GPT2LMHeadModel({ model_type: "gpt2", ...sizes });
  if (name.endsWith("LoRA")) attach(model, lora({ r: 2, loraAlpha: 4, targetModules: "all-linear" }));
  using trainer = new Trainer(model, smallDataset(), { steps: 1, batchSize: 2 });
  const ran = await kernelsOf(device, () => trainer.run());
  expect(ran).toEqual(expect.arrayContaining([...attention, ...taken]));
});
