import { describe, expect, test } from "vitest";
import { grad } from "../../src/autograd/grad.ts";
import { ConfigError, ShapeError } from "../../src/errors.ts";
import { mul } from "../../src/graph/elementwise.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { activation, activations } from "../../src/nn/activation.ts";
import { kaimingNormal, kaimingUniform, xavierNormal, xavierUniform } from "../../src/nn/init.ts";
import { Linear, linear } from "../../src/nn/linear.ts";
import { swiglu } from "../../src/nn/mlp.ts";
import { Module, Parameter } from "../../src/nn/module.ts";
import { layerNorm, RMSNorm, rmsNorm } from "../../src/nn/norm.ts";
import { LSTM } from "../../src/nn/recurrent.ts";
import { TorchGenerator } from "../../src/random/torch-generator.ts";
import { silu } from "../../src/tensor/math.ts";
import { manualSeed } from "../../src/tensor/random.ts";
import { sum } from "../../src/tensor/statistics.ts";
import { onEveryDevice } from "../devices.ts";
import { distance, randn, tensor, values } from "./tensors.ts";

onEveryDevice(() => {
  describe("Linear", () => {
    test("is x·Wᵀ + b over the last axis, whatever stands before it", () => {
      const W = tensor([1, 2, 3, 4, 5, 6], [2, 3]);
      const y = linear(tensor([1, 0, 0, 0, 1, 0, 0, 0, 1, 1, 1, 1], [2, 2, 3]), W, tensor([10, 20]));
      expect(y.shape).toEqual([2, 2, 2]);
      expect(values(y)).toEqual([11, 24, 12, 25, 13, 26, 16, 35]);
      expect(values(linear(tensor([], [2, 0]), tensor([], [3, 0])))).toEqual([0, 0, 0, 0, 0, 0]);
    });

    test("starts as PyTorch's does for the same seed", () => {
      const generator = new TorchGenerator(7);
      const layer = new Linear(4, 3, { init: kaimingUniform({ a: Math.sqrt(5), generator }) });
      const drawn = new TorchGenerator(7).uniform(12, -0.5, 0.5);
      for (const [i, value] of values(layer.weight.stored).entries()) expect(value).toBeCloseTo(drawn[i]!, 6);
      expect(values(layer.bias!.stored).every((value) => Math.abs(value) <= 0.5)).toBe(true);
      expect([layer.inFeatures, layer.outFeatures]).toEqual([4, 3]);
    });

    test("refuses rows of another size", () => {
      expect(() => new Linear(4, 3).forward(tensor([1, 2, 3]))).toThrow(
        "linear: [3] does not fit a weight of [3, 4] ([out, in]). The last axis of x must have 4 values.",
      );
    });
  });

  describe("norms", () => {
    test("with unitOffset a weight of zeros is one of ones", () => {
      const x = randn([3, 5]);
      const [plain, offset] = [new RMSNorm(5), new RMSNorm(5, { unitOffset: true })];
      expect(values(offset.weight.stored)).toEqual([0, 0, 0, 0, 0]);
      expect(distance(plain.forward(x), offset.forward(x))).toBe(0);
    });

    test("weights of another size are refused", () => {
      expect(() => rmsNorm(randn([2, 3]), tensor([1, 1]))).toThrow("rmsNorm: `weight` is [2], the last axis of x has 3 values.");
      expect(() => layerNorm(randn([2, 3]), null, tensor([1]))).toThrow(
        "layerNorm: `bias` is [1], the last axis of x has 3 values.",
      );
      expect(() => rmsNorm(tensor([1], []), null)).toThrow("rmsNorm: needs at least one axis.");
    });
  });

  test("what an LSTM returned is a state to begin with, and a tensor or a list is none", () => {
    const lstm = new LSTM(3, 4);
    const first = lstm.forward(randn([2, 1, 3]));
    expect(lstm.forward(randn([2, 1, 3]), first).cell.shape).toEqual([1, 1, 4]);
    for (const [state, said] of [
      [first.hidden, "LSTM: the state is a Tensor, not an object of `hidden` and `cell`. Write { hidden, cell }"],
      [[first.hidden, first.cell], "LSTM: the state is a list, not an object"],
      [{ h: first.hidden }, "LSTM: `h` is not an option."],
      [{ hidden: randn([1, 2, 4]) }, "LSTM: a state is [1, 2, 4], not [1, 1, 4]."],
    ] as const)
      expect(() => lstm.forward(randn([2, 1, 3]), state as typeof first)).toThrow(said);
  });

  test("swiglu has the value and the gradients of silu(gate)·up", () => {
    const [gate, up] = [randn([3, 7]), randn([3, 7], 2)];
    const both = (f: (a: Tensor, b: Tensor) => Tensor) => [f(gate, up), ...grad((a, b) => sum(f(a!, b!)))(gate, up)];
    const composed = both((a, b) => mul(silu(a), b));
    both(swiglu).forEach((got, i) => {
      expect(distance(got, composed[i]!)).toBeLessThan(1e-6);
    });
  });
});

