/** Mixtures of experts in GGUF files: all experts' matrices of a kind in one tensor, or, in files of before 2024-04, one by one. */
import type { ConfigJson } from "../models/config-reader.ts";
import type { GgufTensor } from "./gguf.ts";
import type { GgufSettings } from "./gguf-model.ts";
import type { StoredTensor } from "./safetensors.ts";

/** What the architectures that have experts say of them. */
export const expertConfig = (settings: GgufSettings): ConfigJson => ({
  [settings.architecture === "llama" ? "num_local_experts" : "num_experts"]: settings.number("expert_count"),
  num_experts_per_tok: settings.number("expert_used_count"),
});

/** How Mixtral's checkpoints call an expert's matrices, and how all others do. */
const namesOf = {
  mixtral: { block: "block_sparse_moe", gate: "w1", up: "w3", down: "w2" },
  others: { block: "mlp", gate: "gate_proj", up: "up_proj", down: "down_proj" },
} as const;

/** The matrices of single experts that a tensor has, as checkpoints have them; nothing where it has none. */
export function expertTensors(tensor: GgufTensor, modelType: unknown): StoredTensor[] | undefined {
  const [, layer, kind, expert] = /^blk\.(\d+)\.ffn_(gate|up|down)(?:_exps|\.(\d+))\.weight$/.exec(tensor.name) ?? [];
  if (layer === undefined) return undefined;
  const { block, ...leaves } = namesOf[modelType === "mixtral" ? "mixtral" : "others"];
  const nameOf = (e: number | string) =>
    `model.layers.${layer}.${block}.experts.${e}.${leaves[kind as keyof typeof leaves]}.weight`;
  if (expert !== undefined) return [{ ...tensor, name: nameOf(expert) }];
  const [experts = 0, ...shape] = tensor.shape;
  const size = shape.reduce((product, extent) => product * extent, 1);
  return Array.from({ length: experts }, (_, e) => ({
    ...tensor,
    name: nameOf(e),
    shape,
    byteLength: tensor.byteLength / experts,
    load: (from = 0, to = size) => tensor.load(e * size + from, e * size + to),
  }));
}
