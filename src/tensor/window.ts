/** Images cut into windows and put together again, and brought to other sizes. Spatial axes are the last ones. */
import { pullback } from "../autograd/grad.ts";
import { ConfigError, checkOptions, requireKind, ShapeError, wordArgument, wordShape } from "../errors.ts";
import { add, cast, floor, mul } from "../graph/elementwise.ts";
import { permute, reshape, sliceAxis } from "../graph/movement.ts";
import { requireTensors, type Tensor } from "../graph/node.ts";
import { sameShape, sizeOf } from "../graph/shape.ts";
import { constant, input, iota } from "../graph/source.ts";
import { concatenate, indexSelect, padding } from "./arrange.ts";
import { offsetsOf, outputSizes, type PerAxis, perAxis, window } from "./convolution.ts";
import { clamp, lerp, sub } from "./math.ts";
import { amax, mean } from "./statistics.ts";

/** Which windows. */
export interface UnfoldOptions {
  readonly kernelSize: PerAxis;
  readonly stride?: PerAxis;
  /** Zeros on both sides. */
  readonly padding?: PerAxis;
  readonly dilation?: PerAxis;
}

const anyNumbers = { kernelSize: null, stride: null, padding: null, dilation: null } as const;

/**
 * Every window as a column (im2col).
 *
 * @param x [N, C, ...spatial]
 * @returns [N, C·∏kernel, places]
 * @throws {ShapeError} when there is no spatial axis or the kernel does not fit
 */
export function unfold(x: Tensor, options: UnfoldOptions): Tensor {
  const operation = "unfold";
  checkOptions(operation, options, anyNumbers);
  const axes = x.rank - 2;
  if (axes < 1) throw new ShapeError(`needs [N, C, ...spatial], got ${wordShape(x.shape)}.`, { operation, got: x.shape });
  const { stride = 1, padding: zeros = 0, dilation = 1 } = options;
  const kernel = perAxis(operation, "kernelSize", options.kernelSize, axes, 1);
  const steps = perAxis(operation, "stride", stride, axes, 1);
  const apart = perAxis(operation, "dilation", dilation, axes, 1);
  const padded = padding(
    x,
    perAxis(operation, "padding", zeros, axes, 0).map((n) => [n, n]),
  );
  const out = outputSizes(operation, padded, kernel, steps, apart);
  const [N, C] = x.shape as [number, number];
  const places = sizeOf(out);
  const parts = [...offsetsOf(kernel)].map((at) => reshape(window(padded, at, out, steps, apart), [N, C, 1, places]));
  return reshape(concatenate(parts, 2), [N, C * parts.length, places]);
}

/**
 * Columns of windows put where they are from, those that overlap added up (col2im): the transpose of `unfold`.
 *
 * @param columns [N, C·∏kernel, places], of an image of `outputSize`, one number for each spatial axis
 * @returns [N, C, ...outputSize]
 * @throws {ShapeError} when an image of this size has other columns
 */
export function fold(columns: Tensor, options: UnfoldOptions & { readonly outputSize: readonly number[] }): Tensor {
  const operation = "fold";
  const { outputSize, ...windows } = checkOptions(operation, options, { ...anyNumbers, outputSize: "a list of numbers" });
  requireKind(operation, "a list of numbers", { outputSize });
  const size = perAxis(operation, "outputSize", outputSize, outputSize.length, 1);
  const kernel = perAxis(operation, "kernelSize", windows.kernelSize, size.length, 1);
  const [N, rows] = columns.shape as [number, number];
  const C = Math.floor((rows ?? 0) / sizeOf(kernel));
  const image = input([N ?? 0, C, ...size], columns.dtype);
  const expected = unfold(image, windows);
  if (!sameShape(expected.shape, columns.shape))
    throw new ShapeError(`an image of ${wordShape(size)} has columns [N, C·${sizeOf(kernel)}, ${expected.shape[2]}].`, {
      operation,
      expected: expected.shape,
      got: columns.shape,
    });
  return pullback([expected], [columns], [image])[0]!;
}

/** Windows that cover an axis evenly: window i of o goes from ⌊i·n/o⌋ up to ⌈(i + 1)·n/o⌉, as in PyTorch. */
function adaptivePool(name: string, axes: number, fold: (x: Tensor, axes: readonly number[], keepDims: boolean) => Tensor) {
  const operation = `${name}${axes}d`;
  return (x: Tensor, outputSize: PerAxis): Tensor => {
    requireTensors(operation, { x });
    if (x.rank < axes + 1 || x.shape.slice(-axes).includes(0))
      throw new ShapeError(`needs ${axes} spatial axes after at least one other, got ${wordShape(x.shape)}.`, {
        operation,
        got: x.shape,
      });
    return perAxis(operation, "outputSize", outputSize, axes, 1).reduce((y, o, i) => {
      const axis = x.rank - axes + i;
      const n = x.shape[axis]!;
      if (n % o === 0)
        return fold(reshape(y, [...y.shape.slice(0, axis), o, n / o, ...y.shape.slice(axis + 1)]), [axis + 1], false);
      const windows = Array.from({ length: o }, (_, j) =>
        fold(sliceAxis(y, axis, Math.floor((j * n) / o), Math.ceil(((j + 1) * n) / o)), [axis], true),
      );
      return concatenate(windows, axis);
    }, x);
  };
}

/** Means of windows that cover the last axis evenly: [..., n] → [..., outputSize]. */
export const adaptiveAvgPool1d = adaptivePool("adaptiveAvgPool", 1, mean);
/** The same over the last two axes. */
export const adaptiveAvgPool2d = adaptivePool("adaptiveAvgPool", 2, mean);
/** The largest of windows that cover the last axis evenly; equal ones share the gradient. */
export const adaptiveMaxPool1d = adaptivePool("adaptiveMaxPool", 1, amax);
/** The same over the last two axes. */
export const adaptiveMaxPool2d = adaptivePool("adaptiveMaxPool", 2, amax);

