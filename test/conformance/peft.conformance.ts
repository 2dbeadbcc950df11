/**
 * Files of adapters and models are interchangeable with Hugging Face's peft and transformers: what one side writes the other
 * reads, with the same logits beside the weights, disabled and merged. See peft_side.py for the other side.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { currentDevice, downloadSync, upload, useDevice } from "../../src/compile/program.ts";
import { createWasm } from "../../src/devices/wasm/device.ts";
import { defaultAdapterName } from "../../src/formats/peft-adapter.ts";
import { readSafetensors, writeSafetensors } from "../../src/formats/safetensors.ts";
import type { Tensor } from "../../src/graph/node.ts";
import type { CausalLM } from "../../src/models/causal-lm.ts";
import { createModel } from "../../src/models/create-model.ts";
import { type Task, taskOf } from "../../src/models/task.ts";
import type { Module } from "../../src/nn/module.ts";
import {
  adapterNames,
  attach,
  deleteAdapter,
  disabled,
  loadAdapter,
  merge,
  mergeAndUnload,
  methods,
  saveAdapter,
  setActive,
  unmerge,
} from "../../src/peft/index.ts";
import type { AnyMethod } from "../../src/peft/method.ts";
import { toFileConfig } from "../../src/peft/method-config.ts";
import { stack } from "../../src/tensor/arrange.ts";
import { manualSeed } from "../../src/tensor/random.ts";
import { complete } from "../../src/train/generation.ts";
import { loadModel, saveModel } from "../../src/train/load-model.ts";
import { type BaseName, bases, type Case, cases, config, shake } from "./peft-cases.ts";
import { pythonSide } from "./python.ts";

const folder = mkdtempSync(join(tmpdir(), "lorikeet-conformance-"));
const ids = Int32Array.from({ length: 18 }, (_, i) => (i * i * 7 + 3) % config.vocab_size);
const pixels = Float32Array.from({ length: 2 * 3 * 8 * 8 }, (_, i) => Math.sin(i * 1.7));
const shapes = { ids: [2, 9], pixels: [2, 3, 8, 8] };
const isImage = (model: Module) => !("backbone" in model);
/** What comes out, whatever that is called: logits of words or classes, of where answers begin and end, or states. */
type AnyOutput = Readonly<Partial<Record<"logits" | "startLogits" | "endLogits" | "lastHiddenState", Tensor>>>;
/** Logits, or states, of a model of texts or of images. */
const logitsOf = (model: Module): Float32Array => {
  const inputs = isImage(model)
    ? { pixelValues: upload(currentDevice(), pixels, shapes.pixels, "float32") }
    : {
        inputIds: upload(currentDevice(), ids, shapes.ids, "int32"),
        ...("answering" in model ? { labels: upload(currentDevice(), ids, shapes.ids, "int32") } : {}),
      };
  const { forward } = model as Module & { forward(given: typeof inputs): AnyOutput };
  const { startLogits, endLogits, lastHiddenState, logits = lastHiddenState } = forward.call(model, inputs);
  return downloadSync(logits ?? stack([startLogits!, endLogits!], -1)) as Float32Array;
};

/** Logits of the model as it is, without its adapters, and with them in its weights. */
function threeWays(model: Module, { unmergeable }: Case): Record<string, Float32Array> {
  const logits = () => logitsOf(model);
  const found = { beside: logits(), disabled: disabled(model, logits) };
  if (unmergeable) return found;
  merge(model);
  const merged = logits();
  unmerge(model);
  return { ...found, merged };
}

const taskOfBase = (base: string): Task => taskOf(bases[base as BaseName].architectures[0]!)!;
const freshBase = async (base = "untied"): Promise<Module> =>
  (await loadModel(join(folder, base), { task: taskOfBase(base) })).model.eval();
const logitsIn = async (...path: string[]) => {
  const { tensors } = await readSafetensors(join(folder, ...path));
  return new Map(await Promise.all([...tensors].map(async ([name, tensor]) => [name, await tensor.load()] as const)));
};
const files = (name: string, adapter: string) => ({
  config: JSON.parse(readFileSync(join(folder, name, adapter, "adapter_config.json"), "utf8")),
  tensors: readSafetensors(join(folder, name, adapter, "adapter_model.safetensors")),
});

function expectClose(what: string, got: ArrayLike<number>, want: ArrayLike<number> | undefined): void {
  expect(got.length, what).toBe(want?.length);
  const worst = Array.from(got).reduce((most, value, i) => Math.max(most, Math.abs(value - (want as Tensor["shape"])[i]!)), 0);
  expect(worst, `${what}: largest difference`).toBeLessThan(1e-4);
}

/** What is said when an adapter tears tied weights apart, as it does here on purpose. */
const withoutTying = (warnings: readonly string[]) =>
  warnings.filter((warning) => !warning.includes("`ensureWeightTying` would"));

const ours = new Map<string, Record<string, Float32Array>>();
const written = new Map<string, number[]>();
/** What a case is tried on, beside what continues a text. */
const inputsOf: Readonly<Record<string, string>> = {
  ...{ vit: "images", bert: "classes", bert_answers: "answers", bert_states: "states", t5: "answered" },
};
/** Cases whose generated text is compared, too: PEFT's generation knows of virtual tokens. */
const writes = ({ unmergeable, base = "" }: Case): boolean => unmergeable === true && !(base in inputsOf);
const adapterFolder = ({ adapterName }: { readonly adapterName?: string }) =>
  adapterName === undefined ? "ours" : `ours/${adapterName}`;

