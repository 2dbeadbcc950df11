import { expect, test } from "vitest";
import { ConfigError } from "../../src/errors.ts";
import { openCheckpoint } from "../../src/formats/sharded.ts";
import { BertForMaskedLM, BertForSequenceClassification } from "../../src/models/bert.ts";
import { DebertaV2ForMaskedLM } from "../../src/models/deberta-v2.ts";
import { debertaV2Config, distanceRows } from "../../src/models/deberta-v2-config.ts";
import { DistilBertForMaskedLM, DistilBertForTokenClassification } from "../../src/models/distilbert.ts";
import { modernBertConfig } from "../../src/models/modernbert.ts";
import { RobertaForSequenceClassification } from "../../src/models/roberta.ts";
import { ViTForImageClassification } from "../../src/models/vit.ts";
import type { Embedding } from "../../src/nn/embedding.ts";
import { binaryCrossEntropyWithLogits, mseLoss } from "../../src/nn/loss.ts";
import { manualSeed } from "../../src/tensor/random.ts";
import { loadModel, saveModel } from "../../src/train/load-model.ts";
import { distance, integers, onReference, randn, tensor, values } from "../nn/tensors.ts";
import { temporaryFolder } from "../temporary-folder.ts";
import { encoderConfigs } from "./configs.ts";

const sizes = { hidden_size: 12, intermediate_size: 16, num_hidden_layers: 2, num_attention_heads: 3, initializer_range: 0.3 };
const bert = { model_type: "bert", vocab_size: 23, max_position_embeddings: 8, ...sizes };
const distilbert = {
  model_type: "distilbert",
  vocab_size: 23,
  dim: 12,
  hidden_dim: 16,
  n_layers: 2,
  n_heads: 3,
  max_position_embeddings: 8,
};
const vit = { model_type: "vit", image_size: [8, 6], patch_size: 2, num_channels: 2, num_labels: 3, ...sizes };

const inFolder = (body: (folder: string) => Promise<void>): Promise<void> => body(temporaryFolder());

