/**
 * Virtual tokens in front of every text that a model reads. The model stays the one that it is; its `forward` gets inputs that begin
 * with the virtual tokens of the adapter that acts, and a cache that it creates begins with them, so that generation needs to know
 * nothing. Taking the last such adapter off gives the model its own methods back.
 */
import { ShapeError } from "../../errors.ts";
import { concatenate } from "../../graph/composite.ts";
import { add, cast, div, less, mul } from "../../graph/elementwise.ts";
import { expand, pad, permute, reshape, sliceAxis, stopGradient } from "../../graph/movement.ts";
import type { Tensor } from "../../graph/node.ts";
import { constant } from "../../graph/source.ts";
import { Setting } from "../../graph/variable.ts";
import type { KeyValueCache } from "../../models/cache.ts";
import {
  type CausalLM,
  type CausalLMInputs,
  type CausalLMOutput,
  continuesText,
  embedTokens,
  type PastLayer,
  shiftLabels,
  type TextInputs,
  type TextModel,
  textShape,
} from "../../models/causal-lm.ts";
import { onesBefore } from "../../models/decoder.ts";
import {
  type Answering,
  answersText,
  type ReadInputs,
  type Seq2SeqInputs,
  type Seq2SeqLM,
  shiftRight,
} from "../../models/seq2seq-lm.ts";
import { crossEntropy } from "../../nn/loss.ts";
import type { Parameter } from "../../nn/module.ts";
import { dropout, type Generator as KeyGenerator, uniform } from "../../tensor/random.ts";
import { sum } from "../../tensor/statistics.ts";
import { renameKey } from "../adapter-layer.ts";
import { Reading } from "../invocation.ts";
import type { Use } from "../method.ts";
import type { AnyConfig } from "../method-config.ts";
import { type Scope, saidTasks } from "../row-groups.ts";
import { StandIn } from "../stand-in.ts";
import {
  type AnyPromptMethod,
  type Judgement,
  liveTable,
  type PromptConfig,
  type PromptEncoder,
  type PromptInputs,
} from "./prompt-method.ts";

/** The virtual tokens of one adapter. */
export interface PromptAdapter {
  readonly method: AnyPromptMethod;
  readonly config: AnyConfig & PromptConfig;
  /** What makes the table in training; `null` where the table is all there is, as after loading. */
  readonly encoder: PromptEncoder | null;
  /** By PEFT's names in the live model. */
  readonly parameters: Readonly<Record<string, Parameter>>;
  readonly trainable: boolean;
  /** Of its encoder's dropout. */
  readonly random: KeyGenerator;
}

/** What models take beside tokens and what is one value for each token, as far as it matters here. */
type Inputs = TextInputs &
  Pick<Seq2SeqInputs, "decoderInputIds" | "decoderInputsEmbeds" | "decoderAttentionMask"> &
  PromptInputs & { readonly tokenTypeIds?: Tensor; readonly labels?: Tensor; readonly targets?: Tensor };

const ignored = -100;

/** Stands in for the methods of a model. Its parameters are those of all adapters: `prompt_encoder.<adapter>.embedding.weight`. */
export class PromptPlace extends StandIn {
  readonly #model: TextModel & { readonly config?: AnyConfig };
  readonly #adapters = new Map<string, PromptAdapter>();
  readonly #active = new Setting<string | null>(null);
  readonly #scope: Scope;
  /** The model's own `forward`. */
  readonly #run: (inputs: Inputs & Pick<CausalLMInputs, "logitsToKeep">) => unknown;

