/**
 * X-LoRA: a mixture of LoRA experts by a small network that is trained. The model reads a text once on its own; from its last state h of each
 * token the network makes shares w = softmax(network(h) / τ) of the experts, of all layers alike or of each its own; then the model reads
 * the text again with y = W·x + g·Σₑ wₑ·sₑ·Bₑ·Aₑ·x. The experts are frozen unless `useTrainableAdapters`. With `topKLora` only the largest k
 * shares stay. `enableSoftmaxTopk` makes those that stay, without `topKLora` all, add up to 1 by a softmax at the end. With one expert and
 * the softmax it is that LoRA.
 *
 * The first pass writes keys and values of its own into a cache beside that of the second, so that text is continued token by token,
 * which PEFT cannot.
 *
 * @see https://arxiv.org/abs/2402.07148
 */
import { ConfigError, ShapeError, wordShape } from "../../errors.ts";
import { boolean, configSchema, float, integer, key, object } from "../../formats/peft-adapter.ts";
import { add, cast, equal, max, mul, where } from "../../graph/elementwise.ts";
import { reshape, sliceAxis, stopGradient } from "../../graph/movement.ts";
import type { Tensor } from "../../graph/node.ts";
import { reduceMax } from "../../graph/reduction.ts";
import { constant, iota, number } from "../../graph/source.ts";
import type { CacheSizes } from "../../models/cache.ts";
import type { CausalLM, CausalLMInputs, CausalLMOutput } from "../../models/causal-lm.ts";
import type { Parameter } from "../../nn/module.ts";
import { topk } from "../../tensor/pick.ts";
import { dropout, Generator as KeyGenerator } from "../../tensor/random.ts";
import { softmax } from "../../tensor/statistics.ts";
import type { Adapted } from "../adapted-model.ts";
import { defineMethod } from "../method.ts";
import { type MethodConfig, toCamel } from "../method-config.ts";
import { StandIn } from "../stand-in.ts";
import { through, times } from "../weight-change.ts";
import { mixtures } from "./mixtures.ts";
import type { Router } from "./router.ts";

/** The keys of PEFT's XLoraConfig. */
export const schema = configSchema("XLORA", "xlora_", {
  hidden_size: key(null, integer(1)),
  adapters: key(null, object()),
  enable_softmax: key(true, boolean),
  enable_softmax_topk: key(false, boolean),
  layerwise_scalings: key(false, boolean),
  xlora_depth: key(1, integer(1)),
  xlora_size: key(2048, integer(1)),
  xlora_dropout_p: key(0.2, float(0, 1)),
  use_trainable_adapters: key(false, boolean),
  softmax_temperature: key(1, float()),
  top_k_lora: key(null, integer(1)),
  scaling_pass_value: key(0, float()),
  global_scaling_weight: key(1, float()),
});
/** PEFT's options in camelCase, with its defaults; `hiddenSize` is the model's. */
export type XloraConfig = MethodConfig<typeof schema>;

/** Checks options as those of a method are checked. */
export const configured = defineMethod({
  schema,
  ...mixtures.createXlora,
  keys: Object.keys(toCamel(Object.fromEntries(Object.keys(schema.keys).map((name) => [name, 0])))) as (keyof XloraConfig &
    string)[],
  check({ softmaxTemperature }) {
    if (!(softmaxTemperature > 0))
      throw new ConfigError(`\`softmaxTemperature\` (= ${softmaxTemperature}) must be above 0.`, {
        operation: "xlora",
        got: softmaxTemperature,
      });
  },
  layers: {},
  samples: () => null,
});

/** What the network is called, in the model and in the file. */
export const place = "internal_xlora_classifier";

/** The linear layers of the network: their numbers in PEFT, among ReLU and dropout, and what goes in and comes out. */
export function linears(config: XloraConfig, outputs: number): [at: number, into: number, out: number][] {
  const { hiddenSize, xloraDepth: depth, xloraSize: size, xloraDropoutP: p } = config;
  return Array.from({ length: depth }, (_, i) => [
    i * (p > 0 ? 3 : 2),
    i === 0 ? (hiddenSize as number) : size,
    i === depth - 1 ? outputs : size,
  ]);
}

type Inputs = CausalLMInputs;

/** The network on the model, and the two passes. Its parameters are `internal_xlora_classifier.layers.0.weight` and so on. */
export class XloraPlace extends StandIn implements Router {
  readonly word = "X-LoRA";
  readonly names: readonly string[];
  readonly config: XloraConfig;
  /** Paths of the layers that experts change, in the model's order. */
  readonly #paths: readonly string[];
  readonly own: ReadonlyMap<string, Parameter>;
  readonly #random: KeyGenerator;
  readonly #off: Adapted["off"];
  readonly #forwards: (inputs: Inputs) => CausalLMOutput;
  readonly #sizes: CacheSizes;
  /** [B, T, layers or 1, experts] while the second pass runs. */
  #shares: Tensor | null = null;
  rests = false;

