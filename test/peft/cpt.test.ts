/** Examples in front of a text: what is judged, how much it counts, and how far their vectors move. */
import { beforeAll, describe, expect, it } from "vitest";
import { currentDevice, downloadSync, upload, useDevice } from "../../src/compile/program.ts";
import { createReference } from "../../src/devices/reference/device.ts";
import type { Tensor } from "../../src/graph/node.ts";
import type { CausalLMInputs } from "../../src/models/causal-lm.ts";
import { createModel } from "../../src/models/create-model.ts";
import { normal } from "../../src/nn/init.ts";
import { AdamW } from "../../src/optim/adam.ts";
import { gradientsOf } from "../../src/optim/optimizer.ts";
import { attach, cartridge, cpt, exampleTokens } from "../../src/peft/index.ts";
import { TorchGenerator } from "../../src/random/torch-generator.ts";
import { readExamples } from "../../web/example-lines.ts";

beforeAll(() => void useDevice(createReference()));

const make = () => {
  const init = normal({ std: 0.3, generator: new TorchGenerator(1) });
  const sizes = { vocab_size: 23, n_embd: 12, n_layer: 1, n_head: 3, n_positions: 16 };
  return createModel({ model_type: "gpt2", ...sizes }, { task: "CausalLM", init }).eval();
};
const int32 = (values: readonly number[]): Tensor =>
  upload(currentDevice(), Int32Array.from(values), [1, values.length], "int32");
const values = (x: Tensor): number[] => Array.from(downloadSync(x) as Float32Array);
const examples = { cptTokenIds: [5, 6, 7, 8, 9], cptTokensTypeMask: [1, 2, 4, 3, 8] };
const text = () => ({ inputIds: int32([10, 11, 12]), labels: int32([10, 11, 12]) });

/** −ln of what the model gives the token at each place, the first of which follows nothing. */
function losses(logits: Tensor, tokens: readonly number[]): number[] {
  const [all, V] = [values(logits), logits.shape[2]!];
  return tokens.slice(1).map((token, i) => {
    const row = all.slice(i * V, (i + 1) * V);
    return Math.log(row.reduce((sum, x) => sum + Math.exp(x), 0)) - row[token]!;
  });
}

describe("the loss", () => {
  const lossOf = (options: object, inputs: object = text()) => {
    const model = make();
    attach(model, cpt({ ...examples, ...options }));
    const { logits, loss } = model.forward(inputs as CausalLMInputs);
    return { loss: values(loss!)[0]!, each: losses(logits, [5, 6, 7, 8, 9, 10, 11, 12]) };
  };

  it("is that of the answers of the examples and of the text", () => {
    const { loss, each } = lossOf({});
    const [, second, , fourth, ...rest] = each as [number, number, number, number, ...number[]];
    expect(loss).toBeCloseTo([second, fourth, ...rest].reduce((a, b) => a + b) / 5, 5);
  });

  it("counts an answer f times as much as the one after it", () => {
    const { loss, each } = lossOf({ optWeightedLossType: "decay", optLossDecayFactor: 0.5 });
    const [, second, , fourth, ...rest] = each as [number, number, number, number, ...number[]];
    expect(loss).toBeCloseTo([0.25 * second, 0.5 * fourth, ...rest].reduce((a, b) => a + b) / 5, 5);
  });

  it("is told what the tokens of a text are", () => {
    const decay = { optWeightedLossType: "decay", optLossDecayFactor: 0.5 };
    const { loss, each } = lossOf(decay, { ...text(), inputTypeMask: int32([2, 4, 8]) });
    const [, second, , fourth, , sixth, last] = each as number[];
    expect(loss).toBeCloseTo((0.125 * second! + 0.25 * fourth! + 0.5 * sixth! + last!) / 4, 5);
  });

  it("is the same of targets, but for the text's first token, which they do not tell", () => {
    const { loss, each } = lossOf({}, { inputIds: text().inputIds, targets: int32([11, 12, -100]) });
    const [, second, , fourth, , ...rest] = each as [number, number, number, number, number, ...number[]];
    expect(loss).toBeCloseTo([second, fourth, ...rest].reduce((a, b) => a + b) / 4, 5);
  });

  it("is refused where no token of the text would be judged", () => {
    expect(() => lossOf({ cptTokensTypeMask: [1, 2, 4, 3, 7] })).toThrow(/count on from 7.*multiple of 4/s);
  });
});

