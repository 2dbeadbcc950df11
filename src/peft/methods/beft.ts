/**
 * Bias-efficient fine-tuning: y = base(x) + b, one trained vector b [out] for each target and nothing else, by default on the projection to
 * values. W stays as it is. Merging adds b to the layer's bias; a layer that has none keeps the adapter beside it. It equals no LoRA.
 */
import { boolean, configSchema, key, targetKeys } from "../../formats/peft-config.ts";
import { add } from "../../graph/elementwise.ts";
import { reshape } from "../../graph/movement.ts";
import { defineMethod, type LayerMethod } from "../method.ts";
import type { MethodConfig } from "../method-config.ts";
import { times } from "../weight-change.ts";

const { target_modules, modules_to_save } = targetKeys;
const schema = configSchema("BEFT", "beft_", { target_modules, modules_to_save, init_weights: key(true, boolean) });
type Config = MethodConfig<typeof schema>;

const linear: LayerMethod<Config, "bias"> = {
  files: { bias: "beft_bias" },
  parameters: ({ out }) => ({ bias: { shape: [1, out] } }),
  initialise: ({ out }, { initWeights }, random) => ({
    values: { bias: initWeights ? new Float32Array(out) : random.randn(out) },
  }),
  forward: (x, base, { bias }, _, use) => add(base(x), times(reshape(bias, [base.out]), use.scale)),
  biasDelta: (base, { bias }, _, scale) => times(reshape(bias, [base.out]), scale),
};

const value = ["value"];
/** Models whose projection to values has this name. */
const valueModels = [
  ...["opt", "gptj", "gpt_neo", "bart", "llama", "llama4", "mistral", "mixtral", "phi"],
  ...["gemma", "gemma2", "gemma3_text", "qwen2", "qwen3"],
];

/** BEFT: `beft()`, or `beft({ targetModules: ["v_proj"] })`. */
export const beft = defineMethod({
  schema,
  papers: ["https://arxiv.org/abs/2509.15974"],
  formula: "W; y + b",
  targets: {
    t5: ["v"],
    mt5: ["v"],
    bert: value,
    roberta: value,
    "deberta-v2": ["value_proj"],
    ...Object.fromEntries(valueModels.map((type) => [type, ["v_proj"]])),
  },
  startsAtZero: ({ initWeights }) => initWeights,
  layers: { linear },
  samples: (draw) => ({ initWeights: draw.integer(0, 2) > 0 }),
});