describe("activation", () => {
  test("knows the names of Hugging Face", () => {
    for (const name of ["silu", "gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "quick_gelu", "tanh"])
      expect(activations).toHaveProperty(name);
  });

  test("names the nearest one", () => {
    expect(() => activation("sillu")).toThrow(ConfigError);
    expect(() => activation("sillu")).toThrow('activation: there is no activation "sillu". Did you mean "silu"?');
    expect(() => activation("zzzzzzzzzzz")).toThrow("There are silu, swish,");
    expect(() => activation("toString")).toThrow("there is no activation");
  });
});

describe("first values", () => {
  const spread = (list: Float32Array) => Math.sqrt(list.reduce((sum, v) => sum + v * v, 0) / list.length);

  test("have the spread that they promise", () => {
    const shape = [200, 300];
    const generator = new TorchGenerator(3);
    expect(spread(kaimingUniform({ generator })(shape))).toBeCloseTo(Math.sqrt(2 / 300), 3);
    expect(spread(kaimingNormal({ generator })(shape))).toBeCloseTo(Math.sqrt(2 / 300), 3);
    expect(spread(xavierUniform({ generator })(shape))).toBeCloseTo(Math.sqrt(2 / 500), 3);
    expect(spread(xavierNormal({ gain: 2, generator })(shape))).toBeCloseTo(2 * Math.sqrt(2 / 500), 3);
  });

  test("are the same for the same seed", () => {
    const draw = () => {
      manualSeed(5);
      return [...kaimingUniform()([3, 3])];
    };
    expect(draw()).toEqual(draw());
  });

  test("of a vector have no fan-in", () => {
    expect(() => xavierUniform()([3])).toThrow(ShapeError);
    expect(() => xavierUniform()([3])).toThrow("xavierUniform: [3] has no fan-in: a weight is [out, in, ...].");
  });
});

onEveryDevice(() => {
  describe("Module", () => {
    class Block extends Module {
      inner: Linear;
      readonly list: Linear[];
      readonly scale = Parameter.from(Float32Array.of(2), [1]);
      readonly tied: Linear;
      constructor() {
        super();
        this.inner = new Linear(2, 2, { bias: false });
        this.list = [new Linear(2, 3), new Linear(3, 2)];
        this.tied = new Linear(2, 2, { bias: false, weight: this.inner.weight });
      }
      forward(x: Tensor): Tensor {
        return this.inner.forward(x);
      }
    }

    test("paths of parameters are paths of properties; a shared one comes once", () => {
      expect([...new Block().namedParameters()].map(([path]) => path)).toEqual([
        "scale",
        "inner.weight",
        "list.0.weight",
        "list.0.bias",
        "list.1.weight",
        "list.1.bias",
      ]);
    });

    test("replaceModule changes one layer, in lists too, and gives back the old one", () => {
      const block = new Block();
      const [next, old] = [new Linear(2, 3), block.list[0]];
      expect(block.replaceModule("list.0", next)).toBe(old);
      expect(block.list[0]).toBe(next);
      expect(() => block.getModule("list.O")).toThrow('getModule: there is no module "list.O". Did you mean "list.0"?');
    });

    test("train, eval and freeze reach everything below", () => {
      const block = new Block().train();
      expect(block.list[1]!.training).toBe(true);
      expect(block.eval().list[1]!.training).toBe(false);
      expect(block.freeze().trainableParameters()).toEqual([]);
    });

    test("loading takes values, not memory, and changes nothing when a key is wrong", () => {
      const [a, b] = [new Block(), new Block()];
      const state = a.stateDict();
      b.loadStateDict(state);
      a.inner.weight.assign(tensor([0, 0, 0, 0], [2, 2]));
      expect(values(b.inner.weight.stored)).not.toEqual([0, 0, 0, 0]);
      const before = values(b.scale.stored);
      const broken = new Map(state);
      broken.delete("list.1.bias");
      broken.set("scale", tensor([9]));
      expect(() => b.loadStateDict(broken)).toThrow('loadStateDict: "list.1.bias" is missing. The nearest is "list.0.bias".');
      expect(values(b.scale.stored)).toEqual(before);
      expect(() => b.loadStateDict(new Map([...state, ["scalee", tensor([1])]]))).toThrow(
        'loadStateDict: "scalee" is not a parameter of this model. The nearest is "scale".',
      );
      expect(() => b.loadStateDict(new Map([...state, ["scale", tensor([1, 2])]]))).toThrow(
        'loadStateDict: "scale" is [2] in the file, [1] in the model.',
      );
      expect(values(b.scale.stored)).toEqual(before);
      broken.set("scalee", tensor([1]));
      expect(b.loadStateDict(broken, { strict: false })).toEqual({ missing: ["list.1.bias"], unexpected: ["scalee"] });
      expect(values(b.scale.stored)).toEqual([9]);
    });

    test("a shared parameter is counted once, and may come under either name", () => {
      const block = new Block();
      expect(block.numParameters()).toBe(1 + 4 + 9 + 8);
      expect([...block.sharedPaths()]).toEqual(["tied.weight"]);
      expect(block.loadStateDict(new Map([...block.stateDict(), ["tied.weight", tensor([1])]])).unexpected).toEqual([]);
      block.inner.freeze();
      expect(block.numParameters({ trainable: true })).toBe(1 + 9 + 8);
    });
  });
});
