/**
 * ModernBERT: pre-norm blocks with rotary positions, a gated feed-forward part and no token types. Two of three layers see a window on
 * both sides, and have rotary angles of their own.
 * @see https://arxiv.org/abs/2412.13663
 */
import { isRecord } from "../errors.ts";
import { add, less, mul, sub } from "../graph/elementwise.ts";
import { reshape, sliceAxis } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { constant, iota } from "../graph/source.ts";
import { activation } from "../nn/activation.ts";
import { type AttendOptions, attend } from "../nn/attention.ts";
import { Dropout, dropout } from "../nn/dropout.ts";
import { Embedding } from "../nn/embedding.ts";
import { type Initializer, normal, zeros } from "../nn/init.ts";
import { Linear } from "../nn/linear.ts";
import { type Layer, Module } from "../nn/module.ts";
import { LayerNorm } from "../nn/norm.ts";
import { Rotary, type RotaryTables, rotate } from "../nn/rotary.ts";
import { abs } from "../tensor/math.ts";
import { type Backbone, checkTextInputs, embedTokens, type ModelSizes, paddingRow, textShape, tied } from "./causal-lm.ts";
import { type ConfigJson, ConfigReader, readOnce } from "./config-reader.ts";
import { type EncoderInputs, type EncoderStates, encode, firstToken, layers, meanToken, refuseInputs } from "./encoder.ts";
import { type Family, type Head, questionModel, textClassifier, tokenModel } from "./family.ts";

/** The settings of a `config.json` that affect the computation, in camelCase. */
export type ModernBertConfig = ReturnType<typeof modernBertConfig>;

/** @throws {ConfigError} for a missing key and for a value that is not supported, by name */
export function modernBertConfig(json: ConfigJson) {
  // windows are as local_attention says; sliding_window only tells which layers have one
  const config = new ConfigReader({ ...json, sliding_window: 1 }, "modernbert", { pad_token_id: 50283 });
  const headDim = config.headSize("hidden_size", "num_attention_heads");
  const numHiddenLayers = config.layers("num_hidden_layers");
  const maxPositionEmbeddings = config.count("max_position_embeddings", 8192);
  const every = config.count("global_attn_every_n_layers", 3);
  const pooling = config.text("classifier_pooling", "cls");
  if (pooling !== "cls" && pooling !== "mean") config.refuse("classifier_pooling", pooling, 'must be "cls" or "mean"');
  config.fixed("sparse_pred_ignore_index", -100);
  /** Of the layers of one kind: what the file says of them, what it says of all, and the angle's base under its older name. */
  const rope = (kind: string, older: string, theta: number) => {
    const own = config.inner("rope_parameters").get(kind) ?? config.get("rope_scaling") ?? {};
    if (!isRecord(own)) config.refuse(kind, own, "must be an object");
    const rope_theta = config.number(older, theta);
    return new ConfigReader({ rope_theta, rope_parameters: own }, "modernbert").rope(maxPositionEmbeddings, headDim).rope;
  };
  return {
    vocabSize: config.count("vocab_size"),
    hiddenSize: config.count("hidden_size"),
    intermediateSize: config.count("intermediate_size"),
    numHiddenLayers,
    numAttentionHeads: config.count("num_attention_heads"),
    headDim,
    maxPositionEmbeddings,
    hiddenActivation: config.activation("hidden_activation", "gelu"),
    /** For each layer, whether it sees a window only. */
    isLocal: config.windows(numHiddenLayers, (layer) => layer % every !== 0).map((window) => window > 0),
    /** Tokens on each side that a local layer sees. */
    reach: Math.floor(config.count("local_attention", 128) / 2),
    globalRope: rope("full_attention", "global_rope_theta", 160000),
    localRope: rope("sliding_attention", "local_rope_theta", 10000),
    normEps: config.number("norm_eps", 1e-5),
    normBias: config.flag("norm_bias", false),
    attentionBias: config.flag("attention_bias", false),
    mlpBias: config.flag("mlp_bias", false),
    decoderBias: config.flag("decoder_bias", true),
    classifierBias: config.flag("classifier_bias", false),
    classifierActivation: config.activation("classifier_activation", "gelu"),
    classifierPooling: pooling,
    embeddingDropout: config.probability("embedding_dropout", 0),
    attentionDropout: config.probability("attention_dropout", 0),
    mlpDropout: config.probability("mlp_dropout", 0),
    initializerRange: config.number("initializer_range", 0.02),
    tieWordEmbeddings: config.flag("tie_word_embeddings", true),
    ...config.labels(0),
  };
}

/** What the tokens of one layer see, and how they are turned. */
export interface ModernBertPass extends Pick<AttendOptions, "keyMask" | "mask"> {
  readonly rotary: RotaryTables;
}

const norm = ({ hiddenSize, normEps: eps, normBias: bias }: ModernBertConfig): LayerNorm =>
  new LayerNorm(hiddenSize, { eps, bias });
const dense = (into: number, out: number, bias: boolean, init: Initializer): Layer =>
  new Linear(into, out, { bias, init, initBias: zeros });

