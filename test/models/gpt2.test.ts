import { expect, test } from "vitest";
import { ConfigError } from "../../src/errors.ts";
import { GPT2ForSequenceClassification, GPT2LMHeadModel, gpt2Config } from "../../src/models/gpt2.ts";
import { manualSeed } from "../../src/tensor/random.ts";
import { complete } from "../../src/train/generation.ts";
import { distance, integers, onReference, tensor } from "../nn/tensors.ts";

const json = { model_type: "gpt2", vocab_size: 23, n_embd: 12, n_layer: 2, n_head: 3, n_positions: 8, initializer_range: 0.3 };

onReference("GPT-2", () => {
  test("a model has as many positions as it has learned", async () => {
    const model = new GPT2LMHeadModel(json);
    expect(() => model.forward({ inputIds: integers(Array(9).fill(1), [1, 9]) })).toThrow(
      "gpt2: 9 tokens are more than the 8 positions that this model has learned.",
    );
    expect(await complete(model, [1, 2, 3, 4], { maxNewTokens: 5 })).toHaveLength(5);
    await expect(complete(model, [1, 2, 3, 4], { maxNewTokens: 6 })).rejects.toThrow(
      "complete: 4 tokens and 6 new ones are more than this model's 8 positions. Set `maxNewTokens` to 5 at most.",
    );
    await expect(complete(model, Array(9).fill(1), { maxNewTokens: 1 })).rejects.toThrow("Shorten the prompt.");
  });

  test("dropout acts in training only, and scores may shrink by layer", () => {
    manualSeed(1);
    const model = new GPT2LMHeadModel({ ...json, resid_pdrop: 0.5 });
    const run = () => model.forward({ inputIds: integers([1, 2, 3], [1, 3]) }).logits;
    expect(distance(run(), run())).toBe(0);
    model.train();
    expect(distance(run(), run())).toBeGreaterThan(1e-3);
    const scales = (changes: object) => gpt2Config({ ...json, ...changes }).attentionScales;
    expect(scales({ scale_attn_by_inverse_layer_idx: true })).toEqual([0.5, 0.25]);
    expect(scales({ scale_attn_weights: false })).toEqual([1, 1]);
  });

  test("a text's class is read off its last token, on whichever side the padding is", () => {
    manualSeed(1);
    const model = new GPT2ForSequenceClassification({ ...json, num_labels: 2, pad_token_id: 0 });
    const logits = (ids: number[], mask: number[]) =>
      model.forward({ inputIds: integers(ids, [1, 5]), attentionMask: integers(mask, [1, 5]) }).logits;
    const alone = model.forward({ inputIds: integers([7, 8, 9], [1, 3]) }).logits;
    expect(distance(logits([7, 8, 9, 0, 0], [1, 1, 1, 0, 0]), alone)).toBeLessThan(1e-5);
    expect(distance(logits([0, 0, 7, 8, 9], [0, 0, 1, 1, 1]), alone)).toBeLessThan(1e-5);
    const unpadded = new GPT2ForSequenceClassification({ ...json, num_labels: 2 });
    expect(() => unpadded.forward({ inputIds: integers([1, 2], [2, 1]) })).toThrow(
      "gpt2: 2 texts at once need `pad_token_id` in the model's configuration.",
    );
    expect(unpadded.forward({ inputIds: integers([1, 2], [1, 2]) }).logits.shape).toEqual([1, 2]);
  });

  test("labels of a classifier: classes, numbers, or several classes at once", () => {
    const classifier = (classes: number, problem?: string) =>
      new GPT2ForSequenceClassification({ ...json, num_labels: classes, pad_token_id: 0, problem_type: problem ?? null });
    const inputIds = integers([1, 2, 3, 4], [2, 2]);
    const loss = (classes: number, labels: ReturnType<typeof tensor>, problem?: string) =>
      classifier(classes, problem).forward({ inputIds, labels }).loss?.shape;
    expect(loss(3, integers([0, 2], [2]))).toEqual([]);
    expect(loss(1, tensor([0.5, 2], [2]))).toEqual([]);
    expect(loss(3, tensor([1, 0, 1, 0, 0, 0], [2, 3]))).toEqual([]);
    expect(loss(3, integers([1, 0, 1, 0, 0, 0], [2, 3]), "multi_label_classification")).toEqual([]);
    expect(() => loss(3, integers([1], [1]))).toThrow("single_label_classification: `labels` is [1], the logits are [2, 3].");
  });

  test.each([
    [{ add_cross_attention: true }, "gpt2: `add_cross_attention` (= true) must be false here."],
    [{ n_head: 5 }, "gpt2: `n_head` (= 5) must divide n_embd (= 12)."],
    [{ problem_type: "ranking" }, 'gpt2: `problem_type` (= "ranking") must be one of regression, '],
    [{ pad_token_id: 1.5 }, "gpt2: `pad_token_id` (= 1.5) must be a token's number."],
  ])("%o is refused", (changes, message) => {
    expect(() => gpt2Config({ ...json, ...changes })).toThrow(ConfigError);
    expect(() => gpt2Config({ ...json, ...changes })).toThrow(message);
  });
});
