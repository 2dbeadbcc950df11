/** Fine-tuning as a person runs it: results, a second run, Ctrl-C and going on, and what is said when something is wrong. */
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { downloadSync } from "../../src/compile/program.ts";
import { loadAdapter } from "../../src/peft/adapter-file.ts";
import { tensor } from "../../src/tensor/create.ts";
import { loadModel } from "../../src/train/load-model.ts";
import { lastLine, lorikeet, type Outcome, run } from "./command.ts";
import { smallRun } from "./small-run.ts";

const { at, model, args } = smallRun();
const small = [...args, "--rank", "4"];

/** Lines of standard error that are not the bar. */
const lines = ({ stderr }: Outcome): string[] => stderr.trim().split("\n");

describe("a run", () => {
  const out = at("run");
  let outcome: Outcome;
  beforeAll(async () => {
    outcome = await lorikeet([...small, "--steps", "12", "--out", out, "--json"]);
  });

  it("ends with one line of JSON that tells everything", () => {
    expect(outcome.stderr).toContain("held-out perplexity");
    expect(outcome.code).toBe(0);
    const summary = lastLine(outcome.stdout);
    const numbers = ["perplexityBefore", "perplexityAfter", "mergeMaxLogitDifference", "trainSeconds", "tokensPerSecond"];
    for (const key of [...numbers, "peakBytes", "plannedBytes"]) expect(summary[key], key).toBeGreaterThan(0);
    expect(Object.keys(summary).slice(-3)).toEqual(["adapterDir", "mergedDir", "report"]);
    expect(summary["perplexityAfter"]).toBeLessThan(summary["perplexityBefore"] as number);
    expect(summary["mergeMaxLogitDifference"]).toBeLessThan(1e-3);
    expect(summary["peakBytes"]).toBeGreaterThan(summary["plannedBytes"] as number);
  });

  it("writes an adapter and a merged model that are the same function", async () => {
    const ids = tensor([[1, 5, 9, 200, 1999]], { dtype: "int32" });
    const { model: adapted } = await loadModel(model);
    const before = downloadSync(adapted.forward({ inputIds: ids }).logits);
    await loadAdapter(adapted, join(out, "adapter"));
    const beside = downloadSync(adapted.forward({ inputIds: ids }).logits);
    const { model: merged, tokenizer } = await loadModel(join(out, "merged"));
    const within = downloadSync(merged.forward({ inputIds: ids }).logits);
    const largest = (a: ArrayLike<number>, b: ArrayLike<number>) =>
      Array.from(a).reduce((most, value, i) => Math.max(most, Math.abs(value - (b[i] as number))), 0);
    expect(largest(beside, within)).toBeLessThan(1e-4);
    expect(largest(before, within)).toBeGreaterThan(1e-2);
    expect(tokenizer.decode(tokenizer.encode("Call me Ishmael."))).toBe("Call me Ishmael.");
  });

  it("writes a report that needs nothing from elsewhere", () => {
    const page = readFileSync(join(out, "report.html"), "utf8");
    expect(page).toContain("<svg");
    expect(page.match(/<path /g)?.length ?? 0).toBeGreaterThan(2);
    expect(page).not.toMatch(/<script|<link|src=|url\(http|@import/);
    expect(page).not.toMatch(/NaN|undefined/);
  });

  it("is not done twice: the second time says how to start over, and gives the same results", async () => {
    const again = await lorikeet([...small, "--steps", "12", "--out", out, "--json"]);
    expect(again.code).toBe(0);
    expect(again.stderr).toContain("--fresh");
    expect(again.stderr).not.toContain("Measuring");
    expect(lastLine(again.stdout)).toEqual(lastLine(outcome.stdout));
  });

  it("is done again by --fresh, with the same numbers to the bit", async () => {
    const again = await lorikeet([...small, "--steps", "12", "--out", out, "--json", "--fresh"]);
    const numbers = ["perplexityBefore", "perplexityAfter", "mergeMaxLogitDifference", "plannedBytes"];
    for (const key of numbers) expect(lastLine(again.stdout)[key], key).toBe(lastLine(outcome.stdout)[key]);
  });

  it("gives other numbers for another seed", async () => {
    const other = await lorikeet([...small, "--steps", "12", "--out", at("seed"), "--json", "--seed", "5"]);
    expect(lastLine(other.stdout)["perplexityAfter"]).not.toBe(lastLine(outcome.stdout)["perplexityAfter"]);
    expect(lastLine(other.stdout)["perplexityBefore"]).toBe(lastLine(outcome.stdout)["perplexityBefore"]);
  });

  it("prints no JSON unless it is asked to", async () => {
    expect((await lorikeet([...small, "--steps", "2", "--out", at("quiet")])).stdout).toBe("");
  });
});

describe("--dry-run", () => {
  it("tells what the run would take, trains and writes nothing", async () => {
    const { code, stdout, stderr } = await lorikeet([...small, "--steps", "12", "--out", at("dry"), "--dry-run", "--json"]);
    expect([code, existsSync(at("dry"))]).toEqual([0, false]);
    expect(stderr).toMatch(/trainable params: [\d,]+ \|\| all params: [\d,]+ \|\| trainable%: \d/);
    expect(stderr).toMatch(/12 steps of 2 × 32 tokens: 768 tokens/);
    expect(stderr).toContain("Nothing was trained or written.");
    const plan = lastLine(stdout) as { memory: Record<string, number>; [key: string]: unknown };
    const out = at("after dry");
    const real = await lorikeet([...small, "--steps", "12", "--out", out, "--json"]);
    const { weights, activations, optimizer, total } = plan.memory;
    expect(total).toBe(lastLine(real.stdout)["plannedBytes"]);
    expect(weights! + activations! + optimizer!).toBe(total);
    expect(plan["adapterBytes"]).toBe(statSync(join(out, "adapter", "adapter_model.safetensors")).size);
    expect(plan).toMatchObject({ steps: 12, tokens: 768, measured: true, problem: null });
    expect(plan["secondsPerStep"]).toBeGreaterThan(0);
  });

  it("refuses what the run would", async () => {
    const outcome = await lorikeet([...small, "--targets", "c_attn", "--dry-run"]);
    expect([outcome.code, outcome.stdout, lines(outcome).at(-1)]).toEqual([1, "", expect.stringMatching(/no module matches/)]);
  });
});

describe("Ctrl-C", () => {
  const long = [...small, "--steps", "400", "--lr", "0.002", "--json"];

  it("leaves a checkpoint from which the same command goes on to the same numbers", async () => {
    const out = at("stopped");
    const stopped = await lorikeet([...long, "--out", out], { interruptAt: /step 40: held-out perplexity/ });
    expect(stopped.code).toBe(130);
    expect(stopped.stdout).toBe("");
    expect(stopped.stderr).toMatch(/Stopped after step \d+ of 400\. The same command goes on from there/);
    expect(readdirSync(out).sort()).toEqual(["checkpoint.safetensors", "settings.json"]);

    const other = await lorikeet([...long, "--out", out, "--rank", "5"]);
    expect(other.code).toBe(1);
    expect(lines(other).at(-1)).toMatch(/rank 4, not 5.*--fresh/);

    const resumed = await lorikeet([...long, "--out", out]);
    expect(resumed.stderr).toMatch(/Going on after step \d+ of 400/);
    expect(resumed.code).toBe(0);
    const whole = await lorikeet([...long, "--out", at("whole")]);
    for (const key of ["perplexityBefore", "perplexityAfter", "mergeMaxLogitDifference"])
      expect(lastLine(resumed.stdout)[key], key).toBe(lastLine(whole.stdout)[key]);
    expect(existsSync(join(out, "checkpoint.safetensors"))).toBe(false);
  });

  it.each(["SIGINT", "SIGTERM", "SIGHUP"] as const)("before training leaves nothing to go on with: %s", async (signal) => {
    const out = at(`early ${signal}`);
    const stopped = await lorikeet([...long, "--out", out], { interruptAt: /Measuring/, signal });
    expect(stopped.code).toBe(130);
    expect(stopped.stderr).toContain("Stopped before training began.");
    expect(existsSync(join(out, "checkpoint.safetensors"))).toBe(false);
  });
});

it("a folder that holds what is not a run's, or another process's, is told or made anew", async () => {
  const out = at("damaged");
  const again = (...more: string[]) => lorikeet([...small, "--targets", "q_proj,v_proj", "--steps", "1", "--out", out, ...more]);
  expect((await again()).code).toBe(0);
  writeFileSync(join(out, "result.json"), readFileSync(join(out, "result.json"), "utf8").replace("perplexityBefore", "before"));
  expect((await again()).stderr).toContain("Measuring");
  rmSync(join(out, "adapter"), { recursive: true });
  expect((await again()).stderr).toContain("Measuring");
  writeFileSync(join(out, "checkpoint.safetensors"), "junk");
  const damaged = await again();
  expect([damaged.code, lines(damaged).at(-1)]).toEqual([1, expect.stringMatching(/too short.*--fresh to start over/)]);
  writeFileSync(join(out, ".running"), String(process.pid));
  const second = await again("--fresh");
  expect([second.code, lines(second).at(-1)]).toEqual([1, expect.stringMatching(/another run \(process \d+\).*--out/)]);
  writeFileSync(join(out, ".running"), "99999999");
  expect((await again("--fresh")).code).toBe(0);
  expect(readdirSync(out)).not.toContain(".running");
});

it("says what is odd about an adapter before it is trained", async () => {
  const tied = await lorikeet([...small, "--targets", "embed_tokens", "--steps", "1", "--out", at("tied")]);
  expect([tied.code, tied.stderr]).toEqual([0, expect.stringMatching(/Note: .*ensureWeightTying.*step 1/s)]);
});

it("learns from conversations", async () => {
  cpSync(model, at("talker"), { recursive: true });
  writeFileSync(
    join(at("talker"), "chat_template.jinja"),
    "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
  );
  const chat = [
    { role: "user", content: "Who was white?" },
    { role: "assistant", content: "It was the whale, and the whale was white." },
  ];
  writeFileSync(at("talk.jsonl"), `${JSON.stringify({ messages: chat })}\n`.repeat(40));
  const outcome = await lorikeet([
    ...small,
    "--steps",
    "2",
    "--out",
    at("talk"),
    "--json",
    "--model",
    at("talker"),
    "--data",
    at("talk.jsonl"),
  ]);
  expect([outcome.code, outcome.stderr]).toEqual([0, expect.stringContaining("held-out perplexity")]);
  const { perplexityBefore, perplexityAfter } = lastLine(outcome.stdout);
  expect(perplexityAfter).toBeLessThan(perplexityBefore as number);
});

describe("what is wrong is said in one line, with exit code 1 and nothing half-written", () => {
  const files = () => {
    writeFileSync(at("empty.txt"), "");
    writeFileSync(at("chat.jsonl"), '{"messages": [{"role": "user", "content": "hi"}]}\n');
    writeFileSync(at("short.txt"), "Call me Ishmael.");
    writeFileSync(at("binary.txt"), Uint8Array.of(0xff, 0xfe, 0xc0, 0x00, 0x81));
    writeFileSync(at("a-file"), "in the way");
    mkdirSync(at("truncated"), { recursive: true });
    for (const name of readdirSync(model)) cpSync(join(model, name), join(at("truncated"), name));
    const weights = readFileSync(join(model, "model.safetensors"));
    writeFileSync(join(at("truncated"), "model.safetensors"), weights.subarray(0, weights.length - 100));
    mkdirSync(at("wordless"), { recursive: true });
    for (const name of ["config.json", "model.safetensors"]) cpSync(join(model, name), join(at("wordless"), name));
  };
  const cases: Record<string, readonly [args: readonly string[], message: RegExp, command?: string]> = {
    "an empty text": [["--data", at("empty.txt")], /the text is empty/],
    "a text shorter than a window": [["--data", at("short.txt")], /window/],
    "a chat for a tokenizer without a template": [["--data", at("chat.jsonl")], /chat template/],
    "a text of no name": [["--data", ""], /--data.*must name a file/],
    "a prompt without a word": [["--prompt", ""], /--prompt "" has no token/],
    "a rank that is given twice": [["--set", "r=8"], /--rank and --set r are the same/],
    "a text that is not UTF-8": [["--data", at("binary.txt")], /UTF-8/],
    "a text that is not there": [["--data", at("none.txt")], /none\.txt/],
    "a model that is not there": [["--model", at("none")], /none/],
    "a model whose weights are cut off": [["--model", at("truncated")], /model\.safetensors/],
    "a model without a tokenizer": [["--model", at("wordless")], /tokenizer\.json/],
    "a folder that cannot be written": [["--out", join(at("a-file"), "out")], /cannot write.*a-file/],
    "a layer that the model does not have": [["--targets", "c_attn"], /no module matches.*q_proj/],
    "a number of steps that is none": [["--steps", "many"], /--steps.*whole number/],
    "a rank of nothing": [["--rank", "0"], /--rank.*whole number/],
    "a rank for a method without one": [["--method", "ia3"], /ia3 has no rank/],
    "a key that the method does not have": [["--set", "lora_alfa=3"], /loraAlfa.*loraAlpha/],
    "an unknown option": [["--step", "3"], /unknown option.*--step/],
    "an unknown command": [[], /unknown command 'fintune' \(Did you mean finetune\?\)/, "fintune"],
    "an unknown method": [["--method", "lorra"], /--method.*lora/],
    "dropout of everything": [["--dropout", "1"], /Dropout.*less than 1/],
    "a learning rate that makes training diverge": [["--lr", "1e30"], /loss .*step.*lower learning rate/],
  };

  beforeAll(files);
  it.each(Object.entries(cases))("%s", async (name, [args, message, command]) => {
    const out = at(`bad ${name}`);
    const outcome = await lorikeet([...(command ? [command] : []), ...small, "--steps", "4", "--out", out, ...args]);
    expect(outcome.stdout).toBe("");
    expect(lines(outcome).at(-1)).toMatch(message);
    expect(outcome.stderr).not.toMatch(/^\s+at /m);
    expect(outcome.code).toBe(1);
    const left = existsSync(out) ? readdirSync(out) : [];
    expect(left.filter((file) => file !== "settings.json")).toEqual([]);
  });
});

it("npm start fine-tunes the model that comes with the package on Moby-Dick", async () => {
  const args = ["--silent", "start", "--", "--steps", "8", "--out", at("moby"), "--json"];
  const outcome = await run("npm", args);
  expect(outcome.code).toBe(0);
  expect(outcome.stderr).toContain("Moby-Dick");
  const { perplexityBefore, perplexityAfter } = lastLine(outcome.stdout) as { perplexityBefore: number; perplexityAfter: number };
  expect(perplexityAfter).toBeLessThan(perplexityBefore);
});
