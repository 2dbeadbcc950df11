/** T5's attention: queries are not scaled, and positions are known by a learned bias for each distance. */
import { permute, reshape } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import type { AttendOptions } from "../nn/attention.ts";
import { Embedding } from "../nn/embedding.ts";
import type { Initializer } from "../nn/init.ts";
import { Linear } from "../nn/linear.ts";
import { type Layer, Module } from "../nn/module.ts";
import { type RelativeBucketOptions, relativeBuckets } from "../nn/relative-position.ts";
import { attendHeads } from "./encoder.ts";
import type { TextStates } from "./seq2seq-lm.ts";
import type { T5Config } from "./t5-config.ts";

/** First values of a matrix whose sums have so many terms. */
export type Draw = (terms: number) => Initializer;

/** Attention to the text itself or to another. */
export class T5Attention extends Module {
  q: Layer;
  k: Layer;
  v: Layer;
  o: Layer;
  /** A row for each bucket of distances, a column for each head; blocks without use that of the first. */
  relative_attention_bias: Layer | null;
  readonly #config: T5Config;

  constructor(config: T5Config, draw: Draw, { hasBias = false } = {}) {
    super();
    const { dModel: C, dKv: D, numHeads: H, numBuckets } = config;
    const layer = (into: number, out: number, terms: number): Layer => new Linear(into, out, { bias: false, init: draw(terms) });
    this.#config = config;
    this.q = layer(C, H * D, C * D);
    this.k = layer(C, H * D, C);
    this.v = layer(C, H * D, C);
    this.o = layer(H * D, C, H * D);
    this.relative_attention_bias = hasBias ? new Embedding(numBuckets, H, { init: draw(C) }) : null;
  }

  /** Keys and values of a text. @param states [B, S, C] */
  memory(states: Tensor): TextStates {
    return { keys: this.k.forward(states), values: this.v.forward(states) };
  }

  /** x [B, T, C] looks at a memory → [B, T, C] */
  forward(x: Tensor, { keys, values }: TextStates, options: AttendOptions): Tensor {
    const { numHeads, dropoutRate } = this.#config;
    const p = this.training ? dropoutRate : 0;
    return this.o.forward(attendHeads(this.q.forward(x), keys, values, numHeads, { ...options, scale: 1, dropout: p }));
  }

  /** What is added to the scores for distances, [1, H, Tq, Tk]. @param offset [] int32: key at which the first query stands */
  bias(
    queries: number,
    keys: number,
    { offset, isCausal }: { readonly offset?: Tensor | undefined; readonly isCausal: boolean },
  ): Tensor {
    const { numBuckets: buckets, maxDistance } = this.#config;
    return distanceBias(this.relative_attention_bias as Layer, queries, keys, { buckets, maxDistance, isCausal, offset });
  }
}

/** What is added to the scores for distances, [1, H, Tq, Tk]. @param table a row for each bucket of distances, a column for each head */
export const distanceBias = (table: Layer, queries: number, keys: number, options: RelativeBucketOptions): Tensor =>
  reshape(permute(table.forward(relativeBuckets(queries, keys, options)), [2, 0, 1]), [1, -1, queries, keys]);
