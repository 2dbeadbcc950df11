/**
 * Low-rank adaptation: W′ = W + s·B·A, with A [r, in] and B [out, r] trained and W frozen; s = α/r, or α/√r (rsLoRA), which
 * keeps the size of updates when r grows. B starts at zero (in an embedding A), so a fresh adapter changes nothing.
 * Dropout acts on what goes into A only; embeddings have none, as in PEFT. With `loraBias` B has a bias, which is scaled, too.
 */
import { ConfigError } from "../../errors.ts";
import { loraSchema } from "../../formats/peft-config.ts";
import { matmul } from "../../graph/contraction.ts";
import { add } from "../../graph/elementwise.ts";
import { take } from "../../graph/indexing.ts";
import { transpose } from "../../graph/movement.ts";
import { type Initialiser, initialisers } from "../initialiser.ts";
import { type Base, defineMethod, type LayerMethod, type MethodConfig } from "../method.ts";
import { through, times } from "../weight-change.ts";

/** PEFT's keys of LoRA in camelCase. */
export type LoraConfig = MethodConfig<typeof loraSchema>;

/** s of W + s·B·A. */
export const scaling = (c: LoraConfig): number => c.loraAlpha / (c.useRslora ? Math.sqrt(c.r) : c.r);

function initialiser({ initLoraWeights: name }: LoraConfig): Initialiser {
  const known: Readonly<Record<string, Initialiser>> = initialisers;
  const found = Object.hasOwn(known, String(name)) ? known[String(name)] : undefined;
  if (found) return found;
  const names = Object.keys(known).map((key) => (key === "true" || key === "false" ? key : `"${key}"`));
  throw new ConfigError(`\`initLoraWeights\` (= ${JSON.stringify(name)}) is not one of ${names.join(", ")}.`, {
    operation: "lora",
    got: name,
    expected: Object.keys(known),
  });
}

/** A [r, in], B [out, r]. */
const factors = (base: Base, { r }: LoraConfig) => ({ A: { shape: [r, base.in] }, B: { shape: [base.out, r] } });
const initialise: LayerMethod<LoraConfig, "A" | "B">["initialise"] = (base, c, random) =>
  initialiser(c).start(base, c.r, scaling(c), random);

const linear: LayerMethod<LoraConfig, "A" | "B", "bias"> = {
  files: { A: "lora_A.weight", B: "lora_B.weight", bias: "lora_B.bias" },
  parameters: (base, c) => ({ ...factors(base, c), ...(c.loraBias ? { bias: { shape: [base.out] } } : {}) }),
  initialise(base, c, random) {
    const { values, ...rest } = initialise(base, c, random);
    return { ...rest, values: c.loraBias ? { ...values, bias: new Float32Array(base.out) } : values };
  },
  forward(x, base, { A, B, bias }, c, use) {
    const s = scaling(c) * use.scale;
    // s on the small side, [..., r]: the second product then adds straight onto the first
    const y = add(base(x), through(times(through(use.dropout(x, c.loraDropout), A), s), B));
    return bias ? add(y, times(bias, s)) : y;
  },
  delta(base, { A, B, bias }, c, scale) {
    if (bias && !base.bias)
      throw new ConfigError(`${base.path} has no bias that the one of \`loraBias\` could be added to.`, {
        operation: "merge",
        got: base.path,
        hint: "Use it unmerged.",
      });
    return times(matmul(B, A), scaling(c) * scale);
  },
  biasDelta: (_, { bias }, c, scale) => (bias ? times(bias, scaling(c) * scale) : null),
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
    add(base(ids), through(times(take(transpose(A), ids), scaling(c) * use.scale * base.outputScale), B)),
  delta: (_, { A, B }, c, scale) => times(matmul(transpose(A), transpose(B)), scaling(c) * scale), // [rows, C]
};

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
  keys: ["r", "loraAlpha", "loraDropout", "useRslora", "initLoraWeights", "rankPattern", "alphaPattern", "bias", "loraBias"],
  patterns: { rankPattern: "r", alphaPattern: "loraAlpha" },
  check(config) {
    initialiser(config);
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
  startsAtZero: (config) => initialiser(config).startsAtZero,
  layers: { linear, embedding },
  samples: (draw) => ({
    r: draw.integer(1, 6),
    loraAlpha: draw.integer(1, 32) / 2,
    useRslora: draw.integer(0, 1) === 1,
    initLoraWeights: [true, false, "gaussian"][draw.integer(0, 2)]!,
  }),
});
