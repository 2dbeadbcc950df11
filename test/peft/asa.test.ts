/** Adaptive subspace allocation of AdaMSS, step by step as PEFT does it (asa/make.py). */
import { join } from "node:path";
import { expect, it } from "vitest";
import "../../src/devices/choose.ts";
import { download, downloadSync } from "../../src/compile/program.ts";
import { compile } from "../../src/compile/trace.ts";
import { readSafetensors } from "../../src/formats/safetensors.ts";
import type { Tensor } from "../../src/graph/node.ts";
import type { CausalLMInputs } from "../../src/models/causal-lm.ts";
import { AdamW } from "../../src/optim/adam.ts";
import { clipGradNorm } from "../../src/optim/clip.ts";
import { gradientsOf } from "../../src/optim/optimizer.ts";
import { type Adapter, adamss, attach, beginSchedules, loadAdapter } from "../../src/peft/index.ts";
import { subspacesAt } from "../../src/peft/schedules/subspace-budget.ts";
import { loadModel } from "../../src/train/load-model.ts";
import { Trainer } from "../../src/train/trainer.ts";
import { layerAdapters } from "../arbitrary/adapter.ts";
import { fileParameters, inputsFrom, logitMask, type Tensors } from "../golden/peft-case.ts";
import { smallDataset, smallModel } from "../train/small-run.ts";
import trace from "./asa/trace.json" with { type: "json" };
import { SmallModel } from "./small-model.ts";

const here = join(import.meta.dirname, "asa");
const base = join(import.meta.dirname, "../fixtures/peft/base/llama");
const read = async (path: string): Promise<Tensors> => {
  const { tensors } = await readSafetensors(path);
  const all = [...tensors].map(async ([name, tensor]) => [name, { shape: tensor.shape, data: await tensor.load() }] as const);
  return new Map(await Promise.all(all));
};
const numbers = (x: Tensor): number[] => Array.from(downloadSync(x));
/** Within a part of the largest of them. */
const expectNear = (name: string, got: readonly number[], want: ArrayLike<number>, part: number) => {
  const wanted = Array.from(want);
  const scale = Math.max(...wanted.map(Math.abs));
  expect(got.length, name).toBe(wanted.length);
  const off = Math.max(...got.map((value, i) => Math.abs(value - wanted[i]!)));
  expect(off, name).toBeLessThanOrEqual(part * scale);
};

type Kept = ReadonlyMap<string, Tensor>;
/** The score of each subspace of a layer, from what a schedule keeps. */
const scoresOf = (kept: Kept, path: string, count: number): number[] =>
  Array.from({ length: count }, (_, k) => {
    const mean = (of: string) => {
      const [S, U] = ["sensitivity", "uncertainty"].map((kind) =>
        numbers(kept.get(`default.${path}.adamss_${of}.${k}.${kind}`)!),
      );
      return S!.reduce((sum, s, i) => sum + s * U![i]!, 0) / S!.length;
    };
    return mean("A") + mean("B");
  });
const trainedOf = (adapter: Adapter) =>
  Object.fromEntries(
    [...adapter.layers].map(([path, layer]) => [
      path,
      numbers(layer.adapters.get("default")!.parameters["trained"]!.stored).map(Boolean),
    ]),
  );