it("moves formats and inputs within their balls, and answers not at all", () => {
  const model = make();
  attach(model, cpt({ ...examples, optProjectionEpsilon: 1, optProjectionFormatEpsilon: 0.5 }));
  const [trained] = model.trainableParameters();
  const optimizer = new AdamW([trained!], { lr: 0.5, weightDecay: 0 });
  model.train();
  for (let step = 0; step < 3; step++) optimizer.step(gradientsOf(model.forward(text()).loss!, [trained!]));
  model.forward(text());
  const delta = values(trained!.stored);
  const lengths = examples.cptTokenIds.map((_, i) => Math.hypot(...delta.slice(12 * i, 12 * i + 12)));
  const radius = Math.sqrt(12 / 2048);
  [0.5, 1, 0, 0.5, 0].forEach((share, i) => void expect(lengths[i]).toBeCloseTo(share * radius, 5));
});

describe("options that contradict each other", () => {
  it.each([
    [{ cptTokenIds: [1, 2], cptMask: [1] }, /cptMask.*1 entries.*2/s],
    [{ cptTokenIds: [] }, /cptTokenIds.*0 entries/s],
    [{ ...examples, taskType: "SEQ_CLS" as const }, /causal language models/],
  ])("%j", (options, message) => void expect(() => cpt(options)).toThrow(message));
  it("more frozen tokens than there are", () => {
    expect(() => cartridge({ numVirtualTokens: 2, numFrozenTokens: 3 })).toThrow(/numFrozenTokens.*3.*2/);
  });
});

it("freezes the first tokens of a cartridge", () => {
  const model = make();
  attach(model, cartridge({ numVirtualTokens: 3, numFrozenTokens: 1 }));
  expect(model.trainableParameters().map(({ shape }) => shape)).toEqual([[2, 24]]);
});

describe("examples that are written as texts", () => {
  const letters = { encode: (written: string) => Int32Array.from(written, (letter) => letter.charCodeAt(0) - 9) };
  const ids = (written: string) => [...letters.encode(written)];

  it("separators, inputs and answers have types of their own, counted on from one example to the next", () => {
    const made = exampleTokens(letters, [
      { input: " ab ", answer: "c" },
      { input: "d", answer: "ef" },
    ]);
    expect(made.cptTokenIds).toEqual(ids("ab c\nd ef"));
    expect(made.cptTokensTypeMask).toEqual([2, 2, 4, 4, 5, 6, 8, 8, 8]);
    expect(cpt(made).config.cptTokenIds).toEqual(made.cptTokenIds);
  });

  it("what has no words is refused", () => {
    expect(() => exampleTokens(letters, [])).toThrow("exampleTokens: got no examples.");
    expect(() => exampleTokens(letters, [{ input: "a", answer: " " }])).toThrow("example 1 has no answer.");
    expect(() => exampleTokens(letters, [{ input: "", answer: "b" }])).toThrow("example 1 has no input.");
    expect(() => exampleTokens({ encode: () => [] }, [{ input: "a", answer: "b" }])).toThrow("example 1 has no input.");
  });

  it("on the page they are lines with an arrow", () => {
    expect(readExamples("a => b\n\n c d=>e => f \n")).toEqual([
      { input: "a", answer: "b" },
      { input: "c d", answer: "e => f" },
    ]);
    expect(readExamples("a => b\nc")).toBe("Line 2 has no => between what is given and what is answered.");
    expect(readExamples("a =>")).toBe("Line 1 needs words on both sides of =>.");
    expect(readExamples(" \n")).toBe("Write at least one example.");
  });
});
