/**
 * DeBERTa v2 and v3: BERT with disentangled attention. Positions enter as one vector per distance between tokens, which queries and keys
 * are multiplied with separately from the words.
 * @see https://arxiv.org/abs/2006.03654 and https://arxiv.org/abs/2111.09543
 */
import { currentDevice, upload } from "../compile/program.ts";
import { matmul } from "../graph/contraction.ts";
import { add, cast, mul, where } from "../graph/elementwise.ts";
import { flip, permute, reshape } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { reduceSum } from "../graph/reduction.ts";
import { constant, number } from "../graph/source.ts";
import { activation } from "../nn/activation.ts";
import { Conv1d } from "../nn/convolution.ts";
import { Dropout } from "../nn/dropout.ts";
import { Embedding } from "../nn/embedding.ts";
import { type Initializer, normal, zeros } from "../nn/init.ts";
import { Linear } from "../nn/linear.ts";
import { group, type Layer, Module } from "../nn/module.ts";
import { LayerNorm } from "../nn/norm.ts";
import { BertDense, BertOutput, bertSizes } from "./bert.ts";
import {
  type Backbone,
  checkTextInputs,
  embedTokens,
  type ModelSizes,
  paddingRow,
  positionsAfter,
  textShape,
} from "./causal-lm.ts";
import { byDistance, type DebertaV2Config, distanceRows } from "./deberta-v2-config.ts";
import { attendHeads, type EncoderInputs, type EncoderStates, encode, layers, refuseInputs } from "./encoder.ts";

const dense = (into: number, out: number, init: Initializer, bias = true): Layer =>
  new Linear(into, out, { bias, init, initBias: zeros });
const norm = ({ hiddenSize, layerNormEps: eps }: DebertaV2Config): LayerNorm => new LayerNorm(hiddenSize, { eps });

/** x [B, T, C] with zeros for padding. */
const withoutPadding = (x: Tensor, mask: Tensor | undefined): Tensor =>
  mask ? mul(x, reshape(cast(mask, x.dtype), [...mask.shape, 1])) : x;

/** What the tokens of all layers see. */
export interface DebertaV2Pass {
  readonly keyMask?: Tensor;
  /** [1, 2T − 1, C]: vectors of the distances T − 1 … 1 − T. */
  readonly distances?: Tensor | undefined;
}

/** Words, and positions and types in models that add them. */
export class DebertaV2Embeddings extends Module {
  word_embeddings: Layer;
  position_embeddings: Layer | null;
  token_type_embeddings: Layer | null;
  embed_proj: Layer | null;
  readonly LayerNorm: LayerNorm;
  readonly dropout: Dropout;

  constructor(config: DebertaV2Config, init: Initializer) {
    super();
    const { embeddingSize: E, hiddenSize: C, typeVocabSize } = config;
    this.word_embeddings = new Embedding(config.vocabSize, E, { init, ...paddingRow(config) });
    this.position_embeddings = config.positionBiasedInput ? new Embedding(config.maxPositionEmbeddings, E, { init }) : null;
    this.token_type_embeddings = typeVocabSize > 0 ? new Embedding(typeVocabSize, E, { init }) : null;
    this.embed_proj = E === C ? null : dense(E, C, init, false);
    this.LayerNorm = norm(config);
    this.dropout = new Dropout(config.hiddenDropoutProb);
  }

  /** [B, T] → [B, T, C] */
  forward(inputs: EncoderInputs): Tensor {
    const { tokenTypeIds, positionIds, attentionMask } = inputs;
    const [B, T] = textShape(inputs);
    let x = embedTokens(inputs, this.word_embeddings);
    if (this.position_embeddings) x = add(x, this.position_embeddings.forward(positionIds ?? positionsAfter(0, T)));
    if (this.token_type_embeddings) x = add(x, this.token_type_embeddings.forward(tokenTypeIds ?? constant(0, [B, T], "int32")));
    x = this.embed_proj?.forward(x) ?? x;
    return this.dropout.forward(withoutPadding(this.LayerNorm.forward(x), attentionMask));
  }
}

