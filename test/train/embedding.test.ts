/** Models without an output layer, from whatever checkpoint, and embeddings of texts made of their states. */
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { memoryFolder } from "../../src/formats/index.ts";
import { tensor } from "../../src/index.ts";
import { type ConfigJson, createModel, models } from "../../src/models/index.ts";
import { type FeatureExtractor, taskOf } from "../../src/models/task.ts";
import { contrastiveLoss } from "../../src/nn/index.ts";
import type { Module } from "../../src/nn/module.ts";
import { attach, loadAdapter, lora, prefixTuning, promptTuning, saveAdapter } from "../../src/peft/index.ts";
import { saveTokenizer } from "../../src/text/index.ts";
import {
  embed,
  finetune,
  loadModel,
  PairModel,
  type Pooling,
  pairDataset,
  saveModel,
  similarity,
} from "../../src/train/index.ts";
import { decoderConfigs, encoderConfigs } from "../models/configs.ts";
import { temporaryFolder } from "../temporary-folder.ts";

const folder = temporaryFolder();

const task = "FeatureExtraction";
const inputIds = tensor([[5, 3, 7, 4]], { dtype: "int32" });
const waves = (shape: readonly number[]) =>
  Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => 0.3 * Math.sin(i));
const statesOf = (model: FeatureExtractor) => model.forward({ inputIds }).lastHiddenState.toArray();

const families = Object.entries({ ...decoderConfigs, ...encoderConfigs } as Readonly<Record<string, ConfigJson>>);

describe("a model without an output layer", () => {
  test.each(families)("%s, from a checkpoint with one, and saved", async (type, config) => {
    for (const architecture of Object.keys(models[type as keyof typeof models])) {
      const given = { pad_token_id: 0, ...config, model_type: type, architectures: [architecture] };
      const path = join(folder, architecture);
      const whole = createModel(given, { task: taskOf(architecture)!, init: waves }) as Module & {
        forward(inputs: object): { readonly hiddenStates: readonly ReturnType<typeof tensor>[] };
      };
      await saveModel(path, whole, given);
      const { model, config: plain, drawn } = await loadModel(path, { task });
      expect(plain["architectures"]).toEqual([expect.stringMatching(/^(?!.*For)\w+Model$/)]);
      expect(drawn.filter((path) => !path.startsWith("pooler."))).toEqual([]);
      const states = statesOf(model);
      expect(states).toEqual(whole.forward({ inputIds }).hiddenStates.at(-1)!.toArray());

      await saveModel(`${path}-plain`, model, plain);
      const again = await loadModel(`${path}-plain`, { task });
      expect([again.drawn, statesOf(again.model)]).toEqual([[], states]);
      expect([...again.model.namedParameters()].map(([name]) => name)).toEqual(
        [...model.namedParameters()].map(([name]) => name),
      );
      await expect(loadModel(`${path}-plain`, { task: "CausalLM" })).rejects.toThrow(/task: "FeatureExtraction"/);
    }
  });

  test("is refused by name where there is none, and has no classes", async () => {
    expect(() => createModel({ model_type: "vit" }, { task })).toThrow(/there is no vit for FeatureExtraction/);
    await expect(loadModel("models/tiny", { task, labels: 2 })).rejects.toThrow(/`labels` are for classifiers/);
  });
});

