/** Adapters of an embedding with a padding token: PEFT looks their rows up with the layer's `padding_idx`, those of HiRA without it. */
import { expect, test } from "vitest";
import { type Tensor, tensor } from "../../src/index.ts";
import { Embedding, Module } from "../../src/nn/index.ts";
import { attach, dora, hira, lora, trainableTokens } from "../../src/peft/index.ts";

const padding = 1;

class Net extends Module {
  readonly table: Embedding;
  constructor(paddingIdx?: number) {
    super();
    this.table = new Embedding(5, 4, paddingIdx === undefined ? {} : { paddingIdx });
  }
  forward(ids: Tensor): Tensor {
    return this.table.forward(ids);
  }
}

const targets = { targetModules: ["table"] };
test.each([
  ["lora", () => lora({ r: 2, initLoraWeights: false, ...targets }), "A", false],
  ["dora", () => dora({ r: 2, initLoraWeights: false, ...targets }), "A", false],
  ["hira", () => hira({ r: 2, initWeights: false, ...targets }), "A", true],
  ["trainable tokens", () => trainableTokens({ tokenIndices: [0, padding, 2], ...targets }), "rows", false],
] as const)("%s", (_, config, name, isPaddingTrained) => {
  const isTrained = (paddingIdx?: number): boolean[] => {
    const net = new Net(paddingIdx);
    const adapter = attach(net, config() as Parameters<typeof attach>[1]);
    net
      .forward(tensor([[0, padding, 2, padding]], { dtype: "int32" }))
      .square()
      .sum()
      .backward();
    const { grad } = adapter.layers.get("table")!.adapters.get(adapter.name)!.parameters[name]!;
    const byToken = name === "A" ? grad!.transpose() : grad!;
    return [0, padding, 2].map((token) => [...byToken.slice(token).dataSync()].some((each) => each !== 0));
  };
  expect(isTrained(padding)).toEqual([true, isPaddingTrained, true]);
  expect(isTrained()).toEqual([true, true, true]);
});
