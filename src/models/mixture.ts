/**
 * Mixtures of experts: a router chooses a few of many feed-forward parts for each token. The experts' matrices are parameters of three
 * axes, as in transformers 5; checkpoints have them expert by expert.
 *
 * @see https://arxiv.org/abs/1701.06538, https://arxiv.org/abs/2101.03961
 */
import { concatenate } from "../graph/composite.ts";
import { add, cast, div, mul } from "../graph/elementwise.ts";
import { reshape } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { reduceSum } from "../graph/reduction.ts";
import { number } from "../graph/source.ts";
import { expertMLP, gatedHalves, largest, type WidenedMatrices } from "../nn/experts.ts";
import { type Initializer, zeros } from "../nn/init.ts";
import { Linear, linear } from "../nn/linear.ts";
import { GatedMLP, gating } from "../nn/mlp.ts";
import { type Layer, Module, Parameter } from "../nn/module.ts";
import { QuantisedLinear } from "../nn/quantised-linear.ts";
import type { QuantisedWeight } from "../nn/quantiser.ts";
import { sigmoid } from "../tensor/math.ts";
import { softmax } from "../tensor/statistics.ts";
import type { NamedPart } from "./checkpoint-name.ts";
import type { ConfigReader } from "./config-reader.ts";
import type { Pass } from "./decoder.ts";
import { type Block, gatedMLP, LlamaAttention, LlamaDecoderLayer, type LlamaFamilyMember } from "./llama.ts";
import type { LlamaConfig } from "./llama-config.ts";

/** A member of the Llama family whose feed-forward parts are mixtures of experts, all or some. */
export interface MixtureConfig extends LlamaConfig {
  readonly numExperts: number;
  /** Experts that compute for each token. */
  readonly numExpertsPerTok: number;
  /** Inner width of one expert. */
  readonly expertSize: number;
  /** Whether the weights of a token's experts are divided by their sum. */
  readonly normTopkProb: boolean;
  /** What the balance among experts counts in the loss; 0 for nothing. */
  readonly balanceCoef: number;
  /** Inner width of an expert that computes for every token, weighted by a gate of its own; there is none where this is absent. */
  readonly sharedExpertSize?: number;
}

/** A model some of whose feed-forward parts are mixtures. */
export interface PartlyMixedConfig extends MixtureConfig {
  /** For each layer, whether its feed-forward part is a mixture. */
  readonly mixes: readonly boolean[];
}

/**
 * The settings of a mixture; the number of experts under either of the names that it has.
 *
 * @throws {ConfigError} when more experts are to compute than there are
 */
export function readMixture(
  config: ConfigReader,
  { intermediateSize }: LlamaConfig,
): Pick<MixtureConfig, "numExperts" | "numExpertsPerTok" | "expertSize" | "normTopkProb" | "balanceCoef"> {
  const key = config.get("num_local_experts") === undefined ? "num_experts" : "num_local_experts";
  const [numExperts, numExpertsPerTok] = [config.count(key), config.count("num_experts_per_tok")];
  if (numExpertsPerTok > numExperts)
    config.refuse("num_experts_per_tok", numExpertsPerTok, `must be at most ${key} (= ${numExperts})`);
  const coef = config.number("router_aux_loss_coef", 0.001);
  return {
    numExperts,
    numExpertsPerTok,
    expertSize: intermediateSize,
    normTopkProb: config.flag("norm_topk_prob", false),
    balanceCoef: config.flag("output_router_logits", false) ? coef : 0,
  };
}

/** Which layers are mixtures, as Qwen's models say it. @throws {ConfigError} for `mlp_only_layers` that is no list */
export function readMixes(config: ConfigReader, { numHiddenLayers }: LlamaConfig): Pick<PartlyMixedConfig, "mixes"> {
  const step = config.count("decoder_sparse_step", 1);
  const plain = config.get("mlp_only_layers") ?? [];
  if (!Array.isArray(plain)) return config.refuse("mlp_only_layers", plain, "must be a list of layers");
  return { mixes: Array.from({ length: numHiddenLayers }, (_, i) => !plain.includes(i) && (i + 1) % step === 0) };
}

/** Gives each token's scores of experts. It is no linear layer to "all-linear", as in transformers; adapt its `weight` as a parameter. */
class TopKRouter extends Module {
  readonly weight: Parameter;
  readonly bias: Parameter | null;

  constructor({ numExperts, hiddenSize }: MixtureConfig, init: Initializer, hasBias: boolean) {
    super();
    this.weight = Parameter.from(init([numExperts, hiddenSize]), [numExperts, hiddenSize]);
    this.bias = hasBias ? Parameter.from(init([numExperts]), [numExperts]) : null;
  }

