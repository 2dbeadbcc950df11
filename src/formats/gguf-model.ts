/**
 * A model in a GGUF file, as Hugging Face has it: the `config.json` that its metadata mean, and its tensors under the names, in
 * the order of rows and with the offsets of `model.safetensors`. What llama.cpp's converter does to a model is undone here.
 *
 * @see https://github.com/ggml-org/llama.cpp/blob/master/convert_hf_to_gguf.py
 */
import { FormatError, nearestName, requireKind, wordJson } from "../errors.ts";
import type { ConfigJson } from "../models/config-reader.ts";
import type { GgufFile } from "./gguf.ts";
import { asRow, type Change, lessOne, pairedRows, transposed } from "./gguf-change.ts";
import { expertConfig, expertTensors, inTurns } from "./gguf-experts.ts";
import { longFactors, scaledFrequencies } from "./gguf-rope.ts";
import type { StoredTensor } from "./safetensors.ts";
import { type Checkpoint, checkpoint } from "./sharded.ts";

/** Metadata of one architecture: keys without the prefix. */
export class GgufSettings {
  readonly file: GgufFile;
  readonly architecture: string;

  constructor(file: GgufFile) {
    this.file = file;
    requireKind("ggufModel", "a Map", { "file.metadata": (file as Partial<GgufFile> | null)?.metadata });
    const architecture = file.metadata.get("general.architecture");
    if (typeof architecture !== "string") throw this.refuse("general.architecture", architecture, "must name an architecture");
    this.architecture = architecture;
  }

  /** A number, if it is there. @throws {FormatError} when it is something else */
  optional(key: string): number | undefined {
    const path = `${this.architecture}.${key}`;
    const value = this.file.metadata.get(path);
    // some converters write one number per layer
    const same = Array.isArray(value) && value.length > 0 && value.every((each) => each === value[0]) ? value[0] : value;
    if (same !== undefined && typeof same !== "number") throw this.refuse(path, value, "must be a number");
    return same;
  }

  /** A number. @throws {FormatError} when it is something else, or not there */
  number(key: string): number {
    const value = this.optional(key);
    if (value === undefined) throw this.refuse(`${this.architecture}.${key}`, value, "must be a number");
    return value;
  }

  text(key: string): string | undefined {
    const value = this.file.metadata.get(`${this.architecture}.${key}`);
    return typeof value === "string" ? value : undefined;
  }

  /** The number of a special token. */
  token(key: string): number | undefined {
    const value = this.file.metadata.get(`tokenizer.ggml.${key}_token_id`);
    return typeof value === "number" ? value : undefined;
  }

  has(tensor: string): boolean {
    return this.file.tensors.has(tensor);
  }

  refuse(key: string, got: unknown, problem: string): FormatError {
    return new FormatError(
      got === undefined
        ? `${this.file.source} has no metadata key ${wordJson(key)}.`
        : `${this.file.source} has ${wordJson(key)} (= ${wordJson(got)}), which ${problem}.`,
      { operation: "readGguf", got },
    );
  }
}

/** Names in the file and in Hugging Face's checkpoints; `N` is a layer's number. */
type Names = Readonly<Record<string, string>>;

/** How one architecture differs. */
interface Architecture {
  readonly modelType: string;
  readonly names: Names;
  /** Keys of `config.json` beyond those that all have. */
  config?(settings: GgufSettings): ConfigJson | Promise<ConfigJson>;
  /** How the converter changed a tensor, by Hugging Face's name. */
  change?(name: string, settings: GgufSettings): Change | undefined;
  /** Puts together what the converter has taken apart, by Hugging Face's names. */
  join?(tensors: Map<string, StoredTensor>): void;
}

