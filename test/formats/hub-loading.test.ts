/** Models, tokenizers and adapters by the name of a repository, from a Hub on this machine. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { download, useDevice } from "../../src/compile/program.ts";
import { createReference } from "../../src/devices/reference/device.ts";
import type { Module } from "../../src/nn/module.ts";
import { loadAdapter } from "../../src/peft/index.ts";
import { loadTokenizer } from "../../src/text/load-tokenizer.ts";
import { loadModel } from "../../src/train/load-model.ts";
import { integers } from "../nn/tensors.ts";
import { id, options } from "./hub-per-test.ts";
import { serveHub } from "./hub-server.ts";

test("models and tokenizers are loaded by name, with only the files that they need", async () => {
  const folder = join(import.meta.dirname, "../fixtures/models/llama");
  const tokenizer = readFileSync(join(import.meta.dirname, "../fixtures/tokenizers/bpe_gpt2/tokenizer.json"));
  const content = (file: string) => readFileSync(join(folder, file));
  await using models = await serveHub(id, {
    "config.json": content("config.json"),
    "model.safetensors": content("model.safetensors"),
    "pytorch_model.bin": Buffer.from("a pickle"),
    "tokenizer.json": tokenizer,
    "README.md": Buffer.from("# model"),
  });
  const settings = { ...options(), endpoint: models.endpoint };
  using device = createReference();
  useDevice(device);
  const { model, tokenizer: own } = await loadModel(id, settings);
  const { model: here } = await loadModel(folder);
  expect(model.numParameters()).toBe(here.numParameters());
  expect(own.decode(own.encode("the whale"))).toBe("the whale");
  expect((await loadTokenizer(id, settings)).vocabularySize).toBe(own.vocabularySize);
  const asked = models.requests.map((request) => request.split("/").at(-1));
  expect(asked).not.toContain("pytorch_model.bin");
  expect(asked).not.toContain("README.md");
  expect(asked.filter((file) => file === "model.safetensors").length).toBe(1);
});

test("adapters are loaded from the Hub, from a folder within it, and from files", async () => {
  using device = createReference();
  useDevice(device);
  const base = join(import.meta.dirname, "../fixtures/peft/base/llama");
  const folder = join(import.meta.dirname, "../fixtures/peft/shared/a");
  const content = (file: string) => readFileSync(join(folder, file));
  const adapter = {
    "adapter_config.json": content("adapter_config.json"),
    "adapter_model.safetensors": content("adapter_model.safetensors"),
  };
  await using adapters = await serveHub(id, {
    ...adapter,
    ...Object.fromEntries(Object.entries(adapter).map(([file, bytes]) => [`poetry/${file}`, bytes])),
  });
  const settings = { ...options(), endpoint: adapters.endpoint };
  const logits = async (load: (model: Module) => Promise<unknown>) => {
    const { model } = await loadModel(base);
    await load(model);
    return [...(await download(model.forward({ inputIds: integers([1, 2, 3, 4], [1, 4]) }).logits))];
  };
  const expected = await logits((model) => loadAdapter(model, folder));
  expect(await logits(async () => {})).not.toEqual(expected);
  expect(await logits((model) => loadAdapter(model, id, settings))).toEqual(expected);
  expect(await logits((model) => loadAdapter(model, id, { ...settings, subfolder: "poetry" }))).toEqual(expected);
  const given = Object.entries(adapter).map(([file, bytes]) => new File([bytes], file));
  expect(await logits((model) => loadAdapter(model, { files: given }))).toEqual(expected);
  const { model } = await loadModel(base);
  await expect(loadAdapter(model, id, { ...settings, subfolder: "prose" })).rejects.toThrow('has no folder "prose".');
  await using within = await serveHub(id, { "poetry/adapter_config.json": content("adapter_config.json") });
  await expect(loadAdapter(model, id, { ...settings, endpoint: within.endpoint })).rejects.toThrow(
    `loadAdapter: "${id}" has no adapter_config.json. Adapters are in: ${id}/poetry.`,
  );
});
