/**
 * GPT-NeoX (Pythia): attention and feed-forward part in parallel, each after its own norm; one layer for queries, keys and values of
 * all heads; rotary positions on a part of each head.
 * @see https://arxiv.org/abs/2204.06745
 */
import { add } from "../graph/elementwise.ts";
import { reshape, sliceAxis } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { activation } from "../nn/activation.ts";
import { Dropout } from "../nn/dropout.ts";
import { Embedding } from "../nn/embedding.ts";
import { type Initializer, normal, zeros } from "../nn/init.ts";
import { Linear } from "../nn/linear.ts";
import { type Layer, Module } from "../nn/module.ts";
import { LayerNorm } from "../nn/norm.ts";
import { Rotary, rotate } from "../nn/rotary.ts";
import { checkTextInputs, embedTokens, type ModelSizes, type TextInputs } from "./causal-lm.ts";
import { type ConfigJson, ConfigReader, readOnce } from "./config-reader.ts";
import { attendPass, type DecoderStates, type RotaryPass, rotaryPass, runLayers } from "./decoder.ts";
import { causalLM, type Decoder, type DecoderFamily } from "./decoder-lm.ts";
import { layers } from "./encoder.ts";
import { questionAnswerer, sequenceClassifier, tokenClassifier } from "./family.ts";

/** The settings of a `config.json` that affect the computation, in camelCase. */
export type GPTNeoXConfig = ReturnType<typeof gptNeoXConfig>;

/**
 * @param json may have `rotary_pct` and `rotary_emb_base`, as published files do
 * @throws {ConfigError} for a missing key and for a value that is not supported, by name
 */
export function gptNeoXConfig(json: ConfigJson) {
  const { rotary_pct = 0.25, rotary_emb_base = 10000 } = json ?? {};
  const config = new ConfigReader(json, "gpt_neox", {
    partial_rotary_factor: rotary_pct,
    rope_theta: rotary_emb_base,
    classifier_dropout: 0.1,
  });
  const maxPositionEmbeddings = config.count("max_position_embeddings", 2048);
  const headDim = config.headSize("hidden_size", "num_attention_heads");
  const { rope, rotaryDim } = config.rope(maxPositionEmbeddings, headDim, { roundsUp: true });
  return {
    modelType: "gpt_neox",
    vocabSize: config.count("vocab_size"),
    hiddenSize: config.count("hidden_size"),
    intermediateSize: config.count("intermediate_size"),
    numHiddenLayers: config.layers("num_hidden_layers"),
    numAttentionHeads: config.count("num_attention_heads"),
    headDim,
    hiddenAct: config.activation("hidden_act", "gelu"),
    hiddenDropout: config.probability("hidden_dropout", 0),
    attentionDropout: config.probability("attention_dropout", 0),
    attentionBias: config.flag("attention_bias", true),
    layerNormEps: config.number("layer_norm_eps", 1e-5),
    maxPositionEmbeddings,
    initializerRange: config.number("initializer_range", 0.02),
    rope,
    /** Values of a head that are turned, the first ones. */
    rotaryDim,
    useParallelResidual: config.flag("use_parallel_residual", true),
    tieWordEmbeddings: config.flag("tie_word_embeddings", false),
    ...config.labels(),
  };
}

/** Attention with one layer for queries, keys and values: of each head all three, then of the next head. */
export class GPTNeoXAttention extends Module {
  query_key_value: Layer;
  dense: Layer;
  readonly #config: GPTNeoXConfig;
  readonly #layer: number;

  constructor(config: GPTNeoXConfig, layer: number, init: Initializer) {
    super();
    const { hiddenSize: C, attentionBias: bias } = config;
    this.#config = config;
    this.#layer = layer;
    this.query_key_value = new Linear(C, 3 * C, { bias, init, initBias: zeros });
    this.dense = new Linear(C, C, { bias, init, initBias: zeros });
  }

  /** [B, T, C] → [B, T, C] */
  forward(x: Tensor, pass: RotaryPass): Tensor {
    const { numAttentionHeads: H, headDim: D, attentionDropout } = this.#config;
    const heads = reshape(this.query_key_value.forward(x), [...x.shape.slice(0, 2), H, 3 * D]);
    const [q, k, v] = [0, 1, 2].map((i) => sliceAxis(heads, 3, i * D, (i + 1) * D)) as [Tensor, Tensor, Tensor];
    const y = attendPass(rotate(q, pass.rotary), rotate(k, pass.rotary), v, pass, {
      layer: this.#layer,
      dropout: this.training ? attentionDropout : 0,
    });
    return this.dense.forward(y);
  }
}

/** dense_4h_to_h(act(dense_h_to_4h(x))). */
export class GPTNeoXMLP extends Module {
  dense_h_to_4h: Layer;
  dense_4h_to_h: Layer;
  readonly #act: (x: Tensor) => Tensor;

