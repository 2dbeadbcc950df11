/**
 * MonteCLoRA: LoRA whose A is drawn anew in training, around the one that is kept: A + (Σₑ wₑ·Vₑ)ᵀ, with N samples Vₑ = c·εₑ·√Σ [in, r], ε ~ N(0, 1),
 * and shares w of them. Beside A and B are trained d [r], the logarithms of deviations: Σᵢ = max(e^{2dᵢ}·zᵢ, 10⁻³), zᵢ ~ χ²(r), which is the
 * diagonal of a Wishart matrix, all that is used of it; and a [N], with α = eᵃ: w = softmax(σ·z + μ), μ = ln α less its mean,
 * σₑ² = (1 − 2/N)/αₑ + Σ(1/α)/N², a Dirichlet distribution in its logarithms. Otherwise A is as it is, so that what is merged is LoRA's.
 *
 * The penalty, the mean over layers of w_KL·(KL of the three distributions from their priors), with `use_entropy` and Σw², too, PEFT leaves
 * to the caller to add. Draws come from the seed of the training run, where PEFT makes `buffer_size` of them at a time.
 */
import { ConfigError } from "../../errors.ts";
import { boolean, float, integer, key } from "../../formats/peft-config.ts";
import { add, div, equal, exp, log, max, mul, sqrt, sub, where } from "../../graph/elementwise.ts";
import { reshape, transpose } from "../../graph/movement.ts";
import type { Tensor } from "../../graph/node.ts";
import { reduceSum } from "../../graph/reduction.ts";
import { constant, iota } from "../../graph/source.ts";
import { identity } from "../../linalg/cayley.ts";
import { mean, softmax, sum } from "../../tensor/statistics.ts";
import { defineMethod, type LayerMethod } from "../method.ts";
import { product } from "../scale.ts";
import { subConfig } from "../sub-config.ts";
import { through, times } from "../weight-change.ts";
import { type LoraConfig, lora, refuseMica, scaling, startsAtZero, variantKeys, variantOfLora } from "./lora.ts";
import { noise } from "./pvera.ts";

const keys = {
  num_samples: key(8, integer(1)),
  use_entropy: key(false, boolean),
  dirichlet_prior: key(0.1, float(0)),
  sample_scaler: key(1e-4, float()),
  kl_loss_weight: key(1e-5, float()),
  buffer_size: key(150, integer(1)),
};
const settings = ({ montecloraConfig }: LoraConfig) => subConfig("montecloraConfig", montecloraConfig, keys);

/** What is drawn for one layer and pass: ε [N, in, r], z [N] for the shares, and normal numbers [r, r] whose squares make χ². */
export interface Draws {
  readonly mvn: Tensor;
  readonly dirichlet: Tensor;
  readonly wishart: Tensor;
}

/** A layer's sample: Σ [r], w [N], and what comes to A, [r, in]. */
export interface Sample {
  readonly variance: Tensor;
  readonly shares: Tensor;
  readonly noise: Tensor;
}

/** The sample that these draws make. @param d [r] @param a [N] @param c `sample_scaler` */
export function sampleOf({ mvn, dirichlet, wishart }: Draws, d: Tensor, a: Tensor, c: number): Sample {
  const [N, into, r] = mvn.shape as [number, number, number];
  const chi = reshape(reduceSum(mul(wishart, wishart), [1]), [r]);
  const variance = max(mul(exp(times(d, 2)), chi), constant(1e-3));
  const alpha = max(exp(a), constant(1e-6));
  const logs = log(alpha);
  const mu = sub(logs, mean(logs));
  const inverse = div(constant(1), alpha);
  const spread = add(times(inverse, 1 - 2 / N), times(sum(inverse), 1 / (N * N)));
  const shares = softmax(add(mul(sqrt(add(max(spread, constant(1e-6)), constant(1e-6))), dirichlet), mu), -1);
  const mixed = reshape(reduceSum(mul(mvn, reshape(shares, [N, 1, 1])), [0]), [into, r]);
  return { variance, shares, noise: transpose(times(mul(mixed, sqrt(variance)), c)) };
}

/** ln Γ(x) and ψ(x) of x > 0, each by its series at x + 8, whose next terms are below float32. */
function gammas(x: Tensor): { readonly lnGamma: Tensor; readonly psi: Tensor } {
  const steps = Array.from({ length: 8 }, (_, i) => add(x, constant(i)));
  const y = add(x, constant(8));
  const inverse = div(constant(1), y);
  const square = mul(inverse, inverse);
  const series = (first: number, ...more: number[]): Tensor =>
    more.length === 0 ? constant(first) : add(constant(first), mul(square, series(...(more as [number, ...number[]]))));
  const lnY = log(y);
  const stirling = add(sub(mul(sub(y, constant(0.5)), lnY), y), constant(0.5 * Math.log(2 * Math.PI)));
  return {
    lnGamma: sub(add(stirling, mul(inverse, series(1 / 12, -1 / 360, 1 / 1260))), steps.map((each) => log(each)).reduce(add)),
    psi: sub(
      sub(sub(lnY, times(inverse, 0.5)), mul(square, series(1 / 12, -1 / 120, 1 / 252))),
      steps.map((each) => div(constant(1), each)).reduce(add),
    ),
  };
}

