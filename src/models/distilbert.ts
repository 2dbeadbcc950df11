/**
 * DistilBERT: BERT with half its blocks, without token types and pooler, under other names.
 * @see https://arxiv.org/abs/1910.01108
 */
import { ConfigError } from "../errors.ts";
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
import { type Backbone, checkTextInputs, embedTokens, type ModelSizes, positionsAfter, textShape } from "./causal-lm.ts";
import { type ClassifierOutput, classifierLoss } from "./classifier.ts";
import { type ConfigJson, ConfigReader } from "./config-reader.ts";
import { attendHeads, type EncoderInputs, type EncoderStates, encode, firstToken, layers, type Seen } from "./encoder.ts";
import {
  type MaskedLM,
  type SequenceClassifier,
  type SequenceInputs,
  type TokenClassifier,
  type TokenInputs,
  type TokenOutput,
  tokenOutput,
} from "./task.ts";

/** What of a config.json matters for computing, in camelCase. */
export type DistilBertConfig = ReturnType<typeof distilBertConfig>;

/** @throws {ConfigError} for a missing key and for a value that is not supported, by name */
export function distilBertConfig(json: ConfigJson) {
  const config = new ConfigReader(json, "distilbert", { pad_token_id: 0 });
  config.fixed("sinusoidal_pos_embds", false);
  config.headSize("dim", "n_heads");
  return {
    modelType: "distilbert",
    vocabSize: config.count("vocab_size"),
    dim: config.count("dim"),
    hiddenDim: config.count("hidden_dim"),
    nLayers: config.count("n_layers"),
    nHeads: config.count("n_heads"),
    activation: config.activation("activation", "gelu"),
    maxPositionEmbeddings: config.count("max_position_embeddings", 512),
    dropout: config.probability("dropout", 0.1),
    attentionDropout: config.probability("attention_dropout", 0.1),
    seqClassifDropout: config.probability("seq_classif_dropout", 0.2),
    initializerRange: config.number("initializer_range", 0.02),
    padTokenId: config.token("pad_token_id"),
    tieWordEmbeddings: config.flag("tie_word_embeddings", true),
    numLabels: config.numLabels(),
    problemType: config.problemType(),
  };
}

const norm = ({ dim }: DistilBertConfig): LayerNorm => new LayerNorm(dim, { eps: 1e-12 });
const dense = (into: number, out: number, init: Initializer): Layer => new Linear(into, out, { init, initBias: zeros });

/** Words and positions, added up. */
export class DistilBertEmbeddings extends Module {
  word_embeddings: Layer;
  position_embeddings: Layer;
  readonly LayerNorm: LayerNorm;
  readonly dropout: Dropout;

  constructor(config: DistilBertConfig, init: Initializer) {
    super();
    const { dim, padTokenId } = config;
    this.word_embeddings = new Embedding(config.vocabSize, dim, {
      init,
      ...(padTokenId === null ? {} : { paddingIdx: padTokenId }),
    });
    this.position_embeddings = new Embedding(config.maxPositionEmbeddings, dim, { init });
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
    for (const name of ["tokenTypeIds", "past"] as const)
      if (inputs[name])
        throw new ConfigError(`\`${name}\` are given, which this model knows nothing of.`, { operation: "distilbert" });
    return encode(this.embeddings.forward(inputs), this.transformer.layer, inputs);
  }
}

function start(config: DistilBertConfig | ConfigJson, options: { readonly init?: Initializer }) {
  const known = "hiddenDim" in config ? (config as DistilBertConfig) : distilBertConfig(config as ConfigJson);
  return { known, init: options.init ?? normal({ std: known.initializerRange }) };
}

/**
 * A DistilBERT that gives logits of the words at every place. The output layer's weight is that of the word embeddings.
 *
 * @throws {ConfigError} (constructor) for a missing key of `config` and for values that are not supported
 */
