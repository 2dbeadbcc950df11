/**
 * Shadow: a small model of the same kind reads the text, too, and what it makes of it rides along with the states of the frozen one. With
 * S₀ = shadow(E(ids)), every block gets h + α·up(drop(down(h − S))) in place of h, and of what comes out of it, y, the shadow's state becomes
 * (1 − g)·S + g·c, with g = σ(MLP_g(y)) and c = MLP_c(y). With `initWeights`, up starts at zero and nothing is changed. Since a block has no
 * other weight, but another input, it cannot be merged.
 *
 * The loss has, besides, `auxiliaryLossWeight` times that of the shadow alone, by the model's own output layer on S₀. The shadow is as wide as
 * the model and has one layer unless the `shadow…` options say otherwise; of another width it has words of its own and a projection. In
 * files the names keep "default" whatever the adapter is called, as in PEFT, and have the shadow's parameters under `base_model.shadow_backbone`.
 */
import { realize } from "../../compile/program.ts";
import { ConfigError } from "../../errors.ts";
import { boolean, configSchema, float, integer, key, targetKeys, text } from "../../formats/peft-config.ts";
import { add, mul, sub } from "../../graph/elementwise.ts";
import type { Tensor } from "../../graph/node.ts";
import { number } from "../../graph/source.ts";
import { isObserved } from "../../graph/variable.ts";
import { embedTokens, shiftLabels, type TextInputs } from "../../models/causal-lm.ts";
import { type Decoder, DecoderLM } from "../../models/decoder-lm.ts";
import { type Initializer, normal } from "../../nn/init.ts";
import { crossEntropy } from "../../nn/loss.ts";
import type { Layer, Module, Parameter } from "../../nn/module.ts";
import type { TorchGenerator } from "../../random/torch-generator.ts";
import { gelu, sigmoid } from "../../tensor/math.ts";
import { baseModules } from "../adapted-model.ts";
import { kindOf } from "../layer-kind.ts";
import { type Companion, defineMethod, type LayerMethod, type Use } from "../method.ts";
import type { AnyConfig, MethodConfig } from "../method-config.ts";
import { drawLinear } from "../prompt/linear-start.ts";
import { product } from "../scale.ts";
import { outputLayer } from "../tied-weight.ts";
import { through, times } from "../weight-change.ts";

const schema = configSchema("SHADOW", "shadow_", {
  ...targetKeys,
  r: key(8, integer(1)),
  shadow_alpha: key(0.1, float()),
  shadow_dropout: key(0.2, float(0, 1)),
  init_weights: key(true, boolean),
  shadow_model: key("mirror", text),
  shadow_num_hidden_layers: key(null, integer(1)),
  shadow_hidden_size: key(null, integer(1)),
  shadow_num_attention_heads: key(null, integer(1)),
  shadow_intermediate_size: key(null, integer(1)),
  share_embeddings: key(true, boolean),
  update_hidden_size: key(null, integer(1)),
  auxiliary_loss_weight: key(0.05, float()),
});
type Config = MethodConfig<typeof schema>;

const operation = "shadow";

/** The shadow as it runs. */
interface Shadow {
  /** S₀ of a text [B, T, C], with what a cache remembers of it. */
  begin(inputs: TextInputs): Tensor;
  /** The loss of S₀ alone; `null` without labels. */
  loss(state: Tensor, pass: NonNullable<Use["pass"]>): Tensor | null;
}

/** The value of the first of these options that a model's config has, under its name. */
const named = (config: AnyConfig, names: readonly string[], value: number | null): AnyConfig => {
  const name = names.find((each) => each in config);
  if (value === null) return {};
  if (name !== undefined) return { [name]: value };
  throw new ConfigError(`this model's config has none of ${names.join(", ")}.`, { operation, got: value });
};

/** A decoder like the model's, but smaller. */
function mirrored(model: DecoderLM, config: Config, init: Initializer): Decoder {
  const own: AnyConfig = { ...model.config };
  const sizes = {
    ...named(own, ["numHiddenLayers", "nLayer", "numLayers"], config.shadowNumHiddenLayers ?? 1),
    ...named(own, ["hiddenSize", "nEmbd", "dModel"], config.shadowHiddenSize),
    ...named(own, ["intermediateSize", "ffnDim", "nInner"], config.shadowIntermediateSize),
    ...named(own, ["numAttentionHeads", "nHead", "numHeads"], config.shadowNumAttentionHeads),
    // what is not used, is not made
    ...(sharesWords(model, config) ? { vocabSize: 1 } : {}),
  };
  const made = new (model.constructor as new (config: AnyConfig, options: { init: Initializer }) => DecoderLM)(
    { ...own, ...sizes },
    { init },
  );
  return made.backbone;
}

