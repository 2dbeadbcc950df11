import { mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { beforeEach, describe, expect, it } from "vitest";
import { readSafetensors, writeSafetensors } from "../../src/formats/safetensors.ts";
import {
  adapterNames,
  attach,
  detach,
  disabled,
  loadAdapter,
  lora,
  merge,
  saveAdapter,
  setActive,
} from "../../src/peft/index.ts";
import { onEveryDevice } from "../devices.ts";
import { temporaryFolder } from "../temporary-folder.ts";
import { difference, ids, numbers, SmallModel, shake } from "./small-model.ts";

let folder: string;
beforeEach(() => void (folder = temporaryFolder()));

const config = { r: 2, loraAlpha: 6, targetModules: ["q_proj", "v_proj"], taskType: "CAUSAL_LM" } as const;
const trained = (options: NonNullable<Parameters<typeof lora>[0]> = config) => {
  const model = new SmallModel();
  attach(model, lora(options));
  shake(model);
  return model;
};
/** Changes a saved adapter's tensors. */
async function rewrite(
  change: (tensors: Map<string, { dtype: "float32"; shape: readonly number[]; data: Float32Array }>) => void,
): Promise<void> {
  const path = join(folder, "adapter_model.safetensors");
  const { tensors } = await readSafetensors(path);
  const changed = new Map<string, { dtype: "float32"; shape: readonly number[]; data: Float32Array }>();
  for (const [name, tensor] of tensors)
    changed.set(name, { dtype: "float32", shape: tensor.shape, data: (await tensor.load()) as Float32Array });
  change(changed);
  await writeSafetensors(path, changed, { format: "pt" });
}
async function rewriteConfig(change: object): Promise<void> {
  const path = join(folder, "adapter_config.json");
  await writeFile(path, JSON.stringify({ ...JSON.parse(await readFile(path, "utf8")), ...change }));
}

onEveryDevice(() => {
  describe("an adapter's files", () => {
    it("hold PEFT's names and keys, and give the same model again", async () => {
      const model = trained();
      expect(await saveAdapter(model, folder, { baseModel: "models/tiny" })).toBe(folder);
      expect((await readdir(folder)).sort()).toEqual(["README.md", "adapter_config.json", "adapter_model.safetensors"]);
      const { tensors } = await readSafetensors(join(folder, "adapter_model.safetensors"));
      expect([...tensors.keys()].sort().slice(0, 2)).toEqual([
        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
        "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight",
      ]);
      expect(JSON.parse(await readFile(join(folder, "adapter_config.json"), "utf8"))).toMatchObject({
        base_model_name_or_path: "models/tiny",
        inference_mode: true,
        lora_alpha: 6,
        peft_type: "LORA",
        r: 2,
        target_modules: ["q_proj", "v_proj"],
        task_type: "CAUSAL_LM",
      });
      const again = new SmallModel();
      await loadAdapter(again, folder);
      const x = ids(1, 2, 3);
      expect(numbers(again.forward(x))).toEqual(numbers(model.forward(x)));
    });

    it("lie in a folder of their own unless the adapter is called default", async () => {
      const model = new SmallModel();
      attach(model, lora(config), { name: "whale" });
      expect(await saveAdapter(model, folder, { name: "whale" })).toBe(join(folder, "whale"));
      const again = new SmallModel();
      await loadAdapter(again, join(folder, "whale"), { name: "ship" });
      expect(adapterNames(again)).toEqual(["ship"]);
      await expect(loadAdapter(again, folder)).rejects.toThrow("has no adapter_config.json. Adapters are in:");
    });

    it("hold the base weights of adapted vocabulary layers, as PEFT's do, merged or not", async () => {
      const model = trained({ ...config, targetModules: ["embed_tokens", "q_proj"] });
      const weight = numbers(disabled(model, () => model.model.embed_tokens.forward(ids(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10))));
      merge(model);
      await saveAdapter(model, folder);
      const { tensors } = await readSafetensors(join(folder, "adapter_model.safetensors"));
      const stored = tensors.get("base_model.model.model.embed_tokens.base_layer.weight")!;
      expect(Array.from(await stored.load())).toEqual(weight.map(Math.fround));
      const again = new SmallModel();
      await loadAdapter(again, folder);
      const x = ids(3, 1);
      expect(difference(again.forward(x), model.forward(x))).toBeLessThan(1e-5);
    });

    it("bring base weights that differ from the model's, until the adapter goes", async () => {
      const model = trained({ ...config, targetModules: ["embed_tokens"] });
      await saveAdapter(model, folder);
      await rewrite((tensors) => {
        const weight = tensors.get("base_model.model.model.embed_tokens.base_layer.weight")!;
        weight.data = weight.data.map((value) => value + 1);
      });
      const again = new SmallModel();
      const before = numbers(again.forward(ids(3, 1)));
      await loadAdapter(again, folder);
      const embed = (of: SmallModel) => of.model.embed_tokens.forward(ids(3, 1));
      const moved = numbers(embed(again)).map((value, i) => value - numbers(embed(model))[i]!);
      for (const value of moved) expect(value).toBeCloseTo(1, 5);
      expect(numbers(disabled(again, () => again.forward(ids(3, 1))))).toEqual(before);
      detach(again);
      expect(numbers(again.forward(ids(3, 1)))).toEqual(before);
      await expect(loadAdapter(new SmallModel({ vocabulary: 12 }), folder)).rejects.toThrow(
        "loadAdapter: lora_embedding_A of model.embed_tokens is [2, 11] in the file, [2, 12] in the config.",
      );
    });

    it("cannot be trained after loading unless asked for", async () => {
      await saveAdapter(trained(), folder);
      const model = new SmallModel();
      await loadAdapter(model, folder, { name: "frozen" });
      expect(model.trainableParameters()).toEqual([]);
      await loadAdapter(model, folder, { name: "more", trainable: true });
      expect(model.trainableParameters()).toEqual([]);
      setActive(model, "more");
      expect(model.trainableParameters()).toHaveLength(8);
    });

    it("of other sizes are refused with the way out, and the model is unchanged", async () => {
      await saveAdapter(trained(), folder);
      await rewriteConfig({ r: 4 });
      const model = new SmallModel();
      const before = [...model.namedModules()];
      await expect(loadAdapter(model, folder)).rejects.toThrow(
        "loadAdapter: lora_A of model.layers.0.self_attn.q_proj is [2, 6] in the file, [4, 6] in the config (r = 4). The file was made with r = 2.",
      );
      expect([...model.namedModules()]).toEqual(before);
      expect(adapterNames(model)).toEqual([]);
      await rewriteConfig({ r: 2 });
      await expect(loadAdapter(new SmallModel({ width: 7 }), folder)).rejects.toThrow(
        "loadAdapter: lora_A of model.layers.0.self_attn.q_proj is [2, 6] in the file, [2, 7] in the config. The adapter was made for another base model.",
      );
    });

    it("that lack a tensor or hold another are refused", async () => {
      await saveAdapter(trained(), folder);
      const key = "base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight";
      let taken: { dtype: "float32"; shape: readonly number[]; data: Float32Array } | undefined;
      await rewrite((tensors) => {
        taken = tensors.get(key);
        tensors.delete(key);
      });
      await expect(loadAdapter(new SmallModel(), folder)).rejects.toThrow(
        "loadAdapter: lora_B.weight of model.layers.1.self_attn.v_proj is not in the file, but the config says that this layer is adapted.",
      );
      await rewrite((tensors) => {
        tensors.set(key, taken!);
        tensors.set(key.replace("v_proj", "k_proj"), taken!);
      });
      await expect(loadAdapter(new SmallModel(), folder)).rejects.toThrow(
        'loadAdapter: "base_model.model.model.layers.1.self_attn.k_proj.lora_B.weight" belongs to no layer that the config adapts.',
      );
    });

    it("that ask for what is not there are refused by the option's name", async () => {
      await saveAdapter(trained(), folder);
      await rewriteConfig({ megatron_config: { hidden_size: 6 } });
      await expect(loadAdapter(new SmallModel(), folder)).rejects.toThrow(/^lora: `megatronConfig` .* is not implemented/);
      await rewriteConfig({ megatron_config: null, peft_type: "LORRA" });
      await expect(loadAdapter(new SmallModel(), folder)).rejects.toThrow(
        'has the unknown `peft_type` "LORRA". Did you mean "LORA"?',
      );
      await rewriteConfig({ peft_type: "LORA", novelty: 3 });
      const { warnings } = await loadAdapter(new SmallModel(), folder);
      expect(warnings).toEqual([expect.stringContaining("`novelty` is not a key of LORA and is ignored.")]);
    });

    it("are written whole or not at all", async () => {
      const model = trained();
      const file = join(folder, "file");
      await writeFile(file, "old");
      await expect(saveAdapter(model, file)).rejects.toThrow(
        `saveAdapter: cannot write ${JSON.stringify(file)}: a part of the path is a file, not a folder. Choose another place.`,
      );
      await expect(saveAdapter(model, join(file, "inside"))).rejects.toThrow("a part of the path is a file, not a folder.");
      const obstacle = join(folder, "adapter");
      await mkdir(join(obstacle, "adapter_config.json"), { recursive: true });
      await expect(saveAdapter(model, obstacle)).rejects.toThrow(
        `cannot write ${JSON.stringify(join(obstacle, "adapter_config.json"))}: it is a folder.`,
      );
      expect(await readdir(obstacle)).toEqual(["adapter_config.json"]);
      expect((await readdir(folder)).sort()).toEqual(["adapter", "file"]);
      expect(await readFile(file, "utf8")).toBe("old");
    });

    it("are not written for an adapter that is not there", async () => {
      const model = trained();
      await expect(saveAdapter(model, folder, { name: "defualt" })).rejects.toThrow(
        'saveAdapter: there is no adapter "defualt"; this model has: default. Did you mean "default"?',
      );
      detach(model);
      await expect(saveAdapter(model, folder)).rejects.toThrow(
        "saveAdapter: this model has no adapter. Put one on with attach or loadAdapter.",
      );
      expect(await readdir(folder)).toEqual([]);
    });
  });
});
