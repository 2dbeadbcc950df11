/** What methods share that add a matrix to the weight: W′ = W + ΔW, so that y = base(x) + x·ΔWᵀ. They state ΔW only. */
import { matmul } from "../graph/contraction.ts";
import { add, mul } from "../graph/elementwise.ts";
import { take } from "../graph/indexing.ts";
import { reshape, transpose } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { constant } from "../graph/source.ts";
import type { LayerMethod } from "./method.ts";

/** x times a number. */
export const times = (x: Tensor, factor: number): Tensor => (factor === 1 ? x : mul(x, constant(factor, [], x.dtype)));

/** The last axis through Mᵀ; the other axes as one, so that the product can start from the base layer's. */
export function through(x: Tensor, M: Tensor): Tensor {
  const [out, into] = M.shape as [number, number];
  return reshape(matmul(reshape(x, [x.size / into, into]), transpose(M)), [...x.shape.slice(0, -1), out]);
}

/** All of a layer method but its forward pass, which follows from `delta`. */
type Change<Config, Name extends string, Optional extends string, Shared extends string> = Omit<
  LayerMethod<Config, Name, Optional, Shared>,
  "forward" | "delta"
> & {
  readonly delta: NonNullable<LayerMethod<Config, Name, Optional, Shared>["delta"]>;
  /** Probability of dropout on what goes into ΔW. */
  dropout?(config: Config): number;
};

/** A method for linear layers that adds ΔW to the weight. */
export const linearChange = <Config, Name extends string, Optional extends string = never, Shared extends string = never>({
  dropout,
  ...change
}: Change<Config, Name, Optional, Shared>): LayerMethod<Config, Name, Optional, Shared> => ({
  ...change,
  forward(x, base, p, c, use) {
    const dropped = dropout ? use.dropout(x, dropout(c)) : x;
    return add(base(x), through(dropped, change.delta(base, p, c, use.scale)));
  },
});

/** The same for embeddings, whose ΔW is [in, out] like their table; without dropout, as in PEFT. */
export const embeddingChange = <Config, Name extends string, Optional extends string = never, Shared extends string = never>({
  dropout: _,
  ...change
}: Change<Config, Name, Optional, Shared>): LayerMethod<Config, Name, Optional, Shared> => ({
  ...change,
  forward: (ids, base, p, c, use) => add(base(ids), take(times(change.delta(base, p, c, use.scale), base.outputScale), ids)),
});

/** 1 + s·(l − 1): a factor whose effect is scaled, 1 being none. */
export const scaledGain = (l: Tensor, scale: number): Tensor =>
  scale === 1 ? l : add(times(l, scale), constant(1 - scale, [], l.dtype));
