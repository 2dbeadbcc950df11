/** The ways to make one tensor of several, by the names that PEFT gives them. */
import { add } from "../../graph/elementwise.ts";
import type { Tensor } from "../../graph/node.ts";
import { times } from "../weight-change.ts";
import { keepLargest, keepRandom, type RandomMask } from "./prune.ts";
import { disjointMean, electedSigns, type MajoritySignMethod } from "./sign-election.ts";

/** What a way may need to know. */
export interface CombinationSettings {
  /** The share of values that pruning keeps. */
  readonly density: number;
  readonly majoritySignMethod: MajoritySignMethod;
  readonly mask: RandomMask;
}

/** One way. */
export interface Combination {
  readonly paper: `https://${string}`;
  /** Whether some values are left out, so that a density is needed. */
  readonly prunes: boolean;
  combine(tensors: readonly Tensor[], weights: readonly number[], settings: CombinationSettings): Tensor;
}

const weighted = (tensors: readonly Tensor[], weights: readonly number[]): Tensor[] =>
  tensors.map((x, i) => times(x, weights[i] as number));

/** Signs are elected before the weights come in, as in PEFT: a negative weight turns what has won. */
const elect = (tensors: readonly Tensor[], weights: readonly number[], method: MajoritySignMethod): Tensor =>
  disjointMean(weighted(tensors, weights), electedSigns(tensors, method));

/** Every way, by name. */
export const combinations = {
  /** Σ wᵢ·xᵢ: task arithmetic. */
  linear: {
    paper: "https://arxiv.org/abs/2212.04089",
    prunes: false,
    combine: (tensors, weights) => weighted(tensors, weights).reduce(add),
  },
  magnitude_prune: {
    paper: "https://arxiv.org/abs/2306.01708",
    prunes: true,
    combine: (tensors, weights, { density }) =>
      weighted(
        tensors.map((x) => keepLargest(x, density)),
        weights,
      ).reduce(add),
  },
  ties: {
    paper: "https://arxiv.org/abs/2306.01708",
    prunes: true,
    combine: (tensors, weights, { density, majoritySignMethod }) =>
      elect(
        tensors.map((x) => keepLargest(x, density)),
        weights,
        majoritySignMethod,
      ),
  },
  dare_linear: {
    paper: "https://arxiv.org/abs/2311.03099",
    prunes: true,
    combine: (tensors, weights, { density, mask }) =>
      weighted(
        tensors.map((x) => keepRandom(x, density, mask)),
        weights,
      ).reduce(add),
  },
  dare_ties: {
    paper: "https://arxiv.org/abs/2311.03099",
    prunes: true,
    combine: (tensors, weights, { density, majoritySignMethod, mask }) =>
      elect(
        tensors.map((x) => keepRandom(x, density, mask)),
        weights,
        majoritySignMethod,
      ),
  },
} as const satisfies Readonly<Record<string, Combination>>;

/** A way to combine tensors. */
export type CombinationName = keyof typeof combinations;

/**
 * What `combineAdapters` does: combines A and B on their own (`linear`, …), puts them side by side (`cat`), or combines the
 * changes B·A and takes the nearest ones of low rank (`svd`, which is `linear_svd`, and those that end in `_svd`).
 */
export type CombinationType = CombinationName | "cat" | "svd" | `${Exclude<CombinationName, "linear">}_svd`;

/** All of them. */
export const combinationTypes: readonly CombinationType[] = [
  "cat",
  "svd",
  ...(Object.keys(combinations) as CombinationName[]).flatMap((name): CombinationType[] =>
    name === "linear" ? [name] : [name, `${name}_svd`],
  ),
];
