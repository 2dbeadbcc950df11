/**
 * The budget of AdaLoRA: of the triplets (Eₖ, row k of A, column k of B) of all layers, those whose loss matters least have their value
 * Eₖ zeroed, more and more of them, until `targetR` a layer are left on average. A zeroed one may come back until the budget is final.
 *
 * With the sensitivity S and the uncertainty U of importance.ts, U of |I − S| with the S of the same step, an entry's score is S·U, a triplet's
 * that of Eₖ plus the means over its row and column. In step t of T the budget is
 *
 *   b(t) = ⌊(b₀ − b_T)·(1 − (t − tinit)/(T − tfinal − tinit))³ + b_T⌋,   b₀ = Σ initR, b_T = targetR · layers
 *
 * after tinit steps in which all are kept, and b_T in the last tfinal steps, in which what is kept stays the same.
 *
 * @see https://arxiv.org/abs/2303.10512, §3.2 and §3.3; where it differs, PEFT decides
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
import type { Adapter } from "../adapted-model.ts";
import type { LayerAdapter } from "../adapter-layer.ts";
import type { MethodSchedule, RunningSchedule } from "../schedule.ts";
import { forgotten, type Importance, importanceOf, meanOver, observed, scores } from "./importance.ts";

/** The keys of AdaLoRA's config that decide. */
type Budget = {
  readonly initR: number;
  readonly targetR: number;
  readonly tinit: number;
  readonly tfinal: number;
  readonly deltaT: number;
  readonly beta1: number;
  readonly beta2: number;
  readonly totalStep: number;
  readonly rankPattern: RankPattern | null;
};

/** Which triplets of a layer are kept, by `<path>.lora_E`. */
type RankPattern = Readonly<Record<string, readonly boolean[]>>;

/**
 * How many triplets of all layers are kept after step t, and whether others are chosen then; `null` while all are.
 *
 * @param all    b₀
 * @param target b_T
 */
export function budgetAt(t: number, all: number, target: number, { tinit, tfinal, deltaT, totalStep }: Budget): number | null {
  const end = totalStep - tfinal;
  if (t === end) return target;
  if (t <= tinit || t > end || t % deltaT !== 0) return null;
  return Math.trunc((all - target) * (1 - (t - tinit) / (end - tinit)) ** 3 + target);
}

type Triplets = { readonly [Name in "A" | "E" | "B"]: Importance };

class RunningBudget implements RunningSchedule {
  readonly #adapter: Adapter;
  readonly #budget: Budget;
  readonly #layers: ReadonlyMap<string, Triplets>;
  /** Triplets of all layers: b₀. */
  readonly #count: number;
  /** 1 while the statistics are kept. */
  readonly #open: Variable;
  /** Scores of all triplets, layer after layer. */
  readonly #scores: ReturnType<typeof compile<[], Tensor>>;
  readonly #keep: ReturnType<typeof compile<[Tensor], []>>;
  #kept: RankPattern | null;
  /** Whether another run has made the last choice. */
  readonly #final: boolean;

