/**
 * Trainable tokens: of the embedding E [tokens, C] only some rows are trained, those of new words for instance. An adapter has rows of its
 * own [n, C], which start as E's and stand in their places: E′ = E with E[ids] replaced. They are rows, not differences, so that they
 * mean the same on a model whose table was drawn anew. It equals no LoRA.
 *
 * An output layer that shares E is changed along with it, without parameters of its own, and keeps its bias; PEFT (0.21.2) leaves the bias of
 * such a layer (those of BERT's family have one) out while the adapter acts, even before anything is trained. Of two active adapters that train the same row
 * the first decides; PEFT refuses both. A token that is listed twice has two rows, of which the last one stands in its place and both get its gradient, as
 * `index_copy` has it in PEFT. With a scale s (`setScale`) the rows are E[ids] + s·(rows − E[ids]).
 */
import { currentDevice, upload } from "../../compile/program.ts";
import { ConfigError } from "../../errors.ts";
import { boolean, configSchema, integers, key, targetKeys } from "../../formats/peft-config.ts";
import { add, cast, less, max, sub, where } from "../../graph/elementwise.ts";
import { scatterAdd, take } from "../../graph/indexing.ts";
import { reshape, stopGradient, transpose } from "../../graph/movement.ts";
import type { Tensor } from "../../graph/node.ts";
import { constant } from "../../graph/source.ts";
import type { LayerKind } from "../layer-kind.ts";
import { type Base, defineMethod, type LayerMethod } from "../method.ts";
import type { MethodConfig } from "../method-config.ts";
import type { Scale } from "../scale.ts";
import { inputEmbedding } from "../tied-weight.ts";
import { through, times, withPadding } from "../weight-change.ts";

const schema = configSchema("TRAINABLE_TOKENS", "trainable_tokens_", {
  token_indices: key([], integers),
  target_modules: targetKeys.target_modules,
  init_weights: key(true, boolean),
});
type Config = MethodConfig<typeof schema>;
type Tokens = LayerMethod<Config, "rows">;

/** Rows and columns of the table, which an output layer holds as its weight [tokens, C]. */
const sizes = ({ kind, in: into, out }: Base) => (kind === "embedding" ? [into, out] : [out, into]) as [number, number];

const rowsOf = (ids: readonly number[]): Tensor => upload(currentDevice(), Int32Array.from(ids), [ids.length], "int32");

/** For every token its last place in the list, and whether it has one: [tokens] each. */
function places(base: Base, ids: readonly number[]): { readonly place: Tensor; readonly listed: Tensor } {
  const [tokens] = sizes(base);
  const table = new Int32Array(tokens).fill(-1);
  for (const [place, id] of ids.entries()) table[id] = place;
  const place = upload(currentDevice(), table, [tokens], "int32");
  return { place: max(place, constant(0, [], "int32")), listed: less(constant(-1, [], "int32"), place) };
}

/** The rows with the last one of each token, through which the gradient comes to all that it has. */
function lastRows(rows: Tensor, ids: readonly number[]): Tensor {
  const earlier = ids.flatMap((id, place) => (ids.lastIndexOf(id) > place ? [place] : []));
  if (earlier.length === 0) return rows;
  const overwritten = take(rows, rowsOf(earlier));
  const last = earlier.map((place) => ids.lastIndexOf(ids[place]!));
  return add(rows, scatterAdd(rowsOf(last), sub(overwritten, stopGradient(overwritten)), ids.length));
}

/** The rows that stand in for the table's: s of the way from these. */
const scaled = (base: Base, own: Tensor, { tokenIndices }: Config, scale: Scale): Tensor => {
  const rows = lastRows(own, tokenIndices);
  if (scale === 1) return rows;
  const from = cast(take(base.weight, rowsOf(tokenIndices)), "float32");
  return add(from, times(sub(rows, from), scale));
};

const common = {
  parameters(base, { tokenIndices: ids }) {
    const [tokens, width] = sizes(base);
    const refuse = (problem: string, got: unknown): never => {
      throw new ConfigError(problem, { operation: "attach", got });
    };
    if (ids.length === 0) refuse(`there is no token of ${base.path} to train: the list of indices is empty.`, ids);
    const outside = ids.find((id) => id < 0 || id >= tokens);
    if (outside !== undefined) refuse(`token ${outside} is none of the ${tokens} of ${base.path}, which count from 0.`, outside);
    return { rows: { shape: [ids.length, width] } };
  },
  initialise(base, { tokenIndices, initWeights }, random) {
    const [, width] = sizes(base);
    const rows = initWeights
      ? cast(take(base.original, rowsOf(tokenIndices)), "float32")
      : random.randn(tokenIndices.length * width);
    return { values: { rows } };
  },
  delta(base, { rows }, c, scale) {
    const { place, listed } = places(base, c.tokenIndices);
    const own = cast(base.weight, "float32");
    const change = times(sub(take(lastRows(rows, c.tokenIndices), place), own), scale);
    return where(reshape(listed, [listed.size, 1]), change, constant(0, [], "float32"));
  },
} satisfies Omit<Tokens, "files" | "forward">;

/** The method for layers of both kinds. @param file key of the rows in the file */
const layers = (file: string, more: Partial<Tokens> = {}) =>
  ({
    embedding: {
      ...common,
      ...more,
      files: { rows: file },
      forward(ids, base, { rows }, c, use) {
        const { place, listed } = places(base, c.tokenIndices);
        const own = withPadding(base, take(scaled(base, rows, c, use.scale), take(place, ids)), ids);
        return where(reshape(take(listed, ids), [...ids.shape, 1]), times(own, base.outputScale), base(ids));
      },
    },
    linear: {
      ...common,
      ...more,
      files: { rows: file },
      forward(x, base, { rows }, c, use) {
        const { place, listed } = places(base, c.tokenIndices);
        const own = through(x, scaled(base, rows, c, use.scale)); // [..., n]
        const n = c.tokenIndices.length;
        // every token's column of it; those of tokens that are not listed are not looked at
        const spread = transpose(take(transpose(reshape(own, [own.size / n, n])), place));
        const columns = reshape(spread, [...x.shape.slice(0, -1), base.out]);
        return where(listed, base.bias ? add(columns, base.bias) : columns, base(x));
      },
    },
  }) satisfies { readonly [Kind in LayerKind]?: Tokens };

/** What `trainableTokenIndices` of other methods puts on embeddings; `tied` on layers that share the weight of one. */
export const trainedTokens = {
  embeddings: layers("token_adapter.trainable_tokens_delta"),
  tied: layers("token_adapter.trainable_tokens_delta", { inFile: "absent" }),
};

/** Trainable tokens: `trainableTokens({ tokenIndices: [30, 41] })`; of the input embedding when there are no `targetModules`. */
export const trainableTokens = defineMethod({
  schema,
  papers: ["https://huggingface.co/docs/peft/package_reference/trainable_tokens"],
  formula: "W with some rows of its own",
  targets: (modules) => inputEmbedding(modules)?.path ?? "embed_tokens",
  startsAtZero: ({ initWeights }) => initWeights,
  layers: layers("trainable_tokens_delta"),
  tied: { layers: layers("trainable_tokens_delta") },
  samples: (draw, { in: into, out }) => {
    const [tokens, count] = [Math.min(into, out), draw.integer(1, 4)];
    const ids = Array.from({ length: count }, () => draw.integer(0, tokens - 1));
    return { tokenIndices: ids, initWeights: draw.integer(0, 2) > 0 };
  },
});