const llamaNames: Names = {
  token_embd: "model.embed_tokens",
  output_norm: "model.norm",
  output: "lm_head",
  "blk.N.attn_norm": "model.layers.N.input_layernorm",
  "blk.N.attn_q": "model.layers.N.self_attn.q_proj",
  "blk.N.attn_k": "model.layers.N.self_attn.k_proj",
  "blk.N.attn_v": "model.layers.N.self_attn.v_proj",
  "blk.N.attn_q_norm": "model.layers.N.self_attn.q_norm",
  "blk.N.attn_k_norm": "model.layers.N.self_attn.k_norm",
  "blk.N.attn_output": "model.layers.N.self_attn.o_proj",
  "blk.N.ffn_norm": "model.layers.N.post_attention_layernorm",
  "blk.N.ffn_gate": "model.layers.N.mlp.gate_proj",
  "blk.N.ffn_up": "model.layers.N.mlp.up_proj",
  "blk.N.ffn_down": "model.layers.N.mlp.down_proj",
  "blk.N.ffn_gate_inp": "model.layers.N.mlp.gate",
};

/** A scaling of positions that is numbers; others are in tensors. @throws {FormatError} for one that is not supported */
function namedScaling(settings: GgufSettings): ConfigJson | undefined {
  const type = settings.text("rope.scaling.type") ?? "none";
  if (type === "none" || type === "longrope") return undefined;
  if (type !== "linear" && type !== "yarn")
    throw settings.refuse(`${settings.architecture}.rope.scaling.type`, type, "is not supported");
  const factor = settings.number("rope.scaling.factor");
  if (type === "linear") return { rope_type: type, factor };
  return defined({
    rope_type: type,
    factor,
    original_max_position_embeddings: settings.optional("rope.scaling.original_context_length"),
    attention_factor: settings.optional("rope.scaling.yarn_attn_factor"),
    beta_fast: settings.optional("rope.scaling.yarn_beta_fast"),
    beta_slow: settings.optional("rope.scaling.yarn_beta_slow"),
  });
}

/** What the whole Llama family has. */
function llamaConfig(settings: GgufSettings): ConfigJson {
  return defined({
    hidden_size: settings.number("embedding_length"),
    intermediate_size: settings.number("feed_forward_length"),
    num_hidden_layers: settings.number("block_count"),
    num_attention_heads: settings.number("attention.head_count"),
    num_key_value_heads: settings.optional("attention.head_count_kv"),
    head_dim: settings.optional("attention.key_length"),
    max_position_embeddings: settings.number("context_length"),
    rms_norm_eps: settings.number("attention.layer_norm_rms_epsilon"),
    rope_theta: settings.optional("rope.freq_base") ?? 10000,
    rope_scaling: namedScaling(settings),
  });
}

const gemma2Names: Names = {
  ...llamaNames,
  "blk.N.post_attention_norm": "model.layers.N.post_attention_layernorm",
  "blk.N.ffn_norm": "model.layers.N.pre_feedforward_layernorm",
  "blk.N.post_ffw_norm": "model.layers.N.post_feedforward_layernorm",
};

/**
 * What Gemma 2 and 3 have. The scale of queries is not in the file: that of the largest model is another one (llama.cpp,
 * src/llama-model.cpp, LLM_ARCH_GEMMA2 and LLM_ARCH_GEMMA3).
 */
function gemma2Config(settings: GgufSettings, layersOfLargest: number): ConfigJson {
  const llama = llamaConfig(settings);
  const headDim = settings.number("embedding_length") / settings.number("attention.head_count");
  return defined({
    ...llama,
    attn_logit_softcapping: settings.optional("attn_logit_softcapping"),
    final_logit_softcapping: settings.optional("final_logit_softcapping"),
    sliding_window: settings.optional("attention.sliding_window"),
    query_pre_attn_scalar: settings.number("block_count") === layersOfLargest ? headDim : (llama["head_dim"] ?? headDim),
  });
}

const gemmaChange = (name: string): Change | undefined => (name.endsWith("norm.weight") ? lessOne : undefined);

const pairedProjection = /self_attn\.(q|k)_proj\.(?:weight|bias)$/;

/** Queries and keys of the models whose rows of a head the converter moves. */
function pairedProjections(name: string, settings: GgufSettings): Change | undefined {
  const [, which] = pairedProjection.exec(name) ?? [];
  const heads = settings.number("attention.head_count");
  if (which === undefined) return undefined;
  return pairedRows(which === "q" ? heads : (settings.optional("attention.head_count_kv") ?? heads));
}