  /** [N, C] → [N, E] */
  forward(x: Tensor): Tensor {
    return linear(x, this.weight.value, this.bias?.value);
  }
}

/** Matrices of experts [E, out, in] as codes. In the place of a parameter. */
export class CodedMatrices implements WidenedMatrices {
  readonly shape: readonly [experts: number, out: number, into: number];
  /** All experts' rows as one matrix. */
  readonly codes: QuantisedLinear;
  /** Whether the parameter was [E, in, out]. */
  readonly isTransposed: boolean;

  constructor(weight: QuantisedWeight, experts: number, isTransposed = false) {
    this.codes = new QuantisedLinear(weight);
    this.isTransposed = isTransposed;
    this.shape = [experts, weight.shape[0] / experts, weight.shape[1]];
  }

  /** What multiplies, as a parameter has it. */
  get value(): this {
    return this;
  }

  widened(chosen?: Tensor): Tensor {
    return this.codes.parts(this.shape[0], chosen);
  }
}

/** How experts differ from those of most models. */
export interface ExpertStyle {
  /** Whether their matrices are [E, in, out]. */
  readonly isTransposed?: boolean;
  /** Of experts and router. */
  readonly hasBias?: boolean;
  /** From what both first matrices give to what goes into the second. */
  readonly gated?: (inner: Tensor) => Tensor;
}

/** The experts' matrices. */
export class Experts extends Module {
  gate_up_proj: Parameter | CodedMatrices;
  down_proj: Parameter | CodedMatrices;
  readonly gate_up_proj_bias: Parameter | null;
  readonly down_proj_bias: Parameter | null;
  readonly isTransposed: boolean;
  readonly #gated: (inner: Tensor) => Tensor;
  readonly #perToken: number;

  constructor(config: MixtureConfig, init: Initializer, style: ExpertStyle = {}) {
    super();
    const { numExperts: E, numExpertsPerTok, hiddenSize: C, expertSize: F, hiddenAct } = config;
    const { isTransposed = false, hasBias = false, gated = gatedHalves(gating(hiddenAct)) } = style;
    const made = (values: Initializer, ...shape: number[]) => Parameter.from(values(shape), shape);
    const matrices = (out: number, into: number) => (isTransposed ? made(init, E, into, out) : made(init, E, out, into));
    this.isTransposed = isTransposed;
    this.gate_up_proj = matrices(2 * F, C);
    this.down_proj = matrices(C, F);
    this.gate_up_proj_bias = hasBias ? made(zeros, E, 2 * F) : null;
    this.down_proj_bias = hasBias ? made(zeros, E, C) : null;
    this.#gated = gated;
    this.#perToken = numExpertsPerTok;
  }

  /** The matrices by name, whether they are codes or not. */
  matrices(): (readonly ["gate_up_proj" | "down_proj", Parameter | CodedMatrices])[] {
    return [
      ["gate_up_proj", this.gate_up_proj],
      ["down_proj", this.down_proj],
    ];
  }

  override *ownParameters(): Generator<[name: string, parameter: Parameter]> {
    for (const [name, matrix] of this.matrices())
      if (matrix instanceof Parameter) yield [name, matrix];
      else
        for (const [part, codes] of matrix.codes.ownParameters())
          yield [part === "SCB" ? `${name}.SCB` : part.replace("weight", name), codes];
    if (this.gate_up_proj_bias) yield ["gate_up_proj_bias", this.gate_up_proj_bias];
    if (this.down_proj_bias) yield ["down_proj_bias", this.down_proj_bias];
  }

  /** [N, C] and weights [N, E] → [N, C] */
  forward(x: Tensor, weights: Tensor): Tensor {
    const { gate_up_proj_bias: gateUpBias, down_proj_bias: downBias, isTransposed } = this;
    return expertMLP(x, weights, this.#perToken, {
      gateUp: this.gate_up_proj.value,
      down: this.down_proj.value,
      isTransposed,
      ...(gateUpBias && { gateUpBias: gateUpBias.value }),
      ...(downBias && { downBias: downBias.value }),
      gated: this.#gated,
    });
  }
}

/**
 * A feed-forward part that is a mixture: Σ over a token's experts of their weight times what they give, and what the shared expert
 * gives, where there is one.
 */
export class SparseMoeBlock extends Module {
  gate?: TopKRouter;
  router?: TopKRouter;
  readonly experts: Experts;
  readonly shared_expert?: GatedMLP;
  shared_expert_gate?: Layer;
  readonly #config: MixtureConfig;
  readonly #routerName: "gate" | "router";