/** Words; positions are the layers' matter. */
export class ModernBertEmbeddings extends Module {
  tok_embeddings: Layer;
  readonly norm: LayerNorm;
  readonly drop: Dropout;

  constructor(config: ModernBertConfig, init: Initializer) {
    super();
    this.tok_embeddings = new Embedding(config.vocabSize, config.hiddenSize, { init, ...paddingRow(config) });
    this.norm = norm(config);
    this.drop = new Dropout(config.embeddingDropout);
  }

  forward(inputs: EncoderInputs): Tensor {
    return this.drop.forward(this.norm.forward(embedTokens(inputs, this.tok_embeddings)));
  }
}

/** Attention with one layer for queries, keys and values. */
export class ModernBertAttention extends Module {
  Wqkv: Layer;
  Wo: Layer;
  readonly out_drop: Dropout;
  readonly #config: ModernBertConfig;

  constructor(config: ModernBertConfig, init: Initializer) {
    super();
    const { hiddenSize: C, attentionBias } = config;
    this.#config = config;
    this.Wqkv = dense(C, 3 * C, attentionBias, init);
    this.Wo = dense(C, C, attentionBias, init);
    this.out_drop = new Dropout(config.attentionDropout);
  }

  /** [B, T, C] → [B, T, C] */
  forward(x: Tensor, { rotary, ...seen }: ModernBertPass): Tensor {
    const { numAttentionHeads: H, headDim, attentionDropout: p } = this.#config;
    const heads = reshape(this.Wqkv.forward(x), [...x.shape.slice(0, 2), 3 * H, headDim]);
    const [q, k, v] = [0, 1, 2].map((part) => sliceAxis(heads, 2, part * H, (part + 1) * H)) as [Tensor, Tensor, Tensor];
    const dropped = this.training && p > 0 ? { dropout: (weights: Tensor) => dropout(weights, p) } : {};
    const y = attend(rotate(q, rotary), rotate(k, rotary), v, { ...seen, ...dropped });
    return this.out_drop.forward(this.Wo.forward(reshape(y, x.shape)));
  }
}

/** Wo(act(input) ∘ gate), both from one layer. */
export class ModernBertMLP extends Module {
  Wi: Layer;
  readonly drop: Dropout;
  Wo: Layer;
  readonly #config: ModernBertConfig;

  constructor(config: ModernBertConfig, init: Initializer) {
    super();
    const { hiddenSize: C, intermediateSize: F, mlpBias } = config;
    this.#config = config;
    this.Wi = dense(C, 2 * F, mlpBias, init);
    this.drop = new Dropout(config.mlpDropout);
    this.Wo = dense(F, C, mlpBias, init);
  }

  forward(x: Tensor): Tensor {
    const { intermediateSize: F, hiddenActivation } = this.#config;
    const both = this.Wi.forward(x);
    const inner = mul(activation(hiddenActivation)(sliceAxis(both, 2, 0, F)), sliceAxis(both, 2, F, 2 * F));
    return this.Wo.forward(this.drop.forward(inner));
  }
}

/** One block: x + attn(norm(x)), then that + mlp(norm(that)); what goes into the first one is normalised already. */
export class ModernBertEncoderLayer extends Module {
  readonly attn_norm: LayerNorm | null;
  readonly attn: ModernBertAttention;
  readonly mlp_norm: LayerNorm;
  readonly mlp: ModernBertMLP;

  constructor(config: ModernBertConfig, layer: number, init: Initializer) {
    super();
    this.attn_norm = layer === 0 ? null : norm(config);
    this.attn = new ModernBertAttention(config, init);
    this.mlp_norm = norm(config);
    this.mlp = new ModernBertMLP(config, init);
  }

  /** [B, T, C] → [B, T, C] */
  forward(x: Tensor, pass: ModernBertPass): Tensor {
    const y = add(x, this.attn.forward(this.attn_norm?.forward(x) ?? x, pass));
    return add(y, this.mlp.forward(this.mlp_norm.forward(y)));
  }
}

/** [1, 1, T, T]: what is at most so many tokens away; nothing where that is all. */
function near(T: number, reach: number): Pick<AttendOptions, "mask"> {
  if (T - 1 <= reach) return {};
  const [row, column] = [reshape(iota([T]), [1, 1, T, 1]), reshape(iota([T]), [1, 1, 1, T])];
  return { mask: less(abs(sub(row, column)), constant(reach + 1, [], "int32")) };
}

/** Embeddings, blocks and the final norm. */
export class ModernBertModel extends Module implements Backbone {
  readonly embeddings: ModernBertEmbeddings;
  readonly layers: readonly ModernBertEncoderLayer[];
  readonly final_norm: LayerNorm;
  readonly #config: ModernBertConfig;
  readonly #global: Rotary;
  readonly #local: Rotary;

