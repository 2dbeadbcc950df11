/**
 * Folders from the net may hold anything. Whatever config.json, adapter_config.json, the index of shards, tokenizer.json or a
 * checkpoint say, they are used or refused with one line that a person can read; nothing worse, and no prototype changes.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { beforeAll, describe, expect, test } from "vitest";
import { useDevice } from "../../src/compile/program.ts";
import { createReference } from "../../src/devices/reference/device.ts";
import { LorikeetError } from "../../src/errors.ts";
import { readSafetensors } from "../../src/formats/safetensors.ts";
import { LlamaForCausalLM } from "../../src/models/llama.ts";
import { adapterNames, attach, detach, loadAdapter, lora, saveAdapter } from "../../src/peft/index.ts";
import { manualSeed } from "../../src/tensor/random.ts";
import { loadTokenizer, trainTokenizer } from "../../src/text/index.ts";
import { Tokenizer, type TokenizerDefinition } from "../../src/text/tokenizer.ts";
import { loadModel, saveModel } from "../../src/train/load-model.ts";
import { cases } from "../arbitrary/cases.ts";
import { tampered } from "../arbitrary/json.ts";
import { integers } from "../nn/tensors.ts";
import { temporaryFolder } from "../temporary-folder.ts";

const config = {
  model_type: "llama",
  architectures: ["LlamaForCausalLM"],
  vocab_size: 9,
  hidden_size: 8,
  intermediate_size: 12,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  num_key_value_heads: 1,
  head_dim: 4,
  hidden_act: "silu",
  rms_norm_eps: 1e-5,
  attention_bias: true,
  attention_dropout: 0.1,
  rope_parameters: {
    rope_type: "llama3",
    rope_theta: 1e4,
    factor: 8,
    low_freq_factor: 1,
    high_freq_factor: 4,
    original_max_position_embeddings: 16,
  },
  tie_word_embeddings: false,
};
const runs = cases(100);
let folder: string;
let model: LlamaForCausalLM;

beforeAll(async () => {
  useDevice(createReference());
  folder = temporaryFolder();
  manualSeed(1);
  model = new LlamaForCausalLM(config);
  await saveModel(folder, model, config, { maxShardBytes: 1500 });
  attach(
    model,
    lora({
      r: 2,
      targetModules: ["q_proj", "embed_tokens"],
      rankPattern: { q_proj: 3 },
      modulesToSave: ["lm_head"],
      bias: "all",
    }),
  );
  await saveAdapter(model, join(folder, "adapter"));
  detach(model);
});

const prototypes = () => [Object.prototype, Array.prototype].map((prototype) => Object.getOwnPropertyNames(prototype).length);

/** `use` succeeds or fails with one readable line. */
async function usedOrRefused(use: () => unknown): Promise<void> {
  const before = prototypes();
  try {
    await use();
  } catch (error) {
    if (!(error instanceof LorikeetError)) throw error;
    expect(error.message).toMatch(/^\w+: \P{Cc}+$/u);
    expect(error.message.length).toBeLessThan(1000);
    // what the library of tokenizers says is quoted as it is
    if (!error.message.includes("the tokenizer cannot be used")) expect(error.message).not.toMatch(/\[object |undefined/);
  }
  expect(prototypes()).toEqual(before);
}

/** A file of the folder while `body` runs, which may write others in its place; then `use` has to succeed again. */
async function standIn(file: string, use: () => unknown, body: (path: string) => Promise<void>): Promise<void> {
  const path = join(folder, file);
  const good = readFileSync(path);
  try {
    await body(path);
  } finally {
    writeFileSync(path, good);
  }
  await use();
}

/** One text in the place of a file of the folder. */
const oneText = (file: string, text: string, use: () => unknown): Promise<void> =>
  standIn(file, use, (path) => {
    writeFileSync(path, text);
    return usedOrRefused(use);
  });

/** Each text in the place of a file of the folder. */
const everyText = (file: string, texts: fc.Arbitrary<string>, use: () => unknown): Promise<void> =>
  standIn(file, use, (path) =>
    fc.assert(
      fc.asyncProperty(texts, async (text) => {
        writeFileSync(path, text);
        await usedOrRefused(use);
      }),
      runs,
    ),
  );

const json = (file: string) => JSON.parse(readFileSync(join(folder, file), "utf8"));
const cut = (file: string) => {
  const whole = readFileSync(join(folder, file), "utf8");
  return fc.nat(whole.length - 1).map((length) => whole.slice(0, length));
};

test("config.json", async () => {
  await everyText("config.json", fc.oneof({ weight: 9, arbitrary: tampered(config) }, cut("config.json")), async () => {
    const { model: loaded } = await loadModel(folder);
    loaded.forward({ inputIds: integers([1, 2, 3], [1, 3]) });
  });
});

test("the index of shards", async () => {
  const index = "model.safetensors.index.json";
  await everyText(index, fc.oneof({ weight: 9, arbitrary: tampered(json(index)) }, cut(index)), () => loadModel(folder));
});

test("adapter_config.json; the model is as it was when it is refused", async () => {
  const file = "adapter/adapter_config.json";
  await everyText(file, fc.oneof({ weight: 9, arbitrary: tampered(json(file)) }, cut(file)), async () => {
    const modules = [...model.namedModules()];
    try {
      await loadAdapter(model, join(folder, "adapter"));
      model.forward({ inputIds: integers([1, 2, 3], [1, 3]) });
    } finally {
      if (adapterNames(model).length > 0) detach(model);
      expect([...model.namedModules()]).toEqual(modules);
    }
  });
});

describe("brackets nested deeper than the stack", () => {
  const deep = `${"[".repeat(200_000)}${"]".repeat(200_000)}`;
  /** The text of a file of the folder with the deep value in the place of one of its keys. */
  const withDeep = (file: string, key: string) =>
    JSON.stringify({ ...json(file), [key]: "deep" }).replace(`"${key}":"deep"`, `"${key}":${deep}`);

  test.each(["hidden_size", "model_type", "architectures", "rope_parameters", "hidden_act"])("as %s of config.json", (key) =>
    oneText("config.json", withDeep("config.json", key), () => loadModel(folder)),
  );
  test.each(["weight_map", "metadata"])("as %s of the index", (key) => {
    const index = "model.safetensors.index.json";
    return oneText(index, withDeep(index, key), () => loadModel(folder));
  });
  test.each(["r", "peft_type", "target_modules", "rank_pattern", "auto_mapping", "eva_config", "novelty"])(
    "as %s of adapter_config.json",
    (key) => {
      const file = "adapter/adapter_config.json";
      return oneText(file, withDeep(file, key), async () => {
        await loadAdapter(model, join(folder, "adapter"));
        detach(model);
      });
    },
  );
  test.each(['"a":deep', '"a":{"dtype":deep}', '"a":{"dtype":"F32","shape":deep}', '"__metadata__":{"a":deep}'])(
    "in the header of a safetensors file: {%s}",
    async (text) => {
      const header = new TextEncoder().encode(`{${text.replace("deep", deep)}}`);
      const bytes = new Uint8Array(8 + header.length);
      new DataView(bytes.buffer).setUint32(0, header.length, true);
      bytes.set(header, 8);
      await usedOrRefused(() => readSafetensors(bytes));
      await expect(readSafetensors(bytes)).rejects.toThrow(LorikeetError);
    },
  );
  test.each(["model", "normalizer", "added_tokens", "post_processor"])("as %s of tokenizer.json", (key) =>
    usedOrRefused(() =>
      new Tokenizer(JSON.parse(JSON.stringify({ ...trained, [key]: "deep" }).replace('"deep"', deep))).encode("low"),
    ),
  );
});

const trained = trainTokenizer(["low lower lowest newest widest 12 times, don't."], {
  vocabularySize: 280,
  specialTokens: ["<|endoftext|>"],
});
const definitions: readonly [string, object][] = [
  ["a tokenizer.json of our own", trained],
  ...["wordpiece_bert", "unigram_t5", "bpe_llama2_byte_fallback"].flatMap((name): [string, object][] => {
    try {
      const path = join(import.meta.dirname, "../fixtures/tokenizers", name, "tokenizer.json");
      return [[`the tokenizer.json ${name}`, JSON.parse(readFileSync(path, "utf8"))]];
    } catch {
      return [];
    }
  }),
];

test.each(definitions)("%s", async (_, definition) => {
  await fc.assert(
    fc.asyncProperty(tampered(shallow(definition)), (text) =>
      usedOrRefused(() => {
        const changed = JSON.parse(text);
        // the vocabulary was left out of what is changed, so that the rest is
        if (changed?.model && typeof changed.model === "object" && changed.model.vocab === "as it was")
          changed.model.vocab = (definition as TokenizerDefinition).model["vocab"];
        const tokenizer = new Tokenizer(changed);
        const ids = tokenizer.encode("Low <|endoftext|> é 12\n");
        tokenizer.decode(ids);
        tokenizer.encodePair("a", "b");
        const stream = tokenizer.stream();
        for (const id of ids) stream.push(id);
      }),
    ),
    runs,
  );
});

const shallow = (definition: object): object => ({
  ...definition,
  model: { ...(definition as TokenizerDefinition).model, vocab: "as it was" },
});

test("a vocabulary", async () => {
  await fc.assert(
    fc.asyncProperty(
      tampered({ ...trained, model: { ...trained.model, vocab: { a: 0, b: 1, ab: 2 }, merges: ["a b"] } }),
      (text) =>
        usedOrRefused(() => {
          const tokenizer = new Tokenizer(JSON.parse(text));
          tokenizer.decode(tokenizer.encode("abba"));
        }),
    ),
    runs,
  );
});

test("tokenizer_config.json and a tokenizer.json that is cut off", async () => {
  writeFileSync(join(folder, "tokenizer.json"), JSON.stringify(trained));
  const special = {
    bos_token: "<|endoftext|>",
    eos_token: { content: "<|endoftext|>" },
    chat_template: "x",
    clean_up_tokenization_spaces: false,
  };
  writeFileSync(join(folder, "tokenizer_config.json"), JSON.stringify(special));
  const use = async () => (await loadTokenizer(folder)).encode("low");
  await everyText("tokenizer_config.json", tampered(special), use);
  await everyText("tokenizer.json", cut("tokenizer.json"), use);
});
