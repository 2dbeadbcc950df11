import fc from "fast-check";
import { expect, test } from "vitest";
import { matmul } from "../../src/graph/contraction.ts";
import { arange, tensor, zeros } from "../../src/tensor/create.ts";
import { einsum } from "../../src/tensor/einsum.ts";
import { rearrange, reduce, repeatPattern } from "../../src/tensor/rearrange.ts";
import "../../src/tensor/methods.ts";
import { onEveryDevice } from "../devices.ts";

/** The definition: loop over every letter, multiply, add up. */
function naiveEinsum(
  inputs: readonly string[],
  output: string,
  tensors: readonly number[][],
  sizes: Record<string, number>,
): number[] {
  const letters = Object.keys(sizes);
  const offset = (labels: string, at: Record<string, number>) => [...labels].reduce((sum, l) => sum * sizes[l]! + at[l]!, 0);
  const out = new Array<number>([...output].reduce((n, l) => n * sizes[l]!, 1)).fill(0);
  const walk = (depth: number, at: Record<string, number>): void => {
    if (depth === letters.length) {
      out[offset(output, at)]! += inputs.reduce((product, labels, i) => product * tensors[i]![offset(labels, at)]!, 1);
      return;
    }
    for (let i = 0; i < sizes[letters[depth]!]!; i++) walk(depth + 1, { ...at, [letters[depth]!]: i });
  };
  walk(0, {});
  return out;
}

onEveryDevice((device) => {
  test("a sum of no products is 0, whatever the shapes around it", () => {
    const y = matmul(zeros([2, 3, 0]), zeros([0, 2]));
    expect(y.shape).toEqual([2, 3, 2]);
    expect([...y.dataSync()]).toEqual(new Array(12).fill(0));
    expect(matmul(zeros([2, 0, 3]), zeros([3, 4])).shape).toEqual([2, 0, 4]);
    expect(einsum("abk,kc->abc", zeros([2, 1, 0]), zeros([0, 2])).toArray()).toEqual([[[0, 0]], [[0, 0]]]);
  });

  test("einsum is the sum of products over the letters that are not in the result", () => {
    const label = fc.constantFrom("a", "b", "c", "d");
    const labels = fc.array(label, { maxLength: 3 }).map((list) => list.join(""));
    const problem = fc
      .tuple(fc.array(labels, { minLength: 1, maxLength: 3 }), fc.infiniteStream(fc.integer({ min: 1, max: 3 })), fc.nat())
      .map(([inputs, extents, pick]) => {
        const used = [...new Set(inputs.join(""))];
        const sizes = Object.fromEntries(used.map((l) => [l, extents.next().value as number]));
        const output = used.filter((_, i) => (pick >> i) & 1).sort((x, y) => ((pick >> 8) & 1 ? 1 : -1) * x.localeCompare(y));
        return { inputs, output: output.join(""), sizes };
      });
    fc.assert(
      fc.property(problem, ({ inputs, output, sizes }) => {
        const arrays = inputs.map((ls, i) =>
          Array.from({ length: [...ls].reduce((n, l) => n * sizes[l]!, 1) }, (_, k) => Math.sin(k * 3 + i)),
        );
        const tensors = arrays.map((values, i) => tensor(values, { shape: [...inputs[i]!].map((l) => sizes[l]!) }));
        const got = einsum(`${inputs.join(",")}->${output}`, ...tensors);
        const want = naiveEinsum(inputs, output, arrays, sizes);
        expect(got.shape).toEqual([...output].map((l) => sizes[l]!));
        got.dataSync().forEach((value, i) => {
          expect(value).toBeCloseTo(want[i]!, 4);
        });
      }),
      { numRuns: device === "reference" ? 150 : 50 },
    );
  });

  test("an ellipsis broadcasts, and without an arrow single letters are the result", () => {
    const [a, b] = [arange(24).reshape([2, 3, 4]), arange(8).reshape([4, 2])];
    expect(einsum("...ij,jk->...ik", a, b).toArray()).toEqual(a.matmul(b).toArray());
    expect(einsum("ij,jk", arange(6).reshape([2, 3]), arange(6).reshape([3, 2])).toArray()).toEqual([
      [10, 13],
      [28, 40],
    ]);
    expect(einsum("ba", arange(6).reshape([2, 3])).shape).toEqual([3, 2]);
    expect(einsum("ii", arange(9).reshape([3, 3])).item()).toBe(12);
    expect(einsum("...i->...", a).shape).toEqual([2, 3]);
    expect(einsum("b...,...->b...", a, arange(12).reshape([3, 4])).shape).toEqual([2, 3, 4]);
  });

  test("integers are summed without a matrix product", () => {
    const x = tensor(
      [
        [1, 2],
        [3, 4],
      ],
      { dtype: "int32" },
    );
    expect(einsum("ij,jk->ik", x, x).toArray()).toEqual([
      [7, 10],
      [15, 22],
    ]);
  });

  test("rearrange splits, merges and moves axes by name", () => {
    const x = arange(24).reshape([2, 3, 4]);
    expect(rearrange(x, "b t (h d) -> b h t d", { h: 2 }).toArray()).toEqual(
      x.reshape([2, 3, 2, 2]).permute([0, 2, 1, 3]).toArray(),
    );
    expect(rearrange(x, "b ... -> (...) b").toArray()).toEqual(x.reshape([2, 12]).transpose().toArray());
    expect(rearrange(x, "a b c -> c 1 (b a)").shape).toEqual([4, 1, 6]);
    expect(rearrange(x.reshape([2, 3, 1, 4]), "a b 1 c -> (a b c)").toArray()).toEqual(arange(24).toArray());
    expect(rearrange(arange(6), "(rows columns) -> rows columns", { columns: 3 }).shape).toEqual([2, 3]);
  });

  test("reduce folds what is not on the right, repeat spreads what is not on the left", () => {
    const image = arange(16).reshape([1, 4, 4]);
    expect(reduce(image, "c (h 2) (w 2) -> c h w", "max").toArray()).toEqual([
      [
        [5, 7],
        [13, 15],
      ],
    ]);
    expect(reduce(image, "c h w -> c", "mean").toArray()).toEqual([7.5]);
    expect(reduce(image, "c h w -> c () w", "sum").toArray()).toEqual([[[24, 28, 32, 36]]]);
    expect(repeatPattern(tensor([1, 2]), "a -> (a n)", { n: 2 }).toArray()).toEqual([1, 1, 2, 2]);
    expect(repeatPattern(tensor([1, 2]), "a -> n a 1", { n: 2 }).shape).toEqual([2, 2, 1]);
    expect(repeatPattern(tensor([1, 2]), "a -> (2 a)").toArray()).toEqual([1, 2, 1, 2]);
  });
});

