/** Multitask prompts that start from those of other tasks, as PEFT starts them (source-tasks/make.py). */
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import "../../src/devices/choose.ts";
import { downloadSync } from "../../src/compile/program.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { attach, loadAdapter, multitaskPrompt, readSourceTasks, type SourceTasks, saveAdapter } from "../../src/peft/index.ts";
import { loadModel } from "../../src/train/load-model.ts";
import { expectValuesClose } from "../golden/suite.ts";
import { temporaryFolder } from "../temporary-folder.ts";
import { ids } from "./small-model.ts";

const here = join(import.meta.dirname, "source-tasks");
const source = join(here, "source");
const folder = temporaryFolder();

const base = async () => (await loadModel(join(import.meta.dirname, "../fixtures/peft/base/llama"))).model.eval();
const numbers = (x: Tensor): number[] => Array.from(downloadSync(x));
const text = () => ids(3, 9, 27, 4, 12);
const options = {
  numVirtualTokens: 3,
  numRanks: 2,
  promptTuningInitStateDictPath: join(source, "adapter_model.safetensors"),
  taskType: "CAUSAL_LM",
} as const;
const learnedNames = ["prompt_embeddings", "prefix_task_cols", "prefix_task_rows"] as const;

let starts: SourceTasks;
let sourceTasks: SourceTasks;
beforeAll(async () => {
  starts = await readSourceTasks(join(here, "starts.safetensors"));
  sourceTasks = await readSourceTasks(source);
});

describe.each([
  ["AVERAGE_SOURCE_TASKS", 0, learnedNames],
  ["EXACT_SOURCE_TASK", 2, learnedNames],
  ["ONLY_SOURCE_SHARED", 0, ["prompt_embeddings"]],
] as const)("%s", (promptTuningInit, promptTuningInitTask, learned) => {
  it("starts as in PEFT, and comes back from its file", async () => {
    const model = await base();
    attach(model, multitaskPrompt({ ...options, promptTuningInit, promptTuningInitTask }), { sourceTasks });
    const path = join(folder, promptTuningInit);
    await saveAdapter(model, path);
    const saved = await readSourceTasks(path);
    for (const name of learnedNames) {
      const want = starts[`${promptTuningInit}.${name}`]!;
      expect(saved[name]!.shape).toEqual(want.shape);
      const close = () => expectValuesClose(name, saved[name]!.data, want.data, { rtol: 1e-6, atol: 1e-7 });
      if ((learned as readonly string[]).includes(name)) close();
      else expect(close).toThrow(); // drawn, by another generator
    }
    const logits = numbers(model.forward({ inputIds: text() }).logits);
    const want = starts[`${promptTuningInit}.logits`]!.data;
    if (learned.length === 3) expectValuesClose("logits", logits, want, { rtol: 1e-4, atol: 1e-4 });
    const again = await base();
    await loadAdapter(again, path, { trainable: true });
    expect(numbers(again.forward({ inputIds: text() }).logits)).toEqual(logits);
  });
});

describe("what cannot be a start", () => {
  const start = { promptTuningInit: "EXACT_SOURCE_TASK" } as const;
  it("is refused in the config", () => {
    const { promptTuningInitStateDictPath: _, ...without } = options;
    expect(() => multitaskPrompt({ ...without, ...start })).toThrow("`promptTuningInitStateDictPath` must be given");
    expect(() => multitaskPrompt({ ...options, ...start, numTasks: 2 })).toThrow("starts one task, not `numTasks` (= 2)");
    expect(() => multitaskPrompt({ ...options, promptTuningInit: "ONLY_SOURCE_SHARED", numTasks: 2 })).not.toThrow();
  });

  it.each([
    [{ ...options, ...start }, undefined, "Give attach `sourceTasks: await readSourceTasks(path)`"],
    [{ ...options, ...start, promptTuningInitTask: 3 }, () => sourceTasks, "not one of the 3 source tasks"],
    [
      { ...options, ...start, numVirtualTokens: 4 },
      () => sourceTasks,
      "prompt_embeddings of the source tasks is [3, 32], [4, 32]",
    ],
    [{ ...options, ...start, numRanks: 1 }, () => sourceTasks, "prefix_task_cols of the source tasks is [3, 3, 2], [1, 3, 1]"],
    [{ ...options, ...start }, () => ({ other: starts["input_ids"]! }), "prompt_embeddings is not in the file of source tasks"],
  ])("is refused when it is attached: %#", async (config, given, message) => {
    const model = await base();
    const before = [...model.namedParameters()].length;
    expect(() => attach(model, multitaskPrompt(config), { ...(given && { sourceTasks: given() }) })).toThrow(message);
    expect([...model.namedParameters()].length).toBe(before);
  });

  it("is refused when it is read", async () => {
    await expect(readSourceTasks(join(here, "make.py"))).rejects.toThrow("is not a safetensors file");
    await expect(readSourceTasks(here)).rejects.toThrow("is not there");
  });
});
