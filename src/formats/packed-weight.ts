/**
 * Weights whose codes share words: GPTQ, AWQ, the packed formats of compressed-tensors, four-bit floats of NVIDIA's ModelOpt, and MLX. They
 * are read as float32, (code − zero) · scale + bias, rounded once; zeros, scales and biases belong to groups of columns. A code is a whole
 * number or, in the formats of floats, stands for one. One matrix of codes is in memory at a time.
 *
 * @see https://arxiv.org/abs/2210.17323 (GPTQ), https://arxiv.org/abs/2306.00978 (AWQ); GPTQModel `nn_modules/qlinear`, AutoAWQ
 *   `utils/packing_utils.py`, compressed-tensors `compressors`, mlx `mx.dequantize`
 */
import { FormatError, isRecord, wordJson, wordShape } from "../errors.ts";
import { sameShape, sizeOf } from "../graph/shape.ts";
import { fourBitFloats } from "./mxfp4.ts";
import type { StoredTensor } from "./safetensors.ts";
import { scaleValues } from "./scaled-weight.ts";
import { type Checkpoint, checkpoint } from "./sharded.ts";
import { decodeElements } from "./stored-dtype.ts";

/** A number of each group in each row. */
type Numbers = (group: number, row: number) => number;

/** How the values of a matrix come about; everything it needs is in memory. */
interface Codes {
  readonly code: (row: number, column: number) => number;
  readonly zero?: Numbers;
  readonly scale: Numbers;
  readonly bias?: Numbers;
  /** What codes stand for, if not for themselves. */
  readonly table?: ArrayLike<number>;
  /** By column. */
  readonly groups: Int32Array;
}

interface Matrix {
  readonly shape: readonly [out: number, into: number];
  open(): Promise<Codes>;
}

/** The tensors of a layer, which are taken out of the checkpoint as they are asked for. */
interface Parts {
  readonly path: string;
  /** @param shape what belongs there; any when absent */
  need(name: string, shape?: readonly number[]): StoredTensor;
  take(name: string): StoredTensor | undefined;
  fail(problem: string, got?: unknown): FormatError;
}

type Settings = Readonly<Record<string, unknown>>;
type Read = (parts: Parts, settings: Settings) => Matrix | Promise<Matrix>;

/**
 * The checkpoint with weights in the place of packed codes.
 *
 * @param quantization what config.json says of them
 * @throws {FormatError} when a part is missing or does not fit the others
 */
export async function widenPacked(from: Checkpoint, quantization: unknown): Promise<Checkpoint> {
  const settings = isRecord(quantization) ? quantization : {};
  const tensors = new Map(from.tensors);
  for (const { name } of from.tensors.values()) {
    const path = name.slice(0, Math.max(0, name.lastIndexOf(".")));
    const read = readerOf(name.slice(path.length + 1), path, tensors, settings);
    if (!read) continue;
    const { byteLength } = tensors.get(name) as StoredTensor;
    const matrix = await read(partsOf(tensors, path, from.source), settings);
    tensors.set(`${path}.weight`, widened(`${path}.weight`, byteLength, matrix));
  }
  return checkpoint({ ...from, tensors }, from.files);
}

function readerOf(leaf: string, path: string, tensors: ReadonlyMap<string, StoredTensor>, settings: Settings): Read | undefined {
  const { storedDType } = tensors.get(`${path}.${leaf}`) ?? {};
  const has = (name: string) => tensors.has(`${path}.${name}`);
  if (leaf === "qweight")
    return settings["quant_method"] === "awq" || settings["packing_format"] === "auto_round:auto_awq" ? awq : gptq;
  if (leaf === "weight_packed") return storedDType === "U8" ? floats : compressed;
  if (leaf !== "weight") return undefined;
  if (storedDType === "U32" && has("scales")) return mlx;
  return storedDType === "U8" && has("weight_scale") ? floats : undefined;
}

function partsOf(tensors: Map<string, StoredTensor>, path: string, source: string): Parts {
  const fail = (problem: string, got?: unknown) =>
    new FormatError(`"${path}" of ${source} ${problem}`, { operation: "loadModel", got });
  const take = (name: string) => {
    const found = tensors.get(`${path}.${name}`);
    tensors.delete(`${path}.${name}`);
    return found;
  };
  const need = (name: string, shape?: readonly number[]): StoredTensor => {
    const found = take(name);
    if (!found) throw fail(`is quantised, but has no "${name}".`);
    if (shape && !sameShape(found.shape, shape))
      throw fail(`has a "${name}" of ${wordShape(found.shape)}, where ${wordShape(shape)} belongs.`, found.shape);
    return found;
  };
  return { path, need, take, fail };
}

/**
 * Codes of so many bits, one after the other in words of 32 bits.
 *
 * @param next how many words further the codes go on
 * @param across how many words further another row of codes begins
 */
