import { describe, expect, test } from "vitest";
import { backward } from "../../src/autograd/grad.ts";
import { currentDevice } from "../../src/compile/program.ts";
import { compile } from "../../src/compile/trace.ts";
import { ConfigError, FormatError, ShapeError } from "../../src/errors.ts";
import { copy, mul, sub } from "../../src/graph/elementwise.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { reduceSum } from "../../src/graph/reduction.ts";
import { constant } from "../../src/graph/source.ts";
import { Parameter } from "../../src/nn/module.ts";
import { Adafactor, TransformersAdafactor } from "../../src/optim/adafactor.ts";
import { Adadelta, Adagrad, RMSprop } from "../../src/optim/adagrad.ts";
import { Adam, AdamW } from "../../src/optim/adam.ts";
import { Adamax, NAdam, RAdam } from "../../src/optim/adam-variant.ts";
import { clipGradNorm, clipGradValue } from "../../src/optim/clip.ts";
import { Lion } from "../../src/optim/lion.ts";
import { gradientsOf, type LearningRate, type Optimizer } from "../../src/optim/optimizer.ts";
import * as schedules from "../../src/optim/schedule.ts";
import { SGD } from "../../src/optim/sgd.ts";
import { onEveryDevice } from "../devices.ts";
import { distance, onReference, randn, tensor, values } from "../nn/tensors.ts";

const byName = schedules as unknown as Readonly<Record<string, unknown>>;
const { cosineSchedule, linearSchedule, oneCycleSchedule, warmupStableDecaySchedule } = schedules;

const make = (seed: number, size = 4): Parameter => Parameter.from(Float32Array.from(values(randn([size], seed))), [size]);
const distanceTo = (p: Parameter, target: number): Tensor => {
  const d = sub(p.value, constant(target));
  return reduceSum(mul(d, d), [0]);
};

const kinds: [string, (p: Parameter[]) => Optimizer<LearningRate>][] = [
  ["SGD with momentum", (p) => new SGD(p, { lr: 0.05, momentum: 0.5, dampening: 0.1 }) as never],
  ["Adam with amsgrad", (p) => new Adam(p, { lr: 0.3, amsgrad: true }) as never],
  ["AdamW", (p) => new AdamW(p, { lr: 0.3, weightDecay: 0.001 }) as never],
  ["Lion", (p) => new Lion(p, { lr: 0.1 }) as never],
  ["Adamax", (p) => new Adamax(p, { lr: 0.3 }) as never],
  ["NAdam with its own decay", (p) => new NAdam(p, { lr: 0.3, weightDecay: 0.001, decoupledWeightDecay: true }) as never],
  ["RAdam", (p) => new RAdam(p, { lr: 0.3, betas: [0.9, 0.9] }) as never],
  ["Adagrad", (p) => new Adagrad(p, { lr: 1, lrDecay: 0.01 }) as never],
  ["RMSprop, centred, with momentum", (p) => new RMSprop(p, { lr: 0.05, alpha: 0.9, momentum: 0.3, centered: true }) as never],
  ["Adadelta", (p) => new Adadelta(p, { lr: 5, eps: 1e-2 }) as never],
  ["Adafactor", (p) => new Adafactor(p, { lr: 1 }) as never],
  ["Adafactor of transformers", (p) => new TransformersAdafactor(p, { lr: 0.2, relativeStep: false, beta1: 0.5 }) as never],
];

