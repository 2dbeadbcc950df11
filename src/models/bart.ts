/**
 * BART: an encoder and a decoder with learned positions, whose norms stand behind the sums. mBART is one of many languages, whose
 * norms stand in front.
 * @see https://arxiv.org/abs/1910.13461
 */
import { checkOptions } from "../errors.ts";
import { add } from "../graph/elementwise.ts";
import { reshape } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { activation } from "../nn/activation.ts";
import type { AttendOptions } from "../nn/attention.ts";
import { Dropout } from "../nn/dropout.ts";
import { Embedding } from "../nn/embedding.ts";
import { type Initializer, normal, zeros } from "../nn/init.ts";
import { Linear } from "../nn/linear.ts";
import { group, type Layer, Module } from "../nn/module.ts";
import { LayerNorm } from "../nn/norm.ts";
import { type BartConfig, type BartType, bartConfig } from "./bart-config.ts";
import type { CacheUpdate } from "./cache.ts";
import {
  type Backbone,
  type CausalLMInputs,
  type CausalLMOutput,
  embedTokens,
  type ModelSizes,
  type PastLayer,
  paddingRow,
  pastLength,
  positionsAfter,
  type TextInputs,
  textShape,
} from "./causal-lm.ts";
import { type CheckpointNames, pathBy } from "./checkpoint-name.ts";
import { type ConfigJson, readOnce } from "./config-reader.ts";
import { beginPass, behind, causalOutput, learnedPositions } from "./decoder.ts";
import { attendHeads, layers } from "./encoder.ts";
import { EncoderDecoder, type ReadInputs, shiftAround, shiftRight, type TextStates } from "./seq2seq-lm.ts";

/** What all blocks of one forward pass share. */
interface BartPass {
  readonly attention: AttendOptions;
  /** [B, T] or [1, T] int32 */
  readonly positions: Tensor;
  /** What is written into the cache, if there is one. */
  readonly update: CacheUpdate | null;
  /** Keys and values of virtual tokens in front, for each block. */
  readonly past: readonly PastLayer[];
  /** Of the text that was read, for each block of a decoder. */
  readonly memories: readonly TextStates[];
  readonly memoryMask?: Tensor | undefined;
}

/** Rows of the table of positions in front of that of position 0. */
const offset = 2;
const dense = (into: number, out: number, init: Initializer): Layer => new Linear(into, out, { init, initBias: zeros });

/** Attention to the text itself or to another. */
class BartAttention extends Module {
  k_proj: Layer;
  v_proj: Layer;
  q_proj: Layer;
  out_proj: Layer;
  readonly #heads: number;
  readonly #dropout: number;

  constructor({ dModel: C, attentionDropout }: BartConfig, heads: number, init: Initializer) {
    super();
    this.#heads = heads;
    this.#dropout = attentionDropout;
    this.k_proj = dense(C, C, init);
    this.v_proj = dense(C, C, init);
    this.q_proj = dense(C, C, init);
    this.out_proj = dense(C, C, init);
  }

  /** Keys and values of a text. @param states [B, S, C] */
  memory(states: Tensor): TextStates {
    return { keys: this.k_proj.forward(states), values: this.v_proj.forward(states) };
  }

