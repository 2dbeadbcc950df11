/**
 * Poly (Polytropon): an inventory of skills, each a LoRA, that tasks are combinations of. Task t gives skill k the share
 * wₜₖ = σ(zₜₖ) / Σⱼ σ(zₜⱼ), and what is added to y is x·A·B / r with A = Σₖ wₜₖ·Aₖ and B = Σₖ wₜₖ·Bₖ: it is their factors that are mixed. With
 * `nSplits` (multi-head routing) the channels that go in, and those that come out, are cut into as many parts, each with shares of its own.
 * In training σ(z) is a drawn switch instead, σ(z + ln u − ln(1 − u)). With one skill it is LoRA with alpha 1.
 *
 * `taskIds` [B] beside the inputs, or `withTasks`, say which task each row is for; where there is one task, nobody need. A layer has another
 * weight for each row, so that it cannot be merged.
 */
import { ConfigError, ShapeError } from "../../errors.ts";
import { boolean, choice, configSchema, integer, key, targetKeys } from "../../formats/peft-config.ts";
import { matmul } from "../../graph/contraction.ts";
import { add, cast, div, log, max, sub } from "../../graph/elementwise.ts";
import { take } from "../../graph/indexing.ts";
import { expand, permute, reshape } from "../../graph/movement.ts";
import type { Tensor } from "../../graph/node.ts";
import { constant, number } from "../../graph/source.ts";
import type { TorchGenerator } from "../../random/torch-generator.ts";
import { sigmoid } from "../../tensor/math.ts";
import { sum } from "../../tensor/statistics.ts";
import { type Base, defineMethod, type LayerMethod, type Use } from "../method.ts";
import type { MethodConfig } from "../method-config.ts";
import { product } from "../scale.ts";
import { times } from "../weight-change.ts";

const { target_modules, exclude_modules, modules_to_save } = targetKeys;
const schema = configSchema("POLY", "poly_", {
  target_modules,
  exclude_modules,
  modules_to_save,
  r: key(8, integer(1)),
  init_weights: key(true, boolean),
  poly_type: key("poly", choice("poly")),
  n_tasks: key(1, integer(1)),
  n_skills: key(4, integer(1)),
  n_splits: key(1, integer(1)),
});
type Config = MethodConfig<typeof schema>;

/** [N] int32: the task of each of N rows. */
function tasksOf({ path }: Base, rows: number, { nTasks }: Config, use: Use): Tensor {
  const said = use.tasks();
  if (!said && nTasks > 1)
    throw new ConfigError(`\`taskIds\` must be given: which of ${nTasks} tasks each text is for.`, {
      operation: "poly",
      got: null,
      hint: "Put them beside the inputs, or use withTasks.",
    });
  const count = said?.shape[0];
  if (count === rows) return said as Tensor;
  if (said && count !== 1)
    throw new ShapeError(`${path} runs on ${rows} rows, but ${count} tasks were given.`, {
      operation: "poly",
      expected: rows,
      got: count,
    });
  return said ? expand(said, [rows]) : constant(0, [rows], "int32");
}

/** Shares of the skills in each split, [N, splits, skills]. */
function shares(logits: Tensor, tasks: Tensor, { nSplits, nSkills }: Config, use: Use): Tensor {
  const z = reshape(take(logits, tasks), [tasks.size, nSplits, nSkills]);
  const tiny = number(z, 2 ** -23);
  const logistic = (u: Tensor) => sub(log(max(u, tiny)), log(max(sub(number(z, 1), u), tiny)));
  const on = sigmoid(use.training ? add(z, cast(logistic(use.uniform(z.shape)), z.dtype)) : z);
  return div(on, add(sum(on, -1, true), number(z, 1e-12)));
}

/** Matrices drawn like the weights of linear layers with `into` inputs, each turned: [count, into, out] or [count, r, out]. */
function turnedDraws(random: TorchGenerator, { nSplits, nSkills }: Config, into: number, out: number): Float32Array {
  const values = new Float32Array(nSplits * nSkills * into * out);
  const bound = 1 / Math.sqrt(into);
  for (let skill = 0; skill < nSkills; skill++)
    for (let split = 0; split < nSplits; split++) {
      const drawn = random.uniform(out * into, -bound, bound);
      const at = (split * nSkills + skill) * into * out;
      for (let i = 0; i < drawn.length; i++) values[at + (i % into) * out + Math.floor(i / into)] = drawn[i] as number;
    }
  return values;
}

const linear: LayerMethod<Config, "A" | "B" | "logits"> = {
  files: { A: "poly_lora_A", B: "poly_lora_B", logits: "poly_router.module_logits" },
  readsText: "tasks",
  parameters(base, { r, nTasks, nSkills, nSplits }) {
    if (base.in % nSplits !== 0 || base.out % nSplits !== 0)
      throw new ConfigError(
        `\`nSplits\` (= ${nSplits}) must divide the ${base.in} inputs and ${base.out} outputs of ${base.path}.`,
        {
          operation: "poly",
          got: nSplits,
          hint: "Choose another number, or take the layer out with `excludeModules`.",
        },
      );
    return {
      A: { shape: [nSplits, nSkills, base.in / nSplits, r] },
      B: { shape: [nSplits, nSkills, r, base.out / nSplits] },
      logits: { shape: [nTasks, nSplits * nSkills] },
    };
  },
  initialise(base, c, random) {
    const { r, nTasks, nSkills, nSplits, initWeights } = c;
    const [into, out] = [base.in / nSplits, base.out / nSplits];
    const A = turnedDraws(random, c, into, r);
    const B = initWeights ? new Float32Array(nSplits * nSkills * r * out) : turnedDraws(random, c, r, out);
    return { values: { A, B, logits: random.uniform(nTasks * nSplits * nSkills, -1e-3, 1e-3) } };
  },
  forward(x, base, { A, B, logits }, c, use) {
    const { r, nSplits: q, nSkills: s } = c;
    const N = x.rank > 2 ? (x.shape[0] as number) : 1;
    const w = reshape(shares(logits, tasksOf(base, N, c, use), c, use), [N, q, 1, s]);
    const mixed = (factors: Tensor) => matmul(w, reshape(factors, [1, q, s, factors.size / (q * s)]));
    const down = reshape(mixed(A), [N, base.in, r]);
    const up = reshape(permute(reshape(mixed(B), [N, q, r, base.out / q]), [0, 2, 1, 3]), [N, r, base.out]);
    const inner = matmul(reshape(x, [N, x.size / (N * base.in), base.in]), down);
    const share = matmul(times(inner, product(1 / r, use.scale)), up);
    return add(base(x), reshape(share, [...x.shape.slice(0, -1), base.out]));
  },
};

/** Poly: `poly({ r: 8, nTasks: 3, nSkills: 4, targetModules: ["q", "v"] })`. */
export const poly = defineMethod({
  schema,
  papers: ["https://arxiv.org/abs/2202.13914", "https://arxiv.org/abs/2211.03831"],
  formula: "y + x·(Σₖ wₜₖ·Aₖ)·(Σₖ wₜₖ·Bₖ) / r for task t",
  startsAtZero: ({ initWeights }) => initWeights,
  layers: { linear },
  samples: (draw, { in: into, out }) => ({
    r: draw.integer(1, 6),
    nSkills: draw.integer(1, 3),
    nSplits: into % 2 === 0 && out % 2 === 0 ? draw.integer(1, 2) : 1,
    initWeights: draw.integer(0, 3) > 0,
  }),
});
