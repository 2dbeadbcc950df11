/**
 * Models as a base that reads text plus an output layer (head). A family says what its base is called and how it is built; each kind of
 * head is written once for all families.
 */
import { checkOptions, requireKind } from "../errors.ts";
import { add } from "../graph/elementwise.ts";
import type { Tensor } from "../graph/node.ts";
import type { Shape } from "../graph/shape.ts";
import { constant } from "../graph/source.ts";
import { Dropout } from "../nn/dropout.ts";
import { type Initializer, normal, zeros } from "../nn/init.ts";
import { Linear } from "../nn/linear.ts";
import { type Layer, Module } from "../nn/module.ts";
import { type Backbone, pastLength, positionsAfter, textShape } from "./causal-lm.ts";
import { type CheckpointNames, type NamedPart, pathBy } from "./checkpoint-name.ts";
import { type ClassifierOutput, classifierLoss, lastToken } from "./classifier.ts";
import type { ConfigJson, LabelConfig } from "./config-reader.ts";
import type { EncoderInputs, EncoderStates } from "./encoder.ts";
import {
  type QuestionAnswerer,
  type QuestionInputs,
  type QuestionOutput,
  questionOutput,
  type SequenceClassifier,
  type SequenceInputs,
  type TokenClassifier,
  type TokenInputs,
  type TokenOutput,
  tokenOutput,
} from "./task.ts";

/** A model without an output layer. */
export interface Reader extends Backbone {
  forward(inputs: EncoderInputs): EncoderStates;
}

/** What heads need to know of a family of models. */
export interface Family<Name extends string, Config, Base extends Module> extends NamedPart {
  readonly name: Name;
  /** @throws {ConfigError} for a missing key and for a value that is not supported, by name */
  read(config: Config | ConfigJson): Config;
  /** Builds the base. @param init first values of all matrices, the family's own when absent */
  build(config: Config, init?: Initializer): Base;
  /** The part of the base that reads the text. */
  reader(base: Base): Reader;
  /** The path of the parameter that a checkpoint calls `name`, where they differ; `null` for one that is skipped. */
  pathOf?(name: string, config?: Config): string | null;
  /** The family without a head, where its base then has parts (a pooler) that some heads do without. */
  alone?(): Family<Name, Config, Base>;
  /** What transformers calls the model without a head, where that is not a head's name with `Model` in place of what it is for. */
  readonly nameAlone?: string;
  /** Standard deviation of the first values of an output layer's matrices, or of the one at this path. */
  std(config: Config, path?: string): number;
}

/** A base with a head made of `Parts`. */
export type Headed<Name extends string, Config, Base, Parts> = Module &
  CheckpointNames & { readonly [K in Name]: Base } & Parts & { readonly config: Config; readonly backbone: Reader };

/** A head: an output layer and what belongs to it. */
export interface Head<Name extends string, Config, Base, Parts> {
  /** Its modules, by their names in checkpoints. */
  parts(config: Config, init: Initializer, base: Base): Parts;
  /** [B, T, C] → logits. @param inputs of the base */
  logits(model: Headed<Name, Config, Base, Parts>, states: Tensor, inputs: EncoderInputs): Tensor;
}

/** A class of models. @throws {ConfigError} for a missing key of `config` and for values that are not supported */
export type ClassOf<Model, Config> = (new (
  config: Config | ConfigJson,
  options?: { readonly init?: Initializer },
) => Model) & { readonly family: AnyFamily };

/** Any family. */
// biome-ignore lint/suspicious/noExplicitAny: the types of its parts are the family's own
export type AnyFamily = Family<string, any, any>;

/** Standard deviation of a new output layer's first values, as transformers draws them. @param path of one of its matrices */
export function outputStd(model: Module, path: string, json: ConfigJson): number {
  const { family, std = family?.std } = model.constructor as Partial<Pick<AnyFamily, "std"> & { readonly family: AnyFamily }>;
  const { config } = model as Module & { readonly config?: unknown };
  if (std && config) return std(config, path);
  const { initializer_range: usual } = json;
  return typeof usual === "number" ? usual : 0.02;
}

/** What every class of a family begins with: its config and base, and the first values of what comes after them. */
export function beginWithBase<Name extends string, Config, Base extends Module>(
  model: Module,
  family: Family<Name, Config, Base>,
  given: Config | ConfigJson,
  options: { readonly init?: Initializer },
): { readonly config: Config; readonly base: Base; readonly init: Initializer } {
  const { init } = checkOptions(model.constructor.name, options, { init: "a function" });
  const config = family.read(given);
  const base = family.build(config, init);
  Object.assign(model, { config, [family.name]: base });
  return { config, base, init: init ?? normal({ std: family.std(config) }) };
}

function headed<Name extends string, Config, Base extends Module, Parts extends object, Inputs, Output>(
  name: string,
  family: Family<Name, Config, Base>,
  head: Head<Name, Config, Base, Parts>,
  run: (model: Headed<Name, Config, Base, Parts>, inputs: Inputs) => Output,
): ClassOf<Headed<Name, Config, Base, Parts> & { forward(inputs: Inputs): Output }, Config> {
  type Self = Headed<Name, Config, Base, Parts>;
  // the names of the parts are data, so that the type system cannot find them in the class
  const self = (model: Module): Self => model as Self;
  class WithHead extends Module implements CheckpointNames {
    static readonly family = family;
    declare readonly config: Config;

    constructor(given: Config | ConfigJson, options: { readonly init?: Initializer } = {}) {
      super();
      const { config, base, init } = beginWithBase(this, family, given, options);
      Object.assign(this, head.parts(config, init, base));
    }

    get backbone(): Reader {
      return family.reader(self(this)[family.name]);
    }

    forward(inputs: Inputs): Output {
      requireKind(name, "an object", { inputs });
      return run(self(this), inputs);
    }

    pathOf(name: string): string | null {
      return pathBy(family, name, this.config);
    }

    nameOf(path: string): string {
      return family.nameOf?.(path) ?? path;
    }

    partsOf(path: string, shape: Shape): readonly string[] | undefined {
      return family.partsOf?.(path, shape);
    }
  }
  const made: ClassOf<Module, Config> = Object.defineProperty(WithHead, "name", { value: name });
  return made as ClassOf<Self & { forward(inputs: Inputs): Output }, Config>;
}

