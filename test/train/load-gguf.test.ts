/** Whole models in GGUF files against transformers on the same weights: logits, tokenizer, and what is refused. */
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { download } from "../../src/compile/program.ts";
import { FormatError } from "../../src/errors.ts";
import { readGguf } from "../../src/formats/gguf.ts";
import { ggufModel } from "../../src/formats/gguf-model.ts";
import { readSafetensors } from "../../src/formats/safetensors.ts";
import { rotaryAngles } from "../../src/nn/rotary.ts";
import { ggufTokenizer } from "../../src/text/gguf-tokenizer.ts";
import { loadTokenizer } from "../../src/text/load-tokenizer.ts";
import { loadModel, saveModel } from "../../src/train/load-model.ts";
import { onEveryDevice } from "../devices.ts";
import { integers, values } from "../nn/tensors.ts";

const folder = process.env["GGUF_FIXTURES"] ?? join(import.meta.dirname, "../fixtures/gguf");
const { tensors: expected } = await readSafetensors(join(folder, "expected.safetensors"));
const tokenized: Record<string, { text: string; ids: number[]; decoded: string }[]> = JSON.parse(
  readFileSync(join(folder, "tokenizers.json"), "utf8"),
);
const models = readdirSync(folder).flatMap((file) =>
  file.endsWith(".gguf") && file !== "blocks.gguf" ? [file.slice(0, -5)] : [],
);
const load = async (name: string) => (await expected.get(name)?.load()) as Float32Array;

onEveryDevice(() => {
  test.each(models)("%s gives the logits of transformers", async (name) => {
    const { model } = await loadModel(join(folder, `${name}.gguf`));
    const ids = integers([...(await load(`${name}.ids`))], expected.get(`${name}.ids`)?.shape as number[]);
    const got = await download(model.forward({ inputIds: ids }).logits);
    const want = await load(`${name}.logits`);
    const scale = want.reduce((most, value) => Math.max(most, Math.abs(value)), 1);
    want.forEach((value, i) => {
      if (!(Math.abs((got[i] as number) - value) <= 2e-5 * scale)) expect.fail(`logit ${i} is ${got[i]}, should be ${value}`);
    });
  });

  test("what was loaded is saved as Hugging Face has it, and is the same model", async () => {
    const out = mkdtempSync(join(tmpdir(), "lorikeet-gguf-"));
    for (const name of ["llama3", "phi3", "gemma2", "gemma3", "gpt2", "smollm3", "olmo3", "granite", "mixtral", "gpt-oss"]) {
      const { model, config } = await loadModel(join(folder, `${name}.gguf`));
      await saveModel(out, model, config);
      const again = await loadModel(out);
      const inputIds = integers([5, 6, 7, 8], [1, 4]);
      expect(values(again.model.forward({ inputIds }).logits)).toEqual(values(model.forward({ inputIds }).logits));
    }
    rmSync(out, { recursive: true });
  });
});

