/** A pretrained model becomes a classifier of other classes: what its checkpoint has is read, and only the output layer is drawn. */
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { downloadSync, realize } from "../../src/compile/program.ts";
import { tensor } from "../../src/index.ts";
import { type ConfigJson, createModel, models, type Task } from "../../src/models/index.ts";
import { taskOf } from "../../src/models/task.ts";
import type { Module } from "../../src/nn/module.ts";
import { attach, loadAdapter, lora, saveAdapter } from "../../src/peft/index.ts";
import { loadModel, saveModel } from "../../src/train/load-model.ts";
import { decoderConfigs, encoderConfigs } from "../models/configs.ts";
import { temporaryFolder } from "../temporary-folder.ts";

const folder = temporaryFolder();
const valuesOf = (model: Module) =>
  new Map([...model.namedParameters()].map(([path, parameter]) => [path, [...downloadSync(parameter.stored)]]));

/** What a model is usually published as, and what it may become. */
const pairs = Object.entries({ ...decoderConfigs, ...encoderConfigs } as Readonly<Record<string, ConfigJson>>).flatMap(
  ([type, config]) => {
    const names = Object.keys(models[type as keyof typeof models]);
    const published = names.find((name) => !name.includes("Classification"));
    return names
      .filter((name) => published && name.includes("Classification"))
      .map((name) => [type, published!, taskOf(name)!, { ...config, model_type: type }] as const);
  },
);

describe("labels", () => {
  test.each(pairs)("%s: %s as %s", async (type, published, task, config) => {
    const path = join(folder, `${type}-${task}`);
    const given: ConfigJson = {
      ...config,
      architectures: [published],
      pad_token_id: (config as ConfigJson)["pad_token_id"] ?? 0,
    };
    const base = createModel(given, {
      task: taskOf(published)!,
      init: (shape) => Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => Math.sin(i)),
    });
    await saveModel(path, base, given);
    await expect(loadModel(path, { task })).rejects.toThrow(/or for a new output layer with \{ labels \}/);

    const { model, config: labelled, drawn } = await loadModel(path, { task, labels: ["good", "bad", "ugly"] });
    expect(labelled).toMatchObject({ id2label: { 0: "good", 1: "bad", 2: "ugly" }, label2id: { ugly: 2 } });
    expect(drawn).not.toEqual([]);
    const [before, after] = [valuesOf(base), valuesOf(model)];
    for (const [name, values] of after) {
      if (drawn.includes(name)) expect(name).toMatch(/score|classifier|pooler|head\./);
      else expect([name, values]).toEqual([name, before.get(name)]);
    }
    const inputIds = tensor([[5, 3, 7, 4]], { dtype: "int32" });
    const { logits } = model.forward({ inputIds } as never) as { logits: ReturnType<typeof tensor> };
    expect(logits.shape.at(-1)).toBe(3);

    // saved, it is a classifier like any other one
    const again = `${path}-saved`;
    await saveModel(again, model, labelled);
    const loaded = await loadModel(again, { task });
    expect(loaded.drawn).toEqual([]);
    expect(valuesOf(loaded.model)).toEqual(after);
    // and other classes keep all but the layer that is as wide as there are classes
    const wider = await loadModel(again, { task, labels: 5 });
    const shapes = new Map([...(wider.model as Module).namedParameters()].map(([name, { shape }]) => [name, shape]));
    expect(wider.drawn.length).toBeGreaterThan(0);
    for (const name of wider.drawn) expect(shapes.get(name)![0]).toBe(5);
  });

  test("an adapter brings the output layer along that it was trained with", async () => {
    const [type, , task] = pairs.find(([type]) => type === "bert")!;
    const path = join(folder, `${type}-${task}`);
    const { model } = await loadModel(path, { task, labels: 3 });
    attach(model, lora({ r: 2, taskType: "SEQ_CLS", modulesToSave: ["pooler"] }));
    const inputIds = tensor([[5, 3, 7, 4]], { dtype: "int32" });
    const logitsOf = (classifier: typeof model) =>
      (classifier.forward({ inputIds } as never) as { logits: ReturnType<typeof tensor> }).logits;
    const want = logitsOf(model);
    realize([want]);
    await saveAdapter(model, join(folder, "adapter"), {});
    const { model: other } = await loadModel(path, { task, labels: 3 });
    await loadAdapter(other, join(folder, "adapter"));
    expect([...logitsOf(other).dataSync()].map((x) => x.toFixed(4))).toEqual([...want.dataSync()].map((x) => x.toFixed(4)));
  });

  test("are for classifiers, and at least one", async () => {
    const path = join(folder, `bert-${"SequenceClassification" satisfies Task}`);
    await expect(loadModel(path, { labels: 2 })).rejects.toThrow(/has none for CausalLM/);
    await expect(loadModel(path, { task: "SequenceClassification", labels: 0 })).rejects.toThrow(/`labels` \(= 0\) must be/);
    await expect(loadModel(path, { task: "SequenceClassification", labels: [1] as never })).rejects.toThrow(/`labels`/);
  });

  // deviations that transformers' own new layers have
  test.each([
    ["mt5_seqcls", "SequenceClassification", "classification_head.out_proj.weight", 0.25],
    ["mt5_seqcls", "TokenClassification", "classifier.weight", 1],
    ["mt5", "QuestionAnswering", "qa_outputs.weight", 0.25],
    ["modernbert_model", "TokenClassification", "classifier.weight", 0.22],
    ["modernbert_model", "TokenClassification", "head.dense.weight", 0.0072],
    ["bart", "SequenceClassification", "classification_head.out_proj.weight", 0.02],
  ] as const)("%s for %s: %s begins as far from 0 as in transformers", async (model, task, path, deviation) => {
    const labels = task === "QuestionAnswering" ? {} : { labels: 200 };
    const loaded = await loadModel(`test/fixtures/heads/${model}`, { task, ...labels });
    const values = valuesOf(loaded.model as Module).get(path)!;
    const found = Math.sqrt(values.reduce((sum, value) => sum + value ** 2, 0) / values.length);
    expect(Math.abs(Math.log(found / deviation)), `${found}`).toBeLessThan(4 / Math.sqrt(2 * values.length) + 0.02);
  });
});