/** Whether the shadow reads the vectors of the model's words and has none: those of GPT-2 stay, as in PEFT, though they are not read. */
const sharesWords = (model: DecoderLM, { shareEmbeddings, shadowHiddenSize }: Config): boolean =>
  readsWords(model, { shareEmbeddings, shadowHiddenSize }) && "embed_tokens" in model.backbone;
const readsWords = (
  { backbone }: DecoderLM,
  { shareEmbeddings, shadowHiddenSize }: Pick<Config, "shareEmbeddings" | "shadowHiddenSize">,
): boolean => shareEmbeddings && (shadowHiddenSize ?? backbone.sizes.width) === backbone.sizes.width;

function companion(model: Module, config: Config): Companion {
  if (!(model instanceof DecoderLM))
    throw new ConfigError(`a ${model.constructor.name} is not a causal language model, which a shadow needs.`, {
      operation,
      got: model.constructor.name,
    });
  const width = model.backbone.sizes.width;
  const own = config.shadowHiddenSize ?? width;
  const without = sharesWords(model, config) ? /^embed_tokens\./ : /^$/;
  const parametersOf = (backbone: Decoder) => [...backbone.namedParameters()].filter(([path]) => !without.test(path));
  const backbone = mirrored(model, config, normal({ std: 0 }));
  const specs = parametersOf(backbone).map(([path, { shape }]) => [`backbone.${path}`, { shape }] as const);
  return {
    parameters: { ...Object.fromEntries(specs), ...(own === width ? {} : { "projection.weight": { shape: [width, own] } }) },
    draw(random: TorchGenerator) {
      const { initializerRange: std = 0.02 } = model.config as { readonly initializerRange?: number };
      const drawn = mirrored(model, config, normal({ std, generator: random }));
      const projection =
        own === width ? {} : { "projection.weight": drawLinear(random, "p", own, width)["p.weight"] as Float32Array };
      return {
        ...Object.fromEntries(parametersOf(drawn).map(([path, { stored }]) => [`backbone.${path}`, stored])),
        ...projection,
      };
    },
    build: (parameters) => build(model, config, backbone, parameters),
  };
}

/** The shadow with these parameters. */
function build(model: DecoderLM, config: Config, backbone: Decoder, parameters: Readonly<Record<string, Parameter>>): Shadow {
  for (const [name, parameter] of Object.entries(parameters)) {
    const [, path, last] = /^backbone\.(?:(.*)\.)?(\w+)$/.exec(name) ?? [];
    if (last !== undefined) Object.assign(backbone.getModule(path ?? ""), { [last]: parameter });
  }
  const { ["projection.weight"]: projection } = parameters;
  return {
    begin({ cache, inputIds, inputsEmbeds, attentionMask, positionIds }) {
      const { wordEmbedding } = model.backbone;
      const given = { ...(inputIds && { inputIds }), ...(inputsEmbeds && { inputsEmbeds }) };
      const words = readsWords(model, config) ? { inputsEmbeds: embedTokens(given, wordEmbedding) } : given;
      const { lastHiddenState, pass } = backbone.forward({
        ...words,
        ...(attentionMask && { attentionMask }),
        ...(positionIds && { positionIds }),
        ...(cache && { cache: cache.beside(operation, backbone.sizes) }),
      });
      if (pass.update) {
        // in one program with the cache, or the layers would run twice
        if (!isObserved()) realize([lastHiddenState, ...pass.update.writes.map(([, next]) => next)]);
        pass.update.commit();
      }
      return projection ? through(lastHiddenState, projection.value) : lastHiddenState;
    },
    loss(state, { inputs: { labels, targets } }) {
      const head = outputLayer(baseModules(model));
      if (config.auxiliaryLossWeight <= 0 || head === undefined || !(labels || targets)) return null;
      const logits = (model.getModule(head) as Layer).forward(state);
      return times(crossEntropy(logits, targets ?? shiftLabels(labels as Tensor)), config.auxiliaryLossWeight);
    },
  };
}

type Names = "down" | "up" | `${"candidate" | "gate"}${"In" | "Out"}${"Weight" | "Bias"}`;
type Values = Readonly<Record<Names, Tensor>>;

/** Linear, GELU, linear. */
function mlp(p: Values, name: "candidate" | "gate", x: Tensor): Tensor {
  const linear = (at: "In" | "Out", z: Tensor) => add(through(z, p[`${name}${at}Weight`]), p[`${name}${at}Bias`]);
  return linear("Out", gelu(linear("In", x)));
}

