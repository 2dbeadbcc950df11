/** Writes GGUF files, of version 3 as llama.cpp's own tools do. */
import { ConfigError, requireKind, under, wordJson, wordShape } from "../errors.ts";
import { dtypes, type TypedArray } from "../graph/dtype.ts";
import { sizeOf } from "../graph/shape.ts";
import { writeFileAtomically } from "./atomic-file.ts";

/** A value of the metadata. Readers ask for numbers by their type, so it is said. */
export type GgufEntry =
  | string
  | boolean
  | { readonly uint32: number | readonly number[] }
  | { readonly float32: number | readonly number[] };

/** A tensor to write; 16 bits as bit patterns. Its shape is row-major. */
export interface GgufTensorToWrite {
  readonly dtype: "float32" | "float16" | "bfloat16";
  readonly shape: readonly number[];
  readonly data: TypedArray;
}

/** What a file shall hold, in this order. */
export interface GgufContent {
  /** Begins with `general.architecture`, which every reader asks for. */
  readonly metadata: ReadonlyMap<string, GgufEntry>;
  readonly tensors: ReadonlyMap<string, GgufTensorToWrite>;
}

/** Numbers of the types, as ggml has them. */
const tensorTypes = { float32: 0, float16: 1, bfloat16: 30 } as const;
const valueTypes = { uint32: 4, float32: 6, boolean: 7, string: 8, list: 9 } as const;
/** The letters GGUF. */
const magic = 0x46554747;
/** Data begins at multiples of so many bytes where `general.alignment` says nothing else. */
const alignment = 32;
const aligned = (bytes: number): number => Math.ceil(bytes / alignment) * alignment;

/**
 * A GGUF file in memory.
 *
 * @throws {ConfigError} for a tensor that does not fit its shape or dtype, and a number that does not fit its type
 * @example
 * const file = encodeGguf({
 *   metadata: new Map([["general.architecture", "llama"]]),
 *   tensors: new Map([["output_norm.weight", { dtype: "float32", shape: [2], data: Float32Array.of(1, 2) }]]),
 * });
 * (await readGguf(file)).tensors.get("output_norm.weight")!.shape   // [2]
 */
export function encodeGguf(content: GgufContent): Uint8Array<ArrayBuffer> {
  const operation = "encodeGguf";
  requireKind(operation, "an object", { content });
  const { metadata, tensors } = content;
  requireKind(operation, "a Map", { metadata, tensors });
  const header = new Bytes();
  header.uint32(magic).uint32(3).uint64(tensors.size).uint64(metadata.size);
  for (const [key, entry] of metadata) writeEntry(header.text(key), key, entry);
  const placed: { readonly bytes: Uint8Array; readonly at: number }[] = [];
  let end = 0;
  for (const [name, tensor] of tensors) {
    const bytes = bytesOf(name, tensor);
    header.text(name).uint32(tensor.shape.length);
    for (const size of [...tensor.shape].reverse()) header.uint64(size);
    header.uint32(tensorTypes[tensor.dtype]).uint64(end);
    placed.push({ bytes, at: end });
    end += aligned(bytes.length);
  }
  const start = aligned(header.length);
  const file = new Uint8Array(start + end);
  file.set(header.bytes());
  for (const { bytes, at } of placed) file.set(bytes, start + at);
  return file;
}

/**
 * Writes a GGUF file, under a temporary name that is renamed at the end.
 *
 * @throws {ConfigError} for what `encodeGguf` refuses, and when the path cannot be written
 */
export async function writeGguf(path: string, content: GgufContent): Promise<void> {
  await under("writeGguf", () => writeFileAtomically(path, encodeGguf(content)));
}

function bytesOf(name: string, tensor: GgufTensorToWrite): Uint8Array {
  const operation = "encodeGguf";
  requireKind(operation, "an object", { [name]: tensor });
  const { dtype, shape, data } = tensor;
  if (!Object.hasOwn(tensorTypes, dtype))
    throw new ConfigError(`tensor ${wordJson(name)} is ${dtype}, not one of ${Object.keys(tensorTypes).join(", ")}.`, {
      operation,
      got: dtype,
    });
  requireKind(operation, "a list of numbers", { [`${name}.shape`]: shape });
  const { array } = dtypes[dtype];
  if (!(data instanceof array) || data.length !== sizeOf(shape) || shape.length > 4)
    throw new ConfigError(
      `tensor ${wordJson(name)} of ${wordShape(shape)} ${dtype} needs at most 4 axes and a ${array.name} of ${sizeOf(shape)} elements.`,
      { operation, got: data },
    );
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}

function writeEntry(bytes: Bytes, key: string, entry: GgufEntry): void {
  if (typeof entry === "string") return void bytes.uint32(valueTypes.string).text(entry);
  if (typeof entry === "boolean") return void bytes.uint32(valueTypes.boolean).uint8(Number(entry));
  const [[type, value] = []] = Object.entries(entry ?? {});
  if (type !== "uint32" && type !== "float32")
    throw new ConfigError(`${wordJson(key)} is a string, true or false, { uint32 } or { float32 }.`, {
      operation: "encodeGguf",
      got: entry,
    });
  const put = (each: number) => {
    const fits = type === "uint32" ? Number.isInteger(each) && each >= 0 && each < 2 ** 32 : Number.isFinite(Math.fround(each));
    if (!fits)
      throw new ConfigError(`${wordJson(key)} (= ${each}) does not fit ${type}.`, { operation: "encodeGguf", got: each });
    bytes[type](each);
  };
  if (Array.isArray(value)) bytes.uint32(valueTypes.list).uint32(valueTypes[type]).uint64(value.length);
  else bytes.uint32(valueTypes[type]);
  for (const each of [value as number | readonly number[]].flat()) put(each);
}

/** Bytes that are written one after the other, little end first. */
class Bytes {
  readonly #bytes: number[] = [];

  get length(): number {
    return this.#bytes.length;
  }

  bytes(): Uint8Array {
    return Uint8Array.from(this.#bytes);
  }

  #put(size: number, set: (view: DataView) => void): this {
    const view = new DataView(new ArrayBuffer(size));
    set(view);
    this.#bytes.push(...new Uint8Array(view.buffer));
    return this;
  }

  uint8(value: number): this {
    return this.#put(1, (view) => view.setUint8(0, value));
  }

  uint32(value: number): this {
    return this.#put(4, (view) => view.setUint32(0, value, true));
  }

  uint64(value: number): this {
    return this.#put(8, (view) => view.setBigUint64(0, BigInt(value), true));
  }

  float32(value: number): this {
    return this.#put(4, (view) => view.setFloat32(0, value, true));
  }

  /** With its length before it. */
  text(text: string): this {
    const encoded = new TextEncoder().encode(text);
    this.uint64(encoded.length);
    for (const byte of encoded) this.#bytes.push(byte);
    return this;
  }
}