describe("questions and answers", () => {
  test.each(Object.keys(encoderConfigs))("%s: from a checkpoint with another output layer, and saved", async (type) => {
    const config = (encoderConfigs as Readonly<Record<string, ConfigJson>>)[type]!;
    const [published] = Object.keys(models[type as keyof typeof models]);
    const given: ConfigJson = { pad_token_id: 0, ...config, model_type: type, architectures: [published], id2label: { 0: "a" } };
    const path = join(folder, `${type}-published`);
    await saveModel(
      path,
      createModel(given, {
        task: taskOf(published!)!,
        init: (shape) => new Float32Array(shape.reduce((a, b) => a * b, 1)).fill(0.1),
      }),
      given,
    );
    const task = "QuestionAnswering";
    const { model, config: own, drawn } = await loadModel(path, { task });
    expect(own).toMatchObject({ architectures: [expect.stringMatching(/ForQuestionAnswering$/)] });
    expect(own).not.toHaveProperty("id2label");
    expect(drawn).toEqual(["weight", "bias"].map((name) => `${type === "modernbert" ? "classifier" : "qa_outputs"}.${name}`));
    await saveModel(`${path}-saved`, model, own);
    const again = await loadModel(`${path}-saved`, { task });
    expect([again.drawn, valuesOf(again.model)]).toEqual([[], valuesOf(model)]);
    await expect(loadModel(path, { task, labels: 2 })).rejects.toThrow(/`labels` are for classifiers/);

    // the cross-entropies of both ends by hand; the second answer begins outside of the text, and is judged by its end alone
    const whole = (values: number[][]) => tensor(values, { dtype: "int32" });
    const [inputIds, startPositions, endPositions] = [
      whole([
        [5, 3, 7, 4],
        [1, 2, 6, 8],
      ]),
      whole([[1], [9]]),
      whole([[3], [2]]),
    ];
    const { startLogits, endLogits, loss } = model.forward({ inputIds, startPositions, endPositions });
    const cost = (logits: number[], at: number) => Math.log(logits.reduce((sum, x) => sum + Math.exp(x), 0)) - logits[at]!;
    const [starts, ends] = [startLogits.toArray() as number[][], endLogits.toArray() as number[][]];
    const want = (cost(starts[0]!, 1) + (cost(ends[0]!, 3) + cost(ends[1]!, 2)) / 2) / 2;
    expect(loss!.toArray()).toBeCloseTo(want, 5);
  });

  test("a model that continues texts gets an output layer for it, or says that there is none", async () => {
    const task = "QuestionAnswering";
    const { model, config, drawn } = await loadModel("models/tiny", { task });
    expect([config["architectures"], drawn]).toEqual([["LlamaForQuestionAnswering"], ["qa_outputs.weight", "qa_outputs.bias"]]);
    expect([...model.namedParameters()][0]![0]).toBe("transformer.embed_tokens.weight");
    await saveModel(join(folder, "tiny-answers"), model, config);
    const again = await loadModel(join(folder, "tiny-answers"), { task });
    expect([again.drawn, valuesOf(again.model)]).toEqual([[], valuesOf(model)]);
    expect(() => createModel({ ...encoderConfigs.bert, model_type: "gemma" }, { task })).toThrow(/QuestionAnswering/);
  });
});
