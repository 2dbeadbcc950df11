import { beforeAll, describe, expect, test } from "vitest";
import { ConfigError, DTypeError, ShapeError } from "../../src/errors.ts";
import { concatenate } from "../../src/graph/composite.ts";
import { mul } from "../../src/graph/elementwise.ts";
import { expand, permute, reshape, sliceAxis } from "../../src/graph/movement.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { constant } from "../../src/graph/source.ts";
import { attend, causalMask, scaledDotProductAttention } from "../../src/nn/attention.ts";
import { Rotary, rotaryAngles, rotate } from "../../src/nn/rotary.ts";
import { onEveryDevice } from "../devices.ts";
import { distance, integers, onReference, randn, tensor, values } from "./tensors.ts";

const rope = { ropeType: "default", ropeTheta: 10000 } as const;

onEveryDevice(() => {
  describe("rotary embedding", () => {
    test("turns pairs of values by position times angle", () => {
      const x = tensor([1, 0, 1, 0], [1, 2, 1, 2]);
      const turned = rotate(x, new Rotary(2, rope).range(2));
      expect(distance(turned, tensor([1, 0, Math.cos(1), Math.sin(1)], [1, 2, 1, 2]))).toBeLessThan(1e-6);
    });

    test("a product of a query and a key depends on their distance only", () => {
      const rotary = new Rotary(8, rope);
      const [q, k] = [randn([1, 1, 1, 8], 1), randn([1, 1, 1, 8], 2)];
      const product = (i: number, j: number) => {
        const at = (position: number) => rotary.at(integers([position], [1, 1]), 64);
        const [a, b] = [values(rotate(q, at(i))), values(rotate(k, at(j)))];
        return a.reduce((sum, value, n) => sum + value * b[n]!, 0);
      };
      expect(product(5, 2)).toBeCloseTo(product(40, 37), 4);
      expect(product(5, 2)).not.toBeCloseTo(product(5, 3), 2);
    });

    test("interleaved pairs are halves in another order", () => {
      const x = randn([2, 5, 3, 6]);
      const split = reshape(permute(reshape(x, [2, 5, 3, 3, 2]), [0, 1, 2, 4, 3]), [2, 5, 3, 6]);
      const halves = rotate(split, new Rotary(6, rope).range(5));
      const joined = reshape(permute(reshape(halves, [2, 5, 3, 2, 3]), [0, 1, 2, 4, 3]), [2, 5, 3, 6]);
      expect(distance(rotate(x, new Rotary(6, rope, { pairs: "interleaved" }).range(5)), joined)).toBeLessThan(1e-6);
    });

    test("positions that are looked up are those of the range", () => {
      const rotary = new Rotary(4, rope);
      const x = randn([2, 3, 2, 4]);
      const looked = rotate(x, rotary.at(integers([0, 1, 2, 0, 1, 2], [2, 3]), 3));
      expect(distance(looked, rotate(x, rotary.range(3)))).toBe(0);
    });
  });

  describe("attention", () => {
    const heads = (seed: number, time: number, count: number) => randn([2, time, count, 4], seed);

    test("queries share key heads as if those were repeated", () => {
      const [q, k, v] = [heads(1, 5, 6), heads(2, 5, 2), heads(3, 5, 2)];
      const repeated = (x: Tensor) => reshape(expand(reshape(x, [2, 5, 2, 1, 4]), [2, 5, 2, 3, 4]), [2, 5, 6, 4]);
      for (const mask of [undefined, causalMask(5, 5)]) {
        const options = mask ? { mask } : {};
        expect(distance(attend(q, k, v, options), attend(q, repeated(k), repeated(v), options))).toBeLessThan(1e-6);
      }
    });

    test("the causal case and a causal mask agree", () => {
      const [q, k, v] = [heads(1, 6, 4), heads(2, 6, 2), heads(3, 6, 2)];
      expect(distance(attend(q, k, v, { isCausal: true }), attend(q, k, v, { mask: causalMask(6, 6) }))).toBeLessThan(1e-6);
      const windowed = { isCausal: true, window: 2 };
      expect(distance(attend(q, k, v, windowed), attend(q, k, v, { mask: causalMask(6, 6, 0, 2) }))).toBeLessThan(1e-6);
      // the last queries alone, and by an offset that is a tensor
      const last = sliceAxis(q, 1, 4, 6);
      const want = sliceAxis(attend(q, k, v, { isCausal: true }), 1, 4, 6);
      expect(distance(attend(last, k, v, { isCausal: true }), want)).toBeLessThan(1e-6);
      expect(distance(attend(last, k, v, { isCausal: true, offset: integers([4], []) }), want)).toBeLessThan(1e-6);
    });

    test("padding changes nothing for the others", () => {
      const [q, k, v] = [heads(1, 5, 2), heads(2, 5, 2), heads(3, 5, 2)];
      const keyMask = integers([0, 0, 1, 1, 1, 0, 0, 1, 1, 1], [2, 5]);
      const cut = (x: Tensor) => sliceAxis(x, 1, 2, 5);
      const padded = attend(q, k, v, { isCausal: true, keyMask });
      expect(distance(cut(padded), attend(cut(q), cut(k), cut(v), { isCausal: true }))).toBeLessThan(1e-6);
      expect(values(sliceAxis(padded, 1, 0, 2)).every((value) => value === 0)).toBe(true); // these may look nowhere
    });

    test("a mask of numbers is added to the scores, one of truth values hides", () => {
      const [q, k, v] = [heads(1, 3, 2), heads(2, 3, 2), heads(3, 3, 2)];
      const hidden = tensor([1, 1, 0], [1, 1, 1, 3], "bool");
      const added = tensor([0, 0, Number.NEGATIVE_INFINITY], [3]);
      expect(distance(attend(q, k, v, { mask: hidden }), attend(q, k, v, { mask: added }))).toBeLessThan(1e-6);
    });

    test("heads before time is PyTorch's layout", () => {
      const [q, k, v] = [heads(1, 4, 2), heads(2, 4, 2), heads(3, 4, 2)];
      const swap = (x: Tensor) => permute(x, [0, 2, 1, 3]);
      const y = scaledDotProductAttention(swap(q), swap(k), swap(v), { isCausal: true, scale: 0.3 });
      expect(distance(swap(y), attend(q, k, v, { isCausal: true, scale: 0.3 }))).toBe(0);
    });

    test("a sink is one more key in front, whose score is given and which has no value", () => {
      const [q, k, v, sinks] = [heads(1, 5, 2), heads(2, 5, 2), heads(3, 5, 2), tensor([0.7, -1.2])];
      const column = (x: Tensor, value: number) => concatenate([x, constant(value, [...x.shape.slice(0, 3), 1])], 3);
      const score = expand(reshape(sinks, [1, 1, 2, 1]), [2, 1, 2, 1]);
      const first = concatenate([constant(0, [2, 1, 2, 4]), score], 3);
      const [keys, joined] = [concatenate([first, column(k, 0)], 1), concatenate([constant(0, [2, 1, 2, 4]), v], 1)];
      const want = attend(column(q, 1), keys, joined, { isCausal: true, scale: 1 });
      const options = { isCausal: true, scale: 1, sinks };
      expect(distance(attend(q, k, v, options), want)).toBeLessThan(1e-6);
      expect(distance(attend(q, k, v, { ...options, keyMask: integers(new Array(10).fill(1), [2, 5]) }), want)).toBeLessThan(
        1e-6,
      );
      // whoever sees nothing else sees the sink alone
      const nothing = attend(q, k, v, { sinks, keyMask: integers(new Array(10).fill(0), [2, 5]) });
      expect(values(nothing).every((value) => value === 0)).toBe(true);
    });

    test("dropout acts on the weights", () => {
      const [q, k, v] = [heads(1, 4, 2), heads(2, 4, 2), heads(3, 4, 2)];
      const double = (x: Tensor) => mul(x, constant(2));
      expect(distance(attend(q, k, v, { dropout: double }), double(attend(q, k, v)))).toBeLessThan(1e-6);
    });
  });
});

