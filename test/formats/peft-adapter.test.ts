import { mkdir, mkdtemp, readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { ConfigError, FormatError } from "../../src/errors.ts";
import {
  boolean,
  checkAdapterName,
  choice,
  configSchema,
  defaultConfig,
  defaultLoraFileConfig,
  encodeAdapter,
  float,
  formatAdapterConfig,
  key,
  type LoraFileConfig,
  listAdapters,
  loraSchema,
  object,
  parseAdapterConfig,
  readAdapter,
  targetKeys,
  text,
  toFileKey,
  writeAdapter,
} from "../../src/formats/peft-adapter.ts";
import { readSafetensors } from "../../src/formats/safetensors.ts";
import { temporaryFolder } from "../temporary-folder.ts";
import { tensors } from "./arbitrary-tensors.ts";

const golden = process.env["GOLDEN_DIR"] ?? "test/fixtures";

const root = temporaryFolder();

/** Folders of adapters that PEFT wrote, as far as the fixtures are here. */
async function goldenAdapters(): Promise<string[]> {
  const folders: string[] = [];
  const visit = async (folder: string): Promise<void> => {
    const entries = await readdir(folder, { withFileTypes: true }).catch(() => []);
    if (entries.some(({ name }) => name === "adapter_config.json")) folders.push(folder);
    for (const entry of entries) if (entry.isDirectory() && entry.name !== "base") await visit(join(folder, entry.name));
  };
  await visit(join(golden, "peft"));
  return folders;
}

const weights = {
  "base_model.model.h.0.lora_A.weight": { dtype: "float32", shape: [1, 2], data: new Float32Array([1, 2]) },
} as const;

describe("an adapter config", () => {
  it("is written as PEFT writes it: every key, sorted, Python's numbers, inference_mode true", () => {
    const config: Partial<LoraFileConfig> = {
      task_type: "CAUSAL_LM",
      base_model_name_or_path: "some/base-model",
      target_modules: ["q_proj", "v_proj"],
    };
    expect(formatAdapterConfig(loraSchema, config)).toBe(completeFile);
  });

  it("of LoRA has the types that its keys accept", () => {
    const { r, bias, rank_pattern, target_modules, peft_type, task_type } = defaultLoraFileConfig;
    const typed: [
      number,
      "none" | "all" | "lora_only",
      Readonly<Record<string, number>>,
      string | readonly string[] | null,
      "LORA",
    ] = [r, bias, rank_pattern, target_modules, peft_type];
    expect([...typed, task_type]).toEqual([8, "none", {}, null, "LORA", null]);
  });

  it("of every LoRA fixture reads without a warning and writes back to the same JSON", async (context) => {
    let count = 0;
    for (const folder of await goldenAdapters()) {
      const json = await readFile(join(folder, "adapter_config.json"), "utf8");
      if (JSON.parse(json).peft_type !== "LORA") continue;
      const { config, warnings } = parseAdapterConfig(json, [loraSchema]);
      expect(warnings, folder).toEqual([]);
      expect(JSON.parse(formatAdapterConfig(loraSchema, config)), folder).toEqual({ ...JSON.parse(json), inference_mode: true });
      count++;
    }
    if (count === 0) context.skip();
  });

  it("takes defaults for missing keys, and for null where null means nothing", () => {
    const { config, warnings } = parseAdapterConfig('{"peft_type":"LORA","r":4,"alpha_pattern":null,"target_modules":null}', [
      loraSchema,
    ]);
    expect(config).toEqual({ ...defaultLoraFileConfig, r: 4 });
    expect(warnings).toEqual([]);
    expect(config.rank_pattern).not.toBe(defaultLoraFileConfig.rank_pattern);
  });

  it("drops unknown keys with a warning that names the nearest right one", () => {
    const { config, warnings } = parseAdapterConfig('{"peft_type":"LORA","lora_alhpa":4,"zzzzzzzz":1,"__proto__":{"r":1}}', [
      loraSchema,
    ]);
    expect(warnings).toEqual([
      "adapter_config.json: `lora_alhpa` is not a key of LORA and is ignored. Did you mean `lora_alpha`?",
      "adapter_config.json: `zzzzzzzz` is not a key of LORA and is ignored.",
      "adapter_config.json: `__proto__` is not a key of LORA and is ignored.",
    ]);
    expect(config).toEqual(defaultLoraFileConfig);
  });

  it.each([
    ["{", "is not JSON."],
    ["[]", "is not a JSON object."],
    ["{}", "has no `peft_type`, so it is not an adapter's config."],
    ['{"peft_type":"LOAR"}', 'has the unknown `peft_type` "LOAR". Did you mean "LORA"?'],
    ['{"peft_type":"PREFIX_TUNING"}', 'has the unknown `peft_type` "PREFIX_TUNING". Known: LORA.'],
    ['{"peft_type":"LORA","r":0}', "`r` (= 0) must be a positive integer."],
    ['{"peft_type":"LORA","r":"8"}', '`r` (= "8") must be a positive integer.'],
    ['{"peft_type":"LORA","lora_dropout":1.5}', "`lora_dropout` (= 1.5) must be a number from 0 to 1."],
    ['{"peft_type":"LORA","use_dora":1}', "`use_dora` (= 1) must be true or false."],
    ['{"peft_type":"LORA","bias":"some"}', '`bias` (= "some") must be one of "none", "all", "lora_only".'],
    ['{"peft_type":"LORA","target_modules":[1]}', "`target_modules` (= [1]) must be a string or a list of strings."],
    ['{"peft_type":"LORA","rank_pattern":{"q":"8"}}', '`rank_pattern` (= {"q":"8"}) must be a map of numbers.'],
    [
      '{"peft_type":"LORA","task_type":"CAUSAL"}',
      '`task_type` (= "CAUSAL") must be one of "SEQ_CLS", "SEQ_2_SEQ_LM", "CAUSAL_LM",',
    ],
  ])("%s is refused", (json, problem) => {
    const parse = () => parseAdapterConfig(json, [loraSchema]);
    expect(parse).toThrow(FormatError);
    expect(parse).toThrow(`parseAdapterConfig: adapter_config.json ${problem}`);
  });

  it("that is any JSON is read or refused with one sentence", () => {
    fc.assert(
      fc.property(fc.dictionary(fc.constantFrom(...Object.keys(loraSchema.keys), "x"), fc.jsonValue()), (given) => {
        try {
          const { config } = parseAdapterConfig(JSON.stringify({ ...given, peft_type: "LORA" }), [loraSchema]);
          const written = JSON.parse(formatAdapterConfig(loraSchema, config));
          expect(written).toEqual(JSON.parse(JSON.stringify({ ...config, inference_mode: true, peft_version: "0.21.2" })));
        } catch (error) {
          if (!(error instanceof FormatError)) throw error;
        }
      }),
    );
  });

  it("to write is checked like one that is read", () => {
    expect(() => formatAdapterConfig(loraSchema, { r: -1 })).toThrow(
      "formatAdapterConfig: `r` (= -1) must be a positive integer.",
    );
    expect(() => formatAdapterConfig(loraSchema, { lora_alpah: 1 } as never)).toThrow(
      "formatAdapterConfig: `lora_alpah` is not a key of LORA. Did you mean `lora_alpha`?",
    );
    expect(() => formatAdapterConfig(loraSchema, { lora_alpha: Number.NaN })).toThrow("must be a number");
  });

  it("of another method needs its keys stated once", () => {
    const schema = configSchema("MADE_UP", "made_", {
      ...targetKeys,
      size: key(4.5, float()),
      mode: key("a", choice("a", "b")),
      name: key(null, text),
      flag: key(false, boolean),
    });
    const { mode, size, name } = defaultConfig(schema);
    const typed: ["a" | "b", number, string | null] = [mode, size, name];
    expect(typed).toEqual(["a", 4.5, null]);
    const read = parseAdapterConfig('{"peft_type":"MADE_UP","mode":"b"}', [loraSchema, schema]);
    expect(read.schema).toBe(schema);
    if (read.config.peft_type === "MADE_UP") expect(read.config.mode).toBe("b");
  });

  it.each([
    [0, "0.0"],
    [150, "150.0"],
    [0.05, "0.05"],
    [0.0001, "0.0001"],
    [6e-5, "6e-05"],
    [1.25e-7, "1.25e-07"],
    [1e15, "1000000000000000.0"],
    [1e16, "1e+16"],
    [1.5e300, "1.5e+300"],
    [-2, "-2.0"],
  ])("writes the float %d as Python does: %s", (value, expected) => {
    const schema = configSchema("X", "x_", { x: key(0, float()), sub: key(null, object("x")) });
    const lines = formatAdapterConfig(schema, { x: value, sub: { x: value, n: 1 } }).split("\n");
    expect(lines).toContain(`  "x": ${expected}`);
    expect(lines).toContain(`    "x": ${expected}`);
    expect(lines).toContain(`    "n": 1,`);
  });

  it("writes other alphabets as Python does", () => {
    expect(formatAdapterConfig(loraSchema, { base_model_name_or_path: "é🦜\n" })).toContain(
      '"base_model_name_or_path": "\\u00e9\\ud83e\\udd9c\\n"',
    );
  });
});

describe("an adapter folder", () => {
  it("gives back what was written", async () => {
    await fc.assert(
      fc.asyncProperty(tensors, async (written) => {
        const folder = await mkdtemp(join(root, "trip-"));
        await writeAdapter(folder, { schema: loraSchema, config: { r: 3 }, tensors: written });
        const back = await readAdapter(folder, [loraSchema]);
        expect(back.config).toEqual({ ...defaultLoraFileConfig, r: 3, inference_mode: true, peft_version: "0.21.2" });
        for (const [name, { data }] of written) expect(await back.tensors.get(name)?.load()).toEqual(data);
        expect((await readSafetensors(join(folder, "adapter_model.safetensors"))).metadata).toEqual(new Map([["format", "pt"]]));
      }),
      { numRuns: 15 },
    );
  });

  it("that PEFT wrote is written again byte for byte", async (context) => {
    let count = 0;
    for (const folder of await goldenAdapters()) {
      const json = await readFile(join(folder, "adapter_config.json"), "utf8");
      if (JSON.parse(json).peft_type !== "LORA") continue;
      const { schema, config, tensors: stored } = await readAdapter(folder, [loraSchema]);
      const copy = join(root, `copy-${count++}`);
      await writeAdapter(copy, { schema, config, tensors: stored });
      const read = (where: string) => readFile(join(where, "adapter_model.safetensors"));
      expect((await read(copy)).equals(await read(folder)), folder).toBe(true);
    }
    if (count === 0) context.skip();
  });

  it("has a model card, which is not overwritten", async () => {
    const folder = join(root, "card");
    const write = () =>
      writeAdapter(folder, {
        schema: loraSchema,
        config: { base_model_name_or_path: "org/base", task_type: "CAUSAL_LM" },
        tensors: weights,
      });
    await write();
    const card = await readFile(join(folder, "README.md"), "utf8");
    expect(card).toMatch(
      /^---\nbase_model: org\/base\nlibrary_name: peft\npipeline_tag: text-generation\ntags:\n- "base_model:adapter:org\/base"\n- lora\n- lorikeet\n---\n/,
    );
    await writeFile(join(folder, "README.md"), "mine");
    await write();
    expect(await readFile(join(folder, "README.md"), "utf8")).toBe("mine");
  });

  it("of another name than default lies in a folder of its own", async () => {
    const folder = join(root, "named");
    expect(await writeAdapter(folder, { schema: loraSchema, config: {}, tensors: weights, name: "poetry" })).toBe(
      join(folder, "poetry"),
    );
    expect((await readdir(folder)).sort()).toEqual(["README.md", "poetry"]);
    expect((await readdir(join(folder, "poetry"))).sort()).toEqual(["adapter_config.json", "adapter_model.safetensors"]);
    await expect(readAdapter(folder, [loraSchema])).rejects.toThrow(
      `readAdapter: ${JSON.stringify(folder)} has no adapter_config.json. Adapters are in: ${join(folder, "poetry")}.`,
    );
    await writeAdapter(folder, { schema: loraSchema, config: {}, tensors: weights });
    expect(await listAdapters(folder)).toEqual(["default", "poetry"]);
  });

  it("says what is missing", async () => {
    const folder = join(root, "partial");
    await expect(readAdapter(folder, [loraSchema])).rejects.toThrow("it does not exist");
    await mkdir(folder);
    await expect(readAdapter(folder, [loraSchema])).rejects.toThrow(/has no adapter_config\.json\.$/);
    await writeFile(join(folder, "adapter_config.json"), '{"peft_type":"LORA"}');
    await expect(readAdapter(folder, [loraSchema])).rejects.toThrow(/has no adapter_model\.safetensors\.$/);
    await writeFile(join(folder, "adapter_model.bin"), "");
    await expect(readAdapter(folder, [loraSchema])).rejects.toThrow(
      "adapter_model.bin is a Python pickle, which can run code and is not read; PeftModel.from_pretrained(model, path).save_pretrained(path)",
    );
  });

  it("is not touched when the config or a tensor is refused", async () => {
    const folder = join(root, "untouched");
    await expect(writeAdapter(folder, { schema: loraSchema, config: { r: 0 }, tensors: weights })).rejects.toThrow(ConfigError);
    const lost = { x: { dtype: "float32", shape: [1], load: () => Promise.reject(new Error("lost")) } } as const;
    await expect(writeAdapter(folder, { schema: loraSchema, config: {}, tensors: lost })).rejects.toThrow("lost");
    expect((await readdir(root)).filter((name) => name.includes("untouched"))).toEqual([]);
  });

  it("is the same in memory", async () => {
    const files = encodeAdapter({ schema: loraSchema, config: {}, tensors: weights });
    const folder = join(root, "memory");
    await writeAdapter(folder, { schema: loraSchema, config: {}, tensors: weights });
    for (const [name, bytes] of files) expect((await readFile(join(folder, name))).equals(bytes), name).toBe(true);
  });
});

describe("names of parameters", () => {
  it.each([
    ["model.layers.0.self_attn.q_proj.lora_B.bias", "base_model.model.model.layers.0.self_attn.q_proj.lora_B.bias"],
    ["h.0.attn.ia3_l", "base_model.model.h.0.attn.ia3_l"],
    ["base_model.vera_A", "base_model.vera_A"],
  ])("%s is saved as %s", (path, file) => {
    expect(toFileKey(path)).toBe(file);
  });

  it.each([
    ["", "must not be empty or hold any of"],
    ["a.b", "must not be empty or hold any of"],
    ["../x", "must not be empty or hold any of"],
    ["lora", 'must not be "lora_", with which LORA parameters begin.'],
    ["__base__", "stands for no adapter at all."],
  ])("cannot hold the adapter name %j", (name, why) => {
    expect(() => checkAdapterName(name, loraSchema)).toThrow(why);
  });
});

const completeFile = `{
  "alora_invocation_tokens": null,
  "alpha_pattern": {},
  "arrow_config": null,
  "auto_mapping": null,
  "base_model_name_or_path": "some/base-model",
  "bias": "none",
  "corda_config": null,
  "ensure_weight_tying": false,
  "eva_config": null,
  "exclude_modules": null,
  "fan_in_fan_out": false,
  "inference_mode": true,
  "init_lora_weights": true,
  "kasa_config": null,
  "layer_replication": null,
  "layers_pattern": null,
  "layers_to_transform": null,
  "loftq_config": {},
  "lora_alpha": 8,
  "lora_bias": false,
  "lora_dropout": 0.0,
  "lora_ga_config": null,
  "megatron_config": null,
  "megatron_core": "megatron.core",
  "modules_to_save": null,
  "monteclora_config": null,
  "peft_type": "LORA",
  "peft_version": "0.21.2",
  "qalora_group_size": 16,
  "r": 8,
  "rank_pattern": {},
  "revision": null,
  "target_modules": [
    "q_proj",
    "v_proj"
  ],
  "target_parameters": null,
  "task_type": "CAUSAL_LM",
  "trainable_token_indices": null,
  "use_bdlora": null,
  "use_dora": false,
  "use_qalora": false,
  "use_rslora": false,
  "velora_config": null
}`;
