/**
 * Convolution and pooling over any number of spatial axes, made of views and matrix products: one product per position in the
 * kernel, added up in place, so that no unfolded copy of the input is kept. A kernel as large as its stride is one product.
 */
import { ConfigError, checkOptions, ShapeError, wordShape } from "../errors.ts";
import { matmul } from "../graph/contraction.ts";
import { add, div, mul } from "../graph/elementwise.ts";
import { permute, reshape, slice } from "../graph/movement.ts";
import { requireTensors, type Tensor } from "../graph/node.ts";
import { sizeOf } from "../graph/shape.ts";
import { number } from "../graph/source.ts";
import { padding } from "./arrange.ts";
import { maximum } from "./math.ts";

/** One number for all spatial axes, or one for each. */
export type PerAxis = number | readonly number[];

/** How a kernel moves over x. */
export interface ConvolutionOptions {
  readonly stride?: PerAxis;
  /** Zeros on both sides: how many, "valid" for none, or "same" for as many as keep the size (with stride 1; an odd one goes behind). */
  readonly padding?: PerAxis | "same" | "valid";
  readonly dilation?: PerAxis;
  readonly groups?: number;
}

/** A setting of every spatial axis, from one number or one for each. @throws {ConfigError} for anything else */
export function perAxis(operation: string, name: string, value: PerAxis, axes: number, least: number): number[] {
  const list = typeof value === "number" ? new Array<number>(axes).fill(value) : Array.isArray(value) ? value : [];
  if (list.length !== axes || list.some((n) => !Number.isInteger(n) || n < least))
    throw new ConfigError(`\`${name}\` (= ${JSON.stringify(value)}) must be a whole number from ${least}, or ${axes} of them.`, {
      operation,
      got: value,
    });
  return list;
}

/** Zeros before and behind each spatial axis. @param reach how far the kernel reaches along it */
function paddingOf(
  operation: string,
  value: NonNullable<ConvolutionOptions["padding"]>,
  stride: readonly number[],
  reach: readonly number[],
): [before: number, after: number][] {
  if (value !== "same") return perAxis(operation, "padding", value === "valid" ? 0 : value, reach.length, 0).map((n) => [n, n]);
  if (stride.some((step) => step !== 1))
    throw new ConfigError(`\`padding\` "same" goes with stride 1, not ${JSON.stringify(stride)}.`, { operation, got: stride });
  return reach.map((n) => [Math.floor((n - 1) / 2), Math.ceil((n - 1) / 2)]);
}

/** All positions inside a kernel, the last axis fastest. */
export function* offsetsOf(kernel: readonly number[]): Generator<number[]> {
  const total = sizeOf(kernel);
  for (let i = 0; i < total; i++) {
    const at = new Array<number>(kernel.length);
    for (let axis = kernel.length - 1, rest = i; axis >= 0; axis--) {
      at[axis] = rest % kernel[axis]!;
      rest = Math.floor(rest / kernel[axis]!);
    }
    yield at;
  }
}

/**
 * Cross-correlation over the last axes of x.
 *
 * @param x      [N, C, ...spatial]
 * @param weight [O, C / groups, ...kernel]
 * @param bias   [O]
 * @returns      [N, O, ...⌊(spatial + 2·padding − dilation·(kernel − 1) − 1) / stride⌋ + 1]
 */
function convolution(axes: number): (x: Tensor, weight: Tensor, bias?: Tensor | null, options?: ConvolutionOptions) => Tensor {
  const operation = `conv${axes}d`;
  return (x, weight, bias, options = {}) => {
    checkOptions(operation, options, { stride: null, padding: null, dilation: null, groups: "a whole number from 1" });
    requireTensors(operation, { x, weight });
    if (x.rank !== axes + 2 || weight.rank !== axes + 2)
      throw new ShapeError(`needs ${axes + 2} axes, got x ${wordShape(x.shape)} and weight ${wordShape(weight.shape)}.`, {
        operation,
        expected: axes + 2,
        got: [x.shape, weight.shape],
      });
    const stride = perAxis(operation, "stride", options.stride ?? 1, axes, 1);
    const dilation = perAxis(operation, "dilation", options.dilation ?? 1, axes, 1);
    const G = options.groups ?? 1;
    const [N, C] = x.shape as [number, number];
    const O = weight.shape[0]!;
    const kernel = weight.shape.slice(2);
    if (C % G !== 0 || O % G !== 0 || weight.shape[1] !== C / G)
      throw new ShapeError(`x ${wordShape(x.shape)} and weight ${wordShape(weight.shape)} do not fit ${G} groups.`, {
        operation,
        expected: C / G,
        got: weight.shape[1],
        hint: "weight is [out, in / groups, ...kernel].",
      });
    if (bias && (bias.rank !== 1 || bias.size !== O))
      throw new ShapeError(`bias is [${O}], got ${wordShape(bias.shape)}.`, { operation, expected: [O], got: bias.shape });
    const reach = kernel.map((k, i) => dilation[i]! * (k - 1) + 1);
    const padded = padding(x, paddingOf(operation, options.padding ?? 0, stride, reach));
    const out = outputSizes(operation, padded, kernel, stride, dilation);
    const P = sizeOf(out);
    const y =
      sizeOf(kernel) > 1 && kernel.every((k, i) => k === stride[i] && dilation[i] === 1)
        ? patches(padded, weight, out, kernel, G)
        : total(
            [...offsetsOf(kernel)].map((at) => {
              const part = reshape(window(padded, at, out, stride, dilation), [N, G, C / G, P]);
              const w = slice(weight, [0, 0, ...at], [O, C / G, ...at.map((i) => i + 1)]);
              if (O === G && C === G) return mul(reshape(w, [G, 1, 1]), part); // each channel by itself
              return matmul(reshape(w, [G, O / G, C / G]), part); // [N, G, O/G, P]
            }),
          );
    const shaped = reshape(y, [N, O, ...out]);
    return bias ? add(shaped, reshape(bias, [O, ...out.map(() => 1)])) : shaped;
  };
}

