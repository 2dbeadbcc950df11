/** The model, adapter and batch that `spec.json` describes, built from its own random numbers so that every engine starts from the same bits. */
import { readFileSync } from "node:fs";
import { currentDevice, upload } from "../src/compile/program.ts";
import type { Tensor } from "../src/graph/node.ts";
import { LlamaForCausalLM } from "../src/models/llama.ts";
import type { Parameter } from "../src/nn/module.ts";
import { attach } from "../src/peft/attach.ts";
import { lora } from "../src/peft/methods/lora.ts";

/** Both files lie beside the source, not beside the compiled code. */
const read = (name: string): unknown => {
  const here = new URL(`./${name}`, import.meta.url);
  const source = new URL(`../../bench/${name}`, import.meta.url);
  for (const url of [here, source]) {
    try {
      return JSON.parse(readFileSync(url, "utf8"));
    } catch {}
  }
  throw new Error(`bench: ${name} is missing`);
};

export interface Spec {
  readonly model: {
    readonly vocab: number;
    readonly dim: number;
    readonly layers: number;
    readonly heads: number;
    readonly ffn: number;
    readonly seq: number;
    readonly batch: number;
    readonly ropeTheta: number;
    readonly rmsEps: number;
    readonly initStd: number;
  };
  readonly lora: { readonly r: number; readonly alpha: number; readonly targets: readonly string[] };
  readonly optim: {
    readonly lr: number;
    readonly beta1: number;
    readonly beta2: number;
    readonly eps: number;
    readonly weightDecay: number;
  };
  readonly train: { readonly steps: number; readonly warmup: number; readonly flopsPerStep: number };
}

export const spec = read("spec.json") as Spec;
/** PyTorch's losses in float32, and the same in float64 (float64_losses.py), which both PyTorch and we round. */
export const expected = read("expected.json") as { readonly train: { readonly losses: readonly number[] } };
export const exact = read("expected-float64.json") as { readonly losses: readonly number[] };

function fnv1a(text: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193) >>> 0;
  return hash;
}

/** mulberry32, seeded by the tensor's name: values in [0, 1). */
function uniform(name: string, count: number): Float64Array {
  const values = new Float64Array(count);
  let state = fnv1a(name);
  for (let i = 0; i < count; i++) {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    values[i] = ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  }
  return values;
}

function values(name: string, count: number, std: number): Float32Array {
  const u = uniform(name, count);
  const scale = Math.sqrt(3) * std;
  return Float32Array.from(u, (x) => (2 * x - 1) * scale);
}

const set = (parameter: Parameter, data: Float32Array): void =>
  parameter.assign(upload(currentDevice(), data, parameter.shape, "float32"));

/** A Llama of such sizes, all zeros. */
export function llamaOf(sizes: Omit<typeof spec.model, "batch" | "initStd">): LlamaForCausalLM {
  const { vocab, dim, layers, heads, ffn, seq, ropeTheta, rmsEps } = sizes;
  return new LlamaForCausalLM({
    model_type: "llama",
    vocab_size: vocab,
    hidden_size: dim,
    intermediate_size: ffn,
    num_hidden_layers: layers,
    num_attention_heads: heads,
    num_key_value_heads: heads,
    max_position_embeddings: seq,
    rms_norm_eps: rmsEps,
    rope_theta: ropeTheta,
    tie_word_embeddings: true,
  });
}

/** The model with all its weights, and no adapter. */
export function buildBase(): LlamaForCausalLM {
  const model = llamaOf(spec.model);
  const { initStd } = spec.model;
  for (const [path, parameter] of model.namedParameters()) {
    const weight = /layers\.(\d+)\.\w+\.(\w+_proj)\.weight$/.exec(path);
    if (weight) set(parameter, values(`layers.${weight[1]}.${weight[2]}`, parameter.size, initStd));
    else if (path.includes("embed_tokens")) set(parameter, values("embed", parameter.size, initStd));
  }
  return model;
}

/** The frozen model with a LoRA adapter on q, k, v and o, and the adapter's parameters. */
export function buildModel(): { model: LlamaForCausalLM; parameters: Parameter[] } {
  const { dim } = spec.model;
  const model = buildBase();
  attach(model, lora({ r: spec.lora.r, loraAlpha: spec.lora.alpha, targetModules: [...spec.lora.targets] }));
  const parameters: Parameter[] = [];
  for (const [path, parameter] of model.namedParameters()) {
    if (!parameter.requiresGrad) continue;
    parameters.push(parameter);
    const name = /layers\.(\d+)\.\w+\.(\w+_proj)\.(lora_[AB])/.exec(path);
    if (!name) throw new Error(`bench: "${path}" is trainable but not of the adapter`);
    if (name[3] === "lora_A") set(parameter, values(`layers.${name[1]}.${name[2]}.lora_A`, parameter.size, 1 / Math.sqrt(dim)));
  }
  return { model, parameters };
}

/** Token ids and their successors, both [batch, seq] int32. */
export function buildBatch(): { inputIds: Tensor; targets: Tensor } {
  const { vocab, seq, batch } = spec.model;
  const u = uniform("tokens", batch * (seq + 1));
  const token = (b: number, t: number) => Math.floor(u[b * (seq + 1) + t]! * vocab);
  const ids = new Int32Array(batch * seq);
  const next = new Int32Array(batch * seq);
  for (let b = 0; b < batch; b++)
    for (let t = 0; t < seq; t++) {
      ids[b * seq + t] = token(b, t);
      next[b * seq + t] = token(b, t + 1);
    }
  const tensor = (data: Int32Array) => upload(currentDevice(), data, [batch, seq], "int32");
  return { inputIds: tensor(ids), targets: tensor(next) };
}
