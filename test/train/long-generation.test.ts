/** Generation begins with room for a text of usual length and takes more when one needs it, without a change of what is written. */
import { beforeAll, expect, test } from "vitest";
import { useDevice } from "../../src/compile/program.ts";
import { createWasm } from "../../src/devices/wasm/device.ts";
import { createModel } from "../../src/models/index.ts";
import { normal } from "../../src/nn/init.ts";
import { attach, prefixTuning } from "../../src/peft/index.ts";
import { manualSeed } from "../../src/tensor/random.ts";
import { completeBatch, generateBatch, type TextGenerator } from "../../src/train/index.ts";
import { decoderConfigs, t5Config } from "../models/configs.ts";

beforeAll(() => void useDevice(createWasm({ threads: 1 })));

const prompt = (length: number, seed: number) => Array.from({ length }, (_, i) => (i * i + seed) % 11);

/** A model that tells apart what it has read. */
function makeModel(type: string): TextGenerator {
  manualSeed(2);
  const config = { model_type: type, ...(type === "t5" ? t5Config : decoderConfigs[type]), max_position_embeddings: 9000 };
  return createModel<"CausalLM" | "Seq2SeqLM">(config, {
    init: normal({ std: 0.4 }),
    task: type === "t5" ? "Seq2SeqLM" : "CausalLM",
  });
}

test.each([
  ["llama", 500],
  ["qwen3_next", 500],
  ["t5", 0],
])("%s", async (type, before) => {
  const model = makeModel(type);
  const prompts = [prompt(before || 5, 1), prompt(before ? before - 3 : 4, 2)];
  const options = { temperature: 1, seed: 4 };
  const count = 1024 - before + 8;
  const whole = await completeBatch(model, prompts, { ...options, maxNewTokens: count });
  const grown: (number | null)[][] = [[], []];
  for await (const row of generateBatch(model, prompts, { ...options, maxNewTokens: 5000 })) {
    row.forEach((token, i) => void grown[i]!.push(token));
    if (grown[0]!.length === count) break;
  }
  expect(grown).toEqual(whole);
});

test("a prefix stays in front", async () => {
  const model = makeModel("llama");
  attach(model, prefixTuning({ numVirtualTokens: 3, taskType: "CAUSAL_LM" }));
  const whole = await completeBatch(model, [prompt(500, 1)], { maxNewTokens: 532 });
  const grown: (number | null)[] = [];
  for await (const [token] of generateBatch(model, [prompt(500, 1)], { maxNewTokens: 5000 }))
    if (grown.push(token!) === 532) break;
  expect(grown).toEqual(whole[0]);
});
