/**
 * Phi (1, 1.5, 2): attention and feed-forward part in parallel after one norm; rotary positions on a part of each head.
 * @see https://arxiv.org/abs/2309.05463
 */
import { add } from "../graph/elementwise.ts";
import { reshape } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { activation } from "../nn/activation.ts";
import { Dropout } from "../nn/dropout.ts";
import { Embedding } from "../nn/embedding.ts";
import { type Initializer, normal, zeros } from "../nn/init.ts";
import { Linear } from "../nn/linear.ts";
import { type Layer, Module } from "../nn/module.ts";
import { LayerNorm } from "../nn/norm.ts";
import { Rotary, rotate } from "../nn/rotary.ts";
import { checkTextInputs, embedTokens, type ModelSizes, paddingRow, type TextInputs } from "./causal-lm.ts";
import { type ConfigJson, ConfigReader, readOnce } from "./config-reader.ts";
import { attendPass, type DecoderStates, type RotaryPass, rotaryPass, runLayers } from "./decoder.ts";
import { causalLM, type Decoder, type DecoderFamily } from "./decoder-lm.ts";
import { layers } from "./encoder.ts";
import { sequenceClassifier, tokenClassifier } from "./family.ts";

/** The settings of a `config.json` that affect the computation, in camelCase. */
export type PhiConfig = ReturnType<typeof phiConfig>;

/** @throws {ConfigError} for a missing key and for a value that is not supported, by name */
export function phiConfig(json: ConfigJson) {
  const config = new ConfigReader(json, "phi");
  const maxPositionEmbeddings = config.count("max_position_embeddings", 2048);
  const headDim = config.headSize("hidden_size", "num_attention_heads");
  const { rope, rotaryDim } = config.rope(maxPositionEmbeddings, headDim, { partial: 0.5 });
  return {
    modelType: "phi",
    vocabSize: config.count("vocab_size"),
    hiddenSize: config.count("hidden_size"),
    intermediateSize: config.count("intermediate_size"),
    numHiddenLayers: config.layers("num_hidden_layers"),
    numAttentionHeads: config.count("num_attention_heads"),
    numKeyValueHeads: config.keyValueHeads("num_key_value_heads", "num_attention_heads"),
    headDim,
    hiddenAct: config.activation("hidden_act", "gelu_new"),
    residPdrop: config.probability("resid_pdrop", 0),
    embdPdrop: config.probability("embd_pdrop", 0),
    attentionDropout: config.probability("attention_dropout", 0),
    layerNormEps: config.number("layer_norm_eps", 1e-5),
    maxPositionEmbeddings,
    initializerRange: config.number("initializer_range", 0.02),
    rope,
    /** Values of a head that are turned, the first ones. */
    rotaryDim,
    /** Whether queries and keys are normalised per head. */
    qkLayernorm: config.flag("qk_layernorm", false),
    tieWordEmbeddings: config.flag("tie_word_embeddings", false),
    ...config.labels(),
  };
}

/** Grouped-query attention with rotary positions on the first values of each head. */
export class PhiAttention extends Module {
  q_proj: Layer;
  k_proj: Layer;
  v_proj: Layer;
  dense: Layer;
  readonly q_layernorm: LayerNorm | null;
  readonly k_layernorm: LayerNorm | null;
  readonly #config: PhiConfig;
  readonly #layer: number;

  constructor(config: PhiConfig, layer: number, init: Initializer) {
    super();
    const { hiddenSize: C, numAttentionHeads: H, numKeyValueHeads: G, headDim: D, layerNormEps: eps } = config;
    const options = { init, initBias: zeros };
    this.#config = config;
    this.#layer = layer;
    this.q_proj = new Linear(C, H * D, options);
    this.k_proj = new Linear(C, G * D, options);
    this.v_proj = new Linear(C, G * D, options);
    this.dense = new Linear(H * D, C, options);
    this.q_layernorm = config.qkLayernorm ? new LayerNorm(D, { eps }) : null;
    this.k_layernorm = config.qkLayernorm ? new LayerNorm(D, { eps }) : null;
  }

