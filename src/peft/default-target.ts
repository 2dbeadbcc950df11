/** The modules that PEFT adapts when it is not told which, by the model type that config.json names. */

const qv = ["q_proj", "v_proj"];
const queryValue = ["query", "value"];
const fused = ["query_key_value"];

/** Targets of LoRA and of the methods like it; a text is a pattern. @see https://github.com/huggingface/peft `utils/constants.py` */
export const defaultTargets: Readonly<Record<string, readonly string[] | string>> = {
  t5: ["q", "v"],
  mt5: ["q", "v"],
  bart: qv,
  gpt2: ["c_attn"],
  bloom: fused,
  "blip-2": ["q", "v", "q_proj", "v_proj"],
  opt: qv,
  gptj: qv,
  gpt_neox: fused,
  gpt_neo: qv,
  bert: queryValue,
  roberta: queryValue,
  "xlm-roberta": queryValue,
  electra: queryValue,
  "deberta-v2": ["query_proj", "value_proj"],
  deberta: ["in_proj"],
  layoutlm: queryValue,
  llama: qv,
  llama4: qv,
  chatglm: fused,
  gpt_bigcode: ["c_attn"],
  mpt: ["Wqkv"],
  RefinedWebModel: fused,
  RefinedWeb: fused,
  falcon: fused,
  btlm: ["c_proj", "c_attn"],
  codegen: ["qkv_proj"],
  mistral: qv,
  mixtral: qv,
  stablelm: qv,
  phi: [...qv, "fc1", "fc2"],
  gemma: qv,
  gemma2: qv,
  gemma3_text: qv,
  gemma4: ".*language_model\\..*\\.(q_proj|v_proj)",
  qwen2: qv,
  qwen3: qv,
  nemotron_h: ["q_proj", "k_proj", "v_proj", "o_proj"],
  rwkv: ["key", "value", "receptance", "output"],
  rwkv7: ["r_proj", "k_proj", "v_proj", "o_proj", "key", "value"],
};