  constructor(config: ModernBertConfig, init: Initializer) {
    super();
    this.#config = config;
    this.#global = new Rotary(config.headDim, config.globalRope);
    this.#local = new Rotary(config.headDim, config.localRope);
    this.embeddings = new ModernBertEmbeddings(config, init);
    this.layers = layers(config.numHiddenLayers, (layer) => new ModernBertEncoderLayer(config, layer, init));
    this.final_norm = norm(config);
  }

  get sizes(): ModelSizes {
    const { hiddenSize: width, numHiddenLayers, numAttentionHeads: heads, headDim } = this.#config;
    return { modelType: "modernbert", width, layers: numHiddenLayers, heads, headDim };
  }

  get wordEmbedding(): Layer {
    return this.embeddings.tok_embeddings;
  }

  /** @throws {ConfigError} for token types and a past; @throws {ShapeError} for other sizes than [B, T] */
  forward(inputs: EncoderInputs): EncoderStates {
    checkTextInputs(this.sizes, inputs);
    refuseInputs("modernbert", inputs, ["tokenTypeIds", "past"]);
    const { isLocal, reach, maxPositionEmbeddings } = this.#config;
    const { positionIds } = inputs;
    const [, T] = textShape(inputs);
    const turned = (rotary: Rotary) => ({
      rotary: positionIds ? rotary.at(positionIds, Math.max(T, maxPositionEmbeddings), T) : rotary.range(T),
    });
    const [all, some] = [turned(this.#global), { ...turned(this.#local), ...near(T, reach) }];
    const blocks = this.layers.map((layer, i) => ({
      forward: (x: Tensor, seen: object) => layer.forward(x, { ...seen, ...(isLocal[i] ? some : all) }),
    }));
    const { hiddenStates } = encode(this.embeddings.forward(inputs), blocks, inputs);
    const lastHiddenState = this.final_norm.forward(hiddenStates.at(-1) as Tensor);
    return { lastHiddenState, hiddenStates: [...hiddenStates.slice(0, -1), lastHiddenState] };
  }
}

/** norm(act(dense(x))): what stands before every output layer. */
export class ModernBertPredictionHead extends Module {
  dense: Layer;
  readonly norm: LayerNorm;
  readonly #act: (x: Tensor) => Tensor;

  constructor(config: ModernBertConfig, init: Initializer) {
    super();
    this.dense = dense(config.hiddenSize, config.hiddenSize, config.classifierBias, init);
    this.norm = norm(config);
    this.#act = activation(config.classifierActivation);
  }

  forward(x: Tensor): Tensor {
    return this.norm.forward(this.#act(this.dense.forward(x)));
  }
}

/** What is left of the deviation of normal values where those from twice as far on are drawn again, as transformers does. */
const cutOff = 0.88;

const family: Family<"model", ModernBertConfig, ModernBertModel> = {
  name: "model",
  read: (config) => readOnce(config, "isLocal", modernBertConfig),
  build: (config, init = normal({ std: config.initializerRange })) => new ModernBertModel(config, init),
  reader: (model) => model,
  std: ({ initializerRange, hiddenSize, numHiddenLayers }, path = "") =>
    cutOff * (path.startsWith("classifier.") ? hiddenSize ** -0.5 : initializerRange / Math.sqrt(2 * numHiddenLayers)),
  pathOf: (path) => path.replace(/^model\.(head|decoder)\./, "$1."),
};

/** A ModernBERT that predicts the word at every position. The output layer's weight is that of the word embeddings. */
export const ModernBertForMaskedLM = tokenModel("ModernBertForMaskedLM", family, {
  parts: (config, init, base) => {
    const { hiddenSize, vocabSize, decoderBias: bias } = config;
    const decoder: Layer = new Linear(hiddenSize, vocabSize, { bias, init, initBias: zeros, ...tied(config, base) });
    return { head: new ModernBertPredictionHead(config, init), decoder };
  },
  logits: ({ head, decoder }, states) => decoder.forward(head.forward(states)),
});

const classes = (config: ModernBertConfig, init: Initializer) => ({
  head: new ModernBertPredictionHead(config, init),
  drop: new Dropout(config.classifierDropout),
  classifier: dense(config.hiddenSize, config.numLabels, true, init),
});

/** A ModernBERT that classifies texts by the state of their first token, or by the mean of all. */
export const ModernBertForSequenceClassification = textClassifier("ModernBertForSequenceClassification", family, {
  parts: classes,
  logits: ({ config, head, drop, classifier }, states, inputs) => {
    const text = config.classifierPooling === "cls" ? firstToken(states) : meanToken(states, inputs.attentionMask);
    return classifier.forward(drop.forward(head.forward(text)));
  },
});

const ofTokens: Head<"model", ModernBertConfig, ModernBertModel, ReturnType<typeof classes>> = {
  parts: classes,
  logits: ({ head, drop, classifier }, states) => classifier.forward(drop.forward(head.forward(states))),
};

/** A ModernBERT that classifies every token. */
export const ModernBertForTokenClassification = tokenModel("ModernBertForTokenClassification", family, ofTokens);

/** A ModernBERT that extracts the answer to a question from a text. */
export const ModernBertForQuestionAnswering = questionModel("ModernBertForQuestionAnswering", family, ofTokens);
