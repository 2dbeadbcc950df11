import fc from "fast-check";
import { describe, expect, test, vi } from "vitest";
import { currentDevice } from "../../src/compile/program.ts";
import { ConfigError } from "../../src/errors.ts";
import { Variable } from "../../src/graph/variable.ts";
import { GPT2LMHeadModel } from "../../src/models/gpt2.ts";
import { LlamaForCausalLM } from "../../src/models/llama.ts";
import { T5ForConditionalGeneration } from "../../src/models/t5.ts";
import { attach, lora, prefixTuning, promptTuning } from "../../src/peft/index.ts";
import { manualSeed } from "../../src/tensor/random.ts";
import { complete, completeBatch, generate, generateBatch } from "../../src/train/generation.ts";
import { onEveryDevice } from "../devices.ts";
import { decoderConfigs, t5Config } from "../models/configs.ts";
import { integers, onReference, randn, values } from "../nn/tensors.ts";

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

onReference("programs and caches", () => {
  test("neither another prompt of like length nor another call traces the model again", async () => {
    const model = makeModel();
    let traced = 0;
    const forward = model.forward.bind(model);
    model.forward = (inputs) => {
      traced++;
      return forward(inputs);
    };
    const first = await complete(model, [3, 1, 4, 1, 5], { maxNewTokens: 4 });
    expect(traced).toBe(2); // a prompt, a token
    expect(await complete(model, [3, 1, 4, 1, 5], { maxNewTokens: 4 })).toEqual(first);
    for (const prompt of [
      [7, 7, 7, 2, 9, 8],
      [1, 2, 3, 4, 5, 6, 7, 8],
    ])
      expect(await complete(model, prompt, { maxNewTokens: 3 })).toEqual(greedy(makeModel(), prompt, 3));
    expect(traced).toBe(2);
    await complete(model, [1, 2, 3], { maxNewTokens: 2 });
    expect(traced).toBe(3); // prompts of 3 and 4 tokens
    await complete(model, [1, 2, 3, 4, 5], { maxNewTokens: 300 });
    expect(traced).toBe(5); // a larger cache
  });

  test.each([
    ["by itself", null],
    ["behind vectors", promptTuning],
    ["behind keys and values", prefixTuning],
  ] as const)(
    "the next text, %s, finds every launch where it was: a cache is emptied and written in place",
    async (_, method) => {
      const model = makeModel();
      if (method) attach(model, method({ numVirtualTokens: 3 }) as never);
      for (const prompt of [
        [3, 1, 4],
        [1, 5, 9],
      ])
        await complete(model, prompt, { maxNewTokens: 4 });
      const bind = vi.spyOn(currentDevice(), "bind");
      try {
        const text = await complete(model, [2, 6, 5], { maxNewTokens: 4 });
        expect(text).toHaveLength(4);
        expect(bind).not.toHaveBeenCalled();
        expect(text).toEqual(greedy(model, [2, 6, 5], 4));
      } finally {
        bind.mockRestore();
      }
    },
  );

  test("two texts at once do not disturb each other, nor does one that was broken off the next one", async () => {
    const model = makeModel();
    const [a, b] = [generate(model, [3, 1, 4], { maxNewTokens: 5 }), generate(model, [9, 2, 6], { maxNewTokens: 5 })];
    const got: number[][] = [[], []];
    for (let i = 0; i < 5; i++) for (const [row, text] of [a, b].entries()) got[row]!.push((await text.next()).value as number);
    expect(got).toEqual([greedy(model, [3, 1, 4], 5), greedy(model, [9, 2, 6], 5)]);
    for await (const _ of generate(model, [8, 8, 8], { maxNewTokens: 5 })) break;
    expect(await complete(model, [3, 1, 4], { maxNewTokens: 5 })).toEqual(got[0]);
  });

  test("a change of weights, of adapters and of what makes the cache is seen by the next text", async () => {
    const model = makeModel();
    const options = { maxNewTokens: 6 };
    const before = await complete(model, [3, 1, 4], options);
    attach(model, lora({ r: 4, loraAlpha: 64, initLoraWeights: false }));
    const adapted = await complete(model, [3, 1, 4], options);
    expect(adapted).not.toEqual(before);
    expect(adapted).toEqual(greedy(model, [3, 1, 4], 6));
    const createCache = model.createCache.bind(model);
    let made = 0;
    model.createCache = (batch, size) => {
      made++;
      return createCache(batch, size);
    };
    await complete(model, [3, 1, 4], options);
    expect(made).toBe(1);
  });

  test("virtual tokens in front of every text are written anew each time", async () => {
    const model = makeModel();
    const { layers, heads, headDim } = model.backbone.sizes;
    const createCache = model.createCache.bind(model);
    const shape = [1, heads, 3, headDim];
    const table = Array.from({ length: layers }, () => [new Variable(randn(shape, 0)), new Variable(randn(shape, 0))] as const);
    const past = () => table.map(([keys, given]) => ({ keys: keys.value, values: given.value }));
    model.createCache = (batch, size) => {
      const cache = createCache(batch, size + 3);
      cache.front = (empty) => empty.begin(past());
      return cache;
    };
    const uncached = () => {
      const tokens = [3, 1, 4];
      for (let i = 0; i < 4; i++) {
        const last = values(
          model.forward({ inputIds: integers(tokens, [1, tokens.length]), past: past(), logitsToKeep: 1 }).logits,
        );
        tokens.push(last.indexOf(Math.max(...last)));
      }
      return tokens.slice(3);
    };
    const texts = new Set<string>();
    for (const seed of [1, 100, 200]) {
      for (const [i, variable] of table.flat().entries()) variable.assign(randn(shape, seed + i));
      expect(await complete(model, [3, 1, 4], { maxNewTokens: 4 })).toEqual(uncached());
      texts.add(String(uncached()));
    }
    expect(texts.size).toBeGreaterThan(1);
  });
});

