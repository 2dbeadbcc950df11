/**
 * GPT-Neo: GPT-2 with separate projections for queries, keys and values, unscaled scores, and a window in every other layer.
 * @see https://doi.org/10.5281/zenodo.5297715
 */
import { add } from "../graph/elementwise.ts";
import { reshape } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { activation } from "../nn/activation.ts";
import { Dropout } from "../nn/dropout.ts";
import { Embedding } from "../nn/embedding.ts";
import { type Initializer, normal, zeros } from "../nn/init.ts";
import { Linear } from "../nn/linear.ts";
import { group, type Layer, Module } from "../nn/module.ts";
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
export type GPTNeoConfig = ReturnType<typeof gptNeoConfig>;

const defaults = { vocab_size: 50257, hidden_size: 2048, num_layers: 24, num_heads: 16, max_position_embeddings: 2048 };

/** @throws {ConfigError} for a value that is not supported, by name */
export function gptNeoConfig(json: ConfigJson) {
  const config = new ConfigReader(json, "gpt_neo", defaults);
  const hiddenSize = config.count("hidden_size");
  const numLayers = config.layers("num_layers");
  const windowSize = config.count("window_size", 256);
  return {
    modelType: "gpt_neo",
    vocabSize: config.count("vocab_size"),
    hiddenSize,
    numLayers,
    numHeads: config.count("num_heads"),
    headDim: config.headSize("hidden_size", "num_heads"),
    intermediateSize: config.count("intermediate_size", 4 * hiddenSize),
    activationFunction: config.activation("activation_function", "gelu_new"),
    maxPositionEmbeddings: config.count("max_position_embeddings"),
    /** For each layer, how many tokens a token sees, its own included; 0 means all. */
    windows: attentionTypes(config, numLayers).map((type) => (type === "local" ? windowSize : 0)),
    residDropout: config.probability("resid_dropout", 0),
    embedDropout: config.probability("embed_dropout", 0),
    attentionDropout: config.probability("attention_dropout", 0),
    layerNormEpsilon: config.number("layer_norm_epsilon", 1e-5),
    initializerRange: config.number("initializer_range", 0.02),
    tieWordEmbeddings: config.flag("tie_word_embeddings", true),
    ...config.labels(0.1),
  };
}

/** `[[["global", "local"], 12]]` means both, twelve times. */
function attentionTypes(config: ConfigReader, numLayers: number): readonly string[] {
  const given = config.get("attention_types") ?? [[["global", "local"], numLayers / 2]];
  const refuse = () => config.refuse("attention_types", given, `must give ${numLayers} times "global" or "local"`);
  if (!Array.isArray(given)) return refuse();
  const parts = given.map((part): readonly [readonly string[], number] => {
    const [names, times]: unknown[] = Array.isArray(part) ? part : [];
    const isRight = Array.isArray(names) && names.every((name) => name === "global" || name === "local");
    return isRight && Number.isInteger(times) && (times as number) > 0 ? [names, times as number] : refuse();
  });
  if (parts.reduce((sum, [names, times]) => sum + names.length * times, 0) !== numLayers) return refuse();
  return parts.flatMap(([names, times]) => new Array<readonly string[]>(times).fill(names).flat());
}

/** Attention without scaling; only the last projection has a bias. */
export class GPTNeoSelfAttention extends Module implements SelfAttention {
  k_proj: Layer;
  v_proj: Layer;
  q_proj: Layer;
  out_proj: Layer;
  readonly resid_dropout: Dropout;
  readonly #config: GPTNeoConfig;
  readonly #layer: number;

  constructor(config: GPTNeoConfig, layer: number, init: Initializer) {
    super();
    const { hiddenSize: C } = config;
    const make = (bias: boolean): Layer => new Linear(C, C, { bias, init, initBias: zeros });
    this.#config = config;
    this.#layer = layer;
    this.k_proj = make(false);
    this.v_proj = make(false);
    this.q_proj = make(false);
    this.out_proj = make(true);
    this.resid_dropout = new Dropout(config.residDropout);
  }

