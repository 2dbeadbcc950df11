/** `lorikeet generate`: the text that the library writes, on standard output. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { cpSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, expect, it } from "vitest";
import { setActive } from "../../src/peft/adapted-model.ts";
import { loadAdapter } from "../../src/peft/adapter-file.ts";
import { completeText } from "../../src/train/generation.ts";
import { loadModel } from "../../src/train/load-model.ts";
import { lastLine, lorikeet, root } from "./command.ts";
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
    [["--model", join(root, "models/tiny"), "--adapter", adapters[0], "Call"], "made for another base model"],
    [["--model", model, "--top-p", "2", "Call"], "It must be a number from 0 to 1"],
  ] as const) {
    const { code, stdout, stderr } = await lorikeet(["generate", ...options]);
    const lines = stderr
      .trim()
      .split("\n")
      .filter((line) => !line.startsWith("Reading "));
    expect([code, stdout, lines.length], stderr).toEqual([1, "", 1]);
    expect(lines[0]).toContain(words);
  }
});
