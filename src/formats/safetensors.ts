/**
 * The safetensors format: 8 bytes with the length of a JSON header, the header, then the tensors' bytes without gaps.
 * Reading checks everything that the header claims before a single byte of data is trusted; tensors are loaded one at a time.
 *
 * @see https://huggingface.co/docs/safetensors/index#format
 */
import { ConfigError, FormatError, isRecord, requireKind, under, wordJson, wordShape } from "../errors.ts";
import type { DType, TypedArray } from "../graph/dtype.ts";
import { sizeOf } from "../graph/shape.ts";
import { type FileContent, writeFileAtomically } from "./atomic-file.ts";
import { type ByteSource, openBytes } from "./folder.ts";
import {
  decodeElements,
  encodeElements,
  type Failure,
  naturalStorage,
  type StoredDType,
  storageOrder,
  storedDTypes,
} from "./stored-dtype.ts";

/** One tensor of a file, not yet in memory. */
export interface StoredTensor {
  readonly name: string;
  /** What `load` gives: integers other than 8-bit unsigned become int32, float16 and bfloat16 stay bit patterns. */
  readonly dtype: DType;
  /** What the file calls it; kept when the tensor is written again. */
  readonly storedDType: StoredDType;
  readonly shape: readonly number[];
  /** Bytes in the file. */
  readonly byteLength: number;
  /**
   * Reads the elements, all or those from `from` up to `to` in row-major order; a fresh array each time, whatever the alignment
   * in the file.
   *
   * @throws {FormatError} when an integer does not fit int32 or a truth value is neither 0 nor 1
   */
  load(from?: number, to?: number): Promise<TypedArray>;
  /** What the file holds, byte by byte, where the tensor is one of a file as it lies there. */
  bytes?(): Promise<Uint8Array<ArrayBuffer>>;
}

/** A file whose header has been read and checked. */
export interface SafetensorsFile {
  /** Path or name of the source, as errors call it. */
  readonly source: string;
  /** The free-text entries of the header, such as `format: "pt"`. */
  readonly metadata: ReadonlyMap<string, string>;
  /** In the order of the data in the file. */
  readonly tensors: ReadonlyMap<string, StoredTensor>;
}

/** A tensor to write. A `StoredTensor` of another file is one. */
export interface TensorToWrite {
  readonly dtype: DType;
  readonly shape: readonly number[];
  /** The elements, or `load` for tensors that need not all be in memory at once. */
  readonly data?: TypedArray;
  load?(): TypedArray | Promise<TypedArray>;
  /** Stores an int32 tensor as another integer type, such as I64 where PyTorch expects it. */
  readonly storedDType?: StoredDType;
}

/** Free-text entries of the header. */
export type Metadata = ReadonlyMap<string, string> | Readonly<Record<string, string>>;

/** Longest header that is read, in bytes; the limit of the reference implementation. */
const maximumHeader = 100_000_000;
const metadataKey = "__metadata__";

/**
 * Opens a safetensors file: reads and checks its header, and nothing else yet.
 *
 * @param source a path, or bytes, or a Blob as browsers have, or a file of a {@link Folder}
 * @param name   how errors call bytes and Blobs
 * @throws {FormatError} when the file is not what the format says, naming file and tensor
 * @throws {ConfigError} when the path cannot be read
 * @example
 * const file = await readSafetensors("model.safetensors");
 * const weight = await file.tensors.get("lm_head.weight")?.load();
 */
export async function readSafetensors(source: string | Uint8Array | Blob | ByteSource, name?: string): Promise<SafetensorsFile> {
  const bytes = await openBytes(source, name, "readSafetensors");
  const fail = failure(bytes.name);
  if (bytes.size < 8) throw fail(`is ${bytes.size} bytes long, too short for a safetensors file.`);
  const lengthWords = new DataView((await bytes.read(0, 8)).buffer);
  const headerLength = lengthWords.getUint32(4, true) * 2 ** 32 + lengthWords.getUint32(0, true);
  if (headerLength > maximumHeader)
    throw fail(
      `claims a header of ${headerLength} bytes, more than the ${maximumHeader} allowed; it is hardly a safetensors file.`,
    );
  if (8 + headerLength > bytes.size)
    throw fail(`claims a header of ${headerLength} bytes, but only ${bytes.size - 8} bytes follow: the file is cut off.`);
  const dataStart = 8 + headerLength;
  const header = parseHeader(await bytes.read(8, dataStart), bytes.size - dataStart, fail);
  const tensors = new Map<string, StoredTensor>();
  for (const entry of header.entries) {
    const { name, storedDType, shape, start, end } = entry;
    const { dtype, bytes: width } = storedDTypes[storedDType];
    const read = (from: number, to: number) => bytes.read(dataStart + start + from * width, dataStart + start + to * width);
    const size = (end - start) / width;
    const load = async (from = 0, to = size) => decodeElements(await read(from, to), storedDType, name, fail);
    tensors.set(name, { name, dtype, storedDType, shape, byteLength: end - start, load, bytes: () => read(0, size) });
  }
  return { source: bytes.name, metadata: header.metadata, tensors };
}

