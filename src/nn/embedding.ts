/** The table that turns token numbers into vectors. */
import { take } from "../graph/indexing.ts";
import type { Tensor } from "../graph/node.ts";
import { type Initializer, normal } from "./init.ts";
import { Module, Parameter } from "./module.ts";

export interface EmbeddingOptions {
  /** First values of the table; standard normal, as in PyTorch, when absent. */
  readonly init?: Initializer;
}

/** y = weight[ids]: one row of the table per token. */
export class Embedding extends Module {
  /** [tokens, C]; a language model may share it with its output layer. */
  readonly weight: Parameter;

  constructor(numEmbeddings: number, embeddingDim: number, { init = normal() }: EmbeddingOptions = {}) {
    super();
    this.weight = Parameter.from(init([numEmbeddings, embeddingDim]), [numEmbeddings, embeddingDim]);
  }

  get numEmbeddings(): number {
    return this.weight.shape[0] as number;
  }

  get embeddingDim(): number {
    return this.weight.shape[1] as number;
  }

  /**
   * @param ids [...] int32
   * @returns   [..., C]
   */
  forward(ids: Tensor): Tensor {
    return take(this.weight.value, ids);
  }
}
