/**
 * RoBERTa: BERT whose positions start after the padding token's id, with other heads and without a pooler. XLM-RoBERTa and CamemBERT are
 * RoBERTas trained on other texts.
 * @see https://arxiv.org/abs/1907.11692
 */
import { tanh } from "../graph/elementwise.ts";
import type { Tensor } from "../graph/node.ts";
import { activation } from "../nn/activation.ts";
import { Dropout } from "../nn/dropout.ts";
import { type Initializer, zeros } from "../nn/init.ts";
import { Linear } from "../nn/linear.ts";
import { group, type Layer, Module } from "../nn/module.ts";
import { LayerNorm } from "../nn/norm.ts";
import { type BertConfig, type BertModel, type BertVariant, bertFamily, tiedDecoder } from "./bert.ts";
import { firstToken } from "./encoder.ts";
import { type Family, questionAnswerer, textClassifier, tokenClassifier, tokenModel } from "./family.ts";

const family = (modelType: string): Family<"roberta", BertConfig, BertModel> => {
  const variant: BertVariant = { modelType, defaults: { pad_token_id: 1 }, positionsAfterPadding: true };
  return bertFamily("roberta", { variant });
};

/** out(act(dense(x))), with dropout before both. */
export class RobertaClassificationHead extends Module {
  dense: Layer;
  readonly dropout: Dropout;
  out_proj: Layer;
  readonly #act: (x: Tensor) => Tensor;

  constructor(
    { hiddenSize: C, classifierDropout, numLabels }: Pick<BertConfig, "hiddenSize" | "classifierDropout" | "numLabels">,
    init: Initializer,
    act = tanh,
  ) {
    super();
    this.#act = act;
    this.dense = new Linear(C, C, { init, initBias: zeros });
    this.dropout = new Dropout(classifierDropout);
    this.out_proj = new Linear(C, numLabels, { init, initBias: zeros });
  }

  /** [B, C] → [B, classes] */
  forward(x: Tensor): Tensor {
    const y = this.#act(this.dense.forward(this.dropout.forward(x)));
    return this.out_proj.forward(this.dropout.forward(y));
  }
}

/** A class of models that predict the word at every position. The output layer's weight is that of the word embeddings. */
export const robertaMaskedLM = <Name extends string, Base extends Module>(name: string, of: Family<Name, BertConfig, Base>) =>
  tokenModel(name, of, {
    parts: (config, init, base) => {
      const { hiddenSize: C, layerNormEps: eps } = config;
      const dense: Layer = new Linear(C, C, { init, initBias: zeros });
      const { bias, decoder } = tiedDecoder(config, of.reader(base));
      return { lm_head: group({ bias, dense, layer_norm: new LayerNorm(C, { eps }), decoder }) };
    },
    logits: ({ lm_head: { dense, layer_norm, decoder } }, states) =>
      decoder.forward(layer_norm.forward(activation("gelu")(dense.forward(states)))),
  });

/** A class of models that classify texts by the state of their first token. */
export const robertaClassifier = <Name extends string, Base extends Module>(name: string, of: Family<Name, BertConfig, Base>) =>
  textClassifier(name, of, {
    parts: (config, init): { classifier: Layer } => ({ classifier: new RobertaClassificationHead(config, init) }),
    logits: ({ classifier: output }, states) => output.forward(firstToken(states)),
  });

const roberta = family("roberta");
/** A RoBERTa that predicts the word at every position. The output layer's weight is that of the word embeddings. */
export const RobertaForMaskedLM = robertaMaskedLM("RobertaForMaskedLM", roberta);
/** A RoBERTa that classifies texts by the state of their first token. */
export const RobertaForSequenceClassification = robertaClassifier("RobertaForSequenceClassification", roberta);
/** A RoBERTa that classifies every token. */
export const RobertaForTokenClassification = tokenClassifier("RobertaForTokenClassification", roberta, "classifier");
/** A RoBERTa that extracts the answer to a question from a text. */
export const RobertaForQuestionAnswering = questionAnswerer("RobertaForQuestionAnswering", roberta);

const xlmRoberta = family("xlm-roberta");
/** A RoBERTa of a hundred languages that predicts the word at every position. @see https://arxiv.org/abs/1911.02116 */
export const XLMRobertaForMaskedLM = robertaMaskedLM("XLMRobertaForMaskedLM", xlmRoberta);
/** A RoBERTa of a hundred languages that classifies texts by the state of their first token. */
export const XLMRobertaForSequenceClassification = robertaClassifier("XLMRobertaForSequenceClassification", xlmRoberta);
/** A RoBERTa of a hundred languages that classifies every token. */
export const XLMRobertaForTokenClassification = tokenClassifier("XLMRobertaForTokenClassification", xlmRoberta, "classifier");
/** A RoBERTa of a hundred languages that extracts the answer to a question from a text. */
export const XLMRobertaForQuestionAnswering = questionAnswerer("XLMRobertaForQuestionAnswering", xlmRoberta);

const camembert = family("camembert");
/** A French RoBERTa that predicts the word at every position. @see https://arxiv.org/abs/1911.03894 */
export const CamembertForMaskedLM = robertaMaskedLM("CamembertForMaskedLM", camembert);
/** A French RoBERTa that classifies texts by the state of their first token. */
export const CamembertForSequenceClassification = robertaClassifier("CamembertForSequenceClassification", camembert);
/** A French RoBERTa that classifies every token. */
export const CamembertForTokenClassification = tokenClassifier("CamembertForTokenClassification", camembert, "classifier");
/** A French RoBERTa that extracts the answer to a question from a text. */
export const CamembertForQuestionAnswering = questionAnswerer("CamembertForQuestionAnswering", camembert);
