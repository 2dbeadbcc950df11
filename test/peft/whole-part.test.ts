/** What is trained of the model itself along with an adapter: whole modules (`modulesToSave`), biases (`bias`), and LoRA's own bias. */
import { join } from "node:path";
import fc from "fast-check";
import { beforeEach, describe, expect, it } from "vitest";
import { compile } from "../../src/compile/trace.ts";
import { LorikeetError } from "../../src/errors.ts";
import { readSafetensors } from "../../src/formats/safetensors.ts";
import { add } from "../../src/graph/elementwise.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { reduceSum } from "../../src/graph/reduction.ts";
import { constant } from "../../src/graph/source.ts";
import type { Parameter } from "../../src/nn/module.ts";
import { gradientsOf } from "../../src/optim/optimizer.ts";
import { SGD } from "../../src/optim/sgd.ts";
import { snapshot, traceLeft } from "../../src/peft/check-method.ts";
import {
  activeAdapters,
  adapterNames,
  attach,
  baseStateDict,
  deleteAdapter,
  detach,
  disabled,
  loadAdapter,
  lora,
  merge,
  mergeAndUnload,
  mergeDifference,
  saveAdapter,
  setActive,
  unmerge,
} from "../../src/peft/index.ts";
import { cases } from "../arbitrary/cases.ts";
import { onEveryDevice } from "../devices.ts";
import { temporaryFolder } from "../temporary-folder.ts";
import { difference, ids, numbers, SmallModel, shake } from "./small-model.ts";

let folder: string;
beforeEach(() => void (folder = temporaryFolder()));

const x = () => ids(1, 2, 3);
const names = (model: SmallModel): string[] =>
  [...model.namedParameters()].filter(([, parameter]) => parameter.requiresGrad).map(([name]) => name);
const parameter = (model: SmallModel, name: string): Parameter => {
  const found = [...model.namedParameters()].find(([path]) => path === name);
  if (!found) throw new Error(`no ${name}`);
  return found[1];
};
const raise = (model: SmallModel, name: string, by = 1): void => {
  const found = parameter(model, name);
  found.assign(add(found.stored, constant(by, found.shape)));
};

const head = "lm_head.modules_to_save.default.weight";
const withHead = lora({ r: 2, targetModules: ["q_proj"], modulesToSave: ["lm_head"] });

