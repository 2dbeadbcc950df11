/**
 * Low-rank adaptation: W′ = W + s·B·A, with A [r, in] and B [out, r] trained and W frozen; s = α/r, or α/√r (rsLoRA), which
 * keeps the size of updates when r grows. B starts at zero (in an embedding A), so a fresh adapter changes nothing.
 * Dropout acts on what goes into A only; embeddings have none, as in PEFT. With `loraBias` B has a bias, which is scaled, too.
 *
 * In a convolution A is one like it to r channels and B mixes those at each place. If it has groups, B has them, too, but A takes
 * all channels, so that the adapter is no change of the weight and cannot be merged.
 */
import { ConfigError } from "../../errors.ts";
import { loraSchema } from "../../formats/peft-config.ts";
import { matmul } from "../../graph/contraction.ts";
import { add, cast } from "../../graph/elementwise.ts";
import { take } from "../../graph/indexing.ts";
import { permute, reshape, transpose } from "../../graph/movement.ts";
import type { Tensor } from "../../graph/node.ts";
import { TorchGenerator } from "../../random/torch-generator.ts";
import { convolutionOf, kernelOf, perChannel, refuseDilation } from "../convolution-layer.ts";
import { normal, uniform, zeros } from "../init/standard.ts";
import { findInitialiser, type Given, initialiserOptions, partsOfOthers } from "../initialiser.ts";
import { type Base, type Calibration, defineMethod, type LayerMethod } from "../method.ts";
import type { AnyConfig, MethodConfig } from "../method-config.ts";
import { product, type Scale } from "../scale.ts";
import { refuseOnParameters } from "../target-parameter.ts";
import { through, times, withPadding } from "../weight-change.ts";

/** PEFT's keys of LoRA in camelCase. */
export type LoraConfig = MethodConfig<typeof loraSchema>;

/** s of W + s·B·A. */
export const scaling = (c: LoraConfig): number => c.loraAlpha / (c.useRslora ? Math.sqrt(c.r) : c.r);

/** The same of one layer, or of an adapter, that is known to be LoRA. */
export const scalingOf = ({ config }: { readonly config: AnyConfig }): number => scaling(config as LoraConfig);

/** What its initialiser is told. */
const given = (c: LoraConfig, calibration?: Calibration): Given => ({
  r: c.r,
  scaling: scaling(c),
  options: initialiserOptions(c.initLoraWeights, c)?.options ?? {},
  calibration,
});

/** @throws {ConfigError} where there is no bias that B's could be added to */
function refuseWithoutBias(base: Base, bias: Tensor | undefined): void {
  if (bias && !base.bias)
    throw new ConfigError(`${base.path} has no bias that the one of \`loraBias\` could be added to.`, {
      operation: "merge",
      got: base.path,
      hint: "Use it unmerged.",
    });
}

/** A [r, in], B [out, r]. */
const factors = (base: Base, { r, initLoraWeights }: LoraConfig) => ({
  A: { shape: [r, base.in] },
  B: { shape: [base.out, r], trainable: findInitialiser(initLoraWeights).fixesB !== true },
});
const initialise: LayerMethod<LoraConfig, "A" | "B">["initialise"] = (base, c, random, calibration) =>
  findInitialiser(c.initLoraWeights).start(base, given(c, calibration), random);

const linear: LayerMethod<LoraConfig, "A" | "B", "bias"> = {
  files: { A: "lora_A.weight", B: "lora_B.weight", bias: "lora_B.bias" },
  parameters: (base, c) => ({ ...factors(base, c), ...(c.loraBias ? { bias: { shape: [base.out] } } : {}) }),
  initialise(base, c, random, calibration) {
    const { values, ...rest } = initialise(base, c, random, calibration);
    return { ...rest, values: c.loraBias ? { ...values, bias: new Float32Array(base.out) } : values };
  },
  residual: (base, c) =>
    findInitialiser(c.initLoraWeights).residual === "from the weight" ? initialise(base, c, new TorchGenerator(0)) : undefined,
  forward(x, base, { A, B, bias }, c, use) {
    const s = product(scaling(c), use.scale);
    // s on the small side, [..., r]: the second product then adds straight onto the first
    const y = add(base(x), through(times(through(use.dropout(x, c.loraDropout), A), s), B));
    return bias ? add(y, times(bias, s)) : y;
  },
  delta(base, { A, B, bias }, c, scale) {
    refuseWithoutBias(base, bias);
    return times(matmul(B, A), product(scaling(c), scale));
  },
  biasDelta: (_, { bias }, c, scale) => (bias ? times(bias, product(scaling(c), scale)) : null),
};

