/** Public functions that multiply and add up, or slide a window: matrix products, einsum, convolutions, pooling. */
import { matmul as plainMatmul } from "../../graph/contraction.ts";
import type { Tensor } from "../../graph/node.ts";
import * as arrange from "../arrange.ts";
import * as convolution from "../convolution.ts";
import { asTensor, type TensorLike } from "../create.ts";
import { dispatched, ofOne, ofPair } from "../dispatch.ts";
import { einsum as plainEinsum } from "../einsum.ts";
import * as windows from "../window.ts";

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
/** Means of windows that cover the last axis evenly: [..., n] → [..., outputSize]. */
export const adaptiveAvgPool1d = ofOne("adaptiveAvgPool1d", windows.adaptiveAvgPool1d, 1);
/** The same over the last two axes, with one size or two. */
export const adaptiveAvgPool2d = ofOne("adaptiveAvgPool2d", windows.adaptiveAvgPool2d, 1);
/** The largest of windows that cover the last axis evenly; equal ones share the gradient. */
export const adaptiveMaxPool1d = ofOne("adaptiveMaxPool1d", windows.adaptiveMaxPool1d, 1);
/** The same over the last two axes, with one size or two. */
export const adaptiveMaxPool2d = ofOne("adaptiveMaxPool2d", windows.adaptiveMaxPool2d, 1);
/**
 * Every window of x [N, C, ...spatial] as a column: [N, C·∏kernelSize, places]. Options as in `conv1d`, and `kernelSize`.
 * @throws {ShapeError} when the kernel does not fit
 * @example
 * unfold([[[1, 2, 3]]], { kernelSize: 2 })
 * // [[[1 2]
 * //   [2 3]]] float32 [1, 2, 2]
 */
export const unfold = ofOne("unfold", windows.unfold, 1);
/** Columns of windows put where `unfold` has them from, those that overlap added up: [N, C, ...outputSize]. */
export const fold = ofOne("fold", windows.fold, 1);
/**
 * x [N, C, ...spatial] at another `size`, or `scaleFactor` times as large, by the nearest element or, with `mode: "linear"`, in a straight
 * line along every spatial axis, as PyTorch's bilinear.
 * @throws {ConfigError} unless there is one of both
 * @example
 * interpolate([[[1, 3]]], { size: 4, mode: "linear" })   // [[[1.0 1.5 2.5 3.0]]] float32 [1, 1, 4]
 */
export const interpolate = ofOne("interpolate", windows.interpolate, 1);
/** Channels spread over the image: [..., C·r², H, W] → [..., C, H·r, W·r]. */
export const pixelShuffle = ofOne("pixelShuffle", windows.pixelShuffle, 1);
/** Undoes `pixelShuffle`: [..., C, H·r, W·r] → [..., C·r², H, W]. */
export const pixelUnshuffle = ofOne("pixelUnshuffle", windows.pixelUnshuffle, 1);

function convolutionOf(plain: typeof convolution.conv1d) {
  return (x: Tensor, weight: Tensor, bias?: TensorLike | null, options?: convolution.ConvolutionOptions): Tensor =>
    plain(x, weight, bias === null || bias === undefined ? null : asTensor(bias), options);
}
