/** `lorikeet/text`: tokenizers, training one, text datasets and the example corpora. */
export { byteLetters, saveTokenizer, tokenizerConfig, trainTokenizer } from "./bpe-trainer.ts";
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
export { StreamingDecoder, Tokenizer, type TokenizerConfig, type TokenizerDefinition } from "./tokenizer.ts";
