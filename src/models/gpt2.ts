/**
 * GPT-2: pre-norm blocks with learned positions; layers keep their weights as [in, out].
 * @see https://openai.com/research/better-language-models
 */
import { add } from "../graph/elementwise.ts";
import { reshape, sliceAxis } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { activation } from "../nn/activation.ts";
import { Dropout } from "../nn/dropout.ts";
import { Embedding } from "../nn/embedding.ts";
import { type Initializer, normal } from "../nn/init.ts";
import { Conv1D } from "../nn/linear.ts";
import { type Layer, Module } from "../nn/module.ts";
import { LayerNorm } from "../nn/norm.ts";
import { checkTextInputs, embedTokens, type ModelSizes, type TextInputs, textShape } from "./causal-lm.ts";
import { type ConfigJson, ConfigReader, readOnce } from "./config-reader.ts";
import {
  attendPass,
  beginPass,
  type DecoderStates,
  learnedPositions,
  type Pass,
  type Projections,
  runLayers,
  type SelfAttention,
} from "./decoder.ts";
import { causalLM, type Decoder, type DecoderFamily } from "./decoder-lm.ts";
import { layers } from "./encoder.ts";
import { questionAnswerer, sequenceClassifier, tokenClassifier } from "./family.ts";

/** The settings of a `config.json` that affect the computation, in camelCase. */
export type GPT2Config = ReturnType<typeof gpt2Config>;

const defaults = { vocab_size: 50257, n_positions: 1024, n_embd: 768, n_layer: 12, n_head: 12 };

/** @throws {ConfigError} for a value that is not supported, by name */
export function gpt2Config(json: ConfigJson) {
  const config = new ConfigReader(json, "gpt2", defaults);
  config.fixed("add_cross_attention", false);
  const nEmbd = config.count("n_embd");
  const headDim = config.headSize("n_embd", "n_head");
  const scale = config.flag("scale_attn_weights", true) ? 1 / Math.sqrt(headDim) : 1;
  const nLayer = config.layers("n_layer");
  const byLayer = config.flag("scale_attn_by_inverse_layer_idx", false);
  return {
    modelType: "gpt2",
    vocabSize: config.count("vocab_size"),
    nPositions: config.count("n_positions"),
    nEmbd,
    nLayer,
    nHead: config.count("n_head"),
    nInner: config.count("n_inner", 4 * nEmbd),
    activationFunction: config.activation("activation_function", "gelu_new"),
    residPdrop: config.probability("resid_pdrop", 0.1),
    embdPdrop: config.probability("embd_pdrop", 0.1),
    attnPdrop: config.probability("attn_pdrop", 0.1),
    layerNormEpsilon: config.number("layer_norm_epsilon", 1e-5),
    initializerRange: config.number("initializer_range", 0.02),
    /** For each layer, what multiplies q·kᵀ. */
    attentionScales: Array.from({ length: nLayer }, (_, i) => (byLayer ? scale / (i + 1) : scale)),
    tieWordEmbeddings: config.flag("tie_word_embeddings", true),
    ...config.labels(),
  };
}

/** Attention with one layer for queries, keys and values. */
export class GPT2Attention extends Module implements SelfAttention {
  c_attn: Layer;
  c_proj: Layer;
  readonly resid_dropout: Dropout;
  readonly #config: GPT2Config;
  readonly #layer: number;

  constructor(config: GPT2Config, layer: number, init: Initializer, initResidual: Initializer) {
    super();
    const C = config.nEmbd;
    this.#config = config;
    this.#layer = layer;
    this.c_attn = new Conv1D(C, 3 * C, { init });
    this.c_proj = new Conv1D(C, C, { init: initResidual });
    this.resid_dropout = new Dropout(config.residPdrop);
  }

  /** [B, T, C] → three of [B, T, H, D] */
  project(x: Tensor): Projections {
    const H = this.#config.nHead;
    const [B, T, C] = x.shape as [number, number, number];
    const qkv = this.c_attn.forward(x);
    const heads = (i: number) => reshape(sliceAxis(qkv, 2, i * C, (i + 1) * C), [B, T, H, C / H]);
    return { q: heads(0), k: heads(1), v: heads(2) };
  }

  /** [B, T, H, D] */
  queries(x: Tensor): Tensor {
    return this.project(x).q;
  }

  /** [B, T, C] → [B, T, C] */
  forward(x: Tensor, pass: Pass): Tensor {
    const { attentionScales, attnPdrop } = this.#config;
    const { q, k, v } = this.project(x);
    const y = attendPass(q, k, v, pass, {
      layer: this.#layer,
      scale: attentionScales[this.#layer] as number,
      dropout: this.training ? attnPdrop : 0,
    });
    return this.resid_dropout.forward(this.c_proj.forward(y));
  }
}

/** c_proj(act(c_fc(x))). */
export class GPT2MLP extends Module {
  c_fc: Layer;
  c_proj: Layer;
  readonly dropout: Dropout;
  readonly #act: (x: Tensor) => Tensor;