  /** [B, T, C] → three of [B, T, H, D] */
  project(x: Tensor): Projections {
    const heads = (layer: Layer) => reshape(layer.forward(x), [...x.shape.slice(0, 2), -1, this.#config.headDim]);
    return { q: heads(this.q_proj), k: heads(this.k_proj), v: heads(this.v_proj) };
  }

  /** [B, T, H, D] */
  queries(x: Tensor): Tensor {
    return this.project(x).q;
  }

  /** [B, T, C] → [B, T, C] */
  forward(x: Tensor, pass: Pass): Tensor {
    const { q, k, v } = this.project(x);
    const y = attendPass(q, k, v, pass, {
      layer: this.#layer,
      scale: 1,
      window: this.#config.windows[this.#layer] as number,
      dropout: this.training ? this.#config.attentionDropout : 0,
    });
    return this.resid_dropout.forward(this.out_proj.forward(y));
  }
}

/** One block: x + attention(norm(x)), then that + mlp(norm(that)). */
export class GPTNeoBlock extends Module {
  readonly ln_1: LayerNorm;
  readonly attn;
  readonly ln_2: LayerNorm;
  readonly mlp;
  readonly #act: (x: Tensor) => Tensor;

  constructor(config: GPTNeoConfig, layer: number, init: Initializer) {
    super();
    const { hiddenSize: C, intermediateSize: F } = config;
    const norm = () => new LayerNorm(C, { eps: config.layerNormEpsilon });
    const dense = (into: number, out: number): Layer => new Linear(into, out, { init, initBias: zeros });
    this.ln_1 = norm();
    this.attn = group({ attention: new GPTNeoSelfAttention(config, layer, init) });
    this.ln_2 = norm();
    this.mlp = group({ c_fc: dense(C, F), c_proj: dense(F, C), dropout: new Dropout(config.residDropout) });
    this.#act = activation(config.activationFunction);
  }

  /** [B, T, C] → [B, T, C] */
  forward(x: Tensor, pass: Pass): Tensor {
    const attended = add(x, this.attn.attention.forward(this.ln_1.forward(x), pass));
    const { c_fc, c_proj, dropout } = this.mlp;
    return add(attended, dropout.forward(c_proj.forward(this.#act(c_fc.forward(this.ln_2.forward(attended))))));
  }
}

/** Embeddings, blocks and the final norm: everything but the output layer. */
export class GPTNeoModel extends Module implements Decoder {
  wte: Layer;
  wpe: Layer;
  readonly drop: Dropout;
  readonly h: GPTNeoBlock[];
  readonly ln_f: LayerNorm;
  readonly #config: GPTNeoConfig;

  constructor(config: GPTNeoConfig, init: Initializer) {
    super();
    const { hiddenSize: C } = config;
    this.#config = config;
    this.wte = new Embedding(config.vocabSize, C, { init });
    this.wpe = new Embedding(config.maxPositionEmbeddings, C, { init });
    this.drop = new Dropout(config.embedDropout);
    this.h = layers(config.numLayers, (i) => new GPTNeoBlock(config, i, init));
    this.ln_f = new LayerNorm(C, { eps: config.layerNormEpsilon });
  }

  get sizes(): ModelSizes {
    const { modelType, hiddenSize: width, numLayers, numHeads: heads, headDim, maxPositionEmbeddings: maxLength } = this.#config;
    return { modelType, width, layers: numLayers, heads, headDim, maxLength };
  }

  get wordEmbedding(): Layer {
    return this.wte;
  }

  forward(inputs: TextInputs): DecoderStates {
    checkTextInputs(this.sizes, inputs);
    const pass = beginPass(inputs, this.#config.maxPositionEmbeddings);
    const positions = learnedPositions(this.wpe, pass, textShape(inputs)[1]);
    return runLayers(this.drop.forward(add(embedTokens(inputs, this.wte), positions)), this.h, pass, (y) => this.ln_f.forward(y));
  }
}

const family: DecoderFamily<"transformer", GPTNeoConfig, GPTNeoModel> = {
  name: "transformer",
  read: (config) => readOnce(config, "hiddenSize", gptNeoConfig),
  build: (config, init = normal({ std: config.initializerRange })) => new GPTNeoModel(config, init),
  reader: (model) => model,
  std: ({ initializerRange }) => initializerRange,
  // older checkpoints hold the causal mask, too
  pathOf: (name) => (/\.attention\.(masked_)?bias$/.test(name) ? null : name),
};

/** A GPT-Neo that classifies texts. */
export const GPTNeoForSequenceClassification = sequenceClassifier("GPTNeoForSequenceClassification", family);

/** A GPT-Neo that extracts the answer to a question from a text. */
export const GPTNeoForQuestionAnswering = questionAnswerer("GPTNeoForQuestionAnswering", family, { countsPadding: true });

/** A GPT-Neo that classifies every token. */
export const GPTNeoForTokenClassification = tokenClassifier("GPTNeoForTokenClassification", family, "classifier");

/** A GPT-Neo that predicts the next token. */
export const GPTNeoForCausalLM = causalLM("GPTNeoForCausalLM", family);
