/**
 * What methods share that add a matrix to the weight: W′ = W + ΔW, so that y = base(x) + x·ΔWᵀ. They state ΔW only; that of a
 * convolution is its kernel as a matrix.
 */
import { ConfigError } from "../errors.ts";
import { matmul } from "../graph/contraction.ts";
import { add, mul } from "../graph/elementwise.ts";
import { take } from "../graph/indexing.ts";
import { reshape, transpose } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { constant } from "../graph/source.ts";
import type { Convolution } from "../nn/convolution.ts";
import type { Base, LayerMethod } from "./method.ts";

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

/** The same for convolutions, with the layer's stride, padding, dilation and groups. */
export const convolutionChange = <Config, Name extends string, Optional extends string = never, Shared extends string = never>({
  dropout,
  ...change
}: Change<Config, Name, Optional, Shared>): LayerMethod<Config, Name, Optional, Shared> => ({
  ...change,
  forward(x, base, p, c, use) {
    const dropped = dropout ? use.dropout(x, dropout(c)) : x;
    return add(base(x), convolved(dropped, base, change.delta(base, p, c, use.scale)));
  },
});

/** The convolution under an adapter. */
export const convolutionOf = (base: Base): Convolution => base.layer as Convolution;

/** x through a kernel that is as large as the layer's, given as a matrix [out, in]. */
export const convolved = (x: Tensor, base: Base, matrix: Tensor): Tensor =>
  convolutionOf(base).convolve(x, reshape(matrix, convolutionOf(base).weight.shape));

/** A value for each channel, as it broadcasts over the places of x [N, C, ...places]. */
export const perChannel = (values: Tensor, x: Tensor): Tensor => reshape(values, [values.size, ...x.shape.slice(2).map(() => 1)]);

/** The place of a kernel: the axes of a convolution's weight after its channels. */
export const kernelOf = (base: Base): readonly number[] => convolutionOf(base).weight.shape.slice(2);

/** @throws {ConfigError} for a convolution in groups, with which the method is no change of the weight */
export function refuseGroups(method: string, base: Base): void {
  const { groups } = convolutionOf(base);
  if (groups > 1)
    throw new ConfigError(`${base.path} is a convolution in ${groups} groups, which ${method} cannot adapt.`, {
      operation: "attach",
      got: groups,
      hint: "Take it out with `excludeModules`, or use LoHa or LoKr.",
    });
}

/** @throws {ConfigError} for a dilated convolution: PEFT leaves the dilation out, and its files mean something else */
export function refuseDilation(method: string, base: Base): void {
  const { dilation = 1 } = convolutionOf(base).options;
  if ([dilation].flat().some((step) => step !== 1))
    throw new ConfigError(
      `${base.path} is a dilated convolution, which ${method} cannot adapt: PEFT's leaves the dilation out.`,
      {
        operation: "attach",
        got: dilation,
        hint: "Take it out with `excludeModules`, or use LoHa or LoKr.",
      },
    );
}

/** 1 + s·(l − 1): a factor whose effect is scaled, 1 being none. */
export const scaledGain = (l: Tensor, scale: number): Tensor =>
  scale === 1 ? l : add(times(l, scale), constant(1 - scale, [], l.dtype));
