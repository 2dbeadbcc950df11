/**
 * Weights of bitsandbytes in checkpoints, as transformers writes them: beside `<layer>.weight` lie scales and tables, and for 4 bits
 * a JSON text as bytes that says how to read them; for int8 the scales of the rows, `<layer>.SCB`.
 *
 * @see bitsandbytes `functional.QuantState.as_dict(packed=True)` and `nn.Linear8bitLt._save_to_state_dict`
 */
import { FormatError, isRecord, wordJson, wordShape } from "../errors.ts";
import { sizeOf } from "../graph/shape.ts";
import type { QuantisedScales, QuantisedWeight } from "../nn/quantiser.ts";
import type { StoredTensor, TensorToWrite } from "./safetensors.ts";

const operation = "loadModel";
const stateKey = /^(.*)\.weight\.quant_state\.bitsandbytes__(nf4|fp4)$/;
const scalesKey = /^(.*)\.SCB$/;

/** Paths of the layers that a checkpoint holds as codes, from the names of its tensors. */
export function quantisedPaths(names: Iterable<string>): string[] {
  return [...names].flatMap((name) => (stateKey.exec(name) ?? scalesKey.exec(name))?.[1] ?? []);
}

/** Names that belong to the weight of a layer of codes, itself included. */
export const quantisedNames = (path: string, names: Iterable<string>): string[] =>
  [...names].filter(
    (name) => [`${path}.weight`, `${path}.SCB`, `${path}.weight_format`].includes(name) || name.startsWith(`${path}.weight.`),
  );

/** Reads one tensor of a layer and checks what it is. */
type Read = (name: string, storedDType: string, size: number) => Promise<ArrayLike<number>>;

/**
 * Reads the weight of a layer.
 *
 * @param tensors by path in the model
 * @param dynamic table of the dynamic 8-bit map, which is the only one that scales are known to use
 * @throws {FormatError} when a part is missing or is not what the others say
 */
export async function readQuantised(
  tensors: ReadonlyMap<string, StoredTensor>,
  path: string,
  { source, dynamic }: { readonly source: string; readonly dynamic: Float32Array },
): Promise<QuantisedWeight> {
  const fail = (problem: string, got?: unknown) => new FormatError(`"${path}" of ${source} ${problem}`, { operation, got });
  const read: Read = async (name, storedDType, size) => {
    const tensor = tensors.get(`${path}.${name}`);
    if (!tensor) throw fail(`is quantised, but has no "${name}".`);
    const count = sizeOf(tensor.shape);
    if (tensor.storedDType !== storedDType || count !== size)
      throw fail(`has a "${name}" of ${count} ${tensor.storedDType} values, where ${size} ${storedDType} belong.`, tensor.shape);
    return tensor.load();
  };
  const state = [...tensors.keys()].find((name) => stateKey.exec(name)?.[1] === path);
  if (state === undefined) return readInt8(tensors, path, read, fail);
  const type = stateKey.exec(state)?.[2] as "nf4" | "fp4";
  const json = parseState(await (tensors.get(state) as StoredTensor).load(), fail);
  if (json["quant_type"] !== type) throw fail(`says that its type is ${wordJson(json["quant_type"])}.`, json);
  const [shape, blockSize] = [json["shape"], json["blocksize"]];
  const isShape = Array.isArray(shape) && shape.length === 2 && shape.every((extent) => Number.isInteger(extent) && extent > 0);
  if (!isShape) throw fail(`says that its shape is ${wordJson(shape)}.`, json);
  if (typeof blockSize !== "number" || !Number.isInteger(Math.log2(blockSize)) || blockSize < 32 || blockSize > 4096)
    throw fail(`says that its blocks have ${wordJson(blockSize)} values.`, json);
  const [out, into] = shape as [number, number];
  const blocks = Math.ceil((out * into) / blockSize);
  return {
    type,
    shape: [out, into],
    blockSize,
    codes: (await read("weight", "U8", Math.ceil((out * into) / 2))) as Uint8Array,
    table: (await read("weight.quant_map", "F32", 16)) as Float32Array,
    absmax: tensors.has(`${path}.weight.nested_absmax`)
      ? await readScales(json, blocks, read, fail, dynamic)
      : ((await read("weight.absmax", "F32", blocks)) as Float32Array),
  };
}

type Fail = (problem: string, got?: unknown) => FormatError;

function parseState(bytes: ArrayLike<number>, fail: Fail): Readonly<Record<string, unknown>> {
  try {
    const json: unknown = JSON.parse(new TextDecoder().decode(Uint8Array.from(bytes)));
    if (typeof json === "object" && json !== null) return json as Record<string, unknown>;
  } catch {
    // said below
  }
  throw fail("has a quant_state that is no JSON object.");
}

