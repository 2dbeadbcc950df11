/** What adapters do to the layers of the vocabulary: trained tokens, tied weights, whole weights in the file. */
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { beforeEach, describe, expect, it } from "vitest";
import { currentDevice, upload } from "../../src/compile/program.ts";
import { readSafetensors } from "../../src/formats/safetensors.ts";
import { add, mul } from "../../src/graph/elementwise.ts";
import { reduceSum } from "../../src/graph/reduction.ts";
import { gradientsOf } from "../../src/optim/optimizer.ts";
import {
  type AdapterConfig,
  attach,
  detach,
  disabled,
  loadAdapter,
  lora,
  merge,
  mergeAndUnload,
  saveAdapter,
  setScale,
  trainableTokens,
  unmerge,
} from "../../src/peft/index.ts";
import { TorchGenerator } from "../../src/random/torch-generator.ts";
import { onEveryDevice } from "../devices.ts";
import { temporaryFolder } from "../temporary-folder.ts";
import { difference, ids, numbers, SmallModel } from "./small-model.ts";

let folder: string;
beforeEach(() => void (folder = temporaryFolder()));

const all = () => ids(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10);

/** The model with an adapter, everything that it trains moved. */
function trained(adapter: unknown, { tied = true } = {}): SmallModel {
  const model = new SmallModel({ tied });
  attach(model, adapter as AdapterConfig);
  const random = new TorchGenerator(3);
  for (const parameter of model.trainableParameters())
    parameter.assign(
      add(parameter.stored, upload(currentDevice(), random.normal(parameter.size, 0, 0.3), parameter.shape, "float32")),
    );
  return model;
}
const keysIn = async () => [...(await readSafetensors(join(folder, "adapter_model.safetensors"))).tensors.keys()].sort();
/** Rows of the embedding that differ from those of the model without adapters. */
const changedRows = (model: SmallModel, look = () => numbers(model.model.embed_tokens.forward(all()))) => {
  const [now, before] = [look(), disabled(model, look)];
  return [...new Set(now.flatMap((value, i) => (value === before[i] ? [] : [Math.floor(i / 6)])))];
};

