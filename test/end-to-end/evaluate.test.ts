/** `lorikeet evaluate`: the loss of a text, without adapters and with them. */
import { writeFileSync } from "node:fs";
import { beforeAll, expect, it } from "vitest";
import { tensor } from "../../src/index.ts";
import { loadAdapter } from "../../src/peft/adapter-file.ts";
import { loadModel } from "../../src/train/load-model.ts";
import { expectRefusal, lastLine, lorikeet } from "./command.ts";
import { saveSmallAdapter } from "./small-adapter.ts";
import { smallRun } from "./small-run.ts";

const { at, model, args } = smallRun();
const adapter = at("adapter");
const text = "It was the whale, and the whale was white.";
beforeAll(async () => {
  await saveSmallAdapter(model, adapter, 0);
  writeFileSync(at("short.txt"), text);
});

it("predicts every token of a text but the first, also of a short one, with and without the adapter", async () => {
  const { model: own, tokenizer } = await loadModel(model);
  const ids = [...tokenizer.encode(text), tokenizer.eosId as number];
  const lossOf = () =>
    own.eval().forward({
      inputIds: tensor([ids.slice(0, -1)], { dtype: "int32" }),
      targets: tensor([ids.slice(1)], { dtype: "int32" }),
    }).loss as NonNullable<ReturnType<typeof own.forward>["loss"]>;
  const base = lossOf().item();
  await loadAdapter(own, adapter);
  const adapted = lossOf().item();
  expect(Math.abs(adapted - base)).toBeGreaterThan(1e-3);
  const { code, stdout, stderr } = await lorikeet(["evaluate", "--data", at("short.txt"), "--adapter", adapter, "--json"]);
  expect(code, stderr).toBe(0);
  const tokens = ids.length - 1;
  expect(lastLine(stdout)).toEqual({
    model,
    adapters: [adapter],
    data: at("short.txt"),
    heldOut: false,
    window: tokens,
    base: { loss: expect.closeTo(base, 4), perplexity: expect.closeTo(Math.exp(base), 0), tokens },
    adapted: { loss: expect.closeTo(adapted, 4), perplexity: expect.closeTo(Math.exp(adapted), 0), tokens },
  });
  expect(stderr).toMatch(
    /nats per token +perplexity\n.*model +[\d.]+ +[\d.]+\nwith the adapter +[\d.]+ +[\d.]+ +\([−+][\d.]+ %\)/,
  );
});

it("measures what finetune has held out, and comes to the same", async () => {
  const run = await lorikeet(["finetune", ...args, "--steps", "2", "--out", at("run"), "--json"]);
  const { perplexityBefore, perplexityAfter } = lastLine(run.stdout) as Record<string, number>;
  const same = ["--data", at("book.txt"), "--held-out", "--window", "32", "--json"];
  const { stdout, stderr } = await lorikeet(["evaluate", "--adapter", at("run/adapter"), ...same]);
  const { base, adapted } = lastLine(stdout) as Record<string, { readonly perplexity: number }>;
  expect(base!.perplexity / perplexityBefore!, stderr).toBeCloseTo(1, 6);
  expect(adapted!.perplexity / perplexityAfter!).toBeCloseTo(1, 6);
});

it("says in one line what is wrong", async () => {
  writeFileSync(at("empty.txt"), "");
  for (const [options, words] of [
    [["--data", at("nowhere.txt")], "nowhere.txt"],
    [["--data", at("empty.txt"), "--model", model], "is empty"],
    [["--data", at("short.txt"), "--model", model, "--window", "1"], "from 2"],
  ] as const)
    await expectRefusal(["evaluate", ...options], words);
});