onReference("encoders", () => {
  test.each([
    [
      BertForMaskedLM,
      bert,
      { position_embedding_type: "relative_key" },
      'bert: `position_embedding_type` (= "relative_key") must be "absolute" here.',
    ],
    [BertForMaskedLM, bert, { is_decoder: true }, "bert: `is_decoder` (= true) must be false here."],
    [BertForMaskedLM, bert, { add_cross_attention: true }, "bert: `add_cross_attention` (= true) must be false here."],
    [BertForMaskedLM, bert, { tie_word_embeddings: false }, "bert: `tie_word_embeddings` (= false) must be true here."],
    [BertForMaskedLM, bert, { hidden_act: "gelo" }, 'activation: there is no activation "gelo".'],
    [
      BertForSequenceClassification,
      bert,
      { problem_type: "ranking" },
      'bert: `problem_type` (= "ranking") must be one of regression',
    ],
    [
      RobertaForSequenceClassification,
      { ...bert, model_type: "roberta" },
      { pad_token_id: null },
      "roberta: `pad_token_id` (= null) must be given",
    ],
    [
      DistilBertForMaskedLM,
      distilbert,
      { sinusoidal_pos_embds: "yes" },
      'distilbert: `sinusoidal_pos_embds` (= "yes") must be true or false.',
    ],
    [ViTForImageClassification, vit, { patch_size: 7 }, "vit: `patch_size` (= [7,7]) must fit into image_size (= [8, 6])."],
    [
      ViTForImageClassification,
      vit,
      { image_size: [8] },
      "vit: `image_size` (= [8]) must be a positive integer, or two of them.",
    ],
    [ViTForImageClassification, vit, { head_dim: 5 }, "vit: `head_dim` (= 5) must be 4 here."],
  ])("%o refuses a setting that it does not know how to follow", (Model, json, changes, message) => {
    expect(() => new Model({ ...json, ...changes })).toThrow(ConfigError);
    expect(() => new Model({ ...json, ...changes })).toThrow(message);
  });

  test("a classifier learns numbers, one class or several, as the configuration or the labels say", () => {
    const run = (changes: object, labels: Parameters<typeof mseLoss>[0]) => {
      manualSeed(2);
      const model = new BertForSequenceClassification({ ...bert, ...changes });
      return model.forward({ inputIds: integers([3, 4, 5, 6], [2, 2]), labels });
    };
    const [numbers, classes] = [tensor([0.5, -1]), tensor([1, 0, 1, 0, 0, 1], [2, 3])];
    const one = run({ num_labels: 1 }, numbers);
    expect(distance(one.loss!, mseLoss(one.logits, tensor([0.5, -1], [2, 1])))).toBe(0);
    for (const type of [null, "multi_label_classification"]) {
      const many = run({ num_labels: 3, problem_type: type }, classes);
      expect(distance(many.loss!, binaryCrossEntropyWithLogits(many.logits, classes))).toBe(0);
    }
    const regression = run({ num_labels: 3, problem_type: "regression" }, classes);
    expect(distance(regression.loss!, mseLoss(regression.logits, classes))).toBe(0);
    expect(() => run({ num_labels: 3 }, integers([1, 2, 0]))).toThrow("`labels` is [3], the logits are [2, 3].");
  });

  test("tokens have as many places as positions were learned, in RoBERTa those after the padding token's", () => {
    const ids = (time: number) => integers(Array(time).fill(3), [1, time]);
    const plain = new BertForMaskedLM(bert);
    expect(plain.forward({ inputIds: ids(8) }).logits.shape).toEqual([1, 8, 23]);
    expect(() => plain.forward({ inputIds: ids(9) })).toThrow(
      "bert: 9 tokens are more than the 8 positions that this model has learned.",
    );
    const shifted = new RobertaForSequenceClassification({ ...bert, model_type: "roberta" });
    expect(shifted.forward({ inputIds: ids(6) }).logits.shape).toEqual([1, 2]);
    expect(() => shifted.forward({ inputIds: ids(7) })).toThrow("roberta: 7 tokens are more than the 6 positions");
  });

  test("RoBERTa's padding in front moves no token", () => {
    manualSeed(2);
    const model = new RobertaForSequenceClassification({ ...bert, model_type: "roberta" });
    const states = (ids: number[], mask: number[]) =>
      model.roberta.forward({ inputIds: integers(ids, [1, ids.length]), attentionMask: integers(mask, [1, ids.length]) })
        .lastHiddenState;
    const [plain, padded] = [values(states([5, 6, 7], [1, 1, 1])), values(states([1, 1, 5, 6, 7], [0, 0, 1, 1, 1]))];
    padded.slice(24).forEach((value, i) => expect(value).toBeCloseTo(plain[i]!, 5));
  });

  test("masks, types and images of other sizes are refused, and types where there are none", () => {
    const inputIds = integers([3, 4], [1, 2]);
    expect(() => new BertForMaskedLM(bert).forward({ inputIds, tokenTypeIds: integers([0], [1, 1]) })).toThrow(
      "bert: `tokenTypeIds` is [1, 1], `inputIds` is [1, 2].",
    );
    expect(() => new DistilBertForTokenClassification(distilbert).forward({ inputIds, tokenTypeIds: inputIds })).toThrow(
      "distilbert: this model does not take `tokenTypeIds`.",
    );
    expect(() => new ViTForImageClassification(vit).forward({ pixelValues: randn([1, 2, 6, 8]) })).toThrow(
      "vit: `pixelValues` is [1, 2, 6, 8], it should be [batch, 2, 8, 6].",
    );
  });

  test("a ViT is saved under the names of published checkpoints and read again", () =>
    inFolder(async (folder) => {
      manualSeed(2);
      const model = new ViTForImageClassification(vit);
      await saveModel(folder, model, { ...vit, id2label: { 0: "a", 1: "b", 2: "c" } });
      expect([...(await openCheckpoint(folder)).tensors.keys()]).toContain(
        "vit.encoder.layer.1.attention.attention.query.weight",
      );
      const { model: read } = await loadModel(folder, { task: "ImageClassification" });
      const pixelValues = randn([2, 2, 8, 6]);
      expect(distance(read.forward({ pixelValues }).logits, model.forward({ pixelValues }).logits)).toBe(0);
      await expect(loadModel(folder)).rejects.toThrow(/is a model for ImageClassification, not for CausalLM/);
    }));

  test("a new DistilBERT's positions are waves where the configuration says so", () => {
    const { distilbert: made } = new DistilBertForMaskedLM({ ...distilbert, sinusoidal_pos_embds: true });
    const positions = values((made.embeddings.position_embeddings as Embedding).weight.value);
    const angles = [3, 3 / 10000 ** (2 / 12)];
    const want = angles.flatMap((angle) => [Math.sin(angle), Math.cos(angle)]);
    expect(distance(tensor(positions.slice(36, 40)), tensor(want))).toBeLessThan(1e-6);
  });

  test("ModernBERT's older settings mean what the newer ones do", () => {
    const json = { ...encoderConfigs.modernbert, num_hidden_layers: 5 };
    const older = { global_attn_every_n_layers: 2, global_rope_theta: 500, local_rope_theta: 50 };
    const kinds = ["full_attention", "sliding_attention"];
    const newer = {
      layer_types: [0, 1, 0, 1, 0].map((kind) => kinds[kind]),
      rope_parameters: { full_attention: { rope_theta: 500 }, sliding_attention: { rope_theta: 50 } },
    };
    expect(modernBertConfig({ ...json, ...older })).toEqual(modernBertConfig({ ...json, ...newer }));
    expect(modernBertConfig({ ...json, ...older })).not.toEqual(modernBertConfig(json));
    expect(() => modernBertConfig({ ...json, classifier_pooling: "max" })).toThrow(
      'modernbert: `classifier_pooling` (= "max") must be "cls" or "mean".',
    );
  });

  test("DeBERTa's distances have a bucket each where they are small, and share them where they are large", () => {
    const config = (change: object) => debertaV2Config({ ...encoderConfigs["deberta-v2"], ...change });
    const v3 = config({ position_buckets: 256, max_position_embeddings: 512, max_relative_positions: -1 });
    const rows = distanceRows(600, v3);
    // transformers' make_log_bucket_position(599 … 1, 256, 512) + 256, cut off at 511
    expect([...rows].filter((_, i) => i % 100 === 99)).toEqual([510, 489, 463, 425, 356, 256, 156, 87, 49, 23, 2]);
    expect([...distanceRows(3, config({ position_buckets: 0, max_relative_positions: 1 }))]).toEqual([1, 1, 1, 0, 0]);
    const model = new DebertaV2ForMaskedLM({ model_type: "deberta-v2", ...encoderConfigs["deberta-v2"] });
    expect(model.forward({ inputIds: integers([3], [1, 1]) }).logits.shape).toEqual([1, 1, 23]);
    expect(model.pathOf("deberta.embeddings.position_embeddings.weight")).toBeNull();
    expect(() => config({ pos_att_type: "p2p" })).toThrow('deberta-v2: `pos_att_type` (= "p2p") must name "c2p", "p2c" or both.');
    expect(() => config({ conv_kernel_size: 4 })).toThrow("deberta-v2: `conv_kernel_size` (= 4) must be odd.");
  });

  test("names of the first BERT checkpoints are understood", () => {
    const model = new BertForMaskedLM(bert);
    expect(model.pathOf("bert.embeddings.LayerNorm.gamma")).toBe("bert.embeddings.LayerNorm.weight");
    expect(model.pathOf("bert.embeddings.LayerNorm.beta")).toBe("bert.embeddings.LayerNorm.bias");
    expect(model.pathOf("cls.seq_relationship.weight")).toBeNull();
    expect(model.pathOf("bert.pooler.dense.bias")).toBeNull();
    expect(model.sharedPaths()).toEqual(new Set(["cls.predictions.decoder.weight", "cls.predictions.decoder.bias"]));
  });
});