onEveryDevice(() => {
  describe("trained tokens", () => {
    it("change the listed rows, in the output layer that shares them, too, and nothing else", () => {
      const model = trained(trainableTokens({ tokenIndices: [7, 2] }));
      expect(changedRows(model)).toEqual([2, 7]);
      expect(model.trainableParameters().map(({ shape }) => shape)).toEqual([[2, 6]]);
      const x = upload(currentDevice(), new TorchGenerator(1).randn(6), [1, 6], "float32");
      const logits = () => numbers(model.lm_head.forward(x));
      const [now, before] = [logits(), disabled(model, logits)];
      expect(now.flatMap((value, i) => (value === before[i] ? [] : [i]))).toEqual([2, 7]);
      const beside = model.forward(all());
      merge(model);
      expect(difference(model.forward(all()), beside)).toBeLessThan(1e-5);
      unmerge(model);
      detach(model);
      expect(numbers(model.forward(all()))).toEqual(numbers(new SmallModel({ tied: true }).forward(all())));
    });

    it("of an output layer of its own stay out of it", () => {
      const model = trained(trainableTokens({ tokenIndices: [4] }), { tied: false });
      const x = upload(currentDevice(), new TorchGenerator(1).randn(6), [1, 6], "float32");
      const logits = () => numbers(model.lm_head.forward(x));
      expect(logits()).toEqual(disabled(model, logits));
      expect(changedRows(model)).toEqual([4]);
    });

    it("are a part of the way from the model's when scaled", () => {
      const model = trained(trainableTokens({ tokenIndices: [4] }));
      const row = () => numbers(model.model.embed_tokens.forward(ids(4)));
      const [own, base] = [row(), disabled(model, row)];
      setScale(model, 0.25);
      for (const [i, value] of row().entries()) expect(value).toBeCloseTo(base[i]! + 0.25 * (own[i]! - base[i]!), 5);
    });

    it("are rows in the file, once for a tied layer of trainableTokenIndices", async () => {
      const model = trained(lora({ r: 2, targetModules: ["q_proj"], trainableTokenIndices: [3, 8] }));
      await saveAdapter(model, folder);
      expect((await keysIn()).filter((key) => !key.includes("layers"))).toEqual([
        "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta",
      ]);
      const { tensors } = await readSafetensors(join(folder, "adapter_model.safetensors"));
      const rows = await tensors.get("base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta")!.load();
      expect(Array.from(rows)).toEqual(numbers(model.model.embed_tokens.forward(ids(3, 8))).map(Math.fround));
      const again = new SmallModel({ tied: true });
      await loadAdapter(again, folder);
      expect(difference(again.forward(all()), model.forward(all()))).toBeLessThan(1e-5);
    });

    it("may be others in the output layer, unless both shall stay the same", () => {
      const apart = { embed_tokens: [3], lm_head: [3, 5] };
      const options = { r: 2, targetModules: ["q_proj"], trainableTokenIndices: apart };
      expect(trained(lora(options)).trainableParameters().length).toBe(6);
      expect(() => attach(new SmallModel({ tied: true }), lora({ ...options, ensureWeightTying: true }))).toThrow(
        "lm_head shares the weight of model.embed_tokens, but `trainableTokenIndices` gives them different tokens.",
      );
      const same = { embed_tokens: [3], lm_head: [3] };
      expect(trained(lora({ ...options, trainableTokenIndices: same })).trainableParameters().length).toBe(5);
      expect(trained(lora({ ...options, trainableTokenIndices: same }), { tied: false }).trainableParameters().length).toBe(6);
    });

    it("of a token that is listed twice the last row acts, and both get its gradient, as in PEFT", () => {
      const model = trained(trainableTokens({ tokenIndices: [1, 2, 1] }));
      const [rows] = model.trainableParameters();
      const [, second, last] = Array.from({ length: 3 }, (_, i) => numbers(rows!.stored).slice(6 * i, 6 * i + 6));
      expect(numbers(model.model.embed_tokens.forward(ids(1, 2)))).toEqual([...last!, ...second!]);
      const logits = model.forward(all());
      const gradient = numbers(gradientsOf(reduceSum(mul(logits, logits), [0, 1, 2]), [rows!]).get(rows!)!);
      expect(gradient.slice(0, 6)).toEqual(gradient.slice(12));
      expect(gradient.slice(0, 6)).not.toEqual(gradient.slice(6, 12));
      expect(gradient[0]).not.toBe(0);
    });

    it.each([
      [{ trainableTokenIndices: [11] }, "token 11 is none of the 11 of model.embed_tokens, which count from 0."],
      [{ trainableTokenIndices: [] }, "the list of indices is empty"],
      [
        { trainableTokenIndices: { embed_token: [1] } },
        'ends in "embed_token" of trainableTokenIndices. Did you mean "embed_tokens"?',
      ],
      [{ trainableTokenIndices: { norm: [1] } }, "model.layers.0.norm is a Norm"],
      [{ trainableTokenIndices: { embed_tokens: [1.5] } }, "must be a list of integers or a map of lists of integers"],
      [{ trainableTokenIndices: [1], modulesToSave: ["embed_tokens"] }, "model.embed_tokens is trained by"],
      [{ trainableTokenIndices: [1], targetModules: ["embed_tokens"] }, "model.embed_tokens is trained by"],
    ])("are refused where they cannot be: %j", (options, problem) => {
      const model = new SmallModel();
      const before = numbers(model.forward(all()));
      expect(() => attach(model, lora({ r: 2, targetModules: ["q_proj"], ...options } as object))).toThrow(problem);
      expect(numbers(model.forward(all()))).toEqual(before);
    });
  });

  describe("tied weights", () => {
    const tieing = { r: 2, loraAlpha: 3, ensureWeightTying: true };

    it.each([[["embed_tokens"]], [["lm_head", "q_proj"]], [".*(lm_head|q_proj)"]])(
      "have one LoRA adapter, whichever is a target: %j",
      async (targetModules) => {
        const model = trained(lora({ ...tieing, targetModules }));
        const x = upload(currentDevice(), new TorchGenerator(1).randn(6), [1, 6], "float32");
        const table = model.model.embed_tokens.forward(all());
        const logits = reduceSum(mul(table, x), [2]);
        expect(difference(model.lm_head.forward(x), logits)).toBeLessThan(1e-5);
        const beside = model.forward(all());
        await saveAdapter(model, folder);
        const again = new SmallModel({ tied: true });
        const { warnings } = await loadAdapter(again, folder);
        expect(warnings).toEqual([]);
        expect(difference(again.forward(all()), beside)).toBeLessThan(1e-5);
        expect(await keysIn()).toEqual(
          expect.arrayContaining(["base_model.model.lm_head.lora_A.weight", "base_model.model.lm_head.lora_B.weight"]),
        );
        mergeAndUnload(model);
        expect(difference(model.forward(all()), beside)).toBeLessThan(1e-4);
        expect(model.numParameters()).toBe(new SmallModel({ tied: true }).numParameters());
      },
    );

    it("give a tied adapter the gradient of both layers", () => {
      const model = trained(lora({ ...tieing, targetModules: ["embed_tokens"] }));
      const [A] = model.trainableParameters();
      const sum = () => reduceSum(mul(model.forward(all()), model.forward(all())), [0, 1, 2]);
      const gradient = numbers(gradientsOf(sum(), [A!]).get(A!)!);
      const start = A!.stored;
      const step = 1e-2;
      const bump = new Float32Array(start.size);
      bump[3] = step;
      const move = (sign: number) =>
        add(
          start,
          upload(
            currentDevice(),
            bump.map((value) => sign * value),
            start.shape,
            "float32",
          ),
        );
      A!.assign(move(1));
      const [above] = numbers(sum());
      A!.assign(move(-1));
      const [below] = numbers(sum());
      const difference = (above! - below!) / (2 * step);
      expect(Math.abs(gradient[3]! - difference)).toBeLessThan(0.02 * Math.max(1, Math.abs(difference)));
    });

    it("are trained as one whole matrix with modulesToSave", async () => {
      for (const name of ["embed_tokens", "lm_head"]) {
        const model = trained(lora({ ...tieing, targetModules: ["q_proj"], modulesToSave: [name] }));
        const whole = model.trainableParameters().filter(({ shape }) => shape[0] === 11);
        expect(whole.length).toBe(1);
        await saveAdapter(model, folder);
        const again = new SmallModel({ tied: true });
        await loadAdapter(again, folder, { trainable: true });
        expect(again.trainableParameters().filter(({ shape }) => shape[0] === 11).length).toBe(1);
        const logits = again.forward(all());
        expect(difference(logits, model.forward(all()))).toBeLessThan(1e-5);
        mergeAndUnload(again);
        expect(difference(again.forward(all()), logits)).toBeLessThan(1e-4);
        expect((again.lm_head as never as { weight: object }).weight).toBe(
          (again.model.embed_tokens as never as { weight: object }).weight,
        );
      }
    });

    it("are spoken of when an adapter would tear them apart, or there are none", () => {
      const warn = (options: object, tied = true) => attach(new SmallModel({ tied }), lora({ r: 2, ...options })).warnings;
      expect(warn({ targetModules: ["embed_tokens"] })[0]).toContain("`ensureWeightTying` would tie that, too");
      expect(warn({ targetModules: ["q_proj"], modulesToSave: ["lm_head"] })[0]).toContain("`ensureWeightTying` would tie");
      expect(warn({ targetModules: ["q_proj"] })).toEqual([]);
      expect(warn({ targetModules: ["embed_tokens"] }, false)).toEqual([]);
      expect(warn({ targetModules: ["embed_tokens"], ensureWeightTying: true }, false)[0]).toContain("no layer shares");
      expect(warn({ targetModules: ["q_proj"], ensureWeightTying: true })[0]).toContain("ties nothing");
    });
  });

  describe("whole weights of the vocabulary", () => {
    const wholes = async () => (await keysIn()).filter((key) => /(embed_tokens|lm_head)(\.base_layer)?\.weight$/.test(key));
    const prefix = "base_model.model.";

    it("go along when their layer is a target by name, or when they must", async () => {
      const save = async (options: object, saveEmbeddingLayers?: boolean | "auto", baseModel?: string) => {
        const model = trained(lora({ r: 2, ...options }), { tied: false });
        await saveAdapter(model, folder, {
          ...(saveEmbeddingLayers === undefined ? {} : { saveEmbeddingLayers }),
          ...(baseModel === undefined ? {} : { baseModel }),
        });
        const again = new SmallModel({ tied: false });
        await loadAdapter(again, folder);
        expect(difference(again.forward(all()), model.forward(all()))).toBeLessThan(1e-5);
        return wholes();
      };
      const [embedding, head] = [`${prefix}model.embed_tokens`, `${prefix}lm_head`];
      expect(await save({ targetModules: ["q_proj"] })).toEqual([]);
      expect(await save({ targetModules: ["embed_tokens"] })).toEqual([`${embedding}.base_layer.weight`]);
      expect(await save({ targetModules: ["embed_tokens"] }, false)).toEqual([]);
      // PEFT compares names, not paths
      expect(await save({ targetModules: ["model.embed_tokens"] })).toEqual([]);
      expect(await save({ targetModules: "lm_head|.*q_proj" })).toEqual([`${head}.base_layer.weight`]);
      expect(await save({ targetModules: ["q_proj"] }, true)).toEqual([`${head}.weight`, `${embedding}.weight`]);
      expect(await save({ targetModules: ["q_proj"], trainableTokenIndices: [1] })).toEqual([]);
      await expect(save({ targetModules: ["q_proj"] }, "always" as never)).rejects.toThrow('must be true, false or "auto"');
    });

    it("that were trained, or grown, take the place of the model's while the adapter is on it", async () => {
      const model = trained(lora({ r: 2, targetModules: ["q_proj"] }), { tied: false });
      const table = (model.model.embed_tokens as never as { weight: { stored: never; assign(x: object): void } }).weight;
      table.assign(add(table.stored, table.stored));
      await saveAdapter(model, folder, { saveEmbeddingLayers: true });
      const again = new SmallModel();
      const before = numbers(again.forward(all()));
      await loadAdapter(again, folder);
      expect(difference(again.forward(all()), model.forward(all()))).toBeLessThan(1e-5);
      expect(numbers(disabled(again, () => again.forward(all())))).toEqual(before);
      detach(again);
      expect(numbers(again.forward(all()))).toEqual(before);
    });

    it("go along by themselves when the base model's folder has another vocabulary", async () => {
      const base = join(folder, "base");
      await mkdir(base);
      const model = trained(lora({ r: 2, targetModules: ["q_proj"] }), { tied: false });
      Object.assign(model.config, { vocabSize: 11 });
      for (const [size, count] of [
        [11, 0],
        [9, 2],
      ]) {
        await writeFile(join(base, "config.json"), JSON.stringify({ vocab_size: size }));
        await saveAdapter(model, folder, { baseModel: base });
        expect((await wholes()).length).toBe(count);
      }
    });
  });
});
