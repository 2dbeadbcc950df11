import { beforeAll, describe, expect, test } from "vitest";
import { useDevice } from "../../src/compile/program.ts";
import { createReference } from "../../src/devices/reference/device.ts";
import { ConfigError, DTypeError } from "../../src/errors.ts";
import { Tensor } from "../../src/graph/node.ts";
import { Variable } from "../../src/graph/variable.ts";
import { tensor } from "../../src/tensor/create.ts";
import * as functions from "../../src/tensor/functions.ts";
import "../../src/tensor/methods.ts";
import { onEveryDevice } from "../devices.ts";

onEveryDevice(() => {
  test("functions take tensors, numbers, nested arrays, typed arrays, booleans and variables", () => {
    const x = tensor([1, 2]);
    expect(functions.add(x, 1).toArray()).toEqual([2, 3]);
    expect(functions.add(1, x).toArray()).toEqual([2, 3]);
    expect(functions.add([1, 2], [[1], [2]]).toArray()).toEqual([
      [2, 3],
      [3, 4],
    ]);
    expect(functions.mul(Float32Array.of(3, 4), x).toArray()).toEqual([3, 8]);
    expect(functions.add(new Variable(tensor([5, 6])), x).toArray()).toEqual([6, 8]);
    expect(functions.add(2, 3).item()).toBe(5);
    expect(
      functions
        .sum(
          [
            [1, 2],
            [3, 4],
          ],
          0,
        )
        .toArray(),
    ).toEqual([4, 6]);
    expect(functions.where([true, false], x, 0).toArray()).toEqual([1, 0]);
    expect(functions.concatenate([x, [7], Float32Array.of(8)]).toArray()).toEqual([1, 2, 7, 8]);
    expect(functions.einsum("i,i->", x, [10, 20]).item()).toBe(50);
    expect(functions.matmul([[1, 2]], [[3], [4]]).item()).toBe(11);
    expect(functions.oneHot([1, 0], 2).toArray()).toEqual([
      [0, 1],
      [1, 0],
    ]);
    expect(functions.take([10, 20, 30], [2, 0]).toArray()).toEqual([30, 10]);
    expect(
      functions
        .at(
          [
            [1, 2],
            [3, 4],
          ],
          ":, 0",
        )
        .toArray(),
    ).toEqual([1, 3]);
    expect(functions.repeat([1, 2], "a -> (a n)", { n: 2 }).toArray()).toEqual([1, 1, 2, 2]);
    expect(functions.repeat([1, 2], [2]).toArray()).toEqual([1, 2, 1, 2]);
    expect(functions.conv1d([[[1, 2, 3]]], [[[1, 1]]], [10]).toArray()).toEqual([[[13, 15]]]);
    expect(functions.softmax([0, 0]).toArray()).toEqual([0.5, 0.5]);
  });

  test("a number beside a tensor takes its dtype where it can", () => {
    const ints = tensor([3, -4], { dtype: "int32" });
    expect([functions.add(ints, 1).dtype, functions.mul(2, ints).dtype, functions.add(ints, 0.5).dtype]).toEqual([
      "int32",
      "int32",
      "float32",
    ]);
    expect(functions.add(tensor([1], { dtype: "bfloat16" }), 1).dtype).toBe("bfloat16");
    expect(functions.pow(ints, 2).toArray()).toEqual([9, 16]);
    expect(functions.pow(2, [3]).toArray()).toEqual([expect.closeTo(8, 4)]);
    expect(functions.where(ints.less(0), 0, ints).dtype).toBe("int32");
  });

  test("max without an axis is a value, with one also says where", () => {
    const x = tensor([
      [1, 5],
      [7, 2],
    ]);
    expect(functions.max(x).item()).toBe(7);
    expect(x.max(1).indices.toArray()).toEqual([1, 0]);
    expect(functions.min(x, 0, true).values.toArray()).toEqual([[1, 2]]);
  });

  test("methods chain, compute and read", async () => {
    const x = tensor([
      [1, -2],
      [3, 4],
    ]);
    expect(x.mul(2).add([1, 1]).relu().sum(1).toArray()).toEqual([3, 16]);
    expect(await x.neg().data()).toEqual(Float32Array.of(-1, 2, -3, -4));
    expect(x.mean().item()).toBe(1.5);
    expect(x.at(1).realize().storage).not.toBeNull();
    expect(x.equal(3).toArray()).toEqual([
      [false, false],
      [true, false],
    ]);
    expect(tensor([1.5], { dtype: "float16" }).dataSync()).toEqual(Float32Array.of(1.5));
    expect(x.repeat("a b -> a (b n)", { n: 2 }).shape).toEqual([2, 4]);
    using other = createReference();
    const moved = x.to(other);
    expect([moved.storage!.device, moved.toArray()]).toEqual([other, x.toArray()]);
    expect(moved.to(other)).toBe(moved);
  });

  test("backward leaves gradients that the variable and its value show", () => {
    const w = new Variable(tensor([2, -3]));
    w.value.square().sum().backward();
    expect(w.grad!.toArray()).toEqual([4, -6]);
    expect(w.value.grad).toBe(w.grad);
    expect(tensor([1]).grad).toBeNull();
    expect(w.value.detach().square().sum().grad).toBeNull();
  });
});

describe("errors", () => {
  beforeAll(() => void useDevice(createReference()));
  const anything = (...args: unknown[]) => args as never[];
  const call = (f: (...args: never[]) => unknown, ...args: unknown[]) => f(...anything(...args));
  test.each<[string, () => unknown, new (...args: never[]) => Error]>([
    [
      "add: argument 2 is a string, not Tensor, Variable, number, boolean, Array or TypedArray.",
      () => call(functions.add, tensor([1]), "x"),
      DTypeError,
    ],
    [
      "exp: argument 1 is an object, not Tensor, Variable, number, boolean, Array or TypedArray.",
      () => call(functions.exp, {}),
      DTypeError,
    ],
    [
      "exp: argument 1 is null, not Tensor, Variable, number, boolean, Array or TypedArray.",
      () => call(functions.exp, null),
      DTypeError,
    ],
    [
      "add: argument 2 is missing (Tensor, Variable, number, boolean, Array or TypedArray).",
      () => call(functions.add, 1),
      ConfigError,
    ],
    ["exp: takes 1 arguments, got 2.", () => call(functions.exp, 1, 2), ConfigError],
    [
      "add: argument 2 is a Map, not Tensor, Variable, number, boolean, Array or TypedArray.",
      () => call(functions.add, 1, new Map()),
      DTypeError,
    ],
    ["sum: [1] has 1 values, the rows before it 2. Rows must be equally long.", () => functions.sum([[1, 2], [3]]), Error],
    ["item: needs exactly one value, got [2].", () => tensor([1, 2]).item(), Error],
    [
      "where: argument 2 is a string, not Tensor, Variable, number, boolean, Array or TypedArray.",
      () => call(functions.where, 1, "a", 2),
      DTypeError,
    ],
  ])("%s", (message, act, kind) => {
    expect(act).toThrow(kind);
    expect(act).toThrow(message);
  });
});

test("every method of the interface is there, and leaves no enumerable trace on tensors", () => {
  const declared = ["add", "matmul", "softmax", "at", "rearrange", "toArray", "backward", "print", "detach", "topk"];
  for (const name of declared) expect(typeof Reflect.get(Tensor.prototype, name)).toBe("function");
  expect(Object.keys(Tensor.prototype)).toEqual([]);
});
