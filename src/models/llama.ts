/**
 * The Llama family: pre-norm blocks of grouped-query attention with rotary positions and a gated feed-forward part.
 * Properties are named as Hugging Face names them, so that the paths of parameters are the keys of its checkpoints.
 * Models that differ in a few settings are files of their own: mistral.ts, qwen2.ts, …
 *
 * @see https://arxiv.org/abs/2302.13971, https://arxiv.org/abs/2407.21783
 */
import { checkOptions, requireKind } from "../errors.ts";
import { add, mul } from "../graph/elementwise.ts";
import { reshape } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { number } from "../graph/source.ts";
import { softcap } from "../nn/activation.ts";
import { dropout } from "../nn/dropout.ts";
import { Embedding } from "../nn/embedding.ts";
import { type Initializer, normal, zeros } from "../nn/init.ts";
import { Linear } from "../nn/linear.ts";
import { GatedMLP } from "../nn/mlp.ts";
import { type Layer, Module, type Parameter } from "../nn/module.ts";
import { LayerNorm, RMSNorm } from "../nn/norm.ts";
import { Rotary, rotate } from "../nn/rotary.ts";
import { sigmoid } from "../tensor/math.ts";
import {
  checkTextInputs,
  embedTokens,
  type ModelSizes,
  paddingRow,
  pastLength,
  type TextInputs,
  textShape,
  tied,
} from "./causal-lm.ts";
import type { NamedPart } from "./checkpoint-name.ts";
import { readOnce } from "./config-reader.ts";
import {
  attendPass,
  type DecoderStates,
  type Pass,
  type Projections,
  type RotaryPass,
  rotaryPass,
  runLayers,
  type SelfAttention,
} from "./decoder.ts";
import { type Decoder, DecoderLM } from "./decoder-lm.ts";
import { layers } from "./encoder.ts";
import { type ClassOf, type Family, questionAnswerer, sequenceClassifier, tokenClassifier } from "./family.ts";
import { HeadNorm } from "./head-norm.ts";
import { type ConfigJson, type LlamaConfig, type LlamaVariant, llamaConfig } from "./llama-config.ts";

const scaled = (x: Tensor, scale: number): Tensor => (scale === 1 ? x : mul(x, number(x, scale)));

/** A norm of the type that the model has. */
export const norm = ({ normType, rmsNormEps: eps, unitOffset }: LlamaConfig, size: number): RMSNorm | LayerNorm =>
  normType === "rms" ? new RMSNorm(size, { eps, unitOffset }) : new LayerNorm(size, { eps, bias: normType === "layer" });

/** Turns queries and keys, attends, and puts the heads together; the projections before are a subclass's. */
export abstract class RotaryAttention extends Module implements SelfAttention<RotaryPass> {
  abstract o_proj: Layer;
  /** [H]: of each head the score of a key without a value, in models that have such. */
  declare readonly sinks?: Parameter;
  readonly config: LlamaConfig;
  readonly #layer: number;

  /** @param layer its number: for its window, and for the cache */
  constructor(config: LlamaConfig, layer: number) {
    super();
    this.config = config;
    this.#layer = layer;
  }

  /** [B, T, C] → [B, T, H, D] and two of [B, T, G, D] */
  abstract project(x: Tensor): Projections;

  /** [B, T, H, D], turned. */
  queries(x: Tensor, pass: RotaryPass): Tensor {
    return this.asked(this.project(x).q, pass);
  }

  /** Queries as they meet the keys: turned. */
  protected asked(q: Tensor, pass: RotaryPass): Tensor {
    return this.#turned(q, pass);
  }

  /** By the angles of the tokens' positions, if there are any in this layer. */
  #turned(x: Tensor, { rotary, layerRotary }: RotaryPass): Tensor {
    const { [this.#layer]: tables = rotary } = layerRotary ?? [];
    return tables ? rotate(x, tables) : x;
  }

  /** [B, T, C] → [B, T, C] */
  forward(x: Tensor, pass: RotaryPass): Tensor {
    const { windows, attentionScale: scale, attentionSoftcap: cap, attentionDropout } = this.config;
    const { q, k, v, gate } = this.project(x);
    const y = attendPass(this.asked(q, pass), this.#turned(k, pass), v, pass, {
      layer: this.#layer,
      window: windows[this.#layer] ?? 0,
      scale,
      softcap: cap,
      ...(this.sinks && { sinks: this.sinks.value }),
      dropout: this.training ? attentionDropout : 0,
    });
    return this.o_proj.forward(gate ? mul(y, sigmoid(reshape(gate, y.shape))) : y);
  }
}

/** Grouped-query attention with rotary positions. */
export class LlamaAttention extends RotaryAttention {
  q_proj: Layer;
  k_proj: Layer;
  v_proj: Layer;
  o_proj: Layer;
  readonly q_norm: Layer | null;
  readonly k_norm: Layer | null;

