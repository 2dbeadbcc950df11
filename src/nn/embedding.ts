/** The table that turns token numbers into vectors. */
import { checkOptions, requireKind, under } from "../errors.ts";
import { cast, equal, mul, where } from "../graph/elementwise.ts";
import { take } from "../graph/indexing.ts";
import { reshape, stopGradient } from "../graph/movement.ts";
import { requireTensors, type Tensor } from "../graph/node.ts";
import { number } from "../graph/source.ts";
import { isSubstituting } from "../graph/variable.ts";
import { type Initializer, normal } from "./init.ts";
import { Module, Parameter } from "./module.ts";

/** How a table starts and which row stays as it is. */
export interface EmbeddingOptions {
  /** First values of the table; standard normal, as in PyTorch, when absent. */
  readonly init?: Initializer;
  /** A token whose row is never trained. */
  readonly paddingIdx?: number;
  /** A weight [V, C] that another layer has already, to share it. */
  readonly weight?: Parameter;
  /** Multiplies what is looked up, as Gemma does by √C. */
  readonly scale?: number;
}

/**
 * Rows of a table: weight [V, C], ids [...] int32 → [..., C]; float32 for a table of 16 bits. No gradient reaches the row of
 * `paddingIdx`.
 */
export function embedding(weight: Tensor, ids: Tensor, options: { readonly paddingIdx?: number } = {}): Tensor {
  const { paddingIdx } = checkOptions("embedding", options, { paddingIdx: "a whole number" });
  requireTensors("embedding", { weight, ids });
  const rows = under("embedding", () => take(weight, ids));
  const y = rows.dtype === "float16" || rows.dtype === "bfloat16" ? cast(rows, "float32") : rows;
  return paddingFixed(y, ids, paddingIdx);
}

/** Rows y [..., C] that were looked up for ids [...], with no gradient through those of `paddingIdx`, if there is one. */
export function paddingFixed(y: Tensor, ids: Tensor, paddingIdx: number | undefined): Tensor {
  if (paddingIdx === undefined) return y;
  const padding = equal(reshape(ids, [...ids.shape, 1]), number(ids, paddingIdx));
  return where(padding, stopGradient(y), y);
}

/** y = weight[ids]: one row of the table per token, scaled if it should be. */
export class Embedding extends Module {
  /** [tokens, C]; a language model may share it with its output layer. */
  readonly weight: Parameter;

  readonly paddingIdx: number | undefined;
  readonly scale: number;

  constructor(numEmbeddings: number, embeddingDim: number, options: EmbeddingOptions = {}) {
    super();
    checkOptions("Embedding", options, {
      init: "a function",
      paddingIdx: "a whole number",
      weight: Parameter,
      scale: "a finite number",
    });
    requireKind("Embedding", "a whole number from 1", { numEmbeddings, embeddingDim });
    const { init = normal(), paddingIdx, scale = 1 } = options;
    this.paddingIdx = paddingIdx;
    this.scale = scale;
    this.weight = options.weight ?? Parameter.from(init([numEmbeddings, embeddingDim]), [numEmbeddings, embeddingDim]);
  }

  /** Rows of the table: ids that it knows. */
  get numEmbeddings(): number {
    return this.weight.shape[0] as number;
  }

  /** Length of a row, C. */
  get embeddingDim(): number {
    return this.weight.shape[1] as number;
  }

  /**
   * @param ids [...] int32
   * @returns   [..., C]
   */
  forward(ids: Tensor): Tensor {
    const { weight, paddingIdx, scale } = this;
    // of a frozen table no row is trained, unless another stands in for it, of which somebody may take a derivative
    const fixed = paddingIdx !== undefined && (weight.requiresGrad || isSubstituting());
    const y = embedding(weight.value, ids, fixed ? { paddingIdx } : {});
    return scale === 1 ? y : mul(y, number(y, scale));
  }
}
