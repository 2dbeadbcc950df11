/**
 * OLMo 2: a Llama with norms after attention and feed-forward part instead of before, and with norms over all queries and all keys of a
 * token.
 * @see https://arxiv.org/abs/2501.00656
 */
import { add } from "../graph/elementwise.ts";
import type { Tensor } from "../graph/node.ts";
import type { Initializer } from "../nn/init.ts";
import type { Layer } from "../nn/module.ts";
import { RMSNorm } from "../nn/norm.ts";
import type { RotaryPass } from "./decoder.ts";
import { sequenceClassifier } from "./family.ts";
import { DecoderLayer, gatedMLP, LlamaAttention, type LlamaFamilyMember, llamaCausalLM, llamaFamily } from "./llama.ts";
import type { LlamaConfig } from "./llama-config.ts";

/** One block: x + norm(attention(x)), then that + norm(mlp(that)). */
export class Olmo2DecoderLayer extends DecoderLayer {
  readonly self_attn: LlamaAttention;
  readonly mlp: Layer;
  readonly post_attention_layernorm: RMSNorm;
  readonly post_feedforward_layernorm: RMSNorm;

  constructor(config: LlamaConfig, index: number, init: Initializer) {
    super();
    const norm = () => new RMSNorm(config.hiddenSize, { eps: config.rmsNormEps });
    this.self_attn = new LlamaAttention(config, index, init);
    this.mlp = gatedMLP(config, init);
    this.post_attention_layernorm = norm();
    this.post_feedforward_layernorm = norm();
  }

  forward(x: Tensor, pass: RotaryPass): Tensor {
    const between = add(x, this.post_attention_layernorm.forward(this.self_attn.forward(x, pass)));
    return add(between, this.post_feedforward_layernorm.forward(this.mlp.forward(between)));
  }
}

/** OLMo 2, of which OLMo 3 is a variant. */
export const olmo2: LlamaFamilyMember = {
  modelType: "olmo2",
  defaults: { rms_norm_eps: 1e-5, pad_token_id: 1 },
  read: () => ({ queryKeyNorm: "token" }),
  layer: (config, index, init) => new Olmo2DecoderLayer(config, index, init),
};

/** An OLMo 2 that predicts the next token. */
export const Olmo2ForCausalLM = llamaCausalLM("Olmo2ForCausalLM", olmo2);

/** An OLMo 2 that classifies texts. */
export const Olmo2ForSequenceClassification = sequenceClassifier("Olmo2ForSequenceClassification", llamaFamily(olmo2));
