/** Public functions that multiply and add up, or slide a window: matrix products, einsum, convolutions, pooling. */
import { matmul as plainMatmul } from "../../graph/contraction.ts";
import type { Tensor } from "../../graph/node.ts";
import * as arrange from "../arrange.ts";
import * as convolution from "../convolution.ts";
import { asTensor, type TensorLike } from "../create.ts";
import { dispatched, ofOne, ofPair } from "../dispatch.ts";
import { einsum as plainEinsum } from "../einsum.ts";

/**
 * Matrix product over the last two axes: [..., M, K] · [..., K, N] → [..., M, N]; leading axes broadcast. A vector counts as a
 * row on the left, as a column on the right, and its axis is dropped. 16-bit floats give float32.
 * @throws {ShapeError} when the inner sizes differ; @throws {DTypeError} for integers
 * @example
 * matmul([[1, 2], [3, 4]], [1, 10])   // [21 43] float32 [2]
 */
export const matmul = ofPair("matmul", plainMatmul);
/** xᵢ·yⱼ of two vectors: [M, N]. */
export const outer = ofPair("outer", arrange.outer);
/** Kronecker product: every element of x times the whole of y. */
export const kron = ofPair("kron", arrange.kron);
/**
 * Sums of products over named axes, as in numpy.
 * @throws {FormatError} for an equation that cannot be read; @throws {ShapeError} when sizes under one letter differ
 * @example
 * einsum("ik,kj->ij", [[1, 2]], [[3], [4]])   // [[11]] float32 [1, 1]
 */
export const einsum = dispatched("einsum", () => ({
  "string, ...Tensor": (equation: string, tensors: Tensor[]) => plainEinsum(equation, ...tensors),
})) as (equation: string, ...tensors: readonly TensorLike[]) => Tensor;
/**
 * Cross-correlation: x [N, C, T], weight [O, C / groups, K], bias [O] or null → [N, O, T′], T′ = ⌊(T + 2·padding − dilation·(K
 * − 1) − 1) / stride⌋ + 1.
 * @throws {ShapeError} when the sizes do not fit; @throws {ConfigError} for options out of range
 * @example
 * conv1d([[[1, 2, 3, 4]]], [[[1, -1]]], null, { stride: 2 })   // [[[-1 -1]]] float32 [1, 1, 2]
 */
export const conv1d = ofPair("conv1d", convolutionOf(convolution.conv1d), 2);
/**
 * Cross-correlation: x [N, C, H, W], weight [O, C / groups, KH, KW], bias [O] or null; options as in `conv1d`, one number or
 * one per axis.
 */
export const conv2d = ofPair("conv2d", convolutionOf(convolution.conv2d), 2);
/** Cross-correlation: x [N, C, D, H, W], weight [O, C / groups, KD, KH, KW], bias [O] or null; options as in `conv1d`. */
export const conv3d = ofPair("conv3d", convolutionOf(convolution.conv3d), 2);
/**
 * The largest of each window of the last axis; padding is −∞. Equal ones share the gradient.
 * @example
 * maxPool1d([[1, 3, 2, 0]], { kernelSize: 2 })   // [[3 2]] float32 [1, 2]
 */
export const maxPool1d = ofOne("maxPool1d", convolution.maxPool1d, 1);
/** The largest of each window of the last two axes; padding is −∞. Equal ones share the gradient. */
export const maxPool2d = ofOne("maxPool2d", convolution.maxPool2d, 1);
/** The mean of each window of the last axis; padding counts as zeros. */
export const avgPool1d = ofOne("avgPool1d", convolution.avgPool1d, 1);
/** The mean of each window of the last two axes; padding counts as zeros. */
export const avgPool2d = ofOne("avgPool2d", convolution.avgPool2d, 1);

function convolutionOf(plain: typeof convolution.conv1d) {
  return (x: Tensor, weight: Tensor, bias?: TensorLike | null, options?: convolution.ConvolutionOptions): Tensor =>
    plain(x, weight, bias === null || bias === undefined ? null : asTensor(bias), options);
}