test.each<[string, () => unknown]>([
  ['einsum: 2 terms for 1 tensors in "ij,jk->ik".', () => einsum("ij,jk->ik", arange(4).reshape([2, 2]))],
  ['einsum: "ijk" names 3 axes, tensor 0 is [2, 2].', () => einsum("ijk->i", arange(4).reshape([2, 2]))],
  [
    'einsum: axis "j" is 2 in one term and 3 in tensor 1 [3, 2].',
    () => einsum("ij,jk->ik", arange(4).reshape([2, 2]), arange(6).reshape([3, 2])),
  ],
  ['einsum: the result\'s axis "z" is in no term in "i->z".', () => einsum("i->z", arange(2))],
  ['einsum: the result names an axis twice in "i->ii".', () => einsum("i->ii", arange(2))],
  ['einsum: "i1" is not a list of axes in "i1->i". Use letters and "...".', () => einsum("i1->i", arange(2))],
  ['rearrange: the two sides are not divided by one "->" in "a b".', () => rearrange(arange(2), "a b")],
  ['rearrange: "a b -> b a" names 2 axes, x is [2].', () => rearrange(arange(2), "a b -> b a")],
  ['rearrange: axis 0 of [6] is 6, which "(a b) -> a b" makes of 4.', () => rearrange(arange(6), "(a b) -> a b", { a: 4 })],
  [
    'rearrange: the sizes of "a" and "b" are not known: give all but one in "(a b) -> a b".',
    () => rearrange(arange(6), "(a b) -> a b"),
  ],
  [
    'rearrange: "a b -> a" has the axis "b" on the left only. Use reduce to fold axes.',
    () => rearrange(arange(2).reshape([1, 2]), "a b -> a"),
  ],
  [
    'rearrange: "a -> a b" has the axis "b" on the right only. Use repeat for new axes.',
    () => rearrange(arange(2), "a -> a b", { b: 2 }),
  ],
  [
    'rearrange: "heads t -> t heads" has no axis "head". Did you mean "heads"?',
    () => rearrange(arange(2).reshape([1, 2]), "heads t -> t heads", { head: 1 }),
  ],
  ['rearrange: "a" stands twice on one side in "a a -> a".', () => rearrange(arange(2).reshape([1, 2]), "a a -> a")],
  ['rearrange: "(" without ")" in "(a -> a".', () => rearrange(arange(2), "(a -> a")],
  ['repeat: the size of "n" in "a -> a n" is not known. Give it: { n: … }.', () => repeatPattern(arange(2), "a -> a n")],
])("%s", (message, act) => expect(act).toThrow(message));
