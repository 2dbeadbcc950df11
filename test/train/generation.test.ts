import { describe, expect, test } from "vitest";
import { ConfigError } from "../../src/errors.ts";
import { LlamaForCausalLM } from "../../src/models/llama.ts";
import { manualSeed } from "../../src/tensor/random.ts";
import { complete, generate, generateBatch } from "../../src/train/generation.ts";
import { sampleToken, uniformAt } from "../../src/train/sampling.ts";
import { onEveryDevice } from "../devices.ts";
import { integers, onReference, values } from "../nn/tensors.ts";

function makeModel(): LlamaForCausalLM {
  manualSeed(1);
  return new LlamaForCausalLM({
    model_type: "llama",
    vocab_size: 19,
    hidden_size: 16,
    intermediate_size: 24,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    initializer_range: 0.4,
  });
}

/** The most likely token after each prefix, without a cache. */
function greedy(model: LlamaForCausalLM, prompt: readonly number[], count: number): number[] {
  const tokens = [...prompt];
  for (let i = 0; i < count; i++) {
    const last = values(model.forward({ inputIds: integers(tokens, [1, tokens.length]), logitsToKeep: 1 }).logits);
    tokens.push(last.indexOf(Math.max(...last)));
  }
  return tokens.slice(prompt.length);
}

onEveryDevice(() => {
  describe("generate", () => {
    test("without temperature takes the most likely token each time", async () => {
      const model = makeModel();
      const want = greedy(model, [3, 1, 4], 6);
      expect(await complete(model, [3, 1, 4], { maxNewTokens: 6 })).toEqual(want);
      expect(await complete(model, [3, 1, 4], { maxNewTokens: 6, compiled: false })).toEqual(want);
    });

    test("gives a prompt in a batch what it gives it alone", async () => {
      const model = makeModel();
      const prompts = [[3, 1, 4, 1, 5], [9, 2], [6]];
      const options = { maxNewTokens: 5, temperature: 0.8, seed: 7 };
      const rows: (number | null)[][] = prompts.map(() => []);
      for await (const tokens of generateBatch(model, prompts, options)) tokens.forEach((token, row) => rows[row]!.push(token));
      expect(rows[0]).toEqual(await complete(model, prompts[0]!, options));
      const cold: (number | null)[][] = prompts.map(() => []);
      for await (const tokens of generateBatch(model, prompts, { maxNewTokens: 5 }))
        tokens.forEach((token, row) => cold[row]!.push(token));
      for (const [row, prompt] of prompts.entries()) expect(cold[row]).toEqual(greedy(model, prompt, 5));
    });

    test("the same seed gives the same tokens, another one others", async () => {
      const model = makeModel();
      const draw = (seed: number) => complete(model, [3], { maxNewTokens: 12, temperature: 1, seed });
      expect(await draw(1)).toEqual(await draw(1));
      expect(await draw(1)).not.toEqual(await draw(2));
    });

    test("ends after a stop token; in a batch the others go on", async () => {
      const model = makeModel();
      const [first, second] = [greedy(model, [3, 1, 4], 8), greedy(model, [9, 2], 8)];
      const at = first.findIndex((token, i) => i > 0 && !first.slice(0, i).includes(token) && !second.includes(token));
      expect(at).toBeGreaterThan(0);
      const stopTokens = [first[at]!];
      expect(await complete(model, [3, 1, 4], { maxNewTokens: 8, stopTokens })).toEqual(first.slice(0, at + 1));
      const rows: (number | null)[][] = [[], []];
      const prompts = [
        [3, 1, 4],
        [9, 2],
      ];
      for await (const tokens of generateBatch(model, prompts, { maxNewTokens: 8, stopTokens }))
        tokens.forEach((token, row) => rows[row]!.push(token));
      expect(rows[0]).toEqual([...first.slice(0, at + 1), ...new Array(7 - at).fill(null)]);
      expect(rows[1]).toEqual(second);
    });

    test("leaves the model in training if it was, also when nobody takes all tokens", async () => {
      const model = makeModel().train();
      for await (const _ of generate(model, [1], { maxNewTokens: 5 })) {
        expect(model.training).toBe(false);
        break;
      }
      expect(model.training).toBe(true);
    });
  });
});

describe("sampleToken", () => {
  const logits = [0, Math.log(2), Math.log(5), Math.log(2)];
  const share = (options: object) => {
    const counts = [0, 0, 0, 0];
    for (let i = 0; i < 1000; i++) counts[sampleToken(logits, options, (i + 0.5) / 1000)]!++;
    return counts;
  };

  test("draws with the probabilities of softmax", () => {
    expect(share({ temperature: 1 })).toEqual([100, 200, 500, 200]);
    expect(share({ temperature: 0 })).toEqual([0, 0, 1000, 0]);
    const cold = share({ temperature: 0.5 });
    expect(cold[2]! / cold[1]!).toBeCloseTo(25 / 4, 1);
  });

  test("topK and topP leave only the most likely", () => {
    expect(share({ temperature: 1, topK: 2 })).toEqual([0, 286, 714, 0]); // of equal ones the first
    expect(share({ temperature: 1, topP: 0.6 })).toEqual([0, 286, 714, 0]);
    expect(share({ temperature: 1, topP: 0.01 })).toEqual([0, 0, 1000, 0]);
    expect(share({ temperature: 1, topK: 3, topP: 0.9 })).toEqual([0, 222, 556, 222]);
  });

  test("random numbers are in [0, 1) and of their place only", () => {
    const list = Array.from({ length: 100 }, (_, i) => uniformAt(3, i % 10, Math.floor(i / 10)));
    expect(new Set(list).size).toBe(100);
    expect(Math.min(...list)).toBeGreaterThanOrEqual(0);
    expect(Math.max(...list)).toBeLessThan(1);
    expect(uniformAt(3, 2, 5)).toBe(list[52]);
  });
});

onReference("what is refused", () => {
  test.each([
    [[1], { temperature: -1 }, "generate: `temperature` (= -1) must be a number from 0."],
    [[1], { topK: 1.5 }, "generate: `topK` (= 1.5) must be a whole number from 0."],
    [[1], { topP: 0 }, "generate: `topP` (= 0) must be above 0 and at most 1."],
    [[1], { maxNewTokens: -2 }, "generate: `maxNewTokens` (= -2) must be a whole number from 0."],
    [[], {}, "generate: the prompt has no token. Start with the beginning-of-text token."],
  ])("%o %o", async (prompt, options, message) => {
    const result = complete(makeModel(), prompt, options);
    await expect(result).rejects.toThrow(message);
    await expect(complete(makeModel(), prompt, options)).rejects.toThrow(ConfigError);
  });

  test("a batch without prompts, or with an empty one", async () => {
    await expect(generateBatch(makeModel(), []).next()).rejects.toThrow("generate: got no prompt.");
    await expect(generateBatch(makeModel(), [[1], []]).next()).rejects.toThrow("generate: prompt 1 has no token.");
  });
});
