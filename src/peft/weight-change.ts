/**
 * What methods share that add a matrix to the weight: W′ = W + ΔW, so that y = base(x) + x·ΔWᵀ. They state ΔW only; that of a
 * convolution is its kernel as a matrix.
 */
import { concatenate } from "../graph/composite.ts";
import { matmul } from "../graph/contraction.ts";
import { add, cast, mul, sub } from "../graph/elementwise.ts";
import { scatterAdd, take } from "../graph/indexing.ts";
import { reshape, sliceAxis, transpose } from "../graph/movement.ts";
import { requireTensors, type Tensor } from "../graph/node.ts";
import { constant } from "../graph/source.ts";
import { type Embedding, paddingFixed } from "../nn/embedding.ts";
import type { Layer } from "../nn/module.ts";
import { convolved } from "./convolution-layer.ts";
import type { Base, LayerMethod, Use } from "./method.ts";
import type { Scale } from "./scale.ts";

/** x times a number, in the dtype of x. */
export function times(x: Tensor, factor: Scale): Tensor {
  requireTensors("times", typeof factor === "number" ? { x } : { x, factor });
  return factor === 1 ? x : mul(x, scalar(factor, x));
}

const scalar = (value: Scale, { dtype }: Tensor): Tensor =>
  typeof value === "number" ? constant(value, [], dtype) : cast(value, dtype);

/** x with zeros behind it along an axis, up to `size`. */
export function filled(x: Tensor, axis: number, size: number): Tensor {
  const have = x.shape[axis] as number;
  if (have === size) return x;
  const more = x.shape.map((extent, i) => (i === axis ? size - have : extent));
  return concatenate([x, constant(0, more, x.dtype)], axis);
}

/** The last axis through Mᵀ; the other axes as one, so that the product can start from the base layer's. */
export function through(x: Tensor, M: Tensor): Tensor {
  const [out, into] = M.shape as [number, number];
  return reshape(matmul(reshape(x, [x.size / into, into]), transpose(M)), [...x.shape.slice(0, -1), out]);
}

/** A matrix of this shape, zero but for values [n] at places [n] that count its elements row by row. */
export const sparse = (values: Tensor, places: Tensor, [rows, columns]: readonly [number, number]): Tensor =>
  reshape(scatterAdd(places, reshape(values, [values.size, 1]), rows * columns), [rows, columns]);

/** The same, the places being rows and columns, [2, n]. */
export function sparseAt(values: Tensor, indices: Tensor, shape: readonly [number, number]): Tensor {
  const part = (i: number) => reshape(sliceAxis(indices, 0, i, i + 1), [values.size]);
  return sparse(values, add(mul(part(0), constant(shape[1], [], "int32")), part(1)), shape);
}

/** All of a layer method but its forward pass, which follows from `delta`. */
export type WeightChange<Config, Name extends string, Optional extends string = never, Shared extends string = never> = Omit<
  LayerMethod<Config, Name, Optional, Shared>,
  "forward" | "delta"
> & {
  readonly delta: NonNullable<LayerMethod<Config, Name, Optional, Shared>["delta"]>;
  /** Probability of dropout on what goes into ΔW. */
  dropout?(config: Config): number;
  /** Factors that ΔW has in this call only, because of another kind of dropout; `null` for none. */
  mask?(base: Base, config: Config, use: Use): Tensor | null;
};

/** What goes into ΔW in this call, and ΔW. */
function inUse<Config, Name extends string, Optional extends string, Shared extends string>(
  { dropout, mask, delta }: WeightChange<Config, Name, Optional, Shared>,
  ...[x, base, p, c, use]: Parameters<LayerMethod<Config, Name, Optional, Shared>["forward"]>
): readonly [x: Tensor, delta: Tensor] {
  const factors = mask?.(base, c, use) ?? null;
  const whole = delta(base, p, c, use.scale);
  return [dropout ? use.dropout(x, dropout(c)) : x, factors ? mul(whole, factors) : whole];
}

/** A method for linear layers that adds ΔW to the weight. */
export const linearChange = <Config, Name extends string, Optional extends string = never, Shared extends string = never>(
  change: WeightChange<Config, Name, Optional, Shared>,
): LayerMethod<Config, Name, Optional, Shared> => ({
  ...change,
  forward(x, base, p, c, use) {
    const [dropped, delta] = inUse(change, x, base, p, c, use);
    return add(base(x), through(dropped, delta));
  },
});

/** Rows [..., n] that an adapter of an embedding has for ids [...]: none trains where the layer's padding token is, as in PEFT. */
export const withPadding = (base: Base, rows: Tensor, ids: Tensor): Tensor =>
  paddingFixed(rows, ids, (base.layer as Layer & Partial<Pick<Embedding, "paddingIdx">>).paddingIdx);

/** The same for embeddings, whose ΔW is [in, out] like their table; without dropout, as in PEFT. */
export const embeddingChange = <Config, Name extends string, Optional extends string = never, Shared extends string = never>(
  change: WeightChange<Config, Name, Optional, Shared>,
): LayerMethod<Config, Name, Optional, Shared> => ({
  ...change,
  forward: (ids, base, p, c, use) => add(base(ids), take(times(change.delta(base, p, c, use.scale), base.outputScale), ids)),
});

/** The same for convolutions, with the layer's stride, padding, dilation and groups. */
export const convolutionChange = <Config, Name extends string, Optional extends string = never, Shared extends string = never>(
  change: WeightChange<Config, Name, Optional, Shared>,
): LayerMethod<Config, Name, Optional, Shared> => ({
  ...change,
  forward(x, base, p, c, use) {
    const [dropped, delta] = inUse(change, x, base, p, c, use);
    return add(base(x), convolved(dropped, base, delta));
  },
});

/** 1 + s·(l − 1): a factor whose effect is scaled, 1 being none. */
export const scaledGain = (l: Tensor, scale: Scale): Tensor =>
  scale === 1 ? l : add(times(l, scale), scalar(typeof scale === "number" ? 1 - scale : sub(constant(1), scale), l));
