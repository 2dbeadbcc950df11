/** `lorikeet inspect`: what the adapter of a run has learned, with its model and without. */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, expect, it } from "vitest";
import { expectRefusal, lorikeet } from "./command.ts";
import { smallRun } from "./small-run.ts";

const { at, model, args } = smallRun();
const adapterOf = (name: string) => join(at(name), "adapter");
beforeAll(async () => {
  for (const [name, seed] of [
    ["first", "1"],
    ["second", "2"],
  ] as const) {
    const { code, stderr } = await lorikeet([
      "finetune",
      ...args,
      "--steps",
      "2",
      "--rank",
      "2",
      "--seed",
      seed,
      "--out",
      at(name),
    ]);
    expect(code, stderr).toBe(0);
  }
});

interface Found {
  readonly method: string;
  readonly rank: number;
  readonly parameters: number;
  readonly modules: readonly {
    readonly path: string;
    readonly norm: number;
    readonly relativeNorm: number | null;
    readonly spectrum: { readonly singularValues: readonly number[]; readonly energyRank: number };
    readonly intruders: number | null;
  }[];
}
const found = (stdout: string) => JSON.parse(stdout) as Found;

it("prints a table of all layers, the most changed first, and all numbers as JSON", async () => {
  const { code, stdout, stderr } = await lorikeet(["inspect", adapterOf("first"), "--model", model]);
  expect(code, stderr).toBe(0);
  const lines = stdout.trimEnd().split("\n");
  expect(lines[0]).toMatch(/^LORA of rank 2 on .*; [\d,]+ parameters; CAUSAL_LM/);
  expect(lines.slice(1).every((line) => line.length <= 100)).toBe(true);
  expect(lines.filter((line) => line.startsWith("model.layers."))).toHaveLength(14);
  const { modules, rank } = found(
    (await lorikeet(["inspect", adapterOf("first"), "--model", model, "--json", "--intruders"])).stdout,
  );
  expect([rank, modules.length]).toEqual([2, 14]);
  const changes = modules.map(({ relativeNorm }) => relativeNorm!);
  expect(changes).toEqual(changes.toSorted((a, b) => b - a));
  for (const { spectrum, intruders } of modules)
    expect([spectrum.singularValues.length, Number.isInteger(intruders)]).toEqual([2, true]);
});

it("tells what the file alone says where the model is not at hand", async () => {
  const config = join(adapterOf("second"), "adapter_config.json");
  const whole = found((await lorikeet(["inspect", adapterOf("second"), "--json"])).stdout);
  const before = readFileSync(config, "utf8");
  writeFileSync(config, JSON.stringify({ ...JSON.parse(before), base_model_name_or_path: at("nowhere") }));
  const { code, stdout, stderr } = await lorikeet(["inspect", adapterOf("second"), "--json"]);
  writeFileSync(config, before);
  expect(code, stderr).toBe(0);
  expect(stderr).toContain("Note: only what needs no weights of the model.");
  const alone = found(stdout);
  expect(alone.parameters).toBe(whole.parameters);
  const byPath = new Map(whole.modules.map((module) => [module.path, module]));
  expect(alone.modules.map(({ path }) => path).sort()).toEqual([...byPath.keys()].sort());
  for (const { path, norm, relativeNorm } of alone.modules)
    expect([relativeNorm, norm]).toEqual([null, expect.closeTo(byPath.get(path)!.norm, 5)]);
});

it("compares two adapters, and says in one line what is wrong", async () => {
  const { code, stdout, stderr } = await lorikeet(["inspect", adapterOf("first"), adapterOf("second"), "--model", model]);
  expect(code, stderr).toBe(0);
  expect(stdout).toContain("cosine of both as a whole");
  expect(stdout.split("\n").filter((line) => line.startsWith("model.layers."))).toHaveLength(14);
  await expectRefusal(["inspect", at("nowhere")], "nowhere");
  await expectRefusal(["inspect", adapterOf("first"), "--energy", "2"], "from 0 to 1");
  await expectRefusal(["inspect", adapterOf("first"), "--energy", "0"], "above 0 up to 1");
});
