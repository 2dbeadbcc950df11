/** `lorikeet/text`: tokenizers, training one, text datasets and the example corpora. */

export { saveTokenizer, tokenizerConfig, trainTokenizer } from "./bpe-trainer.ts";
export { byteLetters } from "./byte-letter.ts";
export { type ChatDatasetOptions, type Conversation, chatDataset, conversationsFromJsonl } from "./chat-dataset.ts";
export type { ChatMessage, ChatOptions, EncodedChat } from "./chat-template.ts";
export { type Corpus, type CorpusName, corpusTitles, loadCorpus } from "./corpora.ts";
export {
  BatchSampler,
  ignoredLabel,
  type SamplerState,
  type TextBatch,
  TextDataset,
  type TextDatasetOptions,
  type TextSource,
  textDataset,
  textsFromJsonl,
} from "./dataset.ts";
export { type LoadTokenizerOptions, loadTokenizer } from "./load-tokenizer.ts";
export type { EncodingWithOffsets } from "./offsets.ts";
export { StreamingDecoder, Tokenizer, type TokenizerConfig, type TokenizerDefinition } from "./tokenizer.ts";
