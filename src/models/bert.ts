/**
 * BERT: post-norm blocks of tokens that all see each other. RoBERTa is the same but for what roberta.ts says.
 * @see https://arxiv.org/abs/1810.04805
 */
import { ConfigError, requireKind } from "../errors.ts";
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
  paddingRow,
  pastLength,
  positionsAfter,
  textShape,
} from "./causal-lm.ts";
import { type ConfigJson, ConfigReader, readOnce } from "./config-reader.ts";
import { attendHeads, type EncoderInputs, type EncoderStates, encode, firstToken, layers, type Seen } from "./encoder.ts";
import { type Family, questionAnswerer, textClassifier, tokenClassifier, tokenModel } from "./family.ts";

/** The settings of a `config.json` that affect the computation, in camelCase. */
export type BertConfig = ReturnType<typeof bertConfig>;

/** What sets a model of the family apart from BERT, as far as it is a matter of settings. */
export interface BertVariant {
  readonly modelType: string;
  /** Values of keys that its config.json may leave out. */
  readonly defaults: ConfigJson;
  /** Whether only tokens that are not padding are counted, from the row after `pad_token_id` on; padding has that row. */
  readonly positionsAfterPadding: boolean;
  /** Whether it knows which of several texts a token is of; so when absent. */
  readonly hasTokenTypes?: boolean;
}

const bert: BertVariant = { modelType: "bert", defaults: { pad_token_id: 0 }, positionsAfterPadding: false };

/** @throws {ConfigError} for a missing key and for a value that is not supported, by name */
export function bertConfig(json: ConfigJson, variant = bert) {
  requireKind("bert", "an object", { variant });
  requireKind("bert", "a string", { "variant.modelType": variant.modelType });
  const { modelType, positionsAfterPadding } = variant;
  const config = new ConfigReader(json, modelType, variant.defaults);
  config.fixed("position_embedding_type", "absolute");
  for (const key of ["is_decoder", "add_cross_attention"]) config.fixed(key, false);
  config.headSize("hidden_size", "num_attention_heads");
  const hiddenSize = config.count("hidden_size");
  const hiddenDropoutProb = config.probability("hidden_dropout_prob", 0.1);
  const padTokenId = config.token("pad_token_id");
  if (positionsAfterPadding && padTokenId === null) config.refuse("pad_token_id", null, "must be given: positions follow it");
  return {
    modelType,
    vocabSize: config.count("vocab_size"),
    hiddenSize,
    /** Values of a word's vector; more or fewer than of a state in families that say so. */
    embeddingSize: "embedding_size" in variant.defaults ? config.count("embedding_size") : hiddenSize,
    intermediateSize: config.count("intermediate_size"),
    numHiddenLayers: config.layers("num_hidden_layers"),
    numAttentionHeads: config.count("num_attention_heads"),
    hiddenAct: config.activation("hidden_act", "gelu"),
    maxPositionEmbeddings: config.count("max_position_embeddings", 512),
    typeVocabSize: variant.hasTokenTypes === false ? 0 : config.count("type_vocab_size", 2),
    hiddenDropoutProb,
    attentionProbsDropoutProb: config.probability("attention_probs_dropout_prob", 0.1),
    layerNormEps: config.number("layer_norm_eps", 1e-12),
    initializerRange: config.number("initializer_range", 0.02),
    positionsAfterPadding,
    tieWordEmbeddings: config.flag("tie_word_embeddings", true),
    ...config.labels(hiddenDropoutProb),
    padTokenId,
  };
}

const norm = ({ hiddenSize, layerNormEps: eps }: BertConfig, size = hiddenSize): LayerNorm => new LayerNorm(size, { eps });
const dense = (into: number, out: number, init: Initializer): Linear => new Linear(into, out, { init, initBias: zeros });

/** Words, types where there are any, and positions, added up. */
export class BertEmbeddings extends Module {
  word_embeddings: Layer;
  position_embeddings: Layer;
  token_type_embeddings: Layer | null;
  readonly LayerNorm: LayerNorm;
  readonly dropout: Dropout;
  readonly #config: BertConfig;

