/**
 * T5: an encoder and a decoder whose attention knows positions by a learned bias for each distance. Queries are not scaled.
 * @see https://arxiv.org/abs/1910.10683
 */
import { checkOptions } from "../errors.ts";
import { add, mul } from "../graph/elementwise.ts";
import { reshape } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { constant, number } from "../graph/source.ts";
import { activation } from "../nn/activation.ts";
import type { AttendOptions } from "../nn/attention.ts";
import { Dropout } from "../nn/dropout.ts";
import { Embedding } from "../nn/embedding.ts";
import { type Initializer, normal } from "../nn/init.ts";
import { Linear } from "../nn/linear.ts";
import { group, type Layer, Module } from "../nn/module.ts";
import { RMSNorm } from "../nn/norm.ts";
import type { CacheUpdate } from "./cache.ts";
import {
  type Backbone,
  type CausalLMInputs,
  type CausalLMOutput,
  embedTokens,
  type ModelSizes,
  type PastLayer,
  pastLength,
  type TextInputs,
  textShape,
} from "./causal-lm.ts";
import type { CheckpointNames } from "./checkpoint-name.ts";
import { type ConfigJson, readOnce } from "./config-reader.ts";
import { beginPass, behind, causalOutput } from "./decoder.ts";
import { layers } from "./encoder.ts";
import { EncoderDecoder, type ReadInputs, shiftRight, type TextStates } from "./seq2seq-lm.ts";
import { type Draw, T5Attention } from "./t5-attention.ts";
import { type T5Config, type T5Type, t5Config } from "./t5-config.ts";

/** What all blocks of one forward pass share. */
interface T5Pass {
  readonly attention: AttendOptions;
  /** What is written into the cache, if there is one. */
  readonly update: CacheUpdate | null;
  /** Keys and values of virtual tokens in front, for each block. */
  readonly past: readonly PastLayer[];
  /** Of the text that was read, for each block of a decoder. */
  readonly memories: readonly TextStates[];
  readonly memoryMask?: Tensor | undefined;
}

const norm = ({ dModel, layerNormEpsilon: eps }: T5Config): RMSNorm => new RMSNorm(dModel, { eps });
const whole = (value: number): Tensor => constant(value, [], "int32");

/** x + dropout(body(norm(x))): what each step of a block is. */
abstract class T5Step extends Module {
  readonly layer_norm: RMSNorm;
  readonly dropout: Dropout;

  constructor(config: T5Config) {
    super();
    this.layer_norm = norm(config);
    this.dropout = new Dropout(config.dropoutRate);
  }

  protected around(x: Tensor, body: (x: Tensor) => Tensor): Tensor {
    return add(x, this.dropout.forward(body(this.layer_norm.forward(x))));
  }
}

class T5LayerSelfAttention extends T5Step {
  readonly SelfAttention: T5Attention;
  readonly #config: T5Config;
  readonly #layer: number;

  constructor(config: T5Config, layer: number, draw: Draw) {
    super(config);
    this.#config = config;
    this.#layer = layer;
    this.SelfAttention = new T5Attention(config, draw, { hasBias: layer === 0 || config.hasOwnBiases });
  }

