/** LoftQ: a start from the weight's codes and the best low-rank share of what they lose. */
import { join } from "node:path";
import { expect, test } from "vitest";
import { downloadSync } from "../../src/compile/program.ts";
import { matmul } from "../../src/graph/contraction.ts";
import { add, sub } from "../../src/graph/elementwise.ts";
import type { Tensor } from "../../src/graph/node.ts";
import type { QuantisedLinear } from "../../src/nn/quantised-linear.ts";
import { attach, detach, lora, quantise, replaceLoraWeightsLoftq } from "../../src/peft/index.ts";
import { loadModel } from "../../src/train/index.ts";
import { onEveryDevice } from "../devices.ts";
import { temporaryFolder } from "../temporary-folder.ts";
import { numbers, SmallModel } from "./small-model.ts";

const norm = (x: Tensor): number => Math.hypot(...downloadSync(x));
const base = join(import.meta.dirname, "../train/bitsandbytes/llama/base");
const scratch = temporaryFolder();

onEveryDevice(() => {
  test.each([4, 8])("%i bits: codes and factors come nearer to the weight than codes alone", (bits) => {
    const errors = [1, 2, 6].map((iterations) => {
      const model = new SmallModel({ width: 12, layers: 1 });
      const place = () =>
        model.model.layers[0]!.self_attn as unknown as { q_proj: { base_layer: { weight: { stored: Tensor } } } };
      const W = (model.model.layers[0]!.self_attn.q_proj as unknown as { weight: { stored: Tensor } }).weight.stored;
      const loftqConfig = { loftq_bits: bits, loftq_iter: iterations };
      const adapter = attach(
        model,
        lora({ r: 3, loraAlpha: 3, initLoraWeights: "loftq", loftqConfig, targetModules: ["q_proj"] }),
      );
      const { A, B } = [...adapter.layers.values()][0]!.adapters.get("default")!.parameters;
      const D = place().q_proj.base_layer.weight.stored;
      const [codes, both] = [norm(sub(W, D)), norm(sub(W, add(D, matmul(B!.stored, A!.stored))))];
      if (iterations === 1) expect(both).toBeLessThan(codes * 0.9);
      const before = numbers(W);
      detach(model);
      expect(
        numbers((model.model.layers[0]!.self_attn.q_proj as unknown as { weight: { stored: Tensor } }).weight.stored),
      ).toEqual(before);
      return both;
    });
    expect(errors.at(-1)!).toBeLessThan(errors[0]! * (bits === 4 ? 1 : 1.1));
  });

  test("on a model that holds codes, from its checkpoint", async () => {
    const { model } = await loadModel(base, { quantise: { type: "nf4" } });
    const { model: full } = await loadModel(base);
    const adapter = attach(model, lora({ r: 4, loraAlpha: 4, targetModules: "all-linear" }));
    const error = (path: string) => {
      const layer = adapter.layers.get(path)!;
      const { A, B } = layer.adapters.get("default")!.parameters;
      const wanted = (full.getModule(path) as unknown as { weight: { stored: Tensor } }).weight.stored;
      return norm(sub(wanted, add((layer.base_layer as QuantisedLinear).matrix(), matmul(B!.stored, A!.stored))));
    };
    const paths = [...adapter.layers.keys()];
    const before = paths.map(error);
    const [first, ...rest] = paths;
    const factors = () => numbers(adapter.layers.get(first!)!.adapters.get("default")!.parameters["A"]!.stored);
    const kept = factors();
    expect(await replaceLoraWeightsLoftq(model, base, { keep: (path) => path !== first })).toEqual(rest);
    expect(factors()).toEqual(kept);
    expect(await replaceLoraWeightsLoftq(model, base)).toEqual(paths);
    paths.forEach((path, i) => expect(error(path)).toBeLessThan(before[i]! * 0.9));
  });
});

test("what LoftQ cannot do is said", async () => {
  const attachWith = (loftqConfig: object) => () =>
    attach(
      new SmallModel(),
      lora({ r: 2, initLoraWeights: "loftq", loftqConfig: loftqConfig as never, targetModules: ["q_proj"] }),
    );
  expect(attachWith({ loftq_bits: 2 })).toThrow(/4 or 8/);
  expect(attachWith({ loftq_iter: 0 })).toThrow(/loftq_iter/);
  expect(attachWith({ bits: 4 })).toThrow(/no key `bits`/);
  const model = new SmallModel({ width: 8 });
  quantise(model);
  expect(() => attach(model, lora({ r: 2, initLoraWeights: "loftq", targetModules: ["q_proj"] }))).toThrow(/codes already/);
  expect(() => attach(new SmallModel(), lora({ r: 7, initLoraWeights: "loftq", targetModules: ["q_proj"] }))).toThrow(
    /= 7\) is too much/,
  );
  expect(() => attach(new SmallModel(), lora({ r: 2, initLoraWeights: "loftq", targetModules: ["embed_tokens"] }))).toThrow(
    /an embedding/,
  );
  const plain = new SmallModel();
  attach(plain, lora({ r: 2, targetModules: ["q_proj"] }));
  await expect(replaceLoraWeightsLoftq(plain, scratch)).rejects.toThrow(/kept as codes/);
});