/** Size of the states that a head reads. */
const stateWidth = ({ sizes: { width, stateWidth: own = width } }: Backbone): number => own;

/** A class of models that classify whole texts. */
export const textClassifier = <
  Name extends string,
  Config extends Omit<LabelConfig, "classifierDropout">,
  Base extends Module,
  Parts extends object,
>(
  name: string,
  family: Family<Name, Config, Base>,
  head: Head<Name, Config, Base, Parts>,
): ClassOf<Headed<Name, Config, Base, Parts> & SequenceClassifier, Config> =>
  headed(name, family, head, (model, { labels, ...inputs }: SequenceInputs): ClassifierOutput => {
    const { lastHiddenState, hiddenStates } = model.backbone.forward(inputs);
    const logits = head.logits(model, lastHiddenState, inputs); // [B, classes]
    return { logits, hiddenStates, ...(labels ? { loss: classifierLoss(logits, labels, model.config.problemType) } : {}) };
  });

/** A class of models with logits for every token: of classes, or of words. */
export const tokenModel = <Name extends string, Config, Base extends Module, Parts extends object>(
  name: string,
  family: Family<Name, Config, Base>,
  head: Head<Name, Config, Base, Parts>,
): ClassOf<Headed<Name, Config, Base, Parts> & TokenClassifier, Config> =>
  headed(name, family, head, (model, inputs: TokenInputs): TokenOutput => {
    const { lastHiddenState, hiddenStates } = model.backbone.forward(inputs);
    return tokenOutput(head.logits(model, lastHiddenState, inputs), inputs.labels, hiddenStates);
  });

/**
 * A class of causal models that classify texts by the state of their last token that is not `pad_token_id`. Batches of several texts
 * need that id.
 */
export const sequenceClassifier = <Name extends string, Config extends LabelConfig, Base extends Module>(
  name: string,
  family: Family<Name, Config, Base>,
) =>
  textClassifier(name, family, {
    parts: ({ numLabels }, init, base): { score: Layer } => ({
      score: new Linear(stateWidth(family.reader(base)), numLabels, { bias: false, init }),
    }),
    logits: ({ score, backbone, config }, states, inputs) =>
      score.forward(lastToken(backbone.sizes.modelType, states, inputs, config.padTokenId)),
  });

/** A class of models that classify every token. @param output what the output layer is called */
export const tokenClassifier = <Name extends string, Config extends LabelConfig, Base extends Module, Output extends string>(
  name: string,
  family: Family<Name, Config, Base>,
  output: Output,
) =>
  tokenModel(name, family, {
    parts: ({ numLabels, classifierDropout }, init, base) => {
      const layer: Layer = new Linear(stateWidth(family.reader(base)), numLabels, { init, initBias: zeros });
      return { dropout: new Dropout(classifierDropout), [output]: layer } as { readonly dropout: Dropout } & {
        [K in Output]: Layer;
      };
    },
    logits: (model, states) => (model as { readonly [K in Output]: Layer })[output].forward(model.dropout.forward(states)),
  });

/**
 * A class of models that extract the answer to a question from a text, with any head that gives two logits for each token.
 *
 * @param options.countsPadding whether padding gets positions like tokens when none are given, because its places are scored too
 */
export const questionModel = <Name extends string, Config, Base extends Module, Parts extends object>(
  name: string,
  family: Family<Name, Config, Base>,
  head: Head<Name, Config, Base, Parts>,
  { countsPadding = false } = {},
): ClassOf<Headed<Name, Config, Base, Parts> & QuestionAnswerer, Config> =>
  headed(name, family, head, (model, { startPositions, endPositions, ...given }: QuestionInputs): QuestionOutput => {
    const inputs =
      countsPadding && given.attentionMask && !given.positionIds ? { ...given, positionIds: everyPlace(given) } : given;
    const { lastHiddenState, hiddenStates } = model.backbone.forward(inputs);
    const positions = { ...(startPositions && { startPositions }), ...(endPositions && { endPositions }) };
    return questionOutput(head.logits(model, lastHiddenState, inputs), positions, hiddenStates);
  });

/** n … n + T − 1 in every row: [B, T] int32. */
function everyPlace(inputs: EncoderInputs): Tensor {
  const [B, T] = textShape(inputs);
  return add(positionsAfter(pastLength(inputs), T), constant(0, [B, 1], "int32"));
}

/** A class of models that extract the answer to a question from a text. */
export const questionAnswerer = <Name extends string, Config, Base extends Module>(
  name: string,
  family: Family<Name, Config, Base>,
  { dropout = () => 0, ...options }: { dropout?: (config: Config) => number; countsPadding?: boolean } = {},
) =>
  questionModel(
    name,
    family,
    {
      parts: (config, init, base): { dropout: Dropout; qa_outputs: Layer } => ({
        dropout: new Dropout(dropout(config)),
        qa_outputs: new Linear(stateWidth(family.reader(base)), 2, { init, initBias: zeros }),
      }),
      logits: ({ dropout: drop, qa_outputs }, states) => qa_outputs.forward(drop.forward(states)),
    },
    options,
  );