  constructor(model: TextModel & { readonly config?: AnyConfig }, scope: Scope) {
    super(model, "prompt_encoder");
    this.#model = model;
    this.#scope = scope;
    this.#run = model.forward.bind(model);
    this.stand("forward", { value: (inputs: Inputs) => this.#forward(inputs) });
    if (continuesText(model)) {
      const own = model.createCache.bind(model);
      this.stand("createCache", { value: (batch: number, size: number) => this.#createCache(own, batch, size) });
    }
    if (answersText(model)) {
      const own = model.answering.bind(model);
      this.stand("answering", { value: (batch: number, size: number) => this.#answering(own, batch, size) });
    }
    if ("maxLength" in model) this.stand("maxLength", { get: () => this.#maxLength() });
  }

  get adapters(): ReadonlyMap<string, PromptAdapter> {
    return this.#adapters;
  }

  add(name: string, adapter: PromptAdapter): void {
    this.#adapters.set(name, adapter);
  }

  remove(name: string): void {
    this.#adapters.delete(name);
  }

  rename(name: string, next: string): void {
    renameKey(this.#adapters, name, next);
    if (this.#active.stored === name) this.#active.value = next;
  }

  /** Makes the first of these that has virtual tokens act; training reaches it if it may. */
  activate(names: readonly string[]): void {
    const acting = names.find((name) => this.#adapters.has(name)) ?? null;
    this.#active.value = acting;
    for (const [name, { encoder, parameters, trainable }] of this.#adapters)
      for (const [key, parameter] of Object.entries(parameters))
        parameter.requiresGrad = trainable && name === acting && encoder?.parameters[key]?.trainable !== false;
  }

  override *ownParameters(): Generator<[name: string, parameter: Parameter]> {
    for (const [adapter, { parameters }] of this.#adapters)
      for (const [name, parameter] of Object.entries(parameters)) yield [`${adapter}.${name}`, parameter];
  }

  /** The tables of an adapter as its file has them, by their names there. */
  tables(name: string): Record<string, Tensor> {
    return tablesOf(this.#adapters.get(name) as PromptAdapter, this.training);
  }

  /** The adapter that acts, if one does. */
  #acting(): PromptAdapter | null {
    const name = this.#active.value;
    const { off, rows } = this.#scope;
    return off.value || rows.value || name === null ? null : (this.#adapters.get(name) as PromptAdapter);
  }

  #forward(inputs: Inputs): unknown {
    const before = this.#scope.reading;
    const reading = new Reading(inputs);
    this.#scope.reading = reading;
    try {
      const output = this.#prompted(inputs) as { readonly loss?: Tensor };
      reading.keep();
      const { losses } = reading;
      return output.loss && losses.length > 0 ? { ...output, loss: losses.reduce(add, output.loss) } : output;
    } finally {
      this.#scope.reading = before;
    }
  }

  #prompted({ taskIds, inputTypeMask, ...inputs }: Inputs): unknown {
    const acting = this.#acting();
    // a cache begins with the virtual tokens when it is created
    if (!acting || inputs.cache) return this.#run(inputs);
    const told = { ...(taskIds && { taskIds }), ...(inputTypeMask && { inputTypeMask }) };
    const begun = this.#withTokens(inputs, acting, told);
    const judgement = this.#judge(inputs, acting, told);
    if (!judgement) return this.#run(begun);
    const { targets, weights } = judgement;
    const { labels: _, ...rest } = begun;
    const output = this.#run({ ...rest, targets } as Inputs) as CausalLMOutput;
    return weights ? { ...output, loss: weighted(output.logits, targets, weights) } : output;
  }

  /** By what texts are judged where their virtual tokens are, too. */
  #judge({ labels, targets, ...inputs }: Inputs, { method, config }: PromptAdapter, told: PromptInputs): Judgement | null {
    if (!method.judge || !(labels || targets)) return null;
    const [B] = textShape(inputs);
    const first = labels ? sliceAxis(cast(labels, "int32"), 1, 0, 1) : constant(ignored, [B, 1], "int32");
    return method.judge(targets ?? shiftLabels(labels as Tensor), first, config, told);
  }

  /** Inputs that begin with the virtual tokens. */
  #withTokens(inputs: Inputs, acting: PromptAdapter, told: PromptInputs): Inputs {
    const n = acting.config.numVirtualTokens;
    const [B] = textShape(inputs);
    if (acting.method.place === "cache") {
      const { positionIds } = inputs;
      const moved = positionIds && { positionIds: add(cast(positionIds, "int32"), constant(n, [], "int32")) };
      return { ...inputs, ...moved, past: this.#past(acting, B, told) };
    }
    const { inputIds: _, positionIds: __, attentionMask, tokenTypeIds, labels, targets, ...rest } = inputs;
    const words = embedTokens(inputs, this.#model.backbone.wordEmbedding);
    const inputsEmbeds = concatenate([cast(this.#rows(acting, B, told), words.dtype), words], 1);
    const inAnswers = answersText(this.#model) && acting.method.inAnswers && acting.config.numTransformerSubmodules === 2;
    if (inAnswers && (inputs.labels || inputs.decoderInputIds))
      return {
        ...this.#answerBehind(inputs, this.#rows(acting, B, told, 1)),
        inputsEmbeds,
        ...(attentionMask && { attentionMask: onesBefore(attentionMask, n) }),
      };
    const behind = (x: Tensor, value: number) => concatenate([constant(value, [B, n], "int32"), cast(x, "int32")], 1);
    return {
      ...rest,
      inputsEmbeds,
      ...(attentionMask && { attentionMask: onesBefore(attentionMask, n) }),
      ...(tokenTypeIds && { tokenTypeIds: behind(tokenTypeIds, 0) }),
      ...(labels && { labels: this.#judgesTokens(inputs, acting) ? behind(labels, ignored) : labels }),
      ...(targets && { targets: behind(targets, ignored) }),
    };
  }

  /** An answer that is learned, behind virtual tokens [B, n, C]. */
  #answerBehind(inputs: Inputs, tokens: Tensor): Inputs {
    const { inputIds: _, inputsEmbeds: __, attentionMask: ___, labels, decoderInputIds, decoderAttentionMask, ...rest } = inputs;
    const { decoderStartTokenId: start, padTokenId } = this.#model.config as { decoderStartTokenId: number; padTokenId: number };
    const ids = decoderInputIds ?? shiftRight(labels as Tensor, start, padTokenId);
    const [B, n] = tokens.shape as [number, number];
    const words = this.#model.backbone.wordEmbedding.forward(ids);
    return {
      ...rest,
      decoderInputsEmbeds: concatenate([cast(tokens, words.dtype), words], 1),
      ...(decoderAttentionMask && { decoderAttentionMask: onesBefore(decoderAttentionMask, n) }),
      ...(labels && { labels: concatenate([constant(ignored, [B, n], "int32"), cast(labels, "int32")], 1) }),
    };
  }

  /** Whether there is a label for each token of the text. */
  #judgesTokens(inputs: Inputs, { config }: PromptAdapter): boolean {
    if (answersText(this.#model)) return false;
    if (continuesText(this.#model)) return true;
    const [B, T] = textShape(inputs);
    const { shape } = inputs.labels as Tensor;
    return config["taskType"] !== "SEQ_CLS" && shape.length === 2 && shape[0] === B && shape[1] === T;
  }

  /** The tokens of one submodule, [B, n, C]. */
  #rows({ method, config, ...adapter }: PromptAdapter, batch: number, told: PromptInputs, submodule = 0): Tensor {
    const tables = tablesOf({ method, config, ...adapter }, this.training);
    const said = told.taskIds ? null : saidTasks(this.#scope);
    const rows =
      method.rows?.(tables, config, said ? { ...told, taskIds: said } : told) ?? (tables["prompt_embeddings"] as Tensor);
    const n = config.numVirtualTokens;
    const first = sliceAxis(rows, rows.rank - 2, submodule * n, (submodule + 1) * n);
    const each = rows.rank === 3 ? first : reshape(first, [1, ...first.shape]);
    const [count, ...row] = each.shape;
    if (count !== 1 && count !== batch)
      throw new ShapeError(`the model runs on ${batch} rows, but ${count} tasks were given.`, {
        operation: "withTasks",
        expected: batch,
        got: count,
      });
    return count === batch ? each : expand(each, [batch, ...row]);
  }

  /**
   * Keys and values of every layer, [B, G, n, D] each. A row of the table holds keys and values of the layers in turn; with two submodules PEFT
   * puts the list behind itself and takes four entries a layer, so that some layers share and some entries are not used.
   */
  #past(acting: PromptAdapter, batch: number, told: PromptInputs): PastLayer[] {
    const { numVirtualTokens: n, numLayers: L, numAttentionHeads: G, numTransformerSubmodules: q, tokenDim } = acting.config;
    const D = tokenDim / G;
    const entries = reshape(this.#rows(acting, batch, told), [batch, n, 2 * L, G, D]);
    const entry = (i: number) => permute(reshape(sliceAxis(entries, 2, i, i + 1), [batch, n, G, D]), [0, 2, 1, 3]);
    return Array.from({ length: L }, (_, layer) => {
      const at = (2 * q * layer) % (2 * L);
      return { keys: entry(at), values: entry((at + 1) % (2 * L)) };
    });
  }

  /** A cache that begins with the virtual tokens of whichever adapter acts when it is emptied. */
  #createCache(createCache: CausalLM["createCache"], batch: number, size: number): KeyValueCache {
    return this.#beginning(createCache(batch, size + this.#most()), (cache, acting) => {
      this.#run({ inputsEmbeds: this.#rows(acting, batch, {}), cache, logitsToKeep: 1 });
    });
  }

  /** @param write puts vectors, which are no keys and values yet, into the cache */
  #beginning(cache: KeyValueCache, write: (cache: KeyValueCache, acting: PromptAdapter) => void): KeyValueCache {
    cache.front = () => {
      const acting = this.#acting();
      if (acting?.method.place === "cache") cache.begin(this.#past(acting, cache.batch, {}));
      else if (acting) write(cache, acting);
    };
    cache.reset();
    return cache;
  }

  #answering(answering: Seq2SeqLM["answering"], batch: number, size: number): Answering {
    const most = this.#most();
    const own = answering(batch, size + most);
    return {
      ...own,
      read: (inputs) => {
        const acting = this.#acting();
        const begun = acting?.method.place === "inputs" ? this.#withTokens(inputs, acting, {}) : inputs;
        own.read(filledUp(begun, size + most, this.#model));
      },
      createCache: (rows, length) => this.#beginning(own.createCache(rows, length + most), () => undefined),
    };
  }

  /** Virtual tokens of the adapter that has most. */
  #most(): number {
    return Math.max(0, ...[...this.#adapters.values()].map(({ config }) => config.numVirtualTokens));
  }

  /** Tokens that can be taken in behind the virtual ones. */
  #maxLength(): number | undefined {
    const { maxLength } = this.#model.backbone.sizes;
    const acting = this.#acting();
    return maxLength === undefined || !acting ? maxLength : maxLength - acting.config.numVirtualTokens;
  }
}

/** Texts with padding behind, [B, size]. */
function filledUp(inputs: ReadInputs, size: number, { backbone }: TextModel): ReadInputs {
  const [B, T] = textShape(inputs);
  if (T >= size) return inputs;
  const mask = inputs.attentionMask ?? constant(1, [B, T], "int32");
  return {
    inputsEmbeds: pad(embedTokens(inputs, backbone.wordEmbedding), [0, 0, 0], [0, size - T, 0]),
    attentionMask: pad(mask, [0, 0], [0, size - T]),
  };
}

/** Σ weight · loss of each judged position / their number. */
function weighted(logits: Tensor, targets: Tensor, weights: Tensor): Tensor {
  const kept = cast(less(constant(ignored, [], "int32"), targets), logits.dtype);
  return div(sum(mul(crossEntropy(logits, targets, { reduction: "none" }), weights)), sum(kept));
}

function tablesOf({ method, config, encoder, parameters, random }: PromptAdapter, training: boolean): Record<string, Tensor> {
  const value = (name: string) => (parameters[name] as Parameter).value;
  if (!encoder) return Object.fromEntries(Object.keys(method.tables(config)).map((file) => [file, value(liveTable(file))]));
  const use: Use = {
    scale: 1,
    training,
    dropout: (x, probability) => (training ? dropout(random.next(), x, probability) : x),
    keep: () => undefined,
    uniform: (shape) => uniform(random.next(), shape),
    since: () => constant(1, [], "int32"),
    companion: null,
    pass: null,
    tasks: () => null,
  };
  const all = () => Object.fromEntries(Object.keys(parameters).map((name) => [name, value(name)]));
  for (const [key, next] of Object.entries((training && encoder.project?.(all())) || {}))
    if (parameters[key]?.requiresGrad) parameters[key].assign(stopGradient(next));
  const values = all();
  return { prompt_embeddings: encoder.encode(values, use) };
}