async function readScales(
  json: Readonly<Record<string, unknown>>,
  blocks: number,
  read: Read,
  fail: Fail,
  dynamic: Float32Array,
): Promise<QuantisedScales> {
  const { nested_blocksize: nestedBlock, nested_offset: offset } = json;
  if (nestedBlock !== 256) throw fail(`quantises its scales in blocks of ${wordJson(nestedBlock)}, not 256.`, json);
  if (typeof offset !== "number" || !Number.isFinite(offset)) throw fail(`has ${wordJson(offset)} as nested_offset.`, json);
  const map = await read("weight.nested_quant_map", "F32", 256);
  if (dynamic.some((value, i) => Math.abs(value - (map[i] as number)) > 1e-6))
    throw fail("quantises its scales by a map that is not bitsandbytes' dynamic one.");
  return {
    codes: (await read("weight.absmax", "U8", blocks)) as Uint8Array,
    absmax: (await read("weight.nested_absmax", "F32", Math.ceil(blocks / 256))) as Float32Array,
    offset,
  };
}

async function readInt8(
  tensors: ReadonlyMap<string, StoredTensor>,
  path: string,
  read: Read,
  fail: Fail,
): Promise<QuantisedWeight> {
  const shape = tensors.get(`${path}.weight`)?.shape ?? [];
  if (shape.length !== 2) throw fail(`has a weight of ${wordShape(shape)}, where [out, in] belongs.`, shape);
  const [out, into] = shape as [number, number];
  const format = tensors.has(`${path}.weight_format`) ? (await read("weight_format", "U8", 1))[0] : 0;
  if (format !== 0) throw fail(`has its int8 weight in format ${format}; only row by row (0) is known.`, format);
  const codes = Int8Array.from(await read("weight", "I8", out * into));
  return { type: "int8", shape: [out, into], codes, absmax: (await read("SCB", "F32", out)) as Float32Array };
}

/** The tensors of a layer's weight as transformers reads them, by names after the layer's path. */
export function quantisedTensors(weight: QuantisedWeight, dynamic: Float32Array): Map<string, TensorToWrite> {
  const floats = (data: Float32Array): TensorToWrite => ({ dtype: "float32", shape: [data.length], data });
  const bytes = (data: Uint8Array, shape: readonly number[] = [data.length]): TensorToWrite => ({ dtype: "uint8", shape, data });
  if (weight.type === "int8")
    return new Map<string, TensorToWrite>([
      ["SCB", floats(weight.absmax)],
      ["weight", { dtype: "int32", storedDType: "I8", shape: weight.shape, data: Int32Array.from(weight.codes) }],
      ["weight_format", bytes(Uint8Array.of(0), [])],
    ]);
  const { type, shape, blockSize, codes, table, absmax } = weight;
  const nested = absmax instanceof Float32Array ? null : absmax;
  const state = {
    quant_type: type,
    blocksize: blockSize,
    dtype: "float32",
    shape,
    ...(nested && { nested_blocksize: 256, nested_dtype: "float32", nested_offset: nested.offset }),
  };
  return new Map<string, TensorToWrite>([
    ["weight", bytes(codes, [codes.length, 1])],
    ["weight.absmax", nested ? bytes(nested.codes) : floats(absmax as Float32Array)],
    ["weight.quant_map", floats(table)],
    ...(nested
      ? ([
          ["weight.nested_absmax", floats(nested.absmax)],
          ["weight.nested_quant_map", floats(dynamic)],
        ] as const)
      : []),
    [`weight.quant_state.bitsandbytes__${type}`, bytes(new TextEncoder().encode(JSON.stringify(state)))],
  ]);
}

/**
 * `quantization_config` of config.json.
 *
 * @param weight any of the model's weights of codes
 * @param skipped names of the linear layers that are floats
 * @param before what config.json said so far, whose other settings are kept if they are of bitsandbytes
 */
export function quantisationConfig(
  weight: Pick<QuantisedWeight, "type"> & { readonly doubleQuantise: boolean },
  skipped: readonly string[],
  before: unknown,
): Record<string, unknown> {
  const int8 = weight.type === "int8";
  return {
    bnb_4bit_compute_dtype: "float32",
    bnb_4bit_quant_storage: "uint8",
    llm_int8_enable_fp32_cpu_offload: false,
    llm_int8_has_fp16_weight: false,
    llm_int8_threshold: 6.0,
    ...(isRecord(before) && before["quant_method"] === "bitsandbytes" ? before : null),
    _load_in_4bit: !int8,
    _load_in_8bit: int8,
    bnb_4bit_quant_type: int8 ? "fp4" : weight.type,
    bnb_4bit_use_double_quant: weight.doubleQuantise,
    llm_int8_skip_modules: skipped,
    load_in_4bit: !int8,
    load_in_8bit: int8,
    quant_method: "bitsandbytes",
  };
}
