/** BART and mBART with output layers for classes and answers: a text is read, written once more, and the written states are judged. */
import { ConfigError } from "../errors.ts";
import { equal, where } from "../graph/elementwise.ts";
import { reshape } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { reduceMax, reduceSum } from "../graph/reduction.ts";
import { constant, iota, number } from "../graph/source.ts";
import { normal } from "../nn/init.ts";
import type { Layer, Module } from "../nn/module.ts";
import { bartModel, bartPath, bartRead, bartShift, bartSizes } from "./bart.ts";
import { type BartConfig, type BartType, bartConfig } from "./bart-config.ts";
import { checkTextInputs, positionsAfter, textShape } from "./causal-lm.ts";
import { readOnce } from "./config-reader.ts";
import { beginPass } from "./decoder.ts";
import type { EncoderInputs } from "./encoder.ts";
import { type Family, questionAnswerer, textClassifier } from "./family.ts";
import { RobertaClassificationHead } from "./roberta.ts";

type BartModel = ReturnType<typeof bartModel> & { readonly config: BartConfig };

const family = (modelType: BartType): Family<"model", BartConfig, Module> => ({
  name: "model",
  read: (config) => readOnce(config, "normsInFront", (json) => bartConfig(json, modelType)),
  std: ({ initStd }) => initStd,
  build: (config, init = normal({ std: config.initStd })) =>
    Object.defineProperty(bartModel(config, init), "config", { value: config, configurable: true }),
  pathOf: bartPath,
  reader: (base) => ({
    sizes: bartSizes((base as BartModel).config, "decoder"),
    wordEmbedding: (base as BartModel).shared,
    forward({ inputIds, attentionMask, past }) {
      const model = base as BartModel;
      const { config, decoder } = model;
      if (!inputIds || past)
        throw new ConfigError("a text goes in as `inputIds`, since it is written once more, and without `past`.", {
          operation: modelType,
        });
      const read = { inputIds, ...(attentionMask && { attentionMask }) };
      checkTextInputs(bartSizes(config, "encoder"), read);
      const memories = decoder.remember(bartRead(model, read));
      const written = { inputIds: bartShift(config, inputIds) };
      const positions = positionsAfter(0, textShape(written)[1]);
      const pass = beginPass(written, config.maxPositionEmbeddings);
      const hiddenStates = decoder.forward(written, { ...pass, positions, memories, memoryMask: attentionMask });
      return { lastHiddenState: hiddenStates.at(-1) as Tensor, hiddenStates };
    },
  }),
});

/** The state of each text's last token that ends one: [B, T, C] → [B, C]. */
function lastEnd(states: Tensor, { inputIds }: EncoderInputs, end: number): Tensor {
  const [B, T, C] = states.shape as [number, number, number];
  const ids = inputIds as Tensor;
  const at = reshape(iota([T]), [1, T]);
  const last = reduceMax(where(equal(ids, number(ids, end)), at, constant(0, [], "int32")), [1]);
  return reshape(reduceSum(where(reshape(equal(at, last), [B, T, 1]), states, number(states, 0)), [1]), [B, C]);
}

const classifier = (name: string, of: Family<"model", BartConfig, Module>) =>
  textClassifier(name, of, {
    parts: (config, init): { classification_head: Layer } => ({
      classification_head: new RobertaClassificationHead({ ...config, hiddenSize: config.dModel }, init),
    }),
    logits: ({ classification_head: head, config }, states, inputs) => head.forward(lastEnd(states, inputs, config.eosTokenId)),
  });

const [bart, mbart] = [family("bart"), family("mbart")];

/** A BART that classifies texts by the state of the token that ends them. */
export const BartForSequenceClassification = classifier("BartForSequenceClassification", bart);

/** A BART that extracts the answer to a question from a text. */
export const BartForQuestionAnswering = questionAnswerer("BartForQuestionAnswering", bart);

/** An mBART that classifies texts by the state of the token that ends them. */
export const MBartForSequenceClassification = classifier("MBartForSequenceClassification", mbart);

/** An mBART that extracts the answer to a question from a text. */
export const MBartForQuestionAnswering = questionAnswerer("MBartForQuestionAnswering", mbart);
