/**
 * BERT: post-norm blocks of tokens that all see each other. RoBERTa is the same but for what roberta.ts says.
 * @see https://arxiv.org/abs/1810.04805
 */
import { ConfigError } from "../errors.ts";
import { add, cast, mul, tanh } from "../graph/elementwise.ts";
import type { Tensor } from "../graph/node.ts";
import { constant } from "../graph/source.ts";
import { activation } from "../nn/activation.ts";
import { Dropout } from "../nn/dropout.ts";
import { Embedding } from "../nn/embedding.ts";
import { type Initializer, normal, zeros } from "../nn/init.ts";
import { Linear } from "../nn/linear.ts";
import { group, type Layer, Module, Parameter } from "../nn/module.ts";
import { LayerNorm } from "../nn/norm.ts";
import { notEqual } from "../tensor/math.ts";
import { cumsum } from "../tensor/statistics.ts";
import {
  type Backbone,
  checkTextInputs,
  embedTokens,
  type ModelSizes,
  pastLength,
  positionsAfter,
  textShape,
} from "./causal-lm.ts";
import type { CheckpointNames } from "./checkpoint-name.ts";
import { type ClassifierOutput, classifierLoss } from "./classifier.ts";
import { type ConfigJson, ConfigReader } from "./config-reader.ts";
import { attendHeads, type EncoderInputs, type EncoderStates, encode, firstToken, layers, type Seen } from "./encoder.ts";
import {
  type MaskedLM,
  type SequenceClassifier,
  type SequenceInputs,
  type TokenInputs,
  type TokenOutput,
  tokenOutput,
} from "./task.ts";

/** What of a config.json matters for computing, in camelCase. */
export type BertConfig = ReturnType<typeof bertConfig>;

/** What sets a model of the family apart from BERT, as far as it is a matter of settings. */
export interface BertVariant {
  readonly modelType: string;
  /** Values of keys that its config.json may leave out. */
  readonly defaults: ConfigJson;
  /** Whether only tokens that are not padding are counted, from the row after `pad_token_id` on; padding has that row. */
  readonly positionsAfterPadding: boolean;
}

const bert: BertVariant = { modelType: "bert", defaults: { pad_token_id: 0 }, positionsAfterPadding: false };

/** @throws {ConfigError} for a missing key and for a value that is not supported, by name */
export function bertConfig(json: ConfigJson, variant = bert) {
  const { modelType, positionsAfterPadding } = variant;
  const config = new ConfigReader(json, modelType, variant.defaults);
  config.fixed("position_embedding_type", "absolute");
  for (const key of ["is_decoder", "add_cross_attention"]) config.fixed(key, false);
  config.headSize("hidden_size", "num_attention_heads");
  const hiddenDropoutProb = config.probability("hidden_dropout_prob", 0.1);
  const padTokenId = config.token("pad_token_id");
  if (positionsAfterPadding && padTokenId === null) config.refuse("pad_token_id", null, "must be given: positions follow it");
  return {
    modelType,
    vocabSize: config.count("vocab_size"),
    hiddenSize: config.count("hidden_size"),
    intermediateSize: config.count("intermediate_size"),
    numHiddenLayers: config.count("num_hidden_layers"),
    numAttentionHeads: config.count("num_attention_heads"),
    hiddenAct: config.activation("hidden_act", "gelu"),
    maxPositionEmbeddings: config.count("max_position_embeddings", 512),
    typeVocabSize: config.count("type_vocab_size", 2),
    hiddenDropoutProb,
    attentionProbsDropoutProb: config.probability("attention_probs_dropout_prob", 0.1),
    classifierDropout: config.probability("classifier_dropout", hiddenDropoutProb),
    layerNormEps: config.number("layer_norm_eps", 1e-12),
    initializerRange: config.number("initializer_range", 0.02),
    padTokenId,
    positionsAfterPadding,
    tieWordEmbeddings: config.flag("tie_word_embeddings", true),
    numLabels: config.numLabels(),
    problemType: config.problemType(),
  };
}

