/** What encoder–decoders with output layers for classes and answers share: a text is read, written once more, and the written states are judged. */
import { ConfigError } from "../errors.ts";
import { equal, where } from "../graph/elementwise.ts";
import { reshape } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { reduceMax, reduceSum } from "../graph/reduction.ts";
import { constant, iota, number } from "../graph/source.ts";
import type { Layer, Module } from "../nn/module.ts";
import { type Backbone, checkTextInputs, type ModelSizes } from "./causal-lm.ts";
import type { LabelConfig } from "./config-reader.ts";
import type { EncoderInputs } from "./encoder.ts";
import { type Family, type Reader, textClassifier } from "./family.ts";
import { RobertaClassificationHead } from "./roberta.ts";
import type { ReadInputs, TextStates } from "./seq2seq-lm.ts";

/** What an encoder and a decoder do with a text. */
export interface Rewriter extends Backbone {
  readonly readerSizes: ModelSizes;
  /** The states of a text: [B, S, C]. */
  read(inputs: ReadInputs): Tensor;
  /** What the decoder is given of them. */
  remember(states: Tensor): TextStates[];
  /** What goes into the decoder to get these words out. */
  shift(words: Tensor): Tensor;
  /** The states of the decoder: the embeddings, then after each layer. */
  write(
    inputs: { readonly inputIds: Tensor },
    memories: readonly TextStates[],
    memoryMask: Tensor | undefined,
  ): readonly Tensor[];
}

/** The states of a text that was written once more. */
export function rewritten({ sizes, wordEmbedding, ...sides }: Rewriter): Reader {
  return {
    sizes,
    wordEmbedding,
    forward({ inputIds, attentionMask, past }) {
      if (!inputIds || past)
        throw new ConfigError("a text goes in as `inputIds`, since it is written once more, and without `past`.", {
          operation: sizes.modelType,
        });
      const read = { inputIds, ...(attentionMask && { attentionMask }) };
      checkTextInputs(sides.readerSizes, read);
      const memories = sides.remember(sides.read(read));
      const hiddenStates = sides.write({ inputIds: sides.shift(inputIds) }, memories, attentionMask);
      return { lastHiddenState: hiddenStates.at(-1) as Tensor, hiddenStates };
    },
  };
}

/** A base that knows its config, from which its reader is made. */
export const knowing = <Base extends Module, Config>(base: Base, config: Config): Base & { readonly config: Config } =>
  Object.defineProperty(base, "config", { value: config, configurable: true }) as Base & { readonly config: Config };

/** The state of each text's last token that ends one: [B, T, C] → [B, C]. */
function lastEnd(states: Tensor, { inputIds }: EncoderInputs, end: number): Tensor {
  const [B, T, C] = states.shape as [number, number, number];
  const ids = inputIds as Tensor;
  const at = reshape(iota([T]), [1, T]);
  const last = reduceMax(where(equal(ids, number(ids, end)), at, constant(0, [], "int32")), [1]);
  return reshape(reduceSum(where(reshape(equal(at, last), [B, T, 1]), states, number(states, 0)), [1]), [B, C]);
}

/** A class of models that classify texts by the state of the token that ends them. */
export const endClassifier = <
  Name extends string,
  Config extends Omit<LabelConfig, "padTokenId"> & {
    readonly dModel: number;
    readonly eosTokenId: number;
    readonly padTokenId: number;
  },
>(
  name: string,
  of: Family<Name, Config, Module>,
) =>
  textClassifier(name, of, {
    parts: (config, init): { classification_head: Layer } => ({
      classification_head: new RobertaClassificationHead({ ...config, hiddenSize: config.dModel }, init),
    }),
    logits: ({ classification_head: head, config }, states, inputs) => head.forward(lastEnd(states, inputs, config.eosTokenId)),
  });