  constructor(adapter: Adapter) {
    this.#adapter = adapter;
    this.#budget = adapter.config as Budget;
    const layers = [...adapter.layers].map(([path, layer]) => {
      const { parameters } = layer.adapters.get(adapter.name) as LayerAdapter;
      const of = (name: string) => importanceOf(parameters[name] as Parameter);
      return [path, { A: of("A"), E: of("E"), B: of("B") }] as const;
    });
    this.#layers = new Map(layers);
    this.#count = layers.reduce((sum, [, { E }]) => sum + E.parameter.size, 0);
    this.#open = new Variable(upload(currentDevice(), Int32Array.of(0), [], "int32"), { requiresGrad: false });
    this.#scores = compile(() => concatenate([...this.#layers.values()].map(score), 0));
    this.#keep = compile((kept: Tensor) => {
      let at = 0;
      for (const { E } of this.#layers.values()) {
        const own = reshape(sliceAxis(kept, 0, at, (at += E.parameter.size)), E.parameter.shape);
        E.parameter.assign(where(less(constant(0, [], "int32"), own), E.parameter.value, constant(0)));
      }
      return [];
    });
    this.#kept = this.#budget.rankPattern;
    this.#final = this.#kept !== null;
    this.#setOpen(1);
  }

  observe(gradients: ReadonlyMap<Variable, Tensor>): void {
    const { beta1, beta2 } = this.#budget;
    const open = less(constant(0, [], "int32"), this.#open.value);
    assignAll(this.#importances().flatMap((each) => observed(each, gradients, open, { beta1, beta2, from: "this" })));
  }

  async advance(step: number): Promise<void> {
    const { targetR, tfinal, totalStep } = this.#budget;
    if (this.#final) return this.#zero(this.#kept as RankPattern);
    const budget = budgetAt(step, this.#count, targetR * this.#layers.size, this.#budget);
    if (budget !== null) this.#choose(await download(this.#scores()), budget);
    else if (step > totalStep - tfinal && this.#kept) this.#zero(this.#kept);
    if (step === totalStep - tfinal) this.#forget();
    this.#setOpen(step + 1);
  }

  /** Keeps the triplets with the highest scores: those above the (b₀ − b)-th lowest, as PEFT decides between equal ones. */
  #choose(scores: ArrayLike<number>, budget: number): void {
    const lowest = Array.from(scores).sort((a, b) => a - b)[this.#count - budget - 1] ?? Number.NEGATIVE_INFINITY;
    const kept: Record<string, boolean[]> = {};
    let at = 0;
    for (const [path, { E }] of this.#layers)
      kept[`${path}.lora_E`] = Array.from({ length: E.parameter.size }, () => (scores[at++] as number) > lowest);
    this.#zero(kept);
    this.#record(kept);
  }

  #zero(kept: RankPattern): void {
    const flags = Int32Array.from([...this.#layers.keys()].flatMap((path) => (kept[`${path}.lora_E`] as boolean[]).map(Number)));
    using mask = upload(currentDevice(), flags, [flags.length], "int32");
    this.#keep(mask);
  }

  #record(kept: RankPattern | null): void {
    this.#kept = kept;
    this.#adapter.config = { ...this.#adapter.config, rankPattern: kept };
  }

  #forget(): void {
    assignAll(this.#importances().flatMap(forgotten));
  }

  /** Statistics are kept in step t when it comes before the last choice. */
  #setOpen(t: number): void {
    const { totalStep, tfinal } = this.#budget;
    this.#open.assign(constant(!this.#final && t < totalStep - tfinal ? 1 : 0, [], "int32"));
  }

  #importances(): Importance[] {
    return [...this.#layers.values()].flatMap(({ A, E, B }) => [A, E, B]);
  }

  get variables(): Readonly<Record<string, Variable>> {
    const named = [...this.#layers].flatMap(([path, triplets]) =>
      Object.entries(triplets).flatMap(([name, { sensitivity, uncertainty }]) => [
        [`${path}.lora_${name}.sensitivity`, sensitivity] as const,
        [`${path}.lora_${name}.uncertainty`, uncertainty] as const,
      ]),
    );
    return Object.fromEntries(named);
  }

  get data(): unknown {
    return this.#kept;
  }

  resume(step: number, data: unknown): void {
    this.#record(data as RankPattern | null);
    this.#setOpen(step + 1);
  }

  [Symbol.dispose](): void {
    this.#scores.dispose();
    this.#keep.dispose();
  }
}

/** Scores of a layer's triplets, [k]. */
function score({ A, E, B }: Triplets): Tensor {
  const k = E.parameter.size;
  const vectors = add(reshape(meanOver(scores(A), [1]), [k]), reshape(meanOver(scores(B), [0]), [k]));
  return add(reshape(scores(E), [k]), vectors);
}

/** See the top of the file. An adapter whose triplets are chosen already keeps them; one that has no others has no schedule any more. */
export const rankBudget: MethodSchedule = {
  begin(adapter) {
    const pattern = adapter.config["rankPattern"] as RankPattern | null;
    const live = (path: string) => adapter.layers.get(path)?.adapters.get(adapter.name)?.parameters["E"]?.size;
    const isCut = pattern && [...adapter.layers.keys()].some((path) => pattern[`${path}.lora_E`]?.length !== live(path));
    return isCut ? null : new RunningBudget(adapter);
  },
};