/** OLMo 3 goes under the name of OLMo 2, and has windows. */
function olmoConfig(settings: GgufSettings): ConfigJson {
  const isSliding = settings.file.metadata.get("olmo2.attention.sliding_window_pattern");
  const layer_types =
    Array.isArray(isSliding) && isSliding.map((each) => (each === true ? "sliding_attention" : "full_attention"));
  const windows = layer_types && {
    model_type: "olmo3",
    sliding_window: settings.number("attention.sliding_window"),
    layer_types,
  };
  return { ...llamaConfig(settings), ...windows };
}

/** By `general.architecture`. */
const architectures: Readonly<Record<string, Architecture>> = {
  llama: {
    modelType: "llama", // Mistral is written as llama too, and computes the same; so is Mixtral
    names: llamaNames,
    async config(settings) {
      const bias = settings.has("blk.0.attn_q.bias");
      const headDim = settings.optional("rope.dimension_count");
      const scaling = await scaledFrequencies(settings);
      return defined({
        ...llamaConfig(settings),
        ...(settings.optional("expert_count") ? { model_type: "mixtral", ...expertConfig(settings) } : {}),
        ...(headDim === undefined ? {} : { head_dim: settings.optional("attention.key_length") ?? headDim }),
        ...(scaling && { rope_scaling: scaling }),
        attention_bias: bias,
        mlp_bias: settings.has("blk.0.ffn_up.bias"),
      });
    },
    change: pairedProjections,
  },
  qwen2: { modelType: "qwen2", names: llamaNames, config: llamaConfig },
  qwen3: { modelType: "qwen3", names: llamaNames, config: llamaConfig },
  qwen2moe: {
    modelType: "qwen2_moe",
    names: {
      ...llamaNames,
      "blk.N.ffn_gate_inp_shexp": "model.layers.N.mlp.shared_expert_gate",
      "blk.N.ffn_gate_shexp": "model.layers.N.mlp.shared_expert.gate_proj",
      "blk.N.ffn_up_shexp": "model.layers.N.mlp.shared_expert.up_proj",
      "blk.N.ffn_down_shexp": "model.layers.N.mlp.shared_expert.down_proj",
    },
    config: (settings) =>
      defined({
        ...llamaConfig(settings),
        ...expertConfig(settings),
        moe_intermediate_size: settings.optional("expert_feed_forward_length"),
        shared_expert_intermediate_size: settings.optional("expert_shared_feed_forward_length"),
      }),
    change: (name) => (name.endsWith("shared_expert_gate.weight") ? asRow : undefined),
  },
  qwen3moe: {
    modelType: "qwen3_moe",
    names: llamaNames,
    config: (settings) => ({
      ...llamaConfig(settings),
      ...expertConfig(settings),
      moe_intermediate_size: settings.number("expert_feed_forward_length"),
      norm_topk_prob: true,
    }),
  },
  olmoe: {
    modelType: "olmoe",
    names: llamaNames,
    config: (settings) => ({ ...llamaConfig(settings), ...expertConfig(settings) }),
  },
  "gpt-oss": {
    modelType: "gpt_oss",
    names: {
      ...llamaNames,
      "blk.N.attn_sinks": "model.layers.N.self_attn.sinks",
      "blk.N.post_attention_norm": "model.layers.N.post_attention_layernorm",
      "blk.N.ffn_gate_inp": "model.layers.N.mlp.router",
      "blk.N.ffn_gate_exps": "model.layers.N.mlp.experts.gate_proj",
      "blk.N.ffn_up_exps": "model.layers.N.mlp.experts.up_proj",
      "blk.N.ffn_down_exps": "model.layers.N.mlp.experts.down_proj",
    },
    config(settings) {
      const scaling = namedScaling(settings);
      return defined({
        ...llamaConfig(settings),
        ...expertConfig(settings),
        intermediate_size: settings.optional("expert_feed_forward_length") ?? settings.number("feed_forward_length"),
        sliding_window: settings.optional("attention.sliding_window"),
        attention_bias: settings.has("blk.0.attn_q.bias"),
        rope_scaling: scaling && { ...scaling, truncate: false }, // of which files do not speak
      });
    },
    join: inTurns,
  },
  gemma: { modelType: "gemma", names: llamaNames, config: llamaConfig, change: gemmaChange },
  gemma2: {
    modelType: "gemma2",
    names: gemma2Names,
    config: (settings) => gemma2Config(settings, 46),
    change: gemmaChange,
  },
  gemma3: {
    modelType: "gemma3_text",
    names: gemma2Names,
    config: (settings) =>
      defined({ ...gemma2Config(settings, 62), rope_local_base_freq: settings.optional("rope.freq_base_swa") }),
    change: gemmaChange,
  },
  smollm3: { modelType: "smollm3", names: llamaNames, config: llamaConfig, change: pairedProjections },
  olmo2: { modelType: "olmo2", names: gemma2Names, config: olmoConfig },
  granite: {
    modelType: "granite",
    names: llamaNames,
    config: (settings) =>
      defined({
        ...llamaConfig(settings),
        attention_multiplier: settings.optional("attention.scale"),
        embedding_multiplier: settings.optional("embedding_scale"),
        residual_multiplier: settings.optional("residual_scale"),
        logits_scaling: settings.optional("logit_scale"),
      }),
    change: pairedProjections,
  },
  phi3: {
    modelType: "phi3",
    names: {
      ...llamaNames,
      "blk.N.attn_qkv": "model.layers.N.self_attn.qkv_proj",
      "blk.N.ffn_up": "model.layers.N.mlp.gate_up_proj",
    },
    async config(settings) {
      const llama = llamaConfig(settings);
      const headDim = Number(llama["head_dim"] ?? settings.number("embedding_length") / settings.number("attention.head_count"));
      const turned = settings.optional("rope.dimension_count") ?? headDim;
      const scaling = await longFactors(settings);
      return defined({
        ...llama,
        ...(scaling && {
          rope_scaling: scaling,
          original_max_position_embeddings: settings.number("rope.scaling.original_context_length"),
        }),
        partial_rotary_factor: turned === headDim ? undefined : turned / headDim,
        sliding_window: settings.optional("attention.sliding_window") || undefined,
      });
    },
  },
  gpt2: {
    modelType: "gpt2",
    names: {
      token_embd: "transformer.wte",
      position_embd: "transformer.wpe",
      output_norm: "transformer.ln_f",
      output: "lm_head",
      "blk.N.attn_norm": "transformer.h.N.ln_1",
      "blk.N.attn_qkv": "transformer.h.N.attn.c_attn",
      "blk.N.attn_output": "transformer.h.N.attn.c_proj",
      "blk.N.ffn_norm": "transformer.h.N.ln_2",
      "blk.N.ffn_up": "transformer.h.N.mlp.c_fc",
      "blk.N.ffn_down": "transformer.h.N.mlp.c_proj",
    },
    config: (settings) => ({
      n_embd: settings.number("embedding_length"),
      n_inner: settings.number("feed_forward_length"),
      n_layer: settings.number("block_count"),
      n_head: settings.number("attention.head_count"),
      n_positions: settings.number("context_length"),
      layer_norm_epsilon: settings.number("attention.layer_norm_epsilon"),
    }),
    change: (name) => (/\.(c_attn|c_proj|c_fc)\.weight$/.test(name) ? transposed : undefined),
  },
};

