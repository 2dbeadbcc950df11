/** Mixtures of adapters: for every token something decides how much of each of them acts. */
import type { Tensor } from "../../graph/node.ts";

/** What decides. The adapters that it mixes are those that act, for as long as it is on the model. */
export interface Router {
  /** How it is called. */
  readonly word: string;
  /** The names of the adapters. */
  readonly names: readonly string[];
  /** While true, layers run without them. */
  readonly rests: boolean;
  /** A factor on an adapter's share of a layer for each token of x, [..., 1]. */
  weight(path: string, name: string, x: Tensor): Tensor;
  /** Leaves the model as it was before. */
  end?(): void;
}