  constructor(config: GPT2Config, init: Initializer, initResidual: Initializer) {
    super();
    this.c_fc = new Conv1D(config.nEmbd, config.nInner, { init });
    this.c_proj = new Conv1D(config.nInner, config.nEmbd, { init: initResidual });
    this.dropout = new Dropout(config.residPdrop);
    this.#act = activation(config.activationFunction);
  }

  /** [B, T, C] → [B, T, C] */
  forward(x: Tensor): Tensor {
    return this.dropout.forward(this.c_proj.forward(this.#act(this.c_fc.forward(x))));
  }
}

/** One block: x + attention(norm(x)), then that + mlp(norm(that)). */
export class GPT2Block extends Module {
  readonly ln_1: LayerNorm;
  readonly attn: GPT2Attention;
  readonly ln_2: LayerNorm;
  readonly mlp: GPT2MLP;

  constructor(config: GPT2Config, layer: number, init: Initializer, initResidual: Initializer) {
    super();
    const norm = () => new LayerNorm(config.nEmbd, { eps: config.layerNormEpsilon });
    this.ln_1 = norm();
    this.attn = new GPT2Attention(config, layer, init, initResidual);
    this.ln_2 = norm();
    this.mlp = new GPT2MLP(config, init, initResidual);
  }

  /** [B, T, C] → [B, T, C] */
  forward(x: Tensor, pass: Pass): Tensor {
    const attended = add(x, this.attn.forward(this.ln_1.forward(x), pass));
    return add(attended, this.mlp.forward(this.ln_2.forward(attended)));
  }
}

/** Embeddings, blocks and the final norm: everything but the output layer. */
export class GPT2Model extends Module implements Decoder {
  wte: Layer;
  wpe: Layer;
  readonly drop: Dropout;
  readonly h: GPT2Block[];
  readonly ln_f: LayerNorm;
  readonly #config: GPT2Config;

  /** @param init first values of all matrices; when absent normal, narrower where a layer ends in the sum of all layers */
  constructor(config: GPT2Config, init?: Initializer) {
    super();
    const { nEmbd: C, nLayer, initializerRange: std } = config;
    const [plain, residual] = [init ?? normal({ std }), init ?? normal({ std: std / Math.sqrt(2 * nLayer) })];
    this.#config = config;
    this.wte = new Embedding(config.vocabSize, C, { init: plain });
    this.wpe = new Embedding(config.nPositions, C, { init: plain });
    this.drop = new Dropout(config.embdPdrop);
    this.h = layers(nLayer, (i) => new GPT2Block(config, i, plain, residual));
    this.ln_f = new LayerNorm(C, { eps: config.layerNormEpsilon });
  }

  get sizes(): ModelSizes {
    const { modelType, nEmbd: width, nLayer: layers, nHead: heads, nPositions: maxLength } = this.#config;
    return { modelType, width, layers, heads, headDim: width / heads, maxLength };
  }

  get wordEmbedding(): Layer {
    return this.wte;
  }

  forward(inputs: TextInputs): DecoderStates {
    checkTextInputs(this.sizes, inputs);
    const pass = beginPass(inputs, this.#config.nPositions);
    const positions = learnedPositions(this.wpe, pass, textShape(inputs)[1]);
    const x = this.drop.forward(add(embedTokens(inputs, this.wte), positions));
    return runLayers(x, this.h, pass, (y) => this.ln_f.forward(y));
  }
}

const family: DecoderFamily<"transformer", GPT2Config, GPT2Model> = {
  name: "transformer",
  read: (config) => readOnce(config, "nEmbd", gpt2Config),
  std: ({ initializerRange }) => initializerRange,
  build: (config, init) => new GPT2Model(config, init),
  reader: (model) => model,
};

/** A GPT-2 that classifies texts. */
export const GPT2ForSequenceClassification = sequenceClassifier("GPT2ForSequenceClassification", family);

/** A GPT-2 that extracts the answer to a question from a text. */
export const GPT2ForQuestionAnswering = questionAnswerer("GPT2ForQuestionAnswering", family, { countsPadding: true });

/** A GPT-2 that classifies every token. */
export const GPT2ForTokenClassification = tokenClassifier("GPT2ForTokenClassification", family, "classifier");

/** A GPT-2 that predicts the next token. */
export const GPT2LMHeadModel = causalLM("GPT2LMHeadModel", family);
