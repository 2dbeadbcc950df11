/**
 * ALBERT: BERT that runs one block, or a few, over and over, with word vectors smaller than its states.
 * @see https://arxiv.org/abs/1909.11942
 */
import { add, tanh } from "../graph/elementwise.ts";
import type { Tensor } from "../graph/node.ts";
import { activation } from "../nn/activation.ts";
import { Dropout } from "../nn/dropout.ts";
import { type Initializer, normal, zeros } from "../nn/init.ts";
import { Linear } from "../nn/linear.ts";
import { group, type Layer, Module } from "../nn/module.ts";
import { LayerNorm } from "../nn/norm.ts";
import { BertReader, type BertVariant, bertConfig, tiedDecoder } from "./bert.ts";
import { type Backbone, checkTextInputs } from "./causal-lm.ts";
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

const without = { hidden_dropout_prob: 0, attention_probs_dropout_prob: 0 };
const variant: BertVariant = {
  modelType: "albert",
  defaults: { pad_token_id: 0, embedding_size: 128, hidden_act: "gelu_new", ...without },
  positionsAfterPadding: false,
};

type AlbertConfig = ReturnType<typeof albertConfig>;

function albertConfig(json: ConfigJson) {
  const config = new ConfigReader(json, variant.modelType, variant.defaults);
  const numHiddenGroups = config.count("num_hidden_groups", 1);
  const known = bertConfig(json, variant);
  if (numHiddenGroups > known.numHiddenLayers)
    config.refuse("num_hidden_groups", numHiddenGroups, `must be at most num_hidden_layers (= ${known.numHiddenLayers})`);
  return {
    ...known,
    numHiddenGroups,
    innerGroupNum: config.layers("inner_group_num", 1),
    classifierDropout: config.probability("classifier_dropout_prob", 0.1),
  };
}

const dense = (into: number, out: number, init: Initializer): Layer => new Linear(into, out, { init, initBias: zeros });
const norm = ({ hiddenSize, layerNormEps: eps }: AlbertConfig): LayerNorm => new LayerNorm(hiddenSize, { eps });

/** norm(x + dense(attention of all tokens to all)). */
export class AlbertAttention extends Module {
  query: Layer;
  key: Layer;
  value: Layer;
  dense: Layer;
  readonly LayerNorm: LayerNorm;
  readonly dropout: Dropout;
  readonly #config: AlbertConfig;

  constructor(config: AlbertConfig, init: Initializer) {
    super();
    const own = () => dense(config.hiddenSize, config.hiddenSize, init);
    this.#config = config;
    this.query = own();
    this.key = own();
    this.value = own();
    this.dense = own();
    this.LayerNorm = norm(config);
    this.dropout = new Dropout(config.hiddenDropoutProb);
  }

  /** [B, T, C] → [B, T, C] */
  forward(x: Tensor, seen: Seen): Tensor {
    const { numAttentionHeads, attentionProbsDropoutProb } = this.#config;
    const dropout = this.training ? attentionProbsDropoutProb : 0;
    const [q, k, v] = [this.query.forward(x), this.key.forward(x), this.value.forward(x)];
    const attended = attendHeads(q, k, v, numAttentionHeads, { ...seen, dropout });
    return this.LayerNorm.forward(add(x, this.dropout.forward(this.dense.forward(attended))));
  }
}

/** One block: y = norm(x + attention(x)), then norm(y + mlp(y)). */
export class AlbertLayer extends Module {
  readonly full_layer_layer_norm: LayerNorm;
  readonly attention: AlbertAttention;
  ffn: Layer;
  ffn_output: Layer;
  readonly #act: (x: Tensor) => Tensor;

  constructor(config: AlbertConfig, init: Initializer) {
    super();
    const { hiddenSize: C, intermediateSize: F } = config;
    this.full_layer_layer_norm = norm(config);
    this.attention = new AlbertAttention(config, init);
    this.ffn = dense(C, F, init);
    this.ffn_output = dense(F, C, init);
    this.#act = activation(config.hiddenAct);
  }