/** Attention whose scores are those of words with words, of words with distances, and of distances with words. */
export class DisentangledSelfAttention extends Module {
  query_proj: Layer;
  key_proj: Layer;
  value_proj: Layer;
  pos_key_proj: Layer | null;
  pos_query_proj: Layer | null;
  readonly pos_dropout: Dropout;
  readonly #config: DebertaV2Config;

  constructor(config: DebertaV2Config, init: Initializer) {
    super();
    const { hiddenSize: C, relativeAttention, shareAttKey, posAttType } = config;
    const own = () => dense(C, C, init);
    const apart = (type: string) => relativeAttention && !shareAttKey && posAttType.includes(type);
    this.#config = config;
    this.query_proj = own();
    this.key_proj = own();
    this.value_proj = own();
    this.pos_key_proj = apart("c2p") ? own() : null;
    this.pos_query_proj = apart("p2c") ? own() : null;
    this.pos_dropout = new Dropout(config.hiddenDropoutProb);
  }

  /** [B, T, C] → [B, T, C] */
  forward(x: Tensor, { keyMask, distances }: DebertaV2Pass): Tensor {
    const { numAttentionHeads: H, hiddenSize: C, posAttType, attentionProbsDropoutProb } = this.#config;
    const [q, k, v] = [this.query_proj, this.key_proj, this.value_proj].map((layer) => layer.forward(x)) as [
      Tensor,
      Tensor,
      Tensor,
    ];
    const scale = 1 / Math.sqrt((C / H) * (1 + posAttType.length));
    const mask = distances && this.#bias(q, k, this.pos_dropout.forward(distances));
    const y = attendHeads(q, k, v, H, {
      ...(keyMask && { keyMask }),
      ...(mask && { mask: mul(mask, number(mask, scale)) }),
      scale,
      dropout: this.training ? attentionProbsDropoutProb : 0,
    });
    if (!keyMask) return y;
    // here padding sees everything alike, itself too; it is seen where the ends of an answer are judged among all places
    const alike = mul(reduceSum(v, [1]), number(v, 1 / (v.shape[1] as number)));
    return where(cast(reshape(keyMask, [...keyMask.shape, 1]), "bool"), y, alike);
  }

  /** The scores in which distances are: [B, H, T, T]. @param distances [1, 2T − 1, C] */
  #bias(q: Tensor, k: Tensor, distances: Tensor): Tensor | undefined {
    const { numAttentionHeads: H, posAttType } = this.#config;
    const heads = (x: Tensor, axes: readonly number[]) =>
      permute(reshape(x, [x.shape[0] as number, x.shape[1] as number, H, -1]), axes);
    /** Of each token of x, by the place of the other one: [B, H, T, T]. */
    const met = (x: Tensor, vectors: Tensor) => byDistance(matmul(heads(x, [0, 2, 1, 3]), heads(vectors, [0, 2, 3, 1])));
    const { pos_key_proj, pos_query_proj, key_proj, query_proj } = this;
    const wordToPlace = posAttType.includes("c2p") ? met(q, (pos_key_proj ?? key_proj).forward(distances)) : undefined;
    if (!posAttType.includes("p2c")) return wordToPlace;
    // a key at j sees the query at i at the distance i − j, so that distances run the other way
    const placeToWord = permute(met(k, flip((pos_query_proj ?? query_proj).forward(distances), 1)), [0, 1, 3, 2]);
    return wordToPlace ? add(wordToPlace, placeToWord) : placeToWord;
  }
}

/** One block: y = norm(x + attention(x)), then norm(y + mlp(y)). */
export class DebertaV2Layer extends Module {
  readonly attention;
  readonly intermediate: BertDense;
  readonly output: BertOutput;

  constructor(config: DebertaV2Config, init: Initializer) {
    super();
    const output = new BertOutput(config, config.hiddenSize, init);
    this.attention = group({ self: new DisentangledSelfAttention(config, init), output });
    this.intermediate = new BertDense(config.hiddenSize, config.intermediateSize, activation(config.hiddenAct), init);
    this.output = new BertOutput(config, config.intermediateSize, init);
  }

  /** [B, T, C] → [B, T, C] */
  forward(x: Tensor, pass: DebertaV2Pass): Tensor {
    const y = this.attention.output.forward(this.attention.self.forward(x, pass), x);
    return this.output.forward(this.intermediate.forward(y), y);
  }
}

