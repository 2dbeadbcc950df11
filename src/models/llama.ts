/**
 * The Llama family: pre-norm blocks of grouped-query attention with rotary positions and a gated feed-forward part.
 * Properties are named as Hugging Face names them, so that the paths of parameters are the keys of its checkpoints.
 *
 * @see https://arxiv.org/abs/2302.13971, https://arxiv.org/abs/2407.21783
 */
import { realize } from "../compile/program.ts";
import { add, cast, max, sub } from "../graph/elementwise.ts";
import { reshape, sliceAxis } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { constant } from "../graph/source.ts";
import { isObserved } from "../graph/variable.ts";
import { type AttendOptions, attend } from "../nn/attention.ts";
import { dropout } from "../nn/dropout.ts";
import { Embedding } from "../nn/embedding.ts";
import { type Initializer, normal, zeros } from "../nn/init.ts";
import { Linear } from "../nn/linear.ts";
import { crossEntropy } from "../nn/loss.ts";
import { GatedMLP } from "../nn/mlp.ts";
import { type Layer, Module } from "../nn/module.ts";
import { RMSNorm } from "../nn/norm.ts";
import { Rotary, type RotaryTables, rotate } from "../nn/rotary.ts";
import { cumsum } from "../tensor/statistics.ts";
import { type CacheUpdate, KeyValueCache } from "./cache.ts";
import {
  type CausalLM,
  type CausalLMInputs,
  type CausalLMOutput,
  checkTextInputs,
  shiftLabels,
  type TextInputs,
} from "./causal-lm.ts";
import { type ConfigJson, type LlamaConfig, llamaConfig } from "./llama-config.ts";

export type { CausalLMInputs, CausalLMOutput } from "./causal-lm.ts";

/** What every layer of one forward pass shares. */
interface Pass {
  readonly rotary: RotaryTables;
  readonly attention: AttendOptions;
  /** What is written into the cache, if there is one. */
  readonly update: CacheUpdate | null;
}

/** Grouped-query attention with rotary positions. */
export class LlamaAttention extends Module {
  q_proj: Layer;
  k_proj: Layer;
  v_proj: Layer;
  o_proj: Layer;
  readonly headDim: number;
  readonly #layer: number;
  readonly #dropout: number;

  /** @param layer its number, for the cache */
  constructor(config: LlamaConfig, layer: number, init: Initializer) {
    super();
    this.#layer = layer;
    this.#dropout = config.attentionDropout;
    const { hiddenSize: C, numAttentionHeads: H, numKeyValueHeads: G, headDim: D, attentionBias: bias } = config;
    const options = { bias, init, initBias: zeros };
    this.headDim = D;
    this.q_proj = new Linear(C, H * D, options);
    this.k_proj = new Linear(C, G * D, options);
    this.v_proj = new Linear(C, G * D, options);
    this.o_proj = new Linear(H * D, C, options);
  }

  /** [B, T, C] → [B, T, C] */
  forward(x: Tensor, { rotary, attention, update }: Pass): Tensor {
    const [B, T] = x.shape as [number, number, number];
    const heads = (y: Tensor) => reshape(y, [B, T, -1, this.headDim]);
    const q = rotate(heads(this.q_proj.forward(x)), rotary); // [B, T, H, D]
    const k = rotate(heads(this.k_proj.forward(x)), rotary); // [B, T, G, D]
    const v = heads(this.v_proj.forward(x));
    const { keys, values } = update ? update.write(this.#layer, k, v) : { keys: k, values: v };
    const options =
      this.training && this.#dropout > 0 ? { ...attention, dropout: (w: Tensor) => dropout(w, this.#dropout) } : attention;
    return this.o_proj.forward(reshape(attend(q, keys, values, options), [B, T, -1]));
  }
}

/** One block: x + attention(norm(x)), then that + mlp(norm(that)). */
export class LlamaDecoderLayer extends Module {
  readonly self_attn: LlamaAttention;
  readonly mlp: GatedMLP;
  readonly input_layernorm: RMSNorm;
  readonly post_attention_layernorm: RMSNorm;

  constructor(config: LlamaConfig, layer: number, init: Initializer) {
    super();
    this.self_attn = new LlamaAttention(config, layer, init);
    this.mlp = new GatedMLP(config.hiddenSize, config.intermediateSize, {
      activation: config.hiddenAct,
      bias: config.mlpBias,
      init,
      initBias: zeros,
    });
    this.input_layernorm = new RMSNorm(config.hiddenSize, { eps: config.rmsNormEps });
    this.post_attention_layernorm = new RMSNorm(config.hiddenSize, { eps: config.rmsNormEps });
  }

  /** [B, T, C] → [B, T, C] */
  forward(x: Tensor, pass: Pass): Tensor {
    const attended = add(x, this.self_attn.forward(this.input_layernorm.forward(x), pass));
    return add(attended, this.mlp.forward(this.post_attention_layernorm.forward(attended)));
  }
}

/** Embedding, blocks and the final norm: everything but the output layer. */
export class LlamaModel extends Module {
  embed_tokens: Layer;
  readonly layers: LlamaDecoderLayer[];
  readonly norm: RMSNorm;
  readonly #rotary: Rotary;
  readonly #config: LlamaConfig;

