/**
 * Virtual tokens that stand as keys and values before every layer (cartridges, prefixes), begun as those of a text's first n tokens: the model then
 * goes on as if it had read them. So the cartridges' paper has them begin; PEFT's `initialize_kv_prefix_from_text`.
 *
 * @see https://arxiv.org/abs/2506.06266, §3.2
 */
import { currentDevice, realize, upload } from "../../compile/program.ts";
import { ConfigError, checkOptions, requireKind, under } from "../../errors.ts";
import { concatenate } from "../../graph/composite.ts";
import { permute, reshape, sliceAxis } from "../../graph/movement.ts";
import type { Tensor } from "../../graph/node.ts";
import { assignAll } from "../../graph/variable.ts";
import { type CausalLM, continuesText } from "../../models/causal-lm.ts";
import type { Layer, Module, Parameter } from "../../nn/module.ts";
import { adaptedModel, getAdapter } from "../adapted-model.ts";
import { disabled } from "../disabled.ts";
import { wordMethod } from "../method-config.ts";
import type { PromptAdapter, PromptPlace } from "./prompted-model.ts";

/** Which adapter begins so. */
export interface KvPrefixOptions {
  /** The one called "default" when absent. */
  readonly name?: string;
}

/** What makes tokens of a text, and of the message of a system if it can. */
export interface PrefixTokenizer {
  encode(text: string, options?: { readonly addSpecialTokens?: boolean }): Int32Array;
  readonly chatTemplate?: string | undefined;
  applyChatTemplate?(messages: readonly { readonly role: string; readonly content: string }[]): string;
}

/**
 * Begins the virtual tokens of a cartridge or of a prefix without a projection as the keys and values of a text's first tokens.
 *
 * @param options.useChatTemplate reads the text as what the system says, where the tokenizer has a template for chats; true when absent
 * @throws {ConfigError} for another adapter, or a text with fewer tokens than there are virtual ones; the model is unchanged then
 * @example
 * attach(model, cartridge({ numVirtualTokens: 128 }));
 * initializeKvPrefixFromText(model, tokenizer, text);
 */
export function initializeKvPrefixFromText(
  model: Module,
  tokenizer: PrefixTokenizer,
  text: string,
  options: KvPrefixOptions & { readonly useChatTemplate?: boolean } = {},
): void {
  checkOptions("initializeKvPrefixFromText", options, { name: "a string", useChatTemplate: "true or false" });
  const { useChatTemplate = true, ...where } = options;
  requireKind("initializeKvPrefixFromText", "a string", { text });
  const encode = (tokenizer as Partial<PrefixTokenizer> | undefined)?.encode;
  requireKind("initializeKvPrefixFromText", "a function", { "tokenizer.encode": encode });
  const asChat = useChatTemplate && tokenizer.chatTemplate !== undefined && tokenizer.applyChatTemplate;
  const tokens = asChat
    ? tokenizer.encode(tokenizer.applyChatTemplate!([{ role: "system", content: text }]), { addSpecialTokens: false })
    : tokenizer.encode(text);
  under("initializeKvPrefixFromText", () => initializeKvPrefixFromTokens(model, tokens, where));
}

/** The same for a text that is tokens already. @throws {ConfigError} as above, and for a token that the model does not have */
export function initializeKvPrefixFromTokens(model: Module, tokens: ArrayLike<number>, options: KvPrefixOptions = {}): void {
  const { name = "default" } = checkOptions("initializeKvPrefixFromTokens", options, { name: "a string" });
  const operation = "initializeKvPrefixFromTokens";
  requireKind(operation, "a list of numbers", { tokens });
  const { method } = getAdapter(model, name, operation);
  const { prompts } = adaptedModel(model, operation);
  const adapter = (prompts as PromptPlace | null)?.adapters.get(name);
  const parts = adapter?.method.place === "cache" ? partsOf(adapter) : null;
  if (!adapter || !parts || !continuesText(model))
    throw new ConfigError(`the adapter "${name}" (${wordMethod(method.schema)}) is not a table of keys and values.`, {
      operation,
      got: name,
      hint: "Begin a cartridge, or a prefix without `prefixProjection`, on a model that continues texts.",
    });
  const { numVirtualTokens: n, numTransformerSubmodules: q } = adapter.config;
  if (q !== 1)
    throw new ConfigError(`with \`numTransformerSubmodules\` (= ${q}) the table is not in the order of the layers.`, {
      operation,
      got: q,
    });
  if (tokens.length < n)
    throw new ConfigError(`the text has ${tokens.length} tokens, the adapter ${n} virtual ones.`, {
      operation,
      expected: n,
      got: tokens.length,
      hint: "Take a longer text, or fewer virtual tokens.",
    });
  const first = Int32Array.from({ length: n }, (_, i) => tokens[i] as number);
  const vocabulary = (model.backbone.wordEmbedding as Layer & { readonly weight: Parameter }).weight.shape[0] as number;
  const odd = first.find((token) => !(token >= 0 && token < vocabulary));
  if (odd !== undefined) throw new ConfigError(`the model has no token ${odd}.`, { operation, expected: vocabulary, got: odd });
  const table = disabled(model, () => keysAndValues(model, first));
  let at = 0;
  assignAll(parts.map((part) => [part, sliceAxis(table, 0, at, (at += part.shape[0] as number))] as const));
}

/** The parameters that are rows of the table, from the first one on; `null` where a network makes the table. */
function partsOf({ encoder, parameters }: PromptAdapter): readonly Parameter[] | null {
  const table = parameters["embedding.weight"];
  if (!encoder) return table ? [table] : null;
  const rows = [parameters["frozen_embedding"], parameters["trainable_embedding"]].filter((part) => part !== undefined);
  return rows.length === Object.keys(parameters).length ? rows : null;
}

/** [n, 2·layers·G·D]: of each token the keys and values of all layers in turn, as the model without adapters finds them. */
function keysAndValues(model: CausalLM, tokens: Int32Array): Tensor {
  const { training } = model;
  using cache = model.createCache(1, tokens.length);
  model.eval();
  try {
    const inputIds = upload(currentDevice(), tokens, [1, tokens.length], "int32");
    realize([model.forward({ inputIds, cache, logitsToKeep: 1 }).logits]);
  } finally {
    if (training) model.train();
  }
  const rows = cache.first(tokens.length).flatMap(({ keys, values }) =>
    [keys, values].map((x) => {
      const [, G, n, D] = x.shape as [number, number, number, number];
      return reshape(permute(x, [0, 2, 1, 3]), [n, G * D]);
    }),
  );
  const table = concatenate(rows, 1);
  realize([table]);
  return table;
}
