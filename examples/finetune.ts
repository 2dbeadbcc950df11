import { attach, lora, saveAdapter } from "lorikeet/peft";
import { loadCorpus, textDataset } from "lorikeet/text";
import { complete, evaluate, finetune, loadModel } from "lorikeet/train";

const { model, tokenizer } = await loadModel("models/tiny");
const book = textDataset(await loadCorpus("moby-dick"), tokenizer, { window: 128 });
console.log("perplexity before:", (await evaluate(model, book)).perplexity);

attach(model, lora({ r: 16, loraAlpha: 32, targetModules: "all-linear", taskType: "CAUSAL_LM" }));
await finetune(model, book, { steps: 300, learningRate: 4e-3, onStep: ({ step, loss }) => console.log(step, loss) });
console.log("perplexity after:", (await evaluate(model, book)).perplexity);

const whale = await complete(model, [...tokenizer.encode("The whale")], { temperature: 0.8, topP: 0.95, seed: 1 });
console.log(`The whale${tokenizer.decode(whale)}`);
await saveAdapter(model, "out/moby-dick", { baseModel: "models/tiny" });
