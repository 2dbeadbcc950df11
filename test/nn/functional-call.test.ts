import { expect, test } from "vitest";
import { ConfigError, checkpoint, compile, grad, perSampleGradients, ShapeError, type Tensor, tensor } from "../../src/index.ts";
import { crossEntropy, Dropout, Embedding, functionalCall, Linear, Module } from "../../src/nn/index.ts";
import { attach, lora } from "../../src/peft/index.ts";
import { onEveryDevice } from "../devices.ts";

class Net extends Module {
  readonly hidden = new Linear(3, 4);
  readonly head = new Linear(4, 2);
  readonly dropout = new Dropout(0.5);
  forward(x: Tensor): Tensor {
    return this.head.forward(this.dropout.forward(this.hidden.forward(x).tanh()));
  }
}

const x = () =>
  tensor([
    [1, 2, -3],
    [0.4, -0.5, 0.6],
    [-0.7, 0.8, 0.9],
  ]);
const labels = () => tensor([0, 1, 0], { dtype: "int32" });
const near = (a: Tensor | null | undefined, b: Tensor | null | undefined) =>
  expect([...a!.sub(b!).dataSync()].every((each) => Math.abs(each) < 1e-6)).toBe(true);

onEveryDevice(() => {
  test("gives what the module with these values gives, and leaves its own alone", () => {
    const [net, other] = [new Net().eval(), new Net().eval()];
    const before = net.forward(x());
    near(functionalCall(net, Object.fromEntries(other.stateDict()), x()), other.forward(x()));
    near(functionalCall(net, other.stateDict(), x()), other.forward(x()));
    near(functionalCall(net, {}, x()), before);
    near(net.forward(x()), before);
    const f = compile((weight: Tensor) => functionalCall(net, { "head.weight": weight }, x()));
    const weight = other.head.weight.stored;
    near(f(weight), functionalCall(net, { "head.weight": weight }, x()));
    near(f(weight.mul(2)), functionalCall(net, { "head.weight": weight.mul(2) }, x()));
  });

  test("has the gradients of backward, through checkpoint too", () => {
    const net = new Net().eval();
    crossEntropy(net.forward(x()), labels()).backward();
    const loss = (weight: Tensor) => crossEntropy(functionalCall(net, { "hidden.weight": weight }, x()), labels());
    near(grad(loss)(net.hidden.weight.stored)[0], net.hidden.weight.grad);
    near(grad((w: Tensor) => checkpoint(() => loss(w))())(net.hidden.weight.stored)[0], net.hidden.weight.grad);
  });

  test("of each sample, of adapters too, add up to those of the batch", () => {
    const net = new Net().train();
    attach(net, lora({ r: 2, targetModules: ["hidden", "head"], initLoraWeights: false }));
    net.eval();
    crossEntropy(net.forward(x()), labels(), { reduction: "sum" }).backward();
    const trained = [...net.namedParameters()].filter(([, { requiresGrad }]) => requiresGrad);
    const each = perSampleGradients(
      (values, row, label) => {
        const named = Object.fromEntries(trained.map(([path], i) => [path, values[i]!]));
        return crossEntropy(functionalCall(net, named, row.unsqueeze(0)), label.unsqueeze(0));
      },
      trained.map(([, { stored }]) => stored),
      [x(), labels()],
    );
    expect(trained).toHaveLength(4);
    for (const [i, [, parameter]] of trained.entries()) {
      expect(each[i]!.shape).toEqual([3, ...parameter.shape]);
      near(each[i]!.sum(0), parameter.grad);
      expect(each[i]!.slice("0").abs().sum().item()).toBeGreaterThan(0);
    }
  });

  test("reaches parameters that a compiled function reads, and leaves its programs alone", () => {
    const net = new Net().eval();
    class Compiled extends Module {
      readonly net = net;
      readonly run = compile((x: Tensor) => this.net.forward(x));
      forward(x: Tensor): Tensor {
        return this.run(x);
      }
    }
    const weight = net.head.weight.stored.mul(2);
    const expected = functionalCall(net, { "head.weight": weight }, x());
    const of = (model: Compiled) => functionalCall(model, { "net.head.weight": weight }, x());
    const [first, later] = [new Compiled(), new Compiled()];
    near(of(first), expected);
    near(first.forward(x()), net.forward(x()));
    later.forward(x());
    near(of(later), expected);
  });

  test("gives the row of a padding token no gradient, of a frozen table either", () => {
    const table = new Embedding(3, 2, { paddingIdx: 1 });
    const ids = tensor([0, 1], { dtype: "int32" });
    for (const isTrained of [true, false]) {
      table.weight.requiresGrad = isTrained;
      const slope = grad((weight: Tensor) => functionalCall(table, { weight }, ids).sum());
      expect(slope(table.weight.stored)[0]!.toArray()).toEqual([
        [1, 1],
        [0, 0],
        [0, 0],
      ]);
    }
  });

  test("refuses what is not a parameter and what has another shape", () => {
    const net = new Net();
    expect(() => functionalCall(net, { "head.wieght": x() }, x())).toThrow(ConfigError);
    expect(() => functionalCall(net, { "head.wieght": x() }, x())).toThrow('The nearest is "head.weight"');
    expect(() => functionalCall(net, { "head.weight": x() }, x())).toThrow(ShapeError);
    expect(() => functionalCall(net, { "head.weight": [1] as never }, x())).toThrow("`head.weight` is a list, not a tensor");
  });

  test("gives a shared parameter one value, by any of its paths", () => {
    class Twice extends Module {
      readonly first = new Linear(3, 3, { bias: false });
      readonly second = new Linear(3, 3, { bias: false });
      constructor() {
        super();
        Object.assign(this.second, { weight: this.first.weight });
      }
      forward(x: Tensor): Tensor {
        return this.second.forward(this.first.forward(x));
      }
    }
    const net = new Twice();
    const weight = net.first.weight.stored.mul(2);
    for (const values of [{ "second.weight": weight }, { "first.weight": weight, "second.weight": weight }])
      near(functionalCall(net, values, x()), net.forward(x()).mul(4));
    const two = { "first.weight": weight, "second.weight": weight.mul(2) };
    expect(() => functionalCall(net, two, x())).toThrow('"second.weight" is shared');
  });
});