const norm = ({ hiddenSize, layerNormEps: eps }: BertConfig): LayerNorm => new LayerNorm(hiddenSize, { eps });
const dense = (into: number, out: number, init: Initializer): Linear => new Linear(into, out, { init, initBias: zeros });

/** Words, types and positions, added up. */
export class BertEmbeddings extends Module {
  word_embeddings: Layer;
  position_embeddings: Layer;
  token_type_embeddings: Layer;
  readonly LayerNorm: LayerNorm;
  readonly dropout: Dropout;
  readonly #config: BertConfig;

  constructor(config: BertConfig, init: Initializer) {
    super();
    const { hiddenSize: C, padTokenId, positionsAfterPadding } = config;
    const padded = { init, ...(padTokenId === null ? {} : { paddingIdx: padTokenId }) };
    this.#config = config;
    this.word_embeddings = new Embedding(config.vocabSize, C, padded);
    this.position_embeddings = new Embedding(config.maxPositionEmbeddings, C, positionsAfterPadding ? padded : { init });
    this.token_type_embeddings = new Embedding(config.typeVocabSize, C, { init });
    this.LayerNorm = norm(config);
    this.dropout = new Dropout(config.hiddenDropoutProb);
  }

  /** [B, T] → [B, T, C] */
  forward(inputs: EncoderInputs): Tensor {
    const types = this.token_type_embeddings.forward(inputs.tokenTypeIds ?? constant(0, textShape(inputs), "int32"));
    const positions = this.position_embeddings.forward(inputs.positionIds ?? this.#positions(inputs));
    const x = add(add(embedTokens(inputs, this.word_embeddings), types), positions);
    return this.dropout.forward(this.LayerNorm.forward(x));
  }

  /** Of vectors nobody knows whether they are padding: all are counted. */
  #positions(inputs: EncoderInputs): Tensor {
    const { padTokenId, positionsAfterPadding } = this.#config;
    const { inputIds } = inputs;
    const [past, [, T]] = [pastLength(inputs), textShape(inputs)];
    if (!positionsAfterPadding) return positionsAfter(past, T);
    if (!inputIds) return positionsAfter(past + 1 + (padTokenId as number), T);
    const whole = (value: number) => constant(value, [], "int32");
    const isToken = cast(notEqual(inputIds, whole(padTokenId as number)), "int32");
    return add(mul(add(cumsum(isToken, 1), whole(past)), isToken), whole(padTokenId as number));
  }
}

/** Queries, keys and values of all tokens. */
export class BertSelfAttention extends Module {
  query: Layer;
  key: Layer;
  value: Layer;
  readonly #config: BertConfig;

  constructor(config: BertConfig, init: Initializer) {
    super();
    const C = config.hiddenSize;
    this.#config = config;
    this.query = dense(C, C, init);
    this.key = dense(C, C, init);
    this.value = dense(C, C, init);
  }

  /** [B, T, C] → [B, T, C] */
  forward(x: Tensor, seen: Seen): Tensor {
    const { numAttentionHeads, attentionProbsDropoutProb } = this.#config;
    return attendHeads(this.query.forward(x), this.key.forward(x), this.value.forward(x), numAttentionHeads, {
      ...seen,
      dropout: this.training ? attentionProbsDropoutProb : 0,
    });
  }
}

/** norm(residual + dense(x)): how both halves of a block end. */
export class BertOutput extends Module {
  dense: Layer;
  readonly LayerNorm: LayerNorm;
  readonly dropout: Dropout;

  constructor(config: BertConfig, inner: number, init: Initializer) {
    super();
    this.dense = dense(inner, config.hiddenSize, init);
    this.LayerNorm = norm(config);
    this.dropout = new Dropout(config.hiddenDropoutProb);
  }

