/** Many pieces of one tensor: the right values, and work in proportion to the elements. */
import { expect, test } from "vitest";
import { concatenate, grad, plan, split, type Tensor, tensor, zeros } from "../../src/index.ts";

const numbers = (n: number, start = 0): number[] => Array.from({ length: n }, (_, i) => start + i);
const values = (x: Tensor): number[] => [...(x.dataSync() as Float32Array)];

test("a hundred uneven parts stand one after the other, and get their own gradients", () => {
  const lengths = numbers(100).map((i) => (i * 7) % 5);
  const parts = lengths.map((n, i) => tensor(numbers(n, 10 * i)).cast("float32"));
  const whole = concatenate(parts);
  expect(values(whole)).toEqual(lengths.flatMap((n, i) => numbers(n, 10 * i)));
  const gradients = grad((...xs) => concatenate(xs).square().sum())(...parts);
  expect(gradients.map((g) => values(g))).toEqual(parts.map((x) => values(x.mul(2))));
  const flags = numbers(40).map((i) => tensor([i % 3 === 0, true]));
  expect(concatenate(flags).toArray()).toEqual(numbers(40).flatMap((i) => [i % 3 === 0, true]));
});

test("gradients of windows, tiles and rows add up where these overlap", () => {
  const windows = grad((x) =>
    numbers(40)
      .map((i) => x.slice(`${i}:${i + 5}`).sum())
      .reduce((a, b) => a.add(b)),
  )(zeros([44]))[0]!;
  expect(values(windows)).toEqual(numbers(44).map((i) => Math.min(i + 1, 5, 44 - i)));
  const tiles = grad((x) => {
    const sums = numbers(36).map((i) =>
      x
        .at(`${2 * Math.floor(i / 6)}:${2 * Math.floor(i / 6) + 2}`, `${i % 6}:${(i % 6) + 2}`)
        .sum()
        .mul(i),
    );
    return sums.reduce((a, b) => a.add(b));
  })(zeros([12, 7]))[0]!;
  const expected = numbers(12).map((r) =>
    numbers(7).map((c) => [c - 1, c].filter((j) => j >= 0 && j < 6).reduce((sum, j) => sum + 6 * Math.floor(r / 2) + j, 0)),
  );
  expect(tiles.toArray()).toEqual(expected);
  const rows = grad((table) =>
    numbers(50)
      .map((i) => table.take(tensor([i % 7, 2]).cast("int32")).sum())
      .reduce((a, b) => a.add(b)),
  )(zeros([30, 2]))[0]!;
  expect(values(rows.sum(1))).toEqual(
    numbers(30).map((r) => 2 * (numbers(50).filter((i) => i % 7 === r).length + (r === 2 ? 50 : 0))),
  );
});

test.each([
  ["joining", (n: number) => [concatenate(numbers(n).map(() => zeros([50]).realize()))]],
  [
    "splitting, with gradients",
    (n: number) =>
      grad((x) =>
        split(x, 50)
          .map((y) => y.exp().sum())
          .reduce((a, b) => a.add(b)),
      )(zeros([50 * n]).realize()),
  ],
  [
    "rows one at a time, with gradients",
    (n: number) =>
      grad((x) =>
        numbers(n)
          .map((i) => x.at(i))
          .reduce((a, b) => a.add(b).sin())
          .sum(),
      )(zeros([n, 50]).realize()),
  ],
  [
    "rows of a table one at a time, with gradients",
    (n: number) =>
      grad((x) =>
        numbers(n)
          .map((i) => x.take(tensor([i]).cast("int32")))
          .reduce((a, b) => a.add(b).sin())
          .sum(),
      )(zeros([n, 50]).realize()),
  ],
])("%s: the work for sixteen times as many parts is hardly more than sixteen times as much", (_, make) => {
  const work = (n: number) =>
    plan(make(n)).steps.reduce((sum, { flops, outputs }) => sum + flops + outputs.reduce((all, { size }) => all + size, 0), 0);
  expect(work(512) / work(32)).toBeLessThan(16 * 2.5);
});