  constructor(config: MixtureConfig, init: Initializer, routerName: "gate" | "router" = "gate", style: ExpertStyle = {}) {
    super();
    const { hiddenSize, hiddenAct: activation, sharedExpertSize } = config;
    this.#routerName = routerName;
    this[routerName] = new TopKRouter(config, init, style.hasBias ?? false);
    this.experts = new Experts(config, init, style);
    if (sharedExpertSize !== undefined) {
      this.shared_expert = new GatedMLP(hiddenSize, sharedExpertSize, { activation, bias: false, init });
      this.shared_expert_gate = new Linear(hiddenSize, 1, { bias: false, init });
    }
    this.#config = config;
  }

  /** [B, T, C] → [B, T, C] */
  forward(x: Tensor, pass: Pass): Tensor {
    const { numExpertsPerTok, normTopkProb } = this.#config;
    const rows = reshape(x, [-1, x.shape[2] as number]);
    const logits = (this[this.#routerName] as TopKRouter).forward(rows);
    pass.routed.push(logits);
    const scores = softmax(logits);
    const chosen = mul(scores, largest(scores, numExpertsPerTok));
    const weights = normTopkProb ? div(chosen, reduceSum(chosen, [1])) : chosen;
    const y = this.experts.forward(rows, weights);
    const gate = this.shared_expert_gate?.forward(rows);
    return reshape(gate ? add(y, mul(sigmoid(gate), this.shared_expert!.forward(rows))) : y, x.shape);
  }
}

/**
 * The loss of balance, Σₑ (share of tokens that expert e computes for) · (mean score of e), over the tokens of all layers that are not
 * padding, times the number of experts; nothing where it does not count.
 *
 * @see https://arxiv.org/abs/2101.03961, equations 4 to 6; transformers `load_balancing_loss_func`
 */
function balanceLoss(config: LlamaConfig, { routed, mask }: Pass): Tensor | undefined {
  const { numExperts, numExpertsPerTok, balanceCoef } = config as MixtureConfig;
  if (balanceCoef === 0 || routed.length === 0) return undefined;
  const scores = softmax(concatenate(routed, 0));
  const share = (x: Tensor): Tensor => {
    if (!mask) return mul(reduceSum(x, [0]), number(x, 1 / (x.shape[0] as number)));
    const counted = reshape(cast(mask, x.dtype), [1, mask.size, 1]);
    const sum = reduceSum(mul(reshape(x, [routed.length, mask.size, numExperts]), counted), [0, 1]);
    return div(sum, mul(reduceSum(counted, [0, 1, 2]), number(x, routed.length)));
  };
  const balance = mul(share(largest(scores, numExpertsPerTok)), share(scores));
  return reshape(mul(reduceSum(balance, [...balance.shape.keys()]), number(scores, balanceCoef * numExperts)), []);
}

/** The names under which checkpoints have a mixture's parameters. */
interface MixtureNames {
  /** The feed-forward part of a block. */
  readonly block: string;
  readonly gate: string;
  readonly up: string;
  readonly down: string;
}

/** How checkpoints name the parts of a mixture: each expert's three matrices by themselves. */
export function mixtureNames({ block, gate, up, down }: MixtureNames): Omit<NamedPart, "name"> {
  const nameOf = (path: string) => path.replace(/\.mlp\.(?=gate\.|experts\.)/, `.${block}.`);
  return {
    pathOf: (name) => name.replace(`.${block}.`, ".mlp."),
    nameOf,
    partsOf(path, [experts = 0]) {
      const [, which] = /\.mlp\.experts\.(gate_up_proj|down_proj)$/.exec(path) ?? [];
      if (which === undefined) return undefined;
      const at = nameOf(path).slice(0, -which.length);
      const parts = which === "down_proj" ? [down] : [gate, up];
      return Array.from({ length: experts }, (_, e) => parts.map((part) => `${at}${e}.${part}.weight`)).flat();
    },
  };
}

/** The feed-forward part of a block, a mixture where the layer is to be one. */
export const mixtureOrMLP = (config: LlamaConfig, index: number, init: Initializer): Block =>
  (config as PartlyMixedConfig).mixes[index] ? new SparseMoeBlock(config as MixtureConfig, init) : gatedMLP(config, init);

/** A block whose feed-forward part is a mixture. */
export const mixtureLayer = (config: LlamaConfig, attention: LlamaAttention, init: Initializer): LlamaDecoderLayer =>
  new LlamaDecoderLayer(config, attention, new SparseMoeBlock(config as MixtureConfig, init));

/** What members of the family have in common whose feed-forward parts are mixtures. */
export const mixture: Pick<LlamaFamilyMember, "layer" | "names" | "addedLoss"> = {
  layer: (config, index, init) => mixtureLayer(config, new LlamaAttention(config, index, init), init),
  names: mixtureNames({ block: "mlp", gate: "gate_proj", up: "up_proj", down: "down_proj" }),
  addedLoss: balanceLoss,
};