onEveryDevice(() => {
  describe.each(kinds)("%s", (_, create) => {
    test("comes near the minimum; a compiled step does what an uncompiled one does, traced once", () => {
      const [plain, traced] = [make(1), make(1)];
      const [one, two] = [create([plain]), create([traced])];
      const step = compile((target: Tensor) => {
        const d = sub(traced.value, target);
        const loss = reduceSum(mul(d, d), [0]);
        two.step(gradientsOf(loss, [traced]));
        return loss;
      });
      for (let i = 0; i < 60; i++) {
        const rate = (base: number) => base * (1 - i / 60);
        one.setLearningRate(rate);
        two.setLearningRate(rate);
        one.step(gradientsOf(distanceTo(plain, 1), [plain]));
        step(tensor([1, 1, 1, 1]));
      }
      expect(distance(traced.stored, plain.stored)).toBeLessThan(1e-5);
      expect(distance(plain.stored, tensor([1, 1, 1, 1]))).toBeLessThan(0.1);
      expect(step.traces).toBe(1);
      step.dispose();
    });

    test("goes on from its saved state as if it had not stopped", () => {
      const [p, q] = [make(2), make(2)];
      const [first, second] = [create([p]), create([q])];
      const run = (optimizer: Optimizer<LearningRate>, parameter: Parameter, steps: number) => {
        for (let i = 0; i < steps; i++) optimizer.step(gradientsOf(distanceTo(parameter, 3), [parameter]));
      };
      run(first, p, 3);
      const saved = new Map([...first.stateDict()].map(([name, x]) => [name, copy(x)]));
      second.loadStateDict(saved);
      q.assign(p.stored);
      run(first, p, 3);
      run(second, q, 3);
      expect(values(q.stored)).toEqual(values(p.stored));
    });
  });

  test("backward, step and zeroGrad, as in PyTorch", () => {
    const p = make(1);
    const optimizer = new SGD([p], { lr: 0.1 });
    const before = values(p.stored);
    backward(distanceTo(p, 0));
    optimizer.step();
    for (const [i, value] of values(p.stored).entries()) expect(value).toBeCloseTo(before[i]! * 0.8, 6);
    optimizer.zeroGrad();
    expect(p.grad).toBeNull();
    expect(() => optimizer.step()).toThrow("SGD: no parameter has a gradient. Call backward(loss) first, or pass gradients.");
  });

  test("the rate of float64 parameters is float64", () => {
    if (currentDevice().name !== "reference") return;
    const p = new Parameter(tensor([1], [1], "float64"));
    const optimizer = new SGD([p], { lr: 0.1 });
    optimizer.step(new Map([[p, tensor([1], [1], "float64")]]));
    optimizer.setLearningRate(0.01);
    optimizer.step(new Map([[p, tensor([1], [1], "float64")]]));
    expect(values(p.stored)[0]).toBeCloseTo(0.89, 14);
  });

  test("groups have settings of their own, and a parameter without a gradient stays", () => {
    const [a, b, c] = [make(1), make(2), make(3)];
    const optimizer = new SGD([{ parameters: [a, c], lr: 0.1 }, { parameters: [b] }], { lr: 0.5 });
    const before = [a, b, c].map((p) => values(p.stored));
    optimizer.step(gradientsOf(reduceSum(sub(a.value, mul(b.value, constant(2))), [0]), [a, b, c]));
    expect(distance(a.stored, tensor(before[0]!.map((x) => x - 0.1)))).toBeLessThan(1e-6);
    expect(distance(b.stored, tensor(before[1]!.map((x) => x + 1)))).toBeLessThan(1e-6);
    expect(values(c.stored)).toEqual(before[2]);
    optimizer.setLearningRate((base) => base / 10);
    expect([...optimizer.stateDict()].map(([name, x]) => [name, values(x)[0]!.toFixed(3)])).toEqual([
      ["groups.0.lr", "0.010"],
      ["groups.1.lr", "0.050"],
    ]);
  });

  test("clipping scales all gradients by one number, or limits each value", () => {
    const gradients = new Map([
      ["a", tensor([3, 0])],
      ["b", tensor([-4])],
    ]);
    const { gradients: clipped, totalNorm } = clipGradNorm(gradients, 1);
    expect(values(totalNorm)).toEqual([5]);
    expect(distance(clipped.get("a")!, tensor([0.6, 0]))).toBeLessThan(1e-6);
    expect(values(clipGradNorm(gradients, 10).gradients.get("b")!)).toEqual([-4]);
    expect(values(clipGradNorm(gradients, 1, { normType: 3 }).totalNorm)[0]).toBeCloseTo(91 ** (1 / 3), 4);
    expect(values(clipGradValue(gradients, 2).get("b")!)).toEqual([-2]);
  });
});

onReference("settings that are named and not given", () => {
  const makers = [Adafactor, TransformersAdafactor, Adagrad, RMSprop, Adadelta, Adam, AdamW, Adamax, NAdam, RAdam, Lion, SGD];
  test.each(makers.map((maker) => [maker.name, maker] as const))("%s takes its own defaults", (_, maker) => {
    const settings = (made: { readonly groups: readonly { readonly options: object }[] }) =>
      made.groups.map(({ options }) => options);
    const standard = settings(new maker([make(1)]));
    const unset = Object.fromEntries(Object.keys(standard[0]!).map((name) => [name, undefined]));
    expect(settings(new maker([make(1)], unset))).toEqual(standard);
    expect(settings(new maker([{ ...unset, parameters: [make(1)] }]))).toEqual(standard);
  });

  test("AdamW decays weights, Adam does not", () => {
    expect(new AdamW([make(1)], { weightDecay: undefined } as object).groups[0]!.options.weightDecay).toBe(0.01);
    expect(new Adam([make(1)]).groups[0]!.options.weightDecay).toBe(0);
  });
});

