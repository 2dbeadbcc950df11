import { expect, test } from "vitest";
import { downloadSync } from "../../src/compile/program.ts";
import { ConfigError } from "../../src/errors.ts";
import { constant } from "../../src/graph/source.ts";
import { createModel } from "../../src/models/create-model.ts";
import { shiftRight } from "../../src/models/seq2seq-lm.ts";
import { T5ForConditionalGeneration } from "../../src/models/t5.ts";
import { t5Config } from "../../src/models/t5-config.ts";
import type { Task } from "../../src/models/task.ts";
import { normal } from "../../src/nn/init.ts";
import { relativeBuckets } from "../../src/nn/relative-position.ts";
import { unmerge } from "../../src/peft/adapted-model.ts";
import { attach } from "../../src/peft/attach.ts";
import { merge } from "../../src/peft/merge.ts";
import { lora } from "../../src/peft/methods/lora.ts";
import { manualSeed } from "../../src/tensor/random.ts";
import { complete, generateBatch } from "../../src/train/generation.ts";
import { loadModel, saveModel } from "../../src/train/load-model.ts";
import { distance, integers, onReference, values } from "../nn/tensors.ts";
import { temporaryFolder } from "../temporary-folder.ts";

const json = { model_type: "t5", vocab_size: 23, d_model: 12, d_kv: 4, d_ff: 16, num_layers: 2, num_heads: 3 };

function made(changes: object = {}): T5ForConditionalGeneration {
  manualSeed(3);
  return new T5ForConditionalGeneration({ ...json, ...changes });
}