  constructor({ hiddenSize, intermediateSize, hiddenAct }: GPTNeoXConfig, init: Initializer) {
    super();
    this.dense_h_to_4h = new Linear(hiddenSize, intermediateSize, { init, initBias: zeros });
    this.dense_4h_to_h = new Linear(intermediateSize, hiddenSize, { init, initBias: zeros });
    this.#act = activation(hiddenAct);
  }

  /** [B, T, C] → [B, T, C] */
  forward(x: Tensor): Tensor {
    return this.dense_4h_to_h.forward(this.#act(this.dense_h_to_4h.forward(x)));
  }
}

/** One block: x + attention(norm(x)) + mlp(norm(x)); or, not in parallel, the feed-forward part after the attention. */
export class GPTNeoXLayer extends Module {
  readonly input_layernorm: LayerNorm;
  readonly post_attention_layernorm: LayerNorm;
  readonly attention: GPTNeoXAttention;
  readonly mlp: GPTNeoXMLP;
  readonly dropout: Dropout;
  readonly #parallel: boolean;

  constructor(config: GPTNeoXConfig, layer: number, init: Initializer) {
    super();
    this.input_layernorm = new LayerNorm(config.hiddenSize, { eps: config.layerNormEps });
    this.post_attention_layernorm = new LayerNorm(config.hiddenSize, { eps: config.layerNormEps });
    this.attention = new GPTNeoXAttention(config, layer, init);
    this.mlp = new GPTNeoXMLP(config, init);
    this.dropout = new Dropout(config.hiddenDropout);
    this.#parallel = config.useParallelResidual;
  }

  /** [B, T, C] → [B, T, C] */
  forward(x: Tensor, pass: RotaryPass): Tensor {
    const attended = add(x, this.dropout.forward(this.attention.forward(this.input_layernorm.forward(x), pass)));
    const fed = this.mlp.forward(this.post_attention_layernorm.forward(this.#parallel ? x : attended));
    return add(attended, this.dropout.forward(fed));
  }
}

/** Embedding, blocks and the final norm: everything but the output layer. */
export class GPTNeoXModel extends Module implements Decoder {
  embed_in: Layer;
  readonly emb_dropout: Dropout;
  readonly layers: GPTNeoXLayer[];
  readonly final_layer_norm: LayerNorm;
  readonly #rotary: Rotary;
  readonly #config: GPTNeoXConfig;

  constructor(config: GPTNeoXConfig, init: Initializer) {
    super();
    this.#config = config;
    this.embed_in = new Embedding(config.vocabSize, config.hiddenSize, { init });
    this.emb_dropout = new Dropout(config.hiddenDropout);
    this.layers = layers(config.numHiddenLayers, (i) => new GPTNeoXLayer(config, i, init));
    this.final_layer_norm = new LayerNorm(config.hiddenSize, { eps: config.layerNormEps });
    this.#rotary = new Rotary(config.rotaryDim, config.rope);
  }

  get sizes(): ModelSizes {
    const { modelType, hiddenSize: width, numHiddenLayers: layers, numAttentionHeads: heads, headDim } = this.#config;
    return { modelType, width, layers, heads, headDim, stretch: { from: this.#rotary.lastUnchanged, isAnew: false } };
  }

  get wordEmbedding(): Layer {
    return this.embed_in;
  }

  forward(inputs: TextInputs): DecoderStates {
    checkTextInputs(this.sizes, inputs);
    const pass = rotaryPass(this.#rotary, inputs, this.#config.maxPositionEmbeddings);
    const x = this.emb_dropout.forward(embedTokens(inputs, this.embed_in));
    return runLayers(x, this.layers, pass, (y) => this.final_layer_norm.forward(y));
  }
}

const family: DecoderFamily<"gpt_neox", GPTNeoXConfig, GPTNeoXModel> = {
  name: "gpt_neox",
  read: (config) => readOnce(config, "hiddenSize", gptNeoXConfig),
  std: ({ initializerRange }) => initializerRange,
  build: (config, init = normal({ std: config.initializerRange })) => new GPTNeoXModel(config, init),
  reader: (model) => model,
  // older checkpoints hold the causal mask, too
  pathOf: (name) => (/\.attention\.(masked_)?bias$/.test(name) ? null : name.replace(/^embed_out\./, "lm_head.")),
  nameOf: (path) => path.replace(/^lm_head\./, "embed_out."),
};

/** A GPT-NeoX that classifies texts. */
export const GPTNeoXForSequenceClassification = sequenceClassifier("GPTNeoXForSequenceClassification", family);

/** A GPT-NeoX that extracts the answer to a question from a text. */
export const GPTNeoXForQuestionAnswering = questionAnswerer("GPTNeoXForQuestionAnswering", family, { countsPadding: true });

/** A GPT-NeoX that classifies every token. */
export const GPTNeoXForTokenClassification = tokenClassifier("GPTNeoXForTokenClassification", family, "classifier");

/** A GPT-NeoX that predicts the next token. Its output layer, which checkpoints call `embed_out`, is named as in transformers 5. */
export const GPTNeoXForCausalLM = causalLM("GPTNeoXForCausalLM", family);