  constructor(config: LlamaConfig, init: Initializer) {
    super();
    this.#config = config;
    this.embed_tokens = new Embedding(config.vocabSize, config.hiddenSize, { init });
    this.layers = [];
    for (let i = 0; i < config.numHiddenLayers; i++) this.layers.push(new LlamaDecoderLayer(config, i, init));
    this.norm = new RMSNorm(config.hiddenSize, { eps: config.rmsNormEps });
    this.#rotary = new Rotary(config.headDim, config.rope);
  }

  /** @returns the state after the final norm, [B, T, C], and all states on the way: the embeddings, then each layer's. */
  forward(inputs: TextInputs): { lastHiddenState: Tensor; hiddenStates: Tensor[]; update: CacheUpdate | null } {
    const pass = this.#pass(inputs);
    let x = this.embed_tokens.forward(inputs.inputIds);
    const hiddenStates = [x];
    for (const layer of this.layers) hiddenStates.push((x = layer.forward(x, pass)));
    const lastHiddenState = this.norm.forward(x);
    hiddenStates[hiddenStates.length - 1] = lastHiddenState;
    return { lastHiddenState, hiddenStates, update: pass.update };
  }

  #pass({ inputIds, attentionMask, positionIds, cache }: TextInputs): Pass {
    const T = inputIds.shape[1] as number;
    const isCausal = true;
    if (cache) {
      const update = cache.append(attentionMask ?? constant(1, inputIds.shape, "int32"));
      const rotary = this.#rotary.at(positionIds ?? update.positions, this.#longest(cache.size, positionIds));
      return { rotary, update, attention: { isCausal, offset: update.offset, keyMask: update.mask } };
    }
    const rotary = positionIds
      ? this.#rotary.at(positionIds, this.#longest(T, positionIds))
      : attentionMask
        ? this.#rotary.at(positionsOf(attentionMask), T)
        : this.#rotary.range(T);
    return { rotary, update: null, attention: attentionMask ? { isCausal, keyMask: attentionMask } : { isCausal } };
  }

  /** Positions that somebody else counted may be anywhere in the model's context. */
  #longest(size: number, positionIds: Tensor | undefined): number {
    return positionIds ? Math.max(size, this.#config.maxPositionEmbeddings) : size;
  }
}

/** Position of each token among the tokens that are not padding; 0 for padding in front. */
function positionsOf(mask: Tensor): Tensor {
  return max(sub(cumsum(cast(mask, "int32"), 1), constant(1, [], "int32")), constant(0, [], "int32"));
}

/**
 * A Llama that gives logits of the next token.
 *
 * @throws {ConfigError} (constructor) for a missing key of `config` and for values that are not supported
 * @example
 * const model = new LlamaForCausalLM({ model_type: "llama", vocab_size: 512, hidden_size: 64, intermediate_size: 128,
 *   num_hidden_layers: 2, num_attention_heads: 4 });
 * const { logits, loss } = model.forward({ inputIds, labels: inputIds });   // [B, T, 512], []
 */
export class LlamaForCausalLM extends Module implements CausalLM {
  readonly model: LlamaModel;
  lm_head: Layer;
  readonly config: LlamaConfig;

  /** @param options.init first values of all matrices; normal with `initializer_range` when absent */
  constructor(config: LlamaConfig | ConfigJson, options: { readonly init?: Initializer } = {}) {
    super();
    const known = "hiddenSize" in config ? (config as LlamaConfig) : llamaConfig(config as ConfigJson);
    const { init = normal({ std: known.initializerRange }) } = options;
    this.config = known;
    this.model = new LlamaModel(known, init);
    const shared = known.tieWordEmbeddings ? (this.model.embed_tokens as Embedding).weight : undefined;
    this.lm_head = new Linear(known.hiddenSize, known.vocabSize, { bias: false, init, ...(shared ? { weight: shared } : {}) });
  }

  /** @throws {ShapeError} when ids, mask, positions or labels are not all [B, T] */
  forward(inputs: CausalLMInputs): CausalLMOutput {
    checkTextInputs("llama", inputs);
    const { lastHiddenState, hiddenStates, update } = this.model.forward(inputs);
    const T = lastHiddenState.shape[1] as number;
    const kept = sliceAxis(lastHiddenState, 1, Math.max(0, T - (inputs.logitsToKeep ?? T)), T);
    const logits = this.lm_head.forward(kept);
    if (update) {
      // in one program with the cache, or the layers would run twice
      if (!isObserved()) realize([logits, ...update.writes.map(([, next]) => next)]);
      update.commit();
    }
    const targets = inputs.targets ?? (inputs.labels ? shiftLabels(inputs.labels) : undefined);
    return { logits, hiddenStates, ...(targets ? { loss: crossEntropy(logits, targets) } : {}) };
  }

  createCache(batch: number, size: number): KeyValueCache {
    const { numHiddenLayers: layers, numKeyValueHeads: heads, headDim } = this.config;
    return new KeyValueCache({ layers, heads, headDim }, batch, size);
  }
}