const total = (terms: readonly Tensor[]): Tensor => terms.reduce((sum, term) => add(term, sum));

/** How many places a kernel has along each spatial axis. @throws {ShapeError} where it does not fit */
export function outputSizes(
  operation: string,
  padded: Tensor,
  kernel: readonly number[],
  stride: number[],
  dilation: number[],
): number[] {
  return kernel.map((k, i) => {
    const extent = padded.shape[i + 2]!;
    const reach = dilation[i]! * (k - 1) + 1;
    if (reach > extent)
      throw new ShapeError(`a kernel that reaches over ${reach} does not fit ${extent} along spatial axis ${i}.`, {
        operation,
        expected: extent,
        got: reach,
        hint: "Add padding.",
      });
    return Math.floor((extent - reach) / stride[i]!) + 1;
  });
}

/** What the kernel's position `at` meets at each place. */
export function window(
  padded: Tensor,
  at: readonly number[],
  out: readonly number[],
  stride: readonly number[],
  dilation: readonly number[],
): Tensor {
  const starts = at.map((i, axis) => i * dilation[axis]!);
  return slice(
    padded,
    [0, 0, ...starts],
    [...padded.shape.slice(0, 2), ...starts.map((start, axis) => start + (out[axis]! - 1) * stride[axis]! + 1)],
    [1, 1, ...stride],
  );
}

/** Windows that lie side by side: [N, G, C/G·K, P] by one permutation, one product. */
function patches(padded: Tensor, weight: Tensor, out: readonly number[], kernel: readonly number[], G: number): Tensor {
  const [N, C] = padded.shape as [number, number];
  const cut = slice(
    padded,
    padded.shape.map(() => 0),
    [N, C, ...out.map((n, i) => n * kernel[i]!)],
  );
  const split = reshape(cut, [N, C, ...out.flatMap((n, i) => [n, kernel[i]!])]);
  const places = out.map((_, i) => 2 + 2 * i);
  const inside = out.map((_, i) => 3 + 2 * i);
  const K = sizeOf(weight.shape.slice(1));
  const columns = reshape(permute(split, [0, 1, ...inside, ...places]), [N, G, K, sizeOf(out)]);
  return matmul(reshape(weight, [G, weight.shape[0]! / G, K]), columns);
}

/** [N, C, T] with weight [O, C / groups, K]. */
export const conv1d = convolution(1);
/** [N, C, H, W] with weight [O, C / groups, KH, KW]. */
export const conv2d = convolution(2);
/** [N, C, D, H, W] with weight [O, C / groups, KD, KH, KW]. */
export const conv3d = convolution(3);

/** How large a window is, and how it moves. */
export interface PoolingOptions {
  readonly kernelSize: PerAxis;
  /** The kernel size when absent. */
  readonly stride?: PerAxis | undefined;
  readonly padding?: PerAxis;
}

function pooling(name: string, axes: number, outside: number, fold: (windows: Tensor[]) => Tensor) {
  const operation = `${name}${axes}d`;
  return (x: Tensor, options: PoolingOptions): Tensor => {
    checkOptions(operation, options, { kernelSize: null, stride: null, padding: null });
    requireTensors(operation, { x });
    if (x.rank < axes + 1)
      throw new ShapeError(`needs ${axes} spatial axes after at least one other, got ${wordShape(x.shape)}.`, {
        operation,
        got: x.shape,
      });
    const kernel = perAxis(operation, "kernelSize", options.kernelSize, axes, 1);
    const stride = perAxis(operation, "stride", options.stride ?? kernel, axes, 1);
    const pads = perAxis(operation, "padding", options.padding ?? 0, axes, 0);
    if (pads.some((n, i) => 2 * n > kernel[i]!))
      throw new ConfigError(
        `\`padding\` (= ${JSON.stringify(options.padding)}) is more than half of the kernel ${wordShape(kernel)}.`,
        {
          operation,
          got: options.padding,
          hint: "Windows of nothing but padding have no value; use pad.",
        },
      );
    const lead = x.shape.slice(0, -axes);
    const flat = reshape(x, [1, sizeOf(lead), ...x.shape.slice(-axes)]);
    const padded = padding(
      flat,
      pads.map((n): [number, number] => [n, n]),
      { value: outside },
    );
    const dilation = kernel.map(() => 1);
    const out = outputSizes(operation, padded, kernel, stride, dilation);
    return reshape(fold([...offsetsOf(kernel)].map((at) => window(padded, at, out, stride, dilation))), [...lead, ...out]);
  };
}

const largest = (windows: Tensor[]): Tensor => windows.reduce((a, b) => maximum(a, b));
const average = (windows: Tensor[]): Tensor => {
  const total = windows.reduce((a, b) => add(a, b));
  return div(total, number(total, windows.length));
};

/** The largest of each window; padding is −∞. Equal ones share the gradient. */
export const maxPool1d = pooling("maxPool", 1, Number.NEGATIVE_INFINITY, largest);
/** The same over the last two axes. */
export const maxPool2d = pooling("maxPool", 2, Number.NEGATIVE_INFINITY, largest);
/** The mean of each window; padding counts as zeros. */
export const avgPool1d = pooling("avgPool", 1, 0, average);
/** The same over the last two axes. */
export const avgPool2d = pooling("avgPool", 2, 0, average);
