/**
 * OPT: pre-norm (350M: post-norm) blocks with learned positions.
 * @see https://arxiv.org/abs/2205.01068
 */
import { add, cast, where } from "../graph/elementwise.ts";
import { reshape } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { constant } from "../graph/source.ts";
import { activation } from "../nn/activation.ts";
import { Dropout } from "../nn/dropout.ts";
import { Embedding } from "../nn/embedding.ts";
import { type Initializer, normal, zeros } from "../nn/init.ts";
import { Linear } from "../nn/linear.ts";
import { type Layer, Module } from "../nn/module.ts";
import { LayerNorm } from "../nn/norm.ts";
import { checkTextInputs, embedTokens, type ModelSizes, paddingRow, type TextInputs, textShape } from "./causal-lm.ts";
import { type ConfigJson, ConfigReader, readOnce } from "./config-reader.ts";
import { attendPass, beginPass, type DecoderStates, learnedPositions, type Pass, runLayers } from "./decoder.ts";
import { causalLM, type Decoder, type DecoderFamily } from "./decoder-lm.ts";
import { layers } from "./encoder.ts";
import { questionAnswerer, sequenceClassifier } from "./family.ts";

/** The settings of a `config.json` that affect the computation, in camelCase. */
export type OPTConfig = ReturnType<typeof optConfig>;

/** Rows of the table of positions in front of that of position 0. */
const offset = 2;

/** @throws {ConfigError} for a missing key and for a value that is not supported, by name */
export function optConfig(json: ConfigJson) {
  const config = new ConfigReader(json, "opt", { pad_token_id: 1 });
  config.fixed("layerdrop", 0);
  const hiddenSize = config.count("hidden_size");
  const doLayerNormBefore = config.flag("do_layer_norm_before", true);
  return {
    modelType: "opt",
    vocabSize: config.count("vocab_size"),
    hiddenSize,
    ffnDim: config.count("ffn_dim"),
    numHiddenLayers: config.layers("num_hidden_layers"),
    numAttentionHeads: config.count("num_attention_heads"),
    headDim: config.headSize("hidden_size", "num_attention_heads"),
    activationFunction: config.activation("activation_function", "relu"),
    dropout: config.probability("dropout", 0.1),
    attentionDropout: config.probability("attention_dropout", 0),
    maxPositionEmbeddings: config.count("max_position_embeddings", 2048),
    initStd: config.number("init_std", 0.02),
    doLayerNormBefore,
    /** Whether norms have weights and biases; those of Galactica have none. */
    layerNormElementwiseAffine: config.flag("layer_norm_elementwise_affine", true),
    /** Whether a norm follows the last layer. */
    finalNorm: doLayerNormBefore && !config.flag("_remove_final_layer_norm", false),
    /** Size of the embeddings, which are projected to `hiddenSize` and back where it is another. */
    wordEmbedProjDim: config.count("word_embed_proj_dim", hiddenSize),
    enableBias: config.flag("enable_bias", true),
    tieWordEmbeddings: config.flag("tie_word_embeddings", true),
    ...config.labels(),
  };
}

/** Attention. */
export class OPTAttention extends Module {
  k_proj: Layer;
  v_proj: Layer;
  q_proj: Layer;
  out_proj: Layer;
  readonly #config: OPTConfig;
  readonly #layer: number;

  constructor(config: OPTConfig, layer: number, init: Initializer) {
    super();
    const make = () => new Linear(config.hiddenSize, config.hiddenSize, { bias: config.enableBias, init, initBias: zeros });
    this.#config = config;
    this.#layer = layer;
    this.k_proj = make();
    this.v_proj = make();
    this.q_proj = make();
    this.out_proj = make();
  }