const embedding: LayerMethod<LoraConfig, "A" | "B"> = {
  files: { A: "lora_embedding_A", B: "lora_embedding_B" },
  parameters(base, c) {
    if (c.loraBias)
      throw new ConfigError(`${base.path} is an embedding, which has no place for \`loraBias\`.`, {
        operation: "attach",
        got: base.path,
        hint: "Take it out with `excludeModules`.",
      });
    return factors(base, c);
  },
  initialise,
  forward: (ids, base, { A, B }, c, use) =>
    add(
      base(ids),
      through(times(withPadding(base, take(transpose(A), ids), ids), product(scaling(c) * base.outputScale, use.scale)), B),
    ),
  delta: (_, { A, B }, c, scale) => times(matmul(transpose(A), transpose(B)), product(scaling(c), scale)), // [rows, C]
};

/** x through A, a convolution like the layer's to r channels, and s·B, which mixes channels at each place, in the layer's groups. */
export function lowRankConvolution(x: Tensor, base: Base, A: Tensor, B: Tensor, s: Scale): Tensor {
  const layer = convolutionOf(base);
  const { stride = 1, padding = 0 } = layer.options;
  const inner = times(layer.convolve(x, A, null, { stride, padding }), s);
  return layer.convolve(inner, B, null, { groups: layer.groups });
}

const convolution: LayerMethod<LoraConfig, "A" | "B", "bias"> = {
  files: linear.files,
  parameters(base, { r, loraBias }) {
    refuseDilation("LoRA", base);
    const { groups, inChannels } = convolutionOf(base);
    if (r % groups !== 0)
      throw new ConfigError(`${base.path} is a convolution in ${groups} groups, which \`r\` (= ${r}) is not a multiple of.`, {
        operation: "attach",
        got: r,
        hint: "Give it another rank with `rankPattern`, or take it out with `excludeModules`.",
      });
    const kernel = kernelOf(base);
    return {
      A: { shape: [r, inChannels, ...kernel] },
      B: { shape: [base.out, r / groups, ...kernel.map(() => 1)] },
      ...(loraBias ? { bias: { shape: [base.out] } } : {}),
    };
  },
  initialise(base, { r, initLoraWeights: name, loraBias }, random) {
    if (typeof name !== "boolean" && name !== "gaussian" && name !== "lora_ga")
      throw new ConfigError(`\`initLoraWeights\` (= ${JSON.stringify(name)}) is nothing for ${base.path}, a convolution.`, {
        operation: "attach",
        got: name,
        hint: 'Use true, false or "gaussian", or take it out with `excludeModules`.',
      });
    const { groups } = convolutionOf(base);
    const A = name === "gaussian" ? normal(1 / r) : uniform(base.in * groups);
    const B = name === false ? uniform(r / groups) : zeros;
    const values = { A: A(random, r * base.in * groups), B: B(random, (base.out * r) / groups) };
    return { values: loraBias ? { ...values, bias: new Float32Array(base.out) } : values };
  },
  forward(x, base, { A, B, bias }, c, use) {
    const s = product(scaling(c), use.scale);
    const y = add(base(x), lowRankConvolution(use.dropout(x, c.loraDropout), base, A, B, s));
    return bias ? add(y, times(perChannel(bias, y), s)) : y;
  },
  delta(base, { A, B, bias }, c, scale) {
    const { groups } = convolutionOf(base);
    if (groups > 1)
      throw new ConfigError(`${base.path} is a convolution in ${groups} groups, whose kernel has no place for what A mixes.`, {
        operation: "merge",
        got: groups,
        hint: "Use it unmerged.",
      });
    refuseWithoutBias(base, bias);
    return times(matmul(reshape(B, [base.out, c.r]), reshape(A, [c.r, base.in])), product(scaling(c), scale));
  },
  biasDelta: linear.biasDelta as NonNullable<typeof linear.biasDelta>,
};