/** Tensors that become part of the configuration. */
const intoConfig = /^rope_(freqs|factors_(long|short))\.weight$/;

const defined = (entries: Readonly<Record<string, unknown>>): ConfigJson =>
  Object.fromEntries(Object.entries(entries).filter(([, value]) => value !== undefined));

/** A model as its GGUF file describes it. */
export interface GgufModel {
  /** What `config.json` would say. */
  readonly config: ConfigJson;
  /** The tensors under Hugging Face's names. */
  readonly checkpoint: Checkpoint;
}

/**
 * What a GGUF file means in Hugging Face's terms.
 *
 * @throws {FormatError} for an architecture, a scaling of positions or a type of tensor that is not supported, and for missing keys
 */
export async function ggufModel(file: GgufFile): Promise<GgufModel> {
  const settings = new GgufSettings(file);
  const architecture = Object.hasOwn(architectures, settings.architecture) ? architectures[settings.architecture] : undefined;
  if (!architecture) {
    const near = nearestName(settings.architecture, Object.keys(architectures));
    throw new FormatError(
      `${file.source} is of the architecture ${wordJson(settings.architecture)}, which is not one of ${Object.keys(architectures).join(", ")}.`,
      {
        operation: "readGguf",
        expected: Object.keys(architectures),
        got: settings.architecture,
        ...(near ? { hint: `The nearest is "${near}".` } : {}),
      },
    );
  }
  const embedding = file.tensors.get("token_embd.weight");
  const config = defined({
    model_type: architecture.modelType,
    vocab_size: embedding?.shape[0],
    ...(await architecture.config?.(settings)),
    tie_word_embeddings: !settings.has("output.weight"),
    bos_token_id: settings.token("bos"),
    eos_token_id: settings.token("eos"),
    pad_token_id: settings.token("padding"),
  });
  const tensors = new Map<string, StoredTensor>();
  for (const tensor of file.tensors.values()) {
    if (intoConfig.test(tensor.name)) continue;
    const ofExperts = expertTensors(tensor, config["model_type"]);
    for (const each of ofExperts ?? []) tensors.set(each.name, each);
    if (ofExperts) continue;
    const name = nameOf(tensor.name, architecture.names);
    const change = architecture.change?.(name, settings);
    tensors.set(name, { ...tensor, ...change?.(tensor), name });
  }
  architecture.join?.(tensors);
  return { config, checkpoint: checkpoint({ source: file.source, metadata: new Map(), tensors }, [file.source]) };
}

