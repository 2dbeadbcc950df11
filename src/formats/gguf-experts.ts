/** Mixtures of experts in GGUF files: all experts' matrices of a kind in one tensor, or, in files of before 2024-04, one by one. */
import { toFloat32 } from "../graph/dtype.ts";
import type { ConfigJson } from "../models/config-reader.ts";
import type { GgufTensor } from "./gguf.ts";
import type { GgufSettings } from "./gguf-model.ts";
import type { StoredTensor } from "./safetensors.ts";

/** What the architectures that have experts say of them. */
export const expertConfig = (settings: GgufSettings): ConfigJson => ({
  [["llama", "gpt-oss"].includes(settings.architecture) ? "num_local_experts" : "num_experts"]: settings.number("expert_count"),
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
  if (layer === undefined || modelType === "gpt_oss") return undefined;
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

/** gpt-oss' experts as checkpoints have them, whose matrices are [in, out], and the gate's values in turns with what they gate. */
export function inTurns(tensors: Map<string, StoredTensor>): void {
  for (const [name, tensor] of [...tensors]) {
    const [, path, part, leaf] = /^(.*\.experts\.)(gate|down)_proj\.(weight|bias)$/.exec(name) ?? [];
    if (path === undefined) continue;
    const others = part === "gate" ? [`${path}up_proj.${leaf}`] : [];
    const parts = [tensor, ...others.flatMap((other) => tensors.get(other) ?? [])];
    for (const used of [name, ...others]) tensors.delete(used);
    const joined = `${path}${part === "gate" ? "gate_up" : "down"}_proj${leaf === "bias" ? "_bias" : ""}`;
    tensors.set(joined, { ...turned(parts), name: joined });
  }
}

/** n times [E, out, in] or [E, out] as [E, in, n·out] or [E, n·out]. */
function turned(parts: readonly StoredTensor[]): Omit<StoredTensor, "name"> {
  const [E = 0, out = 0, ...rest] = parts[0]!.shape;
  const [into = 1] = rest;
  const width = parts.length * out;
  const size = into * width;
  const load = async (from = 0, to = E * size) => {
    const [first, last] = [Math.floor(from / size), Math.ceil(to / size)]; // whole experts
    const result = new Float32Array((last - first) * size);
    for (const [p, part] of parts.entries()) {
      const values = toFloat32(await part.load(first * out * into, last * out * into), part.dtype);
      for (let i = 0, row = 0; i < values.length; row++) {
        const place = Math.floor(row / out) * size + (row % out) * parts.length + p;
        for (let column = 0; column < into; column++) result[place + column * width] = values[i++]!;
      }
    }
    return result.subarray(from - first * size, to - first * size);
  };
  const byteLength = parts.reduce((sum, part) => sum + part.byteLength, 0);
  return { dtype: "float32", storedDType: "F32", shape: [E, ...rest, width], byteLength, load };
}