onReference("rows", () => {
  const prompts = [[3, 1, 4, 1, 5], [9, 2], [6]];
  const drawn = { maxNewTokens: 6, temperature: 1.2, topK: 9, topP: 0.95, repetitionPenalty: 1.2 };

  test("with a seed each, prompts in a batch draw what they draw alone", async () => {
    const model = makeModel();
    await fc.assert(
      fc.asyncProperty(fc.array(fc.integer({ min: 0, max: 1e6 }), { minLength: 3, maxLength: 3 }), async (seeds) => {
        const together = await completeBatch(model, prompts, { ...drawn, seed: seeds });
        for (const [row, prompt] of prompts.entries())
          expect(await complete(model, prompt, { ...drawn, seed: seeds[row]! })).toEqual(together[row]);
      }),
      { numRuns: 5 },
    );
  });

  test("several sequences of a prompt stand side by side and differ", async () => {
    const model = makeModel();
    const rows = await completeBatch(model, prompts.slice(0, 2), { ...drawn, numReturnSequences: 3, seed: [7, 8] });
    expect(rows).toHaveLength(6);
    expect(new Set(rows.slice(0, 3).map(String)).size).toBe(3);
    expect(rows[0]).toEqual(await complete(model, prompts[0]!, { ...drawn, seed: 7 }));
    expect(rows[3]).toEqual(await complete(model, prompts[1]!, { ...drawn, seed: 8 }));
    const t5 = new T5ForConditionalGeneration({ ...t5Config, initializer_factor: 2 });
    const answers = await completeBatch(t5, [[4, 5], [6]], {
      maxNewTokens: 4,
      temperature: 2,
      numReturnSequences: 2,
      seed: [1, 2],
    });
    expect(answers[0]).toEqual(await complete(t5, [4, 5], { maxNewTokens: 4, temperature: 2, seed: 1 }));
    expect(answers[2]).toEqual(await complete(t5, [6], { maxNewTokens: 4, temperature: 2, seed: 2 }));
  });

  test("sequences that repeat are held back by their own tokens only, and stop tokens by minNewTokens", async () => {
    const model = makeModel();
    const plain = await completeBatch(model, prompts, { maxNewTokens: 8 });
    const rows = await completeBatch(model, prompts, { maxNewTokens: 8, noRepeatNgramSize: 2 });
    expect(rows).not.toEqual(plain);
    for (const [i, row] of rows.entries()) {
      const all = [...prompts[i]!, ...row];
      const pairs = all.slice(1).map((token, at) => `${all[at]} ${token}`);
      const own = pairs.slice(prompts[i]!.length - 1);
      for (const [at, pair] of own.entries()) expect(pairs.indexOf(pair)).toBe(prompts[i]!.length - 1 + at);
      expect(row).toEqual(await complete(model, prompts[i]!, { maxNewTokens: 8, noRepeatNgramSize: 2 }));
    }
    const [first] = plain[0]!;
    const late = await complete(model, prompts[0]!, { maxNewTokens: 8, minNewTokens: 3, stopTokens: [first!] });
    expect(late.slice(0, 3)).not.toContain(first);
    expect(late.length).toBeGreaterThanOrEqual(3);
  });

  test("maxLength counts the prompt, and the start token of an answer", async () => {
    const model = makeModel();
    expect(await complete(model, prompts[0]!, { maxLength: 8 })).toHaveLength(3);
    expect(await complete(model, prompts[0]!, { maxLength: 5 })).toEqual([]);
    expect(await complete(model, prompts[0]!, { maxLength: 8, maxNewTokens: 1 })).toHaveLength(1);
    expect(await completeBatch(model, prompts, { maxNewTokens: 0 })).toEqual([[], [], []]);
    expect(await complete(new T5ForConditionalGeneration(t5Config), [4, 5, 6, 7], { maxLength: 4 })).toHaveLength(3);
    const gpt2 = new GPT2LMHeadModel(decoderConfigs["gpt2"]!);
    expect(await complete(gpt2, [1, 2, 3], { maxLength: 1000 })).toHaveLength(14);
    expect(await complete(gpt2, new Array<number>(16).fill(1), { maxNewTokens: 1 })).toHaveLength(1);
  });
});

