import { readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeEach, describe, expect, test } from "vitest";
import { currentDevice } from "../../src/compile/program.ts";
import { FormatError, ShapeError } from "../../src/errors.ts";
import { readSafetensors, writeSafetensors } from "../../src/formats/safetensors.ts";
import { openCheckpoint } from "../../src/formats/sharded.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { createModel } from "../../src/models/create-model.ts";
import { LlamaForCausalLM } from "../../src/models/llama.ts";
import { normal } from "../../src/nn/init.ts";
import { Conv1D, Linear } from "../../src/nn/linear.ts";
import type { Module } from "../../src/nn/module.ts";
import { attach, disabled, lora, merge, mergeAndUnload, setActive } from "../../src/peft/index.ts";
import { manualSeed } from "../../src/tensor/random.ts";
import { loadModel, readConfig, saveModel } from "../../src/train/load-model.ts";
import { onEveryDevice } from "../devices.ts";
import { decoderConfigs, t5Config } from "../models/configs.ts";
import { distance, integers, randn, values } from "../nn/tensors.ts";
import { temporaryFolder } from "../temporary-folder.ts";

const config = {
  model_type: "llama",
  architectures: ["LlamaForCausalLM"],
  vocab_size: 11,
  hidden_size: 8,
  intermediate_size: 12,
  num_hidden_layers: 1,
  num_attention_heads: 2,
  tie_word_embeddings: true,
  some_other_key: [1, 2],
};

