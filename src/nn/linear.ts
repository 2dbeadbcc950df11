/** The affine layer. */
import { checkOptions, requireKind, requireOption, ShapeError, under, wordShape } from "../errors.ts";
import { matmul } from "../graph/contraction.ts";
import { add } from "../graph/elementwise.ts";
import { reshape, transpose } from "../graph/movement.ts";
import { requireTensors, type Tensor } from "../graph/node.ts";
import { sizeOf } from "../graph/shape.ts";
import { type Initializer, kaimingUniform, normal, uniform, zeros } from "./init.ts";
import { Module, Parameter } from "./module.ts";

/**
 * y = x·Wᵀ + b over the last axis.
 *
 * @param x      [..., in]
 * @param weight [out, in]
 * @param bias   [out]
 * @returns      [..., out]
 * @throws {ShapeError} when the last axis of `x` is not `in`
 */
export function linear(x: Tensor, weight: Tensor, bias: Tensor | null = null): Tensor {
  requireTensors("linear", bias ? { x, weight, bias } : { x, weight });
  const [out, into] = weight.shape as [number, number];
  if (weight.rank !== 2 || x.shape[x.rank - 1] !== into)
    throw new ShapeError(`${wordShape(x.shape)} does not fit a weight of ${wordShape(weight.shape)} ([out, in]).`, {
      operation: "linear",
      expected: into,
      got: x.shape[x.rank - 1],
      hint: `The last axis of x must have ${into} values.`,
    });
  // all rows in one matrix, so that one product serves the batch and the bias is where its sums start
  const y = matmul(reshape(x, [sizeOf(x.shape.slice(0, -1)), into]), transpose(weight));
  return under("linear", () => reshape(bias ? add(y, bias) : y, [...x.shape.slice(0, -1), out]));
}

/** How an affine layer starts. */
export interface LinearOptions {
  /** Whether there is one; or the bias [out] of another layer, to share it. */
  readonly bias?: boolean | Parameter;
  /** First values of the weight; PyTorch's (uniform in ±1/√in) when absent. */
  readonly init?: Initializer;
  /** First values of the bias; PyTorch's (uniform in ±1/√in) when absent. */
  readonly initBias?: Initializer;
  /** A weight [out, in] that another layer has already, to share it. */
  readonly weight?: Parameter;
}

/** y = x·Wᵀ + b, with W [out, in] as PyTorch keeps it. */
export class Linear extends Module {
  readonly weight: Parameter;
  readonly bias: Parameter | null;

  constructor(inFeatures: number, outFeatures: number, options: LinearOptions = {}) {
    super();
    checkOptions("Linear", options, { bias: null, init: "a function", initBias: "a function", weight: Parameter });
    requireKind("Linear", "a whole number from 0", { inFeatures, outFeatures });
    if (typeof options.bias !== "boolean" && options.bias !== undefined) requireOption("Linear", Parameter, "bias", options.bias);
    const { bias = true, init = kaimingUniform({ a: Math.sqrt(5) }) } = options;
    const bound = 1 / Math.sqrt(inFeatures);
    this.weight = options.weight ?? Parameter.from(init([outFeatures, inFeatures]), [outFeatures, inFeatures]);
    const initBias = options.initBias ?? uniform(-bound, bound);
    this.bias = bias === true ? Parameter.from(initBias([outFeatures]), [outFeatures]) : bias || null;
  }

  /** Size of the last axis that goes in. */
  get inFeatures(): number {
    return this.weight.shape[1] as number;
  }

  /** Size of the last axis that comes out. */
  get outFeatures(): number {
    return this.weight.shape[0] as number;
  }

  forward(x: Tensor): Tensor {
    return linear(x, this.weight.value, this.bias ? this.bias.value : null);
  }
}

/** y = x·W + b with W [in, out]: an affine layer as GPT-2 keeps it. */
export class Conv1D extends Module {
  /** [in, out] */
  readonly weight: Parameter;
  readonly bias: Parameter;

  constructor(inFeatures: number, outFeatures: number, options: Pick<LinearOptions, "init"> = {}) {
    super();
    const { init = normal({ std: 0.02 }) } = checkOptions("Conv1D", options, { init: "a function" });
    requireKind("Conv1D", "a whole number from 0", { inFeatures, outFeatures });
    this.weight = Parameter.from(init([inFeatures, outFeatures]), [inFeatures, outFeatures]);
    this.bias = Parameter.from(zeros([outFeatures]), [outFeatures]);
  }

  forward(x: Tensor): Tensor {
    return linear(x, transpose(this.weight.value), this.bias.value);
  }
}
