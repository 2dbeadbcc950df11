/** Experts that are kept as codes: the same function as floats of what the codes stand for, with adapters and without. */
import { join } from "node:path";
import { expect, test } from "vitest";
import { memoryFolder } from "../../src/formats/writable-folder.ts";
import { add } from "../../src/graph/elementwise.ts";
import { reduceSum } from "../../src/graph/reduction.ts";
import type { CausalLM } from "../../src/models/causal-lm.ts";
import { createModel } from "../../src/models/create-model.ts";
import { CodedMatrices, type Experts } from "../../src/models/mixture.ts";
import { normal } from "../../src/nn/init.ts";
import type { Parameter } from "../../src/nn/module.ts";
import type { QuantisedType } from "../../src/nn/quantiser.ts";
import { gradientsOf } from "../../src/optim/optimizer.ts";
import { attach, loadAdapter, lora, merge, quantise, saveAdapter, unmerge } from "../../src/peft/index.ts";
import { manualSeed } from "../../src/tensor/random.ts";
import { loadModel, saveModel } from "../../src/train/load-model.ts";
import { onEveryDevice } from "../devices.ts";
import { decoderConfigs } from "../models/configs.ts";
import { distance, integers, values } from "../nn/tensors.ts";

const attention = ["q_proj", "k_proj", "v_proj", "o_proj", "lm_head"];
const config = { model_type: "mixtral", ...decoderConfigs["mixtral"], num_local_experts: 6, num_experts_per_tok: 2 };
const made = (more: object = {}): CausalLM => {
  manualSeed(1);
  return createModel({ ...config, ...more }, { init: normal({ std: 0.3 }) }) as CausalLM;
};
/** One token, and a text of which not every expert gets tokens. */
const texts = () => [integers([3], [1, 1]), integers([3, 1, 4, 1, 5, 9, 2, 6], [2, 4])];
const logits = (model: CausalLM) => texts().map((inputIds) => model.forward({ inputIds }).logits);
const expectSame = (a: CausalLM, b: CausalLM, most = 1e-5) => {
  const [x, y] = [logits(a), logits(b)];
  for (const [i, each] of x.entries()) expect(distance(each, y[i]!)).toBeLessThan(most);
};
const bits = (model: CausalLM) => [...model.namedParameters()].map(([path, { stored }]) => [path, values(stored)]);

onEveryDevice(() => {
  test.each<[QuantisedType, number, object]>([
    ["nf4", 64, {}],
    ["fp4", 32, {}],
    ["int8", 64, {}],
    ["nf4", 64, { intermediate_size: 9, rms_norm_eps: 1e-5 }], // blocks that reach from one expert into the next
    ["nf4", 32, { ...decoderConfigs["gpt_oss"], model_type: "gpt_oss" }], // matrices [in, out]
  ])("%s in blocks of %i %o: what is computed, saved and loaded", async (type, blockSize, more) => {
    const [model, folder, whole] = [made(more), memoryFolder(), memoryFolder()];
    await saveModel(whole, model, { ...config, ...more });
    const options = { type, blockSize, skip: attention };
    const { layers, bytesBefore, bytesAfter } = quantise(model, options);
    expect(layers).toEqual(["model.layers.0.mlp.experts", "model.layers.1.mlp.experts"]);
    expect(bytesAfter).toBeLessThan(bytesBefore / 1.5);
    expect(model.parameters().reduce((sum, { represents }) => sum + represents, 0)).toBe(
      made(more)
        .parameters()
        .reduce((sum, { represents }) => sum + represents, 0),
    );
    await saveModel(folder, model, { ...config, ...more });
    const { model: floats } = await loadModel(folder);
    expectSame(model, floats as CausalLM);
    const { model: loaded } = await loadModel(whole, { quantise: options });
    expect(bits(loaded as CausalLM)).toEqual(bits(model));
  });

  test("experts that a file has in MXFP4 stay codes, under adapters, merged into and taken out, and are saved as what they stand for", async () => {
    const [folder, adapter] = [memoryFolder(), memoryFolder()];
    const { model, config: json } = await loadModel(join(import.meta.dirname, "../fixtures/heads/gpt_oss_mxfp4"));
    const { gate_up_proj: codes } = model.getModule("model.layers.1.mlp.experts") as Experts;
    expect(codes).toBeInstanceOf(CodedMatrices);
    await saveModel(folder, model, json);
    const { model: floats, config: written } = await loadModel(folder);
    expect(written["quantization_config"]).toBe(undefined);
    expectSame(model, floats);
    const before = bits(model);
    const targetParameters = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"];
    attach(model, lora({ r: 2, targetModules: ["q_proj"], targetParameters, initLoraWeights: false }), { seed: 2 });
    await saveAdapter(model, adapter);
    await loadAdapter(floats, adapter);
    expectSame(model, floats);
    merge(model, undefined, { tell: () => {} });
    // codes are as near as a fourth of the largest value of a block is
    const [got, want] = [logits(model)[1]!, logits(floats)[1]!];
    expect(distance(got, want)).toBeLessThan(1);
    expect(distance(got, want)).toBeGreaterThan(0);
    unmerge(model);
    const base = bits(model).filter(([path]) => !String(path).includes("lora_"));
    expect(base.map(([, each]) => each)).toEqual(before.map(([, each]) => each));
  });

  test("adapters lie on what the codes stand for, and are merged into them and taken out to the bit", async () => {
    const [model, folder, adapter] = [made(), memoryFolder(), memoryFolder()];
    quantise(model, { type: "int8", skip: attention });
    await saveModel(folder, model, config);
    const { model: floats } = await loadModel(folder);
    const before = bits(model);
    attach(model, lora({ r: 2, targetModules: "all-linear", initLoraWeights: false }), { seed: 2 });
    await saveAdapter(model, adapter);
    await loadAdapter(floats as CausalLM, adapter);
    expectSame(model, floats as CausalLM);
    const trained = (of: CausalLM) => [...of.namedParameters()].flatMap(([path, p]) => (/lora_[AB]/.test(path) ? [p] : []));
    for (const of of [model, floats as CausalLM]) for (const parameter of trained(of)) parameter.requiresGrad = true;
    const gradients = ([model, floats] as CausalLM[]).map((of) => {
      const loss = logits(of)
        .map((y) => reduceSum(y, [0, 1, 2]))
        .reduce((a, b) => add(a, b));
      const parameters: Parameter[] = trained(of);
      return [...gradientsOf(loss, parameters).values()];
    });
    for (const [i, gradient] of gradients[0]!.entries()) expect(distance(gradient, gradients[1]![i]!)).toBeLessThan(1e-4);
    expect(gradients[0]!.length).toBeGreaterThan(8);
    const [unmerged] = logits(model);
    merge(model, undefined, { tell: () => {} });
    expect(distance(logits(model)[0]!, unmerged!)).toBeLessThan(0.1);
    const experts = model.getModule("model.layers.0.mlp.experts.base_layer.base_layer");
    expect((experts as Experts).gate_up_proj).toBeInstanceOf(CodedMatrices);
    unmerge(model);
    expect(
      bits(model)
        .filter(([path]) => !String(path).includes("lora_"))
        .map(([, each]) => each),
    ).toEqual(before.map(([, each]) => each));
  });
});
