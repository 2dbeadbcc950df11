/**
 * The Llama family: pre-norm blocks of grouped-query attention with rotary positions and a gated feed-forward part.
 * Properties are named as Hugging Face names them, so that the paths of parameters are the keys of its checkpoints.
 *
 * @see https://arxiv.org/abs/2302.13971, https://arxiv.org/abs/2407.21783
 */
import { DTypeError, ShapeError, wordShape } from "../errors.ts";
import { isFloat } from "../graph/dtype.ts";
import { add, cast, max, sub } from "../graph/elementwise.ts";
import { pad, reshape, sliceAxis } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { constant } from "../graph/source.ts";
import { type AttendOptions, attend } from "../nn/attention.ts";
import { Embedding } from "../nn/embedding.ts";
import { type Initializer, normal, zeros } from "../nn/init.ts";
import { Linear } from "../nn/linear.ts";
import { crossEntropy } from "../nn/loss.ts";
import { GatedMLP } from "../nn/mlp.ts";
import { type Layer, Module } from "../nn/module.ts";
import { RMSNorm } from "../nn/norm.ts";
import { Rotary, type RotaryTables, rotate } from "../nn/rotary.ts";
import { cumsum } from "../tensor/statistics.ts";
import { type ConfigJson, type LlamaConfig, llamaConfig } from "./llama-config.ts";

/** What every layer of one forward pass shares. */
interface Pass {
  readonly rotary: RotaryTables;
  readonly attention: AttendOptions;
}

export class LlamaAttention extends Module {
  q_proj: Layer;
  k_proj: Layer;
  v_proj: Layer;
  o_proj: Layer;
  readonly headDim: number;

  constructor(config: LlamaConfig, init: Initializer) {
    super();
    const { hiddenSize: C, numAttentionHeads: H, numKeyValueHeads: G, headDim: D, attentionBias: bias } = config;
    const options = { bias, init, initBias: zeros };
    this.headDim = D;
    this.q_proj = new Linear(C, H * D, options);
    this.k_proj = new Linear(C, G * D, options);
    this.v_proj = new Linear(C, G * D, options);
    this.o_proj = new Linear(H * D, C, options);
  }

  /** [B, T, C] → [B, T, C] */
  forward(x: Tensor, { rotary, attention }: Pass): Tensor {
    const [B, T] = x.shape as [number, number, number];
    const heads = (y: Tensor) => reshape(y, [B, T, -1, this.headDim]);
    const q = rotate(heads(this.q_proj.forward(x)), rotary); // [B, T, H, D]
    const k = rotate(heads(this.k_proj.forward(x)), rotary); // [B, T, G, D]
    const v = heads(this.v_proj.forward(x));
    return this.o_proj.forward(reshape(attend(q, k, v, attention), [B, T, -1]));
  }
}

export class LlamaDecoderLayer extends Module {
  readonly self_attn: LlamaAttention;
  readonly mlp: GatedMLP;
  readonly input_layernorm: RMSNorm;
  readonly post_attention_layernorm: RMSNorm;