/** Errors about the file `name`. */
const failure =
  (name: string): Failure =>
  (problem, got) =>
    new FormatError(`${name} ${problem}`, { operation: "readSafetensors", got });

interface Entry {
  readonly name: string;
  readonly storedDType: StoredDType;
  readonly shape: readonly number[];
  readonly start: number;
  readonly end: number;
}

/** The header's claims, each checked against the format and against the `dataLength` bytes that are really there. */
function parseHeader(bytes: Uint8Array, dataLength: number, fail: Failure): { metadata: Map<string, string>; entries: Entry[] } {
  if (bytes[0] !== 0x7b) throw fail("has a header that does not begin with { and so is not a safetensors header.");
  let json: unknown;
  try {
    const text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    json = JSON.parse(text);
    const repeated = repeatedKey(text);
    if (repeated !== undefined) throw fail(`has the key ${wordJson(repeated)} twice in its header.`, repeated);
  } catch (error) {
    if (error instanceof FormatError) throw error;
    throw fail(`has a header that is not JSON (${oneLine(error)}).`);
  }
  const metadata = new Map<string, string>();
  const entries: Entry[] = [];
  for (const [name, value] of Object.entries(json as object)) {
    if (name !== metadataKey) entries.push(parseEntry(name, value, fail));
    else if (value !== null) {
      if (!isRecord(value)) throw fail(`has ${metadataKey} that is not a map of strings.`, value);
      for (const [key, text] of Object.entries(value)) {
        if (key === "__proto__" || typeof text !== "string")
          throw fail(`has ${metadataKey} with ${wordJson(key)}, which is not a string.`, text);
        metadata.set(key, text);
      }
    }
  }
  entries.sort((a, b) => a.start - b.start || a.end - b.end);
  let position = 0;
  for (const { name, start, end } of entries) {
    if (start !== position)
      throw fail(
        `has tensor ${wordJson(name)} at byte ${start}, but the tensor before it ends at ${position}: the data ${start < position ? "overlaps" : "has a gap"}.`,
        start,
      );
    position = end;
  }
  if (position > dataLength) {
    const last = entries.at(-1) as Entry;
    throw fail(
      `should hold ${position} bytes of data (up to tensor ${wordJson(last.name)}) but holds ${dataLength}: the file is cut off.`,
    );
  }
  if (position < dataLength)
    throw fail(`holds ${dataLength} bytes of data, ${dataLength - position} more than its tensors account for.`);
  return { metadata, entries };
}

function parseEntry(name: string, value: unknown, fail: Failure): Entry {
  const problem = badName(name);
  if (problem !== undefined) throw fail(`has a tensor called ${wordJson(name)}: ${problem}.`, name);
  const tensor = `has tensor ${wordJson(name)}`;
  if (!isRecord(value)) throw fail(`${tensor} described by something that is not an object.`, value);
  const { dtype, shape, data_offsets: offsets } = value;
  if (typeof dtype !== "string" || !Object.hasOwn(storedDTypes, dtype))
    throw fail(`${tensor} of dtype ${wordJson(dtype)}, which is not one of ${storageOrder.join(", ")}.`, dtype);
  const storedDType = dtype as StoredDType;
  if (!isCounts(shape)) throw fail(`${tensor} with a shape that is not a list of sizes: ${wordJson(shape)}.`, shape);
  const [start, end, ...more] = isCounts(offsets) ? offsets : [];
  if (start === undefined || end === undefined || start > end || more.length > 0)
    throw fail(`${tensor} with data_offsets that are not [start, end]: ${wordJson(offsets)}.`, offsets);
  const bytes = sizeOf(shape) * storedDTypes[storedDType].bytes;
  // a zero anywhere empties the tensor, but must not hide sizes whose product no number holds
  const unhidden = shape.reduce((product, size) => product * (size || 1), 1) * storedDTypes[storedDType].bytes;
  if (!Number.isSafeInteger(unhidden))
    throw fail(`${tensor} with the shape ${wordShape(shape)}, more elements than can be counted.`, shape);
  if (end - start !== bytes)
    throw fail(
      `${tensor} of ${wordShape(shape)} ${dtype}, which is ${bytes} bytes, but ${end - start} bytes are set aside for it.`,
      end - start,
    );
  return { name, storedDType, shape, start, end };
}

