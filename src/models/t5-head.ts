/** T5, mT5 and umT5 with output layers for classes and answers, and their encoders alone, which embeddings of texts are made with. */
import { checkOptions, requireKind } from "../errors.ts";
import type { Tensor } from "../graph/node.ts";
import { type Initializer, zeros } from "../nn/init.ts";
import { Linear } from "../nn/linear.ts";
import { type Layer, Module } from "../nn/module.ts";
import { checkTextInputs } from "./causal-lm.ts";
import type { CheckpointNames } from "./checkpoint-name.ts";
import { type ConfigJson, readOnce } from "./config-reader.ts";
import { refuseInputs } from "./encoder.ts";
import { type Family, type Reader, tokenClassifier } from "./family.ts";
import { endClassifier, knowing, rewritten } from "./seq2seq-head.ts";
import { shiftRight } from "./seq2seq-lm.ts";
import { t5Draw, t5Encoder, t5Model, t5Path, t5Sizes, t5States, t5Written } from "./t5.ts";
import { type T5Config, type T5Type, t5Config, t5EncoderConfig } from "./t5-config.ts";
import { type QuestionAnswerer, type QuestionInputs, type QuestionOutput, questionOutput } from "./task.ts";

type T5Model = Pick<ReturnType<typeof t5Model>, "shared" | "encoder" | "decoder">;

const t5Reader = (model: T5Model, config: T5Config): Reader =>
  rewritten({
    sizes: t5Sizes(config, "decoder"),
    readerSizes: t5Sizes(config, "encoder"),
    wordEmbedding: model.shared,
    read: (inputs) => t5States(model.encoder, inputs).at(-1) as Tensor,
    remember: (states) => model.decoder.remember(states),
    shift: (words) => shiftRight(words, config.decoderStartTokenId, config.padTokenId),
    write: (written, memories, memoryMask) => t5Written(model.decoder, written, memories, memoryMask).hiddenStates,
  });

const headStd = ({ initializerFactor, dModel }: T5Config): number => initializerFactor / Math.sqrt(dModel);

const whole = (modelType: T5Type): Family<"transformer", T5Config, Module> => ({
  name: "transformer",
  read: (config) => readOnce(config, "dModel", (json) => t5Config(json, modelType)),
  std: headStd,
  build: (config, init) => knowing(t5Model(config, init), config),
  pathOf: t5Path,
  reader: (base) => t5Reader(base as Module & T5Model, (base as Module & { readonly config: T5Config }).config),
});

type T5EncoderModel = ReturnType<typeof t5Encoder> & { readonly config: T5Config };

const encoder = (modelType: T5Type, nameAlone: string): Family<"transformer", T5Config, Module> => ({
  name: "transformer",
  nameAlone,
  read: (config) => readOnce(config, "dModel", (json) => t5EncoderConfig(json, modelType)),
  std: ({ initializerFactor }) => initializerFactor,
  build: (config, init) => knowing(t5Encoder(config, init), config),
  // a checkpoint of the whole has one, for which there is no use here
  pathOf: (name) => (/^(transformer\.)?decoder\./.test(name) ? null : name),
  reader(base) {
    const { config, shared, encoder: stack } = base as T5EncoderModel;
    const sizes = t5Sizes(config, "encoder");
    return {
      sizes,
      wordEmbedding: shared,
      forward(inputs) {
        refuseInputs(modelType, inputs, ["tokenTypeIds", "past"]);
        checkTextInputs(sizes, inputs);
        const hiddenStates = t5States(stack, inputs);
        return { lastHiddenState: hiddenStates.at(-1) as Tensor, hiddenStates };
      },
    };
  },
});

/** A T5 that classifies texts by the state of the token that ends them. */
export const T5ForSequenceClassification = endClassifier("T5ForSequenceClassification", whole("t5"));

/** An mT5 that classifies texts by the state of the token that ends them. */
export const MT5ForSequenceClassification = endClassifier("MT5ForSequenceClassification", whole("mt5"));

/** A umT5 that classifies texts by the state of the token that ends them. */
export const UMT5ForSequenceClassification = endClassifier("UMT5ForSequenceClassification", whole("umt5"));

/** The encoder of a T5 that classifies tokens. */
export const T5ForTokenClassification = tokenClassifier(
  "T5ForTokenClassification",
  encoder("t5", "T5EncoderModel"),
  "classifier",
);

/** The encoder of an mT5 that classifies tokens. */
export const MT5ForTokenClassification = tokenClassifier(
  "MT5ForTokenClassification",
  encoder("mt5", "MT5EncoderModel"),
  "classifier",
);

/** The encoder of a umT5 that classifies tokens. */
export const UMT5ForTokenClassification = tokenClassifier(
  "UMT5ForTokenClassification",
  encoder("umt5", "UMT5EncoderModel"),
  "classifier",
);

/**
 * A T5 that extracts the answer to a question from a text.
 *
 * @throws {ConfigError} (constructor) for a missing key of `config` and for values that are not supported
 */
export class T5ForQuestionAnswering extends Module implements QuestionAnswerer, CheckpointNames {
  static readonly modelType: T5Type = "t5";
  static readonly std = headStd;
  shared: Layer;
  readonly encoder: T5Model["encoder"];
  readonly decoder: T5Model["decoder"];
  qa_outputs: Layer;
  readonly config: T5Config;

  constructor(config: T5Config | ConfigJson, options: { readonly init?: Initializer } = {}) {
    super();
    const { init } = checkOptions(new.target.name, options, { init: "a function" });
    const { modelType } = new.target;
    this.config = readOnce(config, "dModel", (json) => t5Config(json, modelType));
    const { dModel } = this.config;
    const { shared, encoder, decoder } = t5Model(this.config, init);
    this.shared = shared;
    this.encoder = encoder;
    this.decoder = decoder;
    this.qa_outputs = new Linear(dModel, 2, { init: t5Draw(this.config, init)(dModel), initBias: zeros });
  }

  get backbone(): Reader {
    return t5Reader(this, this.config);
  }

  forward(inputs: QuestionInputs): QuestionOutput {
    requireKind(this.constructor.name, "an object", { inputs });
    const { startPositions, endPositions, ...read } = inputs;
    const { lastHiddenState, hiddenStates } = this.backbone.forward(read);
    const positions = { ...(startPositions && { startPositions }), ...(endPositions && { endPositions }) };
    return questionOutput(this.qa_outputs.forward(lastHiddenState), positions, hiddenStates);
  }

  pathOf(name: string): string | null {
    return t5Path(name);
  }
}

/** An mT5 that extracts the answer to a question from a text. */
export class MT5ForQuestionAnswering extends T5ForQuestionAnswering {
  static override readonly modelType = "mt5";
}

/** A umT5 that extracts the answer to a question from a text. */
export class UMT5ForQuestionAnswering extends T5ForQuestionAnswering {
  static override readonly modelType = "umt5";
}
