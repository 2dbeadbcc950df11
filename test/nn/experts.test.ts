/** Experts that compute for some of the tokens give what all would give, weighted with 0 where they were not chosen. */
import { expect, test } from "vitest";
import { mul } from "../../src/graph/elementwise.ts";
import { reduceSum } from "../../src/graph/reduction.ts";
import { constant } from "../../src/graph/source.ts";
import { expertMLP, gatedHalves, largest } from "../../src/nn/experts.ts";
import { gating } from "../../src/nn/mlp.ts";
import { Parameter } from "../../src/nn/module.ts";
import { gradientsOf } from "../../src/optim/optimizer.ts";
import { softmax } from "../../src/tensor/statistics.ts";
import { onEveryDevice } from "../devices.ts";
import { distance, randn, values } from "./tensors.ts";

const drawn = (shape: readonly number[], seed: number) => Parameter.from(Float32Array.from(values(randn(shape, seed))), shape);

onEveryDevice(() => {
  // one token, few tokens in one-row blocks, blocks of many rows, and an expert that nobody needs
  test.each([
    { N: 1, E: 5, k: 2 },
    { N: 3, E: 9, k: 2 },
    { N: 45, E: 9, k: 1 },
    { N: 70, E: 7, k: 2 },
  ])("$N tokens, $k of $E experts", ({ N, E, k }) => {
    const [C, F] = [6, 5];
    const [x, logits, gateUp, down] = [drawn([N, C], 1), drawn([N, E], 2), drawn([E, 2 * F, C], 3), drawn([E, C, F], 4)] as const;
    const results = (perToken: number) => {
      const scores = softmax(logits.value);
      const weights = mul(scores, largest(scores, k));
      const y = expertMLP(x.value, weights, perToken, {
        gateUp: gateUp.value,
        down: down.value,
        gated: gatedHalves(gating("silu")),
      });
      const loss = reduceSum(mul(y, y), [0, 1]);
      return [y, ...gradientsOf(loss, [x, logits, gateUp, down]).values()];
    };
    const [chosen, all] = [results(k), results(E)];
    for (const [i, want] of all.entries()) expect(distance(chosen[i]!, want)).toBeLessThan(1e-3);
    expect(Math.max(...values(all[1]!).map(Math.abs))).toBeGreaterThan(1);
  });

  test("the largest of a row are as many as were asked for, the first ones of equal ones", () => {
    const x = constant(1, [2, 4]);
    expect(values(largest(x, 4))).toEqual(new Array(8).fill(1));
    expect(values(largest(x, 2))).toEqual([1, 1, 0, 0, 1, 1, 0, 0]);
  });
});
