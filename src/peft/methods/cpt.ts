/**
 * Context-aware prompt tuning: the examples that one would write in front of a text stand there as vectors that may move a little,
 * [E(ids) + Δ; E(text)]. Δ starts at zero and is all that is trained. After every step each row of it is pulled back into a ball,
 * Δᵢ ← Δᵢ·εᵢ / max(‖Δᵢ‖, εᵢ), with εᵢ = ε·√(d/2048); what an example is to answer stays as it is. It equals no LoRA.
 *
 * `cptTokensTypeMask` says what each token is, by its remainder modulo 4: 1 the format around an input, 2 an input, 3 the format around an
 * answer, 0 an answer (0 itself: nothing). Answers are judged, in the examples, too; types count on from one example to the next, and those of
 * a text, 4 unless `inputTypeMask` [B, T] is beside the inputs, count on from the largest. With `optWeightedLossType: "decay"` the last
 * answer counts 1, the one before it f, the one before that f² …; the mean is over the number of judged tokens, as in PEFT.
 *
 * There are as many virtual tokens as `cptTokenIds`, whatever `numVirtualTokens` says. The file holds E + Δ. Whoever trains on gets Δ back
 * as what that differs from the model's own words, where PEFT begins a new one.
 */
import { currentDevice, upload } from "../../compile/program.ts";
import { ConfigError } from "../../errors.ts";
import { choice, configSchema, float, integers, key, text } from "../../formats/peft-config.ts";
import { concatenate } from "../../graph/composite.ts";
import { add, and, cast, div, equal, exp, less, max, mod, mul, sub, where } from "../../graph/elementwise.ts";
import { expand, reshape, stopGradient } from "../../graph/movement.ts";
import type { Tensor } from "../../graph/node.ts";
import { reduceMax } from "../../graph/reduction.ts";
import { constant, iota } from "../../graph/source.ts";
import { norm, sum } from "../../tensor/statistics.ts";
import { defineMethod } from "../method.ts";
import type { MethodConfig } from "../method-config.ts";
import { type PromptConfig, type PromptMethod, promptKeys } from "../prompt/prompt-method.ts";

const schema = configSchema("CPT", "cpt_", {
  ...promptKeys,
  cpt_token_ids: key(null, integers),
  cpt_mask: key(null, integers),
  cpt_tokens_type_mask: key(null, integers),
  opt_weighted_loss_type: key("none", choice("none", "decay")),
  opt_loss_decay_factor: key(1, float()),
  opt_projection_epsilon: key(0.1, float(0)),
  opt_projection_format_epsilon: key(0.1, float(0)),
  tokenizer_name_or_path: key(null, text),
});
type Config = MethodConfig<typeof schema>;

const operation = "cpt";
const ignored = -100;
const whole = (value: number): Tensor => constant(value, [], "int32");
/** A column of numbers that are known, [n, 1]. */
const column = (values: readonly number[], dtype: "float32" | "int32"): Tensor =>
  concatenate(
    values.map((value) => constant(value, [1, 1], dtype)),
    0,
  );
const idsOf = (config: Config): readonly number[] => config.cptTokenIds ?? [0];
const typesOf = (config: Config): readonly number[] => config.cptTokensTypeMask ?? idsOf(config).map(() => 1);
const largestOf = (config: Config): number => Math.max(...typesOf(config));

/** How far each token may move: ε, and almost not at all for answers. */
function radii(config: Config & PromptConfig): number[] {
  const width = Math.sqrt(config.tokenDim / 2048);
  const { optProjectionFormatEpsilon: format, optProjectionEpsilon: input } = config;
  return typesOf(config).map((type) => Math.max(type <= 0 ? 0 : width * ([0, format, input, format][type % 4] as number), 1e-10));
}

/** Whether each token may move. */
const moves = (config: Config): number[] => typesOf(config).map((type) => (((type % 4) + 4) % 4 === 0 ? 0 : 1));

/** Δ in its balls. */
function projected(delta: Tensor, config: Config & PromptConfig): Tensor {
  const radius = column(radii(config), "float32");
  const length = norm(delta, { axes: 1, keepDims: true });
  return mul(delta, div(radius, max(length, radius)));
}