onEveryDevice(() => {
  describe("a module that is trained as a whole", () => {
    it("starts as it is, has PEFT's names, and is the only weight that is trained beside the adapter", () => {
      const model = new SmallModel();
      const before = numbers(model.forward(x()));
      attach(model, withHead);
      expect(numbers(model.forward(x()))).toEqual(before);
      expect(names(model)).toEqual([
        "model.layers.0.self_attn.q_proj.lora_A.default.weight",
        "model.layers.0.self_attn.q_proj.lora_B.default.weight",
        "model.layers.1.self_attn.q_proj.lora_A.default.weight",
        "model.layers.1.self_attn.q_proj.lora_B.default.weight",
        head,
      ]);
      expect([...model.stateDict().keys()]).toContain("lm_head.original_module.weight");
      expect([...baseStateDict(model).keys()]).toEqual([...new SmallModel().stateDict().keys()]);
    });

    it("is trained in a compiled step, and only while its adapter acts", () => {
      const model = new SmallModel();
      attach(model, withHead);
      attach(model, lora({ r: 2, targetModules: ["q_proj"] }), { name: "other" });
      const own = numbers(parameter(model, "lm_head.original_module.weight").stored);
      const trained = model.trainableParameters();
      const optimizer = new SGD(trained, { lr: 0.1 });
      const step = compile((input: Tensor) => {
        const loss = reduceSum(model.forward(input), [0, 1, 2]);
        optimizer.step(gradientsOf(loss, trained));
        return loss;
      });
      const [first] = numbers(step(x()));
      const [second] = numbers(step(x()));
      expect(second).toBeLessThan(first!);
      step.dispose();
      expect(numbers(parameter(model, "lm_head.original_module.weight").stored)).toEqual(own);
      expect(numbers(parameter(model, head).stored)).not.toEqual(own);

      const forward = compile((input: Tensor) => model.forward(input));
      const acting = numbers(forward(x()));
      setActive(model, "other");
      const without = numbers(forward(x()));
      expect(without).not.toEqual(acting);
      expect(parameter(model, head).requiresGrad).toBe(false);
      expect(numbers(disabled(model, () => forward(x())))).toEqual(without); // the other adapter is fresh
      setActive(model, ["default", "other"]);
      expect(numbers(forward(x()))).toEqual(acting);
      forward.dispose();
    });

    it("takes the module's place when merged, and gives it back", () => {
      const model = new SmallModel({ tied: true });
      const before = snapshot(model);
      attach(model, withHead);
      shake(model);
      raise(model, head, 0.5);
      const beside = model.forward(x());
      const off = numbers(disabled(model, () => model.forward(x())));
      expect(mergeDifference(model, () => model.forward(x()))).toBeLessThan(1e-5);
      expect(merge(model)).toContain("lm_head");
      expect(difference(model.forward(x()), beside)).toBeLessThan(1e-5);
      expect(numbers(disabled(model, () => model.forward(x())))).toEqual(off);
      expect(difference(model.forward(x()), beside)).toBeLessThan(1e-5);
      // the embedding, which shares its weight with the output layer, keeps it
      expect([...baseStateDict(model).keys()]).toContain("lm_head.weight");
      expect(numbers(baseStateDict(model).get("model.embed_tokens.weight")!)).toEqual([...before.values[0]!]);
      unmerge(model);
      detach(model);
      expect(traceLeft(before, model)).toBeUndefined();

      attach(model, withHead);
      shake(model);
      raise(model, head, 0.5);
      mergeAndUnload(model);
      expect(difference(model.forward(x()), beside)).toBeLessThan(1e-5);
      expect([...model.namedModules()].map(([path]) => path)).toEqual(before.modules.map(([path]) => path));
      expect(parameter(model, "lm_head.weight").requiresGrad).toBe(true);
    });

    it("goes into the file under its own name, and comes back", async () => {
      const model = new SmallModel();
      attach(model, withHead);
      shake(model);
      raise(model, head);
      const after = model.forward(x());
      for (const merged of [false, true]) {
        if (merged) merge(model);
        await saveAdapter(model, folder);
        const { tensors } = await readSafetensors(join(folder, "adapter_model.safetensors"));
        expect([...tensors.keys()][0]).toBe("base_model.model.lm_head.weight");
        const again = new SmallModel();
        await loadAdapter(again, folder, { name: "whale" });
        expect(difference(again.forward(x()), after)).toBeLessThan(1e-5);
      }
    });

    it("leaves nothing in it to adapt", () => {
      expect(() => attach(new SmallModel(), lora({ targetModules: ["q_proj"], modulesToSave: ["attn"] }))).toThrow(
        'attach: every module that matches targetModules ["q_proj"] is taken out by `excludeModules`, `modulesToSave` or `layersToTransform`.',
      );
    });

    it("may be a module of modules", async () => {
      const model = new SmallModel();
      attach(model, lora({ r: 2, targetModules: ["embed_tokens"], modulesToSave: ["layers.1.self_attn"] }));
      shake(model);
      raise(model, "model.layers.1.self_attn.modules_to_save.default.v_proj.bias");
      const after = numbers(model.forward(x()));
      expect(after).not.toEqual(numbers(disabled(model, () => model.forward(x()))));
      await saveAdapter(model, folder);
      const { tensors } = await readSafetensors(join(folder, "adapter_model.safetensors"));
      expect([...tensors.keys()]).toContain("base_model.model.model.layers.1.self_attn.v_proj.bias");
      const again = new SmallModel();
      await loadAdapter(again, folder, { name: "whale" });
      for (const [i, value] of numbers(again.forward(x())).entries()) expect(value).toBeCloseTo(after[i]!, 5);
      deleteAdapter(again, "whale");
      expect(snapshot(again).values).toEqual(snapshot(new SmallModel()).values);
    });

    it("is there once for each adapter, of which one acts", () => {
      const model = new SmallModel();
      const before = snapshot(model);
      attach(model, withHead, { name: "a" });
      attach(model, withHead, { name: "b" });
      raise(model, "lm_head.modules_to_save.a.weight", 1);
      raise(model, "lm_head.modules_to_save.b.weight", 2);
      const ofA = numbers(model.forward(x()));
      setActive(model, "b");
      expect(numbers(model.forward(x()))).not.toEqual(ofA);
      expect(() => setActive(model, ["a", "b"])).toThrow(
        'setActive: the adapters "a" and "b" all have a lm_head of their own. Choose one of them.',
      );
      expect(() => merge(model, ["a", "b"])).toThrow('merge: the adapters "a" and "b" all have a lm_head of their own.');
      deleteAdapter(model, "b");
      expect(numbers(model.forward(x()))).toEqual(ofA);
      merge(model);
      expect(() => deleteAdapter(model, "a")).toThrow('deleteAdapter: the adapter "a" is merged. Call unmerge first.');
      detach(model);
      expect(traceLeft(before, model)).toBeUndefined();
    });

    it.each<[string, object, string]>([
      [
        "no module of the name",
        { modulesToSave: ["lm_haed"] },
        'attach: no module\'s path ends in "lm_haed" of modulesToSave. Did you mean "lm_head"?',
      ],
      [
        "a module without parameters",
        { modulesToSave: ["layers.0.norm"] },
        "attach: model.layers.0.norm of modulesToSave has no parameters to train.",
      ],
    ])("is refused: %s", (_, options, message) => {
      const model = new SmallModel();
      const before = snapshot(model);
      expect(() => attach(model, lora({ targetModules: ["q_proj"], ...options }))).toThrow(message);
      expect(traceLeft(before, model)).toBeUndefined();
    });

    it("is not adapted in parts by another adapter", () => {
      const model = new SmallModel();
      attach(model, withHead);
      expect(() => attach(model, lora({ targetModules: ["lm_head"] }), { name: "b" })).toThrow(
        "attach: lm_head would be changed as a whole by one adapter and in parts by another. Take it out of `modulesToSave`, or out of the targets with `excludeModules`.",
      );
      expect(() => attach(model, lora({ targetModules: ["v_proj"], modulesToSave: ["q_proj"] }), { name: "b" })).toThrow(
        "attach: model.layers.0.self_attn.q_proj would be changed as a whole by one adapter",
      );
    });
  });

  describe("biases that are trained along", () => {
    const biases = ["model.layers.0.self_attn.v_proj", "model.layers.1.self_attn.v_proj"];

    it("are all of them, or those of the adapted layers", () => {
      const trained = (targets: string[], bias: "all" | "lora_only") => {
        const model = new SmallModel();
        attach(model, lora({ targetModules: targets, bias }));
        return names(model).filter((name) => name.endsWith("bias"));
      };
      expect(trained(["q_proj"], "all")).toEqual(biases.map((path) => `${path}.bias`));
      expect(trained(["q_proj"], "lora_only")).toEqual([]);
      expect(trained(["v_proj"], "lora_only")).toEqual(biases.map((path) => `${path}.base_layer.bias`));
    });

    it("stay when the adapter is disabled, as in PEFT, and go when it goes", async () => {
      const model = new SmallModel();
      const before = snapshot(model);
      const base = numbers(model.forward(x()));
      const adapter = attach(model, lora({ targetModules: ["q_proj"], bias: "all" }));
      attach(model, lora({ targetModules: ["v_proj"] }), { name: "other" });
      for (const path of biases) raise(model, `${path}.base_layer.bias`);
      shake(model);
      const after = numbers(model.forward(x()));
      expect(numbers(disabled(model, () => model.forward(x())))).not.toEqual(base);
      await saveAdapter(model, folder);
      const { tensors } = await readSafetensors(join(folder, "adapter_model.safetensors"));
      expect([...tensors.keys()]).toContain("base_model.model.model.layers.0.self_attn.v_proj.bias");
      expect([...adapter.biases.values()].every(({ requiresGrad }) => requiresGrad)).toBe(true);
      setActive(model, "other");
      expect([...adapter.biases.values()].some(({ requiresGrad }) => requiresGrad)).toBe(false);
      deleteAdapter(model, "default");
      expect(numbers(disabled(model, () => model.forward(x())))).toEqual(base);
      detach(model);
      expect(traceLeft(before, model)).toBeUndefined();

      await loadAdapter(model, folder);
      for (const [i, value] of numbers(model.forward(x())).entries()) expect(value).toBeCloseTo(after[i]!, 5);
      expect(() => attach(model, lora({ targetModules: ["v_proj"], bias: "lora_only" }), { name: "b" })).toThrow(
        'attach: the adapter "default" trains the model\'s biases already. Only one adapter of a model may have another `bias` than "none".',
      );
      mergeAndUnload(model);
      for (const [i, value] of numbers(model.forward(x())).entries()) expect(value).toBeCloseTo(after[i]!, 5);
    });

    it("of an adapter file must all be in it", async () => {
      const model = new SmallModel();
      attach(model, lora({ targetModules: ["v_proj"] }));
      await saveAdapter(model, folder);
      const { readFile, writeFile } = await import("node:fs/promises");
      const path = join(folder, "adapter_config.json");
      const change = async (changes: object) =>
        writeFile(path, JSON.stringify({ ...JSON.parse(await readFile(path, "utf8")), ...changes }));
      await change({ bias: "lora_only" });
      await expect(loadAdapter(new SmallModel(), folder)).rejects.toThrow(
        "loadAdapter: model.layers.0.self_attn.v_proj.bias is not in the file, but the config says that it is trained.",
      );
      await change({ bias: "none", modules_to_save: ["lm_head"] });
      await expect(loadAdapter(new SmallModel(), folder)).rejects.toThrow(
        "loadAdapter: lm_head.weight is not in the file, but the config says that it is trained.",
      );
    });

    it("of another size are refused", async () => {
      const model = new SmallModel();
      attach(model, withHead);
      await saveAdapter(model, folder);
      await expect(loadAdapter(new SmallModel({ vocabulary: 12 }), folder)).rejects.toThrow(
        "loadAdapter: lm_head.weight is [11, 6] in the file, [12, 6] in the model. The adapter was made for another base model.",
      );
    });
  });

  describe("whatever happens to adapters that train parts of the model", () => {
    const parts = fc.record({
      targetModules: fc.subarray(["q_proj", "v_proj", "o_proj", "embed_tokens", "lm_head"], { minLength: 1 }),
      modulesToSave: fc.subarray(["lm_head", "embed_tokens", "layers.0.self_attn", "v_proj"], { maxLength: 2 }),
      bias: fc.constantFrom("none", "all", "lora_only"),
      loraBias: fc.boolean(),
    });
    const event = fc.oneof(
      { weight: 3, arbitrary: fc.record({ attach: parts }) },
      fc.record({ what: fc.constantFrom("activate", "activate all", "merge", "unmerge", "delete", "disable"), which: fc.nat(9) }),
    );

    it("detaching restores the model exactly, disabling does but for biases, and what is refused changes nothing", () => {
      fc.assert(
        fc.property(fc.array(event, { minLength: 1, maxLength: 9 }), fc.boolean(), (events, tied) => {
          const model = new SmallModel({ tied });
          const before = snapshot(model);
          const base = numbers(model.forward(x()));
          let biased = false;
          for (const [i, next] of events.entries()) {
            const all = adapterNames(model);
            const kept = [numbers(model.forward(x())), [...model.namedModules()], activeAdapters(model)];
            try {
              if ("attach" in next) {
                const { biases } = attach(model, lora({ r: 2, ...next.attach } as never), { name: `a${i}` });
                shake(model, 0.3, i);
                for (const trained of model.trainableParameters())
                  trained.assign(add(trained.stored, constant(0.1, trained.shape)));
                biased ||= biases.size > 0;
                continue;
              }
              const name = all[next.which % all.length] ?? "none";
              if (next.what === "activate") setActive(model, name);
              else if (next.what === "activate all") setActive(model, all);
              else if (next.what === "merge") merge(model, [name]);
              else if (next.what === "unmerge") unmerge(model);
              else if (next.what === "delete") deleteAdapter(model, name);
              else if (!biased) expect(numbers(disabled(model, () => model.forward(x())))).toEqual(base);
            } catch (error) {
              if (!(error instanceof LorikeetError)) throw error;
              expect([numbers(model.forward(x())), [...model.namedModules()], activeAdapters(model)]).toEqual(kept);
            }
          }
          if (adapterNames(model).length > 0) detach(model);
          expect(traceLeft(before, model)).toBeUndefined();
        }),
        cases(60),
      );
    });
  });

  describe("LoRA's own bias", () => {
    it("is scaled, merged into the layer's, and kept in the file", async () => {
      const model = new SmallModel();
      attach(model, lora({ r: 2, loraAlpha: 6, loraBias: true, targetModules: ["v_proj"] }));
      expect(names(model)[2]).toBe("model.layers.0.self_attn.v_proj.lora_B.default.bias");
      const layer = () => model.model.layers[0]!.self_attn.v_proj;
      const embedded = model.model.embed_tokens.forward(x());
      const before = numbers(layer().forward(embedded));
      raise(model, names(model)[2]!, 0.5);
      for (const [i, value] of numbers(layer().forward(embedded)).entries()) expect(value - before[i]!).toBeCloseTo(1.5, 5);
      shake(model);
      const after = model.forward(x());
      expect(mergeDifference(model, () => model.forward(x()))).toBeLessThan(1e-5);
      await saveAdapter(model, folder);
      const again = new SmallModel();
      await loadAdapter(again, folder);
      expect(difference(again.forward(x()), after)).toBeLessThan(1e-5);
    });

    it("cannot be merged into a layer without one, and nothing is merged then", () => {
      const model = new SmallModel();
      attach(model, lora({ loraBias: true, targetModules: ["v_proj", "o_proj"] }));
      shake(model);
      const before = [...baseStateDict(model).values()].map(numbers);
      expect(() => merge(model)).toThrow(
        "merge: model.layers.0.self_attn.o_proj has no bias that the one of `loraBias` could be added to. Use it unmerged.",
      );
      expect([...baseStateDict(model).values()].map(numbers)).toEqual(before);
      expect(() => attach(new SmallModel(), lora({ loraBias: true, targetModules: ["embed_tokens"] }))).toThrow(
        "attach: model.embed_tokens is an embedding, which has no place for `loraBias`.",
      );
    });
  });
});
