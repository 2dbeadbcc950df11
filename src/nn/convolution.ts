/** Convolution layers. */
import { ConfigError, checkOptions, requireKind } from "../errors.ts";
import type { Tensor } from "../graph/node.ts";
import { sizeOf } from "../graph/shape.ts";
import { type ConvolutionOptions, conv1d, conv2d, conv3d, perAxis } from "../tensor/convolution.ts";
import { kaimingUniform, uniform } from "./init.ts";
import type { LinearOptions } from "./linear.ts";
import { Module, Parameter } from "./module.ts";

/** How a convolution moves over its input, and how it starts. */
export interface ConvolutionLayerOptions extends ConvolutionOptions, Pick<LinearOptions, "init" | "initBias"> {
  readonly bias?: boolean;
}

/** A convolution over so many axes; see its subclasses. */
export abstract class Convolution extends Module {
  /** [O, C / groups, ...kernel] */
  readonly weight: Parameter;
  /** [O] */
  readonly bias: Parameter | null;
  /** Stride, padding, dilation and groups. */
  readonly options: ConvolutionOptions;
  /** Of the input, all groups together. */
  readonly inChannels: number;
  readonly #convolve: typeof conv2d;

  /**
   * @param convolve   the function of so many axes
   * @param kernelSize one number for all axes, or one for each
   */
  protected constructor(
    convolve: typeof conv2d,
    axes: number,
    inChannels: number,
    outChannels: number,
    kernelSize: number | readonly number[],
    given: ConvolutionLayerOptions,
  ) {
    super();
    checkOptions(new.target.name, given, {
      stride: null,
      padding: null,
      dilation: null,
      groups: "a whole number from 1",
      bias: "true or false",
      init: "a function",
      initBias: "a function",
    });
    const { bias = true, init = kaimingUniform({ a: Math.sqrt(5) }), initBias, ...options } = given;
    requireKind(new.target.name, "a whole number from 1", { inChannels, outChannels });
    const kernel = typeof kernelSize === "number" ? new Array<number>(axes).fill(kernelSize) : kernelSize;
    const { groups = 1 } = options;
    requireKind(new.target.name, "a list of numbers", { kernelSize: kernel });
    requireKind(new.target.name, "a whole number from 1", { groups, ...kernel });
    if (kernel.length !== axes || inChannels % groups !== 0 || outChannels % groups !== 0)
      throw new ConfigError(
        kernel.length !== axes
          ? `\`kernelSize\` (= ${JSON.stringify(kernelSize)}) must be a number, or ${axes} of them.`
          : `\`groups\` (= ${groups}) must divide the channels, ${inChannels} that go in and ${outChannels} that come out.`,
        { operation: new.target.name, got: kernel.length !== axes ? kernelSize : groups },
      );
    const { stride = 1, dilation = 1, padding = 0 } = options;
    for (const [name, value] of Object.entries({ stride, dilation })) perAxis(new.target.name, name, value, axes, 1);
    if (padding !== "same" && padding !== "valid") perAxis(new.target.name, "padding", padding, axes, 0);
    const shape = [outChannels, inChannels / groups, ...kernel];
    const bound = 1 / Math.sqrt(sizeOf(shape.slice(1)));
    this.weight = Parameter.from(init(shape), shape);
    this.bias = bias ? Parameter.from((initBias ?? uniform(-bound, bound))([outChannels]), [outChannels]) : null;
    this.options = options;
    this.inChannels = inChannels;
    this.#convolve = convolve;
  }

  /** Into how many parts channels are split, each with kernels of its own. */
  get groups(): number {
    return this.options.groups ?? 1;
  }

  /** [N, C, ...spatial] → [N, O, ...spatial] */
  forward(x: Tensor): Tensor {
    return this.convolve(x, this.weight.value, this.bias ? this.bias.value : null);
  }

  /** The same with another weight, and where it says so other options: what a change of the weight adds to the output. */
  convolve(x: Tensor, weight: Tensor, bias: Tensor | null = null, options: ConvolutionOptions = this.options): Tensor {
    return this.#convolve(x, weight, bias, options);
  }
}

type Kernel = number | readonly number[];

/** [N, C, T] → [N, O, T′], as PyTorch's. */
export class Conv1d extends Convolution {
  constructor(inChannels: number, outChannels: number, kernelSize: Kernel, options: ConvolutionLayerOptions = {}) {
    super(conv1d, 1, inChannels, outChannels, kernelSize, options);
  }
}

/** [N, C, H, W] → [N, O, H′, W′], as PyTorch's. */
export class Conv2d extends Convolution {
  constructor(inChannels: number, outChannels: number, kernelSize: Kernel, options: ConvolutionLayerOptions = {}) {
    super(conv2d, 2, inChannels, outChannels, kernelSize, options);
  }
}

/** [N, C, D, H, W] → [N, O, D′, H′, W′], as PyTorch's. */
export class Conv3d extends Convolution {
  constructor(inChannels: number, outChannels: number, kernelSize: Kernel, options: ConvolutionLayerOptions = {}) {
    super(conv3d, 3, inChannels, outChannels, kernelSize, options);
  }
}