  /** x [B, T, F], residual [B, T, C] → [B, T, C] */
  forward(x: Tensor, residual: Tensor): Tensor {
    return this.LayerNorm.forward(add(this.dropout.forward(this.dense.forward(x)), residual));
  }
}

/** act(dense(x)). */
export class BertDense extends Module {
  dense: Layer;
  readonly #act: (x: Tensor) => Tensor;

  constructor(into: number, out: number, act: (x: Tensor) => Tensor, init: Initializer) {
    super();
    this.dense = dense(into, out, init);
    this.#act = act;
  }

  forward(x: Tensor): Tensor {
    return this.#act(this.dense.forward(x));
  }
}

/** One block: y = norm(x + attention(x)), then norm(y + mlp(y)). */
export class BertLayer extends Module {
  readonly attention;
  readonly intermediate: BertDense;
  readonly output: BertOutput;

  constructor(config: BertConfig, init: Initializer) {
    super();
    const output = new BertOutput(config, config.hiddenSize, init);
    this.attention = group({ self: new BertSelfAttention(config, init), output });
    this.intermediate = new BertDense(config.hiddenSize, config.intermediateSize, activation(config.hiddenAct), init);
    this.output = new BertOutput(config, config.intermediateSize, init);
  }

  /** [B, T, C] → [B, T, C] */
  forward(x: Tensor, seen: Seen): Tensor {
    const y = this.attention.output.forward(this.attention.self.forward(x, seen), x);
    return this.output.forward(this.intermediate.forward(y), y);
  }
}

/** Embeddings and blocks; with a pooler, which some output layers need. */
export class BertModel extends Module implements Backbone {
  readonly embeddings: BertEmbeddings;
  readonly encoder;
  readonly pooler: BertDense | null;
  readonly #config: BertConfig;

  constructor(config: BertConfig, init: Initializer, { pooler }: { readonly pooler: boolean }) {
    super();
    this.#config = config;
    this.embeddings = new BertEmbeddings(config, init);
    this.encoder = group({ layer: layers(config.numHiddenLayers, () => new BertLayer(config, init)) });
    this.pooler = pooler ? new BertDense(config.hiddenSize, config.hiddenSize, tanh, init) : null;
  }

  get sizes(): ModelSizes {
    const { modelType, hiddenSize: width, numHiddenLayers: layers, numAttentionHeads: heads } = this.#config;
    const { maxPositionEmbeddings, positionsAfterPadding, padTokenId } = this.#config;
    const unused = positionsAfterPadding ? (padTokenId as number) + 1 : 0;
    return { modelType, width, layers, heads, headDim: width / heads, maxLength: maxPositionEmbeddings - unused };
  }

  get wordEmbedding(): Layer {
    return this.embeddings.word_embeddings;
  }

  /** @throws {ShapeError} when ids, mask, positions or types are not all [B, T] or T is more than there are positions */
  forward(inputs: EncoderInputs): EncoderStates {
    checkTextInputs(this.sizes, inputs);
    return encode(this.embeddings.forward(inputs), this.encoder.layer, inputs);
  }
}

/** Reads a config, if that is not done yet, and chooses first values. */
export function start(config: BertConfig | ConfigJson, options: { readonly init?: Initializer }, variant = bert) {
  const known = "hiddenSize" in config ? (config as BertConfig) : bertConfig(config as ConfigJson, variant);
  return { known, init: options.init ?? normal({ std: known.initializerRange }) };
}

/** Names of checkpoints from before 2019, and parts of pre-training. */
export function bertPathOf(name: string): string | null {
  if (name.startsWith("cls.seq_relationship.")) return null;
  return name.replace(/LayerNorm\.gamma$/, "LayerNorm.weight").replace(/LayerNorm\.beta$/, "LayerNorm.bias");
}

/** norm(act(dense(x))). */
class BertPredictionTransform extends BertDense {
  readonly LayerNorm: LayerNorm;