describe("embeddings", () => {
  const texts = ["The whale.", "A ship, which sails far away over the sea.", "Call me Ishmael."];

  test.each(["mean", "first", "last"] as const)(
    "%s: of a batch what they are alone, and what the states say",
    async (pooling) => {
      const reader = await loadModel("models/tiny", { task });
      const together = (await embed(reader, texts, { pooling, normalise: false })).toArray() as number[][];
      for (const [i, text] of texts.entries()) {
        const ids = reader.tokenizer.encode(text);
        const states = reader.model.forward({ inputIds: tensor([[...ids]], { dtype: "int32" }) }).lastHiddenState;
        const [rows] = states.toArray() as number[][][];
        const want = {
          mean: rows![0]!.map((_, c) => rows!.reduce((sum, row) => sum + row[c]!, 0) / rows!.length),
          first: rows![0]!,
          last: rows!.at(-1)!,
        };
        for (const [c, value] of want[pooling].entries()) expect(together[i]![c]).toBeCloseTo(value, 4);
      }
      const unit = (await embed(reader, texts, { pooling, batchSize: 2 })).toArray() as number[][];
      for (const [i, row] of unit.entries()) {
        const length = Math.hypot(...together[i]!);
        row.forEach((value, c) => expect(value).toBeCloseTo(together[i]![c]! / length, 5));
      }
    },
  );

  test("a text that is too long is cut off, with what stands around it", async () => {
    const { model, tokenizer } = await loadModel("models/tiny", { task });
    const around = Object.assign(Object.create(tokenizer) as typeof tokenizer, {
      encode: (text: string, { addSpecialTokens = true } = {}) =>
        Int32Array.from(addSpecialTokens ? [2, ...tokenizer.encode(text), 3] : tokenizer.encode(text)),
    });
    const cut = await embed({ model, tokenizer: around }, [texts[1]!], { maxLength: 6, normalise: false });
    const ids = [2, ...tokenizer.encode(texts[1]!).subarray(0, 4), 3];
    const states = model.forward({ inputIds: tensor([ids], { dtype: "int32" }) }).lastHiddenState;
    expect(cut.sub(states.mean(1)).abs().max().toArray()).toBeLessThan(1e-5);
  });

  test("no text, and options out of range", async () => {
    const reader = await loadModel("models/tiny", { task });
    expect((await embed(reader, [])).shape).toEqual([0, 192]);
    await expect(embed(reader, texts, { pooling: "median" as Pooling })).rejects.toThrow(
      /embed: `pooling` \(= "median"\) must be "mean" or/,
    );
    await expect(embed(reader, texts, { pooling: [] })).rejects.toThrow(/embed: `pooling`/);
    await expect(embed(reader, texts, { promptName: "query" })).rejects.toThrow(
      /embed: the model's folder names no prompt "query"/,
    );
    await expect(embed(reader, "text" as never)).rejects.toThrow(/embed: .*list/);
    const whole = await loadModel("models/tiny");
    await expect(embed(whole as never, texts)).rejects.toThrow(
      /embed: a LlamaForCausalLM does not give the states of a text. Load a model without/,
    );
    const small = { ...reader, model: createModel({ ...decoderConfigs["llama"], model_type: "llama" }, { task }) };
    await expect(embed(small, texts)).rejects.toThrow(/embed: the tokenizer gives \d+, and the model has 23 tokens/);
    await expect(embed(reader, texts, { maxLength: 0 })).rejects.toThrow(/embed: `maxLength`/);
  });
});

