/**
 * DistilBERT: BERT with half its blocks, without token types and pooler, under other names.
 * @see https://arxiv.org/abs/1910.01108
 */
import { add } from "../graph/elementwise.ts";
import type { Tensor } from "../graph/node.ts";
import { activation } from "../nn/activation.ts";
import { Dropout } from "../nn/dropout.ts";
import { Embedding } from "../nn/embedding.ts";
import { type Initializer, normal, zeros } from "../nn/init.ts";
import { Linear } from "../nn/linear.ts";
import { group, type Layer, Module } from "../nn/module.ts";
import { LayerNorm } from "../nn/norm.ts";
import { relu } from "../tensor/math.ts";
import {
  type Backbone,
  checkTextInputs,
  embedTokens,
  type ModelSizes,
  paddingRow,
  positionsAfter,
  textShape,
  tied,
} from "./causal-lm.ts";
import { type ConfigJson, ConfigReader, readOnce } from "./config-reader.ts";
import {
  attendHeads,
  type EncoderInputs,
  type EncoderStates,
  encode,
  firstToken,
  layers,
  refuseInputs,
  type Seen,
} from "./encoder.ts";
import { type Family, questionAnswerer, textClassifier, tokenClassifier, tokenModel } from "./family.ts";

/** The settings of a `config.json` that affect the computation, in camelCase. */
export type DistilBertConfig = ReturnType<typeof distilBertConfig>;

/** @throws {ConfigError} for a missing key and for a value that is not supported, by name */
export function distilBertConfig(json: ConfigJson) {
  const config = new ConfigReader(json, "distilbert", { pad_token_id: 0 });
  config.headSize("dim", "n_heads");
  const dropout = config.probability("dropout", 0.1);
  return {
    modelType: "distilbert",
    vocabSize: config.count("vocab_size"),
    dim: config.count("dim"),
    hiddenDim: config.count("hidden_dim"),
    nLayers: config.layers("n_layers"),
    nHeads: config.count("n_heads"),
    activation: config.activation("activation", "gelu"),
    maxPositionEmbeddings: config.count("max_position_embeddings", 512),
    /** Whether a new model's positions are waves; they are trained either way. */
    sinusoidalPosEmbds: config.flag("sinusoidal_pos_embds", false),
    dropout,
    attentionDropout: config.probability("attention_dropout", 0.1),
    qaDropout: config.probability("qa_dropout", 0.1),
    seqClassifDropout: config.probability("seq_classif_dropout", 0.2),
    initializerRange: config.number("initializer_range", 0.02),
    tieWordEmbeddings: config.flag("tie_word_embeddings", true),
    ...config.labels(dropout),
  };
}

const norm = ({ dim }: DistilBertConfig): LayerNorm => new LayerNorm(dim, { eps: 1e-12 });
const dense = (into: number, out: number, init: Initializer): Layer => new Linear(into, out, { init, initBias: zeros });

/** Sines and cosines of each position, in turns, in place of the values; of none where a checkpoint will bring them. */
const waves = (values: Float32Array, dim: number): Float32Array =>
  values.map((_, i) => {
    const [position, place] = [Math.floor(i / dim), i % dim];
    const angle = position / 10000 ** ((place - (place % 2)) / dim);
    return place % 2 === 0 ? Math.sin(angle) : Math.cos(angle);
  });

/** Words and positions, added up. */
export class DistilBertEmbeddings extends Module {
  word_embeddings: Layer;
  position_embeddings: Layer;
  readonly LayerNorm: LayerNorm;
  readonly dropout: Dropout;

  constructor(config: DistilBertConfig, init: Initializer) {
    super();
    const { dim } = config;
    this.word_embeddings = new Embedding(config.vocabSize, dim, { init, ...paddingRow(config) });
    const positions: Initializer = config.sinusoidalPosEmbds ? (shape) => waves(init(shape), dim) : init;
    this.position_embeddings = new Embedding(config.maxPositionEmbeddings, dim, { init: positions });
    this.LayerNorm = norm(config);
    this.dropout = new Dropout(config.dropout);
  }

  /** [B, T] → [B, T, C] */
  forward(inputs: EncoderInputs): Tensor {
    const positions = this.position_embeddings.forward(inputs.positionIds ?? positionsAfter(0, textShape(inputs)[1]));
    return this.dropout.forward(this.LayerNorm.forward(add(embedTokens(inputs, this.word_embeddings), positions)));
  }
}

/** One block: y = norm(x + attention(x)), then norm(y + mlp(y)). */
export class DistilBertBlock extends Module {
  readonly attention;
  readonly sa_layer_norm: LayerNorm;
  readonly ffn;
  readonly output_layer_norm: LayerNorm;
  readonly #config: DistilBertConfig;

