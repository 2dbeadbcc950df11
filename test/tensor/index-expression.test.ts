import fc from "fast-check";
import { expect, test } from "vitest";
import { grad } from "../../src/autograd/grad.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { arange, tensor } from "../../src/tensor/create.ts";
import { at, type Range } from "../../src/tensor/index-expression.ts";
import "../../src/tensor/methods.ts";
import { onEveryDevice } from "../devices.ts";

/** Python's slice of a list, straight from its definition. */
function pythonSlice<T>(list: readonly T[], { start, stop, step = 1 }: Range): T[] {
  const n = list.length;
  const bound = (value: number, low: number, high: number) => Math.min(Math.max(value < 0 ? value + n : value, low), high);
  const from = start ?? (step > 0 ? 0 : n - 1);
  const first = start === null || start === undefined ? from : step > 0 ? bound(start, 0, n) : bound(start, -1, n - 1);
  const last = stop === null || stop === undefined ? (step > 0 ? n : -1) : step > 0 ? bound(stop, 0, n) : bound(stop, -1, n - 1);
  const out: T[] = [];
  for (let i = first; step > 0 ? i < last : i > last; i += step) out.push(list[i]!);
  return out;
}

onEveryDevice((device) => {
  test("ranges pick what Python picks", () => {
    const end = fc.option(fc.integer({ min: -8, max: 8 }));
    const range = fc.record({ start: end, stop: end, step: fc.integer({ min: -3, max: 3 }).filter((step) => step !== 0) });
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 6 }), range, range, (rows, first, second) => {
        const data = Array.from({ length: rows }, (_, r) => [0, 1, 2, 3, 4].map((c) => r * 5 + c));
        const x = tensor(data.flat(), { shape: [rows, 5] });
        const text = [first, second].map(({ start, stop, step }) => `${start ?? ""}:${stop ?? ""}:${step}`).join(", ");
        const want = pythonSlice(data, first).map((row) => pythonSlice(row, second));
        const got = at(x, text);
        expect(got.shape).toEqual([want.length, pythonSlice([0, 1, 2, 3, 4], second).length]);
        expect(got.toArray(), text).toEqual(want);
        expect(at(x, first, second).toArray()).toEqual(want);
      }),
      { numRuns: device === "reference" ? 150 : 60 },
    );
  });

  test("numbers drop axes, None makes one, the ellipsis stands for the rest", () => {
    const x = arange(24).reshape([2, 3, 4]);
    expect(at(x, 1, -1, 0).item()).toBe(20);
    expect(at(x, "..., -1").toArray()).toEqual([
      [3, 7, 11],
      [15, 19, 23],
    ]);
    expect(at(x, "0, ..., None, 1:3").shape).toEqual([3, 1, 2]);
    expect(at(x, null, "...", null).shape).toEqual([1, 2, 3, 4, 1]);
    expect(at(x, "::-1")!.at(0, 0).toArray()).toEqual([12, 13, 14, 15]);
    expect(x.slice(":, 1").toArray()).toEqual(x.at({}, 1).toArray());
  });

  test("an int32 tensor takes elements and puts its axes there; negative indices count from the back", () => {
    const x = arange(12).reshape([3, 4]);
    expect(at(x, tensor([2, 0], { dtype: "int32" })).toArray()).toEqual([
      [8, 9, 10, 11],
      [0, 1, 2, 3],
    ]);
    expect(
      at(x, ":", [
        [0, -1],
        [1, 1],
      ]).toArray(),
    ).toEqual([
      [
        [0, 3],
        [1, 1],
      ],
      [
        [4, 7],
        [5, 5],
      ],
      [
        [8, 11],
        [9, 9],
      ],
    ]);
    expect(at(x, "1:", Int32Array.of(3)).toArray()).toEqual([[7], [11]]);
    expect(at(x, 1, [2, 2]).toArray()).toEqual([6, 6]);
  });

  test("several index tensors go together, broadcast; their axes come first when ranges stand between", () => {
    const x = arange(24).reshape([2, 3, 4]);
    expect(at(x, [0, -1], [2, 0], [1, 3]).toArray()).toEqual([9, 15]);
    expect(at(x, [[0], [1]], [0, 2]).shape).toEqual([2, 2, 4]); // side by side
    expect(at(x, ":", [0, 2], [1, 1]).toArray()).toEqual([
      [1, 9],
      [13, 21],
    ]);
    expect(at(x, [1, 0, 1], ":", [0, 1, 3]).toArray()).toEqual([
      [12, 16, 20],
      [1, 5, 9],
      [15, 19, 23],
    ]);
    const [g] = grad((z: Tensor) => at(z, [0, 0, 1], [1, 1, 0]).sum())(arange(4).reshape([2, 2]));
    expect(g!.toArray()).toEqual([
      [0, 2],
      [1, 0],
    ]);
    expect(() => at(x, [0, 0], [1, 3]).dataSync()).toThrow("index");
  });
});

test.each<[string, () => unknown]>([
  ["at: index 3 is outside axis 1 of [2, 3]. Use -3…2.", () => at(arange(6).reshape([2, 3]), 0, 3)],
  ["at: 3 indices for [2, 3], which has 2 axes.", () => at(arange(6).reshape([2, 3]), "0, 0, 0")],
  ['at: "1;3" in "1;3" is not an index. Use numbers, ranges as "1:3" or "::2", "..." and "None".', () => at(arange(6), "1;3")],
  ['at: "..." can stand only once in an index.', () => at(arange(6), "..., ...")],
  ["at: the step of a range cannot be 0.", () => at(arange(6), "::0")],
  ["at: 1.5 in a range is not a whole number.", () => at(arange(6), { start: 1.5 })],
  [
    "at: a boolean mask would give a size that is known only when the values are. Use where(mask, x, 0), or int32 indices.",
    () => at(arange(2), arange(2).less(1)),
  ],
  ['at: indices are int32, got float32. Use index.cast("int32").', () => at(arange(2), arange(2))],
])("%s", (message, act) => expect(act).toThrow(message));
