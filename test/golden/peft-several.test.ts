/** The cases of `peft/` with several adapters on one model. */
import { join } from "node:path";
import { expect } from "vitest";
import {
  activeAdapters,
  deleteAdapter,
  loadAdapter,
  merge,
  mergeAndUnload,
  setActive,
  setScale,
  unmerge,
} from "../../src/peft/index.ts";
import { implemented, loadBase, logitMask, logits, type PeftCase, peftCases } from "./peft-case.ts";
import { expectClose, goldenFolder, goldenSuite, goldenTensors } from "./suite.ts";

async function multiActive(item: PeftCase): Promise<void> {
  const expected = await goldenTensors("peft", item.name, "expected.safetensors");
  const load = async (...names: string[]) => {
    const own = await loadBase(item.base);
    for (const name of names) await loadAdapter(own.model, join(goldenFolder, "peft", item.adapters![name]!), { name });
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

goldenSuite(
  "peft/several",
  peftCases(
    (item, kind, base) => {
      if (kind !== "multi_active" || !Object.values(item.adapters!).every((folder) => implemented(base, folder)))
        return undefined;
      return () => multiActive(item);
    },
    ...["multi_active", "mixed_batch", "mixed_types", "combine", "convert", "arrow", "xlora"],
    ...["init", "init_convert"],
  ),
);
