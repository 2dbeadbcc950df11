import { describe, expect, test } from "vitest";
import { createModel } from "../../src/models/create-model.ts";
import { normal } from "../../src/nn/init.ts";
import { attach, detach, dora, lora } from "../../src/peft/index.ts";
import { manualSeed } from "../../src/tensor/random.ts";
import { decoderConfigs } from "../models/configs.ts";
import { integers, onReference, values } from "../nn/tensors.ts";

const made = (type: string) => {
  manualSeed(1);
  return createModel({ model_type: type, ...decoderConfigs[type] }, { init: normal({ std: 0.3 }) });
};
const all = { r: 2, loraAlpha: 3, targetModules: "all-linear" } as const;

onReference("targets that mean experts", () => {
  test.each(["mixtral", "qwen3_moe", "olmoe"])("all-linear of %s has the experts and the router, and nothing more", (type) => {
    const model = made(type);
    const { config, layers } = attach(model, lora(all));
    expect(config).toMatchObject({
      targetModules: ["q_proj", "k_proj", "v_proj", "o_proj"],
      rankPattern: { ".*\\.gate_up_proj": 4 },
      alphaPattern: { ".*\\.gate_up_proj": 6 },
    });
    expect(new Set(config["targetParameters"] as string[])).toEqual(new Set(["gate.weight", "gate_up_proj", "down_proj"]));
    expect([...layers].map(String).join()).toMatch(/mlp\.experts/);
  });

  test("older names of Mixtral's layers are those of what they are now, and leave the function as it was", () => {
    const model = made("mixtral");
    const inputIds = integers([3, 1, 4, 1], [1, 4]);
    const before = values(model.forward({ inputIds }).logits);
    const { config } = attach(model, lora({ r: 2, targetModules: ["w1", "w2", "w3", "v_proj"] }));
    expect(config).toMatchObject({ targetModules: ["v_proj"], targetParameters: ["gate_up_proj", "down_proj"] });
    expect(values(model.forward({ inputIds }).logits)).toEqual(before);
    detach(model);
  });

  describe("are refused", () => {
    test("one of two matrices that are one", () =>
      expect(() => attach(made("mixtral"), lora({ targetModules: ["w1", "w2"] }))).toThrow('Add "w3" to targetModules.'));
    test("options that are of layers only", () =>
      expect(() => attach(made("olmoe"), lora({ ...all, loraDropout: 0.1 }))).toThrow("does not go with `loraDropout`"));
  });

  test("are left alone by patterns and by methods without parameters", () => {
    const targetModules = ".*q_proj";
    expect(attach(made("olmoe"), lora({ targetModules })).config).toMatchObject({ targetModules, targetParameters: null });
    expect(attach(made("olmoe"), dora(all)).config["targetParameters"] ?? null).toBe(null);
  });
});