onReference("what is refused", () => {
  test("parameters and settings that make no sense", () => {
    const p = make(1);
    expect(() => new SGD([])).toThrow("SGD: got no parameters.");
    expect(() => new SGD([p.stored] as unknown as [typeof p])).toThrow(
      "SGD: a parameter is a Tensor, not a Variable. Use new Var",
    );
    expect(() => new SGD([p, p])).toThrow("SGD: a parameter of [4] is given twice.");
    expect(() => new AdamW([p], { learningRate: 1 } as object)).toThrow(
      /^AdamW: `learningRate` is not an option\. There are lr, betas/,
    );
    expect(() => new AdamW([{ parameters: [p], weightdecay: 1 } as { parameters: [typeof p] }])).toThrow(
      "AdamW: `weightdecay` is not an option. Did you mean `weightDecay`?",
    );
    expect(() => new SGD([p], { lr: -1 })).toThrow("SGD: `lr` (= -1) must be a number from 0.");
    expect(() => new SGD([p], { nesterov: true })).toThrow("SGD: `nesterov` needs a momentum and no dampening.");
    expect(() => new AdamW([p], { betas: [0.9, 1] })).toThrow("AdamW: `betas[1]` (= 1) must be a number from 0 below 1.");
    expect(() => new Adam([p], { eps: Number.NaN })).toThrow(ConfigError);
    expect(() => new Lion([p], { weightDecay: -1 })).toThrow("Lion: `weightDecay` (= -1) must be a number from 0.");
    expect(() => new RAdam([p], { betas: [2, 0.9] })).toThrow("RAdam: `betas[0]` (= 2) must be a number from 0 below 1.");
    expect(() => new NAdam([p], { momentumDecay: -1 })).toThrow("NAdam: `momentumDecay` (= -1) must be a number from 0.");
    expect(() => new Adagrad([p], { lrDecay: -1 })).toThrow("Adagrad: `lrDecay` (= -1) must be a number from 0.");
    expect(() => new RMSprop([p], { alpha: 1 })).toThrow("RMSprop: `alpha` (= 1) must be a number from 0 below 1.");
    expect(() => new Adadelta([p], { rho: -1 })).toThrow("Adadelta: `rho` (= -1) must be a number from 0 below 1.");
    expect(() => new Adafactor([p], { d: 0 })).toThrow("Adafactor: `d` (= 0) must be a number above 0, or Infinity.");
    expect(() => new Adafactor([p], { beta2Decay: 1 })).toThrow("Adafactor: `beta2Decay` (= 1) must be a number up to 0.");
    expect(() => new TransformersAdafactor([p], { relativeStep: false, warmupInit: true })).toThrow(
      "TransformersAdafactor: `warmupInit` needs `relativeStep`.",
    );
  });

  test("gradients of another shape or of other parameters", () => {
    const [p, q] = [make(1), make(2)];
    const optimizer = new SGD([p]);
    expect(() => optimizer.step(new Map([[p, tensor([1])]]))).toThrow(ShapeError);
    expect(() => optimizer.step(new Map([[p, tensor([1])]]))).toThrow("SGD: a gradient of [1] does not fit a parameter of [4].");
    expect(() => optimizer.step(new Map([[q, q.stored]]))).toThrow("The gradients are of other parameters.");
    expect(() => gradientsOf(p.value, [p])).toThrow("gradientsOf: needs one value to differentiate, got [4].");
  });

  test("a learning rate set while tracing", () => {
    const p = make(1);
    const optimizer = new SGD([p]);
    const step = compile((x: Tensor) => {
      optimizer.setLearningRate(1);
      return x;
    });
    expect(() => step(tensor([1]))).toThrow(
      "setLearningRate: inside a compiled function it would be set once only, while tracing. Call it before the compiled step.",
    );
  });

  test("a saved state of another optimiser; nothing is changed then", () => {
    const [p, q] = [make(1), make(1, 3)];
    const optimizer = new Adam([p]);
    optimizer.step(gradientsOf(distanceTo(p, 0), [p]));
    const saved = optimizer.stateDict();
    const without = new Map(saved);
    without.delete("state.0.expAvg");
    expect(() => new Adam([p]).loadStateDict(without)).toThrow(
      'loadStateDict: "state.0.expAvg" is missing. The nearest is "state.0.expAvgSq".',
    );
    expect(() => new SGD([p]).loadStateDict(saved)).toThrow(FormatError);
    const other = new Adam([q]);
    expect(() => other.loadStateDict(saved)).toThrow('loadStateDict: "state.0.expAvg" is [4] in the file, [3] here.');
    expect([...other.stateDict().keys()]).toEqual(["groups.0.lr", "groups.0.correction1", "groups.0.correction2"]);
  });

  test("limits and step counts that are no numbers above 0", () => {
    expect(() => clipGradNorm(new Map(), 1)).toThrow("clipGradNorm: got no gradients.");
    expect(() => clipGradNorm(new Map([["a", tensor([1])]]), 0)).toThrow(
      "clipGradNorm: `maxNorm` (= 0) must be a number above 0, or Infinity.",
    );
    expect(() => clipGradValue(new Map(), -1)).toThrow("clipGradValue: `limit` (= -1) must be a number above 0, or Infinity.");
    expect(() => linearSchedule({ totalSteps: 0 })).toThrow("linearSchedule: `totalSteps` (= 0) must be a whole number from 1.");
    expect(() => cosineSchedule({ warmupSteps: -1, totalSteps: 3 })).toThrow("`warmupSteps` (= -1)");
  });
});

