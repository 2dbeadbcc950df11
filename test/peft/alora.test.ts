/** Adapters that act only from certain words on. The values themselves are golden (`lora_llama_alora`). */
import { expect, it } from "vitest";
import { currentDevice, upload } from "../../src/compile/program.ts";
import { compile } from "../../src/compile/trace.ts";
import { sliceAxis } from "../../src/graph/movement.ts";
import type { Tensor } from "../../src/graph/node.ts";
import type { CausalLM } from "../../src/models/causal-lm.ts";
import { createModel } from "../../src/models/create-model.ts";
import { alora, attach, deleteAdapter, disabled, lora, merge, setActive, withAdapters } from "../../src/peft/index.ts";
import { TorchGenerator } from "../../src/random/torch-generator.ts";
import { generate } from "../../src/train/generation.ts";
import { difference, numbers } from "./small-model.ts";

const sizes = { vocab_size: 16, hidden_size: 16, intermediate_size: 16, num_hidden_layers: 2, num_attention_heads: 2 };
const called = [7, 8];

function made() {
  const model = createModel({ model_type: "llama", num_key_value_heads: 2, ...sizes }, { task: "CausalLM" }) as CausalLM;
  attach(model, alora({ r: 4, aloraInvocationTokens: called, targetModules: ["q_proj", "v_proj", "lm_head"] }));
  const random = new TorchGenerator(3);
  for (const parameter of model.parameters())
    parameter.assign(upload(currentDevice(), random.normal(parameter.size, 0, 0.4), parameter.shape, "float32"));
  return model.eval() as CausalLM;
}
const tokens = (...rows: number[][]): Tensor =>
  upload(currentDevice(), Int32Array.from(rows.flat()), [rows.length, rows[0]!.length], "int32");
const logits = (model: CausalLM, ...rows: number[][]) => model.forward({ inputIds: tokens(...rows) }).logits;
/** Largest difference of logits at each place of the first row. */
const apart = (a: Tensor, b: Tensor) =>
  Array.from({ length: a.shape[1]! }, (_, t) =>
    difference(sliceAxis(sliceAxis(a, 0, 0, 1), 1, t, t + 1), sliceAxis(sliceAxis(b, 0, 0, 1), 1, t, t + 1)),
  );

it("leaves the base model alone before the last place at which the words stand", () => {
  const model = made();
  const acts = (text: number[]) => {
    const plain = disabled(model, () => logits(model, text));
    return apart(logits(model, text), plain).map((each) => each > 1e-4);
  };
  expect(acts([1, 7, 8, 2, 3])).toEqual([false, true, true, true, true]);
  expect(acts([7, 8, 2, 7, 8])).toEqual([false, false, false, true, true]);
  expect(acts([1, 2, 3, 8, 7])).toEqual([false, false, false, false, false]);
  expect(acts([7])).toEqual([false]); // shorter than the words
});

it("is plain LoRA for a text that begins with the words, and each row of a batch has its own place", () => {
  const model = made();
  const [text, other] = [
    [7, 8, 2, 3],
    [1, 2, 7, 8],
  ] as const;
  attach(model, lora({ r: 4, targetModules: ["q_proj", "v_proj", "lm_head"] }), { name: "plain" });
  const own = new Map(model.namedParameters());
  for (const [path, parameter] of own)
    if (path.includes(".plain.")) parameter.assign(own.get(path.replace(".plain.", ".default."))!.value);
  const alone = logits(model, [...text]);
  const rows = logits(model, [...other], [...text]);
  expect(difference(sliceAxis(rows, 0, 1, 2), alone)).toBeLessThan(1e-5);
  expect(difference(sliceAxis(rows, 0, 0, 1), logits(model, [...other]))).toBeLessThan(1e-5);
  const mixed = withAdapters(model, ["__base__", "default", "plain"], () => logits(model, [...text], [...other], [...text]));
  expect(difference(sliceAxis(mixed, 0, 1, 2), logits(model, [...other]))).toBeLessThan(1e-5);
  expect(
    difference(
      sliceAxis(mixed, 0, 0, 1),
      disabled(model, () => logits(model, [...text])),
    ),
  ).toBeLessThan(1e-5);
  setActive(model, "plain");
  expect(difference(logits(model, [...text]), alone)).toBeLessThan(1e-5);
  expect(difference(sliceAxis(mixed, 0, 2, 3), alone)).toBeLessThan(1e-5);
});

it("acts in what is written after a prompt as at its end", () => {
  const model = made();
  const cache = model.createCache(1, 16);
  const step = compile((inputIds: Tensor) => model.forward({ inputIds, cache }).logits);
  const write = (prompt: number[], ...next: number[]) => {
    cache.reset();
    return [step(tokens(prompt)), ...next.map((token) => step(tokens([token])))].flatMap((part) => numbers(part));
  };
  const close = (got: number[], want: Tensor) =>
    expect(numbers(want).reduce((most, value, i) => Math.max(most, Math.abs(value - got[i]!)), 0)).toBeLessThan(1e-5);
  close(write([1, 7, 8], 2, 3), logits(model, [1, 7, 8, 2, 3]));
  // the words come too late: the prompt has decided
  close(
    write([1, 2], 7, 8, 3),
    disabled(model, () => logits(model, [1, 2, 7, 8, 3])),
  );
  const again = write([7, 8], 7, 8);
  step.dispose();
  close(again, logits(calledBy(model, [7, 8, 7]), [7, 8, 7, 8]));
});

/** The same adapter, called by other words. */
function calledBy(model: CausalLM, aloraInvocationTokens: number[]): CausalLM {
  attach(model, alora({ r: 4, aloraInvocationTokens, targetModules: ["q_proj", "v_proj", "lm_head"] }), { name: "whole" });
  const own = new Map(model.namedParameters());
  for (const [path, parameter] of own)
    if (path.includes(".whole.")) parameter.assign(own.get(path.replace(".whole.", ".default."))!.value);
  setActive(model, "whole");
  return model;
}

it("generates alike with programs and without, and like a model that reads the whole text anew", async () => {
  const model = made();
  for (const prompt of [
    [1, 7, 8, 4],
    [1, 2, 3, 4],
  ]) {
    const options = { maxNewTokens: 4, temperature: 0 };
    const written: number[] = [];
    for await (const token of generate(model, prompt, options)) written.push(token);
    const text = [...prompt];
    for (const token of written) {
      const last = numbers(sliceAxis(logits(model, text), 1, text.length - 1, text.length));
      expect(token).toBe(last.indexOf(Math.max(...last)));
      text.push(token);
    }
    expect(written).toHaveLength(4);
  }
});

it("cannot be merged, and gives the model its own methods back", () => {
  const model = made();
  expect(() => merge(model)).toThrow('merge: the adapter "default" (LORA) is not a change of the weight. Use it unmerged.');
  attach(model, lora({ r: 2, targetModules: ["q_proj"] }), { name: "other" });
  expect(Object.hasOwn(model, "forward")).toBe(true);
  deleteAdapter(model, "default");
  expect(Object.hasOwn(model, "forward")).toBe(false);
  expect(() => alora()).toThrow("alora: `aloraInvocationTokens` are the tokens of the words");
  expect(lora({ aloraInvocationTokens: [1] }).method).toBe(alora);
});
