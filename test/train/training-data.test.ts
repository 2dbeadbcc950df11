/** Training of models that do not continue a text: rows of columns in, any model with a loss. */
import { join } from "node:path";
import { expect, it } from "vitest";
import { downloadSync } from "../../src/compile/program.ts";
import { ConfigError, ShapeError } from "../../src/errors.ts";
import { createModel } from "../../src/models/create-model.ts";
import type { Task } from "../../src/models/task.ts";
import { normal } from "../../src/nn/init.ts";
import { type AdapterConfig, attach, lora, promptTuning } from "../../src/peft/index.ts";
import { TorchGenerator } from "../../src/random/torch-generator.ts";
import { TextDataset } from "../../src/text/dataset.ts";
import { evaluate } from "../../src/train/evaluate.ts";
import { Trainer } from "../../src/train/trainer.ts";
import {
  type Column,
  type TrainableModel,
  type TrainingData,
  tensorDataset,
  trainingData,
} from "../../src/train/training-data.ts";
import { onEveryDevice } from "../devices.ts";
import { temporaryFolder } from "../temporary-folder.ts";

const folder = temporaryFolder();

const sizes = {
  vocab_size: 23,
  hidden_size: 12,
  intermediate_size: 16,
  num_hidden_layers: 1,
  num_attention_heads: 3,
  num_labels: 2,
};
const drawn = new TorchGenerator(5);
const ids: Column = { values: drawn.randint(40 * 6, 1, 23), shape: [40, 6] };
/** Whether the first word is one of the second half of the vocabulary. */
const classes: Column = {
  values: Int32Array.from({ length: 40 }, (_, i) => Number((ids.values[6 * i] as number) > 11)),
  shape: [40],
};
const texts = (labels: Column) => tensorDataset({ inputIds: ids, labels }, { heldOut: 0.2, seed: 3 });
const pixels: Column = {
  values: Float32Array.from(
    { length: 40 * 16 },
    (_, i) => ((classes.values[Math.floor(i / 16)] as number) ? 1 : -1) + Math.sin(i),
  ),
  shape: [40, 1, 4, 4],
};

const kinds: readonly [name: string, task: Task, config: object, adapter: AdapterConfig, data: () => TrainingData][] = [
  [
    "texts in classes",
    "SequenceClassification",
    { model_type: "bert", ...sizes, max_position_embeddings: 12 },
    lora({ r: 2, targetModules: ["query", "value"], taskType: "SEQ_CLS" }) as never,
    () => texts(classes),
  ],
  [
    "texts in classes behind virtual tokens",
    "SequenceClassification",
    { model_type: "bert", ...sizes, max_position_embeddings: 12 },
    promptTuning({ numVirtualTokens: 2, taskType: "SEQ_CLS" }) as never,
    () => texts(classes),
  ],
  [
    "words in classes",
    "TokenClassification",
    {
      model_type: "distilbert",
      vocab_size: 23,
      dim: 12,
      hidden_dim: 16,
      n_layers: 1,
      n_heads: 3,
      max_position_embeddings: 12,
      num_labels: 2,
    },
    lora({ r: 2, targetModules: ["q_lin"], taskType: "TOKEN_CLS" }) as never,
    () => texts({ values: Int32Array.from(ids.values, (id) => (id % 7 === 0 ? -100 : Number(id > 11))), shape: [40, 6] }),
  ],
  [
    "answers to texts",
    "Seq2SeqLM",
    {
      model_type: "t5",
      vocab_size: 23,
      d_model: 12,
      d_kv: 4,
      d_ff: 16,
      num_layers: 1,
      num_heads: 3,
      decoder_start_token_id: 0,
      pad_token_id: 0,
    },
    lora({ r: 4, targetModules: "all-linear", taskType: "SEQ_2_SEQ_LM" }) as never,
    () => texts({ values: ids.values.map((id) => id % 5) as Int32Array, shape: [40, 6] }),
  ],
  [
    "images in classes",
    "ImageClassification",
    {
      model_type: "vit",
      hidden_size: 8,
      intermediate_size: 8,
      num_hidden_layers: 1,
      num_attention_heads: 2,
      image_size: 4,
      patch_size: 2,
      num_channels: 1,
      num_labels: 2,
    },
    lora({ r: 2, targetModules: ["q_proj", "v_proj"], modulesToSave: ["classifier"] }) as never,
    () => tensorDataset({ pixelValues: pixels, labels: classes }, { heldOut: 0.2 }),
  ],
];

