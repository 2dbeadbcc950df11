/** Granite MoE: a Granite whose feed-forward parts are mixtures of experts. @see https://huggingface.co/ibm-granite/granite-3.0-1b-a400m-base */
import { add, mul } from "../graph/elementwise.ts";
import type { Tensor } from "../graph/node.ts";
import { number } from "../graph/source.ts";
import type { Initializer } from "../nn/init.ts";
import { RMSNorm } from "../nn/norm.ts";
import type { RotaryPass } from "./decoder.ts";
import { graniteFactors } from "./granite.ts";
import { DecoderLayer, LlamaAttention, type LlamaFamilyMember, llamaCausalLM } from "./llama.ts";
import { type MixtureConfig, mixture, readMixture, SparseMoeBlock } from "./mixture.ts";

/** Llama's block under other names. */
class GraniteMoeDecoderLayer extends DecoderLayer {
  readonly self_attn: LlamaAttention;
  readonly block_sparse_moe: SparseMoeBlock;
  readonly input_layernorm: RMSNorm;
  readonly post_attention_layernorm: RMSNorm;
  readonly #scale: number;

  constructor(config: MixtureConfig, index: number, init: Initializer) {
    super();
    const { hiddenSize, rmsNormEps: eps, residualScale } = config;
    this.#scale = residualScale;
    this.self_attn = new LlamaAttention(config, index, init);
    this.block_sparse_moe = new SparseMoeBlock(config, init, "router");
    this.input_layernorm = new RMSNorm(hiddenSize, { eps });
    this.post_attention_layernorm = new RMSNorm(hiddenSize, { eps });
  }

  forward(x: Tensor, pass: RotaryPass): Tensor {
    const plus = (to: Tensor, y: Tensor) => add(to, mul(y, number(y, this.#scale)));
    const attended = plus(x, this.self_attn.forward(this.input_layernorm.forward(x), pass));
    return plus(attended, this.block_sparse_moe.forward(this.post_attention_layernorm.forward(attended), pass));
  }
}

/** What checkpoints call the parts of a mixture, and their paths. */
const names = [
  ["input_linear.weight", "experts.gate_up_proj"],
  ["output_linear.weight", "experts.down_proj"],
  ["router.layer.weight", "router.weight"],
] as const;

const renamed = (name: string, from: 0 | 1): string => {
  const pair = names.find((each) => name.endsWith(`.block_sparse_moe.${each[from]}`));
  return pair ? name.slice(0, -pair[from].length) + pair[1 - from] : name;
};

const graniteMoe: LlamaFamilyMember = {
  ...mixture,
  modelType: "granitemoe",
  defaults: { num_local_experts: 8, num_experts_per_tok: 2 },
  read: (config, llama) => ({ ...graniteFactors(config), ...readMixture(config, llama), normTopkProb: true }),
  layer: (config, index, init) => new GraniteMoeDecoderLayer(config as MixtureConfig, index, init),
  names: { pathOf: (name) => renamed(name, 0), nameOf: (path) => renamed(path, 1) },
};

/** A Granite MoE that predicts the next token. */
export const GraniteMoeForCausalLM = llamaCausalLM("GraniteMoeForCausalLM", graniteMoe);