const prompt: PromptMethod<Config> = {
  place: "inputs",
  tables: ({ numVirtualTokens, tokenDim }) => ({ prompt_embeddings: [numVirtualTokens, tokenDim] }),
  encoder(config) {
    const { prompt_embeddings: shape } = prompt.tables(config);
    return {
      parameters: { "embedding.weight": { shape, trainable: false }, "delta_embedding.weight": { shape } },
      encode({ "embedding.weight": E, "delta_embedding.weight": delta }) {
        // the value is Δ in its balls, the gradient that of Δ where it may move
        const moving = mul(delta as Tensor, column(moves(config), "float32"));
        return add(E as Tensor, add(moving, stopGradient(sub(projected(delta as Tensor, config), moving))));
      },
      project: ({ "delta_embedding.weight": delta }) => ({ "delta_embedding.weight": projected(delta as Tensor, config) }),
    };
  },
  decode({ prompt_embeddings: table }, config, words) {
    const E = words.vectors(Int32Array.from(idsOf(config)));
    const { prompt_embeddings: shape } = prompt.tables(config);
    return {
      "embedding.weight": E,
      "delta_embedding.weight": sub(upload(currentDevice(), table as Float32Array, shape, "float32"), E),
    };
  },
  initialise: (config, _, words) => ({
    "embedding.weight": words.vectors(Int32Array.from(idsOf(config))),
    "delta_embedding.weight": new Float32Array(config.numVirtualTokens * config.tokenDim),
  }),
  judge(targets, first, config, { inputTypeMask }) {
    const [B, T] = targets.shape as [number, number];
    const [ids, types, largest] = [idsOf(config), typesOf(config), largestOf(config)];
    if (!inputTypeMask && largest % 4 !== 0)
      throw new ConfigError(`no token of a text is judged: its types count on from ${largest}, the largest of the examples.`, {
        operation,
        got: types,
        hint: "Let the last example end in an answer, whose type is a multiple of 4, or give `inputTypeMask`.",
      });
    // each position's next token, as the labels that are given are: the first of the examples follows nothing
    const row = (values: readonly number[]) => expand(reshape(column(values, "int32"), [1, values.length]), [B, values.length]);
    const given = cast(inputTypeMask ?? constant(4, [B, T], "int32"), "int32");
    const counted = where(less(whole(0), given), add(given, whole(largest)), given);
    const behind = (own: readonly number[], text: Tensor) => (own.length > 1 ? concatenate([row(own.slice(1)), text], 1) : text);
    // what comes after a text, where targets tell it, is a part of it, unless somebody says more of the text than that
    const after = inputTypeMask ? whole(0) : whole(4 + largest);
    const type = concatenate([behind(types, counted), expand(reshape(after, [1, 1]), [B, 1])], 1);
    const all = behind(ids, concatenate([first, cast(targets, "int32")], 1));
    const isAnswer = and(less(whole(0), type), equal(mod(type, whole(4)), whole(0)));
    const judged = where(isAnswer, all, whole(ignored));
    if (config.optWeightedLossType !== "decay") return { targets: judged };
    return { targets: judged, weights: decayed(where(isAnswer, type, whole(0)), config.optLossDecayFactor) };
  },
};

/** fᵏ for the tokens of the answer that k others come after. @param types [B, N]: which answer a token is of, 0 for none */
function decayed(types: Tensor, f: number): Tensor {
  const [B, N] = types.shape as [number, number];
  const [one, other] = [reshape(types, [B, N, 1]), reshape(types, [B, 1, N])];
  const at = iota([N]);
  const before = less(reshape(at, [1, 1, N]), reshape(at, [1, N, 1]));
  const seen = reduceMax(cast(and(equal(one, other), before), "int32"), [2]); // [B, N, 1]
  const isFirst = and(equal(seen, whole(0)), less(whole(0), one));
  const later = sum(cast(and(less(other, one), isFirst), "float32"), 1); // [B, N]: answers after each token's
  if (f === 0) return cast(equal(later, constant(0)), "float32");
  const sign = f < 0 ? sub(constant(1), mul(constant(2), mod(later, constant(2)))) : null;
  const power = exp(mul(later, constant(Math.log(Math.abs(f)))));
  return sign ? mul(power, sign) : power;
}

/** Context-aware prompt tuning: `cpt({ cptTokenIds, cptTokensTypeMask })`, with the numbers of the examples' words. */
export const cpt = defineMethod({
  schema,
  papers: ["https://arxiv.org/abs/2410.17222"],
  formula: "f([E(examples) + Δ; E(ids)]), ‖Δᵢ‖ ≤ εᵢ",
  check(config) {
    const { cptTokenIds, cptMask, cptTokensTypeMask, taskType } = config;
    const n = idsOf(config).length;
    const lengths = { cptTokenIds, cptMask, cptTokensTypeMask };
    const wrong = Object.entries(lengths).find(([, list]) => list !== null && (list.length !== n || n === 0));
    if (wrong)
      throw new ConfigError(`\`${wrong[0]}\` has ${wrong[1]?.length} entries, where there are ${n} \`cptTokenIds\`.`, {
        operation,
        got: wrong[1],
        expected: n,
        hint: "All three lists have one entry for each token of the examples.",
      });
    if (taskType !== null && taskType !== "CAUSAL_LM")
      throw new ConfigError("it is for causal language models.", { operation, got: taskType, expected: "CAUSAL_LM" });
  },
  complete: (config): Config => ({
    ...config,
    taskType: "CAUSAL_LM",
    numVirtualTokens: idsOf(config).length,
    numTransformerSubmodules: 1,
    cptTokenIds: idsOf(config),
    cptMask: config.cptMask ?? idsOf(config).map(() => 1),
    cptTokensTypeMask: typesOf(config),
  }),
  layers: {},
  prompt,
  samples: (draw) => {
    const n = draw.integer(1, 4);
    const each = (low: number, high: number) => Array.from({ length: n }, () => draw.integer(low, high));
    return { cptTokenIds: each(1, 20), cptTokensTypeMask: [...each(1, 7).slice(1), 2], optProjectionEpsilon: 40 };
  },
});
