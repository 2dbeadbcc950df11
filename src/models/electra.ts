/**
 * ELECTRA: BERT trained to detect replaced words; its word vectors may be smaller than its states.
 * @see https://arxiv.org/abs/2003.10555
 */
import { activation } from "../nn/activation.ts";
import { zeros } from "../nn/init.ts";
import { Linear } from "../nn/linear.ts";
import { group, type Layer } from "../nn/module.ts";
import { LayerNorm } from "../nn/norm.ts";
import { type BertVariant, bertFamily } from "./bert.ts";
import { tied } from "./causal-lm.ts";
import { firstToken } from "./encoder.ts";
import { questionAnswerer, textClassifier, tokenClassifier, tokenModel } from "./family.ts";
import { RobertaClassificationHead } from "./roberta.ts";

const variant: BertVariant = {
  modelType: "electra",
  defaults: { pad_token_id: 0, embedding_size: 128 },
  positionsAfterPadding: false,
};
/** The discriminator's own output layer, which tells replaced words, is not read. */
const family = bertFamily("electra", {
  variant,
  pooler: false,
  pathOf: (path) =>
    path.startsWith("electra.discriminator_predictions.") ? null : path.replace(/^electra\.(generator_\w+\.)/, "$1"),
});
const gelu = activation("gelu");

/** An ELECTRA, the generator, that predicts the word at every position. The output layer's weight is that of the word embeddings. */
export const ElectraForMaskedLM = tokenModel("ElectraForMaskedLM", family, {
  parts: (config, init, base) => {
    const { hiddenSize, embeddingSize, vocabSize, layerNormEps: eps } = config;
    const dense: Layer = new Linear(hiddenSize, embeddingSize, { init, initBias: zeros });
    const generator_lm_head: Layer = new Linear(embeddingSize, vocabSize, { init, initBias: zeros, ...tied(config, base) });
    return { generator_predictions: group({ LayerNorm: new LayerNorm(embeddingSize, { eps }), dense }), generator_lm_head };
  },
  logits: ({ generator_predictions: { dense, LayerNorm: norm }, generator_lm_head }, states) =>
    generator_lm_head.forward(norm.forward(gelu(dense.forward(states)))),
});

/** An ELECTRA that classifies texts by the state of their first token. */
export const ElectraForSequenceClassification = textClassifier("ElectraForSequenceClassification", family, {
  parts: (config, init): { classifier: Layer } => ({ classifier: new RobertaClassificationHead(config, init, gelu) }),
  logits: ({ classifier }, states) => classifier.forward(firstToken(states)),
});

/** An ELECTRA that classifies every token. */
export const ElectraForTokenClassification = tokenClassifier("ElectraForTokenClassification", family, "classifier");

/** An ELECTRA that extracts the answer to a question from a text. */
export const ElectraForQuestionAnswering = questionAnswerer("ElectraForQuestionAnswering", family);
