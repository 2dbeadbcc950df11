/**
 * (IA)³, infused adapter by inhibiting and amplifying inner activations: y = l ⊙ (W·x + b), or W·(l ⊙ x) + b in feed-forward
 * layers. Only the vector l is trained; it starts at 1, so a fresh adapter changes nothing. A change of the weight, of its rows
 * or columns, but of full rank, so it equals no LoRA.
 *
 * The paper rescales keys, values and the inner activations; in PEFT any linear layer and any convolution (channel by channel) may be
 * chosen, and the bias of layers that are no feed-forward layers is scaled, too. `setScale(s)` means l = 1 + s·(l − 1), which PEFT does
 * not have.
 */
import { ConfigError } from "../../errors.ts";
import { boolean, configSchema, key, targetKeys, text, texts } from "../../formats/peft-config.ts";
import { mul, sub } from "../../graph/elementwise.ts";
import { expand, reshape } from "../../graph/movement.ts";
import type { Tensor } from "../../graph/node.ts";
import { sizeOf } from "../../graph/shape.ts";
import { number } from "../../graph/source.ts";
import { QuantisedLinear } from "../../nn/quantised-linear.ts";
import type { TorchGenerator } from "../../random/torch-generator.ts";
import { convolutionOf, kernelOf } from "../convolution-layer.ts";
import { type Base, defineMethod, type LayerMethod, type Start } from "../method.ts";
import type { MethodConfig } from "../method-config.ts";
import { fullMatch } from "../python-regex.ts";
import type { Scale } from "../scale.ts";
import { scaledGain, times } from "../weight-change.ts";

const schema = configSchema("IA3", "ia3_", {
  target_modules: targetKeys.target_modules,
  exclude_modules: targetKeys.exclude_modules,
  modules_to_save: targetKeys.modules_to_save,
  feedforward_modules: key(null, text, texts),
  fan_in_fan_out: key(false, boolean),
  init_ia3_weights: key(true, boolean),
});
type Config = MethodConfig<typeof schema>;

/** [targets, those of them that are feed-forward layers] by model type. */
const defaults: Readonly<Record<string, readonly [string[], string[]]>> = {
  t5: [["k", "v", "wo"], ["wo"]],
  mt5: [["k", "v", "wi_1"], []],
  gpt2: [["c_attn", "mlp.c_proj"], ["mlp.c_proj"]],
  bloom: [["query_key_value", "mlp.dense_4h_to_h"], ["mlp.dense_4h_to_h"]],
  roberta: [["key", "value", "output.dense"], ["output.dense"]],
  opt: [["q_proj", "k_proj", "fc2"], ["fc2"]],
  gptj: [["q_proj", "v_proj", "fc_out"], ["fc_out"]],
  gpt_neox: [["query_key_value", "dense_4h_to_h"], ["dense_4h_to_h"]],
  gpt_neo: [["q_proj", "v_proj", "c_proj"], ["c_proj"]],
  bart: [["q_proj", "v_proj", "fc2"], ["fc2"]],
  gpt_bigcode: [["c_attn", "mlp.c_proj"], ["mlp.c_proj"]],
  llama: [["k_proj", "v_proj", "down_proj"], ["down_proj"]],
  llama4: [["q_proj", "v_proj", "down_proj"], ["down_proj"]],
  mistral: [["k_proj", "v_proj", "down_proj"], ["down_proj"]],
  mixtral: [["k_proj", "v_proj", "w2"], ["w2"]],
  bert: [["key", "value", "output.dense"], ["output.dense"]],
  "deberta-v2": [["key_proj", "value_proj", "output.dense"], ["output.dense"]],
  deberta: [["in_proj", "output.dense"], ["output.dense"]],
  RefinedWebModel: [["query_key_value", "dense_4h_to_h"], ["dense_4h_to_h"]],
  RefinedWeb: [["query_key_value", "dense_4h_to_h"], ["dense_4h_to_h"]],
  falcon: [["query_key_value", "dense_4h_to_h"], ["dense_4h_to_h"]],
  phi: [["q_proj", "v_proj", "fc2"], ["fc2"]],
  gemma: [["q_proj", "v_proj", "down_proj"], ["down_proj"]],
  gemma2: [["q_proj", "v_proj", "down_proj"], ["down_proj"]],
  gemma3_text: [["q_proj", "v_proj", "down_proj"], ["down_proj"]],
  qwen2: [["q_proj", "v_proj", "down_proj"], ["down_proj"]],
  qwen3: [["q_proj", "v_proj", "down_proj"], ["down_proj"]],
};

