/**
 * ELECTRA: BERT whose words may have vectors of another size than its states, and which was trained to tell replaced words.
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

/** An ELECTRA, the generator, that gives logits of the words at every place. The output layer's weight is that of the word embeddings. */
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

/** An ELECTRA that puts texts into classes by the state of their first token. */
export const ElectraForSequenceClassification = textClassifier("ElectraForSequenceClassification", family, {
  parts: (config, init): { classifier: Layer } => ({ classifier: new RobertaClassificationHead(config, init, gelu) }),
  logits: ({ classifier }, states) => classifier.forward(firstToken(states)),
});

/** An ELECTRA that puts every token into a class. */
export const ElectraForTokenClassification = tokenClassifier("ElectraForTokenClassification", family, "classifier");

/** An ELECTRA that finds the answer to a question in a text. */
export const ElectraForQuestionAnswering = questionAnswerer("ElectraForQuestionAnswering", family);