  /** [B, T, C] → [B, T, C] */
  forward(x: Tensor, pass: Pass): Tensor {
    const heads = (layer: Layer) => reshape(layer.forward(x), [...x.shape.slice(0, 2), -1, this.#config.headDim]);
    const y = attendPass(heads(this.q_proj), heads(this.k_proj), heads(this.v_proj), pass, {
      layer: this.#layer,
      dropout: this.training ? this.#config.attentionDropout : 0,
    });
    return this.out_proj.forward(y);
  }
}

/** One block: x + attention(norm(x)), then that + mlp(norm(that)); or norms after the sums. */
export class OPTDecoderLayer extends Module {
  readonly self_attn: OPTAttention;
  readonly self_attn_layer_norm: LayerNorm;
  fc1: Layer;
  fc2: Layer;
  readonly final_layer_norm: LayerNorm;
  readonly dropout: Dropout;
  readonly #act: (x: Tensor) => Tensor;
  readonly #before: boolean;

  constructor(config: OPTConfig, layer: number, init: Initializer) {
    super();
    const { hiddenSize: C, ffnDim, enableBias: bias } = config;
    this.self_attn = new OPTAttention(config, layer, init);
    this.self_attn_layer_norm = new LayerNorm(C, { weight: config.layerNormElementwiseAffine });
    this.fc1 = new Linear(C, ffnDim, { bias, init, initBias: zeros });
    this.fc2 = new Linear(ffnDim, C, { bias, init, initBias: zeros });
    this.final_layer_norm = new LayerNorm(C, { weight: config.layerNormElementwiseAffine });
    this.dropout = new Dropout(config.dropout);
    this.#act = activation(config.activationFunction);
    this.#before = config.doLayerNormBefore;
  }

  /** [B, T, C] → [B, T, C] */
  forward(x: Tensor, pass: Pass): Tensor {
    const attended = this.#add(x, this.self_attn_layer_norm, (y) => this.self_attn.forward(y, pass));
    return this.#add(attended, this.final_layer_norm, (y) => this.fc2.forward(this.#act(this.fc1.forward(y))));
  }

  #add(x: Tensor, norm: LayerNorm, part: (x: Tensor) => Tensor): Tensor {
    const sum = add(x, this.dropout.forward(part(this.#before ? norm.forward(x) : x)));
    return this.#before ? sum : norm.forward(sum);
  }
}

/** Embeddings, blocks and the final norm: everything but the output layer. */
export class OPTDecoder extends Module implements Decoder {
  embed_tokens: Layer;
  embed_positions: Layer;
  readonly project_out: Layer | null;
  readonly project_in: Layer | null;
  readonly final_layer_norm: LayerNorm | null;
  readonly layers: OPTDecoderLayer[];
  readonly #config: OPTConfig;

  constructor(config: OPTConfig, init: Initializer) {
    super();
    const { hiddenSize: C, wordEmbedProjDim: E, maxPositionEmbeddings } = config;
    this.#config = config;
    this.embed_tokens = new Embedding(config.vocabSize, E, { init, ...paddingRow(config) });
    this.embed_positions = new Embedding(maxPositionEmbeddings + offset, C, { init });
    this.project_out = E === C ? null : new Linear(C, E, { bias: false, init });
    this.project_in = E === C ? null : new Linear(E, C, { bias: false, init });
    this.final_layer_norm = config.finalNorm ? new LayerNorm(C, { weight: config.layerNormElementwiseAffine }) : null;
    this.layers = layers(config.numHiddenLayers, (i) => new OPTDecoderLayer(config, i, init));
  }

  get sizes(): ModelSizes {
    const { modelType, numHiddenLayers: layers, numAttentionHeads: heads, headDim } = this.#config;
    const { wordEmbedProjDim: width, maxPositionEmbeddings: maxLength } = this.#config;
    return { modelType, width, layers, heads, headDim, maxLength };
  }

  get wordEmbedding(): Layer {
    return this.embed_tokens;
  }

  forward(inputs: TextInputs): DecoderStates {
    checkTextInputs(this.sizes, inputs);
    const pass = beginPass(inputs, this.#config.maxPositionEmbeddings);
    const { attentionMask: mask, positionIds } = inputs;
    // padding has the row in front of that of position 0, which matters where its places are judged
    const known = mask && pass.positions && !pass.update && !positionIds;
    const counted = known ? where(cast(mask, "bool"), pass.positions, constant(-1, [], "int32")) : pass.positions;
    const positions = learnedPositions(this.embed_positions, { positions: counted }, textShape(inputs)[1], offset);
    const through = (layer: Layer | null, x: Tensor) => layer?.forward(x) ?? x;
    const x = add(through(this.project_in, embedTokens(inputs, this.embed_tokens)), positions);
    return runLayers(x, this.layers, pass, (y) => through(this.project_out, through(this.final_layer_norm, y)));
  }
}

/** A decoder and nothing else: a step in the paths of checkpoints. */
export class OPTModel extends Module {
  readonly decoder: OPTDecoder;

  constructor(config: OPTConfig, init: Initializer) {
    super();
    this.decoder = new OPTDecoder(config, init);
  }
}

const family: DecoderFamily<"model", OPTConfig, OPTModel> = {
  name: "model",
  read: (config) => readOnce(config, "hiddenSize", optConfig),
  std: ({ initStd }) => initStd,
  build: (config, init = normal({ std: config.initStd })) => new OPTModel(config, init),
  reader: ({ decoder }) => decoder,
};

/** An OPT that classifies texts. */
export const OPTForSequenceClassification = sequenceClassifier("OPTForSequenceClassification", family);

/** An OPT that extracts the answer to a question from a text. */
export const OPTForQuestionAnswering = questionAnswerer("OPTForQuestionAnswering", family);

/** An OPT that predicts the next token. */
export const OPTForCausalLM = causalLM("OPTForCausalLM", family);
