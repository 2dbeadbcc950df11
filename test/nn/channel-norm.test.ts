import { beforeAll, expect, test } from "vitest";
import { checkpoint } from "../../src/autograd/custom.ts";
import { useDevice } from "../../src/compile/program.ts";
import { createReference } from "../../src/devices/reference/device.ts";
import { Variable } from "../../src/graph/variable.ts";
import { BatchNorm, batchNorm, groupNorm } from "../../src/nn/channel-norm.ts";
import { embedding } from "../../src/nn/embedding.ts";
import { functionalCall } from "../../src/nn/functional-call.ts";
import { arange, tensor } from "../../src/tensor/create.ts";
import "../../src/tensor/methods.ts";
import { expectDerivative } from "../tensor/gradient.ts";

beforeAll(() => void useDevice(createReference()));
const values = [0.3, -1.2, 2.2, 0.9, -0.4, 1.7, 0.1, -0.8];

test("derivatives of group and batch normalisation are those of their values", () => {
  expectDerivative((x) => groupNorm(x, 2, tensor([1, 2, 3, 4]), null), values, [1, 4, 2], 1e-5);
  expectDerivative((x) => batchNorm(x, null, null, tensor([1, 2])), values, [2, 2, 2], 1e-5);
  expectDerivative((x) => batchNorm(x, { mean: x.at(0, ":", 0), variance: tensor([1, 2]) }, null, null), values, [2, 2, 2]);
});

test("batch statistics centre and scale each channel", () => {
  const y = batchNorm(tensor(values, { shape: [2, 2, 2] }), null, null, null, { eps: 0 });
  expect(y.mean([0, 2]).toArray()).toEqual([expect.closeTo(0), expect.closeTo(0)]);
  expect(y.variance({ axes: [0, 2], correction: 0 }).toArray()).toEqual([expect.closeTo(1), expect.closeTo(1)]);
});

test("no gradient reaches the row of the padding token", () => {
  expectDerivative((w) => embedding(w, tensor([1, 0, 1], { dtype: "int32" }), {}), values, [4, 2]);
  const w = arange(6).reshape([3, 2]);
  expect(embedding(w, tensor([2, 1], { dtype: "int32" }), { paddingIdx: 1 }).toArray()).toEqual(w.at([2, 1]).toArray());
});

test("errors name the parameter and the channels", () => {
  const x = arange(8).reshape([1, 4, 2]);
  expect(() => groupNorm(x, 3, null, null)).toThrow("groupNorm: the channels of [1, 4, 2] cannot be split into 3 equal groups.");
  expect(() => groupNorm(x, 2, tensor([1]), null)).toThrow("groupNorm: `weight` is [1], x [1, 4, 2] has 4 channels.");
});

test("running statistics are gathered in training alone, once where a part is computed again, and not in functionalCall", () => {
  const norm = new BatchNorm(2);
  const x = tensor(values, { shape: [2, 2, 2] });
  const seen = () => norm.num_batches_tracked!.value.item();
  norm.eval().forward(x);
  norm.train();
  functionalCall(norm, {}, x);
  expect(seen()).toBe(0);
  const loss = checkpoint((z) => norm.forward(z).square().sum())(new Variable(x).value);
  loss.backward();
  expect(seen()).toBe(1);
  expect(() => norm.forward(x.at("0:1, :, 0"))).toThrow("BatchNorm: [1, 2] has one value for each channel");
});