onReference("what is refused", () => {
  test.each([
    [[1], { temperature: -1 }, "complete: `temperature` (= -1) must be a number from 0."],
    [[1], { topK: 1.5 }, "complete: `topK` (= 1.5) must be a whole number from 0."],
    [[1], { topP: 0 }, "complete: `topP` (= 0) must be a number above 0 up to 1."],
    [[1], { maxNewTokens: -2 }, "complete: `maxNewTokens` (= -2) must be a whole number from 0 below 2³¹."],
    [[1], { minNewTokens: 0.5 }, "complete: `minNewTokens` (= 0.5) must be a whole number from 0."],
    [[1], { maxLength: -1 }, "complete: `maxLength` (= -1) must be a whole number from 0."],
    [[1], { stopStrings: ["."] }, "complete: `stopStrings` need the `tokenizer`, which says what tokens mean."],
    [[1], { stopStrings: [""] }, "complete: a stop string is empty."],
    [[1], { seed: [1, 2] }, "complete: 2 seeds are given for 1 prompts."],
    [
      [1],
      { numReturnSequences: 2, temperature: 1 },
      "complete: `numReturnSequences` (= 2) must be 1 where one sequence is given out.",
    ],
    [[], {}, "complete: the prompt has no token. Start with the beginning-of-text token."],
    ["The whale" as never, {}, "complete: prompts are lists of token ids. Make them of a text with tokenizer.encode"],
    [[1.5], {}, "complete: prompts are lists of token ids."],
    [[1], { max_new_tokens: 3 } as never, "complete: `max_new_tokens` is not an option. Did you mean `maxNewTokens`?"],
  ])("%o %o", async (prompt, options, message) => {
    const result = complete(makeModel(), prompt, options);
    await expect(result).rejects.toThrow(message);
    await expect(complete(makeModel(), prompt, options)).rejects.toThrow(ConfigError);
  });

  test("a batch without prompts, or with an empty one", async () => {
    await expect(generateBatch(makeModel(), []).next()).rejects.toThrow("generateBatch: got no prompt.");
    await expect(generateBatch(makeModel(), [[1], []]).next()).rejects.toThrow("generateBatch: prompt 1 has no token.");
    await expect(completeBatch(makeModel(), [[1]], { numReturnSequences: 0 })).rejects.toThrow(
      "must be a whole number from 1 below 2³¹.",
    );
    await expect(completeBatch(makeModel(), [[1]], { numReturnSequences: 2 })).rejects.toThrow(
      "completeBatch: 2 sequences for a prompt would all be the same. Set `temperature`.",
    );
  });

  test("an aborted signal ends generation before the next token, also one that is aborted by a timer", async () => {
    const model = makeModel();
    const abort = new AbortController();
    const tokens: number[] = [];
    const run = async () => {
      for await (const token of generate(model, [1], { maxNewTokens: 50, signal: abort.signal })) {
        tokens.push(token);
        if (tokens.length === 3) abort.abort(new Error("enough"));
      }
    };
    await expect(run()).rejects.toThrow("enough");
    expect(tokens).toHaveLength(3);
    expect(await complete(model, [1], { maxNewTokens: 3 })).toEqual(tokens);
    await expect(complete(model, [1], { signal: AbortSignal.abort() })).rejects.toThrow(/abort/i);
    await expect(complete(model, [1], { maxNewTokens: 1e6, maxLength: 9, signal: AbortSignal.timeout(50) })).rejects.toThrow(
      /time/i,
    );
  });
});
