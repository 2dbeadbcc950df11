/**
 * Vector bank LoRA: W′ = W + B·A, whose rows (of A) and columns (of B) are cut into pieces of length b, each a mixture of vectors of one bank
 * [h, b] that all layers share: the k vectors with the largest logits, weighted by the softmax of those. Trained are the bank and the
 * logits. It is LoRA with parameters in common; there is no α, and a fresh adapter changes the output a little.
 *
 * With `saveOnlyTopkWeights` files hold the mixtures instead of the logits: places in the bank, and all weights but the last. They
 * cannot be trained on, because the other logits are gone.
 */
import { ConfigError, FormatError, ShapeError, wordShape } from "../../errors.ts";
import { boolean, choice, configSchema, float, integer, key, targetKeys } from "../../formats/peft-config.ts";
import type { StoredTensor, TensorToWrite } from "../../formats/safetensors.ts";
import { matmul } from "../../graph/contraction.ts";
import { toFloat32 } from "../../graph/dtype.ts";
import { mul } from "../../graph/elementwise.ts";
import { take } from "../../graph/indexing.ts";
import { reshape, transpose } from "../../graph/movement.ts";
import type { Tensor } from "../../graph/node.ts";
import { sizeOf } from "../../graph/shape.ts";
import { topk } from "../../tensor/pick.ts";
import { softmax, sum } from "../../tensor/statistics.ts";
import { defineMethod, type PackedFile, type SharedParameters } from "../method.ts";
import type { MethodConfig } from "../method-config.ts";
import { linearChange, times } from "../weight-change.ts";

const schema = configSchema("VBLORA", "vblora_", {
  ...targetKeys,
  r: key(4, integer(1)),
  num_vectors: key(256, integer(1)),
  vector_length: key(256, integer(1)),
  topk: key(2, integer(1)),
  save_only_topk_weights: key(false, boolean),
  vblora_dropout: key(0, float(0, 1)),
  fan_in_fan_out: key(false, boolean),
  bias: key("none", choice("none", "all", "vblora_only")),
  init_vector_bank_bound: key(0.02, float()),
  init_logits_std: key(0.1, float()),
});
type Config = MethodConfig<typeof schema>;

const shared: SharedParameters<Config> = {
  files: { bank: "vblora_vector_bank" },
  parameters: (_, { numVectors, vectorLength }) => ({ bank: { shape: [numVectors, vectorLength] } }),
  initialise: (_, { numVectors, vectorLength, initVectorBankBound: bound }, random) => ({
    bank: random.uniform(numVectors * vectorLength, -bound, bound),
  }),
};

/** [..., h] logits to the mixtures [..., b]. */
function mixtures(logits: Tensor, bank: Tensor, k: number): Tensor {
  const { values, indices } = topk(logits, k);
  const weights = softmax(values);
  return sum(mul(take(bank, indices), reshape(weights, [...weights.shape, 1])), -2);
}

/** What stands behind the name of logits in a file with mixtures. */
const [indicesFile, weightsFile] = ["_topk_indices", "_topk_weights"] as const;
const isLogits = (name: string): boolean => /\.vblora_logits_[AB]$/.test(name);

/** Rows of h logits as the places of the k largest, and the softmax of those without the last. */
function toMixtures(logits: Float32Array, h: number, k: number) {
  const rows = logits.length / h;
  const indices = new Int32Array(rows * k);
  const weights = new Float32Array(rows * (k - 1));
  for (let row = 0; row < rows; row++) {
    const own = logits.subarray(row * h, (row + 1) * h);
    const chosen = Array.from(own.keys())
      .sort((a, b) => own[b]! - own[a]! || a - b)
      .slice(0, k);
    const powers = chosen.map((i) => Math.exp(own[i]! - own[chosen[0]!]!));
    const total = powers.reduce((sum, power) => sum + power, 0);
    indices.set(chosen, row * k);
    weights.set(
      powers.slice(0, -1).map((power) => power / total),
      row * (k - 1),
    );
  }
  return { indices, weights };
}

/** Logits that make these mixtures: ln of the weights, −∞ for what is in none. */
function toLogits(indices: ArrayLike<number>, weights: ArrayLike<number>, h: number, k: number): Float32Array {
  const rows = indices.length / k;
  const logits = new Float32Array(rows * h).fill(Number.NEGATIVE_INFINITY);
  for (let row = 0; row < rows; row++) {
    let left = 1;
    for (let i = 0; i < k; i++) {
      const weight = i < k - 1 ? weights[row * (k - 1) + i]! : left;
      left -= weight;
      logits[row * h + indices[row * k + i]!] = Math.log(Math.max(0, weight));
    }
  }
  return logits;
}

