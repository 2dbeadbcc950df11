/** What fresh adapters are made of, where it is more than the laws tell. */
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import "../../src/devices/choose.ts";
import { currentDevice, downloadSync, upload } from "../../src/compile/program.ts";
import { readSafetensors } from "../../src/formats/safetensors.ts";
import { createModel } from "../../src/models/registry.ts";
import { Linear } from "../../src/nn/linear.ts";
import { attach, beft, deft, merge, methods } from "../../src/peft/index.ts";
import { type AnyMethod, fileOf } from "../../src/peft/method.ts";
import { toCamel } from "../../src/peft/method-config.ts";
import { TorchGenerator } from "../../src/random/torch-generator.ts";
import { Holder } from "../arbitrary/adapter.ts";

const folder = new URL("../fixtures/peft/", import.meta.url);
const json = (path: string) => JSON.parse(readFileSync(new URL(path, folder), "utf8"));

/** Random matrices that all layers share are drawn again from a number, by those whose file does not have them. */
describe.each(["vera_llama", "pvera_llama", "randlora_llama", "randlora_llama_sparse"])("%s", (name) => {
  it("draws the matrices that PEFT drew, bit for bit", async () => {
    const { peft_type, ...config } = json(`${name}/adapter/adapter_config.json`);
    const method = (methods as Readonly<Record<string, AnyMethod>>)[peft_type.toLowerCase()]!;
    const adapter = attach(createModel(json("base/llama/config.json")), method({ ...toCamel(config), peftVersion: null }));
    const { tensors } = await readSafetensors(new URL(`${name}/adapter/adapter_model.safetensors`, folder).pathname);
    expect(Object.keys(adapter.shared)).toEqual(["A", "B"]);
    for (const [key, parameter] of Object.entries(adapter.shared)) {
      const theirs = tensors.get(`base_model.${fileOf(method.shared!.files, key)}`)!;
      expect(parameter.shape).toEqual(theirs.shape);
      expect(downloadSync(parameter.stored)).toEqual(await theirs.load());
    }
  });
});

const random = new TorchGenerator(3);
const sizeOf = (shape: readonly number[]): number => shape.reduce((size, extent) => size * extent, 1);
const floats = (...shape: readonly number[]) => upload(currentDevice(), random.randn(sizeOf(shape)), shape, "float32");
const made = (bias: boolean) => new Holder(new Linear(6, 5, { bias, init: (shape) => random.randn(sizeOf(shape)) }));

describe("DEFT", () => {
  // R is Qᵀ·W/s, rounded: too far from exact for the law of zero starts
  it.each(["relu", "qr"] as const)("starts as nothing but rounding, with %s", (decompositionMethod) => {
    const model = made(true);
    const x = floats(3, 6);
    const before = downloadSync(model.forward(x));
    attach(model, deft({ r: 3, alpha: 5, decompositionMethod, targetModules: ["layer"] }));
    const after = downloadSync(model.forward(x));
    for (const [i, value] of before.entries()) expect(Math.abs((after[i] as number) - value)).toBeLessThan(1e-5);
  });

  it("takes a subspace out of the weight with `para`", () => {
    const model = made(false);
    attach(model, deft({ r: 5, para: true, decompositionMethod: "qr", targetModules: ["layer"] }));
    // all of it, where the subspace is the whole
    for (const value of downloadSync(model.forward(floats(2, 6)))) expect(Math.abs(value as number)).toBeLessThan(1e-5);
  });
});

describe("BEFT", () => {
  it("is merged into a bias, and into nothing else", () => {
    const model = made(true);
    const [weight, bias] = [...model.namedParameters()].map(([, parameter]) => downloadSync(parameter.stored));
    const { layers } = attach(model, beft({ initWeights: false, targetModules: ["layer"] }));
    const added = downloadSync([...layers.values()][0]!.adapters.get("default")!.parameters["bias"]!.stored);
    merge(model);
    const merged = [...model.namedParameters()].filter(([name]) => /base_layer|^layer\.(weight|bias)/.test(name));
    const [W, b] = merged.map(([, parameter]) => downloadSync(parameter.stored));
    expect(W).toEqual(weight);
    for (const [i, value] of (b as Float32Array).entries())
      expect(value).toBe(Math.fround((bias![i] as number) + (added[i] as number)));
  });

  it("says why it is not merged into a layer without a bias", () => {
    const model = made(false);
    attach(model, beft({ targetModules: ["layer"] }));
    expect(() => merge(model)).toThrow('the adapter "default" (BEFT) is no change of the weight, and layer has no bias');
  });
});
