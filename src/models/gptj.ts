/**
 * GPT-J: attention and feed-forward part in parallel after one norm; interleaved rotary positions on a part of each head.
 * @see https://huggingface.co/EleutherAI/gpt-j-6b
 */
import { add } from "../graph/elementwise.ts";
import { reshape } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { activation } from "../nn/activation.ts";
import { dropout } from "../nn/dropout.ts";
import { type Initializer, zeros } from "../nn/init.ts";
import { Linear } from "../nn/linear.ts";
import { type Layer, Module } from "../nn/module.ts";
import type { Projections, RotaryPass } from "./decoder.ts";
import { questionAnswerer, sequenceClassifier } from "./family.ts";
import { type LlamaFamilyMember, llamaCausalLM, llamaFamily, norm, RotaryAttention } from "./llama.ts";
import type { LlamaConfig } from "./llama-config.ts";

/** Attention without biases. */
class GPTJAttention extends RotaryAttention {
  q_proj: Layer;
  k_proj: Layer;
  v_proj: Layer;
  out_proj: Layer;

  constructor(config: LlamaConfig, layer: number, init: Initializer) {
    super(config, layer);
    const square = (): Layer => new Linear(config.hiddenSize, config.hiddenSize, { bias: false, init });
    this.q_proj = square();
    this.k_proj = square();
    this.v_proj = square();
    this.out_proj = square();
  }

  get o_proj(): Layer {
    return this.out_proj;
  }

  project(x: Tensor): Projections {
    const heads = (layer: Layer) => reshape(layer.forward(x), [...x.shape.slice(0, 2), -1, this.config.headDim]);
    return { q: heads(this.q_proj), k: heads(this.k_proj), v: heads(this.v_proj) };
  }
}

/** fc_out(act(fc_in(x))). */
class GPTJMLP extends Module {
  fc_in: Layer;
  fc_out: Layer;
  readonly #act: (x: Tensor) => Tensor;

  constructor({ hiddenSize: C, intermediateSize, hiddenAct }: LlamaConfig, init: Initializer) {
    super();
    this.fc_in = new Linear(C, intermediateSize, { init, initBias: zeros });
    this.fc_out = new Linear(intermediateSize, C, { init, initBias: zeros });
    this.#act = activation(hiddenAct);
  }

  /** [B, T, C] → [B, T, C] */
  forward(x: Tensor): Tensor {
    return this.fc_out.forward(this.#act(this.fc_in.forward(x)));
  }
}

/** One block: x + attention(norm(x)) + mlp(norm(x)). */
class GPTJBlock extends Module {
  readonly ln_1;
  readonly attn: GPTJAttention;
  readonly mlp: GPTJMLP;
  readonly #dropout: number;

  constructor(config: LlamaConfig, layer: number, init: Initializer) {
    super();
    this.ln_1 = norm(config, config.hiddenSize);
    this.attn = new GPTJAttention(config, layer, init);
    this.mlp = new GPTJMLP(config, init);
    this.#dropout = config.residualDropout;
  }

  /** [B, T, C] → [B, T, C] */
  forward(x: Tensor, pass: RotaryPass): Tensor {
    const dropped = (y: Tensor) => dropout(y, this.training ? this.#dropout : 0);
    const y = this.ln_1.forward(x);
    return add(x, add(dropped(this.attn.forward(y, pass)), dropped(this.mlp.forward(y))));
  }
}

const gptj: LlamaFamilyMember = {
  modelType: "gptj",
  parts: { model: "transformer", embedding: "wte", layers: "h", norm: "ln_f" },
  trainsPadding: true,
  logitBias: true,
  widening: 4,
  keys: {
    hidden_size: "n_embd",
    intermediate_size: "n_inner",
    num_hidden_layers: "n_layer",
    num_attention_heads: "n_head",
    max_position_embeddings: "n_positions",
    hidden_act: "activation_function",
    attention_dropout: "attn_pdrop",
  },
  defaults: { vocab_size: 50400, n_embd: 4096, n_layer: 28, n_head: 16, activation_function: "gelu_new" },
  // older checkpoints hold the causal mask, too
  names: { pathOf: (name) => (/\.attn\.(masked_)?bias$/.test(name) ? null : name) },
  read(config, { headDim, numAttentionHeads }) {
    const rotaryDim = config.count("rotary_dim", 64);
    if (rotaryDim > headDim || rotaryDim % 2 !== 0)
      config.refuse("rotary_dim", rotaryDim, `must be even and at most the ${headDim} values of a head`);
    return {
      normType: "layer",
      rmsNormEps: config.number("layer_norm_epsilon", 1e-5),
      numKeyValueHeads: numAttentionHeads,
      rotaryDim,
      rotaryPairs: "interleaved",
      embeddingDropout: config.probability("embd_pdrop", 0),
      residualDropout: config.probability("resid_pdrop", 0),
    };
  },
  layer: (config, index, init) => new GPTJBlock(config, index, init),
};

/** A GPT-J that predicts the next token. */
export const GPTJForCausalLM = llamaCausalLM("GPTJForCausalLM", gptj);

/** A GPT-J that classifies texts. */
export const GPTJForSequenceClassification = sequenceClassifier("GPTJForSequenceClassification", llamaFamily(gptj));

/** A GPT-J that extracts the answer to a question from a text. */
export const GPTJForQuestionAnswering = questionAnswerer("GPTJForQuestionAnswering", llamaFamily(gptj), { countsPadding: true });
