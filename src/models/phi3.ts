/**
 * Phi-3: a Llama with one layer for queries, keys and values, one for both halves of the gated feed-forward part, and, for long texts,
 * rotary angles that depend on the text's length.
 *
 * When a text outgrows the trained length during generation, the cache is computed again with the new angles.
 *
 * @see https://arxiv.org/abs/2404.14219
 */
import { mul } from "../graph/elementwise.ts";
import { reshape, sliceAxis } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { activation } from "../nn/activation.ts";
import type { Initializer } from "../nn/init.ts";
import { Linear } from "../nn/linear.ts";
import { type Layer, Module } from "../nn/module.ts";
import { sequenceClassifier, tokenClassifier } from "./family.ts";
import { LlamaDecoderLayer, type LlamaFamilyMember, llamaCausalLM, llamaFamily, RotaryAttention } from "./llama.ts";
import type { LlamaConfig } from "./llama-config.ts";

/** Attention with one layer for queries, keys and values. */
export class Phi3Attention extends RotaryAttention {
  o_proj: Layer;
  qkv_proj: Layer;

  constructor(config: LlamaConfig, layer: number, init: Initializer) {
    super(config, layer);
    const { hiddenSize: C, numAttentionHeads: H, numKeyValueHeads: G, headDim: D } = config;
    this.o_proj = new Linear(H * D, C, { bias: false, init });
    this.qkv_proj = new Linear(C, (H + 2 * G) * D, { bias: false, init });
  }

  project(x: Tensor): { q: Tensor; k: Tensor; v: Tensor } {
    const { numAttentionHeads: H, numKeyValueHeads: G, headDim: D } = this.config;
    const heads = reshape(this.qkv_proj.forward(x), [...x.shape.slice(0, 2), H + 2 * G, D]);
    const part = (from: number, to: number) => sliceAxis(heads, 2, from, to);
    return { q: part(0, H), k: part(H, H + G), v: part(H + G, H + 2 * G) };
  }
}

/** down(act(gate) ∘ up), both from one layer. */
export class Phi3MLP extends Module {
  gate_up_proj: Layer;
  down_proj: Layer;
  readonly #size: number;
  readonly #act: (x: Tensor) => Tensor;

  constructor({ hiddenSize: C, intermediateSize, hiddenAct }: LlamaConfig, init: Initializer) {
    super();
    this.#size = intermediateSize;
    this.gate_up_proj = new Linear(C, 2 * intermediateSize, { bias: false, init });
    this.down_proj = new Linear(intermediateSize, C, { bias: false, init });
    this.#act = activation(hiddenAct);
  }

  /** [B, T, C] → [B, T, C] */
  forward(x: Tensor): Tensor {
    const both = this.gate_up_proj.forward(x);
    const [gate, up] = [sliceAxis(both, 2, 0, this.#size), sliceAxis(both, 2, this.#size, 2 * this.#size)];
    return this.down_proj.forward(mul(this.#act(gate), up));
  }
}

const phi3: LlamaFamilyMember = {
  modelType: "phi3",
  defaults: { max_position_embeddings: 4096, rms_norm_eps: 1e-5, pad_token_id: 32000 },
  partialRotary: true,
  turnsAnew: true,
  read(config, { numHiddenLayers: layers }) {
    for (const key of ["resid_pdrop", "embd_pdrop"]) config.fixed(key, 0);
    return { windows: config.sameWindows(layers) };
  },
  layer: (config, index, init) =>
    new LlamaDecoderLayer(config, new Phi3Attention(config, index, init), new Phi3MLP(config, init)),
};

/** A Phi-3 that predicts the next token. */
export const Phi3ForCausalLM = llamaCausalLM("Phi3ForCausalLM", phi3);

/** A Phi-3 that classifies texts. */
export const Phi3ForSequenceClassification = sequenceClassifier("Phi3ForSequenceClassification", llamaFamily(phi3));

/** A Phi-3 that classifies every token. */
export const Phi3ForTokenClassification = tokenClassifier("Phi3ForTokenClassification", llamaFamily(phi3), "score");
