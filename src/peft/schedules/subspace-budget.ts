/**
 * The budget of AdaMSS, adaptive subspace allocation (ASA): of the subspaces (Aₖ, Bₖ) of all layers, those whose loss matters least are
 * frozen as they are, more and more of them, and never trained again; they go on acting, and the optimiser does nothing to them.
 *
 * A subspace's score is the mean of S·U over Aₖ plus that over Bₖ, of importance.ts, U of |I − S| with the S of the step before; S and U begin
 * anew after every choice. Steps t count from 0 as in PEFT's callback. S and U are kept for initWarmup ≤ t ≤ finalWarmup, and whenever t is
 * a multiple of `maskInterval` there, those above the b(t)-th best score stay trained,
 *
 *   b(t) = ⌊b_T + (b₀ − b_T)·(1 − (t − initWarmup)/(finalWarmup − initWarmup))^e⌋,   b₀ = all subspaces, b_T = `asaTargetSubspaces`,
 *
 * which is b(t) − 1 of them where scores differ, and all while no more than b(t) are trained. So does PEFT, and a target of 1 freezes all.
 * A loop of its own calls `advance(t + 1)` after step t. What is frozen is no part of a file: an adapter that is loaded trains all again.
 *
 * @see https://openreview.net/forum?id=8ZdWmpYxT0; where it differs, PEFT's `update_and_allocate` decides
 */
import { currentDevice, download, upload } from "../../compile/program.ts";
import { compile } from "../../compile/trace.ts";
import { concatenate } from "../../graph/composite.ts";
import { add, less, where } from "../../graph/elementwise.ts";
import { reshape, sliceAxis } from "../../graph/movement.ts";
import type { Tensor } from "../../graph/node.ts";
import { constant } from "../../graph/source.ts";
import { assignAll, Variable } from "../../graph/variable.ts";
import type { Parameter } from "../../nn/module.ts";
import type { Gradients } from "../../optim/optimizer.ts";
import type { Adapter } from "../adapted-model.ts";
import type { LayerAdapter } from "../adapter-layer.ts";
import type { MethodSchedule, RunningSchedule } from "../schedule.ts";
import { forgotten, type Importance, importanceOf, meanOver, observed, scores, zerosFor } from "./importance.ts";

/** The keys of AdaMSS's config that decide. */
type Budget = {
  readonly useAsa: boolean;
  readonly asaTargetSubspaces: number;
  readonly initWarmup: number;
  readonly finalWarmup: number;
  readonly maskInterval: number;
  readonly asaImportanceBeta: number;
  readonly asaUncertaintyBeta: number;
  readonly asaScheduleExponent: number;
};

/** b(t) when others are chosen after step t, counted from 0; `null` when none are. @param all b₀ */
export function subspacesAt(t: number, all: number, budget: Budget): number | null {
  const { asaTargetSubspaces: target, initWarmup: first, finalWarmup: last, maskInterval, asaScheduleExponent } = budget;
  if (t < first || t > last || t % maskInterval !== 0) return null;
  return Math.trunc(target + (all - target) * (1 - (t - first) / (last - first)) ** asaScheduleExponent);
}

/** A factor of a subspace, and the values that it keeps when it is frozen. */
type Factor = Importance & { readonly kept: Variable };
interface Subspace {
  readonly A: Factor;
  readonly B: Factor;
}
interface LayerSubspaces {
  /** [subspaces] int32: 1 for those that are trained. The layer lets no gradient through to the others. */
  readonly trained: Parameter;
  readonly subspaces: readonly Subspace[];
}

/** Which subspaces of each layer are trained, by the layer's path. */
type Trained = Readonly<Record<string, readonly boolean[]>>;

class RunningSubspaceBudget implements RunningSchedule {
  readonly #budget: Budget;
  readonly #layers: ReadonlyMap<string, LayerSubspaces>;
  /** b₀. */
  readonly #count: number;
  /** 1 while S and U are kept. */
  readonly #open: Variable;
  /** Scores of all subspaces, layer after layer. */
  readonly #scores: ReturnType<typeof compile<[], Tensor>>;
  /** Begins S and U anew. */
  readonly #forget: ReturnType<typeof compile<[], []>>;
  /** Notes the values that frozen factors keep. */
  readonly #note: ReturnType<typeof compile<[], []>>;
  #trained: Trained;

