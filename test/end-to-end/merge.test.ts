/** `lorikeet merge`: the folder that it writes computes what the model computes with the adapters beside its weights. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, expect, it } from "vitest";
import { tensor } from "../../src/index.ts";
import type { CausalLM } from "../../src/models/causal-lm.ts";
import { setActive } from "../../src/peft/adapted-model.ts";
import { loadAdapter, saveAdapter } from "../../src/peft/adapter-file.ts";
import { attach } from "../../src/peft/attach.ts";
import { combineAdapters } from "../../src/peft/compose/combine-adapters.ts";
import { lora, promptTuning } from "../../src/peft/methods.ts";
import { loadModel } from "../../src/train/load-model.ts";
import { expectRefusal, lastLine, lorikeet } from "./command.ts";
import { saveSmallAdapter } from "./small-adapter.ts";
import { smallRun } from "./small-run.ts";

const { at, model } = smallRun();
const [first, second] = [at("first"), at("second")];
beforeAll(async () => {
  await saveSmallAdapter(model, first, 0);
  await saveSmallAdapter(model, second, 1);
});

const logitsOf = (model: CausalLM): Float32Array =>
  model
    .eval()
    .forward({ inputIds: tensor([[5, 300, 7, 1999]], { dtype: "int32" }) })
    .logits.dataSync() as Float32Array;
const largest = (a: Float32Array, b: Float32Array): number =>
  a.reduce((most, value, i) => Math.max(most, Math.abs(value - (b[i] as number))), 0);

it("merges one adapter, in 32 bits or in 16, and says what rounding has done", async () => {
  const loaded = await loadModel(model);
  const base = logitsOf(loaded.model);
  await loadAdapter(loaded.model, first);
  const expected = logitsOf(loaded.model);
  const change = largest(base, expected);
  for (const [dtype, error, difference] of [
    ["float32", 1e-5, 1e-4 * change],
    ["bfloat16", 0.1, 0.1 * change],
  ] as const) {
    const out = at(dtype);
    const { code, stdout, stderr } = await lorikeet(["merge", first, "--out", out, "--dtype", dtype, "--json"]);
    expect(code, stderr).toBe(0);
    const told = lastLine(stdout) as Record<"largestError" | "largestLogitDifference", number>;
    expect(told).toMatchObject({ model, adapters: [first], out, dtype, merged: 14 });
    expect(told.largestError).toBeLessThan(error);
    expect(told.largestLogitDifference).toBeLessThan(difference);
    expect(stderr).toContain(`rounding   at most ${told.largestError.toExponential(1)} of a layer's change is lost`);
    const merged = await loadModel(out);
    expect(merged.config["dtype"]).toBe(dtype);
    expect(merged.tokenizer.vocabularySize).toBe(loaded.tokenizer.vocabularySize);
    expect(largest(logitsOf(merged.model), expected)).toBeLessThan(difference);
  }
});

it("merges the sum of several, their weighted sum, or another combination", async () => {
  const { model: beside } = await loadModel(model);
  const adapters = ["first", "second"];
  await loadAdapter(beside, first, { name: "first" });
  await loadAdapter(beside, second, { name: "second" });
  const ways = [[], ["--weights", "0.7,0.3"], ["--weights", "0.7,0.3", "--combination", "ties_svd", "--density", "0.5"]] as const;
  combineAdapters(beside, { adapters, weights: [0.7, 0.3], type: "cat", name: "sum" });
  combineAdapters(beside, { adapters, weights: [0.7, 0.3], type: "ties_svd", density: 0.5, name: "ties" });
  for (const [i, active] of [adapters, "sum", "ties"].entries()) {
    const out = at(`merged-${i}`);
    const { code, stderr } = await lorikeet(["merge", first, second, "--out", out, ...(ways[i] as readonly string[])]);
    expect(code, stderr).toBe(0);
    setActive(beside, active);
    expect(largest(logitsOf((await loadModel(out)).model), logitsOf(beside))).toBeLessThan(1e-3);
  }
});

it("opens the model as what the adapter is for, and keeps the classifier that was trained with it", async () => {
  const inputIds = tensor([[5, 300, 7, 1999]], { dtype: "int32" });
  const task = "SequenceClassification";
  const judge = await loadModel(model, { task, labels: 3 });
  attach(judge.model, lora({ r: 2, initLoraWeights: false, targetModules: ["q_proj"], taskType: "SEQ_CLS" }));
  await saveAdapter(judge.model, at("judge"), { baseModel: model });
  const expected = judge.model.eval().forward({ inputIds }).logits;
  const { code, stderr } = await lorikeet(["merge", at("judge"), "--out", at("judged")]);
  expect(code, stderr).toBe(0);
  const merged = await loadModel(at("judged"), { task });
  expect(Object.keys(merged.config["id2label"] as object)).toHaveLength(3);
  expect(merged.model.eval().forward({ inputIds }).logits.sub(expected).abs().max().item()).toBeLessThan(1e-5);
});

it("says in one line what cannot be merged, and writes nothing then", async () => {
  const loaded = await loadModel(model);
  attach(loaded.model, promptTuning({ numVirtualTokens: 2, taskType: "CAUSAL_LM" }));
  const prompt = await saveAdapter(loaded.model, at("prompt"), { baseModel: model });
  const config = readFileSync(join(model, "config.json"), "utf8");
  const out = ["--out", at("out")];
  for (const [options, words] of [
    [[prompt, ...out], "is not a change of the weight"],
    [[first, second, ...out, "--weights", "1"], "1 numbers for 2 adapters"],
    [[first, ...out, "--weights", "x"], "numbers with commas between them"],
    [[first, second, ...out, "--combination", "ties"], "density"],
    [[first, "--out", model], "holds the model itself"],
    [[first, "--out", second], "holds an adapter"],
    [[at("nowhere"), ...out], "nowhere"],
  ] as const)
    await expectRefusal(["merge", ...options], words);
  expect(existsSync(at("out"))).toBe(false);
  expect(readFileSync(join(model, "config.json"), "utf8")).toBe(config);
});