describe("a folder of sentence-transformers", () => {
  const json = (value: unknown) => new TextEncoder().encode(JSON.stringify(value));
  const loaded = async (others: Readonly<Record<string, unknown>>) => {
    const { model, config, tokenizer } = await loadModel("models/tiny", { task });
    const files = memoryFolder();
    await saveModel(files, model, config);
    await saveTokenizer(files, tokenizer);
    await files.write(new Map(Object.entries(others).map(([name, value]) => [name, json(value)])));
    return { model, reader: await loadModel(files, { task }) };
  };
  const modules = (...kinds: readonly string[]) =>
    ["Transformer", ...kinds].map((kind, i) => ({
      path: i === 0 ? "" : `${i}_${kind}`,
      type: `sentence_transformers.models.${kind}`,
    }));
  const texts = ["The whale."];

  test("names its steps; those that are not known are told to who asks for them", async () => {
    const { model, reader } = await loaded({ "modules.json": modules("Pooling", "WordWeights") });
    await expect(embed(reader, texts)).rejects.toThrow(/names a step that is not known: .*WordWeights. Say with `pooling`/);
    expect(() => new PairModel(reader.model)).toThrow(/WordWeights/);
    const said = await embed(reader, texts, { pooling: "last" });
    const want = await embed({ ...reader, model }, texts, { pooling: "last" });
    expect(said.toArray()).toEqual(want.toArray());
  });

  test.each([
    ["1_Pooling/config.json", { pooling_mode: "median" }, /`pooling_mode` \(= "median"\) is none of cls, max/],
    ["2_Dense/config.json", { activation_function: "my.Own" }, /2_Dense has an activation that is not known: my.Own/],
    ["2_Dense/config.json", { module_input_name: "token_embeddings" }, /is a layer for "token_embeddings"/],
    ["2_Dense/config.json", {}, /2_Dense\/model.safetensors/],
  ])("%s: %j", async (file, value, words) => {
    const { reader } = await loaded({ "modules.json": modules("Pooling", "Dense"), [file]: value });
    await expect(embed(reader, texts)).rejects.toThrow(words);
  });

  test.each([
    ["modules.json", {}, /modules.json is not a list/],
    ["sentence_bert_config.json", { max_seq_length: 0 }, /max_seq_length/],
    ["config_sentence_transformers.json", { prompts: ["a"] }, /`prompts` .*must be strings/],
    ["config_sentence_transformers.json", { similarity_fn_name: "near" }, /`similarity_fn_name` \(= "near"\) must be "cosine"/],
  ])("is refused for %s: %j", async (file, value, words) => {
    await expect(loaded({ "modules.json": modules(), [file]: value })).rejects.toThrow(words);
  });

  test("vectors of other widths are not compared", async () => {
    const { reader } = await loaded({ "modules.json": modules() });
    expect(() => similarity(reader, tensor([[1, 2]]), tensor([[1]]))).toThrow(/similarity: x is \[1, 2\], y \[1, 1\]/);
  });
});

describe("pairs", () => {
  test("the loss is −ln of the share that the partner has, in numbers of PyTorch", () => {
    // torch.nn.functional.cross_entropy(5 * cosine_similarity(x[:, None], y[None], dim=-1), torch.arange(2)) in float64
    const x = tensor([
      [1, 2, 0],
      [0.5, -1, 3],
    ]);
    const y = tensor([
      [1, 1, 1],
      [-1, 0, 2],
      [2, 4, 0],
    ]);
    expect(contrastiveLoss(x, y, { scale: 5 }).toArray()).toBeCloseTo(0.8009190743979854, 5);
    expect(() => contrastiveLoss(y, x)).toThrow(/contrastiveLoss: x is \[3, 3\], y \[2, 3\]/);
  });

  test.each([
    ["LoRA", lora({ r: 4, loraAlpha: 8, taskType: "FEATURE_EXTRACTION" }), 5e-3],
    ["virtual tokens", promptTuning({ numVirtualTokens: 4, taskType: "FEATURE_EXTRACTION" }), 0.1],
    ["a prefix", prefixTuning({ numVirtualTokens: 4, taskType: "FEATURE_EXTRACTION" }), 0.1],
  ])("training %s brings partners together, and the adapter is saved", async (name, adapter, learningRate) => {
    const reader = await loadModel("models/tiny", { task });
    attach(reader.model, adapter as ReturnType<typeof lora>, { seed: 1 });
    const pairs = [
      ["Who is the captain?", "Ahab."],
      ["What is white?", "The whale."],
      ["Where do they sail?", "Over all seas."],
      ["What is a harpoon for?", "It is thrown."],
    ] as const;
    const losses: number[] = [];
    await finetune(new PairModel(reader.model), pairDataset(pairs, reader), {
      steps: 8,
      batchSize: 4,
      learningRate,
      onStep: ({ loss }) => void losses.push(loss),
    });
    expect(losses.at(-1)).toBeLessThan(0.5 * losses[0]!);
    const path = join(folder, name);
    await saveAdapter(reader.model, path, { baseModel: "models/tiny" });
    const loaded = await loadModel("models/tiny", { task });
    await loadAdapter(loaded.model, path);
    const [want, got] = [await embed(reader, ["Who?"]), await embed(loaded, ["Who?"])];
    expect(got.toArray()).toEqual(want.toArray());
  });
});
