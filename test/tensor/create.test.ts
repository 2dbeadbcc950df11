import { beforeAll, describe, expect, test } from "vitest";
import { useDevice } from "../../src/compile/program.ts";
import { createReference } from "../../src/devices/reference/device.ts";
import { arange, asIndex, eye, fromTypedArray, full, linspace, ones, tensor, zerosLike } from "../../src/tensor/create.ts";
import "../../src/tensor/methods.ts";
import { onEveryDevice } from "../devices.ts";

onEveryDevice(() => {
  test("numbers become float32, booleans bool, typed arrays keep their type", () => {
    const facts = (x: ReturnType<typeof tensor>) => [x.dtype, [...x.shape], x.toArray()];
    expect(
      facts(
        tensor([
          [1, 2],
          [3, 4.5],
        ]),
      ),
    ).toEqual([
      "float32",
      [2, 2],
      [
        [1, 2],
        [3, 4.5],
      ],
    ]);
    expect(facts(tensor(7))).toEqual(["float32", [], 7]);
    expect(facts(tensor([true, false]))).toEqual(["bool", [2], [true, false]]);
    expect(facts(tensor(true))).toEqual(["bool", [], true]);
    expect(facts(tensor(Int32Array.of(1, 2)))).toEqual(["int32", [2], [1, 2]]);
    expect(facts(tensor(Uint8Array.of(1, 2)))).toEqual(["uint8", [2], [1, 2]]);
    expect(facts(tensor(Float64Array.of(0.5)))).toEqual(["float32", [1], [0.5]]);
    expect(facts(tensor([[Float32Array.of(1, 2)], [Float32Array.of(3, 4)]]))).toEqual([
      "float32",
      [2, 1, 2],
      [[[1, 2]], [[3, 4]]],
    ]);
    expect(facts(tensor([]))).toEqual(["float32", [0], []]);
    expect(facts(tensor([[], []]))).toEqual(["float32", [2, 0], [[], []]]);
  });

  test("a dtype and a shape may be asked for", () => {
    expect(tensor([1.9, -1.9], { dtype: "int32" }).toArray()).toEqual([1, -1]);
    expect(tensor([0, 2], { dtype: "bool" }).toArray()).toEqual([false, true]);
    expect(tensor([1, 1.001], { dtype: "bfloat16" }).toArray()).toEqual([1, 1]);
    expect(tensor(Uint16Array.of(0x3c00, 0xc000), { dtype: "float16" }).toArray()).toEqual([1, -2]);
    expect(tensor(new Float32Array(6), { shape: [2, 3] }).shape).toEqual([2, 3]);
    expect(fromTypedArray(Float32Array.of(1, 2), [2, 1]).toArray()).toEqual([[1], [2]]);
  });

  test("ranges and fillings", () => {
    expect(full([2], 3, { dtype: "int32" }).toArray()).toEqual([3, 3]);
    expect(ones([2, 1]).toArray()).toEqual([[1], [1]]);
    expect(zerosLike(tensor([1, 2], { dtype: "int32" })).dtype).toBe("int32");
    expect(arange(4).toArray()).toEqual([0, 1, 2, 3]);
    expect(arange(1, 2, 0.25).toArray()).toEqual([1, 1.25, 1.5, 1.75]);
    expect(arange(5, 0, -2, { dtype: "int32" }).toArray()).toEqual([5, 3, 1]);
    expect(arange(0).toArray()).toEqual([]);
    expect(linspace(0, 1, 5).toArray()).toEqual([0, 0.25, 0.5, 0.75, 1]);
    expect(linspace(-0.1, 0.7, 7).toArray()).toHaveLength(7);
    expect((linspace(-0.1, 0.7, 7).toArray() as number[])[6]).toBe(Math.fround(0.7));
    expect(linspace(3, 9, 1).toArray()).toEqual([3]);
    expect(eye(2, 3).toArray()).toEqual([
      [1, 0, 0],
      [0, 1, 0],
    ]);
  });
});

describe("errors", () => {
  beforeAll(() => void useDevice(createReference()));
  test.each<[string, () => unknown]>([
    [
      "tensor: [1] has 2 values, the rows before it 3. Rows must be equally long.",
      () =>
        tensor([
          [1, 2, 3],
          [4, 5],
        ]),
    ],
    ["tensor: [1][0] is a list, but values before it are numbers.", () => tensor([[1], [[2]]])],
    ["tensor: [0][1] is a number, but values before it are lists of 1.", () => tensor([[[1], 2]])],
    ["tensor: [0][1] is a string, not a number or boolean.", () => tensor([[1, "2" as unknown as number]])],
    ["tensor: the value is undefined, not a number or boolean.", () => tensor(undefined as unknown as number)],
    ["tensor: 3 values do not fill [2, 2] (4).", () => tensor([1, 2, 3], { shape: [2, 2] })],
    ["ones: [-1] is not a shape: sizes are whole numbers from 0.", () => ones([-1]) && full([-1], 0)],
    ["arange: steps of 0 do not lead from 0 to 3.", () => arange(0, 3, 0)],
    ["take: index 1.5 is not a whole number.", () => asIndex("take", [1, 1.5])],
  ])("%s", (message, act) => expect(act).toThrow(message));

  test("a Uint16Array needs a dtype, since it may hold two kinds of float", () => {
    expect(() => tensor(new Uint16Array(2))).toThrow("tensor: cannot guess the dtype of a Uint16Array.");
  });
});
