import { describe, expect, test } from "vitest";
import { compile } from "../../src/compile/trace.ts";
import { ConfigError } from "../../src/errors.ts";
import { memoryFolder } from "../../src/formats/writable-folder.ts";
import { sliceAxis } from "../../src/graph/movement.ts";
import type { Tensor } from "../../src/graph/node.ts";
import type { CausalLM } from "../../src/models/causal-lm.ts";
import type { ConfigJson } from "../../src/models/config-reader.ts";
import { createModel } from "../../src/models/create-model.ts";
import type { DecoderLM } from "../../src/models/decoder-lm.ts";
import { normal } from "../../src/nn/init.ts";
import { attach, loadAdapter, lora, saveAdapter } from "../../src/peft/index.ts";
import { manualSeed } from "../../src/tensor/random.ts";
import { distance, integers, onReference } from "../nn/tensors.ts";
import { decoderConfigs, longrope } from "./configs.ts";

function makeModel(type: string, changes: ConfigJson = {}): CausalLM {
  manualSeed(1);
  return createModel({ model_type: type, ...decoderConfigs[type], ...changes }, { init: normal({ std: 0.3 }) });
}

const tokens = [3, 1, 4, 1, 5, 9];
const row = (list: readonly number[]) => integers([...list], [1, list.length]);