/** The divergence of the three distributions from their priors: a Dirichlet one with all α = `prior`, Wishart and normal ones with 1. */
export function divergence(d: Tensor, a: Tensor, variance: Tensor, prior: number): Tensor {
  const [N, r] = [a.size, d.size];
  const alpha = exp(a);
  const total = reshape(sum(alpha), [1]);
  const [each, whole] = [gammas(alpha), gammas(total)];
  const [one, all] = [gammas(constant(prior, [1])), gammas(constant(N * prior, [1]))];
  const dirichlet = add(
    add(sub(sum(whole.lnGamma), sum(all.lnGamma)), sum(sub(each.lnGamma, one.lnGamma))),
    sum(mul(sub(alpha, constant(prior)), sub(each.psi, whole.psi))),
  );
  const squares = exp(times(d, 2));
  const wishart = times(add(times(sub(sum(squares), sum(times(d, 2))), r), constant(-r * r)), 0.5);
  const normal = times(add(sub(sum(variance), sum(log(variance))), constant(-r)), N / 2);
  return add(add(dirichlet, wishart), normal);
}

/** The samples of this pass, by the value of d that they were made from: the penalty's derivatives go through them. */
const samples = new WeakMap<Tensor, Sample>();

/** Σ as the diagonal of a matrix, as the file has it. */
const diagonal = (x: Tensor): Tensor =>
  where(equal(reshape(iota([x.size]), [x.size, 1]), reshape(iota([x.size]), [1, x.size])), reshape(x, [1, x.size]), constant(0));
const diagonalOf = (X: Tensor): Tensor => {
  const r = X.shape[0] as number;
  return reshape(reduceSum(mul(X, identity(r)), [1]), [r]);
};

const linear: LayerMethod<LoraConfig, "A" | "B" | "d" | "a" | "shares" | "variance"> = {
  files: {
    ...{ A: "lora_A.weight", B: "lora_B.weight" },
    ...{ d: "lora_monteclora_sampler.std_prior", a: "lora_monteclora_sampler.expert_weights_prior" },
    ...{ shares: "lora_monteclora_sampler.expert_weights", variance: "lora_monteclora_sampler.gaussian_var_prior" },
  },
  parameters: (base, c) => {
    const { num_samples: N } = settings(c);
    return {
      ...{ A: { shape: [c.r, base.in] }, B: { shape: [base.out, c.r] } },
      ...{ d: { shape: [c.r] }, a: { shape: [N] } },
      ...{ shares: { shape: [N], trainable: false }, variance: { shape: [c.r, c.r], trainable: false } },
    };
  },
  initialise(base, c, random) {
    const { num_samples: N } = settings(c);
    const { values, ...rest } = lora.layers.linear!.initialise(base, c, random);
    const variance = Float32Array.from({ length: c.r * c.r }, (_, i) => (i % (c.r + 1) === 0 ? 1 : 0));
    const [d, a] = [random.uniform(c.r, 0, 1), random.uniform(N, 0, 1)];
    return { ...rest, values: { ...values, d, a, shares: new Float32Array(N).fill(1 / N), variance } };
  },
  forward(x, base, { A, B, d, a }, c, use) {
    let drawn = A;
    if (use.training) {
      const { num_samples: N, sample_scaler } = settings(c);
      const draws = { mvn: noise(use, [N, base.in, c.r]), dirichlet: noise(use, [N]), wishart: noise(use, [c.r, c.r]) };
      const sample = sampleOf(draws, d, a, sample_scaler);
      samples.set(d, sample);
      use.keep("shares", sample.shares);
      use.keep("variance", diagonal(sample.variance));
      drawn = add(A, sample.noise);
    }
    const low = through(use.dropout(x, c.loraDropout), drawn);
    return add(base(x), through(times(low, product(scaling(c), use.scale)), B));
  },
  delta: (base, p, c, scale) => lora.layers.linear!.delta!(base, p, c, scale),
};

/** MonteCLoRA: `monteclora({ r: 8, montecloraConfig: { num_samples: 8 } })`, with LoRA's options. */
export const monteclora = defineMethod({
  ...variantOfLora,
  variant: { montecloraConfig: {} },
  isMeant: ({ montecloraConfig }) => montecloraConfig !== null,
  papers: ["https://arxiv.org/abs/2411.04358"],
  formula: "W + s·B·A, A drawn in training",
  keys: variantKeys("layerReplication", "montecloraConfig"),
  check(config) {
    lora.check?.(config);
    refuseMica("monteclora", "montecloraConfig", config);
    const { dirichlet_prior: prior } = settings(config);
    if (!(prior > 0))
      throw new ConfigError(`\`montecloraConfig.dirichlet_prior\` (= ${prior}) must be above 0.`, {
        operation: "monteclora",
        got: prior,
      });
  },
  penaltyIsOptional: true,
  penalty(all, config) {
    const { dirichlet_prior, kl_loss_weight, use_entropy } = settings(config);
    const terms = all.map(({ d, a, shares, variance }) => {
      const own = samples.get(d as Tensor) ?? { shares: shares as Tensor, variance: diagonalOf(variance as Tensor) };
      const far = times(divergence(d as Tensor, a as Tensor, own.variance, dirichlet_prior), kl_loss_weight);
      return use_entropy ? add(far, sum(mul(own.shares, own.shares))) : far;
    });
    return times(terms.reduce(add), 1 / terms.length);
  },
  startsAtZero,
  complete: (config) => ({ ...config, montecloraConfig: subConfig("montecloraConfig", config.montecloraConfig, keys) }),
  layers: { linear },
  samples: (draw) => ({
    r: draw.integer(1, 6),
    loraAlpha: draw.integer(1, 32) / 2,
    montecloraConfig: {
      num_samples: draw.integer(1, 4),
      sample_scaler: draw.integer(1, 4) / 10,
      use_entropy: draw.integer(0, 1) === 1,
    },
  }),
});