  constructor(config: DistilBertConfig, init: Initializer) {
    super();
    const { dim, hiddenDim } = config;
    const own = () => dense(dim, dim, init);
    this.#config = config;
    this.attention = group({ q_lin: own(), k_lin: own(), v_lin: own(), out_lin: own() });
    this.sa_layer_norm = norm(config);
    this.ffn = group({
      lin1: dense(dim, hiddenDim, init),
      lin2: dense(hiddenDim, dim, init),
      dropout: new Dropout(config.dropout),
    });
    this.output_layer_norm = norm(config);
  }

  /** [B, T, C] → [B, T, C] */
  forward(x: Tensor, seen: Seen): Tensor {
    const { nHeads, attentionDropout, activation: name } = this.#config;
    const { q_lin, k_lin, v_lin, out_lin } = this.attention;
    const attended = attendHeads(q_lin.forward(x), k_lin.forward(x), v_lin.forward(x), nHeads, {
      ...seen,
      dropout: this.training ? attentionDropout : 0,
    });
    const y = this.sa_layer_norm.forward(add(out_lin.forward(attended), x));
    const { lin1, lin2, dropout } = this.ffn;
    return this.output_layer_norm.forward(add(dropout.forward(lin2.forward(activation(name)(lin1.forward(y)))), y));
  }
}

/** Embeddings and blocks. */
export class DistilBertModel extends Module implements Backbone {
  readonly embeddings: DistilBertEmbeddings;
  readonly transformer;
  readonly #config: DistilBertConfig;

  constructor(config: DistilBertConfig, init: Initializer) {
    super();
    this.#config = config;
    this.embeddings = new DistilBertEmbeddings(config, init);
    this.transformer = group({ layer: layers(config.nLayers, () => new DistilBertBlock(config, init)) });
  }

  get sizes(): ModelSizes {
    const { modelType, dim: width, nLayers: layers, nHeads: heads, maxPositionEmbeddings: maxLength } = this.#config;
    return { modelType, width, layers, heads, headDim: width / heads, maxLength };
  }

  get wordEmbedding(): Layer {
    return this.embeddings.word_embeddings;
  }

  /** @throws {ConfigError} for token types and a past; @throws {ShapeError} for other sizes than [B, T], and more tokens than positions */
  forward(inputs: EncoderInputs): EncoderStates {
    checkTextInputs(this.sizes, inputs);
    refuseInputs("distilbert", inputs, ["tokenTypeIds", "past"]);
    return encode(this.embeddings.forward(inputs), this.transformer.layer, inputs);
  }
}

const family: Family<"distilbert", DistilBertConfig, DistilBertModel> = {
  name: "distilbert",
  read: (config) => readOnce(config, "hiddenDim", distilBertConfig),
  build: (config, init = normal({ std: config.initializerRange })) => new DistilBertModel(config, init),
  reader: (model) => model,
  std: ({ initializerRange }) => initializerRange,
};

/** A DistilBERT that predicts the word at every position. The output layer's weight is that of the word embeddings. */
export const DistilBertForMaskedLM = tokenModel("DistilBertForMaskedLM", family, {
  parts: (config, init, base) => {
    const { dim, vocabSize } = config;
    const vocab_projector: Layer = new Linear(dim, vocabSize, { init, initBias: zeros, ...tied(config, base) });
    return { vocab_transform: dense(dim, dim, init), vocab_layer_norm: norm(config), vocab_projector };
  },
  logits: ({ config, vocab_transform, vocab_layer_norm, vocab_projector }, states) =>
    vocab_projector.forward(vocab_layer_norm.forward(activation(config.activation)(vocab_transform.forward(states)))),
});

/** A DistilBERT that classifies texts by the state of their first token. */
export const DistilBertForSequenceClassification = textClassifier("DistilBertForSequenceClassification", family, {
  parts: ({ dim, numLabels, seqClassifDropout }, init) => ({
    pre_classifier: dense(dim, dim, init),
    classifier: dense(dim, numLabels, init),
    dropout: new Dropout(seqClassifDropout),
  }),
  logits: ({ pre_classifier, classifier, dropout }, states) =>
    classifier.forward(dropout.forward(relu(pre_classifier.forward(firstToken(states))))),
});

/** A DistilBERT that classifies every token. */
export const DistilBertForTokenClassification = tokenClassifier("DistilBertForTokenClassification", family, "classifier");

/** A DistilBERT that extracts the answer to a question from a text. */
export const DistilBertForQuestionAnswering = questionAnswerer("DistilBertForQuestionAnswering", family, {
  dropout: ({ qaDropout }) => qaDropout,
});