const block: LayerMethod<Config, Names> = {
  files: {
    down: "shadow_down.default.weight",
    up: "shadow_up.default.weight",
    candidateInWeight: "shadow_update_transform.default.0.weight",
    candidateInBias: "shadow_update_transform.default.0.bias",
    candidateOutWeight: "shadow_update_transform.default.2.weight",
    candidateOutBias: "shadow_update_transform.default.2.bias",
    gateInWeight: "shadow_update_gate.default.0.weight",
    gateInBias: "shadow_update_gate.default.0.bias",
    gateOutWeight: "shadow_update_gate.default.2.weight",
    gateOutBias: "shadow_update_gate.default.2.bias",
  },
  readsText: "pass",
  parameters({ in: C }, { r, updateHiddenSize }) {
    const h = updateHiddenSize ?? r;
    return {
      down: { shape: [r, C] },
      up: { shape: [C, r] },
      candidateInWeight: { shape: [h, C] },
      candidateInBias: { shape: [h] },
      candidateOutWeight: { shape: [C, h] },
      candidateOutBias: { shape: [C] },
      gateInWeight: { shape: [h, C] },
      gateInBias: { shape: [h] },
      gateOutWeight: { shape: [C, h] },
      gateOutBias: { shape: [C] },
    };
  },
  initialise({ in: C }, { r, updateHiddenSize, initWeights }, random) {
    const h = updateHiddenSize ?? r;
    const weight = (into: number, out: number) => drawLinear(random, "w", into, out)["w.weight"] as Float32Array;
    const [down, up] = [weight(C, r), weight(r, C)];
    const network = (name: string) => {
      const [into, out] = [drawLinear(random, "w", C, h), drawLinear(random, "w", h, C)];
      return {
        [`${name}InWeight`]: into["w.weight"] as Float32Array,
        [`${name}InBias`]: into["w.bias"] as Float32Array,
        [`${name}OutWeight`]: out["w.weight"] as Float32Array,
        [`${name}OutBias`]: out["w.bias"] as Float32Array,
      };
    };
    return { values: { down, up: initWeights ? up.fill(0) : up, ...network("candidate"), ...network("gate") } };
  },
  forward(x, base, p, c, use) {
    const { pass } = use;
    if (!pass) throw new ConfigError(`${base.path} runs by itself, without a text that a shadow could read.`, { operation });
    const S = pass.carried ?? begin(pass, use.companion as Shadow);
    const share = through(through(use.dropout(sub(x, S), c.shadowDropout), p.down), p.up);
    const y = base(add(x, times(share, product(c.shadowAlpha, use.scale))));
    const g = sigmoid(mlp(p, "gate", y));
    pass.carried = add(mul(sub(number(g, 1), g), S), mul(g, mlp(p, "candidate", y)));
    return y;
  },
};

/** S₀, whose own loss is the model's, too. */
function begin(pass: NonNullable<Use["pass"]>, shadow: Shadow): Tensor {
  const state = shadow.begin(pass.inputs);
  const loss = shadow.loss(state, pass);
  if (loss) pass.addLoss(loss);
  return state;
}

/** Shadow: `shadow({ r: 8 })`, on every block of a decoder. */
export const shadow = defineMethod({
  schema,
  papers: ["https://arxiv.org/abs/2604.19254"],
  formula: "block(h + α·up(down(h − S))), S ← (1 − g)·S + g·c",
  keys: [
    ...(["r", "shadowAlpha", "shadowDropout", "initWeights", "shadowNumHiddenLayers", "shadowHiddenSize"] as const),
    ...(["shadowNumAttentionHeads", "shadowIntermediateSize", "shareEmbeddings", "updateHiddenSize"] as const),
    "auxiliaryLossWeight",
  ],
  check({ taskType }) {
    if (taskType === "SEQ_CLS")
      throw new ConfigError("a shadow of a text classifier is not implemented.", { operation, got: taskType });
  },
  targets: (modules) => [...modules].flatMap(([path, module]) => (kindOf(module)?.kind === "block" ? [path] : [])),
  startsAtZero: ({ initWeights }) => initWeights,
  shared: {
    files: { "backbone.*": "shadow_backbone.default.*", "projection.*": "shadow_projection.default.*" },
    parameters: () => ({}),
    initialise: () => ({}),
  },
  companion,
  layers: { block },
  samples: (draw) => ({
    r: draw.integer(1, 4),
    initWeights: draw.integer(0, 3) > 0,
    shadowAlpha: 0.5,
    shadowNumHiddenLayers: draw.integer(1, 2),
    updateHiddenSize: draw.integer(1, 4),
  }),
});
