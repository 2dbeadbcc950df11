/** `lorikeet generate`: the text that the library writes, on standard output. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { cpSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, expect, it } from "vitest";
import { createModel } from "../../src/models/create-model.ts";
import { normal } from "../../src/nn/init.ts";
import { setActive } from "../../src/peft/adapted-model.ts";
import { loadAdapter, saveAdapter } from "../../src/peft/adapter-file.ts";
import { attach } from "../../src/peft/attach.ts";
import { lora } from "../../src/peft/methods/lora.ts";
import { TorchGenerator } from "../../src/random/torch-generator.ts";
import { completeText } from "../../src/train/generation.ts";
import { loadModel, saveModel } from "../../src/train/load-model.ts";
import { expectRefusal, lastLine, lorikeet, root } from "./command.ts";
import { saveSmallAdapter } from "./small-adapter.ts";
import { smallRun } from "./small-run.ts";

const { at, model } = smallRun();
const adapters = [at("first"), at("second")] as const;
beforeAll(async () => {
  for (const [i, folder] of adapters.entries()) await saveSmallAdapter(model, folder, i);
});

it("writes what the library writes, of the base or with one adapter or two, and no more than that", async () => {
  const loaded = await loadModel(model);
  const expected = () => completeText(loaded, "Call me", { maxNewTokens: 12 });
  const command = ["generate", "--max-new-tokens", "12"];
  const base = await lorikeet([...command, "--model", model, "Call", "me"]);
  expect(base.stdout, base.stderr).toBe(`${await expected()}\n`);
  expect(base.stderr).toMatch(/^Reading .*\n12 tokens, [\d.]+ tokens\/s\n$/);
  await loadAdapter(loaded.model, adapters[0], { name: "first" });
  // the model is the one that the adapter names
  const one = await lorikeet([...command, "--adapter", adapters[0], "-"], { input: "Call me\n" });
  expect(one.stdout, one.stderr).toBe(`${await expected()}\n`);
  await loadAdapter(loaded.model, adapters[1], { name: "second" });
  setActive(loaded.model, ["first", "second"]);
  const both = await lorikeet([...command, "--adapter", adapters[0], "--adapter", adapters[1], "--json"], {
    input: "Call me",
  });
  const text = await expected();
  expect(lastLine(both.stdout), both.stderr).toMatchObject({
    tokens: 12,
    text,
    adapters,
  });
  expect(new Set([base.stdout, one.stdout, `${text}\n`]).size).toBe(3);
});

it("answers with a model that answers, and such a model is merged", async () => {
  const config = {
    architectures: ["T5ForConditionalGeneration"],
    model_type: "t5",
    vocab_size: 2048,
    d_model: 16,
    d_kv: 8,
    d_ff: 24,
    num_layers: 1,
    num_heads: 2,
    decoder_start_token_id: 0,
  };
  const t5 = at("t5");
  const generator = new TorchGenerator(1);
  const made = createModel<"Seq2SeqLM">(config, { task: "Seq2SeqLM", init: normal({ std: 0.5, generator }) });
  await saveModel(t5, made, config);
  for (const name of ["tokenizer.json", "tokenizer_config.json"]) cpSync(join(model, name), join(t5, name));
  const loaded = await loadModel(t5, { task: "Seq2SeqLM" });
  const base = await completeText(loaded, "Call me", { maxNewTokens: 8 });
  attach(
    loaded.model,
    lora({ r: 2, loraAlpha: 16, initLoraWeights: false, targetModules: "all-linear", taskType: "SEQ_2_SEQ_LM" }),
  );
  await saveAdapter(loaded.model, at("t5-adapter"), { baseModel: t5 });
  const expected = await completeText(loaded, "Call me", { maxNewTokens: 8 });
  expect(expected).not.toBe(base);
  const merged = await lorikeet(["merge", at("t5-adapter"), "--out", at("t5-merged")]);
  expect(merged.code, merged.stderr).toBe(0);
  for (const of of [
    ["--adapter", at("t5-adapter")],
    ["--model", at("t5-merged")],
  ]) {
    const { stdout, stderr } = await lorikeet(["generate", "Call me", "--max-new-tokens", "8", ...of]);
    expect(stdout, stderr).toBe(`${expected}\n`);
  }
});

it("draws and stops as it is told, and puts a chat into the model's template", async () => {
  const chat = at("chat");
  cpSync(model, chat, { recursive: true });
  const file = join(chat, "tokenizer_config.json");
  const template =
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}";
  writeFileSync(file, JSON.stringify({ ...JSON.parse(readFileSync(file, "utf8")), chat_template: template }));
  const drawn = { maxNewTokens: 40, temperature: 1.5, topP: 0.9, topK: 30, minP: 0.01, repetitionPenalty: 1.1, seed: 5 };
  const loaded = await loadModel(chat);
  const expected = await completeText(loaded, "system: Be kind.\nuser: Who?\nassistant:", { ...drawn, stopStrings: ["e", "a"] });
  expect(expected).toMatch(/^[^ea]*[ea]$/);
  const options = "--max-new-tokens 40 --temperature 1.5 --top-p 0.9 --top-k 30 --min-p 0.01 --repetition-penalty 1.1 --seed 5";
  const asked = [
    "generate",
    "Who?",
    "--model",
    chat,
    "--system",
    "Be kind.",
    ...options.split(" "),
    "--stop",
    "e",
    "--stop",
    "a",
  ];
  const { stdout, stderr } = await lorikeet(asked);
  expect(stdout, stderr).toBe(`${expected}\n`);
});

it("stops at Ctrl-C with what is written, and when nobody reads any more", async () => {
  const long = ["generate", "Call me", "--model", model, "--max-new-tokens", "100000"];
  for (const stop of ["SIGINT", "close"] as const) {
    const child = spawn(process.execPath, ["dist/src/cli/main.js", ...long], { cwd: root });
    let stderr = "";
    child.stderr.on("data", (chunk) => {
      stderr += chunk;
    });
    await once(child.stdout, "data");
    if (stop === "close") child.stdout.destroy();
    else child.kill(stop);
    const [code] = await once(child, "close");
    expect(code, stderr).toBe(stop === "close" ? 0 : 130);
    expect(stderr).toMatch(/^Reading .*\n[\d,]+ tokens, [\d.,]+ tokens\/s\n$/);
  }
});

it("says in one line what is wrong", async () => {
  for (const [options, words] of [
    [["--model", at("nowhere"), "Call"], "nowhere"],
    [["--model", model], "the prompt is empty"],
    [["--model", model, ""], "the prompt is empty"],
    [["--model", model, "--chat", "Call"], "has no chat template"],
    [["--model", model, "--adapter", model, "Call"], "adapter_config.json"],
    [["--model", adapters[0], "Call"], "is an adapter, not a model"],
    [["--model", join(root, "models/tiny"), "--adapter", adapters[0], "Call"], "made for another base model"],
    [["--model", "test/fixtures/heads/albert_mlm", "Call"], "is for MaskedLM, not for continuing a text. lorikeet embed"],
    [["--model", model, "--top-p", "2", "Call"], "It must be a number from 0 to 1"],
  ] as const)
    await expectRefusal(["generate", ...options], words);
});
