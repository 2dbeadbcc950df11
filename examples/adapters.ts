import { attach, combineAdapters, lora, merge, quantise, setActive, unmerge } from "lorikeet/peft";
import { textDataset } from "lorikeet/text";
import { completeBatch, completeText, finetune, loadModel } from "lorikeet/train";

// QLoRA: the frozen weights take 4 bits each, the adapters on top stay in full precision
const { model, tokenizer } = await loadModel("models/tiny");
quantise(model, { type: "nf4", doubleQuantise: true });
for (const [name, text] of [
  ["sea", "The sea was calm, and the ship lay still. ".repeat(60)],
  ["land", "The fields were dry, and the farmer waited for rain. ".repeat(60)],
] as const) {
  attach(model, lora({ r: 8, targetModules: ["q_proj", "v_proj", "down_proj"] }), { name });
  setActive(model, name);
  await finetune(model, textDataset([text], tokenizer, { window: 64, heldOut: 0 }), { steps: 20, learningRate: 1e-2 });
}

// one batch, a different adapter for each row
const prompts = [tokenizer.encode("The"), tokenizer.encode("The")];
const rows = await completeBatch(model, prompts, { adapters: ["sea", "land"], maxNewTokens: 6 });
for (const row of rows) console.log(`The${tokenizer.decode(row)}`);

// combine both into one adapter, merge it into the weights, take it out again
combineAdapters(model, { adapters: ["sea", "land"], weights: [0.5, 0.5], type: "ties_svd", density: 0.5, name: "coast" });
setActive(model, "coast");
const report = merge(model, undefined, { report: true, tell: console.log });
console.log(report.layers.length, "layers merged");
console.log(await completeText({ model, tokenizer }, "The", { maxNewTokens: 12, stopStrings: ["."] }));
unmerge(model); // the same bits as before