/** How many matrices a parameter has, and whether that is an axis of it. */
const expertsOf = ({ weight }: Base): number => (weight.rank === 3 ? (weight.shape[0] as number) : 1);

/** Each expert's own factors: A has r rows for each, and B, as in PEFT, has the experts along its fastest axis. */
const parameter: LayerMethod<LoraConfig, "A" | "B"> = {
  files: { A: "lora_A.weight", B: "lora_B.weight" },
  parameters(base, { r }) {
    const rows = r * expertsOf(base);
    return { A: { shape: [rows, base.in] }, B: { shape: [base.out, rows] } };
  },
  initialise(base, { r, initLoraWeights: name }, random) {
    if (typeof name !== "boolean" && name !== "gaussian")
      throw new ConfigError(
        `\`initLoraWeights\` (= ${JSON.stringify(name)}) is nothing for ${base.path}, of which a parameter is adapted.`,
        {
          operation: "attach",
          got: name,
          hint: 'Use true, false or "gaussian".',
        },
      );
    const rows = r * expertsOf(base);
    const [A, B] = [name === "gaussian" ? normal(1 / r) : uniform(base.in), name === false ? uniform(rows) : zeros];
    return { values: { A: A(random, rows * base.in), B: B(random, base.out * rows) } };
  },
  forward: (x, base, p, c, use) =>
    base.run!(cast(add(base.weight, parameter.delta!(base, p, c, use.scale)), base.weight.dtype), x),
  delta(base, { A, B }, c, scale) {
    const [experts, s] = [expertsOf(base), product(scaling(c), scale)];
    if (base.weight.rank === 2) return times(matmul(B, A), s);
    const [rows, columns] = [reshape(A, [experts, c.r, base.in]), reshape(B, [base.out, c.r, experts])];
    return times(matmul(permute(columns, [2, 0, 1]), rows), s);
  },
};

/**
 * The output layer with the adapter of the embedding whose weight E it shares: its change of E, once more. In the file it has, as in
 * PEFT, factors of its own, which are the embedding's turned: A is Bᵀ, and B is Aᵀ.
 */
const tiedLinear: LayerMethod<LoraConfig, "A" | "B"> = {
  files: { A: "lora_B.weight", B: "lora_A.weight" },
  inFile: "transposed",
  parameters: ({ in: into, out }, { r }) => ({ A: { shape: [r, out] }, B: { shape: [into, r] } }),
  initialise: () => ({ values: {} }),
  forward: (x, base, { A, B }, c, use) =>
    add(
      base(x),
      through(times(through(use.dropout(x, c.loraDropout), transpose(B)), product(scaling(c), use.scale)), transpose(A)),
    ),
  delta: (_, { A, B }, c, scale) => times(matmul(transpose(A), transpose(B)), product(scaling(c), scale)),
};

/** Options that LoRA and all of its variants have. */
const options = ["r", "loraAlpha", "loraDropout", "useRslora", "initLoraWeights", "rankPattern", "alphaPattern", "bias"] as const;

/** Whether a fresh adapter changes nothing. */
export const startsAtZero = (config: LoraConfig): boolean => findInitialiser(config.initLoraWeights).startsAtZero;

/** The config with what its initialiser is told written out. */
export function complete(config: LoraConfig): LoraConfig {
  const own = initialiserOptions(config.initLoraWeights, config);
  return own ? { ...config, [own.option]: own.options } : config;
}

/**
 * LoRA: `lora({ r: 8, loraAlpha: 16, targetModules: ["q_proj", "v_proj"] })` is what `attach` takes. Options are PEFT's in
 * camelCase, with PEFT's defaults.
 *
 * @throws {ConfigError} for unknown options, wrong values, and options that are not implemented
 */