describe("tokenizers of GGUF files", () => {
  test.each(Object.keys(tokenized))("%s gives the ids of transformers", async (name) => {
    const tokenizer = await loadTokenizer(join(folder, `${name}.gguf`));
    for (const { text, ids, decoded } of tokenized[name] ?? []) {
      expect([...tokenizer.encode(text)], text).toEqual(ids);
      expect(tokenizer.decode(ids), text).toBe(decoded);
    }
  });

  test("know their special tokens and chat template", async () => {
    const { tokenizer } = await loadModel(join(folder, "llama3.gguf"));
    const { eosId, padId, chatTemplate } = tokenizer;
    expect({ eosId, padId }).toEqual({ eosId: 2, padId: 0 });
    expect(chatTemplate).toContain("{% for m in messages %}<|im_start|>");
    const llama = await loadTokenizer(join(folder, "llama.gguf"));
    expect([llama.bosId, llama.eosId, llama.unknownId]).toEqual([1, 2, 0]);
  });

  const withMetadata = async (entries: Record<string, unknown>, file = "llama3") => {
    const gguf = await readGguf(join(folder, `${file}.gguf`));
    return { ...gguf, source: "x.gguf", metadata: new Map([...gguf.metadata, ...(Object.entries(entries) as [])]) };
  };

  test("of other kinds are refused by name, and only when they are asked for", async () => {
    const tokens = (entries: object) => withMetadata(entries as Record<string, unknown>).then(ggufTokenizer);
    await expect(tokens({ "tokenizer.ggml.model": "rwkv" })).rejects.toThrow(
      'loadTokenizer: x.gguf has a tokenizer of the kind "rwkv"; those that are read: llama, gpt2, bert, t5.',
    );
    await expect(tokens({ "tokenizer.ggml.pre": "qwn2" })).rejects.toThrow(
      'x.gguf splits text in a way that is not known, "qwn2" (tokenizer.ggml.pre). The nearest is "qwen2".',
    );
    await expect(tokens({ "tokenizer.ggml.tokens": [1] })).rejects.toThrow("tokenizer.ggml.tokens that is not a list of strings");
    await expect(tokens({ "tokenizer.ggml.token_type": [1] })).rejects.toThrow("tokens and types of 1.");
    const loaded = await loadModel(join(folder, "gpt2.gguf"));
    expect(() => loaded.tokenizer).toThrow("gpt2.gguf has no tokenizer (tokenizer.ggml.tokens).");
  });

  test("keep several chat templates by name", async () => {
    const file = await withMetadata({ "tokenizer.chat_template.tool_use": "{{ tools }}" });
    expect(ggufTokenizer(file).config["chat_template"]).toEqual([
      { name: "default", template: expect.stringContaining("im_start") },
      { name: "tool_use", template: "{{ tools }}" },
    ]);
  });

  test("split text in each known way", async () => {
    const text = "I'll pay 12345 €, naïve  Café!\n\nOK";
    for (const pre of ["gpt-2", "smollm", "tekken", "gpt-4o", "qwen2", "llama-bpe", "dbrx"]) {
      const tokenizer = ggufTokenizer(await withMetadata({ "tokenizer.ggml.pre": pre }));
      expect(tokenizer.decode(tokenizer.encode(text)), pre).toBe(text);
    }
  });
});