export class DistilBertForMaskedLM extends Module implements MaskedLM {
  readonly distilbert: DistilBertModel;
  vocab_transform: Layer;
  readonly vocab_layer_norm: LayerNorm;
  vocab_projector: Layer;
  readonly config: DistilBertConfig;

  constructor(config: DistilBertConfig | ConfigJson, options: { readonly init?: Initializer } = {}) {
    super();
    const { known, init } = start(config, options);
    this.config = known;
    this.distilbert = new DistilBertModel(known, init);
    this.vocab_transform = dense(known.dim, known.dim, init);
    this.vocab_layer_norm = norm(known);
    const { weight } = this.distilbert.embeddings.word_embeddings as Embedding;
    this.vocab_projector = new Linear(known.dim, known.vocabSize, {
      init,
      initBias: zeros,
      ...(known.tieWordEmbeddings ? { weight } : {}),
    });
  }

  get backbone(): DistilBertModel {
    return this.distilbert;
  }

  /** @throws {ShapeError} for sizes that do not fit */
  forward(inputs: TokenInputs): TokenOutput {
    const { lastHiddenState, hiddenStates } = this.distilbert.forward(inputs);
    const x = activation(this.config.activation)(this.vocab_transform.forward(lastHiddenState));
    return tokenOutput(this.vocab_projector.forward(this.vocab_layer_norm.forward(x)), inputs.labels, hiddenStates);
  }
}

/**
 * A DistilBERT that puts texts into classes by the state of their first token.
 *
 * @throws {ConfigError} (constructor) for a missing key of `config` and for values that are not supported
 */
export class DistilBertForSequenceClassification extends Module implements SequenceClassifier {
  readonly distilbert: DistilBertModel;
  pre_classifier: Layer;
  classifier: Layer;
  readonly dropout: Dropout;
  readonly config: DistilBertConfig;

  constructor(config: DistilBertConfig | ConfigJson, options: { readonly init?: Initializer } = {}) {
    super();
    const { known, init } = start(config, options);
    this.config = known;
    this.distilbert = new DistilBertModel(known, init);
    this.pre_classifier = dense(known.dim, known.dim, init);
    this.classifier = dense(known.dim, known.numLabels, init);
    this.dropout = new Dropout(known.seqClassifDropout);
  }

  get backbone(): DistilBertModel {
    return this.distilbert;
  }

  /** @throws {ShapeError} for sizes that do not fit */
  forward({ labels, ...inputs }: SequenceInputs): ClassifierOutput {
    const { lastHiddenState, hiddenStates } = this.distilbert.forward(inputs);
    const pooled = relu(this.pre_classifier.forward(firstToken(lastHiddenState)));
    const logits = this.classifier.forward(this.dropout.forward(pooled)); // [B, classes]
    return { logits, hiddenStates, ...(labels ? { loss: classifierLoss(logits, labels, this.config.problemType) } : {}) };
  }
}

/**
 * A DistilBERT that puts every token into a class.
 *
 * @throws {ConfigError} (constructor) for a missing key of `config` and for values that are not supported
 */
export class DistilBertForTokenClassification extends Module implements TokenClassifier {
  readonly distilbert: DistilBertModel;
  readonly dropout: Dropout;
  classifier: Layer;
  readonly config: DistilBertConfig;

  constructor(config: DistilBertConfig | ConfigJson, options: { readonly init?: Initializer } = {}) {
    super();
    const { known, init } = start(config, options);
    this.config = known;
    this.distilbert = new DistilBertModel(known, init);
    this.dropout = new Dropout(known.dropout);
    this.classifier = dense(known.dim, known.numLabels, init);
  }

  get backbone(): DistilBertModel {
    return this.distilbert;
  }

  /** @throws {ShapeError} for sizes that do not fit */
  forward(inputs: TokenInputs): TokenOutput {
    const { lastHiddenState, hiddenStates } = this.distilbert.forward(inputs);
    return tokenOutput(this.classifier.forward(this.dropout.forward(lastHiddenState)), inputs.labels, hiddenStates);
  }
}
