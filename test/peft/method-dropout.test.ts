/** What methods do in training only: leaving out rows, blocks or all of an adapter, and keeping it small. */
import { describe, expect, it } from "vitest";
import { currentDevice, upload } from "../../src/compile/program.ts";
import { compile } from "../../src/compile/trace.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { Conv2d } from "../../src/nn/convolution.ts";
import { Linear } from "../../src/nn/linear.ts";
import type { Module } from "../../src/nn/module.ts";
import { gradientsOf } from "../../src/optim/optimizer.ts";
import { SGD } from "../../src/optim/sgd.ts";
import { attach, boft, loha, lokr, lora, oft } from "../../src/peft/index.ts";
import { TorchGenerator } from "../../src/random/torch-generator.ts";
import { sum } from "../../src/tensor/statistics.ts";
import { Holder } from "../arbitrary/adapter.ts";
import { onEveryDevice } from "../devices.ts";
import { difference, numbers } from "./small-model.ts";

const draw = (shape: readonly number[], seed: number, std = 0.5): Tensor => {
  const count = shape.reduce((product, size) => product * size, 1);
  return upload(currentDevice(), new TorchGenerator(seed).normal(Math.max(16, count), 0, std).slice(0, count), shape, "float32");
};
const identity = (shape: readonly number[]) =>
  Float32Array.from({ length: shape[0]! * shape[1]! }, (_, i) => (i % (shape[1]! + 1) === 0 ? 1 : 0));
const none = (shape: readonly number[]) => new Float32Array(shape.reduce((product, size) => product * size, 1));

/** An adapter with random values on a model of one layer. */
function adapted<M extends Module>(model: M, adapter: Parameters<typeof attach>[1], seed = 1): M {
  attach(model, adapter, { seed });
  for (const [i, parameter] of model.trainableParameters().entries()) parameter.assign(draw(parameter.shape, seed + i));
  return model;
}

/** Outputs of so many calls in training, replayed, and the one in evaluation. */
function outputs(model: Holder<Linear | Conv2d>, x: Tensor, calls: number) {
  const still = numbers(model.eval().forward(x));
  const forward = compile((input: Tensor) => model.train().forward(input));
  const inTraining = Array.from({ length: calls }, () => numbers(forward(x)));
  forward.dispose();
  return { still, inTraining };
}

const near = (got: number, want: number) => Math.abs(got - want) <= 1e-4 * (1 + Math.abs(want));
/** Whether a share of n that was left out is what a probability makes plausible. */
const expectShare = (dropped: number, n: number, p: number) =>
  expect(Math.abs(dropped / n - p)).toBeLessThan(5 * Math.sqrt((p * (1 - p)) / n));

const target = { targetModules: ["layer"] };

