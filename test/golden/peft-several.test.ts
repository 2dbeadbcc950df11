/** The cases of `peft/` with several adapters on one model. */
import { join } from "node:path";
import { expect } from "vitest";
import {
  activeAdapters,
  attach,
  deleteAdapter,
  loadAdapter,
  loadArrow,
  loadXlora,
  merge,
  mergeAndUnload,
  methods,
  setActive,
  setScale,
  unmerge,
  withAdapters,
  xloraScalings,
} from "../../src/peft/index.ts";
import type { AnyMethod } from "../../src/peft/method.ts";
import { toCamel } from "../../src/peft/method-config.ts";
import { implemented, inputsFrom, loadBase, logitMask, logits, type PeftCase, peftCases } from "./peft-case.ts";
import { expectClose, goldenFolder, goldenSuite, goldenTensors, toTensor } from "./suite.ts";

async function multiActive(item: PeftCase): Promise<void> {
  const expected = await goldenTensors("peft", item.name, "expected.safetensors");
  const load = async (...names: string[]) => {
    const own = await loadBase(item.base);
    for (const name of names) await loadAdapter(own.model, join(goldenFolder, "peft", item.adapters![name] as string), { name });
    const close = async (what: string) => {
      const want = expected.get(`logits.${what}`)!;
      await expectClose(what, own.model.forward(own.inputs).logits, want, { ...logits, mask: logitMask(own.mask, want) });
    };
    return { ...own, close };
  };
  const all = Object.keys(item.adapters!);
  const { model, close } = await load(...all);
  for (const name of all) {
    setActive(model, name);
    await close(`only_${name}`);
  }
  setActive(model, ["a", "c"]);
  await close("a_and_c");
  setScale(model, 0.5);
  await close("a_and_c_rescaled_0.5");

  const merged = await load(...all);
  mergeAndUnload(merged.model, ["a", "c"]);
  await merged.close("merged_a_and_c");

  const fewer = await load(...all);
  deleteAdapter(fewer.model, "a");
  await fewer.close("after_delete_a");
  expect(activeAdapters(fewer.model)).toEqual(item.active_after_delete_a);

  const one = await load("a");
  merge(one.model);
  await one.close("a_merge_adapter");
  unmerge(one.model);
  await one.close("a_unmerged");
}

async function mixedBatch(item: PeftCase): Promise<void> {
  const expected = await goldenTensors("peft", item.name, "expected.safetensors");
  const { model } = await loadBase(item.base);
  for (const [name, folder] of Object.entries(item.adapters as Record<string, string>))
    await loadAdapter(model, join(goldenFolder, "peft", folder), { name });
  const got = withAdapters(model, item.adapter_names!, () => model.forward(inputsFrom(expected, "in.")).logits);
  const want = expected.get("logits")!;
  await expectClose("logits", got, want, { ...logits, mask: logitMask(expected.get("in.attention_mask"), want) });
}

/** Adapters of different methods on one model, made here and filled with PEFT's values. */
async function mixedTypes(item: PeftCase): Promise<void> {
  const expected = await goldenTensors("peft", item.name, "expected.safetensors");
  const { model, inputs, mask } = await loadBase(item.base);
  const names = Object.keys(item.adapters!);
  const own = (name: string) => `${name}-adapter`; // "lora" cannot be told from the beginning of LoRA's parameters
  for (const [name, config] of Object.entries(item.adapters as Record<string, { readonly peft_type: string }>)) {
    const method = (Object.values(methods) as AnyMethod[]).find(({ peftType }) => peftType === config.peft_type)!;
    attach(model, method(toCamel(config)), { name: own(name) });
  }
  const parameters = new Map(model.namedParameters());
  const values = [...expected].filter(([key]) => key.startsWith("param."));
  for (const [key, value] of values) {
    // PEFT puts a wrapper around the wrapper
    const plain = key.slice("param.".length).replace(".base_layer.", ".");
    const path = plain.replace(/\.([^.]+)(\.weight)?$/, (_, name, leaf = "") => `.${own(name)}${leaf}`);
    parameters.get(path)!.assign(toTensor(value));
  }
  expect(values).toHaveLength([...parameters.keys()].filter((path) => path.includes(own(""))).length);
  for (const active of [...names.map((name) => [name]), names]) {
    setActive(model, active.map(own));
    const want = expected.get(`logits.${active.length > 1 ? "both" : active[0]}`)!;
    await expectClose(active.join(), model.forward(inputs).logits, want, { ...logits, mask: logitMask(mask, want) });
  }
}

type ArrowSetting = {
  readonly top_k: number;
  readonly router_temperature: number;
  readonly general_adapters?: readonly string[];
};

/** Tokens that choose among experts by what these stretch most. */
async function arrow(item: PeftCase): Promise<void> {
  const expected = await goldenTensors("peft", item.name, "expected.safetensors");
  const { experts, settings } = item as PeftCase & { experts: readonly string[]; settings: Record<string, ArrowSetting> };
  const folders = (names: readonly string[]) => names.map((name) => join(goldenFolder, "peft", name));
  for (const [name, { top_k: topK, router_temperature: routerTemperature, general_adapters }] of Object.entries(settings)) {
    const { model, inputs, mask } = await loadBase(item.base);
    await loadArrow(model, folders(experts), { topK, routerTemperature, general: folders(general_adapters ?? []), seed: 0 });
    const want = expected.get(`logits.${name}`)!;
    await expectClose(name, model.forward(inputs).logits, want, { ...logits, mask: logitMask(mask, want) });
  }
}

/** Experts among which a network chooses that sees what the model alone makes of a text. */
async function xlora(item: PeftCase): Promise<void> {
  const expected = await goldenTensors("peft", item.name, "expected.safetensors");
  const { model, inputs, mask } = await loadBase(item.base);
  const adapters = (item.adapters as unknown as readonly string[]).map((name) => join(goldenFolder, "peft", name));
  const folder = join(goldenFolder, "peft", item.name, "adapter");
  expect(await loadXlora(model, folder, { adapters })).toEqual([expect.stringContaining("layers.0.weight, layers.0.bias")]);
  // PEFT takes a layer of the network whose number is an expert's name for a part of that expert, and leaves it out of the file
  const parameters = new Map(model.namedParameters());
  for (const [key, value] of expected)
    if (key.startsWith("param."))
      parameters.get(`internal_xlora_classifier.${key.slice("param.".length)}`)!.assign(toTensor(value));
  const scalings = expected.get("scalings")!;
  const [B, T, L, E] = scalings.shape as [number, number, number, number];
  const ofTokens = logitMask(mask, { shape: [B, T, L * E], data: scalings.data });
  await expectClose("scalings", xloraScalings(model, inputs), scalings, { ...logits, mask: ofTokens });
  const want = expected.get("logits")!;
  await expectClose("logits", model.forward(inputs).logits, want, { ...logits, mask: logitMask(mask, want) });
}

const runs: Readonly<Record<string, (item: PeftCase) => Promise<void>>> = {
  arrow,
  xlora,
  multi_active: multiActive,
  mixed_batch: mixedBatch,
  mixed_types: mixedTypes,
};

goldenSuite(
  "peft/several",
  peftCases(
    (item, kind, base) => {
      const run = runs[kind];
      const folders = Object.values(item.adapters ?? {}).filter((folder) => typeof folder === "string");
      return run && folders.every((folder) => implemented(base, folder)) ? () => run(item) : undefined;
    },
    ...Object.keys(runs),
  ),
);