  forward(x: Tensor, { attention, update, past }: T5Pass): Tensor {
    const byHead = (y: Tensor) => reshape(y, [...y.shape.slice(0, 2), this.#config.numHeads, -1]);
    const joined = (y: Tensor) => reshape(y, [...y.shape.slice(0, 2), -1]);
    return this.around(x, (y) => {
      const own = this.SelfAttention.memory(y);
      const all = behind(past[this.#layer], byHead(own.keys), byHead(own.values));
      const { keys, values } = update ? update.write(this.#layer, all.keys, all.values) : all;
      return this.SelfAttention.forward(y, { keys: joined(keys), values: joined(values) }, attention);
    });
  }
}

class T5LayerCrossAttention extends T5Step {
  readonly EncDecAttention: T5Attention;

  constructor(config: T5Config, draw: Draw) {
    super(config);
    this.EncDecAttention = new T5Attention(config, draw);
  }

  forward(x: Tensor, memory: TextStates, keyMask: Tensor | undefined): Tensor {
    return this.around(x, (y) => this.EncDecAttention.forward(y, memory, keyMask ? { keyMask } : {}));
  }
}

/** wo(act(wi(x))), or wo(act(wi_0(x)) ∘ wi_1(x)). */
class T5LayerFF extends T5Step {
  readonly DenseReluDense;
  readonly #act: (x: Tensor) => Tensor;

  constructor(config: T5Config, draw: Draw) {
    super(config);
    const { dModel, dFf, isGated, dropoutRate } = config;
    const inner = (): Layer => new Linear(dModel, dFf, { bias: false, init: draw(dModel) });
    const wo: Layer = new Linear(dFf, dModel, { bias: false, init: draw(dFf) });
    const rest = { wo, dropout: new Dropout(dropoutRate) };
    this.DenseReluDense = isGated ? group({ wi_0: inner(), wi_1: inner(), ...rest }) : group({ wi: inner(), ...rest });
    this.#act = activation(config.denseActFn);
  }

  forward(x: Tensor): Tensor {
    const dense = this.DenseReluDense;
    return this.around(x, (y) => {
      const z = "wi" in dense ? this.#act(dense.wi.forward(y)) : mul(this.#act(dense.wi_0.forward(y)), dense.wi_1.forward(y));
      return dense.wo.forward(dense.dropout.forward(z));
    });
  }
}

/** Attention to the text itself, in a decoder to the text that was read, and a feed-forward part. */
class T5Block extends Module {
  readonly layer: readonly [T5LayerSelfAttention, T5LayerFF] | readonly [T5LayerSelfAttention, T5LayerCrossAttention, T5LayerFF];

  constructor(config: T5Config, layer: number, draw: Draw, { isDecoder }: { readonly isDecoder: boolean }) {
    super();
    const own = new T5LayerSelfAttention(config, layer, draw);
    const cross = isDecoder ? new T5LayerCrossAttention(config, draw) : null;
    const dense = new T5LayerFF(config, draw);
    this.layer = cross ? [own, cross, dense] : [own, dense];
  }

  /** [B, T, C] → [B, T, C]. @param memory of the text that was read, for a decoder */
  forward(x: Tensor, pass: T5Pass, memory: TextStates | undefined): Tensor {
    const y = this.layer[0].forward(x, pass);
    if (this.layer.length === 2) return this.layer[1].forward(y);
    return this.layer[2].forward(this.layer[1].forward(y, memory as TextStates, pass.memoryMask));
  }
}

/** An encoder or a decoder. */
class T5Stack extends Module {
  embed_tokens: Layer;
  readonly block: readonly T5Block[];
  readonly final_layer_norm: RMSNorm;
  readonly dropout: Dropout;
  readonly #isDecoder: boolean;

  constructor(config: T5Config, embedding: Layer, draw: Draw, { isDecoder }: { readonly isDecoder: boolean }) {
    super();
    const length = isDecoder ? config.numDecoderLayers : config.numLayers;
    this.#isDecoder = isDecoder;
    this.embed_tokens = embedding;
    this.block = layers(length, (layer) => new T5Block(config, layer, draw, { isDecoder }));
    this.final_layer_norm = norm(config);
    this.dropout = new Dropout(config.dropoutRate);
  }

  /** Keys and values of a text that was read, for each block of a decoder. @param states [B, S, C] */
  remember(states: Tensor): TextStates[] {
    return this.block.flatMap(({ layer }) => (layer.length === 3 ? layer[1].EncDecAttention.memory(states) : []));
  }

  /** The embeddings, then the state after each block; the last one after the final norm. All [B, T, C]. */
  forward(inputs: TextInputs, pass: T5Pass): readonly [Tensor, ...Tensor[]] {
    const isCausal = this.#isDecoder;
    const [T, n] = [textShape(inputs)[1], pastLength(pass)];
    const first = pass.attention.offset ?? n;
    const offset = typeof first === "number" ? whole(first) : first;
    const keys = pass.update ? (pass.update.mask.shape[1] as number) : n + T;
    const states: [Tensor, ...Tensor[]] = [this.dropout.forward(embedTokens(inputs, this.embed_tokens))];
    let biased = pass;
    for (const [i, block] of this.block.entries()) {
      const { SelfAttention } = block.layer[0];
      // the first block's bias holds for those behind it that have none
      if (SelfAttention.relative_attention_bias)
        biased = { ...pass, attention: { ...pass.attention, mask: SelfAttention.bias(T, keys, { isCausal, offset }) } };
      states.push(block.forward(states[i] as Tensor, biased, pass.memories[i]));
    }
    states[this.block.length] = this.dropout.forward(this.final_layer_norm.forward(states[this.block.length] as Tensor));
    return states;
  }
}

/** First values of a matrix: normal, by how many terms its sums have. @param init all of them, where it is given */
export const t5Draw =
  ({ initializerFactor }: T5Config, init?: Initializer): Draw =>
  (terms) =>
    init ?? normal({ std: initializerFactor / Math.sqrt(terms) });

/** The sizes of one side. */
export function t5Sizes(config: T5Config, side: "encoder" | "decoder"): ModelSizes {
  const { modelType, dModel: width, numHeads: heads, dKv: headDim } = config;
  return { modelType, width, layers: side === "encoder" ? config.numLayers : config.numDecoderLayers, heads, headDim };
}

function t5Side(config: T5Config, init: Initializer | undefined, shared: Embedding, isDecoder: boolean): T5Stack {
  // one weight in layers of their own, so that an adapter on one of them is on no other
  const { weight } = shared;
  const table = new Embedding(config.vocabSize, config.dModel, { weight });
  return new T5Stack(config, table, t5Draw(config, init), { isDecoder });
}

const words = (config: T5Config, init: Initializer | undefined): Embedding =>
  new Embedding(config.vocabSize, config.dModel, { init: t5Draw(config, init)(1) });

/** The part that reads. */
export function t5Encoder(config: T5Config, init?: Initializer) {
  const shared = words(config, init);
  return group({ shared: shared as Layer, encoder: t5Side(config, init, shared, false) });
}

/** Everything but an output layer. */
export function t5Model(config: T5Config, init?: Initializer) {
  const shared = words(config, init);
  return group({
    shared: shared as Layer,
    encoder: t5Side(config, init, shared, false),
    decoder: t5Side(config, init, shared, true),
  });
}

/** The states of a text that is read. */
export function t5States(encoder: T5Stack, inputs: ReadInputs): readonly [Tensor, ...Tensor[]] {
  const attention = inputs.attentionMask ? { keyMask: inputs.attentionMask } : {};
  return encoder.forward(inputs, { attention, update: null, past: [], memories: [] });
}

/** The states of a text that is written, and what is known of its pass. */
export function t5Written(
  decoder: T5Stack,
  inputs: CausalLMInputs,
  memories: readonly TextStates[],
  memoryMask: Tensor | undefined,
) {
  const pass = beginPass(inputs, 0);
  const hiddenStates = decoder.forward(inputs, { ...pass, memories, memoryMask });
  return { pass, hiddenStates, lastHiddenState: hiddenStates.at(-1) as Tensor };
}

/** Leaves unread what the first checkpoints have and never used. */
export const t5Path = (name: string): string | null =>
  /(^|\.)decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight$/.test(name) ? null : name;

/**
 * A T5 that answers a text with a text.
 *
 * @throws {ConfigError} (constructor) for a missing key of `config` and for values that are not supported
 * @example
 * const model = new T5ForConditionalGeneration({ vocab_size: 2048, d_model: 32, d_kv: 8, d_ff: 64, num_layers: 2, num_heads: 4,
 *   decoder_start_token_id: 0 });
 * const { logits, loss } = model.forward({ inputIds, labels: inputIds });   // [B, S] and [B, T] → [B, T, V], []
 * const answer = await complete(model, tokenizer.encode("translate English to German: …"), { maxNewTokens: 4 });
 */
export class T5ForConditionalGeneration extends EncoderDecoder implements CheckpointNames {
  static readonly modelType: T5Type = "t5";
  shared: Layer;
  readonly encoder: T5Stack;
  readonly decoder: T5Stack;
  lm_head: Layer;
  readonly config: T5Config;

  constructor(config: T5Config | ConfigJson, options: { readonly init?: Initializer } = {}) {
    super();
    const { init } = checkOptions(new.target.name, options, { init: "a function" });
    const { modelType } = new.target;
    const known = readOnce(config, "dModel", (json) => t5Config(json, modelType));
    const { shared, encoder, decoder } = t5Model(known, init);
    const { weight } = shared as Embedding;
    this.config = known;
    this.shared = shared;
    this.encoder = encoder;
    this.decoder = decoder;
    const tied = known.tieWordEmbeddings ? { weight } : {};
    this.lm_head = new Linear(known.dModel, known.vocabSize, { bias: false, init: t5Draw(known, init)(1), ...tied });
  }

  get backbone(): Backbone {
    return { sizes: t5Sizes(this.config, "decoder"), wordEmbedding: this.shared };
  }

  get startToken(): number {
    return this.config.decoderStartTokenId;
  }

  protected get readerSizes(): ModelSizes {
    return t5Sizes(this.config, "encoder");
  }

  protected shift(labels: Tensor): Tensor {
    return shiftRight(labels, this.config.decoderStartTokenId, this.config.padTokenId);
  }

  protected read(inputs: ReadInputs): Tensor {
    return t5States(this.encoder, inputs).at(-1) as Tensor;
  }

  protected remember(states: Tensor): TextStates[] {
    return this.decoder.remember(states);
  }

  protected write(inputs: CausalLMInputs, memories: readonly TextStates[], memoryMask: Tensor | undefined): CausalLMOutput {
    const { pass, hiddenStates, lastHiddenState } = t5Written(this.decoder, inputs, memories, memoryMask);
    const { dModel, scaleDecoderOutputs } = this.config;
    const factor = number(lastHiddenState, scaleDecoderOutputs ? 1 / Math.sqrt(dModel) : 1);
    return causalOutput(inputs, { lastHiddenState, hiddenStates, pass }, (x) => this.lm_head.forward(mul(x, factor)));
  }

  pathOf(name: string): string | null {
    return t5Path(name);
  }
}

/** A T5 of a hundred languages that answers a text with a text. @see https://arxiv.org/abs/2010.11934 */
export class MT5ForConditionalGeneration extends T5ForConditionalGeneration {
  static override readonly modelType = "mt5";
}

/** An mT5 of evenly drawn languages, whose blocks each have a bias of their own. @see https://arxiv.org/abs/2304.09151 */
export class UMT5ForConditionalGeneration extends T5ForConditionalGeneration {
  static override readonly modelType = "umt5";
}
