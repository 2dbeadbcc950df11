/** Short causal depthwise convolutions: each channel of a token is mixed with that of the few tokens before it. */
import { concatenate } from "../graph/composite.ts";
import { cast, mul } from "../graph/elementwise.ts";
import { pad, permute, reshape, sliceAxis } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { Conv1d } from "../nn/convolution.ts";
import type { Initializer } from "../nn/init.ts";
import type { Layer } from "../nn/module.ts";
import type { Pass } from "./decoder.ts";

/** A convolution with a kernel [channels, 1, size] that reaches back from each place; what lies before the first is `convolvePass`'s. */
export const shortConvolution = (channels: number, size: number, bias: boolean, init: Initializer): Conv1d =>
  new Conv1d(channels, channels, size, { groups: channels, bias, init });

/** x with zeros in the place of padding. @param x [B, T, ...] */
export function withoutPadding(x: Tensor, { mask }: Pass): Tensor {
  return mask ? mul(x, reshape(cast(mask, x.dtype), [...mask.shape, ...x.shape.slice(2).map(() => 1)])) : x;
}

/**
 * The convolution over the pass's tokens and the last ones of those before them, which the cache keeps.
 *
 * @param x       [B, T, C]
 * @param options.size  places of the kernel
 * @param options.layer its number, for the cache
 * @returns       [B, T, C]
 */
export function convolvePass(convolution: Layer, x: Tensor, pass: Pass, options: { size: number; layer: number }): Tensor {
  const { update, layer = options.layer } = pass;
  const [T, C] = x.shape.slice(1) as [number, number];
  const before = options.size - 1;
  let all = update ? x : pad(x, [0, before, 0], [0, 0, 0]);
  update?.renew(`convolution ${layer}`, [before, C], (kept) => {
    all = concatenate([cast(kept, x.dtype), x], 1);
    return sliceAxis(all, 1, T, T + before);
  });
  return permute(convolution.forward(permute(all, [0, 2, 1])), [0, 2, 1]);
}