describe("ggufModel", () => {
  const file = async (name: string, change: (metadata: Map<string, unknown>) => void = () => {}) => {
    const gguf = await readGguf(join(folder, `${name}.gguf`));
    const metadata = new Map(gguf.metadata);
    change(metadata);
    return { ...gguf, source: "x.gguf", metadata };
  };

  test("says which architectures there are, and which key is missing or no number", async () => {
    const other = (value: unknown) => file("llama", (metadata) => metadata.set("general.architecture", value));
    await expect(other("lama").then(ggufModel)).rejects.toThrow(
      'readGguf: x.gguf is of the architecture "lama", which is not one of llama, qwen2, qwen3, qwen2moe, qwen3moe, olmoe, gpt-oss, gemma, gemma2, gemma3, smollm3, olmo2, granite, phi3, gpt2. The nearest is "llama".',
    );
    await expect(other(7).then(ggufModel)).rejects.toThrow('"general.architecture" (= 7), which must name an architecture.');
    const without = file("llama", (metadata) => metadata.delete("llama.block_count"));
    await expect(without.then(ggufModel)).rejects.toThrow('x.gguf has no metadata key "llama.block_count".');
    const text = file("llama", (metadata) => metadata.set("llama.block_count", "one"));
    await expect(text.then(ggufModel)).rejects.toThrow('"llama.block_count" (= "one"), which must be a number.');
    const scaled = file("llama", (metadata) => metadata.set("llama.rope.scaling.type", "ntk"));
    await expect(scaled.then(ggufModel)).rejects.toThrow('"llama.rope.scaling.type" (= "ntk"), which is not supported.');
    await expect(scaled.then(ggufModel)).rejects.toBeInstanceOf(FormatError);
  });

  test("reads scalings that are numbers, as the converter writes them", async () => {
    const linear = await file("llama", (metadata) => {
      metadata.set("llama.rope.scaling.type", "linear");
      metadata.set("llama.rope.scaling.factor", 4);
    });
    expect((await ggufModel(linear)).config["rope_scaling"]).toEqual({ rope_type: "linear", factor: 4 });
    linear.metadata.set("llama.rope.scaling.type", "yarn");
    linear.metadata.set("llama.rope.scaling.original_context_length", 16);
    linear.metadata.set("llama.rope.scaling.yarn_beta_slow", 2);
    const yarn = { rope_type: "yarn", factor: 4, original_max_position_embeddings: 16, beta_slow: 2 };
    expect((await ggufModel(linear)).config["rope_scaling"]).toEqual(yarn);
  });

  // head sizes and ends with many, one and no angle between the ends
  test.each([
    { size: 128, theta: 5e5, factor: 8, low: 1, high: 4, length: 8192 },
    { size: 64, theta: 5e5, factor: 32, low: 1, high: 4, length: 8192 },
    { size: 16, theta: 1e4, factor: 8, low: 1, high: 4, length: 32 },
    { size: 32, theta: 1e4, factor: 4, low: 1.5, high: 7, length: 300 },
    { size: 8, theta: 1e4, factor: 3, low: 1, high: 1.2, length: 100 },
    { size: 8, theta: 100, factor: 3, low: 1, high: 4, length: 100 },
  ])("finds the scaling of Llama 3 in its factors: %j", async ({ size, theta, factor, low, high, length }) => {
    const scaled = rotaryAngles(size, {
      ropeType: "llama3",
      ropeTheta: theta,
      factor,
      lowFreqFactor: low,
      highFreqFactor: high,
      originalMaxPositionEmbeddings: length,
    });
    const plain = rotaryAngles(size, { ropeType: "default", ropeTheta: theta });
    const factors = Float32Array.from(plain, (angle, i) => angle / (scaled[i] as number));
    const gguf = await file("llama", (metadata) => metadata.set("llama.rope.freq_base", theta));
    const rope = { name: "rope_freqs.weight", shape: [factors.length], type: "F32", load: async () => factors };
    const tensors = new Map([...gguf.tensors, ["rope_freqs.weight", rope as never]]);
    const { rope_scaling: found } = (await ggufModel({ ...gguf, tensors })).config as { rope_scaling: Record<string, number> };
    const again = rotaryAngles(size, {
      ropeType: "llama3",
      ropeTheta: theta,
      factor: found["factor"] as number,
      lowFreqFactor: found["low_freq_factor"] as number,
      highFreqFactor: found["high_freq_factor"] as number,
      originalMaxPositionEmbeddings: found["original_max_position_embeddings"] as number,
    });
    again.forEach((angle, i) => expect(angle / (scaled[i] as number)).toBeCloseTo(1, 4));
    if (length === 8192) expect([found["low_freq_factor"], found["high_freq_factor"]]).toEqual([low, high]);
  });

  test("refuses factors that no scaling gives", async () => {
    const gguf = await file("llama");
    const rope = { name: "rope_freqs.weight", shape: [4], type: "F32", load: async () => new Float32Array([3, 1, 2, 1]) };
    const tensors = new Map([...gguf.tensors, ["rope_freqs.weight", rope as never]]);
    await expect(ggufModel({ ...gguf, tensors })).rejects.toThrow("rope_freqs that are not of the kind of Llama 3");
  });
});

test("a folder with one GGUF file is enough; of several, one is named", async () => {
  const out = mkdtempSync(join(tmpdir(), "lorikeet-gguf-"));
  const bytes = readFileSync(join(folder, "qwen2.gguf"));
  writeFileSync(join(out, "a.gguf"), bytes);
  const { config } = await loadModel(out);
  expect(config["model_type"]).toBe("qwen2");
  writeFileSync(join(out, "b.gguf"), readFileSync(join(folder, "gemma.gguf")));
  await expect(loadModel(out)).rejects.toThrow('has several GGUF files: a.gguf, b.gguf. Say which: { file: "a.gguf" }.');
  expect((await loadModel(out, { file: "b.gguf" })).config["model_type"]).toBe("gemma");
  const files = [new File([bytes], "m.gguf")];
  expect((await loadModel({ files })).config["model_type"]).toBe("qwen2");
  rmSync(out, { recursive: true });
});