const isCount = (x: unknown): x is number => Number.isSafeInteger(x) && (x as number) >= 0 && !Object.is(x, -0);
const isCounts = (x: unknown): x is number[] => Array.isArray(x) && x.every(isCount);
const oneLine = (error: unknown): string =>
  (error instanceof Error ? error.message : String(error)).replace(/[\s\p{C}]+/gu, " ").slice(0, 120);

function badName(name: string): string | undefined {
  if (name === "__proto__" || name === metadataKey) return "no tensor may have this name";
  if (/\p{Surrogate}/u.test(name)) return "that is half a character";
}

/** The first key that an object of `json` has twice, which JSON.parse hides. `json` must be well-formed. */
function repeatedKey(json: string): string | undefined {
  const open: (Set<string> | undefined)[] = []; // one per bracket not yet closed; undefined for arrays
  for (let i = 0; i < json.length; i++) {
    const character = json[i];
    if (character === "{") open.push(new Set());
    else if (character === "[") open.push(undefined);
    else if (character === "}" || character === "]") open.pop();
    else if (character === '"') {
      const start = i++;
      for (; json[i] !== '"'; i++) if (json[i] === "\\") i++;
      let next = i + 1;
      while (" \t\n\r".includes(json[next] ?? "x")) next++;
      if (json[next] !== ":") continue;
      const key = JSON.parse(json.slice(start, i + 1)) as string;
      const keys = open.at(-1) as Set<string>;
      if (keys.has(key)) return key;
      keys.add(key);
    }
  }
}

/** What follows from names, dtypes and shapes alone: the header and the order of the tensors. */
interface Layout {
  /** Length word and padded JSON. */
  readonly header: Uint8Array;
  readonly order: readonly { name: string; tensor: TensorToWrite; stored: StoredDType }[];
  /** Bytes of the whole file. */
  readonly size: number;
}

/** Tensors to write, by name. */
export type TensorsToWrite = ReadonlyMap<string, TensorToWrite> | Readonly<Record<string, TensorToWrite>>;

/** The reference implementation's layout: wide dtypes first, then by name, so that equal tensors give equal files. */
function layOut(tensors: TensorsToWrite, metadata: Metadata | undefined): Layout {
  const order = entriesOf(tensors)
    .map(([name, tensor]) => ({ name, tensor, stored: storageOf(name, tensor) }))
    .sort((a, b) => storageOrder.indexOf(b.stored) - storageOrder.indexOf(a.stored) || compareCodePoints(a.name, b.name));
  const parts: string[] = [];
  if (metadata !== undefined) {
    const entries = entriesOf(metadata).sort(([a], [b]) => compareCodePoints(a, b));
    for (const [key, value] of entries)
      if (key === "__proto__" || /\p{Surrogate}/u.test(key + value))
        throw refuse(`the metadata entry ${wordJson(key)} cannot be written.`, key);
    parts.push(
      `${quoteWhole(metadataKey)}:{${entries.map(([key, value]) => `${quoteWhole(key)}:${quoteWhole(value)}`).join(",")}}`,
    );
  }
  let position = 0;
  for (const { name, tensor, stored } of order) {
    const end = position + sizeOf(tensor.shape) * storedDTypes[stored].bytes;
    parts.push(
      `${quoteWhole(name)}:{"dtype":"${stored}","shape":[${tensor.shape.join(",")}],"data_offsets":[${position},${end}]}`,
    );
    position = end;
  }
  const json = new TextEncoder().encode(`{${parts.join(",")}}`);
  const length = Math.ceil(json.length / 8) * 8; // keeps the data aligned
  if (length > maximumHeader)
    throw refuse(`the header would be ${length} bytes, more than the ${maximumHeader} that readers accept.`, length);
  const header = new Uint8Array(8 + length).fill(0x20);
  new DataView(header.buffer).setUint32(0, length, true);
  header.fill(0, 4, 8);
  header.set(json, 8);
  return { header, order, size: header.length + position };
}