  constructor(config: BertConfig, init: Initializer) {
    super(config.hiddenSize, config.hiddenSize, activation(config.hiddenAct), init);
    this.LayerNorm = norm(config);
  }

  override forward(x: Tensor): Tensor {
    return this.LayerNorm.forward(super.forward(x));
  }
}

/**
 * A BERT that gives logits of the words at every place. The output layer's weight is that of the word embeddings.
 *
 * @throws {ConfigError} (constructor) for a missing key of `config` and for values that are not supported
 * @example
 * const model = new BertForMaskedLM({ vocab_size: 512, hidden_size: 64, intermediate_size: 128, num_hidden_layers: 2,
 *   num_attention_heads: 4 });
 * const { logits, loss } = model.forward({ inputIds, labels: inputIds });   // [B, T, 512], []
 */
export class BertForMaskedLM extends Module implements MaskedLM, CheckpointNames {
  readonly bert: BertModel;
  readonly cls;
  readonly config: BertConfig;

  constructor(config: BertConfig | ConfigJson, options: { readonly init?: Initializer } = {}) {
    super();
    const { known, init } = start(config, options);
    if (!known.tieWordEmbeddings)
      throw new ConfigError("`tie_word_embeddings` (= false) must be true here.", { operation: known.modelType, got: false });
    this.config = known;
    this.bert = new BertModel(known, init, { pooler: false });
    const { weight } = this.bert.embeddings.word_embeddings as Embedding;
    const bias = Parameter.from(zeros([known.vocabSize]), [known.vocabSize]);
    const decoder: Layer = new Linear(known.hiddenSize, known.vocabSize, { weight, bias });
    this.cls = group({ predictions: group({ bias, transform: new BertPredictionTransform(known, init), decoder }) });
  }

  get backbone(): BertModel {
    return this.bert;
  }

  /** @throws {ShapeError} when ids, mask, positions, types or labels are not all [B, T] or T is more than there are positions */
  forward(inputs: TokenInputs): TokenOutput {
    const { lastHiddenState, hiddenStates } = this.bert.forward(inputs);
    const { transform, decoder } = this.cls.predictions;
    return tokenOutput(decoder.forward(transform.forward(lastHiddenState)), inputs.labels, hiddenStates);
  }

  pathOf(name: string): string | null {
    return name.startsWith("bert.pooler.") ? null : bertPathOf(name);
  }
}

/**
 * A BERT that puts texts into classes by the state of their first token.
 *
 * @throws {ConfigError} (constructor) for a missing key of `config` and for values that are not supported
 */
export class BertForSequenceClassification extends Module implements SequenceClassifier, CheckpointNames {
  readonly bert: BertModel;
  readonly dropout: Dropout;
  classifier: Layer;
  readonly config: BertConfig;

  constructor(config: BertConfig | ConfigJson, options: { readonly init?: Initializer } = {}) {
    super();
    const { known, init } = start(config, options);
    this.config = known;
    this.bert = new BertModel(known, init, { pooler: true });
    this.dropout = new Dropout(known.classifierDropout);
    this.classifier = dense(known.hiddenSize, known.numLabels, init);
  }

  get backbone(): BertModel {
    return this.bert;
  }

  /** @throws {ShapeError} for sizes that do not fit */
  forward({ labels, ...inputs }: SequenceInputs): ClassifierOutput {
    const { lastHiddenState, hiddenStates } = this.bert.forward(inputs);
    const pooled = (this.bert.pooler as BertDense).forward(firstToken(lastHiddenState));
    const logits = this.classifier.forward(this.dropout.forward(pooled)); // [B, classes]
    return { logits, hiddenStates, ...(labels ? { loss: classifierLoss(logits, labels, this.config.problemType) } : {}) };
  }

  pathOf(name: string): string | null {
    return bertPathOf(name);
  }
}
