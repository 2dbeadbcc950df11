/** The settings of a `config.json` that decide how a DeBERTa v2 computes, and the rows of its table of distances. */
import { reshape, sliceAxis } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { type BertVariant, bertConfig } from "./bert.ts";
import { type ConfigJson, ConfigReader } from "./config-reader.ts";

/** The settings of a `config.json` that affect the computation, in camelCase. */
export type DebertaV2Config = ReturnType<typeof debertaV2Config>;

const variant: BertVariant = {
  modelType: "deberta-v2",
  defaults: { pad_token_id: 0, layer_norm_eps: 1e-7 },
  positionsAfterPadding: false,
};

/** @throws {ConfigError} for a missing key and for a value that is not supported, by name */
export function debertaV2Config(json: ConfigJson) {
  const config = new ConfigReader(json, variant.modelType, variant.defaults);
  // what follows is read another way than BERT's
  const { type_vocab_size, ...rest } = json;
  const bert = bertConfig(rest, variant);
  const optional = (key: string) => (Number(config.get(key) ?? 0) <= 0 ? 0 : config.count(key));
  config.fixed("attention_head_size", bert.hiddenSize / bert.numAttentionHeads);
  config.fixed("pooler_hidden_size", bert.hiddenSize);
  const types = config.get("pos_att_type") ?? [];
  const posAttType: unknown[] = Array.isArray(types) ? types : config.text("pos_att_type", "").toLowerCase().split("|");
  const known = posAttType.map((type) => String(type).trim()).filter((type) => type !== "");
  if (known.some((type) => type !== "c2p" && type !== "p2c") || new Set(known).size < known.length)
    config.refuse("pos_att_type", types, 'must name "c2p", "p2c" or both');
  const normRelEbd = config.text("norm_rel_ebd", "none").toLowerCase();
  if (normRelEbd !== "none" && normRelEbd !== "layer_norm")
    config.refuse("norm_rel_ebd", normRelEbd, 'must be "none" or "layer_norm"');
  const convKernelSize = optional("conv_kernel_size");
  if (convKernelSize > 0 && convKernelSize % 2 === 0) config.refuse("conv_kernel_size", convKernelSize, "must be odd");
  const positionBuckets = optional("position_buckets");
  if (positionBuckets === 1) config.refuse("position_buckets", 1, "must be at least 2");
  const maxRelativePositions = optional("max_relative_positions") || bert.maxPositionEmbeddings;
  return {
    ...bert,
    embeddingSize: config.count("embedding_size", bert.hiddenSize),
    typeVocabSize: optional("type_vocab_size"),
    relativeAttention: config.flag("relative_attention", false),
    posAttType: known,
    shareAttKey: config.flag("share_att_key", false),
    positionBuckets,
    maxRelativePositions,
    /** Rows of the table of distances, half of them. */
    span: positionBuckets || maxRelativePositions,
    /** Whether the vectors of distances are normalised. */
    normRelEbd: normRelEbd === "layer_norm",
    positionBiasedInput: config.flag("position_biased_input", true),
    convKernelSize,
    convGroups: config.count("conv_groups", 1),
    convAct: config.activation("conv_act", "tanh"),
    poolerDropout: config.probability("pooler_dropout", 0),
    poolerHiddenAct: config.activation("pooler_hidden_act", "gelu"),
    clsDropout: config.probability("cls_dropout", bert.hiddenDropoutProb),
    /** Whether the output layer of masked words is BERT's; otherwise that of the original DeBERTa. */
    legacy: config.flag("legacy", true),
  };
}

/**
 * The rows of the distances T − 1 … 1 − T, of which far ones share some: with `position_buckets`, half of the buckets are for a
 * distance each, and the others grow with its logarithm. Rounded to float32, as models in use were trained.
 *
 * @see https://github.com/microsoft/DeBERTa `DeBERTa/deberta/da_utils.py`, make_log_bucket_position
 */
export function distanceRows(T: number, { positionBuckets, maxRelativePositions, span }: DebertaV2Config): Int32Array {
  const f = Math.fround;
  const mid = Math.floor(positionBuckets / 2);
  const widest = f(Math.log(f((maxRelativePositions - 1) / mid)));
  const bucket = (distance: number) => {
    const far = Math.abs(distance);
    if (positionBuckets === 0 || far <= mid) return distance;
    return Math.sign(distance) * (Math.ceil(f(f(f(Math.log(f(far / mid))) / widest) * (mid - 1))) + mid);
  };
  return Int32Array.from({ length: 2 * T - 1 }, (_, i) => Math.min(2 * span - 1, Math.max(0, bucket(T - 1 - i) + span)));
}

/** From the scores of distances, [B, H, T, 2T − 1] in the order T − 1 … 1 − T, to those of places: y[t, j] = x[t, distance t − j]. */
export function byDistance(scores: Tensor): Tensor {
  const [B, H, T, M] = scores.shape as [number, number, number, number];
  if (T === 1) return scores;
  // a row is read one value earlier than the row before, which is a view
  const begun = sliceAxis(reshape(scores, [B, H, T * M]), 2, T - 1, T - 1 + T * (M - 1));
  return sliceAxis(reshape(begun, [B, H, T, M - 1]), 3, 0, T);
}
