/**
 * Adapters of mlx-lm, `adapters.safetensors` beside a config of the training run, as what PEFT's files would say: `lora_a` [in, r] and
 * `lora_b` [r, out] the other way round, `scale` in the place of lora_alpha / r, DoRA's `m` as the magnitude vector.
 *
 * @see mlx-lm `tuner/lora.py`, `tuner/dora.py`, `tuner/utils.py` (`load_adapters`)
 */
import { FormatError, isRecord, wordJson, wordShape } from "../errors.ts";
import type { StoredTensor } from "./safetensors.ts";

/** What mlx-lm calls the file of weights. */
export const mlxWeightsFile = "adapters.safetensors";

/**
 * @param json the text of mlx-lm's `adapter_config.json`
 * @returns the text of PEFT's, and the tensors by their names there
 * @throws {FormatError} for what PEFT's LoRA and DoRA have no place for
 */
export function asPeft(json: string, tensors: ReadonlyMap<string, StoredTensor>, source: string) {
  const fail = (problem: string, got?: unknown, hint?: string) =>
    new FormatError(`${source} ${problem}`, { operation: "readAdapter", got, ...(hint !== undefined && { hint }) });
  const config: unknown = JSON.parse(json);
  const { fine_tune_type: type = "lora", lora_parameters: settings, model } = isRecord(config) ? config : {};
  if (type !== "lora" && type !== "dora")
    throw fail(`is of a training of kind ${wordJson(type)}.`, type, "Write the whole model with mlx_lm.fuse and load that.");
  const { rank, scale, dropout = 0 } = isRecord(settings) ? settings : {};
  if (typeof scale !== "number") throw fail("has no `scale` among its `lora_parameters`.", settings);
  const found = new Map<string, StoredTensor>();
  const paths = new Set<string>();
  const ranks = new Set<unknown>(rank === undefined ? [] : [rank]);
  for (const tensor of tensors.values()) {
    const [, path = "", leaf = ""] = /^(.*)\.(lora_a|lora_b|m)$/.exec(tensor.name) ?? [];
    if (path === "") throw fail(`has ${wordJson(tensor.name)} beside it, which is no part of LoRA or DoRA.`, tensor.name);
    if (tensor.shape.length !== (leaf === "m" ? 1 : 2))
      throw fail(`has ${wordJson(tensor.name)} of ${wordShape(tensor.shape)} beside it; experts are not read.`, tensor.shape);
    const key = { lora_a: "lora_A.weight", lora_b: "lora_B.weight", m: "lora_magnitude_vector" }[leaf] as string;
    const name = `base_model.model.${path}.${key}`;
    found.set(name, leaf === "m" ? { ...tensor, name } : turned(tensor, name));
    if (leaf === "lora_a") ranks.add(tensor.shape[1]);
    paths.add(path);
  }
  const [r] = ranks as ReadonlySet<number>;
  if (r === undefined || ranks.size > 1)
    throw fail(`speaks of rank ${wordJson(rank)}, the file has ${wordJson([...ranks])}.`, rank);
  const peft = {
    peft_type: "LORA",
    task_type: "CAUSAL_LM",
    base_model_name_or_path: model,
    r,
    lora_alpha: scale * r,
    lora_dropout: dropout,
    use_dora: type === "dora",
    target_modules: [...paths],
  };
  return { json: JSON.stringify(peft), tensors: found };
}

/** [n, m] as [m, n], read whole. */
function turned(tensor: StoredTensor, name: string): StoredTensor {
  const [n, m] = tensor.shape as [number, number];
  const load = async (from = 0, to = n * m) => {
    const values = await tensor.load();
    return values.map((_, i) => values[(i % n) * m + Math.floor(i / n)] as number).slice(from, to);
  };
  return { name, dtype: tensor.dtype, storedDType: tensor.storedDType, shape: [m, n], byteLength: tensor.byteLength, load };
}