const packed: PackedFile<Config> = {
  pack(tensors, { saveOnlyTopkWeights, topk: k, numVectors: h }) {
    if (!saveOnlyTopkWeights) return tensors;
    const asIndices = (data: Int32Array): Pick<TensorToWrite, "dtype" | "data" | "storedDType"> =>
      h < 2 ** 8
        ? { dtype: "uint8", data: Uint8Array.from(data) }
        : { dtype: "int32", data, storedDType: h < 2 ** 15 ? "I16" : "I32" };
    return new Map(
      [...tensors].flatMap(([name, tensor]): [string, TensorToWrite][] => {
        if (!isLogits(name)) return [[name, tensor]];
        const { indices, weights } = toMixtures(tensor.data as Float32Array, h, k);
        const shape = (last: number) => [...tensor.shape.slice(0, -1), last];
        return [
          [name + indicesFile, { ...asIndices(indices), shape: shape(k) }],
          [name + weightsFile, { dtype: "float32", shape: shape(k - 1), data: weights }],
        ];
      }),
    );
  },
  unpack(tensors, { saveOnlyTopkWeights, topk: k, numVectors: h }, trainable) {
    if (!saveOnlyTopkWeights) return tensors;
    if (trainable)
      throw new ConfigError("the file holds mixtures without their logits (`saveOnlyTopkWeights`), which cannot be trained on.", {
        operation: "loadAdapter",
        got: trainable,
        hint: "Leave `trainable` out, or save the adapter with its logits.",
      });
    return new Map(
      [...tensors].flatMap(([name, indices]): [string, StoredTensor][] => {
        if (name.endsWith(weightsFile) && tensors.has(name.replace(weightsFile, indicesFile))) return [];
        const weights = tensors.get(name.replace(indicesFile, weightsFile));
        if (!name.endsWith(indicesFile) || !weights) return [[name, indices]];
        const logits = name.slice(0, -indicesFile.length);
        const shape = [...indices.shape.slice(0, -1), h];
        const rows = indices.shape.slice(0, -1).join();
        if (indices.shape.at(-1) !== k || weights.shape.at(-1) !== k - 1 || weights.shape.slice(0, -1).join() !== rows)
          throw new ShapeError(
            `${name} is ${wordShape(indices.shape)} and its weights ${wordShape(weights.shape)}, which are not mixtures of ${k} (\`topk\`).`,
            { operation: "loadAdapter", expected: k, got: [indices.shape, weights.shape] },
          );
        const load = async () => {
          const places = await indices.load();
          if (places.some((place) => place < 0 || place >= h))
            throw new FormatError(`${name} names vectors that a bank of ${h} does not have.`, {
              operation: "loadAdapter",
              expected: h,
            });
          return toLogits(places, toFloat32(await weights.load(), weights.dtype), h, k);
        };
        const facts = { dtype: "float32", storedDType: "F32" } as const;
        return [[logits, { ...facts, name: logits, shape, byteLength: 4 * sizeOf(shape), load }]];
      }),
    );
  },
};

/** VB-LoRA: `vblora({ r: 4, numVectors: 256, vectorLength: 256, targetModules: ["q_proj"] })`. */
export const vblora = defineMethod({
  schema,
  papers: ["https://arxiv.org/abs/2405.15179"],
  formula: "W + B·A, made of shared vectors",
  check({ topk: k, numVectors }) {
    if (k > numVectors)
      throw new ConfigError(`\`topk\` (= ${k}) must not be more than \`numVectors\` (= ${numVectors}).`, {
        operation: "vblora",
        got: k,
      });
  },
  shared,
  packed,
  layers: {
    linear: linearChange<Config, "A" | "B", never, "bank">({
      files: { A: "vblora_logits_A", B: "vblora_logits_B" },
      parameters({ in: into, out, path }, { r, numVectors: h, vectorLength: b }) {
        if (into % b !== 0 || out % b !== 0)
          throw new ConfigError(`${path} is [${out}, ${into}], which \`vectorLength\` (= ${b}) does not divide.`, {
            operation: "attach",
            got: b,
          });
        return { A: { shape: [r, into / b, h] }, B: { shape: [out / b, r, h] } };
      },
      initialise: ({ in: into, out }, { r, numVectors: h, vectorLength: b, initLogitsStd }, random) => ({
        values: {
          A: random.normal((r * into * h) / b, 0, initLogitsStd),
          B: random.normal((r * out * h) / b, 0, initLogitsStd),
        },
      }),
      delta({ in: into, out }, { A, B, bank }, { r, topk: k }, scale) {
        const low = reshape(mixtures(A, bank, k), [r, into]);
        const high = reshape(transpose(mixtures(B, bank, k)), [out, r]);
        return times(matmul(high, low), scale);
      },
      dropout: ({ vbloraDropout }) => vbloraDropout,
    }),
  },
  samples(draw, { in: into, out }) {
    const vectorLength = [4, 3, 2].find((n) => into % n === 0 && out % n === 0) ?? 1;
    return { r: draw.integer(1, 3), vectorLength, numVectors: draw.integer(3, 6), topk: draw.integer(1, 3) };
  },
});