onReference("T5", () => {
  test("distances are in the buckets of transformers", () => {
    const distances = [-300, -128, -127, -100, -64, -45, -32, -31, -17, -16, -9, -8, -1, 0, 1, 8, 11, 12, 16, 64, 127];
    const at = (isCausal: boolean) => {
      const all = values(
        relativeBuckets(1, 428, { buckets: 32, maxDistance: 128, isCausal, offset: constant(300, [], "int32") }),
      );
      return distances.map((d) => all[300 + d]);
    };
    expect(at(false)).toEqual([15, 15, 15, 15, 14, 12, 12, 11, 10, 10, 8, 8, 1, 0, 17, 24, 24, 25, 26, 30, 31]);
    expect(at(true)).toEqual([31, 31, 31, 30, 26, 23, 21, 21, 16, 16, 9, 8, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
  });

  test.each([{}, { feed_forward_proj: "gated-gelu", tie_word_embeddings: false }])(
    "an answer written token by token is that of the whole model, with %o",
    async (changes) => {
      const model = made(changes);
      const prompts = [
        [4, 8, 15, 16],
        [7, 3],
      ];
      const answers: number[][] = [[0], [0]];
      for await (const tokens of generateBatch(model, prompts, { maxNewTokens: 6 }))
        tokens.forEach((token, row) => answers[row]!.push(token!));
      for (const [row, prompt] of prompts.entries()) {
        const answer = answers[row]!;
        const { logits } = model.forward({
          inputIds: integers(prompt, [1, prompt.length]),
          decoderInputIds: integers(answer.slice(0, -1), [1, 6]),
        });
        const flat = downloadSync(logits);
        const best = Array.from({ length: 6 }, (_, t) => {
          const at = flat.subarray(t * 23, (t + 1) * 23);
          return at.indexOf(Math.max(...at) as never);
        });
        expect(best).toEqual(answer.slice(1));
      }
    },
  );

  test("padding of the text and of the answer is not seen", () => {
    const model = made();
    const short = model.forward({ inputIds: integers([5, 6], [1, 2]), decoderInputIds: integers([0, 9], [1, 2]) });
    const long = model.forward({
      inputIds: integers([5, 6, 1, 1], [1, 4]),
      attentionMask: integers([1, 1, 0, 0], [1, 4]),
      decoderInputIds: integers([0, 9, 3], [1, 3]),
    });
    expect(
      values(long.logits)
        .slice(0, 46)
        .map((x, i) => Math.abs(x - values(short.logits)[i]!) < 1e-5),
    ).not.toContain(false);
  });

  test("labels moved on by one are what the decoder reads", () => {
    expect(values(shiftRight(integers([5, -100, 7], [1, 3]), 2, 9))).toEqual([2, 5, 9]);
    const model = made();
    const inputIds = integers([5, 6], [1, 2]);
    const labels = integers([8, 9, 1], [1, 3]);
    const given = model.forward({ inputIds, labels, decoderInputIds: integers([0, 8, 9], [1, 3]) });
    expect(distance(model.forward({ inputIds, labels }).loss!, given.loss!)).toBe(0);
    expect(() => model.forward({ inputIds })).toThrow("t5: neither `decoderInputIds` nor `labels` are given.");
    expect(() => model.forward({ inputIds, labels: integers([1, 1], [2, 1]) })).toThrow("t5: there are 2 answers to 1 texts.");
  });

  test("output scaling follows the tying, unless it is given", () => {
    const scales = (changes: object) => t5Config({ ...json, ...changes }).scaleDecoderOutputs;
    expect(scales({})).toBe(true);
    expect(scales({ tie_word_embeddings: false })).toBe(false);
    expect(scales({ tie_word_embeddings: true, scale_decoder_outputs: false })).toBe(false);
    expect(made().sharedPaths()).toEqual(
      new Set(["encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"]),
    );
    expect(made({ tie_word_embeddings: false }).sharedPaths().has("lm_head.weight")).toBe(false);
  });

  test.each([
    [{ is_encoder_decoder: false }, "t5: `is_encoder_decoder` (= false) must be true here."],
    [{ feed_forward_proj: "gated-gelo" }, 'activation: there is no activation "gelo". Did you mean "gelu"?'],
    [{ relative_attention_num_buckets: 3 }, "t5: `relative_attention_num_buckets` (= 3) must be at least 4."],
    [
      { relative_attention_max_distance: 16 },
      "t5: `relative_attention_max_distance` (= 16) must be above half of relative_attention_num_buckets (= 32).",
    ],
    [{ quantization_config: {} }, "t5: weights quantised as {} are not read."],
  ])("%o is refused", (changes, message) => {
    expect(() => made(changes)).toThrow(ConfigError);
    expect(() => made(changes)).toThrow(message);
  });

  test("a model is made only for what it is for", () => {
    expect(createModel(json, { task: "Seq2SeqLM" }).startToken).toBe(0);
    expect(() => createModel({ ...json, architectures: ["T5ForConditionalGeneration"] })).toThrow(
      'createModel: T5ForConditionalGeneration is a model for Seq2SeqLM, not for CausalLM. Ask for it with { task: "Seq2SeqLM" }.',
    );
  });

  test("a checkpoint with an output layer of its own is not read into a model that ties it", async () => {
    const folder = temporaryFolder();
    await saveModel(folder, made({ tie_word_embeddings: false }), json);
    await expect(loadModel(folder, { task: "Seq2SeqLM" })).rejects.toThrow(
      /"lm_head\.weight" of .*model\.safetensors is not "shared\.weight", which config\.json says it shares\. Set `tie_word/,
    );
    await saveModel(folder, made({ tie_word_embeddings: false }), { ...json, tie_word_embeddings: false });
    const { model } = await loadModel(folder, { task: "Seq2SeqLM" });
    expect(model.numParameters()).toBe(made({ tie_word_embeddings: false }).numParameters());
  });

  test("a checkpoint that answers gets other output layers; its encoder alone makes embeddings", async () => {
    const folder = temporaryFolder();
    await saveModel(folder, made(), json);
    const read = (task: Task, more: object = {}) => loadModel(folder, { task, ...more });
    expect((await read("SequenceClassification", { labels: 3 })).drawn).toHaveLength(4);
    expect((await read("QuestionAnswering")).drawn).toEqual(["qa_outputs.weight", "qa_outputs.bias"]);
    const classes = await read("TokenClassification", { labels: ["a", "b"] });
    expect(classes.drawn).toEqual(["classifier.weight", "classifier.bias"]);
    const { model, config, drawn } = await loadModel(folder, { task: "FeatureExtraction" });
    expect(drawn).toEqual([]);
    expect(config["architectures"]).toEqual(["T5EncoderModel"]);
    const inputs = { inputIds: integers([4, 8, 15], [1, 3]) };
    const { lastHiddenState } = model.forward(inputs);
    const whole = made().forward({ ...inputs, labels: integers([7], [1, 1]) });
    expect(distance(lastHiddenState, whole.encoderLastHiddenState)).toBe(0);
    const past = [{ keys: constant(0, [1, 1, 3, 4]), values: constant(0, [1, 1, 3, 4]) }];
    expect(() => model.forward({ ...inputs, past })).toThrow("t5: this model does not take `past`.");
    const alone = temporaryFolder();
    await saveModel(alone, model, config);
    await expect(loadModel(alone, { task: "Seq2SeqLM" })).rejects.toThrow("T5EncoderModel is a model for FeatureExtraction");
  });

  test("a text is classified by the state of the last token that ends one, whatever stands behind it", async () => {
    const model = createModel(
      { ...json, architectures: ["T5ForSequenceClassification"] },
      { task: "SequenceClassification", init: normal() },
    );
    const judge = (words: number[], mask: number[]) =>
      model.forward({ inputIds: integers(words, [1, words.length]), attentionMask: integers(mask, [1, words.length]) }).logits;
    expect(distance(judge([4, 1, 8, 1, 0, 0], [1, 1, 1, 1, 0, 0]), judge([4, 1, 8, 1], [1, 1, 1, 1]))).toBeLessThan(1e-6);
    expect(distance(judge([4, 1, 8, 9], [1, 1, 1, 1]), judge([4, 1, 8, 1], [1, 1, 1, 1]))).toBeGreaterThan(1e-3);
    expect(() => model.forward({ inputsEmbeds: constant(0, [1, 2, 12]) })).toThrow("t5: a text goes in as `inputIds`");
  });

  test("an adapter of PEFT's for classes names two output layers, which are called otherwise here", () => {
    const config = { ...json, architectures: ["T5ForSequenceClassification"] };
    const model = createModel(config, { task: "SequenceClassification" });
    const modulesToSave = ["classification_head", "classifier", "score"];
    const { saved } = attach(model, lora({ r: 2, taskType: "SEQ_CLS", modulesToSave }));
    expect([...saved.keys()]).toEqual(["classification_head"]);
    expect(() => attach(model, lora({ modulesToSave: ["classifier"] }), { name: "b" })).toThrow('ends in "classifier"');
  });

  test("LoRA goes to queries and values of all attentions when nobody says where, and acts in answers", async () => {
    const model = made();
    const before = await complete(model, [4, 8, 15], { maxNewTokens: 8 });
    const { layers } = attach(model, lora({ r: 4, loraAlpha: 64, initLoraWeights: false }));
    expect(layers.size).toBe(12);
    expect(await complete(model, [4, 8, 15], { maxNewTokens: 8 })).not.toEqual(before);
  });

  test("an embedding that is trained as a whole is the one that was named, merged too", () => {
    const model = made();
    const inputs = { inputIds: integers([4, 8, 15], [1, 3]), labels: integers([7, 3], [1, 2]) };
    const run = () => [...downloadSync(model.forward(inputs).logits)];
    const base = run();
    const { saved } = attach(model, lora({ r: 2, targetModules: ["q"], modulesToSave: ["encoder.embed_tokens"] }));
    const copy = saved.get("encoder.embed_tokens")!.copies.get("default")!.get("weight")!;
    copy.assign(constant(0.25, copy.shape));
    const beside = run();
    expect(beside).not.toEqual(base);
    merge(model);
    run().forEach((logit, i) => {
      expect(logit).toBeCloseTo(beside[i]!, 4);
    });
    unmerge(model);
    expect(run()).toEqual(beside);
  });
});
