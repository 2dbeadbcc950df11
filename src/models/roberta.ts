/**
 * RoBERTa: BERT whose positions begin after the padding token's number, with other output layers and without a pooler.
 * @see https://arxiv.org/abs/1907.11692
 */
import { tanh } from "../graph/elementwise.ts";
import type { Tensor } from "../graph/node.ts";
import { Dropout } from "../nn/dropout.ts";
import { type Initializer, zeros } from "../nn/init.ts";
import { Linear } from "../nn/linear.ts";
import { type Layer, Module } from "../nn/module.ts";
import { type BertConfig, BertModel, type BertVariant, start } from "./bert.ts";
import type { CheckpointNames } from "./checkpoint-name.ts";
import { type ClassifierOutput, classifierLoss } from "./classifier.ts";
import type { ConfigJson } from "./config-reader.ts";
import { firstToken } from "./encoder.ts";
import type { SequenceClassifier, SequenceInputs } from "./task.ts";

const roberta: BertVariant = { modelType: "roberta", defaults: { pad_token_id: 1 }, positionsAfterPadding: true };

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

/**
 * A RoBERTa that puts texts into classes by the state of their first token.
 *
 * @throws {ConfigError} (constructor) for a missing key of `config` and for values that are not supported
 */
export class RobertaForSequenceClassification extends Module implements SequenceClassifier, CheckpointNames {
  readonly roberta: BertModel;
  classifier: Layer;
  readonly config: BertConfig;

  constructor(config: BertConfig | ConfigJson, options: { readonly init?: Initializer } = {}) {
    super();
    const { known, init } = start(config, options, roberta);
    this.config = known;
    this.roberta = new BertModel(known, init, { pooler: false });
    this.classifier = new RobertaClassificationHead(known, init);
  }

  get backbone(): BertModel {
    return this.roberta;
  }

  /** @throws {ShapeError} for sizes that do not fit */
  forward({ labels, ...inputs }: SequenceInputs): ClassifierOutput {
    const { lastHiddenState, hiddenStates } = this.roberta.forward(inputs);
    const logits = this.classifier.forward(firstToken(lastHiddenState)); // [B, classes]
    return { logits, hiddenStates, ...(labels ? { loss: classifierLoss(logits, labels, this.config.problemType) } : {}) };
  }

  pathOf(name: string): string | null {
    return name.startsWith("roberta.pooler.") ? null : name;
  }
}