  /** [B, T, C] → [B, T, C] */
  forward(x: Tensor, seen: Seen): Tensor {
    const y = this.attention.forward(x, seen);
    return this.full_layer_layer_norm.forward(add(this.ffn_output.forward(this.#act(this.ffn.forward(y))), y));
  }
}

/** Embeddings, their projection, and blocks; with a pooler, which some output layers need. */
export class AlbertModel extends BertReader implements Backbone {
  readonly encoder;
  pooler: Layer | null;
  readonly #config: AlbertConfig;

  constructor(config: AlbertConfig, init: Initializer, { pooler }: { readonly pooler: boolean }) {
    super(config, init);
    const { embeddingSize, hiddenSize, numHiddenGroups, innerGroupNum } = config;
    this.#config = config;
    const blocks = () => group({ albert_layers: layers(innerGroupNum, () => new AlbertLayer(config, init)) });
    const embedding_hidden_mapping_in = dense(embeddingSize, hiddenSize, init);
    this.encoder = group({ embedding_hidden_mapping_in, albert_layer_groups: layers(numHiddenGroups, blocks) });
    this.pooler = pooler ? dense(hiddenSize, hiddenSize, init) : null;
  }

  /** @throws {ConfigError} for a past; @throws {ShapeError} for other sizes than [B, T], and more tokens than positions */
  forward(inputs: EncoderInputs): EncoderStates {
    checkTextInputs(this.sizes, inputs);
    refuseInputs("albert", inputs, ["past"]);
    const { numHiddenLayers, numHiddenGroups } = this.#config;
    const { embedding_hidden_mapping_in: mapping, albert_layer_groups: groups } = this.encoder;
    const group = (layer: number) => groups[Math.trunc(layer / (numHiddenLayers / numHiddenGroups))] as (typeof groups)[number];
    const passed = Array.from({ length: numHiddenLayers }, (_, layer) => group(layer).albert_layers).flat();
    const states = encode(mapping.forward(this.embeddings.forward(inputs)), passed, inputs);
    return { ...states, ...(this.pooler && { poolerOutput: tanh(this.pooler.forward(firstToken(states.lastHiddenState))) }) };
  }
}

/** The original training's own output layer, which tells the order of two texts, is not read. */
const albert = (pooler?: boolean): Family<"albert", AlbertConfig, AlbertModel> => ({
  name: "albert",
  alone: () => albert(true),
  read: (config) => readOnce(config, "numHiddenGroups", albertConfig),
  build: (config, init = normal({ std: config.initializerRange })) => new AlbertModel(config, init, { pooler: pooler ?? false }),
  reader: (model) => model,
  std: ({ initializerRange }) => initializerRange,
  pathOf: (path) => (path.startsWith("sop_classifier.") || (!pooler && path.startsWith("albert.pooler.")) ? null : path),
});
const family = albert();

/** An ALBERT that predicts the word at every position. The output layer's weight is that of the word embeddings. */
export const AlbertForMaskedLM = tokenModel("AlbertForMaskedLM", family, {
  parts: (config, init, base) => {
    const { hiddenSize, embeddingSize, layerNormEps: eps } = config;
    const { bias, decoder } = tiedDecoder(config, base);
    const own = dense(hiddenSize, embeddingSize, init);
    return { predictions: group({ LayerNorm: new LayerNorm(embeddingSize, { eps }), bias, dense: own, decoder }) };
  },
  logits: ({ config, predictions: { LayerNorm: normalise, dense: own, decoder } }, states) =>
    decoder.forward(normalise.forward(activation(config.hiddenAct)(own.forward(states)))),
});

/** An ALBERT that classifies texts by the state of their first token. */
export const AlbertForSequenceClassification = textClassifier("AlbertForSequenceClassification", albert(true), {
  parts: ({ hiddenSize, numLabels, classifierDropout }, init) => ({
    dropout: new Dropout(classifierDropout),
    classifier: dense(hiddenSize, numLabels, init),
  }),
  logits: ({ albert: { pooler }, dropout, classifier }, states) =>
    classifier.forward(dropout.forward(tanh((pooler as Layer).forward(firstToken(states))))),
});

/** An ALBERT that classifies every token. */
export const AlbertForTokenClassification = tokenClassifier("AlbertForTokenClassification", family, "classifier");

/** An ALBERT that extracts the answer to a question from a text. */
export const AlbertForQuestionAnswering = questionAnswerer("AlbertForQuestionAnswering", family);