async function unpack(tensor: StoredTensor, bits: number, next: number, across: number) {
  const bytes = await (tensor.bytes as () => Promise<Uint8Array<ArrayBuffer>>)();
  const words = new Int32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength >> 2);
  const mask = 2 ** bits - 1;
  return (index: number, row: number): number => {
    const at = row * across + ((index * bits) >>> 5) * next;
    const shift = (index * bits) & 31;
    const code = words[at]! >>> shift;
    return (shift + bits > 32 ? code | (words[at + next]! << (32 - shift)) : code) & mask;
  };
}

/** @param next how far the next group is @param across how far the next row is; in a list of one number nothing is far */
async function numbers(tensor: StoredTensor, next: number, across: number, values = scaleValues): Promise<Numbers> {
  const data = await values(tensor);
  return data.length === 1 ? () => data[0] as number : (group, row) => data[group * next + row * across] as number;
}

/** The groups of columns: those that `order` names, or so many of the same size. @param size what config.json says it is */
async function groupsOf(count: number, into: number, size: unknown, order: StoredTensor | undefined, { fail }: Parts) {
  if (order) return (await order.load()) as Int32Array;
  const fits = (each: unknown): each is number => typeof each === "number" && each > 0 && Math.ceil(into / each) === count;
  const columns = [size, into / count].find(fits);
  if (columns === undefined || !Number.isInteger(columns))
    throw fail(`has scales of ${count} groups for ${into} columns, and groups of ${wordJson(size)} columns.`, count);
  return Int32Array.from({ length: into }, (_, i) => Math.floor(i / columns));
}

/** The bits of a code, by how many words hold `count` of them. */
function bitsOf(words: number, count: number, { fail }: Parts): number {
  const bits = Math.floor((words * 32) / count);
  if (bits < 2 || bits > 8 || Math.ceil((count * bits) / 32) !== words)
    throw fail(`packs ${count} codes into ${words} words of 32 bits.`, words);
  return bits;
}

/** Words go down the columns of [into, out]; zeros lie along rows of [groups, out], one less than they are in the first version. */
const gptq: Read = (parts, settings) => {
  const words = parts.need("qweight");
  const [height, out] = words.shape as [number, number];
  const order = parts.take("g_idx");
  const into = order ? sizeOf(order.shape) : (height * 32) / Number(settings["bits"]);
  const bits = bitsOf(height, into, parts);
  const scales = parts.need("scales");
  const [count = 0] = scales.shape;
  const width = Math.floor((out * bits) / 32);
  const zeros = parts.need("qzeros", [count, width]);
  const less = (settings["checkpoint_format"] ?? settings["format"]) === "gptq_v2" ? 0 : 1;
  return {
    shape: [out, into],
    async open() {
      const [code, zero] = [await unpack(words, bits, out, 1), await unpack(zeros, bits, 1, width)];
      return {
        code: (row, column) => code(column, row),
        zero: (group, row) => (zero(row, group) + less) & (2 ** bits - 1),
        scale: await numbers(scales, out, 1),
        groups: await groupsOf(count, into, settings["group_size"], order, parts),
      };
    },
  };
};

/** Where AWQ has a column of eight. */
const awqOrder = [0, 4, 1, 5, 2, 6, 3, 7];

/** Words go along the rows of [into, out], eight columns in a word, in an order of their own; so do zeros. */
const awq: Read = (parts, settings) => {
  const words = parts.need("qweight");
  const [into, width] = words.shape as [number, number];
  const scales = parts.need("scales");
  const [count = 0, out = 0] = scales.shape;
  const bits = bitsOf(width, out, parts);
  if (bits !== 4) throw parts.fail(`has codes of ${bits} bits, AWQ's have 4.`, bits);
  const zeros = parts.need("qzeros", [count, width]);
  const place = (row: number) => (row & ~7) | (awqOrder[row & 7] as number);
  return {
    shape: [out, into],
    async open() {
      const [code, zero] = [await unpack(words, bits, 1, width), await unpack(zeros, bits, 1, width)];
      return {
        code: (row, column) => code(place(row), column),
        zero: (group, row) => zero(place(row), group),
        scale: await numbers(scales, out, 1),
        groups: await groupsOf(count, into, settings["group_size"], undefined, parts),
      };
    },
  };
};

/** Whole numbers along the rows of [out, into], with the middle of their range as 0 unless zeros lie beside them. */
const compressed: Read = async (parts) => {
  const words = parts.need("weight_packed");
  const [out, into] = [...(await parts.need("weight_shape", [2]).load())] as [number, number];
  const [, width = 0] = words.shape;
  const bits = bitsOf(width, into, parts);
  if (words.shape[0] !== out) throw parts.fail(`is [${out}, ${into}] and has codes of ${wordShape(words.shape)}.`, words.shape);
  const scales = parts.need("weight_scale");
  const count = Math.max(1, sizeOf(scales.shape) / out);
  const [zeros, order] = [parts.take("weight_zero_point"), parts.take("weight_g_idx")];
  return {
    shape: [out, into],
    async open() {
      const code = await unpack(words, bits, 1, width);
      const middle = 2 ** (bits - 1);
      // older files have zeros as they are
      const plain = zeros && zeros.storedDType !== "I32" && (await numbers(zeros, 1, count, (tensor) => tensor.load()));
      const zero = zeros && !plain && (await unpack(zeros, bits, count, 1));
      return {
        code: (row, column) => code(column, row),
        zero: (group, row) => (plain ? plain(group, row) + middle : zero ? zero(row, group) : middle),
        scale: await numbers(scales, 1, count),
        groups: await groupsOf(count, into, undefined, order, parts),
      };
    },
  };
};

