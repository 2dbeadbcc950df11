/** Transposed convolution: from few places to many, as generators and decoders of images do. */
import { pullback } from "../autograd/grad.ts";
import { ConfigError, checkOptions, requireKind, ShapeError, under, wordShape } from "../errors.ts";
import { add } from "../graph/elementwise.ts";
import { reshape } from "../graph/movement.ts";
import { requireTensors, type Tensor } from "../graph/node.ts";
import { sizeOf } from "../graph/shape.ts";
import { constant } from "../graph/source.ts";
import { type ConvolutionOptions, conv1d, conv2d, perAxis } from "../tensor/convolution.ts";
import type { ConvolutionLayerOptions } from "./convolution.ts";
import { kaimingUniform, uniform } from "./init.ts";
import { Module, Parameter } from "./module.ts";

/** How a transposed convolution moves over its output. */
export interface TransposedConvolutionOptions extends Omit<ConvolutionOptions, "padding"> {
  /** How many places of the output are left out at both ends. */
  readonly padding?: number | readonly number[];
  /** Further places at the far end, fewer than the stride: a convolution forgets how many it left over. */
  readonly outputPadding?: number | readonly number[];
}

const optionRules = {
  stride: null,
  padding: null,
  outputPadding: null,
  dilation: null,
  groups: "a whole number from 1",
} as const;

function settings(operation: string, axes: number, options: TransposedConvolutionOptions) {
  const stride = perAxis(operation, "stride", options.stride ?? 1, axes, 1);
  const outputPadding = perAxis(operation, "outputPadding", options.outputPadding ?? 0, axes, 0);
  if (outputPadding.some((extra, i) => extra >= stride[i]!))
    throw new ConfigError(`\`outputPadding\` (= ${JSON.stringify(options.outputPadding)}) must be below the stride.`, {
      operation,
      got: options.outputPadding,
    });
  return {
    stride,
    outputPadding,
    padding: perAxis(operation, "padding", options.padding ?? 0, axes, 0),
    dilation: perAxis(operation, "dilation", options.dilation ?? 1, axes, 1),
    groups: options.groups ?? 1,
  };
}

/** What the convolution with this weight does to a derivative: it adds up, at each place of its input, what that had a part in. */
const transposed =
  (operation: string, convolve: typeof conv2d, axes: number) =>
  (x: Tensor, weight: Tensor, bias: Tensor | null = null, options: TransposedConvolutionOptions = {}): Tensor => {
    checkOptions(operation, options, optionRules);
    const { outputPadding, ...how } = settings(operation, axes, options);
    requireTensors(operation, bias ? { x, weight, bias } : { x, weight });
    if (x.rank !== axes + 2 || weight.rank !== axes + 2 || weight.shape[0] !== x.shape[1] || x.shape[1]! % how.groups !== 0)
      throw new ShapeError(`x ${wordShape(x.shape)} and weight ${wordShape(weight.shape)} do not fit ${how.groups} groups.`, {
        operation,
        expected: x.shape[1],
        got: weight.shape[0],
        hint: `They are [N, C, …] and [C, out / groups, …], with ${axes + 2} axes.`,
      });
    const O = weight.shape[1]! * how.groups;
    const out = how.stride.map((stride, i) => {
      const reach = how.dilation[i]! * (weight.shape[i + 2]! - 1) + 1;
      return (x.shape[i + 2]! - 1) * stride - 2 * how.padding[i]! + reach + outputPadding[i]!;
    });
    if (out.some((extent) => extent < 1))
      throw new ShapeError(`the output would be ${wordShape(out)}.`, { operation, got: out, hint: "Use less padding." });
    if (bias && (bias.rank !== 1 || bias.size !== O))
      throw new ShapeError(`bias is [${O}], got ${wordShape(bias.shape)}.`, { operation, expected: [O], got: bias.shape });
    return under(operation, () => {
      const input = constant(0, [x.shape[0]!, O, ...out], x.dtype);
      const [y] = pullback([convolve(input, weight, null, how)], [x], [input]);
      return bias ? add(y!, reshape(bias, [O, ...out.map(() => 1)])) : y!;
    });
  };

/**
 * x [N, C, T], weight [C, O / groups, K], bias [O] or null → [N, O, (T − 1)·stride − 2·padding + dilation·(K − 1) + outputPadding + 1].
 *
 * @throws {ShapeError} when the sizes do not fit; @throws {ConfigError} for options out of range
 * @see https://arxiv.org/abs/1603.07285
 */
export const convTranspose1d = transposed("convTranspose1d", conv1d, 1);
/** x [N, C, H, W], weight [C, O / groups, KH, KW], bias [O] or null; sizes as in `convTranspose1d`. */
export const convTranspose2d = transposed("convTranspose2d", conv2d, 2);

/** How such a layer moves, and how it starts. */
export interface TransposedConvolutionLayerOptions
  extends TransposedConvolutionOptions,
    Pick<ConvolutionLayerOptions, "bias" | "init" | "initBias"> {}

abstract class TransposedConvolution extends Module {
  /** [C, O / groups, ...kernel] */
  readonly weight: Parameter;
  /** [O] */
  readonly bias: Parameter | null;
  readonly options: TransposedConvolutionOptions;
  readonly #convolve: typeof convTranspose2d;

  protected constructor(
    convolve: typeof convTranspose2d,
    axes: number,
    inChannels: number,
    outChannels: number,
    kernelSize: number | readonly number[],
    given: TransposedConvolutionLayerOptions,
  ) {
    super();
    const operation = new.target.name;
    checkOptions(operation, given, { ...optionRules, bias: "true or false", init: "a function", initBias: "a function" });
    const { bias = true, init = kaimingUniform({ a: Math.sqrt(5) }), initBias, ...options } = given;
    requireKind(operation, "a whole number from 1", { inChannels, outChannels });
    const { groups } = settings(operation, axes, options);
    if (inChannels % groups !== 0 || outChannels % groups !== 0)
      throw new ConfigError(`\`groups\` (= ${groups}) must divide the channels, ${inChannels} in and ${outChannels} out.`, {
        operation,
        got: groups,
      });
    const shape = [inChannels, outChannels / groups, ...perAxis(operation, "kernelSize", kernelSize, axes, 1)];
    const bound = 1 / Math.sqrt(sizeOf(shape.slice(1)));
    this.weight = Parameter.from(init(shape), shape);
    this.bias = bias ? Parameter.from((initBias ?? uniform(-bound, bound))([outChannels]), [outChannels]) : null;
    this.options = options;
    this.#convolve = convolve;
  }

  /** [N, C, ...spatial] → [N, O, ...spatial] */
  forward(x: Tensor): Tensor {
    return this.#convolve(x, this.weight.value, this.bias?.value ?? null, this.options);
  }
}

/** [N, C, T] → [N, O, T′], as PyTorch's. */
export class ConvTranspose1d extends TransposedConvolution {
  constructor(
    inChannels: number,
    outChannels: number,
    kernelSize: number | readonly number[],
    options: TransposedConvolutionLayerOptions = {},
  ) {
    super(convTranspose1d, 1, inChannels, outChannels, kernelSize, options);
  }
}

/** [N, C, H, W] → [N, O, H′, W′], as PyTorch's. */
export class ConvTranspose2d extends TransposedConvolution {
  constructor(
    inChannels: number,
    outChannels: number,
    kernelSize: number | readonly number[],
    options: TransposedConvolutionLayerOptions = {},
  ) {
    super(convTranspose2d, 2, inChannels, outChannels, kernelSize, options);
  }
}
