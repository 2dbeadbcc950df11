/** The settings of a `config.json` that decide how a T5 computes. */
import { requireOption } from "../errors.ts";
import { activation } from "../nn/activation.ts";
import { type ConfigJson, ConfigReader } from "./config-reader.ts";

/** The settings of a `config.json` that affect the computation, in camelCase. */
export type T5Config = ReturnType<typeof t5Config>;

/** T5 and the models that are T5s but for settings. */
export type T5Type = "t5" | "mt5" | "umt5";

/** @throws {ConfigError} for a missing key and for a value that is not supported, by name */
export function t5Config(json: ConfigJson, modelType: T5Type = "t5") {
  const config = t5EncoderConfig(json, modelType);
  new ConfigReader(json, modelType).fixed("is_encoder_decoder", true);
  return config;
}

/** The same for an encoder alone, of which transformers says that it is no encoder–decoder. */
export function t5EncoderConfig(json: ConfigJson, modelType: T5Type) {
  requireOption("t5", ["t5", "mt5", "umt5"], "modelType", modelType);
  const config = new ConfigReader(json, modelType, { pad_token_id: 0, decoder_start_token_id: 0 });
  const projection = config.text("feed_forward_proj", modelType === "t5" ? "relu" : "gated-gelu");
  const isGated = projection.startsWith("gated-");
  const act = projection.replace(/^gated-/, "");
  const numBuckets = config.count("relative_attention_num_buckets", 32);
  if (numBuckets < 4) config.refuse("relative_attention_num_buckets", numBuckets, "must be at least 4");
  const maxDistance = config.count("relative_attention_max_distance", 128);
  if (maxDistance <= numBuckets / 2)
    config.refuse(
      "relative_attention_max_distance",
      maxDistance,
      `must be above half of relative_attention_num_buckets (= ${numBuckets})`,
    );
  const numLayers = config.layers("num_layers");
  const tieWordEmbeddings = config.flag("tie_word_embeddings", true);
  activation(act);
  return {
    ...config.labels(0),
    modelType,
    vocabSize: config.count("vocab_size"),
    dModel: config.count("d_model"),
    dKv: config.count("d_kv", 64),
    dFf: config.count("d_ff"),
    numLayers,
    numDecoderLayers: config.layers("num_decoder_layers", numLayers),
    numHeads: config.count("num_heads"),
    numBuckets,
    maxDistance,
    dropoutRate: config.probability("dropout_rate", 0.1),
    layerNormEpsilon: config.number("layer_norm_epsilon", 1e-6),
    initializerFactor: config.number("initializer_factor", 1),
    isGated,
    // the name that was given to another function before there were two
    denseActFn: isGated && act === "gelu" ? "gelu_new" : act,
    tieWordEmbeddings,
    // T5 1.1 neither ties nor scales; transformers 5 writes that it ties but does not scale; mT5 never does
    scaleDecoderOutputs: modelType !== "mt5" && config.flag("scale_decoder_outputs", tieWordEmbeddings),
    /** Whether every block has a bias for distances, or the first one's holds for all. */
    hasOwnBiases: modelType === "umt5",
    padTokenId: config.token("pad_token_id") ?? 0,
    decoderStartTokenId: config.token("decoder_start_token_id") ?? 0,
    /** Ends a text: where a classifier of texts looks. */
    eosTokenId: config.token("eos_token_id") ?? 1,
  };
}
