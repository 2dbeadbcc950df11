/** What fresh adapters are made of, where it is more than the laws tell. */
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import "../../src/devices/choose.ts";
import { currentDevice, downloadSync, upload } from "../../src/compile/program.ts";
import { readSafetensors } from "../../src/formats/safetensors.ts";
import { memoryFolder } from "../../src/formats/writable-folder.ts";
import { matmul } from "../../src/graph/contraction.ts";
import { createModel } from "../../src/models/create-model.ts";
import { normal } from "../../src/nn/init.ts";
import { Conv1D, Linear } from "../../src/nn/linear.ts";
import {
  attach,
  baseStateDict,
  beft,
  deft,
  detach,
  hira,
  loadAdapter,
  lora,
  merge,
  methods,
  saveAdapter,
} from "../../src/peft/index.ts";
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

describe("a start from the weight", () => {
  it.each([
    ["pissa", "c_proj"],
    ["pissa_niter_2", "c_proj"],
    ["olora", "mlp.c_proj"],
  ] as const)("leaves GPT-2's turned layers what they compute, with %s", (start, further) => {
    const init = normal({ std: 0.3, generator: new TorchGenerator(5) });
    const model = createModel(json("base/gpt2/config.json"), { task: "CausalLM", init }).eval();
    const inputIds = upload(currentDevice(), Int32Array.of(4, 9, 5, 7), [1, 4], "int32");
    const logits = () => downloadSync(model.forward({ inputIds }).logits);
    const weights = () => downloadSync([...baseStateDict(model)].find(([path]) => path.endsWith("c_attn.weight"))![1]);
    const [before, whole] = [logits(), weights()];
    const { layers } = attach(model, lora({ r: 2, targetModules: ["c_attn", further], initLoraWeights: start }));
    expect(layers.size).toBe(further === "c_proj" ? 9 : 6);
    expect(weights()).not.toEqual(whole);
    for (const [i, value] of logits().entries()) expect(Math.abs(value - before[i]!)).toBeLessThan(1e-4);
  });

  it("takes OLoRA's factors out of a square turned weight as it is stored, as PEFT does, and puts them back", async () => {
    const folder = memoryFolder();
    const layer = () => new Holder(new Conv1D(6, 6, { init: (shape) => new TorchGenerator(8).randn(sizeOf(shape)) }));
    const [model, bare] = [layer(), layer()];
    const { layers } = attach(model, lora({ r: 2, loraAlpha: 3, targetModules: ["layer"], initLoraWeights: "olora" }));
    const { A, B } = layers.get("layer")!.adapters.get("default")!.parameters;
    const taken = downloadSync(matmul(B!.stored, A!.stored));
    const stored = (of: Holder) => downloadSync(baseStateDict(of).get("layer.weight")!);
    for (const [i, value] of stored(model).entries()) expect(value).toBeCloseTo(stored(bare)[i]! - 1.5 * taken[i]!, 5);
    A!.assign(A!.stored.add(floats(2, 6)));
    const x = floats(2, 6);
    const want = downloadSync(model.forward(x));
    await saveAdapter(model, folder);
    const plain = memoryFolder();
    await saveAdapter(model, plain, { plainLora: true });
    for (const from of [folder, plain]) {
      const again = layer();
      await loadAdapter(again, from);
      await saveAdapter(again, plain, { plainLora: true });
      for (const [i, value] of downloadSync(again.forward(x)).entries()) expect(value).toBeCloseTo(want[i]!, 4);
    }
    const last = layer();
    await loadAdapter(last, plain);
    for (const [i, value] of downloadSync(last.forward(x)).entries()) expect(value).toBeCloseTo(want[i]!, 4);
  });
});

describe("HiRA", () => {
  it("reads ranks in the tensors of a file: PEFT writes a pattern of ranks that it has not used", async () => {
    const folder = memoryFolder();
    const options = { r: 3, targetModules: ["layer"], initWeights: false } as const;
    const model = made(true);
    attach(model, hira(options));
    await saveAdapter(model, folder);
    const name = "adapter_config.json";
    const config = JSON.parse(new TextDecoder().decode(folder.contents.get(name)));
    await folder.write(new Map([[name, JSON.stringify({ ...config, rank_pattern: { layer: 5 } })]]));
    const x = floats(2, 6);
    const want = downloadSync(model.forward(x));
    detach(model);
    const { layers } = await loadAdapter(model, folder);
    expect(layers.get("layer")!.adapters.get("default")!.parameters["A"]!.shape).toEqual([3, 6]);
    expect(downloadSync(model.forward(x))).toEqual(want);
    const own = attach(made(true), hira({ ...options, rankPattern: { layer: 5 } }));
    expect(own.layers.get("layer")!.adapters.get("default")!.parameters["A"]!.shape).toEqual([5, 6]);
  });
});

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
    expect(() => merge(model)).toThrow('the adapter "default" (BEFT) is not a change of the weight, and layer has no bias');
  });
});
