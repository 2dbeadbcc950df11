/** Tokenizers from files: tokenizer.json, the older pair vocab.json and merges.txt, or a GGUF file. */
import { checkOptions, FormatError, isRecord } from "../errors.ts";
import { type Folder, readJson, readText, wordFolder } from "../formats/folder.ts";
import { openGguf } from "../formats/gguf.ts";
import { type ModelSource, openSource, type SourceOptions, sourceOptionRules } from "../formats/model-source.ts";
import { ggufTokenizer } from "./gguf-tokenizer.ts";
import { byteLevelDefinition, Tokenizer, type TokenizerConfig, type TokenizerDefinition } from "./tokenizer.ts";

/** How a tokenizer is loaded. */
export interface LoadTokenizerOptions extends SourceOptions {
  /** Stands in for tokenizer_config.json. */
  readonly config?: TokenizerConfig;
}

/**
 * Loads a tokenizer from a model folder, the path of a tokenizer.json or a GGUF file, a repository of the Hub, files of a browser,
 * or the parsed content of a tokenizer.json. A folder may also hold the older pair vocab.json and merges.txt (byte-level BPE, as
 * GPT-2 came); the names of special tokens and the chat template are read from the files beside it.
 *
 * @throws {FormatError} when a file is missing, not JSON, or names an algorithm other than BPE, WordPiece and Unigram
 * @throws {ConfigError} when files cannot be read or downloaded
 * @example
 * const tokenizer = await loadTokenizer("models/tiny");
 * tokenizer.decode(tokenizer.encode("Call me Ishmael."))   // "Call me Ishmael."
 */
export async function loadTokenizer(
  source: ModelSource | TokenizerDefinition,
  options: LoadTokenizerOptions = {},
): Promise<Tokenizer> {
  checkOptions("loadTokenizer", options, { ...sourceOptionRules, config: "an object" });
  if (typeof source === "object" && source !== null && "model" in source) return new Tokenizer(source, options.config);
  const { folder, file } = await openSource(source, "loadTokenizer", options);
  return readTokenizer(folder, file, options.config);
}

/** The same from a folder that is open. @param file the tokenizer's, where it is not the usual one, or a GGUF file */
export async function readTokenizer(folder: Folder, file?: string, given?: TokenizerConfig): Promise<Tokenizer> {
  const operation = "loadTokenizer";
  const gguf = file?.endsWith(".gguf") ? file : undefined;
  if (gguf !== undefined) return ggufTokenizer(await openGguf(folder, gguf));
  const optional = async (name: string): Promise<TokenizerConfig> => {
    const json = folder.files.has(name) ? await readJson(folder, name, operation) : {};
    return isRecord(json) ? json : {};
  };
  const config = given ?? {
    ...(await optional("special_tokens_map.json")),
    ...(await optional("tokenizer_config.json")),
    ...(await chatTemplateFile(folder)),
  };
  const definition = file ?? "tokenizer.json";
  if (folder.files.has(definition))
    return new Tokenizer((await readJson(folder, definition, operation)) as TokenizerDefinition, config);
  if (folder.files.has("vocab.json") && folder.files.has("merges.txt")) {
    const merges = await readText(folder, "merges.txt", operation);
    return fromVocabularyAndMerges((await readJson(folder, "vocab.json", operation)) as Record<string, number>, merges, config);
  }
  throw new FormatError(`there is no tokenizer.json in ${wordFolder(folder)}.`, {
    operation,
    got: [...folder.files].sort(),
    hint: "AutoTokenizer.from_pretrained(folder).save_pretrained(folder) in Python writes one from older files.",
  });
}

/** Newer folders keep the template in a file of its own, which goes before the one in tokenizer_config.json. */
async function chatTemplateFile(folder: Folder): Promise<TokenizerConfig> {
  const file = "chat_template.jinja";
  return folder.files.has(file) ? { chat_template: await readText(folder, file, "loadTokenizer") } : {};
}

/** GPT-2's two files; its end-of-text token is special though neither file says so. */
function fromVocabularyAndMerges(vocab: Readonly<Record<string, number>>, merges: string, config: TokenizerConfig): Tokenizer {
  const endOfText = "<|endoftext|>";
  const names = ["bos_token", "eos_token", "unk_token", "pad_token"].map((key) => config[key] ?? endOfText);
  const contents = new Set(names.map((name) => (isRecord(name) ? name["content"] : name) as string));
  const special = [...contents].filter((content) => vocab[content] !== undefined);
  const named = vocab[endOfText] === undefined ? {} : { bos_token: endOfText, eos_token: endOfText };
  const definition = byteLevelDefinition({
    vocab,
    merges: merges.split(/\r?\n/).filter((line) => line !== "" && !line.startsWith("#version")),
    specialTokens: special.map((content) => ({ content, id: vocab[content] as number })),
  });
  return new Tokenizer(definition, { ...named, ...config });
}