/** Floats of four bits along the rows, two to a byte: 16 share a scale in float8, which another scales in turn, or 32 an exponent. */
const floats: Read = (parts) => {
  const words = parts.take("weight_packed") ?? parts.need("weight");
  const [out = 0, half = 0] = words.shape;
  const scales = parts.need("weight_scale");
  const count = scales.shape[1] ?? 0;
  if (!["F8_E4M3", "U8", "F8_E8M0"].includes(scales.storedDType) || scales.shape[0] !== out || half % 4 !== 0)
    throw parts.fail(`has bytes of ${wordShape(words.shape)} and ${scales.storedDType} scales of ${wordShape(scales.shape)}.`);
  const [times, by] = [parts.take("weight_scale_2"), parts.take("weight_global_scale")];
  return {
    shape: [out, 2 * half],
    async open() {
      const code = await unpack(words, 4, 1, half / 4);
      const [scale, all] = [
        await numbers(scales, 1, count),
        (times ?? by) ? await numbers((times ?? by) as StoredTensor, 0, 0) : undefined,
      ];
      const factor = all ? (times ? all(0, 0) : 1 / all(0, 0)) : 1;
      return {
        code: (row, column) => code(column, row),
        table: fourBitFloats,
        scale: (group, row) => scale(group, row) * factor,
        groups: await groupsOf(count, 2 * half, undefined, undefined, parts),
      };
    },
  };
};

const refuse = (problem: string) => new Error(problem);
/** Bytes as floats of eight bits. */
const float8 = (bytes: Uint8Array<ArrayBuffer>) => decodeElements(bytes, "F8_E4M3", "", refuse) as Float32Array;

/** Words along the rows; floats have bytes as scales, which are exponents, or floats of eight bits themselves where 16 share one. */
const mlx: Read = (parts, settings) => {
  const own = settings[parts.path];
  const size = Number((isRecord(own) ? own : settings)["group_size"]);
  const [words, scales] = [parts.need("weight"), parts.need("scales")];
  const [out = 0, width = 0] = words.shape;
  const count = scales.shape[1] ?? 0;
  const into = count * size;
  const bits = bitsOf(width, into, parts);
  if (scales.shape[0] !== out) throw parts.fail(`has scales of ${wordShape(scales.shape)} for ${out} rows.`, scales.shape);
  const isFloat = scales.storedDType === "U8";
  const biases = parts.take("biases") ?? parts.take("qbiases");
  if (!isFloat && !biases) parts.need("biases");
  return {
    shape: [out, into],
    async open() {
      const code = await unpack(words, bits, 1, width);
      const all = Uint8Array.from({ length: 256 }, (_, i) => i);
      const asFloat8 = async (tensor: StoredTensor) => float8((await tensor.load()) as Uint8Array<ArrayBuffer>);
      return {
        code: (row, column) => code(column, row),
        scale: await numbers(scales, 1, count, isFloat && size === 16 ? asFloat8 : undefined),
        ...(biases && { bias: await numbers(biases, 1, count) }),
        ...(isFloat && { table: bits === 8 ? float8(all) : fourBitFloats }),
        groups: await groupsOf(count, into, size, undefined, parts),
      };
    },
  };
};

/** A matrix as it is read in parts: what it needs is kept from the first part to the last. */
function widened(name: string, byteLength: number, { shape, open }: Matrix): StoredTensor {
  const [out, into] = shape;
  let opened: Promise<Codes> | undefined;
  const load = async (from = 0, to = out * into): Promise<Float32Array> => {
    opened ??= open();
    const { code, zero, scale, bias, table, groups } = await opened;
    if (to === out * into) opened = undefined;
    const count = groups.reduce((most, group) => Math.max(most, group), 0) + 1;
    const [zeros, scales, biases] = [0, 1, 2].map(() => new Float64Array(count)) as [Float64Array, Float64Array, Float64Array];
    const result = new Float32Array(to - from);
    for (let at = from; at < to; ) {
      const [row, first] = [Math.floor(at / into), at % into];
      for (let group = 0; group < count; group++) {
        zeros[group] = zero?.(group, row) ?? 0;
        scales[group] = scale(group, row);
        biases[group] = bias?.(group, row) ?? 0;
      }
      const end = Math.min(into, first + to - at);
      for (let column = first; column < end; column++, at++) {
        const [group, number] = [groups[column]!, code(row, column)];
        result[at - from] = ((table ? table[number]! : number) - zeros[group]!) * scales[group]! + biases[group]!;
      }
    }
    return result;
  };
  return { name, dtype: "float32", storedDType: "F32", shape, byteLength, load };
}
