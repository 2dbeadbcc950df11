import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { ConfigError, FormatError } from "../../src/errors.ts";
import { createModel } from "../../src/models/create-model.ts";
import { generateText } from "../../src/train/generation.ts";
import { generationOptions } from "../../src/train/generation-config.ts";
import { loadModel, saveModel } from "../../src/train/load-model.ts";
import { decoderConfigs } from "../models/configs.ts";
import { onReference } from "../nn/tensors.ts";
import { temporaryFolder } from "../temporary-folder.ts";

describe("generation_config.json", () => {
  test("settings are those of transformers, its own where the file says only that tokens are drawn", () => {
    expect(generationOptions({ do_sample: true })).toEqual({ temperature: 1, topK: 50 });
    expect(
      generationOptions({ do_sample: true, temperature: 0.6, top_k: 0, top_p: 0.9, min_p: null, eos_token_id: [2, 5] }),
    ).toEqual({
      temperature: 0.6,
      topK: 0,
      topP: 0.9,
      stopTokens: [2, 5],
    });
    expect(generationOptions({ temperature: 0.6, top_p: 0.9, repetition_penalty: 1.1, num_beams: 4, eos_token_id: 3 })).toEqual({
      repetitionPenalty: 1.1,
      stopTokens: [3],
    });
    expect(
      generationOptions({ max_length: 20, max_new_tokens: 4, min_new_tokens: 1, stop_strings: "a", suppress_tokens: [7] }),
    ).toEqual({
      maxLength: 20,
      maxNewTokens: 4,
      minNewTokens: 1,
      stopStrings: ["a"],
      logitBias: new Map([[7, Number.NEGATIVE_INFINITY]]),
    });
    expect(generationOptions({ decoder_start_token_id: 2, forced_bos_token_id: 8, forced_eos_token_id: 4 })).toEqual({
      startToken: 2,
      forcedFirstToken: 8,
      forcedLastToken: 4,
    });
    // of the model's file only where there is no other
    expect(generationOptions(undefined, { eos_token_id: 9 })).toEqual({ stopTokens: [9] });
    expect(generationOptions({}, { eos_token_id: 9 })).toEqual({});
  });

  test.each([
    [{ do_sample: 1 }, "generationOptions: `do_sample` (= 1) must be true or false."],
    [{ do_sample: true, top_k: 1.5 }, "generationOptions: `top_k` (= 1.5) must be a whole number from 0."],
    [{ eos_token_id: "a" }, 'generationOptions: `eos_token_id` (= "a") must be a token\'s number, or a list of them.'],
    [{ stop_strings: [1] }, "generationOptions: `stop_strings` (= [1]) must be a string, or a list of them."],
  ])("%o is refused", (json, message) => {
    expect(() => generationOptions(json)).toThrow(message);
    expect(() => generationOptions(json)).toThrow(ConfigError);
  });
});

onReference("a model's folder", () => {
  test("gives its settings, and says what is wrong with them to those who ask", async () => {
    const folder = temporaryFolder();
    const write = (text: string) => writeFile(join(folder, "generation_config.json"), text);
    const json = { model_type: "llama", ...decoderConfigs["llama"], eos_token_id: 3 };
    await saveModel(folder, createModel(json), json);
    expect((await loadModel(folder)).generation).toEqual({ stopTokens: [3] });
    await write('{"eos_token_id": [4, 5], "do_sample": true, "top_k": 7}');
    const loaded = await loadModel(folder);
    expect(loaded.generation).toEqual({ stopTokens: [4, 5], temperature: 1, topK: 7 });
    await expect(generateText(loaded, "a").next()).rejects.toThrow(/tokenizer/);
    await write("[");
    const broken = await loadModel(folder);
    expect(() => broken.generation).toThrow(FormatError);
    expect(() => broken.generation).toThrow(/generation_config\.json is not JSON/);
  });
});