  constructor(config: LlamaConfig, layer: number, init: Initializer) {
    super(config, layer);
    const { hiddenSize: C, numAttentionHeads: H, numKeyValueHeads: G, headDim: D, queryKeyNorm } = config;
    const options = { bias: config.attentionBias, init, initBias: zeros };
    this.q_proj = new Linear(C, H * D, options);
    this.k_proj = new Linear(C, G * D, options);
    this.v_proj = new Linear(C, G * D, options);
    this.o_proj = new Linear(H * D, C, { ...options, bias: config.outputBias });
    const ofHeads = (heads: number) => {
      if (queryKeyNorm === "none") return null;
      if (queryKeyNorm === "own head") return new HeadNorm(heads, D, config.rmsNormEps);
      return norm(config, queryKeyNorm === "head" ? D : heads * D);
    };
    this.q_norm = ofHeads(H);
    this.k_norm = ofHeads(G);
  }

  project(x: Tensor): Projections {
    const { headDim, queryKeyNorm } = this.config;
    const heads = (y: Tensor) => reshape(y, [...x.shape.slice(0, 2), -1, headDim]);
    const normed = (layer: Layer, norm: Layer | null) => {
      const y = layer.forward(x);
      if (!norm) return heads(y);
      return queryKeyNorm === "token" ? heads(norm.forward(y)) : norm.forward(heads(y));
    };
    return { q: normed(this.q_proj, this.q_norm), k: normed(this.k_proj, this.k_norm), v: normed(this.v_proj, null) };
  }
}

/** The gated feed-forward part of a block. */
export const gatedMLP = (config: LlamaConfig, init: Initializer): GatedMLP =>
  new GatedMLP(config.hiddenSize, config.intermediateSize, {
    activation: config.hiddenAct,
    bias: config.mlpBias,
    init,
    initBias: zeros,
  });

/** A block of attention and a feed-forward part. */
export abstract class DecoderLayer extends Module {
  /** Missing where there is one norm for both parts. */
  abstract readonly post_attention_layernorm: RMSNorm | LayerNorm | null;
  /** [B, T, C] → [B, T, C] */
  abstract forward(x: Tensor, pass: RotaryPass): Tensor;
}

/** One block: x + attention(norm(x)), then that + mlp(norm(that)); or x + attention(norm(x)) + mlp(norm(x)). */
export class LlamaDecoderLayer extends DecoderLayer {
  readonly self_attn: RotaryAttention;
  readonly mlp: Block;
  readonly input_layernorm: RMSNorm | LayerNorm;
  readonly post_attention_layernorm: RMSNorm | LayerNorm | null;
  readonly #scale: number;
  readonly #dropout: number;

  constructor(config: LlamaConfig, attention: RotaryAttention, mlp: Block) {
    super();
    this.#scale = config.residualScale;
    this.self_attn = attention;
    this.mlp = mlp;
    this.input_layernorm = norm(config, config.hiddenSize);
    this.post_attention_layernorm = config.parallelResidual ? null : norm(config, config.hiddenSize);
    this.#dropout = config.residualDropout;
  }

