/** Models whose linear layers hold their weights as codes: replaced in place, adapted, trained and merged. */
import { describe, expect, test } from "vitest";
import { pullback } from "../../src/autograd/grad.ts";
import { currentDevice, downloadSync, realize, upload } from "../../src/compile/program.ts";
import { compile } from "../../src/compile/trace.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { LlamaForCausalLM } from "../../src/models/llama.ts";
import { normal } from "../../src/nn/init.ts";
import { Conv1D, Linear, linear } from "../../src/nn/linear.ts";
import { group, type Module } from "../../src/nn/module.ts";
import { QuantisedLinear } from "../../src/nn/quantised-linear.ts";
import { dequantiseBlockwise, dequantiseInt8, nf4, quantiseBlockwise, quantiseInt8 } from "../../src/nn/quantiser.ts";
import {
  attach,
  detach,
  disabled,
  dora,
  ia3,
  lora,
  merge,
  mergeAndUnload,
  prepareForKbitTraining,
  quantise,
  trainableReport,
  unmerge,
} from "../../src/peft/index.ts";
import { TorchGenerator } from "../../src/random/torch-generator.ts";
import { textDataset } from "../../src/text/dataset.ts";
import { Trainer } from "../../src/train/trainer.ts";
import { onEveryDevice } from "../devices.ts";
import { letterTokenizer, smallText } from "../train/small-run.ts";
import { difference, numbers, shake } from "./small-model.ts";

const random = (shape: readonly number[], seed: number, std = 1): Tensor =>
  upload(
    currentDevice(),
    new TorchGenerator(seed)
      .normal(
        Math.max(
          16,
          shape.reduce((a, b) => a * b),
        ),
        0,
        std,
      )
      .slice(
        0,
        shape.reduce((a, b) => a * b),
      ),
    shape,
    "float32",
  );

/** Two layers of odd sizes, with and without a bias. */
const layers = () =>
  group({
    first: new Linear(13, 7, { init: normal({ std: 0.3, generator: new TorchGenerator(1) }) }),
    second: new Linear(7, 9, { bias: false, init: normal({ std: 0.3, generator: new TorchGenerator(2) }) }),
    head: new Linear(9, 5),
  });

const llama = (hidden = 32, ffn = 48): LlamaForCausalLM =>
  new LlamaForCausalLM(
    {
      model_type: "llama",
      vocab_size: 28,
      hidden_size: hidden,
      intermediate_size: ffn,
      num_hidden_layers: 3,
      num_attention_heads: 4,
      num_key_value_heads: 2,
      max_position_embeddings: 32,
    },
    { init: normal({ std: 0.1, generator: new TorchGenerator(3) }) },
  );
const dataset = () => textDataset({ text: smallText }, letterTokenizer, { window: 16, stride: 8, heldOut: 0.1, seed: 3 });
const bits = (model: Module) => [...model.namedParameters()].map(([path, parameter]) => [path, numbers(parameter.stored)]);