  constructor(adapter: Adapter) {
    this.#budget = adapter.config as Budget;
    this.#layers = new Map(
      [...adapter.layers].map(([path, layer]) => {
        const { parameters } = layer.adapters.get(adapter.name) as LayerAdapter;
        const trained = parameters["trained"] as Parameter;
        const factor = (name: string): Factor => {
          const parameter = parameters[name] as Parameter;
          return { ...importanceOf(parameter), kept: zerosFor(parameter) };
        };
        const subspaces = Array.from({ length: trained.size }, (_, k) => ({ A: factor(`A.${k}`), B: factor(`B.${k}`) }));
        return [path, { trained, subspaces }] as const;
      }),
    );
    this.#count = [...this.#layers.values()].reduce((sum, { subspaces }) => sum + subspaces.length, 0);
    this.#open = new Variable(upload(currentDevice(), Int32Array.of(0), [], "int32"), { requiresGrad: false });
    this.#scores = compile(() =>
      concatenate(
        [...this.#layers.values()].flatMap(({ subspaces }) => subspaces.map(score)),
        0,
      ),
    );
    this.#forget = compile(() => {
      assignAll(this.#factors().flatMap(forgotten));
      return [];
    });
    this.#note = compile(() => {
      assignAll(this.#factors().map(({ kept, parameter }) => [kept, parameter.value] as const));
      return [];
    });
    this.#trained = Object.fromEntries(
      [...this.#layers].map(([path, { trained }]) => [path, new Array(trained.size).fill(true)]),
    );
    this.#freeze(this.#trained);
    this.#setOpen(0);
  }

  observe(gradients: Gradients): void {
    const { asaImportanceBeta: beta1, asaUncertaintyBeta: beta2 } = this.#budget;
    const open = isOne(this.#open.value);
    const next = [...this.#layers.values()].flatMap(({ trained, subspaces }) =>
      subspaces.flatMap(({ A, B }, k) => {
        const isTrained = isOne(reshape(sliceAxis(trained.value, 0, k, k + 1), []));
        return [A, B].flatMap((factor) => [
          ...observed(factor, gradients, open, { beta1, beta2, from: "before" }),
          [factor.parameter, where(isTrained, factor.parameter.value, factor.kept.value)] as const,
        ]);
      }),
    );
    assignAll(next);
  }

  async advance(step: number): Promise<void> {
    const t = step - 1;
    const budget = subspacesAt(t, this.#count, this.#budget);
    if (budget !== null) {
      this.#choose(await download(this.#scores()), budget);
      this.#forget();
    }
    this.#setOpen(t + 1);
  }

  /** Of those that are trained, freezes what is no better than the budget-th best. */
  #choose(all: ArrayLike<number>, budget: number): void {
    const rest = [...this.#layers.keys()].flatMap((path) => this.#trained[path] as readonly boolean[]);
    const own = Array.from(all).filter((_, i) => rest[i]);
    if (budget >= own.length) return;
    const limit = own.sort((a, b) => b - a)[budget - 1] as number;
    let at = 0;
    const chosen = [...this.#layers].map(([path, { subspaces }]) => {
      const flags = subspaces.map((_, k) => rest[at + k] === true && (all[at + k] as number) > limit);
      at += subspaces.length;
      return [path, flags] as const;
    });
    this.#freeze(Object.fromEntries(chosen));
  }

  /** Freezes what is not trained, with the values that it has. */
  #freeze(trained: Trained): void {
    this.#trained = trained;
    this.#note();
    for (const [path, layer] of this.#layers) {
      const flags = Int32Array.from(trained[path] as readonly boolean[], Number);
      layer.trained.assign(upload(currentDevice(), flags, [flags.length], "int32"));
    }
  }

  #setOpen(t: number): void {
    const { initWarmup, finalWarmup } = this.#budget;
    this.#open.assign(constant(initWarmup <= t && t <= finalWarmup ? 1 : 0, [], "int32"));
  }

  #factors(): Factor[] {
    return [...this.#layers.values()].flatMap(({ subspaces }) => subspaces.flatMap(({ A, B }) => [A, B]));
  }

  get variables(): Readonly<Record<string, Variable>> {
    const named = [...this.#layers].flatMap(([path, { subspaces }]) =>
      subspaces.flatMap((subspace, k) =>
        Object.entries(subspace).flatMap(([name, { sensitivity, uncertainty }]: [string, Factor]) => [
          [`${path}.adamss_${name}.${k}.sensitivity`, sensitivity] as const,
          [`${path}.adamss_${name}.${k}.uncertainty`, uncertainty] as const,
        ]),
      ),
    );
    return Object.fromEntries(named);
  }

  get data(): unknown {
    return this.#trained;
  }

  resume(step: number, data: unknown): void {
    this.#freeze(data as Trained);
    this.#setOpen(step);
  }

  [Symbol.dispose](): void {
    for (const each of [this.#scores, this.#forget, this.#note]) each.dispose();
  }
}

const isOne = (flag: Tensor): Tensor => less(constant(0, [], "int32"), flag);

/** [1]. */
function score({ A, B }: Subspace): Tensor {
  const mean = (factor: Factor) => reshape(meanOver(scores(factor), [0, 1]), [1]);
  return add(mean(A), mean(B));
}

/** See the top of the file. */
export const subspaceBudget: MethodSchedule = {
  begin: (adapter) => (adapter.config["useAsa"] === true ? new RunningSubspaceBudget(adapter) : null),
};
