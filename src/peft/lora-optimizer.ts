/**
 * What LoRA's two factors ask of an optimiser: steps of their own sizes (LoRA+), steps on B alone towards the whole gradient (LoRA-FA), and
 * gradients measured by the other factor (Riemannian preconditioning). All of them are for the factors A [r, in] and B [out, r] of matrices;
 * embeddings, convolutions and everything else that is trained get the steps they would get anyway.
 */
import { ConfigError, checkOptions, requireKind } from "../errors.ts";
import { matmul } from "../graph/contraction.ts";
import { add, div, mul, recip, sqrt, sub } from "../graph/elementwise.ts";
import { reshape, transpose } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { constant } from "../graph/source.ts";
import { identity, inverseByHalves } from "../linalg/cayley.ts";
import { type Module, type Parameter, requireModule } from "../nn/module.ts";
import { LayerNorm } from "../nn/norm.ts";
import { type AdamOptions, BiasCorrected, mix } from "../optim/adam.ts";
import {
  type Gradients,
  mixSquare,
  type ParameterGroup,
  type UpdateInputs,
  type UpdateResult,
  type Values,
} from "../optim/optimizer.ts";
import { adaptedModel } from "./adapted-model.ts";
import { scalingOf } from "./methods/lora.ts";

/** The factors that an active LoRA has in one layer, and its s. */
interface Pair {
  readonly A: Parameter;
  readonly B: Parameter;
  readonly scaling: number;
}

/** @throws {ConfigError} when no active adapter has factors of matrices */
function pairsOf(model: Module, operation: string): Pair[] {
  const { adapters, active } = adaptedModel(model, operation);
  const pairs = active.flatMap((name) => {
    const { method, layers } = adapters.get(name)!;
    if (method.peftType !== "LORA") return [];
    return [...layers.values()].flatMap((layer): Pair[] => {
      const own = layer.adapters.get(name)!;
      const { A, B } = own.parameters;
      if (layer.base().kind !== "linear" || own.tied || !A || !B) return [];
      return [{ A, B, scaling: scalingOf(own) }];
    });
  });
  if (pairs.length === 0)
    throw new ConfigError("no active adapter is a LoRA on linear layers.", { operation, hint: "Attach one first." });
  return pairs;
}

/** Settings of `loraPlusGroups`. */
export interface LoraPlusOptions {
  /** Learning rate of A and of all that is not named below. */
  readonly lr: number;
  /** λ: how many times as fast B is trained, and all vectors. */
  readonly ratio: number;
  readonly weightDecay?: number;
  /** Learning rate of the factors of embeddings. */
  readonly embeddingLr?: number;
}

/**
 * LoRA+: groups of the trained parameters of a model in which B moves `ratio` times as fast as A. As in PEFT, vectors go with B, without
 * weight decay where they are biases, and factors of embeddings have a learning rate of their own.
 *
 * @throws {ConfigError} when no parameter of the model is trained
 * @see https://arxiv.org/abs/2402.12354, section 5
 * @example
 * attach(model, lora({ r: 4 }));
 * const optimizer = new AdamW(loraPlusGroups(model, { lr: 1e-4, ratio: 16 }));
 */
export function loraPlusGroups(model: Module, options: LoraPlusOptions): ParameterGroup<AdamOptions>[] {
  const {
    lr,
    ratio,
    weightDecay = 0,
    embeddingLr = 1e-6,
  } = checkOptions("loraPlusGroups", options, {
    lr: "a number from 0",
    ratio: "a number above 0",
    weightDecay: "a number from 0",
    embeddingLr: "a number from 0",
  });
  requireModule("loraPlusGroups", model);
  requireKind("loraPlusGroups", "a number", { lr, ratio });
  const groups = {
    A: { lr, weightDecay, parameters: [] as Parameter[] },
    embedding: { lr: embeddingLr, weightDecay, parameters: [] as Parameter[] },
    B: { lr: lr * ratio, weightDecay, parameters: [] as Parameter[] },
    biases: { lr: lr * ratio, weightDecay: 0, parameters: [] as Parameter[] },
  };
  const norms = new Set(
    [...model.namedModules()].flatMap(([, module]) =>
      module instanceof LayerNorm ? [...module.ownParameters()].map(([, parameter]) => parameter) : [],
    ),
  );
  const seen = new Set<Parameter>();
  for (const [name, parameter] of model.namedParameters()) {
    if (!parameter.requiresGrad || seen.has(parameter)) continue;
    seen.add(parameter);
    const isB = name.includes("lora_B") || parameter.shape.length === 1;
    const of = /\.lora_embedding_[AB]\.[^.]+$/.test(name)
      ? "embedding"
      : !isB
        ? "A"
        : name.includes("bias") || norms.has(parameter)
          ? "biases"
          : "B";
    groups[of].parameters.push(parameter);
  }
  if (seen.size === 0)
    throw new ConfigError("no parameter of the model is trained.", {
      operation: "loraPlusGroups",
      hint: "Attach an adapter first.",
    });
  return Object.values(groups).filter(({ parameters }) => parameters.length > 0);
}