onEveryDevice(() => {
  it("a dropout of probability 0 costs a training step nothing", () => {
    const launches = (loraDropout: number, training: boolean) => {
      const model = adapted(new Holder(new Linear(4, 6)), lora({ r: 2, loraDropout, ...target }));
      const forward = compile((input: Tensor) => model.train(training).forward(input));
      forward(draw([3, 4], 5));
      const labels = forward.schedule()!.steps.map(({ label }) => label);
      forward.dispose();
      return labels;
    };
    expect(launches(0, true)).toEqual(launches(0, false));
    expect(launches(0.5, true)).not.toEqual(launches(0.5, false));
  });

  describe("LyCORIS's dropout", () => {
    const rows = 300;
    const linear = () => new Holder(new Linear(4, rows, { bias: false, init: none }));
    const cases = [
      ["loha", loha({ r: 2, rankDropout: 0.3, ...target }), true],
      ["lokr", lokr({ r: 2, rankDropout: 0.3, initWeights: false, ...target }), false],
      ["lokr, scaled", lokr({ r: 2, rankDropout: 0.3, rankDropoutScale: true, initWeights: false, ...target }), true],
    ] as const;
    it.each(cases)("leaves rows of the change out, others in each step: %s", (_, adapter, scaled) => {
      const { still, inTraining } = outputs(adapted(linear(), adapter as never), draw([1, 4], 9), 2);
      const left = inTraining.map((y) => y.filter((value) => value !== 0).length);
      for (const [call, y] of inTraining.entries()) {
        expectShare(rows - left[call]!, rows, 0.3);
        const factor = scaled ? rows / left[call]! : 1;
        for (const [i, value] of y.entries()) if (value !== 0) expect(near(value, still[i]! * factor), `${value}`).toBe(true);
      }
      expect(inTraining[0]).not.toEqual(inTraining[1]);
    });

    it("leaves rows out of a kernel, which are channels of the output", () => {
      const model = new Holder(new Conv2d(2, 40, 2, { bias: false, init: none }));
      const { still, inTraining } = outputs(
        adapted(model, loha({ r: 2, rankDropout: 0.5, ...target }) as never),
        draw([1, 2, 3, 3], 4),
        1,
      );
      const left = new Set(inTraining[0]!.flatMap((value, i) => (value === 0 ? [] : [Math.floor(i / 4)])));
      expectShare(40 - left.size, 40, 0.5);
      for (const [i, value] of inTraining[0]!.entries())
        expect(near(value, left.has(Math.floor(i / 4)) ? (still[i]! * 40) / left.size : 0)).toBe(true);
    });

    it("gives zeros, not NaN, when every row is left out", () => {
      const { inTraining } = outputs(adapted(linear(), loha({ r: 1, rankDropout: 1, ...target }) as never), draw([1, 4], 2), 1);
      expect(inTraining[0]!.every((value) => value === 0)).toBe(true);
    });

    it("leaves the whole change out", () => {
      const model = adapted(new Holder(new Linear(4, 5, { init: none })), lokr({ r: 1, moduleDropout: 0.4, ...target }) as never);
      const { still, inTraining } = outputs(model, draw([1, 4], 5), 200);
      const base = inTraining.find((y) => !y.every((value, i) => near(value, still[i]!)))!;
      const without = inTraining.filter((y) => y.every((value, i) => value === base[i])).length;
      const whole = inTraining.filter((y) => y.every((value, i) => near(value, still[i]!))).length;
      expect(without + whole).toBe(200);
      expectShare(without, 200, 0.4);
    });
  });

  describe("dropout of blocks", () => {
    /** Which blocks of so many values are those of x. */
    const same = (y: number[], x: number[], size: number) =>
      Array.from({ length: x.length / size }, (_, block) => block).filter((block) =>
        x.slice(block * size, (block + 1) * size).every((value, i) => near(y[block * size + i]!, value)),
      );
    const square = () => new Holder(new Linear(12, 12, { bias: false, init: identity }));
    it.each([
      ["oft", oft({ oftBlockSize: 2, moduleDropout: 0.55, ...target })],
      ["boft", boft({ boftBlockSize: 2, boftDropout: 0.55, ...target })],
    ] as const)("%s takes ⌊p·n⌋ blocks for the identity, others in each step", (name, adapter) => {
      const model = adapted(square(), adapter as never, 3);
      for (const [path, parameter] of model.namedParameters())
        if (path.includes("boft_s")) parameter.assign(upload(currentDevice(), new Float32Array(12).fill(1), [12, 1], "float32"));
      const x = draw([1, 12], 8);
      const { still, inTraining } = outputs(model, x, 12);
      expect(same(still, numbers(x), 2), name).toEqual([]);
      const dropped = inTraining.map((y) => same(y, numbers(x), 2));
      expect(dropped.every((blocks) => blocks.length === 3)).toBe(true);
      expect(new Set(dropped.map((blocks) => blocks.join())).size).toBeGreaterThan(1);
      for (const [call, y] of inTraining.entries())
        for (const [i, value] of y.entries())
          if (!dropped[call]!.includes(Math.floor(i / 2))) expect(near(value, still[i]!)).toBe(true);
    });

    it("of several factors one loses blocks, each in turn", () => {
      const model = adapted(square(), boft({ boftBlockSize: 2, boftNButterflyFactor: 2, boftDropout: 0.99, ...target }) as never);
      const [R, s] = [...model.namedParameters()].filter(([path]) => path.includes("boft")).map(([, parameter]) => parameter);
      s!.assign(upload(currentDevice(), new Float32Array(12).fill(1), [12, 1], "float32"));
      const values = numbers(R!.stored);
      // the first factor turns, the second does nothing: so the result tells which of them lost its blocks
      R!.assign(
        upload(
          currentDevice(),
          Float32Array.from(values, (value, i) => (i < values.length / 2 ? value : 0)),
          R!.shape,
          "float32",
        ),
      );
      const x = draw([1, 12], 8);
      const { still, inTraining } = outputs(model, x, 40);
      const turned = inTraining.filter((y) => y.every((value, i) => near(value, still[i]!))).length;
      expectShare(turned, 40, 0.5);
    });
  });

  describe("COFT", () => {
    const eps = 0.2;
    const start = (shape: readonly number[]) => new TorchGenerator(7).normal(Math.max(16, shape[0]! * shape[1]!), 0, 0.5);
    const make = (coft = true) => {
      const layer = new Linear(6, 4, { bias: false, init: (shape) => start(shape).slice(0, 24) });
      return adapted(new Holder(layer), oft({ oftBlockSize: 3, coft, eps, ...target }) as never);
    };
    const norms = (model: Module) => {
      const values = numbers(model.trainableParameters()[0]!.stored);
      return [0, 1].map((block) => Math.sqrt(2) * Math.hypot(...values.slice(3 * block, 3 * block + 3)));
    };

    it("moves a parameter that has grown too large before it is used in training, and counts it so in evaluation", () => {
      const model = make();
      const x = draw([2, 6], 3);
      const before = norms(model);
      expect(Math.min(...before)).toBeGreaterThan(eps);
      const evaluated = model.forward(x);
      expect(norms(model)).toEqual(before);
      const trained = model.train().forward(x);
      expect(difference(evaluated, trained)).toBeLessThan(1e-5);
      for (const norm of norms(model)) expect(norm).toBeCloseTo(eps / Math.sqrt(2), 5);
    });

    it("goes a step of training from there, with the gradient of what is used", () => {
      const x = draw([2, 6], 3);
      /** The parameter after a step; from another value where that is given. */
      const step = (model: ReturnType<typeof make>, compiled: boolean, from?: Tensor) => {
        const [parameter] = model.train().trainableParameters();
        if (from) parameter!.assign(from);
        const optimizer = new SGD([parameter!], { lr: 0.1 });
        const run = () => {
          const loss = sum(model.forward(x));
          optimizer.step(gradientsOf(loss, [parameter!]));
          return loss;
        };
        (compiled ? compile(run) : run)();
        return parameter!.stored;
      };
      const small = make();
      small.train().forward(x);
      const [moved] = small.trainableParameters();
      const want = step(make(false), false, moved!.stored);
      expect(difference(want, moved!.stored)).toBeGreaterThan(1e-3);
      for (const compiled of [false, true]) expect(difference(step(make(), compiled), want)).toBeLessThan(1e-5);
    });
  });
});
