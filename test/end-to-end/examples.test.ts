/** The examples run as they stand, and the README shows them as they are. */
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { transformWithOxc } from "vite";
import { expect, it } from "vitest";
import { root, run } from "./command.ts";

const source = (name: string): string => readFileSync(join(root, "examples", name), "utf8");
const folder = join(root, ".cache/examples-run");

/** Runs an example in plain Node, as somebody who installed the package does. */
async function output(name: string, change: (code: string) => string = (code) => code): Promise<string> {
  mkdirSync(folder, { recursive: true });
  const file = join(folder, name.replace(/\.ts$/, ".mjs"));
  const { code } = await transformWithOxc(source(name), name);
  writeFileSync(file, change(code));
  const outcome = await run(process.execPath, [file]);
  expect(outcome.stderr).toBe("");
  expect(outcome.code).toBe(0);
  return outcome.stdout;
}

it("the README holds the examples to the letter", () => {
  const readme = readFileSync(join(root, "README.md"), "utf8");
  const shown = [...readme.matchAll(/```ts\n([\s\S]*?)```/g)].map(([, code]) => code);
  expect(shown).toEqual(["finetune.ts", "adapters.ts", "tensors.ts", "shapes.ts"].map(source));
});

it("the example of fine-tuning has fifteen lines", () => {
  expect(
    source("finetune.ts")
      .split("\n")
      .filter((line) => line !== "").length,
  ).toBeLessThanOrEqual(15);
});

it.each([
  ["tensors.ts", "intermediate values"],
  ["shapes.ts", ""],
])("examples/%s prints what its comments say", async (name, also) => {
  const printed = await output(name);
  const stated = [...source(name).matchAll(/\.log\(.*\); \/\/ (.*)/g)].map(([, text]) => text);
  expect(stated).not.toEqual([]);
  expect(printed.split("\n").slice(0, stated.length)).toEqual(stated);
  expect(printed).toContain(also);
});

it("examples/finetune.ts lowers the perplexity and writes an adapter", async () => {
  const adapter = join(folder, "adapter");
  rmSync(adapter, { recursive: true, force: true });
  const printed = await output("finetune.ts", (code) => {
    const short = code.replace("steps: 300", "steps: 3").replace("out/moby-dick", adapter.replaceAll("\\", "/"));
    expect(short).not.toBe(code);
    return short;
  });
  const [before, after] = ["before", "after"].map((when) => Number(new RegExp(`perplexity ${when}: (.*)`).exec(printed)?.[1]));
  expect(after).toBeLessThan(before as number);
  expect(readFileSync(join(adapter, "adapter_config.json"), "utf8")).toContain('"peft_type": "LORA"');
});

it("examples/adapters.ts gives every row its adapter", async () => {
  const [sea, land, ...rest] = (await output("adapters.ts")).trim().split("\n");
  expect(sea).toMatch(/^The sea/);
  expect(land).toMatch(/^The field/);
  expect(rest).toContain("18 layers merged");
});