const quoteWhole = (text: string): string => JSON.stringify(text);
const writing = "writeSafetensors";
const refuse: Failure = (problem, got) => new ConfigError(problem, { operation: writing, got });

/** By Unicode code points, as UTF-8 bytes and Python sort; JavaScript's own order differs past U+FFFF. */
export function compareCodePoints(a: string, b: string): number {
  for (let i = 0; i < a.length && i < b.length; ) {
    const left = a.codePointAt(i) as number;
    const right = b.codePointAt(i) as number;
    if (left !== right) return left - right;
    i += left > 0xffff ? 2 : 1;
  }
  return a.length - b.length;
}

function entriesOf<T>(map: ReadonlyMap<string, T> | Readonly<Record<string, T>>): [string, T][] {
  requireKind(writing, "an object", { tensors: map });
  return map instanceof Map ? [...map] : Object.entries(map as Readonly<Record<string, T>>);
}

/** How a tensor is stored. @throws {ConfigError} for a name or a shape that cannot be written, and a dtype that does not fit */
export function storageOf(name: string, tensor: TensorToWrite): StoredDType {
  const problem = badName(name);
  if (problem !== undefined) throw refuse(`cannot write a tensor called ${wordJson(name)}: ${problem}.`, name);
  requireKind(writing, "an object", { [name]: tensor });
  requireKind(writing, "a list", { [`${name}.shape`]: tensor.shape });
  if (!tensor.shape.every(isCount) || !Number.isSafeInteger(sizeOf(tensor.shape)))
    throw refuse(
      `tensor ${wordJson(name)} has the shape ${wordShape(tensor.shape)}, which is not a list of sizes.`,
      tensor.shape,
    );
  const stored = tensor.storedDType ?? naturalStorage[tensor.dtype];
  if (storedDTypes[stored]?.dtype !== tensor.dtype)
    throw refuse(`tensor ${wordJson(name)} is ${tensor.dtype} and cannot be stored as ${stored}.`, stored);
  return stored;
}

/** Bytes that a tensor takes in a file. */
export function storedBytes(tensor: TensorToWrite): number {
  return sizeOf(tensor.shape) * storedDTypes[tensor.storedDType ?? naturalStorage[tensor.dtype]].bytes;
}

/** Header first, then one tensor after the other: a file in pieces, for `writeFileAtomically` and the folder writers. */
export function safetensorsContent(tensors: TensorsToWrite, metadata?: Metadata): FileContent {
  const { header, order } = layOut(tensors, metadata);
  return async (append) => {
    await append(header);
    for (const { name, tensor, stored } of order)
      await append(encodeElements(name, tensor, stored, tensor.data ?? (await tensor.load?.()), refuse));
  };
}

/**
 * Writes a safetensors file, one tensor in memory at a time, under a temporary name that is renamed at the end.
 * The same tensors give the same bytes, those of the reference implementation.
 *
 * @param metadata free-text entries; PyTorch's tools expect `{ format: "pt" }`
 * @throws {ConfigError} when a tensor does not fit its shape or dtype, or the path cannot be written
 */
export async function writeSafetensors(path: string, tensors: TensorsToWrite, metadata?: Metadata): Promise<void> {
  await under("writeSafetensors", () => writeFileAtomically(path, safetensorsContent(tensors, metadata)));
}

/**
 * A safetensors file in memory, for places without a file system. All tensors must come with `data`.
 *
 * @throws {ConfigError} when a tensor does not fit its shape or dtype
 */
export function encodeSafetensors(tensors: TensorsToWrite, metadata?: Metadata): Uint8Array<ArrayBuffer> {
  return under("encodeSafetensors", () => encode(tensors, metadata));
}

function encode(tensors: TensorsToWrite, metadata?: Metadata): Uint8Array<ArrayBuffer> {
  const { header, order, size } = layOut(tensors, metadata);
  const file = new Uint8Array(size);
  file.set(header);
  let position = header.length;
  for (const { name, tensor, stored } of order) {
    const bytes = encodeElements(name, tensor, stored, tensor.data, refuse);
    file.set(bytes, position);
    position += bytes.length;
  }
  return file;
}