const begin = ([, task, config, adapter, data]: (typeof kinds)[number], options: object = {}) => {
  const model = createModel(config as never, {
    task,
    init: normal({ std: 0.3, generator: new TorchGenerator(2) }),
  }) as unknown as TrainableModel;
  attach(model, adapter, { seed: 1 });
  return {
    model,
    data: data(),
    trainer: new Trainer(model, data(), { steps: 12, batchSize: 8, learningRate: 0.05, ...options }),
  };
};
const bits = (model: TrainableModel): number[] =>
  model.trainableParameters().flatMap(({ stored }) => Array.from(downloadSync(stored)));

onEveryDevice((device) => {
  it.each(kinds)("learns %s, and goes on from a checkpoint to the same bits", async (...kind) => {
    const { model, data, trainer } = begin(kind);
    const { loss: before, tokens } = await evaluate(model, data);
    expect(tokens).toBeGreaterThan(0);
    const { history, step } = await trainer.run();
    expect(step).toBe(12);
    const mean = (losses: readonly number[]) => losses.reduce((sum, loss) => sum + loss, 0) / losses.length;
    expect(mean(history.loss.slice(-4))).toBeLessThan(mean(history.loss.slice(0, 4)));
    expect((await evaluate(model, data)).loss).not.toBe(before);

    trainer[Symbol.dispose]();
    if (device === "reference") return; // it computes in more digits than the file has
    const path = join(folder, "run.safetensors");
    const stop = new AbortController();
    const first = begin(kind);
    await first.trainer.run({ signal: stop.signal, onStep: (event) => void (event.step === 5 && stop.abort()) });
    await first.trainer.save(path);
    const second = begin(kind);
    await second.trainer.load(path);
    await second.trainer.run();
    expect(bits(second.model)).toEqual(bits(model));
    for (const each of [first.trainer, second.trainer]) each[Symbol.dispose]();
  });
});

const spoiled = ({ values, shape }: Column, at: number, value: number): Column => {
  const copy = Int32Array.from(values);
  copy[at] = value;
  return { values: copy, shape };
};

const refused: readonly [name: string, inputIds: Column, labels: Column, wrong: string, known: string][] = [
  ["texts in classes", ids, spoiled(classes, 3, 2), "`labels` holds 2 in row", "the model has 2 classes, from 0 to 1"],
  ["texts in classes", spoiled(ids, 20, 23), classes, "`inputIds` holds 23 in row", "the model has 23 tokens, from 0 to 22"],
  ["texts in classes", spoiled(ids, 20, -1), classes, "`inputIds` holds -1 in row", "the model has 23 tokens"],
  ["words in classes", ids, { values: spoiled(ids, 0, -7).values, shape: [40, 6] }, "`labels` holds", "the model has 2 classes"],
  ["answers to texts", ids, spoiled(ids, 5, 23), "`labels` holds 23 in row", "the model has 23 classes"],
];

it.each(refused)(
  "%s: a token or label that the model does not have is found before it is learned from",
  async (name, ...rest) => {
    const [inputIds, labels, ...parts] = rest;
    const data = tensorDataset({ inputIds, labels }, { heldOut: 0.2 });
    const kind = kinds.find(([each]) => each === name)!;
    const { model, trainer } = begin([...kind.slice(0, 4), () => data] as never, { batchSize: 32 });
    const before = bits(model);
    const error = await trainer.run().catch((caught: unknown) => caught);
    expect(error).toBeInstanceOf(ShapeError);
    for (const part of parts) expect((error as Error).message).toContain(part);
    expect((error as Error).message).toMatch(/^train: /);
    expect(bits(model)).toEqual(before);
    expect(trainer.step).toBe(0);
    trainer[Symbol.dispose]();
  },
);

