/** The tasks of models, told by the ending of a class name at Hugging Face, with their inputs and outputs. */
import { add, mul } from "../graph/elementwise.ts";
import { reshape, sliceAxis } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { constant, number } from "../graph/source.ts";
import { crossEntropy } from "../nn/loss.ts";
import type { Module } from "../nn/module.ts";
import { maximum, minimum } from "../tensor/math.ts";
import type { CausalLM, TextModel } from "./causal-lm.ts";
import type { ClassifierInputs, ClassifierOutput } from "./classifier.ts";
import type { EncoderInputs, EncoderStates } from "./encoder.ts";
import type { Seq2SeqLM } from "./seq2seq-lm.ts";

/** What a model that judges every token takes. */
export interface TokenInputs extends EncoderInputs {
  /** [B, T] int32: the word or class of each token; −100 is not judged. */
  readonly labels?: Tensor;
}

/** What it gives. */
export interface TokenOutput {
  /** [B, T, words] or [B, T, classes] */
  readonly logits: Tensor;
  /** Mean cross-entropy per judged token; there when labels were given. */
  readonly loss?: Tensor;
  /** The embeddings, then the state after each layer. All [B, T, C]. */
  readonly hiddenStates: readonly Tensor[];
}

/** Logits of all tokens, and the loss if there are labels. */
export const tokenOutput = (logits: Tensor, labels: Tensor | undefined, hiddenStates: readonly Tensor[]): TokenOutput => ({
  logits,
  hiddenStates,
  ...(labels ? { loss: crossEntropy(logits, labels) } : {}),
});

/** A model that predicts the word at every position, of use where they are hidden. */
export interface MaskedLM extends TextModel {
  forward(inputs: TokenInputs): TokenOutput;
}

/** A model that classifies every token. */
export interface TokenClassifier extends TextModel {
  forward(inputs: TokenInputs): TokenOutput;
}

/** Inputs of a model that classifies whole texts. */
export interface SequenceInputs extends EncoderInputs, Pick<ClassifierInputs, "labels"> {}

/** A model that classifies whole texts. */
export interface SequenceClassifier extends TextModel {
  forward(inputs: SequenceInputs): ClassifierOutput;
}

/** What a model that classifies images takes. */
export interface ImageInputs extends Pick<ClassifierInputs, "labels"> {
  /** [B, channels, height, width], normalised as the model was trained */
  readonly pixelValues: Tensor;
}

/** A model that classifies images. */
export interface ImageClassifier extends Module {
  forward(inputs: ImageInputs): ClassifierOutput;
}

/** What a model takes that extracts the answer to a question from a text. */
export interface QuestionInputs extends EncoderInputs {
  /** [B] int32: the first token of the answer. One outside of the text is not judged. */
  readonly startPositions?: Tensor;
  /** [B] int32: its last token. */
  readonly endPositions?: Tensor;
}

/** What it gives. */
export interface QuestionOutput {
  /** [B, T]: for each token, that the answer begins there. */
  readonly startLogits: Tensor;
  /** [B, T]: that it ends there. */
  readonly endLogits: Tensor;
  /** The mean of both cross-entropies; there when both positions were given. */
  readonly loss?: Tensor;
  /** The embeddings, then the state after each layer. All [B, T, C]. */
  readonly hiddenStates: readonly Tensor[];
}

/** A model that extracts the answer to a question from a text: where it begins, and where it ends. */
export interface QuestionAnswerer extends TextModel {
  forward(inputs: QuestionInputs): QuestionOutput;
}

/** @param logits [B, T, 2] */
export function questionOutput(
  logits: Tensor,
  { startPositions, endPositions }: QuestionInputs,
  hiddenStates: readonly Tensor[],
): QuestionOutput {
  const [B, T] = logits.shape as [number, number, number];
  const side = (at: number) => reshape(sliceAxis(logits, 2, at, at + 1), [B, T]);
  const [startLogits, endLogits] = [side(0), side(1)];
  if (!startPositions || !endPositions) return { startLogits, endLogits, hiddenStates };
  const whole = (value: number) => constant(value, [], "int32");
  const judged = (sideLogits: Tensor, positions: Tensor): Tensor => {
    const within = minimum(maximum(reshape(positions, [B]), whole(0)), whole(T));
    return crossEntropy(sideLogits, within, { ignoreIndex: T });
  };
  const loss = add(judged(startLogits, startPositions), judged(endLogits, endPositions));
  return { startLogits, endLogits, hiddenStates, loss: mul(loss, number(loss, 0.5)) };
}

/** A model without an output layer. */
export interface FeatureExtractor extends TextModel {
  forward(inputs: EncoderInputs): EncoderStates;
}

/** The interface of each kind of model. */
export interface ModelByTask {
  readonly CausalLM: CausalLM;
  readonly MaskedLM: MaskedLM;
  readonly SequenceClassification: SequenceClassifier;
  readonly TokenClassification: TokenClassifier;
  readonly QuestionAnswering: QuestionAnswerer;
  readonly ImageClassification: ImageClassifier;
  readonly Seq2SeqLM: Seq2SeqLM;
  readonly FeatureExtraction: FeatureExtractor;
}

/** What a model is for. */
export type Task = keyof ModelByTask;

/** What a class is for, by its name at Hugging Face; `undefined` for what there is no interface for. */
export function taskOf(architecture: string): Task | undefined {
  const [task] = endings.find(([, ending]) => ending.test(architecture)) ?? [];
  return task;
}

const endings: readonly (readonly [Task, RegExp])[] = [
  ["CausalLM", /ForCausalLM$|LMHeadModel$/],
  ["MaskedLM", /ForMaskedLM$/],
  ["SequenceClassification", /ForSequenceClassification$/],
  ["TokenClassification", /ForTokenClassification$/],
  ["QuestionAnswering", /ForQuestionAnswering$/],
  ["ImageClassification", /ForImageClassification$/],
  ["Seq2SeqLM", /ForConditionalGeneration$/],
  ["FeatureExtraction", /Model$/],
];
