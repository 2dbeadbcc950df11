/** Output layers of DeBERTa v2. */
import { matmul } from "../graph/contraction.ts";
import { add } from "../graph/elementwise.ts";
import { transpose } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { activation } from "../nn/activation.ts";
import { Dropout } from "../nn/dropout.ts";
import type { Embedding } from "../nn/embedding.ts";
import { type Initializer, zeros } from "../nn/init.ts";
import { Linear } from "../nn/linear.ts";
import { group, type Layer, Module, Parameter } from "../nn/module.ts";
import { LayerNorm } from "../nn/norm.ts";
import { bertPredictions, predictWords } from "./bert.ts";
import type { Backbone } from "./causal-lm.ts";
import { readOnce } from "./config-reader.ts";
import { type DebertaV2Config, debertaV2Config } from "./deberta-v2-config.ts";
import { DebertaV2Model } from "./deberta-v2-model.ts";
import { firstToken } from "./encoder.ts";
import { type Family, questionAnswerer, textClassifier, tokenClassifier, tokenModel } from "./family.ts";

const dense = (into: number, out: number, init: Initializer): Layer => new Linear(into, out, { init, initBias: zeros });

const family: Family<"deberta", DebertaV2Config, DebertaV2Model> = {
  name: "deberta",
  read: (config) => readOnce(config, "posAttType", debertaV2Config),
  build: (config, init) => new DebertaV2Model(config, init),
  reader: (model) => model,
  std: ({ initializerRange }) => initializerRange,
  // checkpoints of the original training have parts of it that the model has no use for
  pathOf: (path, config) =>
    /^deberta\.mask_predictions\./.test(path) ||
    (config?.positionBiasedInput === false && path === "deberta.embeddings.position_embeddings.weight")
      ? null
      : path.replace(/^deberta\.(pooler|lm_predictions)\./, "$1."),
};

/** The output layer of the original DeBERTa: norm(act(dense(x))) · the weight of the word embeddings, with a bias of its own. */
export class DebertaV2LMHead extends Module {
  dense: Layer;
  readonly LayerNorm: LayerNorm;
  readonly bias: Parameter;
  readonly #words: Parameter;
  readonly #act: (x: Tensor) => Tensor;

  constructor(config: DebertaV2Config, init: Initializer, { wordEmbedding }: Backbone) {
    super();
    const { hiddenSize: C, vocabSize, layerNormEps: eps } = config;
    this.dense = dense(C, C, init);
    this.LayerNorm = new LayerNorm(C, { eps });
    this.bias = Parameter.from(zeros([vocabSize]), [vocabSize]);
    this.#words = (wordEmbedding as Embedding).weight;
    this.#act = activation(config.hiddenAct);
  }

  /** [B, T, C] → [B, T, V] */
  forward(x: Tensor): Tensor {
    const y = this.LayerNorm.forward(this.#act(this.dense.forward(x)));
    return add(matmul(y, transpose(this.#words.value)), this.bias.value);
  }
}

/** A DeBERTa v2 or v3 that predicts the word at every position. The output layer's weight is that of the word embeddings. */
export const DebertaV2ForMaskedLM = tokenModel("DebertaV2ForMaskedLM", family, {
  parts: (config, init, base) =>
    config.legacy
      ? { cls: group({ predictions: bertPredictions(config, init, base) }) }
      : { lm_predictions: group({ lm_head: new DebertaV2LMHead(config, init, base) }) },
  logits: (model, states) =>
    "cls" in model ? predictWords(model.config, model.cls.predictions, states) : model.lm_predictions.lm_head.forward(states),
});

/** A DeBERTa v2 or v3 that classifies texts by the state of their first token. */
export const DebertaV2ForSequenceClassification = textClassifier("DebertaV2ForSequenceClassification", family, {
  parts: ({ hiddenSize: C, numLabels, poolerDropout, clsDropout }, init) => ({
    pooler: group({ dense: dense(C, C, init), dropout: new Dropout(poolerDropout) }),
    classifier: dense(C, numLabels, init),
    dropout: new Dropout(clsDropout),
  }),
  logits: ({ config, pooler, classifier, dropout }, states) => {
    const pooled = pooler.dense.forward(pooler.dropout.forward(firstToken(states)));
    return classifier.forward(dropout.forward(activation(config.poolerHiddenAct)(pooled)));
  },
});

/** A DeBERTa v2 or v3 that classifies every token. */
export const DebertaV2ForTokenClassification = tokenClassifier("DebertaV2ForTokenClassification", family, "classifier");

/** A DeBERTa v2 or v3 that extracts the answer to a question from a text. */
export const DebertaV2ForQuestionAnswering = questionAnswerer("DebertaV2ForQuestionAnswering", family);