onEveryDevice(() => {
  let folder: string;
  beforeEach(() => {
    folder = temporaryFolder();
  });

  const saved = async (options = {}) => {
    manualSeed(2);
    const model = new LlamaForCausalLM(config);
    await saveModel(folder, model, config, options);
    return model;
  };
  const inputIds = () => integers([1, 2, 3], [1, 3]);

  describe("saveModel and loadModel", () => {
    test("give the same model back, in one file or several", async () => {
      for (const options of [{}, { maxShardBytes: 400 }]) {
        const model = await saved(options);
        const { model: loaded, config: read } = await loadModel(folder);
        expect(read).toEqual({ ...config, dtype: "float32" });
        expect(values(loaded.forward({ inputIds: inputIds() }).logits)).toEqual(
          values(model.forward({ inputIds: inputIds() }).logits),
        );
        expect((await openCheckpoint(folder)).files.length).toBeGreaterThan("maxShardBytes" in options ? 1 : 0);
      }
    });

    test.each(["bfloat16", "float16"] as const)("store %s, which is what config.json then says", async (dtype) => {
      const model = await saved({ dtype });
      expect(JSON.parse(readFileSync(join(folder, "config.json"), "utf8")).dtype).toBe(dtype);
      const file = await readSafetensors(join(folder, "model.safetensors"));
      expect([...file.tensors.values()].every((tensor) => tensor.dtype === dtype)).toBe(true);
      expect(file.tensors.has("lm_head.weight")).toBe(false);
      const { model: loaded } = await loadModel(folder);
      expect(
        distance(loaded.forward({ inputIds: inputIds() }).logits, model.forward({ inputIds: inputIds() }).logits),
      ).toBeLessThan(2e-2);
    });

    test("leave nothing behind when a weight cannot be written, and name the folder that cannot be", async () => {
      const model = await saved();
      const before = readFileSync(join(folder, "model.safetensors"));
      const untied = { ...config, tie_word_embeddings: false };
      await expect(saveModel(folder, model, untied, { dtype: "float16", maxShardBytes: -1 })).rejects.toThrow("`maxShardBytes`");
      expect(JSON.parse(readFileSync(join(folder, "config.json"), "utf8")).tie_word_embeddings).toBe(true);
      expect(readFileSync(join(folder, "model.safetensors")).equals(before)).toBe(true);
      const place = join(folder, "config.json", "inside");
      await expect(saveModel(place, model, config)).rejects.toThrow(
        `saveModel: cannot write ${JSON.stringify(place)}: a part of the path is a file, not a folder. Choose another place.`,
      );
      expect(readdirSync(folder).sort()).toEqual(["config.json", "model.safetensors"]);
    });

    test("write whole numbers with a point where transformers wants one, and others without", async () => {
      const json = { model_type: "gemma2", ...decoderConfigs["gemma2"], attn_logit_softcapping: 50, initializer_range: 1 };
      await saveModel(folder, createModel(json), json);
      const written = readFileSync(join(folder, "config.json"), "utf8");
      expect(written).toContain('"attn_logit_softcapping": 50.0,\n');
      expect(written).toContain('"initializer_range": 1.0,\n');
      expect(written).toMatch(/"hidden_size": \d+,\n/);
      expect(JSON.parse(written)).toEqual({ ...json, dtype: "float32" });
    });

    test.each(["gpt2", "opt", "gemma", "t5"])(
      "say so when the output layer of %s is not tied any more, by default",
      async (type) => {
        const json = { model_type: type, ...(type === "t5" ? t5Config : decoderConfigs[type]) };
        const task = type === "t5" ? "Seq2SeqLM" : "CausalLM";
        manualSeed(3);
        const model = createModel(json, { init: normal({ std: 0.3 }), task });
        const run = (one: Module) => {
          const inputs = { inputIds: integers([1, 2, 3], [1, 3]), ...(type === "t5" && { labels: integers([4, 5], [1, 2]) }) };
          return (one as unknown as { forward(inputs: object): { logits: Tensor } }).forward(inputs).logits;
        };
        const [first] = [...model.namedModules()].filter(([, module]) => module instanceof Linear || module instanceof Conv1D);
        attach(model, lora({ r: 2, targetModules: [first![0]], modulesToSave: ["lm_head"] }));
        mergeAndUnload(model);
        const { weight } = model.getModule("lm_head") as Linear;
        weight.assign(randn(weight.shape));
        await saveModel(folder, model, json);
        const { model: read } = await loadModel(folder, { task });
        expect(distance(run(read), run(model))).toBeLessThan(1e-6);
        expect(read.sharedPaths().has("lm_head.weight")).toBe(false);
      },
    );

    test("hold the base model by its own names, with what is merged into it; adapters that are not are refused", async () => {
      const model = await saved();
      const run = (one: typeof model) => one.forward({ inputIds: inputIds() }).logits;
      attach(model, lora({ targetModules: ["q_proj"], modulesToSave: ["norm"], initLoraWeights: false }));
      await expect(saveModel(folder, model, config)).rejects.toThrow('the adapter "default" is not in the weights');
      merge(model);
      const merged = run(model);
      await saveModel(folder, model, config);
      expect(distance(run((await loadModel(folder)).model as typeof model), merged)).toBe(0);
      setActive(model, []);
      await saveModel(folder, model, config);
      const plain = (await loadModel(folder)).model as typeof model;
      expect(
        distance(
          run(plain),
          disabled(model, () => run(model)),
        ),
      ).toBe(0);
      attach(plain, lora({ targetModules: ["q_proj"], initLoraWeights: "pissa" }));
      setActive(plain, []);
      await expect(saveModel(folder, plain, config)).rejects.toThrow("would be lost");
    });

    test("say so when the output layer is not tied any more", async () => {
      const model = await saved();
      attach(model, lora({ targetModules: ["q_proj"], modulesToSave: ["lm_head"] }));
      mergeAndUnload(model);
      await saveModel(folder, model, config);
      expect((await readConfig(folder))["tie_word_embeddings"]).toBe(false);
      const { model: loaded } = await loadModel(folder);
      expect(values(loaded.forward({ inputIds: inputIds() }).logits)).toEqual(
        values(model.forward({ inputIds: inputIds() }).logits),
      );
    });

    test("keep the older key for the dtype where config.json has it", async () => {
      await saveModel(folder, new LlamaForCausalLM(config), { ...config, torch_dtype: "float32" }, { dtype: "bfloat16" });
      expect(await readConfig(folder)).toEqual({ ...config, torch_dtype: "bfloat16" });
    });
  });

  test.each([
    ["qwen3_5", "qwen3_5_text", /^model\./, "model.language_model.", ["model.visual.pos_embed.weight", "mtp.fc.weight"]],
    ["mistral3", "ministral3", /^/, "language_model.", ["vision_tower.ln_pre.weight", "multi_modal_projector.norm.weight"]],
  ])(
    "of a %s that reads images, too, the text part is loaded, and saved as what it is",
    async (whole, type, start, part, others) => {
      const text = { model_type: type, ...decoderConfigs[type] };
      const model = createModel(text, { init: normal({ std: 0.3 }) });
      await saveModel(folder, model, {
        model_type: whole,
        architectures: ["SomeForConditionalGeneration"],
        text_config: text,
      });
      const path = join(folder, "model.safetensors");
      const tensors = new Map<string, { dtype: "float32"; shape: readonly number[]; data: Float32Array }>();
      for (const [name, { shape, load }] of (await readSafetensors(path)).tensors)
        tensors.set(name.replace(start, part), {
          dtype: "float32",
          shape,
          data: (await load()) as Float32Array,
        });
      for (const name of others) tensors.set(name, { dtype: "float32", shape: [1], data: Float32Array.of(1) });
      await writeSafetensors(path, tensors);
      const { model: loaded, config: told } = await loadModel(folder);
      const inputIds = integers([3, 1, 4, 1], [1, 4]);
      const want = model.forward({ inputIds }).logits;
      expect(distance(loaded.forward({ inputIds }).logits, want)).toBe(0);
      expect(told["model_type"]).toBe(type);
      await saveModel(folder, loaded, told);
      const { model: again } = await loadModel(folder);
      expect(distance(again.forward({ inputIds }).logits, want)).toBe(0);
    },
  );

  describe("loadModel", () => {
    const rewrite = async (change: (tensors: Map<string, never>) => void) => {
      await saved();
      const path = join(folder, "model.safetensors");
      const tensors = new Map((await readSafetensors(path)).tensors) as Map<string, never>;
      for (const [name, tensor] of tensors)
        tensors.set(name, { ...(tensor as object), data: await (tensor as { load(): unknown }).load() } as never);
      change(tensors);
      await writeSafetensors(path, tensors);
    };
    const rewritten = async (change: Parameters<typeof rewrite>[0]) => {
      await rewrite(change);
      return expect(loadModel(folder)).rejects;
    };
    const norm = "model.norm.weight";

    test("says which parameter is missing or not known", async () => {
      const missing = await rewritten((tensors) => {
        tensors.set("model.nrm.weight", tensors.get(norm)!);
        tensors.delete(norm);
      });
      await missing.toThrow(
        /loadModel: .*model\.safetensors lacks "model\.norm\.weight"\. The nearest is "model\.nrm\.weight"\./,
      );
      const unknown = await rewritten((tensors) => tensors.set("model.nrm.weight", tensors.get(norm)!));
      await unknown.toThrow(
        /"model\.nrm\.weight" of .* is not a parameter of this model\. The nearest is "model\.norm\.weight"\./,
      );
      await expect(loadModel(folder)).rejects.toThrow(FormatError);
    });

    test("overlooks a tied output layer and the rotary buffers of old checkpoints", async () => {
      await rewrite((tensors) => {
        tensors.set("lm_head.weight", tensors.get("model.embed_tokens.weight")!);
        tensors.set("model.layers.0.self_attn.rotary_emb.inv_freq", tensors.get(norm)!);
      });
      expect(await loadModel(folder).catch((error) => error)).not.toBeInstanceOf(Error);
    });

    test("refuses other shapes and whole numbers", async () => {
      const shape = await rewritten((tensors) =>
        tensors.set(norm, { dtype: "float32", shape: [2], data: new Float32Array(2) } as never),
      );
      await shape.toThrow(/"model\.norm\.weight" is \[2\] in .*, \[8\] by config\.json\./);
      await expect(loadModel(folder)).rejects.toThrow(ShapeError);
      const whole = await rewritten((tensors) =>
        tensors.set(norm, { dtype: "int32", shape: [8], data: new Int32Array(8) } as never),
      );
      await whole.toThrow(
        /"model\.norm\.weight" holds I32 values in .*\. Of quantised checkpoints those of bitsandbytes are known\./,
      );
    });

    test("refuses a config.json that is missing or no object", async () => {
      await expect(loadModel(join(folder, "none"))).rejects.toThrow(/none/);
      writeFileSync(join(folder, "config.json"), "{");
      await expect(loadModel(folder)).rejects.toThrow(/config\.json is not JSON/);
      writeFileSync(join(folder, "config.json"), "[]");
      await expect(loadModel(folder)).rejects.toThrow(/config\.json is not a JSON object\./);
    });

    test.each([
      { hidden_size: 2 ** 40 },
      { num_hidden_layers: 9999 },
      { intermediate_size: 2 ** 40 },
      { vocab_size: 2 ** 40 },
      { head_dim: 2 ** 40 },
      { num_attention_heads: 2 ** 40, num_key_value_heads: 1, head_dim: 8 },
    ])("refuses %o, far more than the checkpoint holds, before the memory is gone", async (lie) => {
      await saved();
      writeFileSync(join(folder, "config.json"), JSON.stringify({ ...config, ...lie, tie_word_embeddings: false }));
      await expect(loadModel(folder)).rejects.toThrow(
        /^loadModel: config\.json describes a far larger model than .*model\.safetensors holds, which has \d+ values\. One of/,
      );
    });

    test("refuses weights that memory cannot hold before a file of them is opened", async () => {
      await saved({ maxShardBytes: 400 });
      const index = join(folder, "model.safetensors.index.json");
      const content = JSON.parse(readFileSync(index, "utf8"));
      for (const file of readdirSync(folder).filter((name) => name.endsWith(".safetensors"))) rmSync(join(folder, file));
      const refused = (bytes: number, options = {}) => {
        writeFileSync(index, JSON.stringify({ ...content, metadata: { total_size: bytes } }));
        return expect(loadModel(folder, options)).rejects;
      };
      const known = currentDevice().mostBytes !== undefined;
      const unknown = /names model-00001.*not in the folder/;
      await refused(15e9).toThrow(
        known ? /\(15\.0 GB in files\) take 15\.0 GB or more, and \w+ has 4\.3 GB.* Fewer bits/ : unknown,
      );
      const smaller = /take 7\.5 GB or more, and \w+ has 4\.3 GB of memory\. Take a smaller model/;
      await refused(15e9, { dtype: "bfloat16" }).toThrow(known ? /take 7\.5 GB or more.*Fewer bits/ : unknown);
      await refused(60e9, { quantise: {} }).toThrow(known ? smaller : unknown);
      await refused(4e9).toThrow(unknown);
      writeFileSync(join(folder, "config.json"), JSON.stringify({ ...config, quantization_config: { quant_method: "mxfp4" } }));
      await refused(13.8e9).toThrow(known ? /take 13\.8 GB or more.*memory\. Take a smaller model/ : unknown);
    });

    test("a dtype that there is not", async () => {
      await expect(saved({ dtype: "float8" })).rejects.toThrow(
        'saveModel: `dtype` (= "float8") must be float32, float16 or bfloat16.',
      );
    });
  });
});