/** Where the weights of a kind of model are in GGUF files. */
export interface GgufPlaces {
  readonly architecture: string;
  /** The file's name of a weight by Hugging Face's, if it has one. */
  nameOf(weight: string): string | undefined;
  /** Whether the rows of this weight lie in the file with the pairs that rotary positions turn next to each other. */
  arePaired(weight: string): boolean;
}

/** Model types that are written as another one. */
const writtenAs: Readonly<Record<string, string>> = { mistral: "llama", mixtral: "llama", olmo3: "olmo2" };

/** Undefined for a kind of model that has no place in GGUF files. */
export function ggufPlaces(modelType: string): GgufPlaces | undefined {
  const kind = writtenAs[modelType] ?? modelType;
  const found = Object.entries(architectures).find(([, { modelType }]) => modelType === kind);
  if (!found) return undefined;
  const [architecture, { names, change }] = found;
  const places = new Map(Object.entries(names).map(([inFile, name]) => [name, inFile]));
  return {
    architecture,
    nameOf(weight) {
      const [, path = "", leaf = ""] = /^(.*)(\.(?:weight|bias))$/.exec(weight) ?? [];
      const [, layer] = /\.(\d+)\./.exec(path) ?? [];
      const place = places.get(path.replace(/\.\d+\./, ".N."));
      return place && place.replace("N", layer ?? "N") + leaf;
    },
    arePaired: (weight) => change === pairedProjections && pairedProjection.test(weight),
  };
}

/** Hugging Face's name of a tensor; the file's own where there is none, which the model then does not know. */
function nameOf(name: string, names: Names): string {
  const [, layer, kind] = /^(?:blk\.(\d+)\.)?(.*?)\.(?:weight|bias)$/.exec(name) ?? [];
  const found = kind === undefined ? undefined : names[layer === undefined ? kind : `blk.N.${kind}`];
  if (found === undefined) return name;
  const path = found.replace("N", layer ?? "N");
  return path.endsWith(".sinks") ? path : path + name.slice(name.lastIndexOf("."));
}