  forward(x: Tensor, pass: RotaryPass): Tensor {
    const added = (y: Tensor) => scaled(dropout(y, this.training ? this.#dropout : 0), this.#scale);
    const first = this.input_layernorm.forward(x);
    const attended = add(x, added(this.self_attn.forward(first, pass)));
    return add(attended, added(this.mlp.forward(this.post_attention_layernorm?.forward(attended) ?? first, pass)));
  }
}

/** A block of the family, whatever it mixes tokens by, or its feed-forward part. */
export interface Block extends Module {
  forward(x: Tensor, pass: RotaryPass): Tensor;
}

/** How a model of the family differs from Llama. */
export interface LlamaFamilyMember extends LlamaVariant {
  readonly modelType: string;
  /** The names of its parts, where they differ from Llama's. */
  readonly parts?: Partial<typeof llamaParts>;
  /** Whether the padding token's vector is trained like the others. */
  readonly trainsPadding?: boolean;
  /** Whether the output layer has a bias. */
  readonly logitBias?: boolean;
  /** What is added to the scores of attention, [B, H, 1, keys] or [1, H, 1, keys]. @param keys how many, those of virtual tokens included */
  scoreBias?(config: LlamaConfig, pass: Pass, keys: number): Tensor | undefined;
  /** Whether its blocks hand a state from token to token. */
  readonly isRecurrent?: boolean;
  /** Its block, where it differs from Llama's. */
  layer?(config: LlamaConfig, index: number, init: Initializer): Block;
  /** How its checkpoints name parameters, where that differs. */
  readonly names?: Omit<NamedPart, "name">;
  /** An auxiliary loss for training. */
  addedLoss?(config: LlamaConfig, pass: Pass): Tensor | undefined;
}

/** What checkpoints call the model and its parts; it has a norm of the embeddings if that has a name. */
const llamaParts = { model: "model", embedding: "embed_tokens", embeddingNorm: "", layers: "layers", norm: "norm" };
const llama: LlamaFamilyMember = { modelType: "llama" };
const llamaLayer = (config: LlamaConfig, index: number, init: Initializer): DecoderLayer =>
  new LlamaDecoderLayer(config, new LlamaAttention(config, index, init), gatedMLP(config, init));

/** Embedding, blocks and the final norm: everything but the output layer. */
export class LlamaModel extends Module implements Decoder {
  /** Some members of the family have it under another name. */
  declare readonly layers: Block[];
  readonly #rotary: Rotary;
  readonly #layerRotary: readonly (Rotary | null)[] | undefined;
  readonly #member: LlamaFamilyMember;
  readonly #names: typeof llamaParts;
  readonly #config: LlamaConfig;

  constructor(config: LlamaConfig, init: Initializer, member: LlamaFamilyMember = llama) {
    super();
    const { layer = llamaLayer, parts, trainsPadding = false } = member;
    const names = { ...llamaParts, ...parts };
    this.#member = member;
    this.#names = names;
    this.#config = config;
    const options = { ...(trainsPadding ? {} : paddingRow(config)), scale: config.embeddingScale };
    Object.assign(this, {
      [names.embedding]: new Embedding(config.vocabSize, config.hiddenSize, { init, ...options }),
      ...(names.embeddingNorm && { [names.embeddingNorm]: norm(config, config.hiddenSize) }),
      [names.layers]: layers(config.numHiddenLayers, (i) => layer(config, i, init)),
      [names.norm]: norm(config, config.hiddenSize),
    });
    const made = new Map(
      [config.rope, ...config.layerRopes].map((rope) => [
        rope,
        rope && new Rotary(config.rotaryDim, rope, { pairs: config.rotaryPairs }),
      ]),
    );
    this.#rotary = made.get(config.rope) as Rotary;
    if (config.layerRopes.length > 0) this.#layerRotary = config.layerRopes.map((rope) => made.get(rope) ?? null);
  }

  /** A part as it is now: an adapter may have replaced it. */
  #part<Part = Layer>(name: Exclude<keyof typeof llamaParts, "model">): Part {
    return Reflect.get(this, this.#names[name]) as Part;
  }

  get sizes(): ModelSizes {
    const { modelType, hiddenSize: width, numHiddenLayers: layers, numKeyValueHeads: heads, headDim } = this.#config;
    const { turnsAnew = false, isRecurrent = false } = this.#member;
    const stretch = { from: this.#rotary.lastUnchanged, isAnew: turnsAnew };
    return { modelType, width, layers, heads, headDim, isRecurrent, stretch };
  }

  get wordEmbedding(): Layer {
    return this.#part("embedding");
  }

  forward(inputs: TextInputs): DecoderStates {
    checkTextInputs(this.sizes, inputs);
    const { inputScale, embeddingDropout, maxPositionEmbeddings } = this.#config;
    const turned = rotaryPass(this.#rotary, inputs, maxPositionEmbeddings, this.#layerRotary);
    const keys = pastLength(inputs) + textShape(inputs)[1];
    const mask = this.#member.scoreBias?.(this.#config, turned, keys);
    const pass = mask ? { ...turned, attention: { ...turned.attention, mask } } : turned;
    const embedded = scaled(embedTokens(inputs, this.wordEmbedding), inputScale);
    const normed = this.#names.embeddingNorm ? this.#part("embeddingNorm").forward(embedded) : embedded;
    const x = dropout(normed, this.training ? embeddingDropout : 0);
    return runLayers(x, this.#part<Block[]>("layers"), pass, (y) => this.#part("norm").forward(y));
  }
}

/** A member of the family, as heads need it. */
export const llamaFamily = (member = llama): Family<"model", LlamaConfig, LlamaModel> => ({
  // the property is the first step of the paths; the type only knows Llama's name for it
  name: (member.parts?.model ?? llamaParts.model) as "model",
  read: (config) => readOnce(config, "hiddenSize", (json) => llamaConfig(json, member.modelType, member)),
  std: ({ initializerRange }) => initializerRange,
  build: (config, init = normal({ std: config.initializerRange })) => new LlamaModel(config, init, member),
  reader: (model) => model,
  ...member.names,
  pathOf(path) {
    // its name in checkpoints of question answerers
    const own = path.replace(/^model\.transformer\./, "model.");
    return member.names?.pathOf ? member.names.pathOf(own) : own;
  },
});

/** A Llama that classifies texts. */
export const LlamaForSequenceClassification = sequenceClassifier("LlamaForSequenceClassification", llamaFamily());

/** A Llama that classifies every token. */
export const LlamaForTokenClassification = tokenClassifier("LlamaForTokenClassification", llamaFamily(), "score");

/** The class of a member that extracts the answer to a question from a text; most call their base `transformer`. */
export function llamaQuestionAnswerer(name: string, member = llama) {
  const family = llamaFamily(member);
  // checkpoints with other heads use the usual name
  const pathOf = (path: string) =>
    family.pathOf?.(path.replace(/^transformer\.(model\.)?/, "model."))?.replace(/^model\./, "transformer.") ?? null;
  return questionAnswerer(name, { ...family, name: "transformer", pathOf }, { countsPadding: true });
}

/** A Llama that extracts the answer to a question from a text. */
export const LlamaForQuestionAnswering = llamaQuestionAnswerer("LlamaForQuestionAnswering");

/**
 * A Llama that predicts the next token.
 *
 * @throws {ConfigError} (constructor) for a missing key of `config` and for values that are not supported
 * @example
 * const model = new LlamaForCausalLM({ model_type: "llama", vocab_size: 512, hidden_size: 64, intermediate_size: 128,
 *   num_hidden_layers: 2, num_attention_heads: 4 });
 * const { logits, loss } = model.forward({ inputIds, labels: inputIds });   // [B, T, 512], []
 */
export class LlamaForCausalLM extends DecoderLM {
  /** Some members of the family have it under another name. */
  declare readonly model: LlamaModel;
  declare lm_head: Layer; // made after the model, whose embedding it may share
  readonly config: LlamaConfig;
  readonly #member: LlamaFamilyMember;

  /**
   * @param options.init first values of all matrices; normal with `initializer_range` when absent
   * @param member which model of the family it is
   */
  constructor(config: LlamaConfig | ConfigJson, options: { readonly init?: Initializer } = {}, member = llama) {
    super();
    checkOptions(new.target.name, options, { init: "a function" });
    requireKind(new.target.name, "an object", { member });
    const family = llamaFamily(member);
    const known = family.read(config);
    const { init = normal({ std: known.initializerRange }) } = options;
    this.config = known;
    this.#member = member;
    Object.assign(this, { [family.name]: family.build(known, init) });
    const { logitBias: bias = false } = member;
    this.lm_head = new Linear(known.hiddenSize, known.vocabSize, { bias, init, initBias: zeros, ...tied(known, this.backbone) });
  }

  get backbone(): LlamaModel {
    return Reflect.get(this, this.part.name) as LlamaModel;
  }

  protected get part(): NamedPart {
    return llamaFamily(this.#member);
  }

  protected override addedLoss(pass: Pass): Tensor | undefined {
    return this.#member.addedLoss?.(this.config, pass);
  }

  protected override toLogits(states: Tensor): Tensor {
    return softcap(scaled(super.toLogits(states), this.config.logitScale), this.config.logitSoftcap);
  }
}

/** The class of another member of the family that predicts the next token. */
export function llamaCausalLM(name: string, member: LlamaFamilyMember): ClassOf<LlamaForCausalLM, LlamaConfig> {
  class MemberForCausalLM extends LlamaForCausalLM {
    static readonly family = llamaFamily(member);
    constructor(config: LlamaConfig | ConfigJson, options: { readonly init?: Initializer } = {}) {
      super(config, options, member);
    }
  }
  return Object.defineProperty(MemberForCausalLM, "name", { value: name });
}
