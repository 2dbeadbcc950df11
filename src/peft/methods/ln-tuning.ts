/**
 * Layer norm tuning: the norms of a model are trained as they are, scale and shift, nothing else. W is what it was; each adapter has norms of
 * its own, so one of them acts at a time, and merging puts them in the place of the model's. It equals no LoRA.
 *
 * Any module may be a target, as in PEFT; it is then trained as a whole, as with `modulesToSave`.
 */
import { configSchema, targetKeys } from "../../formats/peft-config.ts";
import { defineMethod } from "../method.ts";

const schema = configSchema("LN_TUNING", "ln_tuning_", {
  target_modules: targetKeys.target_modules,
  exclude_modules: targetKeys.exclude_modules,
  modules_to_save: targetKeys.modules_to_save,
});

const llama = ["input_layernorm", "post_attention_layernorm", "norm"];
const gemma2 = [...llama, "pre_feedforward_layernorm", "post_feedforward_layernorm"];
const falcon = ["input_layernorm", "post_attention_layernorm", "ln_f"];
const t5 = ["layer_norm", "final_layer_norm"];

/** LN tuning: `lnTuning()`, or `lnTuning({ targetModules: ["norm"] })`. */
export const lnTuning = defineMethod({
  schema,
  papers: ["https://arxiv.org/abs/2312.11420"],
  formula: "W; norms of its own",
  whole: "ln_tuning_layers",
  targets: {
    llama,
    mistral: llama,
    gemma: llama,
    gemma2,
    gemma3_text: gemma2,
    qwen2: ["post_attention_layernorm"],
    qwen3: ["post_attention_layernorm"],
    bloom: falcon,
    falcon,
    gpt2: ["ln_1", "ln_2", "ln_f"],
    gptj: ["ln_1", "ln_f"],
    phi: ["input_layernorm", "final_layernorm"],
    t5,
    mt5: t5,
    bart: ["self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"],
  },
  startsAtZero: () => true,
  layers: {},
  samples: () => ({}),
});
