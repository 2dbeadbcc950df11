/** BART and mBART with output layers for classes and answers. */
import { normal } from "../nn/init.ts";
import type { Module } from "../nn/module.ts";
import { bartModel, bartPath, bartRead, bartShift, bartSizes } from "./bart.ts";
import { type BartConfig, type BartType, bartConfig } from "./bart-config.ts";
import { positionsAfter, textShape } from "./causal-lm.ts";
import { readOnce } from "./config-reader.ts";
import { beginPass } from "./decoder.ts";
import { type Family, questionAnswerer } from "./family.ts";
import { endClassifier, knowing, rewritten } from "./seq2seq-head.ts";

type BartModel = ReturnType<typeof bartModel> & { readonly config: BartConfig };

const family = (modelType: BartType): Family<"model", BartConfig, Module> => ({
  name: "model",
  read: (config) => readOnce(config, "normsInFront", (json) => bartConfig(json, modelType)),
  std: ({ initStd }) => initStd,
  build: (config, init = normal({ std: config.initStd })) => knowing(bartModel(config, init), config),
  pathOf: bartPath,
  reader(base) {
    const model = base as BartModel;
    const { config, decoder } = model;
    return rewritten({
      sizes: bartSizes(config, "decoder"),
      readerSizes: bartSizes(config, "encoder"),
      wordEmbedding: model.shared,
      read: (inputs) => bartRead(model, inputs),
      remember: (states) => decoder.remember(states),
      shift: (words) => bartShift(config, words),
      write(written, memories, memoryMask) {
        const pass = beginPass(written, config.maxPositionEmbeddings);
        return decoder.forward(written, { ...pass, positions: positionsAfter(0, textShape(written)[1]), memories, memoryMask });
      },
    });
  },
});

const [bart, mbart] = [family("bart"), family("mbart")];

/** A BART that classifies texts by the state of the token that ends them. */
export const BartForSequenceClassification = endClassifier("BartForSequenceClassification", bart);

/** A BART that extracts the answer to a question from a text. */
export const BartForQuestionAnswering = questionAnswerer("BartForQuestionAnswering", bart);

/** An mBART that classifies texts by the state of the token that ends them. */
export const MBartForSequenceClassification = endClassifier("MBartForSequenceClassification", mbart);

/** An mBART that extracts the answer to a question from a text. */
export const MBartForQuestionAnswering = questionAnswerer("MBartForQuestionAnswering", mbart);