onEveryDevice((device) => {
  describe("quantise", () => {
    test("layers compute with what their codes stand for, and give gradients to x and the bias only", () => {
      for (const options of [
        { type: "nf4", doubleQuantise: false, blockSize: 32 },
        { type: "fp4", doubleQuantise: true },
        { type: "nf4" },
        { type: "int8" },
      ] as const) {
        const model = layers();
        const W = downloadSync(model.first.weight.stored) as Float32Array;
        const { layers: paths } = quantise(model, options);
        expect(paths).toEqual(["first", "second"]);
        const layer = model.first as unknown as QuantisedLinear;
        expect(layer).toBeInstanceOf(QuantisedLinear);
        const matrix = layer.matrix();
        const farthest = (wanted: Float32Array) => Math.max(...wanted.map((value, i) => Math.abs(value - numbers(matrix)[i]!)));
        // int8 goes by way of float16
        if (options.type === "int8") expect(farthest(dequantiseInt8(quantiseInt8(W, 13), 13))).toBeLessThan(1e-2);
        else if ("blockSize" in options)
          expect(farthest(dequantiseBlockwise(quantiseBlockwise(W, nf4, 32), nf4, 32))).toBeLessThan(1e-7);
        const x = random([3, 13], 5);
        const y = layer.forward(x);
        const bias = layer.bias!.value;
        const plain = linear(x, upload(currentDevice(), downloadSync(matrix), [7, 13], "float32"), bias);
        expect(difference(y, plain)).toBeLessThan(1e-6);
        const g = random([3, 7], 6);
        const [dx, db, none] = pullback([y], [g], [x, bias, layer.weight.stored]);
        const [wantedX, wantedB] = pullback([plain], [g], [x, bias]);
        expect(difference(dx!, wantedX!)).toBeLessThan(1e-6);
        expect(difference(db!, wantedB!)).toBeLessThan(1e-6);
        expect(none).toBeNull();
      }
    });

    test("GPT-2's Conv1D becomes a layer with the weight turned", () => {
      const model = group({ attn: new Conv1D(12, 6), head: new Linear(6, 2) });
      const x = random([2, 12], 1);
      const before = model.attn.forward(x);
      realize([before]);
      quantise(model, { type: "int8" });
      expect(model.attn as unknown).toMatchObject({ inFeatures: 12, outFeatures: 6 });
      expect(difference((model.attn as unknown as QuantisedLinear).forward(x), before)).toBeLessThan(2e-3);
    });

    test("what is skipped: the output by default, what is named, and weights that are shared", () => {
      expect(quantise(layers(), { skip: [] }).layers).toEqual(["first", "second", "head"]);
      expect(quantise(layers(), { skip: ["first"] }).layers).toEqual(["second", "head"]);
      const plain = llama();
      expect(quantise(plain).layers).toHaveLength(3 * 7);
      expect(plain.lm_head).toBeInstanceOf(Linear);
      const one = new Linear(8, 8);
      const tied = group({ a: one, b: new Linear(8, 8, { weight: one.weight }), c: new Linear(8, 8), d: new Linear(8, 1) });
      expect(quantise(tied).layers).toEqual(["c"]);
    });

    test("what is wrong is said before anything changes", () => {
      const model = layers();
      const before = bits(model);
      expect(() => quantise(model, { type: "nf5" as never })).toThrow(/must be nf4, fp4 or int8/);
      expect(() => quantise(model, { blockSize: 48 })).toThrow(/power of two/);
      expect(() => quantise(model, { skip: ["nowhere"] })).toThrow(/"nowhere"/);
      expect(() => quantise(model, { skip: ["first", "second", "head"] })).toThrow(/no linear layer/);
      expect(() => quantise(model, { bits: 4 } as never)).toThrow(/not an option/);
      model.second.weight.assign(upload(currentDevice(), new Float32Array(63).fill(Number.NaN), [9, 7], "float32"));
      expect(() => quantise(model)).toThrow(/not finite/);
      model.second.weight.assign(upload(currentDevice(), new Float32Array(63).fill(1e5), [9, 7], "float32"));
      expect(() => quantise(model, { type: "int8" })).toThrow("int8 takes weights as float16, which holds no 100000");
      expect(bits(model).slice(0, 2)).toEqual(before.slice(0, 2));
      attach(model, lora({ r: 2, targetModules: ["first"] }));
      expect(() => quantise(model)).toThrow(/Quantise first/);
    });

    test("reports count values, not codes; bytes fall to an eighth and the scales", () => {
      const model = llama(64, 96);
      const { total } = trainableReport(model);
      const report = quantise(model, { type: "nf4" });
      expect(trainableReport(model).total).toBe(total);
      const linears = 3 * (64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 96);
      const [float, scale] = device === "reference" ? [8, 8] : [4, 4];
      expect(report.bytesBefore).toBe(total * float);
      const perLayer = 7 * 3 * 2 * scale; // an offset and, of few blocks, one nested scale
      expect(report.bytesAfter).toBe((total - linears) * float + linears / 2 + linears / 64 + perLayer);
    });
  });

  describe("adapters on layers of codes", () => {
    test("LoRA and DoRA start at zero, and gradients are those on the widened base", () => {
      for (const method of [lora, dora]) {
        const [model, plain] = [layers(), layers()];
        quantise(model, { type: "nf4" });
        for (const path of ["first", "second"] as const) {
          const wide = (model[path] as unknown as QuantisedLinear).matrix();
          plain[path].weight.assign(upload(currentDevice(), downloadSync(wide), wide.shape, "float32"));
          if (path === "first") plain.first.bias!.assign(model.first.bias!.stored);
        }
        const run = (of: typeof model, x: Tensor) => of.second.forward(of.first.forward(x));
        const x = random([4, 13], 8);
        const before = run(model, x);
        realize([before]);
        for (const of of [model, plain])
          attach(of, method({ r: 3, loraAlpha: 6, targetModules: ["first", "second"] }), { seed: 1 });
        expect(difference(run(model, x), before)).toBeLessThan(1e-5);
        for (const of of [model, plain]) shake(of);
        const [y, wanted] = [run(model, x), run(plain, x)];
        expect(difference(y, wanted)).toBeLessThan(1e-5);
        const g = random([4, 9], 9);
        const trained = (of: Module) => of.trainableParameters().map(({ stored }) => stored);
        const [dp, dwanted] = [pullback([y], [g], trained(model)), pullback([wanted], [g], trained(plain))];
        expect(dp.length).toBe(method === lora ? 4 : 6);
        dp.forEach((each, i) => expect(difference(each!, dwanted[i]!)).toBeLessThan(3e-5));
      }
    });

    test("merging requantises, and taking out restores every bit", () => {
      for (const type of ["nf4", "int8"] as const) {
        const model = layers();
        quantise(model, { type });
        attach(model, lora({ r: 3, loraAlpha: 3, targetModules: ["first", "second"] }));
        shake(model, 0.5);
        const before = bits(model);
        const layer = () => (model.first as unknown as { base_layer: QuantisedLinear }).base_layer;
        const x = random([5, 13], 4);
        const beside = model.first.forward(x);
        const base = disabled(model, () => model.first.forward(x));
        realize([beside, base]);
        const told: string[] = [];
        expect(merge(model, undefined, { tell: (message) => told.push(message) })).toEqual(["first", "second"]);
        expect(told.join()).toMatch(/rounded.*first/s);
        expect(layer().weight.dtype).toBe("uint8");
        // the codes of a step are at most a half of the widest gap apart
        const merged = difference(model.first.forward(x), beside);
        expect(merged).toBeGreaterThan(0);
        expect(merged).toBeLessThan(type === "int8" ? 0.05 : 1.5);
        expect(merged).toBeLessThan(difference(base, beside));
        expect(
          difference(
            disabled(model, () => model.first.forward(x)),
            base,
          ),
        ).toBe(0);
        unmerge(model);
        expect(bits(model)).toEqual(before);
        mergeAndUnload(model, undefined, { tell: () => {} });
        expect(model.first).toBeInstanceOf(QuantisedLinear);
        expect(difference(model.first.forward(x), beside)).toBe(merged);
      }
    });

    test("(IA)³ is not merged into codes, as in PEFT, and an adapter that has diverged is refused", () => {
      const model = layers();
      quantise(model);
      attach(model, ia3({ targetModules: ["first"], feedforwardModules: [] }));
      const before = bits(model);
      expect(() => merge(model)).toThrow(/codes/);
      detach(model);
      attach(model, lora({ r: 2, targetModules: ["first", "second"] }));
      shake(model);
      const [, B] = [...model.namedParameters()].find(([path]) => path.startsWith("second.lora_B"))!;
      B.assign(upload(currentDevice(), new Float32Array(B.size).fill(Number.POSITIVE_INFINITY), B.shape, "float32"));
      expect(() => merge(model, undefined, { tell: () => {} })).toThrow(/finite/);
      detach(model);
      expect(bits(model)).toEqual(
        before
          .filter(([path]) => !String(path).includes("ia3"))
          .map(([path, values]) => [String(path).replace(".base_layer", ""), values]),
      );
    });

    test("a layer of codes is not trained as a whole", () => {
      const model = layers();
      quantise(model);
      expect(() => attach(model, lora({ r: 2, targetModules: ["first"], modulesToSave: ["second"] }))).toThrow(/codes/);
    });
  });

  test("prepareForKbitTraining widens 16-bit parameters and freezes all", () => {
    const model = layers();
    quantise(model);
    const half = upload(currentDevice(), new Uint16Array(45).fill(0x3f80), [5, 9], "bfloat16");
    model.head.weight.replace(half);
    const f = compile((x: Tensor) => model.head.forward(x));
    f(random([1, 9], 1));
    prepareForKbitTraining(model);
    expect(model.head.weight.dtype).toBe("float32");
    expect(model.first.weight.dtype).toBe("uint8");
    expect(model.trainableParameters()).toEqual([]);
    const ones = upload(currentDevice(), new Float32Array(9).fill(1), [1, 9], "float32");
    expect(difference(f(ones), linear(ones, model.head.weight.stored, model.head.bias!.stored))).toBeLessThan(1e-6);
    expect(f.traces).toBe(1);
  });
});

