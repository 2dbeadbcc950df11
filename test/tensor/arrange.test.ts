import { beforeAll, describe, expect, test } from "vitest";
import { useDevice } from "../../src/compile/program.ts";
import { createReference } from "../../src/devices/reference/device.ts";
import type { Tensor } from "../../src/graph/node.ts";
import * as arrange from "../../src/tensor/arrange.ts";
import { arange, tensor, trilIndices, triuIndices } from "../../src/tensor/create.ts";
import { grad } from "../../src/tensor/derivative.ts";
import { rot90, vander } from "../../src/tensor/functions.ts";
import "../../src/tensor/methods.ts";
import { onEveryDevice } from "../devices.ts";

const int = (values: readonly (number | readonly number[])[]) => tensor(values as number[], { dtype: "int32" });

onEveryDevice(() => {
  const x = () =>
    tensor([
      [1, 2, 3],
      [4, 5, 6],
    ]);

  test("joining and splitting are inverse", () => {
    expect(arrange.split(arange(7), 3).map((part) => part.size)).toEqual([3, 3, 1]);
    expect(arrange.chunk(arange(7), 3).map((part) => part.size)).toEqual([3, 3, 1]);
    expect(arrange.cat(arrange.chunk(x(), 2, -1), -1).toArray()).toEqual(x().toArray());
  });

  test("axes come, go and move", () => {
    const y = arange(24).reshape([2, 1, 3, 4]);
    expect(arrange.squeeze(y).shape).toEqual([2, 3, 4]);
    expect(arrange.squeeze(y, [0, 1]).shape).toEqual([2, 3, 4]);
    expect(arrange.unsqueeze(y, -1).shape).toEqual([2, 1, 3, 4, 1]);
    expect(arrange.flatten(y, 1, 2).shape).toEqual([2, 3, 4]);
    expect(arrange.unflatten(y, -1, [2, -1]).shape).toEqual([2, 1, 3, 2, 2]);
    expect(arrange.moveAxis(y, 0, -1).shape).toEqual([1, 3, 4, 2]);
    expect(arrange.swapAxes(y, 0, 3).shape).toEqual([4, 1, 3, 2]);
  });

  test("flip and roll", () => {
    expect(arrange.flip(x()).toArray()).toEqual([
      [6, 5, 4],
      [3, 2, 1],
    ]);
    expect(arrange.roll(x(), 1).toArray()).toEqual([
      [6, 1, 2],
      [3, 4, 5],
    ]);
  });

  test("quarter turns, powers and triangles, as PyTorch prints them", () => {
    const turned = [1, 2, 3, -1].map((times) =>
      JSON.stringify(
        rot90(
          [
            [0, 1, 2],
            [3, 4, 5],
          ],
          times,
        ).toArray(),
      ),
    );
    expect(turned).toEqual(["[[2,5],[1,4],[0,3]]", "[[5,4,3],[2,1,0]]", "[[3,0],[4,1],[5,2]]", "[[3,0],[4,1],[5,2]]"]);
    const cube = rot90(arange(8).reshape([2, 2, 2]), 1, [2, 0]);
    expect(JSON.stringify(cube.toArray())).toBe("[[[4,0],[6,2]],[[5,1],[7,3]]]");
    const z = tensor([0, 2, -1]);
    expect(JSON.stringify(vander(z).toArray())).toBe("[[0,0,1],[4,2,1],[1,-1,1]]");
    const slope = grad((x: Tensor) => vander(x, { columns: 4, increasing: true }).mul([1, 2, 3, 4]).sum())(z)[0];
    expect(slope!.toArray()).toEqual([2, 62, 8]);
    expect(vander(z, { columns: 0 }).shape).toEqual([3, 0]);
    const triangles = [trilIndices(3, 4, 1), triuIndices(3, 3, 1), trilIndices(3, 2, -1)].map((x) => JSON.stringify(x.toArray()));
    expect(triangles).toEqual(["[[0,0,1,1,1,2,2,2,2],[0,1,0,1,2,0,1,2,3]]", "[[0,0,1],[1,2,2]]", "[[1,2,2],[0,0,1]]"]);
    expect(() => rot90(z)).toThrow("rot90: axis 1 is outside a tensor of 1 axes.");
    expect(() => rot90(cube, 1, [0, 1, 2])).toThrow("rot90: turns in the plane of two axes, got [0, 1, 2].");
  });

  test("padding in all modes, and cutting", () => {
    const y = tensor([1, 2, 3]);
    expect(arrange.padding(y, [[1, 2]], { value: -9 }).toArray()).toEqual([-9, 1, 2, 3, -9, -9]);
    expect(arrange.padding(y, [[2, 1]], { mode: "reflect" }).toArray()).toEqual([3, 2, 1, 2, 3, 2]);
    expect(arrange.padding(y, [[2, 1]], { mode: "replicate" }).toArray()).toEqual([1, 1, 1, 2, 3, 3]);
    expect(arrange.padding(y, [[2, 1]], { mode: "circular" }).toArray()).toEqual([2, 3, 1, 2, 3, 1]);
    expect(arrange.padding(x(), [[-1, 1]]).toArray()).toEqual([
      [2, 3, 0],
      [5, 6, 0],
    ]);
    expect(
      arrange
        .padding(x(), [
          [1, 0],
          [0, -2],
        ])
        .toArray(),
    ).toEqual([[0], [1], [4]]);
  });

  test("diagonals out and in", () => {
    const y = arange(12).reshape([3, 4]);
    expect(arrange.diagonal(y).toArray()).toEqual([0, 5, 10]);
    expect(arrange.diagonal(y, 2).toArray()).toEqual([2, 7]);
    expect(arrange.diagonal(y, -1).toArray()).toEqual([4, 9]);
    expect(arrange.diagonal(y, 9).shape).toEqual([0]);
    expect(arrange.diagonal(arange(24).reshape([2, 3, 4]), 0, 1, 2).toArray()).toEqual([
      [0, 5, 10],
      [12, 17, 22],
    ]);
    expect(arrange.diagEmbed(tensor([1, 2])).toArray()).toEqual([
      [1, 0],
      [0, 2],
    ]);
    expect(arrange.diagEmbed(tensor([1, 2]), 1).toArray()).toEqual([
      [0, 1, 0],
      [0, 0, 2],
      [0, 0, 0],
    ]);
    expect(arrange.diagEmbed(tensor([1, 2]), -1).toArray()).toEqual([
      [0, 0, 0],
      [1, 0, 0],
      [0, 2, 0],
    ]);
  });

  test("scatterAdd adds repeated indices up; of scatter's the last one stays", () => {
    const zero = tensor([[0, 0, 0]]);
    const index = int([[1, 1, 2]]);
    expect(arrange.scatterAdd(zero, index, tensor([[5, 6, 7]]), 1).toArray()).toEqual([[0, 11, 7]]);
    expect(arrange.scatter(tensor([[9, 9, 9]]), index, tensor([[5, 6, 7]]), 1).toArray()).toEqual([[9, 6, 7]]);
    expect(arrange.scatter(zero, index, tensor(4), 1).toArray()).toEqual([[0, 4, 4]]);
  });

  test("one-hot rows; an index outside gives zeros", () => {
    expect(arrange.oneHot(int([2, 0, -100]), 3).toArray()).toEqual([
      [0, 0, 1],
      [1, 0, 0],
      [0, 0, 0],
    ]);
  });

  test("sort is stable along any axis, and topk is its beginning", () => {
    const y = tensor([
      [3, 1, 2],
      [1, 1, 0],
    ]);
    expect(arrange.sort(y).indices.toArray()).toEqual([
      [1, 2, 0],
      [2, 0, 1],
    ]);
    expect(arrange.sort(y, 0, true).values.toArray()).toEqual([
      [3, 1, 2],
      [1, 1, 0],
    ]);
    expect(arrange.topk(y, 2).values.toArray()).toEqual([
      [3, 2],
      [1, 1],
    ]);
    expect(arrange.topk(y, 1, -1, false).indices.toArray()).toEqual([[1], [2]]);
    expect(arrange.sort(tensor([Number.NaN, 1, Number.POSITIVE_INFINITY])).indices.toArray()).toEqual([1, 2, 0]);
  });
});