onReference("models that continue a text", () => {
  test.each(Object.keys(decoderConfigs))("%s, with a cache, piece by piece, gives what it gives at once", (type) => {
    const model = makeModel(type);
    const want = model.forward({ inputIds: row(tokens) }).logits;
    const cache = model.createCache(1, 8);
    const step = compile((inputIds: Tensor) => model.forward({ inputIds, cache }).logits);
    for (const [from, to] of [
      [0, 3],
      [3, 4],
      [4, 6],
    ] as const)
      expect(distance(step(row(tokens.slice(from, to))), sliceAxis(want, 1, from, to))).toBeLessThan(1e-5);
    step.dispose();
  });

  test.each(Object.keys(decoderConfigs))("%s overlooks padding on the left", (type) => {
    const model = makeModel(type);
    const plain = model.forward({ inputIds: row([7, 8, 9]) }).logits;
    const padded = model.forward({ inputIds: row([0, 0, 7, 8, 9]), attentionMask: row([0, 0, 1, 1, 1]) }).logits;
    expect(distance(sliceAxis(padded, 1, 2, 5), plain)).toBeLessThan(1e-5);
  });

  test.each(["mistral", "gemma2", "gemma3_text", "qwen2"])(
    "in %s a window longer than the text changes nothing, a shorter one does",
    (type) => {
      const logits = (window: number) => makeModel(type, { sliding_window: window }).forward({ inputIds: row(tokens) }).logits;
      expect(distance(logits(100), logits(6))).toBe(0);
      expect(distance(logits(100), logits(2))).toBeGreaterThan(1e-3);
    },
  );

  test("norms of an OPT without weights, as Galactica has them, are those whose weights are 1 and biases 0", () => {
    const model = makeModel("opt", { layer_norm_elementwise_affine: false });
    expect([...model.namedParameters()].filter(([name]) => name.includes("norm"))).toEqual([]);
    const logits = (from: CausalLM) => from.forward({ inputIds: row(tokens) }).logits;
    expect(distance(logits(model), logits(makeModel("opt")))).toBe(0);
  });

  test("in Phi-3 a text longer than those of the training gets other angles", () => {
    const logits = (changes: object) =>
      makeModel("phi3", { rope_scaling: { ...longrope, ...changes } }).forward({ inputIds: row(tokens) }).logits;
    const within = logits({});
    expect(distance(within, logits({ long_factor: [9, 9] }))).toBe(0);
    expect(distance(within, logits({ original_max_position_embeddings: 4, attention_factor: 1 }))).toBeGreaterThan(1e-4);
    expect(distance(within, logits({ type: "su", rope_type: undefined }))).toBe(0);
  });

  test("checkpoints of bare models, and with masks in them, are read by the paths that they mean", () => {
    const pathOf = (type: string, name: string) => (makeModel(type) as DecoderLM).pathOf(name);
    expect(pathOf("gpt2", "h.0.ln_1.weight")).toBe("transformer.h.0.ln_1.weight");
    expect(pathOf("gpt2", "transformer.wte.weight")).toBe("transformer.wte.weight");
    for (const type of ["llama", "mistral", "gemma2", "phi", "phi3", "qwen3"])
      for (const name of ["layers.0.mlp.down_proj.weight", "embed_tokens.weight", "norm.weight"])
        expect(pathOf(type, name)).toBe(`model.${name}`);
    expect(pathOf("llama", "lm_head.weight")).toBe("lm_head.weight");
    expect(pathOf("gpt_neo", "h.0.attn.attention.bias")).toBeNull();
    expect(pathOf("opt", "decoder.embed_tokens.weight")).toBe("model.decoder.embed_tokens.weight");
    expect(pathOf("gpt_neox", "gpt_neox.layers.0.attention.bias")).toBeNull();
    for (const front of ["", "gpt_neox."])
      expect(pathOf("gpt_neox", `${front}layers.0.attention.dense.bias`)).toBe("gpt_neox.layers.0.attention.dense.bias");
    expect(pathOf("gpt_neox", "embed_out.weight")).toBe("lm_head.weight");
  });

  test("all linear layers are those of the blocks, whatever the output layer is called and however weights are kept", () => {
    const adapted = (type: string) => [...attach(makeModel(type), lora({ r: 2, targetModules: "all-linear" })).layers.keys()];
    expect(adapted("gpt_neox").slice(0, 2)).toEqual([
      "gpt_neox.layers.0.attention.query_key_value",
      "gpt_neox.layers.0.attention.dense",
    ]);
    expect(adapted("gpt_neox")).not.toContain("lm_head");
    expect(adapted("gpt2").slice(0, 4)).toEqual(
      ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"].map((name) => `transformer.h.0.${name}`),
    );
  });

  test("GPT-NeoX's output layer has transformers' name, and in adapters from before transformers 5 that of its checkpoints", async () => {
    const options = { r: 2, targetModules: ["dense", "lm_head"], initLoraWeights: false } as const;
    const adapted = makeModel("gpt_neox");
    attach(adapted, lora(options));
    const want = adapted.forward({ inputIds: row(tokens) }).logits;
    const now = memoryFolder();
    await saveAdapter(adapted, now);
    // bytes of the header and of the config, in a name as long
    const former = memoryFolder();
    for (const [file, bytes] of now.contents) {
      const text = Buffer.from(bytes).toString("latin1");
      const renamed = file.endsWith(".json")
        ? text.replace('"lm_head"', '"embed_out"')
        : text.replace(/^.{8}\{.*?\}\}/s, (header) => header.replaceAll("model.lm_head.", "model.embed_out."));
      const grown = Buffer.from(renamed, "latin1");
      if (!file.endsWith(".json")) grown.writeBigUInt64LE(grown.readBigUInt64LE() + BigInt(grown.length - bytes.length));
      if (file !== "README.md") await former.write(new Map([[file, Uint8Array.from(grown)]]));
    }
    for (const folder of [now, former]) {
      const model = makeModel("gpt_neox");
      const { layers } = await loadAdapter(model, folder as never);
      expect(layers.has("lm_head")).toBe(true);
      expect(distance(model.forward({ inputIds: row(tokens) }).logits, want)).toBe(0);
    }
  });

  test("an adapter's config says how its layers keep their weights, whatever it was told", () => {
    const saved = (type: string, fanInFanOut: boolean) =>
      attach(makeModel(type), lora({ r: 2, fanInFanOut })).config["fanInFanOut"];
    expect([saved("gpt2", false), saved("gpt2", true), saved("qwen2", true)]).toEqual([true, true, false]);
  });

  test("GPT-NeoX reads the rotary keys of published files", () => {
    const { config } = makeModel("gpt_neox", { rotary_pct: 1, rotary_emb_base: 500 }) as DecoderLM;
    expect(config).toMatchObject({ rotaryDim: 4, rope: { ropeTheta: 500 } });
  });
});

