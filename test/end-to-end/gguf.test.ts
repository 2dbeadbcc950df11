/** `lorikeet gguf`: the adapter of a run as a file for llama.cpp. */
import { statSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, expect, it } from "vitest";
import { readGguf } from "../../src/formats/gguf.ts";
import { expectRefusal, lorikeet } from "./command.ts";
import { smallRun } from "./small-run.ts";

const { at, model, args } = smallRun();
const [out, adapter] = [at("out"), join(at("out"), "adapter")];
beforeAll(async () => {
  const { code, stderr } = await lorikeet(["finetune", ...args, "--steps", "2", "--rank", "2", "--out", out]);
  expect(code, stderr).toBe(0);
});

it("writes the factors of every layer beside the adapter's other files, in 32 bits or in 16", async () => {
  const { code, stderr } = await lorikeet(["gguf", adapter]);
  expect(code, stderr).toBe(0);
  const file = join(adapter, "adapter.gguf");
  expect(stderr).toContain(`llama-cli -m model.gguf --lora ${file}`);
  const { metadata, tensors } = await readGguf(file);
  expect(metadata.get("general.architecture")).toBe("llama");
  expect(metadata.get("adapter.lora.alpha")).toBe(4);
  expect(tensors.size).toBe(2 * 7 * 2);
  expect(tensors.get("blk.1.ffn_down.weight.lora_b")?.shape).toEqual([32, 2]);
  const half = at("half.gguf");
  expect((await lorikeet(["gguf", adapter, "--model", model, "--out", half, "--half"])).code).toBe(0);
  expect(statSync(half).size).toBeLessThan(statSync(file).size * 0.75);
});

it("says in one line what is missing", async () => {
  await expectRefusal(["gguf", at("nowhere")], "nowhere");
  await expectRefusal(["gguf", model], "adapter_config.json");
});