describe("schedules", () => {
  test.each([
    ["constantSchedule", { warmupSteps: 1 }],
    ["linearSchedule", { warmupSteps: 1, totalSteps: 9 }],
    ["cosineSchedule", { totalSteps: 9, cycles: 2 }],
    ["cosineWithRestartsSchedule", { totalSteps: 9, cycles: 2 }],
    ["polynomialSchedule", { totalSteps: 9, end: 0, power: 2 }],
    ["inverseSqrtSchedule", { warmupSteps: 1, timescale: 5 }],
    ["warmupStableDecaySchedule", { totalSteps: 9, decaySteps: 3, minRatio: 0.1, warmup: "linear" }],
    ["stepSchedule", { stepSize: 2, gamma: 0.5 }],
    ["multiStepSchedule", { milestones: [2], gamma: 0.5 }],
    ["exponentialSchedule", { gamma: 0.5 }],
    ["cosineAnnealingSchedule", { halfPeriod: 4, min: 0.1 }],
    ["cosineAnnealingWarmRestartsSchedule", { first: 4, factor: 2, min: 0.1 }],
    ["oneCycleSchedule", { max: 1, totalSteps: 9, finalDivFactor: 10, anneal: "cos" }],
  ] as const)("%s says which of its options is no number, or no word that it knows", (name, options) => {
    const made = byName[name] as (options: object) => schedules.Schedule;
    expect(made(options)(3, 1)).toBeGreaterThan(0);
    for (const option of Object.keys(options))
      for (const value of [Number.NaN, "x", null])
        expect(() => made({ ...options, [option]: value })).toThrow(`${name}: \`${option}\` (= `);
    expect(() => made({ ...options, gama: 1 })).toThrow(`${name}: \`gama\` is not an option.`);
  });

  test("refuse what is no setting, before the first step", () => {
    const stable = { decaySteps: 4, totalSteps: 10 };
    expect(() => warmupStableDecaySchedule({ ...stable, decay: "linaer" as "linear" })).toThrow(
      'warmupStableDecaySchedule: `decay` (= "linaer") must be "linear" or "cosine" or "1-sqrt".',
    );
    expect(() => warmupStableDecaySchedule({ ...stable, minRatio: 2 })).toThrow("`minRatio` (= 2) must be a number from 0 to 1.");
    expect(() => oneCycleSchedule({ max: 1, totalSteps: 10, divFactor: 0 })).toThrow(
      "`divFactor` (= 0) must be a number above 0.",
    );
    expect(() => oneCycleSchedule({ max: 1, totalSteps: 10, warmupShare: 30 })).toThrow(
      "`warmupShare` (= 30) must be a number from 0 to 1.",
    );
    expect(oneCycleSchedule({ max: 1, totalSteps: 10, warmupShare: 0.1 })(0, 0)).toBe(1);
  });

  test("warm up, stay, and come down", () => {
    const schedule = warmupStableDecaySchedule({ warmupSteps: 2, decaySteps: 4, totalSteps: 10, decay: "linear" });
    expect([0, 1, 2, 5, 6, 8, 10, 99].map((step) => schedule(step, 2))).toEqual([0, 1, 2, 2, 2, 1, 0, 0]);
    for (const curve of ["1-sqrt", "cosine"] as const) {
      const curved = warmupStableDecaySchedule({ warmupSteps: 4, decaySteps: 4, totalSteps: 12, warmup: curve, decay: curve });
      const rates = Array.from({ length: 13 }, (_, step) => curved(step, 1));
      expect(rates.slice(0, 5)).toEqual([...rates.slice(0, 5)].sort((a, b) => a - b));
      expect(rates.slice(8)).toEqual([...rates.slice(8)].sort((a, b) => b - a));
    }
  });

  test("one cycle ends far below where it began", () => {
    const rates = Array.from({ length: 20 }, (_, step) =>
      oneCycleSchedule({ max: 1, totalSteps: 20, anneal: "linear" })(step, 5),
    );
    expect(rates[0]).toBeCloseTo(1 / 25);
    expect(Math.max(...rates)).toBeCloseTo(1);
    expect(rates[19]).toBeCloseTo(1 / 25 / 1e4);
  });
});