  constructor(config: BertConfig, init: Initializer) {
    super();
    const { embeddingSize: C, positionsAfterPadding } = config;
    const padded = { init, ...paddingRow(config) };
    this.#config = config;
    this.word_embeddings = new Embedding(config.vocabSize, C, padded);
    this.position_embeddings = new Embedding(config.maxPositionEmbeddings, C, positionsAfterPadding ? padded : { init });
    this.token_type_embeddings = config.typeVocabSize === 0 ? null : new Embedding(config.typeVocabSize, C, { init });
    this.LayerNorm = norm(config, C);
    this.dropout = new Dropout(config.hiddenDropoutProb);
  }

  /** [B, T] → [B, T, C] */
  forward(inputs: EncoderInputs): Tensor {
    const words = embedTokens(inputs, this.word_embeddings);
    const types = this.token_type_embeddings?.forward(inputs.tokenTypeIds ?? constant(0, textShape(inputs), "int32"));
    const positions = this.position_embeddings.forward(inputs.positionIds ?? this.#positions(inputs));
    return this.dropout.forward(this.LayerNorm.forward(add(types ? add(words, types) : words, positions)));
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

/** What whoever puts something in front of a text or an output layer behind it needs to know. */
export function bertSizes(config: BertConfig): ModelSizes {
  const { modelType, embeddingSize: width, hiddenSize: stateWidth, numHiddenLayers: layers, numAttentionHeads: heads } = config;
  const { maxPositionEmbeddings, positionsAfterPadding, padTokenId } = config;
  const unused = positionsAfterPadding ? (padTokenId as number) + 1 : 0;
  const maxLength = maxPositionEmbeddings - unused;
  return { modelType, width, stateWidth, layers, heads, headDim: stateWidth / heads, maxLength };
}

/** What models have in common that read words as BERT does. */
export abstract class BertReader extends Module {
  readonly embeddings: BertEmbeddings;
  readonly #config: BertConfig;

  constructor(config: BertConfig, init: Initializer) {
    super();
    this.#config = config;
    this.embeddings = new BertEmbeddings(config, init);
  }

  get sizes(): ModelSizes {
    return bertSizes(this.#config);
  }

  get wordEmbedding(): Layer {
    return this.embeddings.word_embeddings;
  }
}

/** Embeddings, their projection where they are of another size, and blocks; with a pooler, which some output layers need. */
export class BertModel extends BertReader implements Backbone {
  embeddings_project: Layer | null;
  readonly encoder;
  readonly pooler: BertDense | null;

  constructor(config: BertConfig, init: Initializer, { pooler }: { readonly pooler: boolean }) {
    super(config, init);
    const { embeddingSize, hiddenSize } = config;
    this.embeddings_project = embeddingSize === hiddenSize ? null : dense(embeddingSize, hiddenSize, init);
    this.encoder = group({ layer: layers(config.numHiddenLayers, () => new BertLayer(config, init)) });
    this.pooler = pooler ? new BertDense(hiddenSize, hiddenSize, tanh, init) : null;
  }

  /** @throws {ShapeError} when ids, mask, positions or types are not all [B, T] or T is more than there are positions */
  forward(inputs: EncoderInputs): EncoderStates {
    checkTextInputs(this.sizes, inputs);
    const x = this.embeddings.forward(inputs);
    const states = encode(this.embeddings_project?.forward(x) ?? x, this.encoder.layer, inputs);
    return { ...states, ...(this.pooler && { poolerOutput: this.pooler.forward(firstToken(states.lastHiddenState)) }) };
  }
}

/** Names of checkpoints from before 2019, and parts that the model has no use for. */
const publishedPath = (name: string): string | null =>
  /^cls\.seq_relationship\./.test(name)
    ? null
    : name.replace(/LayerNorm\.gamma$/, "LayerNorm.weight").replace(/LayerNorm\.beta$/, "LayerNorm.bias");

interface BertFamilyOptions {
  readonly variant?: BertVariant;
  /** Whether there is one: where no output layer is behind it only when absent. */
  readonly pooler?: boolean;
  /** The path of what checkpoints call otherwise, all names beginning in the model; `null` for what is left unread. */
  readonly pathOf?: (name: string) => string | null;
}

/** What output layers need to know of BERT and its relatives. */
export const bertFamily = <Name extends string>(
  name: Name,
  { variant = bert, pooler, pathOf = publishedPath }: BertFamilyOptions = {},
): Family<Name, BertConfig, BertModel> => ({
  name,
  alone: () => bertFamily(name, { variant, pooler: pooler ?? true, pathOf }),
  read: (config) => readOnce(config, "hiddenSize", (json) => bertConfig(json, variant)),
  build: (config, init = normal({ std: config.initializerRange })) => new BertModel(config, init, { pooler: pooler ?? false }),
  reader: (model) => model,
  std: ({ initializerRange }) => initializerRange,
  pathOf: (path) => (!pooler && path.startsWith(`${name}.pooler.`) ? null : pathOf(path)),
});

/** An output layer with the weight of the word embeddings, and its bias by another name. @throws {ConfigError} when the weights are not tied */
export function tiedDecoder(config: BertConfig, { wordEmbedding }: Backbone): { readonly bias: Parameter; decoder: Layer } {
  if (!config.tieWordEmbeddings)
    throw new ConfigError("`tie_word_embeddings` (= false) must be true here.", { operation: config.modelType, got: false });
  const { weight } = wordEmbedding as Embedding;
  const bias = Parameter.from(zeros([config.vocabSize]), [config.vocabSize]);
  return { bias, decoder: new Linear(config.embeddingSize, config.vocabSize, { weight, bias }) };
}

/** decoder(norm(act(dense(x)))): BERT's output layer for words. */
export function bertPredictions(config: BertConfig, init: Initializer, base: Backbone) {
  const { bias, decoder } = tiedDecoder(config, base);
  const own: Layer = dense(config.hiddenSize, config.embeddingSize, init);
  const transform = group({ dense: own, LayerNorm: norm(config, config.embeddingSize) });
  return group({ bias, transform, decoder });
}

/** Logits of the words: [B, T, C] → [B, T, V]. */
export const predictWords = (
  { hiddenAct }: BertConfig,
  { transform, decoder }: ReturnType<typeof bertPredictions>,
  states: Tensor,
): Tensor => decoder.forward(transform.LayerNorm.forward(activation(hiddenAct)(transform.dense.forward(states))));

/**
 * A BERT that predicts the word at every position. The output layer's weight is that of the word embeddings.
 *
 * @example
 * const model = new BertForMaskedLM({ vocab_size: 512, hidden_size: 64, intermediate_size: 128, num_hidden_layers: 2,
 *   num_attention_heads: 4 });
 * const { logits, loss } = model.forward({ inputIds, labels: inputIds });   // [B, T, 512], []
 */
export const BertForMaskedLM = tokenModel("BertForMaskedLM", bertFamily("bert"), {
  parts: (config, init, base) => ({ cls: group({ predictions: bertPredictions(config, init, base) }) }),
  logits: ({ config, cls: { predictions } }, states) => predictWords(config, predictions, states),
});

/** A BERT that classifies texts by the state of their first token. */
export const BertForSequenceClassification = textClassifier(
  "BertForSequenceClassification",
  bertFamily("bert", { pooler: true }),
  {
    parts: ({ hiddenSize, numLabels, classifierDropout }, init) => {
      const classifier: Layer = dense(hiddenSize, numLabels, init);
      return { dropout: new Dropout(classifierDropout), classifier };
    },
    logits: ({ bert: { pooler }, dropout, classifier }, states) =>
      classifier.forward(dropout.forward((pooler as BertDense).forward(firstToken(states)))),
  },
);

/** A BERT that classifies every token. */
export const BertForTokenClassification = tokenClassifier("BertForTokenClassification", bertFamily("bert"), "classifier");

/** A BERT that extracts the answer to a question from a text. */
export const BertForQuestionAnswering = questionAnswerer("BertForQuestionAnswering", bertFamily("bert"));