it("chooses, freezes and trains the subspaces that PEFT does", async () => {
  const { model } = await loadModel(base);
  const adapter = await loadAdapter(model, join(here, "start"), { trainable: true });
  const stored = await read(join(base, "inputs.safetensors"));
  const inputs = inputsFrom(stored) as CausalLMInputs;
  const trained = model.trainableParameters();
  const { lr, betas, eps, weight_decay: weightDecay } = trace.optimizing;
  const optimizer = new AdamW(trained, { lr, betas: betas as [number, number], eps, weightDecay });
  using schedules = beginSchedules(model);
  model.train();
  const step = compile(() => {
    const loss = model.forward(inputs).loss as Tensor;
    const { gradients, totalNorm } = clipGradNorm(gradientsOf(loss, trained), trace.clip);
    optimizer.step(gradients);
    schedules.observe(gradients);
    return [loss, totalNorm];
  });
  for (const want of trace.steps) {
    const [loss, norm] = (await Promise.all(step().map((x) => download(x)))).map(([value]) => value!);
    expect(loss, `loss of step ${want.step}`).toBeCloseTo(want.loss, 4);
    expect(norm, `norm of step ${want.step}`).toBeCloseTo(want.norm, 3);
    expect(subspacesAt(want.step, 24, adapter.config as never)).toBe(want.target);
    for (const [path, scores] of Object.entries(want.scores)) {
      const seen = scores.flatMap((score, k) => (score === null ? [] : [k]));
      const all = scoresOf(schedules.state().tensors, path, scores.length);
      const near = (part: number) =>
        expectNear(
          `scores of ${path} after step ${want.step}`,
          seen.map((k) => all[k]!),
          seen.map((k) => scores[k]!),
          part,
        );
      if (seen.length > 0) near(2e-3);
    }
    await schedules.advance(want.step + 1);
    expect(trainedOf(adapter), `step ${want.step}`).toEqual(want.trained);
  }
  expect(step.traces).toBe(1);
  step.dispose();
  const end = await read(join(here, "end.safetensors"));
  for (const [name, parameter] of fileParameters(adapter))
    if (end.has(name)) expectNear(name, numbers(parameter.stored), end.get(name)!.data as Float32Array, 1e-3);
  const want = end.get("logits")!;
  const counts = logitMask(stored.get("attention_mask"), want);
  const ofText = (values: ArrayLike<number>) => Array.from(values).filter((_, i) => counts[i]);
  expectNear("logits", ofText(numbers(model.eval().forward(inputs).logits)), ofText(want.data), 1e-3);
});

const options = { r: 5, numSubspaces: 3, useAsa: true, asaTargetSubspaces: 4, targetModules: ["q_proj"] };

it("refuses a time in which nothing could be frozen", () => {
  expect(() => adamss({ ...options, initWarmup: 5, finalWarmup: 5 })).toThrow("`finalWarmup` (= 5) must be more than");
  expect(() => adamss({ ...options, asaScheduleExponent: 0 })).toThrow("`asaScheduleExponent` (= 0) must be above 0");
  expect(() => adamss({ ...options, useAsa: false, initWarmup: 5, finalWarmup: 5 })).not.toThrow();
});

it("keeps no flags where all subspaces are trained", () => {
  const [plain] = layerAdapters(attach(new SmallModel(), adamss({ ...options, useAsa: false })));
  expect(Object.keys(plain!.parameters)).not.toContain("trained");
});

it("goes on from a checkpoint as without it", async () => {
  const begin = () => {
    const model = smallModel();
    const adapter = attach(model, adamss({ ...options, initWarmup: 0, finalWarmup: 6, maskInterval: 2 }));
    return {
      model,
      adapter,
      trainer: new Trainer(model, smallDataset(), { steps: 8, batchSize: 2, learningRate: 0.02, seed: 3 }),
    };
  };
  const whole = begin();
  await whole.trainer.run();
  const first = begin();
  const stop = new AbortController();
  await first.trainer.run({ signal: stop.signal, onStep: ({ step }) => void (step === 4 && stop.abort()) });
  const bytes = await first.trainer.encode();
  const second = begin();
  await second.trainer.load(new Blob([bytes]));
  await second.trainer.run();
  expect(trainedOf(second.adapter)).toEqual(trainedOf(whole.adapter));
  expect(Object.values(trainedOf(whole.adapter)).flat()).toContain(false);
  const valuesOf = ({ adapter }: typeof whole) =>
    [...fileParameters(adapter)].map(([name, { stored }]) => [name, numbers(stored)]);
  expect(valuesOf(second)).toEqual(valuesOf(whole));
  for (const { trainer } of [whole, first, second]) trainer[Symbol.dispose]();
});
