/**
 * MPNet: RoBERTa without token types, plus T5's learned bias for each distance, shared by all blocks.
 * @see https://arxiv.org/abs/2004.09297
 */
import { add, tanh } from "../graph/elementwise.ts";
import type { Tensor } from "../graph/node.ts";
import { activation } from "../nn/activation.ts";
import type { AttendOptions } from "../nn/attention.ts";
import { Dropout } from "../nn/dropout.ts";
import { Embedding } from "../nn/embedding.ts";
import { type Initializer, normal, zeros } from "../nn/init.ts";
import { Linear } from "../nn/linear.ts";
import { group, type Layer, Module } from "../nn/module.ts";
import { LayerNorm } from "../nn/norm.ts";
import { type BertConfig, BertDense, BertOutput, BertReader, type BertVariant, bertConfig } from "./bert.ts";
import { type Backbone, checkTextInputs, textShape } from "./causal-lm.ts";
import { type ConfigJson, ConfigReader, readOnce } from "./config-reader.ts";
import { attendHeads, type EncoderInputs, type EncoderStates, encode, firstToken, layers, refuseInputs } from "./encoder.ts";
import { type Family, questionAnswerer, tokenClassifier } from "./family.ts";
import { robertaClassifier, robertaMaskedLM } from "./roberta.ts";
import { distanceBias } from "./t5-attention.ts";

const variant: BertVariant = {
  modelType: "mpnet",
  defaults: { pad_token_id: 1 },
  positionsAfterPadding: true,
  hasTokenTypes: false,
};
const distances = { buckets: 32, maxDistance: 128, isCausal: false };

function mpnetConfig(json: ConfigJson): BertConfig {
  const config = new ConfigReader(json, variant.modelType, variant.defaults);
  config.fixed("relative_attention_num_buckets", distances.buckets);
  // as in transformers, whatever the file says
  return { ...bertConfig(json, variant), padTokenId: 1 };
}

/** Attention of all tokens to all, to which distances add. */
export class MPNetSelfAttention extends Module {
  q: Layer;
  k: Layer;
  v: Layer;
  o: Layer;
  readonly #config: BertConfig;

  constructor(config: BertConfig, init: Initializer) {
    super();
    const own = (): Layer => new Linear(config.hiddenSize, config.hiddenSize, { init, initBias: zeros });
    this.#config = config;
    this.q = own();
    this.k = own();
    this.v = own();
    this.o = own();
  }

  /** [B, T, C] → [B, T, C] */
  forward(x: Tensor, seen: Pick<AttendOptions, "keyMask" | "mask">): Tensor {
    const { numAttentionHeads, attentionProbsDropoutProb } = this.#config;
    const dropout = this.training ? attentionProbsDropoutProb : 0;
    const [q, k, v] = [this.q.forward(x), this.k.forward(x), this.v.forward(x)];
    return this.o.forward(attendHeads(q, k, v, numAttentionHeads, { ...seen, dropout }));
  }
}

/** One block: y = norm(x + attention(x)), then norm(y + mlp(y)). */
export class MPNetLayer extends Module {
  readonly attention;
  readonly intermediate: BertDense;
  readonly output: BertOutput;

  constructor(config: BertConfig, init: Initializer) {
    super();
    const { hiddenSize, intermediateSize, layerNormEps: eps, hiddenDropoutProb } = config;
    this.attention = group({
      attn: new MPNetSelfAttention(config, init),
      LayerNorm: new LayerNorm(hiddenSize, { eps }),
      dropout: new Dropout(hiddenDropoutProb),
    });
    this.intermediate = new BertDense(hiddenSize, intermediateSize, activation(config.hiddenAct), init);
    this.output = new BertOutput(config, intermediateSize, init);
  }

  /** [B, T, C] → [B, T, C] */
  forward(x: Tensor, seen: Pick<AttendOptions, "keyMask" | "mask">): Tensor {
    const { attn, LayerNorm: norm, dropout } = this.attention;
    const y = norm.forward(add(dropout.forward(attn.forward(x, seen)), x));
    return this.output.forward(this.intermediate.forward(y), y);
  }
}

/** Embeddings and blocks, with a pooler where no output layer is behind it. */
export class MPNetModel extends BertReader implements Backbone {
  readonly encoder;
  readonly pooler: BertDense | null;

  constructor(config: BertConfig, init: Initializer, { pooler }: { readonly pooler: boolean }) {
    super(config, init);
    const { hiddenSize, numHiddenLayers, numAttentionHeads } = config;
    const layer = layers(numHiddenLayers, () => new MPNetLayer(config, init));
    const relative_attention_bias: Layer = new Embedding(distances.buckets, numAttentionHeads, { init });
    this.encoder = group({ layer, relative_attention_bias });
    this.pooler = pooler ? new BertDense(hiddenSize, hiddenSize, tanh, init) : null;
  }

  /** @throws {ConfigError} for token types and a past; @throws {ShapeError} for other sizes than [B, T], and more tokens than positions */
  forward(inputs: EncoderInputs): EncoderStates {
    checkTextInputs(this.sizes, inputs);
    refuseInputs("mpnet", inputs, ["tokenTypeIds", "past"]);
    const [, T] = textShape(inputs);
    const mask = distanceBias(this.encoder.relative_attention_bias, T, T, distances);
    const blocks = this.encoder.layer.map((layer) => ({
      forward: (x: Tensor, seen: Pick<AttendOptions, "keyMask">) => layer.forward(x, { ...seen, mask }),
    }));
    const states = encode(this.embeddings.forward(inputs), blocks, inputs);
    return { ...states, ...(this.pooler && { poolerOutput: this.pooler.forward(firstToken(states.lastHiddenState)) }) };
  }
}

const mpnet = (pooler = false): Family<"mpnet", BertConfig, MPNetModel> => ({
  name: "mpnet",
  alone: () => mpnet(true),
  read: (config) => readOnce(config, "hiddenSize", mpnetConfig),
  build: (config, init = normal({ std: config.initializerRange })) => new MPNetModel(config, init, { pooler }),
  reader: (model) => model,
  std: ({ initializerRange }) => initializerRange,
  pathOf: (path) => (!pooler && path.startsWith("mpnet.pooler.") ? null : path),
});
const family = mpnet();

/** An MPNet that predicts the word at every position. The output layer's weight is that of the word embeddings. */
export const MPNetForMaskedLM = robertaMaskedLM("MPNetForMaskedLM", family);
/** An MPNet that classifies texts by the state of their first token. */
export const MPNetForSequenceClassification = robertaClassifier("MPNetForSequenceClassification", family);
/** An MPNet that classifies every token. */
export const MPNetForTokenClassification = tokenClassifier("MPNetForTokenClassification", family, "classifier");
/** An MPNet that extracts the answer to a question from a text. */
export const MPNetForQuestionAnswering = questionAnswerer("MPNetForQuestionAnswering", family);
