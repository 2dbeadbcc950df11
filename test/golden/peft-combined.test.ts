/** The cases of `peft/` in which adapters become another one: weighted combinations, and conversion to LoRA. */
import { basename, join } from "node:path";
import { expect } from "vitest";
import { download } from "../../src/compile/program.ts";
import { matmul } from "../../src/graph/contraction.ts";
import type { Tensor } from "../../src/graph/node.ts";
import {
  type Adapter,
  type CombinationType,
  combineAdapters,
  convertToLora,
  loadAdapter,
  setActive,
} from "../../src/peft/index.ts";
import { camel, toFileConfig } from "../../src/peft/method-config.ts";
import { lora, scalingOf } from "../../src/peft/methods/lora.ts";
import { fileParameters, implemented, loadBase, logitMask, logits, type PeftCase, peftCases } from "./peft-case.ts";
import { expectClose, goldenFolder, goldenSuite, goldenTensors, readGolden, toTensor } from "./suite.ts";

/** The case's folders, as an adapter list. */
const foldersOf = ({ adapters }: PeftCase): string[] => Object.values(adapters ?? {}) as string[];

/** s·B·A of every layer. */
const changesOf = (adapter: Adapter): Map<string, Tensor> =>
  new Map(
    [...adapter.layers].map(([path, layer]) => {
      const { method, parameters, config } = layer.adapters.get(adapter.name)!;
      const { A, B } = parameters;
      return [path, method.delta!(layer.base(), { A: A!.stored, B: B!.stored }, config, 1)] as const;
    }),
  );

/** What is in the config beside what the files' history has put there. */
const plain = (config: Readonly<Record<string, unknown>>) =>
  Object.fromEntries(
    Object.entries(config)
      .filter(([key]) => !["peft_version", "inference_mode", "base_model_name_or_path"].includes(key))
      .map(([key, value]) => [key, Array.isArray(value) ? [...value].sort() : value]),
  );

async function combine(item: PeftCase): Promise<void> {
  const expected = await goldenTensors("peft", item.name, "expected.safetensors");
  const { model, inputs, mask } = await loadBase(item.base);
  const names = foldersOf(item).map((folder) => basename(folder));
  for (const folder of foldersOf(item)) await loadAdapter(model, join(goldenFolder, "peft", folder), { name: basename(folder) });
  let masks = 0;
  const combined = combineAdapters(model, {
    ...Object.fromEntries(Object.entries(item.options ?? {}).map(([key, value]) => [camel(key), value])),
    adapters: names,
    weights: item.weights!,
    type: item.combination_type as CombinationType,
    name: "combined",
    mask: () => toTensor(expected.get(`dare_mask.${masks++}`)!),
  });
  expect(expected.has(`dare_mask.${masks}`)).toBe(false);
  expect(plain(toFileConfig(lora.schema, combined.config))).toEqual(
    plain({ ...readGolden<object>("peft", item.name, "adapter", "adapter_config.json"), peft_type: undefined }),
  );
  const changes = changesOf(combined);
  expect([...expected.keys()].filter((key) => key.startsWith("delta."))).toHaveLength(changes.size);
  for (const [path, change] of changes) await expectClose(path, change, expected.get(`delta.${path}`)!, logits);
  if (!/svd$/.test(item.combination_type!)) {
    const stored = await goldenTensors("peft", item.name, "adapter", "adapter_model.safetensors");
    const own = fileParameters(combined);
    expect([...own.keys()].sort()).toEqual([...stored.keys()].sort());
    for (const [key, parameter] of own) await expectClose(key, parameter.stored, stored.get(key)!, logits);
  }
  setActive(model, "combined");
  const want = expected.get("logits")!;
  await expectClose("logits", model.forward(inputs).logits, want, { ...logits, mask: logitMask(mask, want) });
}

async function convert(item: PeftCase): Promise<void> {
  const expected = await goldenTensors("peft", item.name, "expected.safetensors");
  const { model, inputs, mask } = await loadBase(item.base);
  const source = await loadAdapter(model, join(goldenFolder, "peft", item.name, "source"));
  const want = expected.get("logits_source")!;
  const close = { ...logits, mask: logitMask(mask, want) };
  await expectClose("logits_source", model.forward(inputs).logits, want, close);
  const converted = convertToLora(model, { adapter: source.name, rank: item.rank!, name: "converted" });
  expect(scalingOf(converted)).toBe(1);
  const changes = changesOf(converted);
  expect([...expected.keys()].filter((key) => key.endsWith("lora_A.weight"))).toHaveLength(changes.size);
  for (const [path, change] of changes) {
    const [A, B] = ["A", "B"].map((side) => toTensor(expected.get(`lora.base_model.model.${path}.lora_${side}.weight`)!));
    const product = matmul(B!, A!);
    await expectClose(path, change, { shape: product.shape, data: await download(product) }, logits);
  }
  // all of the energy is all of the adapter
  convertToLora(model, { adapter: source.name, energy: 1, name: "whole" });
  setActive(model, "whole");
  await expectClose("logits of all its energy", model.forward(inputs).logits, want, close);
}

goldenSuite(
  "peft/combined",
  peftCases(
    (item, kind, base) => {
      if (kind === "convert") return implemented(base, item.name, "source") ? () => convert(item) : undefined;
      return foldersOf(item).every((folder) => implemented(base, folder)) ? () => combine(item) : undefined;
    },
    "combine",
    "convert",
  ),
);