/** What large models of v2 add to the first block's result: a convolution of what went in. */
export class DebertaV2Conv extends Module {
  conv: Layer;
  readonly LayerNorm: LayerNorm;
  readonly dropout: Dropout;
  readonly #act: (x: Tensor) => Tensor;

  constructor(config: DebertaV2Config, init: Initializer) {
    super();
    const { hiddenSize: C, convKernelSize: size, convGroups: groups } = config;
    this.conv = new Conv1d(C, C, size, { padding: (size - 1) / 2, groups, init, initBias: zeros });
    this.LayerNorm = norm(config);
    this.dropout = new Dropout(config.hiddenDropoutProb);
    this.#act = activation(config.convAct);
  }

  /** x [B, T, C], what went into the block; y [B, T, C], what came out */
  forward(x: Tensor, y: Tensor, mask: Tensor | undefined): Tensor {
    const turned = (z: Tensor) => permute(z, [0, 2, 1]);
    const near = withoutPadding(turned(this.conv.forward(turned(x))), mask);
    return withoutPadding(this.LayerNorm.forward(add(y, this.#act(this.dropout.forward(near)))), mask);
  }
}

/** The blocks, and the vectors of distances. */
export class DebertaV2Encoder extends Module {
  readonly layer: readonly DebertaV2Layer[];
  rel_embeddings: Layer | null;
  readonly LayerNorm: LayerNorm | null;
  readonly conv: DebertaV2Conv | null;
  readonly #config: DebertaV2Config;

  constructor(config: DebertaV2Config, init: Initializer) {
    super();
    this.#config = config;
    this.layer = layers(config.numHiddenLayers, () => new DebertaV2Layer(config, init));
    this.rel_embeddings = config.relativeAttention ? new Embedding(2 * config.span, config.hiddenSize, { init }) : null;
    this.LayerNorm = config.normRelEbd ? norm(config) : null;
    this.conv = config.convKernelSize > 0 ? new DebertaV2Conv(config, init) : null;
  }

  /** @param x [B, T, C], the embeddings */
  forward(x: Tensor, inputs: EncoderInputs): EncoderStates {
    const distances = this.#distances(x.shape[1] as number);
    const { conv } = this;
    const blocks = this.layer.map((block, i) => ({
      forward(y: Tensor, seen: DebertaV2Pass): Tensor {
        const z = block.forward(y, { ...seen, distances });
        return conv && i === 0 ? conv.forward(y, z, inputs.attentionMask) : z;
      },
    }));
    return encode(x, blocks, inputs);
  }

  #distances(T: number): Tensor | undefined {
    if (!this.rel_embeddings) return undefined;
    const rows = upload(currentDevice(), distanceRows(T, this.#config), [1, 2 * T - 1], "int32");
    const vectors = this.rel_embeddings.forward(rows);
    return this.LayerNorm?.forward(vectors) ?? vectors;
  }
}

/** Embeddings and blocks. */
export class DebertaV2Model extends Module implements Backbone {
  readonly embeddings: DebertaV2Embeddings;
  readonly encoder: DebertaV2Encoder;
  readonly #config: DebertaV2Config;

  constructor(config: DebertaV2Config, init: Initializer = normal({ std: config.initializerRange })) {
    super();
    this.#config = config;
    this.embeddings = new DebertaV2Embeddings(config, init);
    this.encoder = new DebertaV2Encoder(config, init);
  }

  get sizes(): ModelSizes {
    const { maxLength, ...sizes } = bertSizes(this.#config);
    return this.#config.positionBiasedInput ? { ...sizes, ...(maxLength && { maxLength }) } : sizes;
  }

  get wordEmbedding(): Layer {
    return this.embeddings.word_embeddings;
  }

  /** @throws {ConfigError} for a past; @throws {ShapeError} for other sizes than [B, T], and more tokens than positions that are added */
  forward(inputs: EncoderInputs): EncoderStates {
    checkTextInputs(this.sizes, inputs);
    refuseInputs("deberta-v2", inputs, ["past"]);
    return this.encoder.forward(this.embeddings.forward(inputs), inputs);
  }
}