/** (M·Mᵀ + reg·I)⁻¹ for M [r, n]. */
function inverseGram(M: Tensor, reg: number): Tensor {
  const r = M.shape[0] as number;
  const gram = add(matmul(M, transpose(M)), mul(identity(r), constant(reg)));
  return reshape(inverseByHalves(reshape(gram, [1, r, r])), [r, r]);
}

/**
 * Riemannian preconditioning: the gradient of A becomes (BᵀB + reg·I)⁻¹·g_A and that of B g_B·(AAᵀ + reg·I)⁻¹, so that a step is the same
 * for all pairs of factors of one matrix. For any optimiser.
 *
 * @param gradients by parameter, as `gradientsOf` gives them
 * @param options.reg keeps the inverse in bounds
 * @throws {ConfigError} when no active adapter is a LoRA on linear layers
 * @see https://arxiv.org/abs/2402.02347, equation 3
 * @example
 * attach(model, lora({ r: 4 }));
 * const parameters = model.trainableParameters();
 * const { loss } = model.forward({ inputIds, labels: inputIds });
 * new AdamW(parameters).step(riemannian(model, gradientsOf(loss!, parameters)));
 */
export function riemannian(model: Module, gradients: Gradients, options: { readonly reg?: number } = {}): Gradients {
  const { reg = 1e-2 } = checkOptions("riemannian", options, { reg: "a number from 0" });
  requireKind("riemannian", "a Map", { gradients });
  const changed = new Map(gradients);
  for (const { A, B } of pairsOf(model, "riemannian")) {
    const [gA, gB] = [gradients.get(A), gradients.get(B)];
    if (!A.requiresGrad || !B.requiresGrad) continue;
    if (gA) changed.set(A, matmul(inverseGram(transpose(B.value), reg), gA));
    if (gB) changed.set(B, matmul(gB, inverseGram(A.value, reg)));
  }
  return changed;
}

/** Settings of `LoraFA`. */
export type LoraFAOptions = Omit<AdamOptions, "amsgrad">;

/**
 * LoRA-FA: A is frozen, which saves what the backward pass would keep of a layer's input, and Adam steps on B with the gradient
 * g_B·(AAᵀ)⁻¹/s², for which the change of the weight is the nearest to the gradient of the whole weight. What else is trained gets the same
 * Adam. Unlike AdamW's, decay comes after the step, and ε is added to the root before its correction.
 *
 * @see https://arxiv.org/abs/2308.03303; https://arxiv.org/abs/2407.18242, theorem 2.1, for the factor
 * @example
 * attach(model, lora({ r: 4 }));
 * const optimizer = new LoraFA(model, { lr: 1e-3 });
 */
export class LoraFA extends BiasCorrected<LoraFAOptions> {
  readonly #pairs: readonly Pair[];

  /** Freezes A. @throws {ConfigError} when no active adapter is a LoRA on linear layers, or for a setting out of range */
  constructor(model: Module, options: Partial<LoraFAOptions> = {}) {
    const pairs = pairsOf(model, "LoraFA");
    const frozen = new Set(pairs.map(({ A }) => A));
    const trained = model.trainableParameters().filter((parameter) => !frozen.has(parameter));
    super(trained, { lr: 1e-3, betas: [0.9, 0.999], eps: 1e-6, weightDecay: 0 }, options);
    for (const A of frozen) A.requiresGrad = false;
    this.#pairs = pairs;
  }

  protected override slots(): Record<string, number> {
    return { expAvg: 0, expAvgSq: 0 };
  }

  protected override derive({ lr, correction1, correction2 }: Values, { weightDecay }: LoraFAOptions): Values {
    return {
      lr: lr!,
      rate: mul(lr!, div(sqrt(correction2!), correction1!)),
      kept: sub(constant(1), mul(lr!, constant(weightDecay))),
    };
  }

  override step(gradients: Gradients = this.#left()): void {
    requireKind("LoraFA", "a Map", { gradients });
    const changed = new Map(gradients);
    for (const { A, B, scaling: s } of this.#pairs) {
      const gradient = gradients.get(B);
      if (gradient) changed.set(B, mul(matmul(gradient, inverseGram(A.value, 1e-8)), constant(1 / s ** 2)));
    }
    super.step(changed);
  }

  /** What `backward()` left in `.grad`. */
  #left(): Gradients {
    const parameters = this.groups.flatMap((group) => group.parameters);
    return new Map(parameters.flatMap((parameter) => (parameter.grad ? [[parameter, parameter.grad] as const] : [])));
  }

  protected override update({ parameter, gradient, state, scalars, options }: UpdateInputs<LoraFAOptions>): UpdateResult {
    const [beta1, beta2] = options.betas;
    const m = mix(state["expAvg"]!, gradient, beta1);
    const v = mixSquare(state["expAvgSq"]!, gradient, beta2);
    const next = sub(parameter, mul(scalars["rate"]!, mul(m, recip(add(sqrt(v), constant(options.eps))))));
    return { parameter: options.weightDecay > 0 ? mul(next, scalars["kept"]!) : next, state: { expAvg: m, expAvgSq: v } };
  }
}