export const lora = defineMethod({
  schema: loraSchema,
  papers: ["https://arxiv.org/abs/2106.09685", "https://arxiv.org/abs/2312.03732"],
  formula: "W + s·B·A",
  keys: [
    ...[...options, "loraBias", "trainableTokenIndices", "ensureWeightTying", "targetParameters", "layerReplication"],
    ...["evaConfig", "cordaConfig", "loraGaConfig", "loftqConfig", "arrowConfig"],
  ] as (keyof LoraConfig & string)[],
  patterns: { rankPattern: "r", alphaPattern: "loraAlpha" },
  check(config) {
    if (config.arrowConfig !== null)
      throw new ConfigError("`arrowConfig` makes no adapter: it is of a router over others, which lie beside its folder.", {
        operation: "lora",
        got: config.arrowConfig,
        hint: "Use loadArrow, with the folder that holds all of them or with a list of theirs.",
      });
    findInitialiser(config.initLoraWeights);
    initialiserOptions(config.initLoraWeights, config);
    for (const { option, of } of partsOfOthers(config.initLoraWeights, config))
      throw new ConfigError(
        `\`${option}\` does nothing with \`initLoraWeights\` (= ${JSON.stringify(config.initLoraWeights)}).`,
        {
          operation: "lora",
          got: config[option as keyof LoraConfig],
          hint: `Write initLoraWeights: "${of}", or leave it out.`,
        },
      );
    if (config.targetParameters?.length) refuseOnParameters("lora", config);
    if (config.loraDropout >= 1)
      throw new ConfigError(`\`loraDropout\` (= ${config.loraDropout}) must be less than 1.`, {
        operation: "lora",
        got: config.loraDropout,
      });
    if (config.loraBias && typeof config.initLoraWeights !== "boolean")
      throw new ConfigError("`loraBias` goes with `initLoraWeights` true or false only, as in PEFT.", {
        operation: "lora",
        got: config.initLoraWeights,
      });
    for (const [pattern, r] of Object.entries(config.rankPattern))
      if (!Number.isInteger(r) || r < 1)
        throw new ConfigError(`\`rankPattern\` has ${r} for "${pattern}", which must be a positive integer.`, {
          operation: "lora",
          got: r,
        });
  },
  complete,
  ignored: (config) => partsOfOthers(config.initLoraWeights, config).map(({ option }) => option as keyof LoraConfig & string),
  whenLoaded: ({ initLoraWeights: name }) =>
    findInitialiser(name).residual === "from data"
      ? `loadAdapter: the start "${name}" has changed the base model's weights, how cannot be told from the file; the model must have been saved with it, or the adapter with { plainLora: true }.`
      : undefined,
  startsAtZero,
  layers: { linear, embedding, conv1d: convolution, conv2d: convolution, conv3d: convolution, parameter },
  tied: { layers: { linear: tiedLinear, embedding } },
  samples(draw, { groups = 1, dilated = false }) {
    if (groups > 1 || dilated) return null; // no change of the weight, or refused
    return {
      r: draw.integer(1, 6),
      loraAlpha: draw.integer(1, 32) / 2,
      useRslora: draw.integer(0, 1) === 1,
      initLoraWeights: [true, false, "gaussian"][draw.integer(0, 2)]!,
    };
  },
});

/** What a method begins with that is LoRA in another form, in the same files. */
export const variantOfLora = {
  schema: lora.schema,
  variantOf: lora,
  patterns: lora.patterns as NonNullable<typeof lora.patterns>,
};

/** The options of such a method: LoRA's common ones and those named. */
export const variantKeys = (...own: (keyof LoraConfig & string)[]): (keyof LoraConfig & string)[] => [
  ...options,
  "trainableTokenIndices",
  ...own,
];

/** @throws {ConfigError} for a start that is made for B·A beside the whole weight: `option` has something else there */
export function refuseMadeStarts(operation: string, option: string, { initLoraWeights: init }: LoraConfig): void {
  if (typeof init === "boolean" || ["gaussian", "orthogonal"].includes(init)) return;
  throw new ConfigError(`\`${option}\` does not go with \`initLoraWeights\` (= ${JSON.stringify(init)}).`, {
    operation,
    got: init,
    hint: 'Use true, false, "gaussian" or "orthogonal".',
  });
}

/** @throws {ConfigError} for MiCA, which trains A alone */
export function refuseMica(operation: string, option: string, { initLoraWeights: init }: LoraConfig): void {
  if (init !== "mica") return;
  throw new ConfigError(`\`${option}\` does not go with \`initLoraWeights\` "mica", as in PEFT.`, { operation, got: init });
}