  constructor(config: LlamaConfig, init: Initializer) {
    super();
    this.self_attn = new LlamaAttention(config, init);
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

export interface LlamaInputs {
  /** [B, T] int32 */
  readonly inputIds: Tensor;
  /** [B, T], 1 for tokens and 0 for padding; padding may stand on either side. */
  readonly attentionMask?: Tensor;
  /** [B, T] int32; counted from the first token that is not padding when absent. */
  readonly positionIds?: Tensor;
}

export class LlamaModel extends Module {
  embed_tokens: Layer;
  readonly layers: LlamaDecoderLayer[];
  readonly norm: RMSNorm;
  readonly #rotary: Rotary;
  readonly #config: LlamaConfig;

  constructor(config: LlamaConfig, init: Initializer) {
    super();
    this.#config = config;
    this.#rotary = new Rotary(config.headDim, config.rope);
    this.embed_tokens = new Embedding(config.vocabSize, config.hiddenSize, { init });
    this.layers = Array.from({ length: config.numHiddenLayers }, () => new LlamaDecoderLayer(config, init));
    this.norm = new RMSNorm(config.hiddenSize, { eps: config.rmsNormEps });
  }

  /** @returns the state after the final norm, [B, T, C], and all states on the way: the embeddings, then each layer's. */
  forward(inputs: LlamaInputs): { lastHiddenState: Tensor; hiddenStates: Tensor[] } {
    const pass = this.#pass(inputs);
    let x = this.embed_tokens.forward(inputs.inputIds);
    const hiddenStates = [x];
    for (const layer of this.layers) hiddenStates.push((x = layer.forward(x, pass)));
    const lastHiddenState = this.norm.forward(x);
    hiddenStates[hiddenStates.length - 1] = lastHiddenState;
    return { lastHiddenState, hiddenStates };
  }

  #pass({ inputIds, attentionMask, positionIds }: LlamaInputs): Pass {
    const T = inputIds.shape[1] as number;
    const rotary = positionIds
      ? this.#rotary.at(positionIds, this.#config.maxPositionEmbeddings)
      : attentionMask
        ? this.#rotary.at(positionsOf(attentionMask), T)
        : this.#rotary.range(T);
    return { rotary, attention: { isCausal: true, ...(attentionMask ? { keyMask: attentionMask } : {}) } };
  }
}

/** Position of each token among the tokens that are not padding; 0 for padding in front. */
function positionsOf(mask: Tensor): Tensor {
  return max(sub(cumsum(cast(mask, "int32"), 1), constant(1, [], "int32")), constant(0, [], "int32"));
}

export interface CausalLMInputs extends LlamaInputs {
  /** [B, T] int32: the tokens themselves; they are shifted here, so that each position is judged by the next token. −100 is not judged. */
  readonly labels?: Tensor;
  /** [B, T] int32: the token that each position should give, not shifted any more. */
  readonly targets?: Tensor;
}

export interface CausalLMOutput {
  /** [B, T, V] */
  readonly logits: Tensor;
  /** Mean cross-entropy per judged token; there when labels or targets were given. */
  readonly loss?: Tensor;
  /** The embeddings, then the state after each layer; the last one after the final norm. */
  readonly hiddenStates: readonly Tensor[];
}

export class LlamaForCausalLM extends Module {
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
    checkInputs(inputs);
    const { lastHiddenState, hiddenStates } = this.model.forward(inputs);
    const logits = this.lm_head.forward(lastHiddenState);
    const targets = inputs.targets ?? (inputs.labels ? shiftLabels(inputs.labels) : undefined);
    return { logits, hiddenStates, ...(targets ? { loss: crossEntropy(logits, targets) } : {}) };
  }
}

/** Each position's next label; the last position has none (−100). Cheaper than cutting the last row off the logits. */
export function shiftLabels(labels: Tensor): Tensor {
  const [, T] = labels.shape as [number, number];
  const ignored = constant(100, [], "int32");
  return sub(sliceAxis(pad(add(cast(labels, "int32"), ignored), [0, 0], [0, 1]), 1, 1, T + 1), ignored);
}

function checkInputs(inputs: CausalLMInputs): void {
  const { inputIds } = inputs;
  if (inputIds.rank !== 2)
    throw new ShapeError(`\`inputIds\` is ${wordShape(inputIds.shape)}, it should be [batch, time].`, {
      operation: "llama",
      got: inputIds.shape,
    });
  if (inputIds.shape[1] === 0) throw new ShapeError("`inputIds` holds no token.", { operation: "llama", got: inputIds.shape });
  for (const name of ["inputIds", "attentionMask", "positionIds", "labels", "targets"] as const) {
    const x = inputs[name];
    if (!x) continue;
    if (x.rank !== 2 || x.shape[0] !== inputIds.shape[0] || x.shape[1] !== inputIds.shape[1])
      throw new ShapeError(`\`${name}\` is ${wordShape(x.shape)}, \`inputIds\` is ${wordShape(inputIds.shape)}.`, {
        operation: "llama",
        expected: inputIds.shape,
        got: x.shape,
      });
    if (isFloat(x.dtype))
      throw new DTypeError(`\`${name}\` holds whole numbers, got ${x.dtype}.`, { operation: "llama", got: x.dtype });
  }
}