beforeAll(async () => {
  useDevice(createWasm({ threads: 1 }));
  for (const [name, json] of Object.entries(bases)) {
    manualSeed(name.length);
    const model = createModel(json, { task: taskOfBase(name) });
    shake(model, 1); // biases, too, which start at zero
    await saveModel(join(folder, name), model, json);
  }
  const whole = (...values: number[]) => ({ dtype: "int32", shape: [2], data: Int32Array.from(values) }) as const;
  const images = { dtype: "float32", shape: shapes.pixels, data: pixels } as const;
  const input_ids = { dtype: "int32", shape: shapes.ids, data: ids } as const;
  const labels = whole(2, 0);
  for (const [name, inputs] of Object.entries({
    texts: { input_ids, labels: input_ids },
    images: { pixel_values: images, labels },
    classes: { input_ids, labels },
    answers: { input_ids, start_positions: whole(2, 4), end_positions: whole(3, 8) },
    states: { input_ids },
    answered: { input_ids, labels: input_ids },
  }))
    await writeSafetensors(join(folder, `${name}.safetensors`), inputs);
  const list: object[] = [];
  for (const [i, [name, item]] of Object.entries(cases).entries()) {
    const { base = "untied", adapterName = defaultAdapterName, method: key = "lora", unmergeable = false, ...rest } = item;
    const { saveEmbeddingLayers = "auto", mergedTwice: _, ownBasis: __, made, ...options } = rest;
    const method: AnyMethod = methods[key];
    const model = await freshBase(base);
    const configured = method({ ...(isImage(model) ? {} : { taskType: "CAUSAL_LM" }), ...options });
    const adapter = made ? made(model, adapterName) : attach(model, configured, { name: adapterName, seed: i });
    if (made) {
      setActive(model, adapterName);
      for (const other of adapterNames(model)) if (other !== adapterName) deleteAdapter(model, other);
    } else shake(model, i);
    ours.set(name, threeWays(model, item));
    if (writes(item))
      written.set(name, await complete(model as CausalLM, [...ids.subarray(0, 4)], { temperature: 0, maxNewTokens: 6 }));
    await saveAdapter(model, join(folder, name, "ours"), { name: adapterName, saveEmbeddingLayers });
    if (!unmergeable) {
      mergeAndUnload(model);
      await saveModel(join(folder, name, "merged"), model, bases[base as BaseName]);
    }
    const full = toFileConfig(method.schema, made ? adapter.config : configured.config);
    const given = Object.entries(full).filter(
      ([, value]) => value !== null && !["peft_type", "peft_version", "inference_mode"].includes(String(value)),
    );
    const { peftType: type } = method;
    list.push({
      name,
      base,
      inputs: inputsOf[base] ?? "texts",
      merges: !unmergeable,
      writes: writes(item),
      type,
      adapter: join(name, adapterFolder(item)),
      config: Object.fromEntries(given),
      saveEmbeddingLayers,
    });
    expect(withoutTying(adapter.warnings)).toEqual([]);
  }
  writeFileSync(join(folder, "cases.json"), JSON.stringify(list));
  await pythonSide("peft", folder);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe.each(Object.entries(cases))("an adapter: %s", (name, options) => {
  test("PEFT reads ours, without missing keys, and computes the same", async () => {
    const theirs = await logitsIn(name, "read.safetensors");
    for (const [what, logits] of Object.entries(ours.get(name)!))
      if (!options.ownBasis && (what !== "merged" || !options.mergedTwice)) expectClose(what, logits, theirs.get(what));
    expect(JSON.parse(readFileSync(join(folder, name, "notes.json"), "utf8"))).toEqual([]);
    if (writes(options)) expect(written.get(name)).toEqual([...theirs.get("written")!]);
  });

  test.skipIf(options.unmergeable)("transformers reads the merged model that we saved", async () => {
    const theirs = await logitsIn(name, "read.safetensors");
    expectClose("merged", ours.get(name)!["merged"]!, theirs.get("saved_merged"));
  });

  test("we read PEFT's after a step of training, and compute the same", async () => {
    const model = await freshBase(options.base);
    const { warnings } = await loadAdapter(model, join(folder, name, "theirs"));
    expect(withoutTying(warnings)).toEqual([]);
    const theirs = await logitsIn(name, "theirs.safetensors");
    const got = threeWays(model, options);
    for (const [what, logits] of Object.entries(got))
      if (what !== "merged" || !options.mergedTwice) expectClose(what, logits, theirs.get(what));
    expect(got["beside"], "the adapter does something").not.toEqual(logitsOf(await freshBase(options.base)));
  });

  test("both write the same keys, shapes and config", async () => {
    const [mine, theirs] = [files(name, adapterFolder(options)), files(name, "theirs")];
    const shapes = async ({ tensors }: typeof mine) =>
      Object.fromEntries(
        [...(await tensors).tensors]
          // with `bias: "all"` PEFT writes biases of modules to save twice more, under names that it does not read
          .filter(([key]) => !/\.(modules_to_save|original_module)\./.test(key))
          .map(([key, tensor]) => [key, [tensor.storedDType, ...tensor.shape]]),
      );
    expect(await shapes(mine)).toEqual(await shapes(theirs));
    // PEFT lists the output layer of a classifier that it adds as often as it passes by
    const sorted = (value: unknown) => (Array.isArray(value) ? [...new Set(value)].sort() : value);
    const plain = ({ config: read }: typeof mine) =>
      Object.fromEntries(
        Object.entries(read)
          // without a task PEFT notes the model's class, which ours has not
          .filter(([key]) => key !== "base_model_name_or_path" && (read["task_type"] !== null || key !== "auto_mapping"))
          .map(([key, value]) => [key, sorted(value)]),
      );
    expect(plain(mine)).toEqual(plain(theirs));
  });
});
