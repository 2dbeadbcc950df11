/** What methods share that adapt convolutions. */
import { ConfigError } from "../errors.ts";
import { reshape } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import type { Convolution } from "../nn/convolution.ts";
import { einsum } from "../tensor/einsum.ts";
import type { Base } from "./method.ts";

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

/** Σᵢⱼ t[i, j, κ]·a[i, p]·b[j, q] as a matrix [p, q·κ]. */
export function fromCore(T: Tensor, A: Tensor, B: Tensor): Tensor {
  const product = einsum("i j k l, i p, j q -> p q k l", T, A, B);
  return reshape(product, [product.shape[0] as number, -1]);
}

/** The core's last two axes; a convolution over one axis has it and 1. */
export const coreKernel = (base: Base): readonly number[] => {
  const kernel = kernelOf(base);
  return kernel.length === 1 ? [...kernel, 1] : kernel;
};