  /** [B, T, C] → [B, T, C] */
  forward(x: Tensor, pass: RotaryPass): Tensor {
    const heads = (layer: Layer) => reshape(layer.forward(x), [...x.shape.slice(0, 2), -1, this.#config.headDim]);
    const [q, k, v] = [heads(this.q_proj), heads(this.k_proj), heads(this.v_proj)];
    const turned = (y: Tensor, norm: LayerNorm | null) => rotate(norm?.forward(y) ?? y, pass.rotary);
    const y = attendPass(turned(q, this.q_layernorm), turned(k, this.k_layernorm), v, pass, {
      layer: this.#layer,
      dropout: this.training ? this.#config.attentionDropout : 0,
    });
    return this.dense.forward(y);
  }
}

/** fc2(act(fc1(x))). */
export class PhiMLP extends Module {
  fc1: Layer;
  fc2: Layer;
  readonly #act: (x: Tensor) => Tensor;

  constructor({ hiddenSize, intermediateSize, hiddenAct }: PhiConfig, init: Initializer) {
    super();
    this.fc1 = new Linear(hiddenSize, intermediateSize, { init, initBias: zeros });
    this.fc2 = new Linear(intermediateSize, hiddenSize, { init, initBias: zeros });
    this.#act = activation(hiddenAct);
  }

  /** [B, T, C] → [B, T, C] */
  forward(x: Tensor): Tensor {
    return this.fc2.forward(this.#act(this.fc1.forward(x)));
  }
}

/** One block: x + attention(norm(x)) + mlp(norm(x)). */
export class PhiDecoderLayer extends Module {
  readonly self_attn: PhiAttention;
  readonly mlp: PhiMLP;
  readonly input_layernorm: LayerNorm;
  readonly resid_dropout: Dropout;

  constructor(config: PhiConfig, layer: number, init: Initializer) {
    super();
    this.self_attn = new PhiAttention(config, layer, init);
    this.mlp = new PhiMLP(config, init);
    this.input_layernorm = new LayerNorm(config.hiddenSize, { eps: config.layerNormEps });
    this.resid_dropout = new Dropout(config.residPdrop);
  }

  /** [B, T, C] → [B, T, C] */
  forward(x: Tensor, pass: RotaryPass): Tensor {
    const y = this.input_layernorm.forward(x);
    const attended = this.resid_dropout.forward(this.self_attn.forward(y, pass));
    return add(x, add(attended, this.resid_dropout.forward(this.mlp.forward(y))));
  }
}

/** Embedding, blocks and the final norm: everything but the output layer. */
export class PhiModel extends Module implements Decoder {
  embed_tokens: Layer;
  readonly embed_dropout: Dropout;
  readonly layers: PhiDecoderLayer[];
  readonly final_layernorm: LayerNorm;
  readonly #rotary: Rotary;
  readonly #config: PhiConfig;

  constructor(config: PhiConfig, init: Initializer) {
    super();
    this.#config = config;
    this.embed_tokens = new Embedding(config.vocabSize, config.hiddenSize, { init, ...paddingRow(config) });
    this.embed_dropout = new Dropout(config.embdPdrop);
    this.layers = layers(config.numHiddenLayers, (i) => new PhiDecoderLayer(config, i, init));
    this.final_layernorm = new LayerNorm(config.hiddenSize, { eps: config.layerNormEps });
    this.#rotary = new Rotary(config.rotaryDim, config.rope);
  }

  get sizes(): ModelSizes {
    const { modelType, hiddenSize: width, numHiddenLayers: layers, numKeyValueHeads: heads, headDim } = this.#config;
    return { modelType, width, layers, heads, headDim, stretch: { from: this.#rotary.lastUnchanged, isAnew: false } };
  }

  get wordEmbedding(): Layer {
    return this.embed_tokens;
  }

  forward(inputs: TextInputs): DecoderStates {
    checkTextInputs(this.sizes, inputs);
    const pass = rotaryPass(this.#rotary, inputs, this.#config.maxPositionEmbeddings);
    const x = this.embed_dropout.forward(embedTokens(inputs, this.embed_tokens));
    return runLayers(x, this.layers, pass, (y) => this.final_layernorm.forward(y));
  }
}

const family: DecoderFamily<"model", PhiConfig, PhiModel> = {
  name: "model",
  read: (config) => readOnce(config, "hiddenSize", phiConfig),
  std: ({ initializerRange }) => initializerRange,
  build: (config, init = normal({ std: config.initializerRange })) => new PhiModel(config, init),
  reader: (model) => model,
};

/** A Phi that classifies texts. */
export const PhiForSequenceClassification = sequenceClassifier("PhiForSequenceClassification", family);

/** A Phi that classifies every token. */
export const PhiForTokenClassification = tokenClassifier("PhiForTokenClassification", family, "score");

/** A Phi that predicts the next token. */
export const PhiForCausalLM = causalLM("PhiForCausalLM", family, { bias: true });