/** How an image is brought to another size; one of `size` and `scaleFactor`. */
export interface InterpolateOptions {
  readonly size?: PerAxis;
  /** How many times as large. */
  readonly scaleFactor?: PerAxis;
  /** `linear` goes in a straight line along every spatial axis (PyTorch's bilinear and trilinear). */
  readonly mode?: "nearest" | "linear";
  /** The first and last elements keep their places; only with `linear`. */
  readonly alignCorners?: boolean;
}

/**
 * Another number of elements along every spatial axis.
 *
 * @param x [N, C, ...spatial]
 * @throws {ConfigError} unless there is one of `size` and `scaleFactor`
 */
export function interpolate(x: Tensor, options: InterpolateOptions): Tensor {
  const operation = "interpolate";
  const modes = ["nearest", "linear"] as const;
  checkOptions(operation, options, { size: null, scaleFactor: null, mode: modes, alignCorners: "true or false" });
  const { size, scaleFactor, mode = "nearest", alignCorners = false } = options;
  const axes = x.rank - 2;
  if (axes < 1 || x.size === 0)
    throw new ShapeError(`needs [N, C, ...spatial], got ${wordShape(x.shape)}.`, { operation, got: x.shape });
  if ((size === undefined) === (scaleFactor === undefined))
    throw new ConfigError(`give \`size\` or \`scaleFactor\`, not ${size === undefined ? "neither" : "both"}.`, {
      operation,
      got: options,
    });
  const spatial = x.shape.slice(2);
  const factors = [scaleFactor ?? 1].flat() as number[];
  if (!factors.every((f) => Number.isFinite(f) && f > 0) || (Array.isArray(scaleFactor) && factors.length !== axes))
    throw new ConfigError(`\`scaleFactor\` (= ${wordArgument(scaleFactor)}) must be a number above 0, or ${axes} of them.`, {
      operation,
      got: scaleFactor,
    });
  const factor = (i: number) => factors[factors.length === 1 ? 0 : i]!;
  const sizes =
    size === undefined
      ? spatial.map((n, i) => Math.max(1, Math.floor(n * factor(i))))
      : perAxis(operation, "size", size, axes, 1);
  return sizes.reduce((y, o, i) => {
    const n = spatial[i]!;
    const scale = scaleFactor === undefined ? n / o : 1 / factor(i);
    return o === n && scale === 1
      ? y
      : resample(y, i + 2, o, mode, alignCorners && o > 1 ? (n - 1) / (o - 1) : scale, alignCorners);
  }, x);
}

/** `o` elements along an axis, `scale` apart. */
function resample(x: Tensor, axis: number, o: number, mode: "nearest" | "linear", scale: number, corners: boolean): Tensor {
  const last = x.shape[axis]! - 1;
  const f32 = (value: number) => constant(value, [], "float32");
  const place = cast(iota([o]), "float32");
  const centred = corners || mode === "nearest" ? mul(place, f32(scale)) : sub(mul(add(place, f32(0.5)), f32(scale)), f32(0.5));
  const at = clamp(centred, { min: 0, max: last });
  const low = floor(at);
  const near = (index: Tensor) => indexSelect(x, cast(index, "int32"), axis);
  if (mode === "nearest" || last === 0) return near(low);
  const share = reshape(
    sub(at, low),
    x.shape.map((_, i) => (i === axis ? o : 1)),
  );
  return lerp(near(low), near(clamp(add(low, f32(1)), { max: last })), cast(share, x.dtype));
}

function checkFactor(operation: string, x: Tensor, factor: number, fits: (sizes: number[]) => boolean): void {
  requireKind(operation, "a whole number from 1", { factor });
  if (x.rank < 3 || !fits(x.shape.slice(-3)))
    throw new ShapeError(`${wordShape(x.shape)} does not go by a factor of ${factor}.`, {
      operation,
      expected: factor,
      got: x.shape,
    });
}

/** Channels spread over the image: [..., C·r², H, W] → [..., C, H·r, W·r]. */
export function pixelShuffle(x: Tensor, factor: number): Tensor {
  checkFactor("pixelShuffle", x, factor, ([C]) => C! % factor ** 2 === 0);
  const [lead, [C, H, W]] = [x.shape.slice(0, -3), x.shape.slice(-3) as [number, number, number]];
  const rank = lead.length;
  const split = reshape(x, [...lead, C / factor ** 2, factor, factor, H, W]);
  const order = [...lead.map((_, i) => i), ...[0, 3, 1, 4, 2].map((i) => rank + i)];
  return reshape(permute(split, order), [...lead, C / factor ** 2, H * factor, W * factor]);
}

/** Undoes `pixelShuffle`: [..., C, H·r, W·r] → [..., C·r², H, W]. */
export function pixelUnshuffle(x: Tensor, factor: number): Tensor {
  checkFactor("pixelUnshuffle", x, factor, ([, H, W]) => H! % factor === 0 && W! % factor === 0);
  const [lead, [C, H, W]] = [x.shape.slice(0, -3), x.shape.slice(-3) as [number, number, number]];
  const rank = lead.length;
  const split = reshape(x, [...lead, C, H / factor, factor, W / factor, factor]);
  const order = [...lead.map((_, i) => i), ...[0, 2, 4, 1, 3].map((i) => rank + i)];
  return reshape(permute(split, order), [...lead, C * factor ** 2, H / factor, W / factor]);
}
