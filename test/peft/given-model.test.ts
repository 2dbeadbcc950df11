/** What people give in the place of a model, an adapter, names or data, and what they are told. */
import { expect, it } from "vitest";
import { grad, type Tensor, tensor, withVjp } from "../../src/index.ts";
import { attach, lora, merge, mergeAndUnload, setActive, switchMerged } from "../../src/peft/index.ts";
import { finetune, generateText } from "../../src/train/index.ts";
import { SmallModel } from "./small-model.ts";

const r4 = lora({ r: 4, targetModules: ["q_proj"] });
const adapted = () => {
  const model = new SmallModel();
  attach(model, r4, { name: "sea" });
  return model;
};

it.each<[string, () => unknown, string]>([
  [
    "a promise of a model",
    () => attach(Promise.resolve(new SmallModel()) as never, r4),
    "the model is a Promise, not a module. Wait for it: `await`.",
  ],
  [
    "what loadModel gives",
    () => attach({ model: new SmallModel() } as never, r4),
    "Take the model out of it: const { model } = …",
  ],
  ["that, where adapters are asked for", () => setActive({ model: adapted() } as never, "sea"), "Take the model out of it"],
  [
    "a method that was not called",
    () => attach(new SmallModel(), lora as never),
    "the adapter is a function, not the config of a method. Call a method: lora({ r: 8 }).",
  ],
  ["options of Python", () => attach(new SmallModel(), { r: 8 } as never), "the adapter is an object"],
  ["the word rank", () => lora({ rank: 8 } as never), "Did you mean `r`?"],
  ["the word alpha", () => lora({ alpha: 8 } as never), "Did you mean `loraAlpha`?"],
  ["the word dropout", () => lora({ dropout: 0.1 } as never), "Did you mean `loraDropout`?"],
  [
    "options in the place of names",
    () => merge(adapted(), { safe: true } as never),
    "names of adapters are strings, got an object.",
  ],
  ["a number as a name", () => setActive(adapted(), [3] as never), 'there is no adapter "3"'],
  [
    "a derivative that is not a list",
    () => grad((x: Tensor) => withVjp((y) => y, ((g: Tensor) => g) as never)(x).sum())([1]),
    "`backward` gave a Tensor. It gives a list",
  ],
  [
    "numbers as cotangents",
    () => grad((x: Tensor) => withVjp((y) => y, (() => [1]) as never)(x).sum())([1]),
    "`backward` gave a list with a number.",
  ],
  [
    "a sum of tensors",
    () => (tensor([1]) as never) + (tensor([2]) as never),
    "JavaScript's + - * / < > are for numbers. Write x.add(y)",
  ],
  ["a comparison of tensors", () => (tensor(1) as never) < 2, "x.item() is the number in a tensor of one"],
])("%s", (_, mistake, told) => {
  expect(mistake).toThrow(told);
});

it("that is no data or no writer", async () => {
  await expect(finetune(adapted() as never, "text.txt" as never, { steps: 1 })).rejects.toThrow(
    "the data is a string, not a dataset. Make one with textDataset",
  );
  await expect(finetune({ model: adapted() } as never, "text" as never, { steps: 1 })).rejects.toThrow("const { model }");
  await expect(generateText(adapted() as never, "The").next()).rejects.toThrow("Give { model, tokenizer }, as loadModel does.");
});

it("takes one name for a list of one", () => {
  const model = adapted();
  expect(merge(model, "sea").length).toBe(2);
  expect(switchMerged(model, "sea").length).toBe(2);
  mergeAndUnload(adapted(), "sea");
});

it("writes tensors as JSON and in texts", () => {
  expect(JSON.stringify({ loss: tensor(0.5), x: tensor([[1, 2]]) })).toBe('{"loss":0.5,"x":[[1,2]]}');
  expect(`${tensor([1, 2])}`).toBe("[1 2] float32 [2]");
});