  /** x [B, T, C] looks at itself, and at what stands before it → [B, T, C] */
  own(x: Tensor, { attention, update, past }: BartPass, layer: number): Tensor {
    const byHead = (y: Tensor) => reshape(y, [...y.shape.slice(0, 2), this.#heads, -1]);
    const joined = (y: Tensor) => reshape(y, [...y.shape.slice(0, 2), -1]);
    const made = this.memory(x);
    const all = behind(past[layer], byHead(made.keys), byHead(made.values));
    const { keys, values } = update ? update.write(layer, all.keys, all.values) : all;
    return this.forward(x, { keys: joined(keys), values: joined(values) }, attention);
  }

  /** x [B, T, C] looks at a memory → [B, T, C] */
  forward(x: Tensor, { keys, values }: TextStates, options: AttendOptions): Tensor {
    const dropout = this.training ? this.#dropout : 0;
    return this.out_proj.forward(attendHeads(this.q_proj.forward(x), keys, values, this.#heads, { ...options, dropout }));
  }
}

/** Attention to the text itself, in a decoder to the text that was read, and a feed-forward part. */
class BartLayer extends Module {
  readonly self_attn: BartAttention;
  readonly self_attn_layer_norm: LayerNorm;
  readonly encoder_attn: BartAttention | null;
  readonly encoder_attn_layer_norm: LayerNorm | null;
  fc1: Layer;
  fc2: Layer;
  readonly final_layer_norm: LayerNorm;
  readonly dropout: Dropout;
  readonly activation_dropout: Dropout;
  readonly #config: BartConfig;
  readonly #layer: number;

  constructor(config: BartConfig, layer: number, init: Initializer, side: "encoder" | "decoder") {
    super();
    const { dModel: C } = config;
    const { heads, ffnDim } = config[side];
    const norm = () => new LayerNorm(C);
    this.#config = config;
    this.#layer = layer;
    this.self_attn = new BartAttention(config, heads, init);
    this.self_attn_layer_norm = norm();
    this.encoder_attn = side === "decoder" ? new BartAttention(config, heads, init) : null;
    this.encoder_attn_layer_norm = side === "decoder" ? norm() : null;
    this.fc1 = dense(C, ffnDim, init);
    this.fc2 = dense(ffnDim, C, init);
    this.final_layer_norm = norm();
    this.dropout = new Dropout(config.dropout);
    this.activation_dropout = new Dropout(config.activationDropout);
  }

  /** [B, T, C] → [B, T, C] */
  forward(x: Tensor, pass: BartPass): Tensor {
    const { encoder_attn: cross, encoder_attn_layer_norm: crossNorm } = this;
    let y = this.#around(x, this.self_attn_layer_norm, (z) => this.self_attn.own(z, pass, this.#layer));
    if (cross && crossNorm) {
      const seen = pass.memoryMask ? { keyMask: pass.memoryMask } : {};
      y = this.#around(y, crossNorm, (z) => cross.forward(z, pass.memories[this.#layer] as TextStates, seen));
    }
    const act = activation(this.#config.activationFunction);
    return this.#around(y, this.final_layer_norm, (z) =>
      this.fc2.forward(this.activation_dropout.forward(act(this.fc1.forward(z)))),
    );
  }

  /** norm(x + body(x)), or x + body(norm(x)). */
  #around(x: Tensor, norm: LayerNorm, body: (x: Tensor) => Tensor): Tensor {
    const before = this.#config.normsInFront;
    const sum = add(x, this.dropout.forward(body(before ? norm.forward(x) : x)));
    return before ? sum : norm.forward(sum);
  }
}

/** An encoder or a decoder. */
class BartStack extends Module {
  embed_tokens: Layer;
  embed_positions: Layer;
  readonly layers: readonly BartLayer[];
  readonly layernorm_embedding: LayerNorm;
  readonly layer_norm: LayerNorm | null;
  readonly dropout: Dropout;

  constructor(config: BartConfig, embedding: Layer, init: Initializer, side: "encoder" | "decoder") {
    super();
    const { dModel: C, maxPositionEmbeddings } = config;
    this.embed_tokens = embedding;
    this.embed_positions = new Embedding(maxPositionEmbeddings + offset, C, { init });
    this.layers = layers(config[side].layers, (layer) => new BartLayer(config, layer, init, side));
    this.layernorm_embedding = new LayerNorm(C);
    this.layer_norm = config.normsInFront ? new LayerNorm(C) : null;
    this.dropout = new Dropout(config.dropout);
  }

  /** Keys and values of a text that was read, for each block of a decoder. @param states [B, S, C] */
  remember(states: Tensor): TextStates[] {
    return this.layers.map(({ encoder_attn }) => (encoder_attn as BartAttention).memory(states));
  }

  /** The embeddings, then the state after each block; the last one after the final norm, if there is one. All [B, T, C]. */
  forward(inputs: TextInputs, pass: BartPass): readonly [Tensor, ...Tensor[]] {
    const positions = learnedPositions(this.embed_positions, pass, textShape(inputs)[1], offset);
    const x = this.layernorm_embedding.forward(add(embedTokens(inputs, this.embed_tokens), positions));
    const states: [Tensor, ...Tensor[]] = [this.dropout.forward(x)];
    for (const layer of this.layers) states.push(layer.forward(states.at(-1) as Tensor, pass));
    const last = states.pop() as Tensor;
    return [...states, this.layer_norm?.forward(last) ?? last] as [Tensor, ...Tensor[]];
  }
}

/** Leaves unread a bias of the logits that nothing trains, and marks of the first checkpoints. */
export const bartPath = (name: string): string | null =>
  /(^|\.)(final_logits_bias|(en|de)coder\.version)$/.test(name) ? null : name;

/** Everything but an output layer. */
export function bartModel(config: BartConfig, init: Initializer) {
  const { vocabSize, dModel: C } = config;
  const row = { ...paddingRow(config), scale: config.scaleEmbedding ? Math.sqrt(C) : 1 };
  const shared = new Embedding(vocabSize, C, { init, ...row });
  // one weight in layers of their own, so that an adapter on one of them is on no other
  const { weight } = shared;
  const stack = (side: "encoder" | "decoder") =>
    new BartStack(config, new Embedding(vocabSize, C, { weight, ...row }), init, side);
  return group({ shared: shared as Layer, encoder: stack("encoder"), decoder: stack("decoder") });
}

/** The sizes of one side. */
export function bartSizes(config: BartConfig, side: "encoder" | "decoder"): ModelSizes {
  const { modelType, dModel: width, maxPositionEmbeddings: maxLength } = config;
  const { layers: count, heads } = config[side];
  return { modelType, width, layers: count, heads, headDim: width / heads, maxLength };
}

/** What goes in to get these labels out. */
export const bartShift = ({ startsWithLast, decoderStartTokenId, padTokenId }: BartConfig, labels: Tensor): Tensor =>
  startsWithLast ? shiftAround(labels, padTokenId) : shiftRight(labels, decoderStartTokenId, padTokenId);

/** The states of a text that is read: [B, S, C]. */
export function bartRead({ encoder }: ReturnType<typeof bartModel>, inputs: ReadInputs): Tensor {
  const attention = inputs.attentionMask ? { keyMask: inputs.attentionMask } : {};
  const positions = positionsAfter(0, textShape(inputs)[1]);
  return encoder.forward(inputs, { attention, positions, update: null, past: [], memories: [] }).at(-1) as Tensor;
}

/**
 * A BART that answers a text with a text.
 *
 * @throws {ConfigError} (constructor) for a missing key of `config` and for values that are not supported
 */
export class BartForConditionalGeneration extends EncoderDecoder implements CheckpointNames {
  static readonly modelType: BartType = "bart";
  readonly model;
  lm_head: Layer;
  readonly config: BartConfig;

  constructor(config: BartConfig | ConfigJson, options: { readonly init?: Initializer } = {}) {
    super();
    checkOptions(new.target.name, options, { init: "a function" });
    const { modelType } = new.target;
    const known = readOnce(config, "normsInFront", (json) => bartConfig(json, modelType));
    const { vocabSize, dModel: C } = known;
    const { init = normal({ std: known.initStd }) } = options;
    this.config = known;
    this.model = bartModel(known, init);
    const { weight } = this.model.shared as Embedding;
    const tied = known.tieWordEmbeddings ? { weight } : {};
    this.lm_head = new Linear(C, vocabSize, { bias: false, init, ...tied });
  }

  get backbone(): Backbone {
    return { sizes: bartSizes(this.config, "decoder"), wordEmbedding: this.model.shared };
  }

  get startToken(): number {
    return this.config.decoderStartTokenId;
  }

  protected get readerSizes(): ModelSizes {
    return bartSizes(this.config, "encoder");
  }

  protected shift(labels: Tensor): Tensor {
    return bartShift(this.config, labels);
  }

  protected read(inputs: ReadInputs): Tensor {
    return bartRead(this.model, inputs);
  }

  protected remember(states: Tensor): TextStates[] {
    return this.model.decoder.remember(states);
  }

  protected write(inputs: CausalLMInputs, memories: readonly TextStates[], memoryMask: Tensor | undefined): CausalLMOutput {
    const pass = beginPass(inputs, this.config.maxPositionEmbeddings);
    // padding is counted, as in transformers, but in a cache, where it is that of shorter texts
    const positions = (pass.update && pass.positions) ?? positionsAfter(pastLength(inputs), textShape(inputs)[1]);
    const hiddenStates = this.model.decoder.forward(inputs, { ...pass, positions, memories, memoryMask });
    const lastHiddenState = hiddenStates.at(-1) as Tensor;
    return causalOutput(inputs, { lastHiddenState, hiddenStates, pass }, (x) => this.lm_head.forward(x));
  }

  pathOf(name: string): string | null {
    return pathBy({ name: "model", pathOf: bartPath }, name);
  }
}

/** A BART of many languages that answers a text with a text. @see https://arxiv.org/abs/2001.08210 */
export class MBartForConditionalGeneration extends BartForConditionalGeneration {
  static override readonly modelType = "mbart";
}
