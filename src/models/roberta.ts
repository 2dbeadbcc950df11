/**
 * RoBERTa: BERT whose positions begin after the padding token's number, with other output layers and without a pooler.
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
import { type BertConfig, type BertVariant, bertFamily, tiedDecoder } from "./bert.ts";
import { firstToken } from "./encoder.ts";
import { textClassifier, tokenClassifier, tokenModel } from "./family.ts";

const variant: BertVariant = { modelType: "roberta", defaults: { pad_token_id: 1 }, positionsAfterPadding: true };
const family = bertFamily("roberta", { variant });

/** out(tanh(dense(x))), with dropout before both. */
class RobertaClassificationHead extends Module {
  dense: Layer;
  readonly dropout: Dropout;
  out_proj: Layer;

  constructor({ hiddenSize: C, classifierDropout, numLabels }: BertConfig, init: Initializer) {
    super();
    this.dense = new Linear(C, C, { init, initBias: zeros });
    this.dropout = new Dropout(classifierDropout);
    this.out_proj = new Linear(C, numLabels, { init, initBias: zeros });
  }

  /** [B, C] → [B, classes] */
  forward(x: Tensor): Tensor {
    const y = tanh(this.dense.forward(this.dropout.forward(x)));
    return this.out_proj.forward(this.dropout.forward(y));
  }
}

/** A RoBERTa that gives logits of the words at every place. The output layer's weight is that of the word embeddings. */
export const RobertaForMaskedLM = tokenModel("RobertaForMaskedLM", family, {
  parts: (config, init, base) => {
    const { hiddenSize: C, layerNormEps: eps } = config;
    const dense: Layer = new Linear(C, C, { init, initBias: zeros });
    const { bias, decoder } = tiedDecoder(config, base);
    return { lm_head: group({ bias, dense, layer_norm: new LayerNorm(C, { eps }), decoder }) };
  },
  logits: ({ lm_head: { dense, layer_norm, decoder } }, states) =>
    decoder.forward(layer_norm.forward(activation("gelu")(dense.forward(states)))),
});

/** A RoBERTa that puts texts into classes by the state of their first token. */
export const RobertaForSequenceClassification = textClassifier("RobertaForSequenceClassification", family, {
  parts: (config, init): { classifier: Layer } => ({ classifier: new RobertaClassificationHead(config, init) }),
  logits: ({ classifier }, states) => classifier.forward(firstToken(states)),
});

/** A RoBERTa that puts every token into a class. */
export const RobertaForTokenClassification = tokenClassifier("RobertaForTokenClassification", family, "classifier");