  constructor(
    model: CausalLM,
    adapted: Adapted,
    config: XloraConfig,
    {
      names,
      paths,
      parameters,
      seed,
    }: {
      readonly names: readonly string[];
      readonly paths: readonly string[];
      readonly parameters: ReadonlyMap<string, Parameter>;
      readonly seed: number;
    },
  ) {
    super(model, place);
    this.names = names;
    this.config = config;
    this.own = parameters;
    this.#paths = paths;
    this.#random = new KeyGenerator(seed);
    this.#off = adapted.off;
    this.#forwards = model.forward.bind(model);
    this.#sizes = model.backbone.sizes;
    this.stand("forward", { value: (inputs: Inputs) => this.#forward(inputs) });
  }

  override *ownParameters(): Generator<[name: string, parameter: Parameter]> {
    yield* this.own;
  }

  end(): void {
    this.takeOff();
  }

  #forward(inputs: Inputs): CausalLMOutput {
    if (this.#off.value) return this.#forwards(inputs);
    this.#shares = this.scalings(inputs);
    try {
      return this.#forwards(inputs);
    } finally {
      this.#shares = null;
    }
  }

  /** Shares of the experts from a pass of the model on its own, [B, T, layers or 1, experts]. */
  scalings({ labels: _, targets: __, cache, ...inputs }: Inputs): Tensor {
    const { scalingPassValue: value, layerwiseScalings, enableSoftmax, softmaxTemperature } = this.config;
    const first = cache?.beside(this.word, this.#sizes);
    const experts = this.names.length;
    if (value === 0) this.rests = true;
    else {
      const [B, T] = (inputs.inputIds ?? (inputs.inputsEmbeds as Tensor)).shape as [number, number];
      this.#shares = constant(value, [B, T, 1, experts], "float32");
    }
    try {
      const { hiddenStates } = this.#forwards({ ...inputs, ...(first && { cache: first }), logitsToKeep: 1 });
      const h = stopGradient(hiddenStates.at(-1) as Tensor);
      const logits = reshape(this.#network(h), [...h.shape.slice(0, 2), layerwiseScalings ? this.#paths.length : 1, experts]);
      return enableSoftmax ? softmax(times(logits, 1 / softmaxTemperature), -1) : logits;
    } finally {
      this.rests = false;
      this.#shares = null;
    }
  }

  #network(h: Tensor): Tensor {
    const all = linears(this.config, 0);
    return all.reduce((x, [at], i) => {
      const [weight, bias] = ["weight", "bias"].map((name) => this.own.get(`layers.${at}.${name}`)?.value as Tensor);
      const y = add(through(x, weight as Tensor), bias as Tensor);
      if (i === all.length - 1) return y;
      const active = max(y, number(y, 0));
      const p = this.config.xloraDropoutP;
      return this.training && p > 0 ? dropout(this.#random.next(), active, p) : active;
    }, h);
  }

  weight(path: string, name: string, x: Tensor): Tensor {
    const shares = this.#shares as Tensor;
    const [B, T, L, E] = shares.shape as [number, number, number, number];
    const layer = L === 1 ? 0 : this.#paths.indexOf(path);
    const time = x.shape[1] as number;
    if (x.shape[0] !== B || time > T)
      throw new ShapeError(`${path} runs on ${wordShape(x.shape)}, which does not fit the tokens of ${wordShape([B, T])}.`, {
        operation: "xlora",
        got: x.shape,
        expected: [B, T],
      });
    // the output layer may be given the last tokens only
    const own = sliceAxis(sliceAxis(shares, 2, layer, layer + 1), 1, T - time, T);
    const e = this.names.indexOf(name);
    const chosen = sliceAxis(this.#largest(reshape(own, [B, time, E])), 2, e, e + 1);
    return times(chosen, this.config.globalScalingWeight);
  }

  /** Of [B, T, experts], the largest shares of each token, or all of them; as they are, or through a softmax over those that are not 0. */
  #largest(shares: Tensor): Tensor {
    const { topKLora: k, enableSoftmaxTopk } = this.config;
    const kept = k === null ? shares : onlyLargest(shares, k);
    if (!enableSoftmaxTopk) return kept;
    const zero = number(kept, 0);
    const isZero = equal(kept, zero);
    return where(isZero, zero, softmax(where(isZero, number(kept, Number.NEGATIVE_INFINITY), kept), -1));
  }
}

/** [B, T, experts] with 0 for all but the k largest of each token. */
function onlyLargest(shares: Tensor, k: number): Tensor {
  const E = shares.shape[2] as number;
  const { indices } = topk(shares, k, -1);
  const places = equal(reshape(indices, [...shares.shape.slice(0, 2), k, 1]), reshape(iota([E]), [1, 1, 1, E]));
  const isChosen = reshape(reduceMax(cast(places, "int32"), [2]), shares.shape);
  return mul(shares, cast(isChosen, shares.dtype));
}
