/** The settings of a `config.json` that decide how a BART computes. */
import { requireOption } from "../errors.ts";
import { type ConfigJson, ConfigReader } from "./config-reader.ts";

/** The settings of a `config.json` that affect the computation, in camelCase. */
export type BartConfig = ReturnType<typeof bartConfig>;

/** BART, and that of many languages. */
export type BartType = "bart" | "mbart";

/** @throws {ConfigError} for a missing key and for a value that is not supported, by name */
export function bartConfig(json: ConfigJson, modelType: BartType = "bart") {
  requireOption("bart", ["bart", "mbart"], "modelType", modelType);
  const isMany = modelType === "mbart";
  const config = new ConfigReader(json, modelType, { pad_token_id: 1, ...(isMany ? {} : { decoder_start_token_id: 2 }) });
  config.fixed("is_encoder_decoder", true);
  const [padTokenId, decoderStartTokenId] = [config.token("pad_token_id"), config.token("decoder_start_token_id")];
  if (padTokenId === null) config.refuse("pad_token_id", null, "must be given");
  if (decoderStartTokenId === null) config.refuse("decoder_start_token_id", null, "must be given: answers begin with it");
  const side = (name: "encoder" | "decoder") => {
    config.fixed(`${name}_layerdrop`, 0);
    config.headSize("d_model", `${name}_attention_heads`);
    return {
      layers: config.layers(`${name}_layers`),
      heads: config.count(`${name}_attention_heads`),
      ffnDim: config.count(`${name}_ffn_dim`),
    };
  };
  return {
    ...config.labels(0),
    modelType,
    vocabSize: config.count("vocab_size"),
    dModel: config.count("d_model"),
    encoder: side("encoder"),
    decoder: side("decoder"),
    maxPositionEmbeddings: config.count("max_position_embeddings", 1024),
    activationFunction: config.activation("activation_function", "gelu"),
    dropout: config.probability("dropout", 0.1),
    attentionDropout: config.probability("attention_dropout", 0),
    activationDropout: config.probability("activation_dropout", 0),
    initStd: config.number("init_std", 0.02),
    scaleEmbedding: config.flag("scale_embedding", false),
    tieWordEmbeddings: config.flag("tie_word_embeddings", true),
    /** Whether norms stand before the parts of a block, and one behind the last block. */
    normsInFront: isMany,
    /** Whether what goes in to get labels out begins with their last token, a language or the end, and not with the start token. */
    startsWithLast: isMany,
    padTokenId: padTokenId as number,
    decoderStartTokenId: decoderStartTokenId as number,
    /** Ends a text: where a classifier of texts looks. */
    eosTokenId: config.token("eos_token_id") ?? 2,
  };
}
