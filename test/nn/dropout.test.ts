import { describe, expect, test } from "vitest";
import { checkpoint } from "../../src/autograd/custom.ts";
import { grad, pullback } from "../../src/autograd/grad.ts";
import { compile } from "../../src/compile/trace.ts";
import { ConfigError, FormatError } from "../../src/errors.ts";
import { mul } from "../../src/graph/elementwise.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { constant } from "../../src/graph/source.ts";
import { Dropout, dropout, dropoutState, loadDropoutState, seedDropout } from "../../src/nn/dropout.ts";
import { Linear } from "../../src/nn/linear.ts";
import { gradientsOf } from "../../src/optim/optimizer.ts";
import { sum } from "../../src/tensor/statistics.ts";
import { onEveryDevice } from "../devices.ts";
import { distance, randn, values } from "./tensors.ts";

const ones = (): Tensor => constant(1, [40, 50]);

onEveryDevice(() => {
  describe("dropout", () => {
    test("does nothing in evaluation", () => {
      const layer = new Dropout(0.5).train();
      const x = ones();
      expect(layer.forward(x)).not.toBe(x);
      expect(layer.eval().forward(x)).toBe(x);
      expect(dropout(x, 0)).toBe(x);
    });

    test("leaves a share of 1 − p, scaled so that the mean stays", () => {
      seedDropout(1);
      const got = values(dropout(ones(), 0.25));
      const kept = got.filter((value) => value !== 0);
      expect(kept.every((value) => Math.abs(value - 4 / 3) < 1e-6)).toBe(true);
      expect(kept.length / got.length).toBeCloseTo(0.75, 1);
    });

    test("draws another mask at every call and every replay, the same ones from the same seed", () => {
      const draw = (f: (x: Tensor) => Tensor) => [0, 1, 2].map(() => String(values(f(ones()))));
      seedDropout(3);
      const called = draw((x) => dropout(x, 0.5));
      expect(new Set(called).size).toBe(3);
      seedDropout(3);
      const replayed = compile((x: Tensor) => dropout(x, 0.5));
      expect(draw(replayed)).toEqual(called);
      expect(replayed.traces).toBe(1);
      replayed.dispose();
    });

    test("goes on after loading a saved state as it would have", () => {
      seedDropout(4);
      dropout(ones(), 0.5);
      const saved = new Map([...dropoutState()].map(([name, x]) => [name, mul(x, constant(1, [], "int32"))]));
      const next = values(dropout(ones(), 0.5)); // the saved values are computed before it, from what they were
      seedDropout(99);
      loadDropoutState(saved);
      expect(values(dropout(ones(), 0.5))).toEqual(next);
      expect(() => loadDropoutState(new Map())).toThrow(FormatError);
    });

    test("the derivative sees the mask of the value", () => {
      const [x, c] = [randn([10, 10]), randn([10, 10], 2)];
      let y: Tensor | undefined;
      const [g] = grad((z) => sum(mul((y = dropout(z, 0.5)), c)))(x);
      const [mask, slope] = [values(y!).map((v) => v !== 0), values(g!)];
      mask.forEach((kept, i) => {
        expect(slope[i] !== 0).toBe(kept);
      });
    });

    test("refuses a probability of 1 or more", () => {
      expect(() => new Dropout(1)).toThrow(ConfigError);
      expect(() => dropout(ones(), -0.1)).toThrow("dropout: `p` (= -0.1) must be at least 0 and below 1.");
    });
  });

  describe("checkpoint", () => {
    test("a layer that is recomputed draws its mask again and passes gradients to its parameters", () => {
      const layer = new Linear(6, 5);
      const x = randn([4, 6]);
      const f = (z: Tensor) => mul(dropout(layer.forward(z), 0.5), layer.forward(z));
      const run = (g: (z: Tensor) => Tensor) => {
        seedDropout(8);
        const y = g(x);
        const gradients = gradientsOf(sum(y), layer.parameters());
        return [y, ...layer.parameters().map((p) => gradients.get(p)!), pullback([sum(y)], [constant(1)], [x])[0]!];
      };
      const [plain, again] = [run(f), run(checkpoint(f))];
      plain.forEach((want, i) => {
        expect(distance(again[i]!, want)).toBeLessThan(1e-6);
      });
      // and the next mask is the one that follows
      const next = values(dropout(ones(), 0.5));
      run(f);
      expect(values(dropout(ones(), 0.5))).toEqual(next);
    });
  });
});