/** PEFT's tests differ: a text is a pattern of the whole path; of a list, the path ends in an item, even in the middle of a word. */
const isFeedforward = ({ path }: Base, { feedforwardModules: modules }: Config): boolean =>
  typeof modules === "string"
    ? fullMatch(modules, "ia3", "feedforwardModules")(path)
    : (modules ?? []).some((item) => path.endsWith(item));

/** l − 1, as the effective change. */
const change = (l: Tensor, scale: Scale): Tensor => times(sub(l, number(l, 1)), scale);

/** As many first values as l has. */
const started = (count: number, { initIa3Weights }: Config, random: TorchGenerator): Start => ({
  values: { l: initIa3Weights ? new Float32Array(count).fill(1) : random.randn(count) },
});

const linear: LayerMethod<Config, "l"> = {
  files: { l: "ia3_l" },
  parameters: (base, c) => ({ l: { shape: isFeedforward(base, c) ? [1, base.in] : [base.out, 1] } }),
  initialise: (base, c, random) => started(isFeedforward(base, c) ? base.in : base.out, c, random),
  forward(x, base, { l }, c, { scale }) {
    const gain = reshape(scaledGain(l, scale), [l.size]);
    return isFeedforward(base, c) ? base(mul(x, gain)) : mul(base(x), gain);
  },
  delta(base, { l }, _, scale) {
    if (base.layer instanceof QuantisedLinear)
      throw new ConfigError(`the weight of ${base.path} is kept as codes, into which (IA)³ is not merged, as in PEFT.`, {
        operation: "merge",
        got: base.path,
        hint: "Use it unmerged.",
      });
    return mul(base.weight, change(l, scale));
  },
  biasDelta: (base, { l }, c, scale) =>
    isFeedforward(base, c) ? null : mul(base.bias as Tensor, reshape(change(l, scale), [l.size])),
};

/** l of the channels that go in, for each value of the kernel as a matrix [out, in]: groups have their own channels. */
function alongKernel(l: Tensor, base: Base): Tensor {
  const { groups } = convolutionOf(base);
  const channels = l.size / groups;
  const [rows, places] = [base.out / groups, base.in / channels];
  return reshape(expand(reshape(l, [groups, 1, channels, 1]), [groups, rows, channels, places]), [base.out, base.in]);
}

const convolution: LayerMethod<Config, "l"> = {
  ...linear,
  parameters(base, c) {
    const channels = isFeedforward(base, c) ? convolutionOf(base).inChannels : base.out;
    return { l: { shape: [1, channels, ...kernelOf(base).map(() => 1)] } };
  },
  initialise: (base, c, random) => started(sizeOf(convolution.parameters(base, c).l.shape), c, random),
  forward(x, base, { l }, c, { scale }) {
    const gain = scaledGain(l, scale);
    return isFeedforward(base, c) ? base(mul(x, gain)) : mul(base(x), gain);
  },
  delta(base, { l }, c, scale) {
    const factors = change(l, scale);
    return mul(base.weight, isFeedforward(base, c) ? alongKernel(factors, base) : reshape(factors, [base.out, 1]));
  },
};

/** (IA)³: `ia3({ targetModules: ["k_proj", "v_proj", "down_proj"], feedforwardModules: ["down_proj"] })`. */
export const ia3 = defineMethod({
  schema,
  papers: ["https://arxiv.org/abs/2205.05638"],
  formula: "l ⊙ W, or W ⊙ l",
  targets: Object.fromEntries(Object.entries(defaults).map(([type, [targets]]) => [type, targets])),
  check({ targetModules, feedforwardModules }) {
    if (!Array.isArray(targetModules) || !Array.isArray(feedforwardModules)) return;
    const other = feedforwardModules.filter((item) => !targetModules.includes(item));
    if (other.length > 0)
      throw new ConfigError(`\`feedforwardModules\` has ${other.join(", ")}, which \`targetModules\` has not.`, {
        operation: "ia3",
        got: feedforwardModules,
        expected: targetModules,
      });
  },
  complete(config, modelType) {
    if (config.feedforwardModules !== null) return config;
    const found = modelType === undefined || !Object.hasOwn(defaults, modelType) ? undefined : defaults[modelType];
    if (!found)
      throw new ConfigError(
        `\`feedforwardModules\` must be given: there is no default for model type ${JSON.stringify(modelType ?? null)}.`,
        { operation: "attach", got: null, hint: "It may be []." },
      );
    return { ...config, feedforwardModules: found[1] };
  },
  startsAtZero: ({ initIa3Weights }) => initIa3Weights,
  layers: { linear, conv2d: convolution, conv3d: convolution },
  samples: (draw) => ({
    initIa3Weights: draw.integer(0, 3) > 0,
    feedforwardModules: draw.integer(0, 1) === 1 ? ".*" : [],
  }),
});