test("QLoRA learns as LoRA does, in less memory", async () => {
  const run = (quantised: boolean) => {
    const model = llama(64, 160);
    const weights = quantised ? quantise(model).bytesAfter : model.numParameters() * 4;
    attach(model, lora({ r: 4, loraAlpha: 8, targetModules: "all-linear" }));
    const trainer = new Trainer(model, dataset(), { steps: 30, batchSize: 4, learningRate: 5e-3, seed: 1 });
    return { trainer, weights };
  };
  const [full, low] = [run(false), run(true)];
  for (const { trainer } of [full, low]) await trainer.run();
  const losses = ({ trainer }: typeof full) => trainer.history.loss;
  const [wanted, got] = [losses(full), losses(low)];
  expect(got.at(-1)!).toBeLessThan(got[0]! - 1);
  got.forEach((loss, i) => expect(Math.abs(loss - wanted[i]!)).toBeLessThan(0.1 * wanted[i]!));
  const [before, after] = [full.trainer.memory(), low.trainer.memory()];
  const linears = 3 * (64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 160);
  // the weights take an eighth and their scales; the program needs one widened layer more, at most
  expect(before.parameters - after.parameters).toBeGreaterThan(linears * 4 * 0.85);
  expect(after.program - before.program).toBeLessThanOrEqual(64 * 160 * 4 + 8192);
  expect(after.planned).toBeLessThan(before.planned - linears * 4 * 0.85 + 64 * 160 * 4 + 8192);
});
