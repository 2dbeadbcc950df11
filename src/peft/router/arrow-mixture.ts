/** Arrow while a model runs: which share of each expert a token gets. How the arrows are found is arrow.ts's. */
import { matmul } from "../../graph/contraction.ts";
import { cast, equal, where } from "../../graph/elementwise.ts";
import { reshape, sliceAxis, transpose } from "../../graph/movement.ts";
import type { Tensor } from "../../graph/node.ts";
import { reduceMax } from "../../graph/reduction.ts";
import { constant, iota, number } from "../../graph/source.ts";
import { abs } from "../../tensor/math.ts";
import { topk } from "../../tensor/pick.ts";
import { softmax } from "../../tensor/statistics.ts";
import type { AnyConfig } from "../method-config.ts";
import { times } from "../weight-change.ts";
import type { Router } from "./router.ts";

/** A [r, in] and B [out, r] of one expert in one layer. */
export interface Factors {
  readonly r: number;
  readonly A: Float32Array;
  readonly B: Float32Array;
}

/** One adapter of the mixture as it was read, before anything was taken out of it. */
export interface ArrowExpert {
  readonly name: string;
  readonly config: AnyConfig;
  /** By the layer's path. */
  readonly layers: ReadonlyMap<string, Factors>;
}

/** How tokens choose: see `ArrowOptions`. */
export interface ArrowConfig {
  readonly topK: number;
  readonly routerTemperature: number;
  readonly useGks: boolean;
  readonly seed: number;
}

/** A mixture on a model: what decides, and all that its folder holds. */
export class ArrowMixture implements Router {
  readonly word = "Arrow";
  readonly rests = false;
  readonly options: ArrowConfig;
  readonly tasks: readonly ArrowExpert[];
  readonly general: readonly ArrowExpert[];
  readonly names: readonly string[];
  readonly #arrows: ReadonlyMap<string, Tensor>;
  readonly #chosen = new WeakMap<Tensor, Map<string, Tensor>>();

  /** @param arrows those of all experts by the layer's path, [E, in] */
  constructor(
    options: ArrowConfig,
    tasks: readonly ArrowExpert[],
    general: readonly ArrowExpert[],
    arrows: ReadonlyMap<string, Tensor>,
  ) {
    this.options = options;
    this.tasks = tasks;
    this.general = general;
    this.names = tasks.map(({ name }) => name);
    this.#arrows = arrows;
  }

  weight(path: string, name: string, x: Tensor): Tensor {
    const known = this.#chosen.get(x) ?? new Map<string, Tensor>();
    this.#chosen.set(x, known);
    const { topK, routerTemperature } = this.options;
    const all = known.get(path) ?? shares(x, this.#arrows.get(path) as Tensor, topK, routerTemperature);
    known.set(path, all);
    const e = this.names.indexOf(name);
    return sliceAxis(all, all.rank - 1, e, e + 1);
  }
}

/** Shares of all experts, [..., E], for tokens x [..., in] and arrows [E, in]. */
function shares(x: Tensor, arrows: Tensor, k: number, temperature: number): Tensor {
  const [E, width] = arrows.shape as [number, number];
  const fits = abs(matmul(reshape(x, [x.size / width, width]), transpose(cast(arrows, x.dtype))));
  const { indices } = topk(fits, k, -1);
  const places = equal(reshape(indices, [fits.shape[0] as number, k, 1]), reshape(iota([E]), [1, 1, E]));
  const isChosen = equal(reshape(reduceMax(cast(places, "int32"), [1]), fits.shape), constant(1, [], "int32"));
  const scores = where(isChosen, times(fits, 1 / temperature), number(fits, Number.NEGATIVE_INFINITY));
  return reshape(softmax(scores, -1), [...x.shape.slice(0, -1), E]);
}