describe("errors", () => {
  beforeAll(() => void useDevice(createReference()));
  const x = () => arange(6).reshape([2, 3]);
  test.each<[string, () => unknown]>([
    ["stack: [2, 3] and [6] differ. Use concatenate to join along an axis that is there.", () => arrange.stack([x(), arange(6)])],
    ["split: sizes [1, 1] do not add up to the 3 of axis 1 (2 ≠ 3).", () => arrange.split(x(), [1, 1], 1)],
    ["chunk: `chunks` (= 0) must be a positive integer.", () => arrange.chunk(x(), 0)],
    ["flatten: axis 1 comes after axis 0.", () => arrange.flatten(x(), 1, 0)],
    ["roll: 2 shifts for 1 axes.", () => arrange.roll(x(), [1, 2], [0])],
    [
      "repeat: [2] does not say how often to repeat each of 2 axes. Give a whole number per axis.",
      () => arrange.repeat(x(), [2]),
    ],
    [
      "pad: reflect padding of 3 needs more than the 3 elements of axis 1.",
      () => arrange.padding(x(), [[3, 0]], { mode: "reflect" }),
    ],
    [
      'pad: `mode` (= "wrap") is not a way to pad. Use constant, reflect, replicate or circular.',
      () => arrange.padding(x(), [[1, 0]], { mode: "wrap" as "reflect" }),
    ],
    ["outer: takes two vectors, got [2, 3] and [6].", () => arrange.outer(x(), arange(6))],
    ['gather: indices are int32, got float32. Use index.cast("int32").', () => arrange.gather(x(), x(), 0)],
    [
      "gather: index [3, 3] does not fit [2, 3] along axis 1. It needs as many axes, and along the others no more elements.",
      () =>
        arrange.gather(
          x(),
          int([
            [0, 0, 0],
            [0, 0, 0],
            [0, 0, 0],
          ]),
          1,
        ),
    ],
    ["topk: `k` (= 4) must be a whole number up to the 3 elements of axis 1.", () => arrange.topk(x(), 4, 1)],
    ["oneHot: indices are int32, got bool. For a mask use where.", () => arrange.oneHot(tensor([true]), 2)],
  ])("%s", (message, act) => expect(act).toThrow(message));

  test("an index outside is an error when it runs", () => {
    expect(() => arrange.gather(x(), int([[5, 0, 0]]), 0).dataSync()).toThrow("gather: an index is outside its axis of 2.");
  });
});