onReference("what is refused", () => {
  let q: Tensor;
  beforeAll(() => {
    q = randn([1, 2, 3, 4]);
  });

  test("heads that do not fit", () => {
    const k = randn([1, 2, 2, 4]);
    expect(() => attend(q, k, k, { mask: causalMask(2, 2) })).toThrow(ShapeError);
    expect(() => attend(q, k, k, { mask: causalMask(2, 2) })).toThrow(
      "attend: q [1, 2, 3, 4], k [1, 2, 2, 4] and v [1, 2, 2, 4] do not fit. They are [batch, time, heads, size]; the heads of q are a multiple of those of k and v.",
    );
    expect(() => scaledDotProductAttention(tensor([1]), q, q)).toThrow("They are [batch, heads, time, size].");
  });

  test("masks of another size or kind", () => {
    expect(() => attend(q, q, q, { mask: causalMask(3, 3) })).toThrow(
      "attend: `mask` [3, 3] does not broadcast to [1, 3, 2, 2]. It is [batch, heads, queries, keys].",
    );
    expect(() => attend(q, q, q, { keyMask: integers([1, 1], [2, 1]) })).toThrow(
      "attend: `keyMask` is [2, 1], the keys are [1, 2].",
    );
    expect(() => attend(q, q, q, { keyMask: tensor([1, 1], [1, 2]) })).toThrow(DTypeError);
    expect(() => attend(q, q, q, { sinks: tensor([1, 1]) })).toThrow("attend: `sinks` is [2], q has 3 heads.");
  });

  test("heads of odd size, tables of another, unknown rope types and missing factors", () => {
    expect(() => rotaryAngles(3, rope)).toThrow("rotaryAngles: turns pairs of values, so the head size (= 3) must be even.");
    expect(() => rotate(q, new Rotary(6, rope).range(2))).toThrow(
      "rotate: the tables are for heads of 6 values, x is [1, 2, 3, 4].",
    );
    expect(() => rotaryAngles(4, { ...rope, ropeType: "proportional" as never })).toThrow(ConfigError);
    expect(() => rotaryAngles(4, { ...rope, ropeType: "liner" as never })).toThrow(
      'rotaryAngles: rope type "liner" is not supported. Did you mean "linear"?',
    );
    expect(() => rotaryAngles(4, { ...rope, ropeType: "linear" })).toThrow(
      'rotary: rope type "linear" needs `factor`, a number above 0.',
    );
  });
});