describe("what is refused", () => {
  const layerKeys: Readonly<Record<string, string>> = {
    bloom: "n_layer",
    gpt2: "n_layer",
    gpt_neo: "num_layers",
    gptj: "n_layer",
  };
  test.each(Object.keys(decoderConfigs))("%s with more layers than there can be", (type) => {
    const key = layerKeys[type] ?? "num_hidden_layers";
    expect(() => makeModel(type, { [key]: 1e9 })).toThrow(`${type}: \`${key}\` (= 1000000000) must be at most 10000.`);
  });

  test.each<[string, ConfigJson, string]>([
    ["gemma", { use_bidirectional_attention: true }, "gemma: `use_bidirectional_attention` (= true) must be false here."],
    [
      "gemma3_text",
      { use_bidirectional_attention: true },
      "gemma3_text: `use_bidirectional_attention` (= true) must be false here.",
    ],
    ["gemma3_text", { attn_logit_softcapping: 50 }, "gemma3_text: `attn_logit_softcapping` (= 50) must be 0 here."],
    [
      "gemma3_text",
      { rope_parameters: { sliding_attention: { rope_type: "yarn" } } },
      '`rope_type` (= "yarn") must be "default" here.',
    ],
    [
      "gemma3",
      { text_config: { model_type: "gemma3_text" } },
      "is not supported. Its text part alone, saved as a gemma3_text, is.",
    ],
    ["gemma2", { layer_types: ["full_attention"] }, 'gemma2: `layer_types` (= ["full_attention"]) must be a list of 2 times'],
    ["gemma2", { layer_types: ["linear", "full_attention"] }, '"full_attention" or "sliding_attention".'],
    ["gemma2", { sliding_window: null }, "gemma2: `sliding_window` is missing from the configuration."],
    ["mistral", { sliding_window: 0 }, "mistral: `sliding_window` (= 0) must be a positive integer."],
    ["mistral", { rope_scaling: { type: "yarn", factor: 0 } }, 'mistral: `factor` (= 0) must be above 0 for rope type "yarn".'],
    ["mistral", { rope_scaling: { type: "dynamic", factor: 0.5 } }, 'must be at least 1 for rope type "dynamic".'],
    ["opt", { layerdrop: 0.1 }, "opt: `layerdrop` (= 0.1) must be 0 here."],
    ["phi", { num_key_value_heads: 3 }, "phi: `num_key_value_heads` (= 3) must divide num_attention_heads (= 4)."],
    ["phi", { partial_rotary_factor: 0.25 }, "(= 0.25) means 1 of the 4 values of a head, and rotary embedding turns pairs."],
    ["phi", { partial_rotary_factor: 2 }, "phi: `partial_rotary_factor` (= 2) must be above 0 and at most 1."],
    ["phi3", { resid_pdrop: 0.1 }, "phi3: `resid_pdrop` (= 0.1) must be 0 here."],
    ["phi3", { rope_scaling: { ...longrope, long_factor: [1, 0] } }, "must be a list of numbers above 0."],
    ["phi3", { rope_scaling: { ...longrope, long_factor: [1] } }, "of 2 numbers, got 1."],
    ["gpt_neo", { attention_types: [[["global", "local"], 2]] }, 'must give 2 times "global" or "local".'],
    ["gpt_neo", { attention_types: [[["global", "far"], 1]] }, 'must give 2 times "global" or "local".'],
    ["gpt_neo", { num_layers: 3 }, 'must give 3 times "global" or "local".'],
    ["qwen3", { quantization_config: { bits: 4 } }, 'weights quantised as {"bits":4} are not read. Take the checkpoint without'],
  ])("%s %o", (type, changes, message) => {
    expect(() => makeModel(type, changes)).toThrow(ConfigError);
    expect(() => makeModel(type, changes)).toThrow(message);
  });
});
