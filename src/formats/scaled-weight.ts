/**
 * Weights of eight bits beside their scales, as DeepSeek's and Qwen's float8 checkpoints and the plain formats of compressed-tensors have
 * them: `<layer>.weight` times `<layer>.weight_scale_inv` or `<layer>.weight_scale`, one number for the tensor, a row, a group or a block.
 * They are read as float32, the product rounded once. Scales of activations and of caches, which only kernels of eight bits use, are left out.
 *
 * @see transformers `integrations/finegrained_fp8.py`, `Fp8Dequantize`; compressed-tensors `compressors/naive_quantized`
 */
import { FormatError, isRecord, wordJson, wordShape } from "../errors.ts";
import { toFloat32 } from "../graph/dtype.ts";
import { sizeOf } from "../graph/shape.ts";
import type { StoredTensor } from "./safetensors.ts";
import { type Checkpoint, checkpoint } from "./sharded.ts";

/** Rows and columns that share a scale. */
type Block = readonly [rows: number, columns: number];
type Fail = (problem: string, got?: unknown) => FormatError;

const activations = /\.(activation_scale|input_(global_)?scale(_ub)?|output_scale|[kqv]_scale)$/;
const methods: readonly unknown[] = ["fp8", "mxfp8", "fbgemm_fp8", "modelopt", "compressed-tensors"];
const isFloat8 = ({ storedDType }: StoredTensor) => storedDType.startsWith("F8_");

/**
 * The checkpoint with weights in the place of codes and scales; as it is when `quantization` says nothing of such.
 *
 * @param quantization `quantization_config` of config.json
 * @throws {FormatError} when scales are missing or do not fit their weight
 */
export function widenScaled(from: Checkpoint, quantization: unknown): Checkpoint {
  // ModelOpt may say it in a file of its own
  const settings = isRecord(quantization) ? quantization : { quant_method: "modelopt" };
  if (!methods.includes(settings["quant_method"])) return from;
  const blocks = blocksOf(settings);
  const tensors = new Map<string, StoredTensor>([...from.tensors].filter(([name]) => !activations.test(name)));
  for (const [name, weight] of [...tensors]) {
    if (!name.endsWith(".weight")) continue;
    const fail: Fail = (problem, got) =>
      new FormatError(`${wordJson(name)} of ${from.source} ${problem}`, { operation: "loadModel", got });
    const found = ["_scale_inv", "_scale"].find((suffix) => tensors.has(`${name}${suffix}`));
    if (found === undefined) {
      if (isFloat8(weight) && isRecord(quantization))
        throw fail(`is ${weight.storedDType}, but has no scales ("weight_scale_inv" or "weight_scale").`);
      continue;
    }
    const [scales, zeros] = [tensors.get(`${name}${found}`) as StoredTensor, tensors.get(`${name}_zero_point`)];
    for (const part of [found, "_zero_point"]) tensors.delete(`${name}${part}`);
    tensors.set(name, widened(weight, scales, zeros, blocks, fail));
  }
  return checkpoint({ ...from, tensors }, from.files);
}

/** The blocks that a configuration speaks of. */
function blocksOf(quantization: Readonly<Record<string, unknown>>): readonly Block[] {
  const isBlock = (value: unknown): value is Block =>
    Array.isArray(value) && value.length === 2 && value.every((side) => Number.isInteger(side) && side > 0);
  const { quant_method: method, weight_block_size: size = [128, 128], config_groups: groups } = quantization;
  if (method === "fp8" || method === "mxfp8") return [size].filter(isBlock);
  const schemes = Object.values(isRecord(groups) ? groups : {}).map((group) => isRecord(group) && group["weights"]);
  return schemes.map((weights) => isRecord(weights) && weights["block_structure"]).filter(isBlock);
}

function widened(
  weight: StoredTensor,
  scales: StoredTensor,
  zeros: StoredTensor | undefined,
  blocks: readonly Block[],
  fail: Fail,
): StoredTensor {
  const { name, shape } = weight;
  if (shape.length !== 2 || !(isFloat8(weight) || weight.storedDType === "I8"))
    throw fail(`is ${wordShape(shape)} ${weight.storedDType} and has scales, which belong to matrices of eight bits.`, shape);
  const [rows, columns] = shape as [number, number];
  // one number has any shape; a list has one for each row
  const grid = sizeOf(scales.shape) === 1 ? [1, 1] : scales.shape.length === 1 ? [scales.shape[0] as number, 1] : scales.shape;
  const [down, across] = grid as [number, number];
  // blocks at the edges may be smaller; without a size that fits, all are alike
  const fits = ([m, n]: Block) => Math.ceil(rows / m) === down && Math.ceil(columns / n) === across;
  const block = [...blocks, [rows / down, columns / across] as const].find(
    (sides) => fits(sides) && sides.every(Number.isInteger) && grid.length === 2,
  );
  if (!block)
    throw fail(
      `is ${wordShape(shape)} and has scales of ${wordShape(scales.shape)}: no blocks of one size have those.`,
      scales.shape,
    );
  if (zeros && sizeOf(zeros.shape) !== down * across)
    throw fail(`has scales of ${wordShape(scales.shape)} and zero points of ${wordShape(zeros.shape)}.`, zeros.shape);
  const load = async (from = 0, to = rows * columns): Promise<Float32Array> => {
    const [codes, scale] = [await weight.load(from, to), await scaleValues(scales)];
    const zero = zeros && (await scaleValues(zeros));
    const result = new Float32Array(to - from);
    // along a row for as long as the scale is the same
    for (let at = from; at < to; ) {
      const [row, column] = [Math.floor(at / columns), at % columns];
      const index = Math.floor(row / block[0]) * across + Math.floor(column / block[1]);
      const [by, less] = [scale[index] as number, zero ? (zero[index] as number) : 0];
      const end = Math.min(to, at - column + Math.min(columns, column - (column % block[1]) + block[1]));
      for (; at < end; at++) result[at - from] = ((codes[at - from] as number) - less) * by;
    }
    return result;
  };
  return { name, dtype: "float32", storedDType: "F32", shape, byteLength: weight.byteLength, load };
}

/** Bytes as scales are exponents of two, as in `F8_E8M0`. */
export async function scaleValues(tensor: StoredTensor): Promise<ArrayLike<number>> {
  const data = await tensor.load();
  return tensor.storedDType === "U8" ? Float32Array.from(data, (bits) => 2 ** (bits - 127)) : toFloat32(data, tensor.dtype);
}