it("what is held out is looked at, too", async () => {
  const { model } = begin(kinds[0]!);
  const data = tensorDataset({ inputIds: ids, labels: spoiled(classes, 39, -2) }, { heldOut: 0.2 });
  await expect(evaluate(model, data)).rejects.toThrow("evaluate: `labels` holds -2 in row 7 of a batch");
});

it("numbers to be met are no classes", async () => {
  const { model, trainer } = begin([
    "numbers for texts",
    "SequenceClassification",
    { model_type: "bert", ...sizes, num_labels: 1, max_position_embeddings: 12 },
    kinds[0]![3],
    () => texts({ values: Int32Array.from({ length: 40 }, (_, i) => 5 * i), shape: [40] }),
  ]);
  await trainer.run();
  expect(Number.isFinite((await evaluate(model, texts(classes))).loss)).toBe(true);
  trainer[Symbol.dispose]();
});

it("every row comes once an epoch, and what is held out never", () => {
  const numbers: Column = { values: Int32Array.from({ length: 10 }, (_, i) => i), shape: [10] };
  const data = tensorDataset({ labels: numbers }, { heldOut: 0.3, seed: 4 });
  const sampler = data.batches({ batchSize: 7 });
  const epoch = () => [...(sampler.next()!.inputs["labels"]!.values as Int32Array)];
  const [first, second] = [epoch(), epoch()];
  expect([...first].sort()).toEqual([0, 1, 2, 3, 4, 5, 6]);
  expect([...second].sort()).toEqual([...first].sort());
  expect(second).not.toEqual(first);
  expect([...data.evaluationBatches({ batchSize: 2 })].flatMap(({ inputs }) => [...inputs["labels"]!.values])).toEqual([7, 8, 9]);
});

it("labels that are held out are as many as are judged", async () => {
  const some = (count: number) => Int32Array.from({ length: count }, (_, i) => (i % 3 ? 1 : -100));
  const words = tensorDataset({ inputIds: ids, labels: { values: some(40 * 6), shape: [40, 6] } }, { heldOut: 0.2 });
  const [trainTokens, heldOutTokens] = [new Int32Array(9), new Int32Array(20)];
  const conversation = { window: 4, stride: 4, seed: 0, trainTokens, heldOutTokens, heldOutMask: new Uint8Array(20).fill(1, 7) };
  for (const [data, count] of [
    [texts(classes), 8],
    [words, 32],
    [trainingData(new TextDataset(conversation)), 13],
  ] as const) {
    const judged = [...data.evaluationBatches({ batchSize: 3 })].reduce((sum, batch) => sum + batch.judged, 0);
    expect([data.heldOut, judged]).toEqual([count, count]);
  }
  const { model } = begin(kinds[0]!);
  const shares: number[] = [];
  await evaluate(model, texts(classes), { batchSize: 3, onProgress: (share) => shares.push(share) });
  expect(shares).toEqual([3 / 8, 6 / 8, 1]);
  await expect(evaluate(model, texts(classes), { batchSize: 0 })).rejects.toThrow(
    "evaluate: `batchSize` (= 0) must be a whole number from 1 below 2³¹.",
  );
});

it("refuses what does not fit together", () => {
  expect(() => tensorDataset({})).toThrow(ConfigError);
  expect(() => tensorDataset({ inputIds: ids, labels: { values: new Int32Array(39), shape: [39] } })).toThrow(ShapeError);
  expect(() => tensorDataset({ labels: { values: new Float64Array(2), shape: [2] } })).toThrow(
    "must be a Float32Array or an Int32Array",
  );
  expect(() => tensorDataset({ labels: classes }, { heldOut: 1 })).toThrow("`heldOut` (= 1) must be a number from 0 below 1.");
  expect(() => [...tensorDataset({ labels: classes }).evaluationBatches({ batchSize: 2 })]).toThrow("nothing is held out");
});
