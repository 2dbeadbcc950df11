/**
 * The GGUF format of llama.cpp, versions 2 and 3: counts, metadata (keys with values), descriptions of tensors, then their data at
 * aligned places. Reading checks everything that is claimed against the bytes that are there before it is believed; tensors are
 * loaded one at a time, or a part at a time.
 *
 * @see https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
 */
import { FormatError, requireKind, wordJson, wordShape } from "../errors.ts";
import { sizeOf } from "../graph/shape.ts";
import { type ByteSource, type Folder, openBytes, requireFolder } from "./folder.ts";
import { type BlockFormat, blockFormats } from "./gguf-block.ts";
import type { StoredTensor } from "./safetensors.ts";
import { decodeElements, storedDTypes } from "./stored-dtype.ts";

/** A value of the metadata. Integers past 2⁵³ come as bigint. */
export type GgufValue = string | number | bigint | boolean | readonly GgufValue[];

/** One tensor of a file, not yet in memory; blocks of few bits are widened to float32 by `load`. */
export interface GgufTensor extends StoredTensor {
  /** What ggml calls its type: `"F16"`, `"Q4_K"`, … */
  readonly type: string;
}

/** A file whose metadata and descriptions of tensors have been read and checked. */
export interface GgufFile {
  /** Path or name of the source, as errors call it. */
  readonly source: string;
  readonly version: number;
  readonly metadata: ReadonlyMap<string, GgufValue>;
  /** In the order of the file. Shapes are row-major, the other way round than in the file. */
  readonly tensors: ReadonlyMap<string, GgufTensor>;
}

/** Longest text, and longest list, that is believed. A vocabulary has some 10⁵ entries. */
const maximumText = 2 ** 26;
const maximumList = 2 ** 26;
/** Lists in lists deeper than this are refused. */
const maximumDepth = 8;
/** Axes that a tensor may have, as in ggml. */
const maximumRank = 4;

/**
 * Opens a GGUF file: reads its metadata and what it says about its tensors, and nothing else yet.
 *
 * @param source a path, or bytes, or a Blob as browsers have, or a file of a {@link Folder}
 * @param name   how errors call bytes and Blobs
 * @throws {FormatError} when the file is not what the format says, naming file and key or tensor
 * @throws {ConfigError} when the path cannot be read
 * @example
 * const { metadata, tensors } = await readGguf("llama-3.2-1b-q4_k_m.gguf");
 * metadata.get("general.architecture")   // "llama"
 */
export async function readGguf(source: string | Uint8Array | Blob | ByteSource, name?: string): Promise<GgufFile> {
  const bytes = await openBytes(source, name, "readGguf");
  const fail: Failure = (problem, got) => new FormatError(`${bytes.name} ${problem}`, { operation: "readGguf", got });
  const cursor = new Cursor(bytes, fail);
  if (bytes.size < 24) throw fail(`is ${bytes.size} bytes long, too short for a GGUF file.`);
  const magic = await cursor.bytes(4);
  if (String.fromCharCode(...magic) !== "GGUF") throw fail("does not begin with GGUF and so is no GGUF file.");
  const version = await cursor.uint32();
  if (version !== 0 && (version & 0xffff) === 0) throw fail("is of big-endian byte order, which is not read.", version);
  if (version !== 2 && version !== 3) throw fail(`is of version ${version}; versions 2 and 3 are read.`, version);
  const tensorCount = await cursor.count("tensors", 24);
  const keyCount = await cursor.count("metadata keys", 13);
  const metadata = new Map<string, GgufValue>();
  for (let i = 0; i < keyCount; i++) {
    const key = await cursor.text("a key");
    if (metadata.has(key)) throw fail(`has the key ${wordJson(key)} twice.`, key);
    metadata.set(key, await readValue(cursor, await cursor.uint32(), `key ${wordJson(key)}`, fail));
  }
  const alignment = metadata.get("general.alignment") ?? 32;
  if (typeof alignment !== "number" || !(alignment > 0 && alignment <= 2 ** 20) || (alignment & (alignment - 1)) !== 0)
    throw fail(`has general.alignment ${wordJson(alignment)}, which is not a power of two.`, alignment);
  const claims: Claim[] = [];
  for (let i = 0; i < tensorCount; i++) claims.push(await readClaim(cursor, fail));
  const dataStart = Math.ceil(cursor.position / alignment) * alignment;
  checkClaims(claims, alignment, bytes.size - dataStart, fail);
  return {
    source: bytes.name,
    version,
    metadata,
    tensors: new Map(claims.map((claim) => [claim.name, storedTensor(claim, bytes, dataStart, fail)])),
  };
}

/**
 * A GGUF file of a folder; where it is one of several (`…-00001-of-00003.gguf`), the metadata of the first and the tensors of all.
 *
 * @throws {FormatError} when one is missing or broken
 */
export async function openGguf(folder: Folder, file: string): Promise<GgufFile> {
  requireFolder("openGguf", folder);
  requireKind("openGguf", "a string", { file });
  const part = (number: number) => file.replace(/-\d{5}(?=-of-\d{5}\.gguf$)/, `-${String(number).padStart(5, "0")}`);
  const first = await readGguf(await folder.open(folder.files.has(part(1)) ? part(1) : file));
  const count = first.metadata.get("split.count");
  if (typeof count !== "number" || count <= 1) return first;
  const tensors = new Map<string, GgufTensor>();
  for (let i = 1; i <= count; i++) {
    const name = part(i);
    if (name === part(i + 1) || !folder.files.has(name))
      throw new FormatError(
        `${first.source} is one of ${count} files, and ${name === file ? "the others are" : `${name} is`} not there.`,
        {
          operation: "readGguf",
          got: file,
          hint: "Keep all of them together, under the names …-00001-of-….gguf that they were given.",
        },
      );
    for (const [key, tensor] of (i === 1 ? first : await readGguf(await folder.open(name))).tensors) {
      if (tensors.has(key))
        throw new FormatError(`${name} has tensor ${wordJson(key)}, which an earlier file has too.`, {
          operation: "readGguf",
          got: key,
        });
      tensors.set(key, tensor);
    }
  }
  return { ...first, tensors };
}

type Failure = (problem: string, got?: unknown) => FormatError;

/** Reads from front to back in pieces, never further than the file goes. */
class Cursor {
  readonly #source: ByteSource;
  readonly #fail: Failure;
  #window: Uint8Array<ArrayBuffer> = new Uint8Array();
  #view = new DataView(this.#window.buffer);
  /** Of the window, in the file. */
  #start = 0;
  position = 0;

  constructor(source: ByteSource, fail: Failure) {
    this.#source = source;
    this.#fail = fail;
  }

  /** Bytes that are left. */
  get left(): number {
    return this.#source.size - this.position;
  }

  /** Where in the window the next `length` bytes are; moves past them. Waits only where they must be read first. */
  #take(length: number): number | Promise<number> {
    const at = this.position - this.#start;
    if (at + length > this.#window.length) return this.#refill(length);
    this.position += length;
    return at;
  }

  async #refill(length: number): Promise<number> {
    if (length > this.left)
      throw this.#fail(`is cut off: ${length} more bytes are promised at byte ${this.position}, and ${this.left} are there.`);
    const end = Math.min(this.#source.size, this.position + Math.max(length, 2 ** 18));
    this.#window = await this.#source.read(this.position, end);
    this.#view = new DataView(this.#window.buffer);
    this.#start = this.position;
    this.position += length;
    return 0;
  }

  async bytes(length: number): Promise<Uint8Array> {
    const at = await this.#take(length);
    return this.#window.subarray(at, at + length);
  }

  /** One number. @param get reads it from a view */
  async number<T>(length: number, get: (view: DataView, at: number) => T): Promise<T> {
    const taken = this.#take(length);
    const at = typeof taken === "number" ? taken : await taken;
    return get(this.#view, at);
  }

  uint32(): Promise<number> {
    return this.number(4, (view, at) => view.getUint32(at, true));
  }

  /** How many of something come next, of which each takes `least` bytes or more. */
  async count(what: string, least: number, most = Number.MAX_SAFE_INTEGER): Promise<number> {
    const claimed = await this.number(8, (view, at) => view.getBigUint64(at, true));
    if (claimed > BigInt(most) || claimed * BigInt(least) > BigInt(this.left))
      throw this.#fail(`claims ${claimed} ${what}, more than the ${this.left} bytes that follow can hold.`, claimed);
    return Number(claimed);
  }

  async text(what: string): Promise<string> {
    const length = await this.count(`bytes for ${what}`, 1, maximumText);
    const bytes = await this.bytes(length);
    try {
      return utf8.decode(bytes);
    } catch {
      throw this.#fail(`has ${what} that is not UTF-8.`);
    }
  }
}

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

const exact = (value: bigint): number | bigint => (Number.isSafeInteger(Number(value)) ? Number(value) : value);

/** Types of values by their number: bytes and how they are read. 8 is a text, 9 a list. */
const scalars: Readonly<Record<number, readonly [bytes: number, get: (view: DataView, at: number) => GgufValue]>> = {
  0: [1, (view, at) => view.getUint8(at)],
  1: [1, (view, at) => view.getInt8(at)],
  2: [2, (view, at) => view.getUint16(at, true)],
  3: [2, (view, at) => view.getInt16(at, true)],
  4: [4, (view, at) => view.getUint32(at, true)],
  5: [4, (view, at) => view.getInt32(at, true)],
  6: [4, (view, at) => view.getFloat32(at, true)],
  7: [1, (view, at) => view.getUint8(at) !== 0],
  10: [8, (view, at) => exact(view.getBigUint64(at, true))],
  11: [8, (view, at) => exact(view.getBigInt64(at, true))],
  12: [8, (view, at) => view.getFloat64(at, true)],
};

async function readValue(cursor: Cursor, type: number, what: string, fail: Failure, depth = 0): Promise<GgufValue> {
  const scalar = scalars[type];
  if (scalar) return cursor.number(...scalar);
  if (type === 8) return cursor.text(what);
  if (type !== 9) throw fail(`has ${what} of the unknown type ${type}.`, type);
  if (depth === maximumDepth) throw fail(`has ${what} with lists in lists deeper than ${maximumDepth}.`);
  const inner = await cursor.uint32();
  const item = scalars[inner];
  const count = await cursor.count(`entries of ${what}`, item?.[0] ?? (inner === 8 ? 8 : 12), maximumList);
  const list: GgufValue[] = [];
  for (let i = 0; i < count; i++) list.push(await readValue(cursor, inner, what, fail, depth + 1));
  return list;
}

/** What the file says about a tensor. */
interface Claim {
  readonly name: string;
  readonly shape: readonly number[];
  readonly format: BlockFormat;
  /** From the beginning of the data. */
  readonly start: number;
  readonly bytes: number;
}

async function readClaim(cursor: Cursor, fail: Failure): Promise<Claim> {
  const name = await cursor.text("the name of a tensor");
  const tensor = `has tensor ${wordJson(name)}`;
  const rank = await cursor.uint32();
  if (rank > maximumRank) throw fail(`${tensor} of ${rank} axes; there are at most ${maximumRank}.`, rank);
  const sizes: bigint[] = [];
  for (let i = 0; i < rank; i++) sizes.unshift(await cursor.number(8, (view, at) => view.getBigUint64(at, true)));
  const type = await cursor.uint32();
  const start = await cursor.number(8, (view, at) => view.getBigUint64(at, true));
  const format = blockFormats.get(type);
  if (!format)
    throw fail(
      `${tensor} of the unknown type ${type}. Types that are read: ${[...blockFormats.values()].map(({ name }) => name).join(", ")}.`,
      type,
    );
  const elements = sizes.reduce((product, size) => product * (size || 1n), 1n);
  if (elements > BigInt(Number.MAX_SAFE_INTEGER))
    throw fail(`${tensor} with the shape [${sizes.join(", ")}], more elements than can be counted.`, elements);
  const shape = sizes.map(Number);
  const row = shape.at(-1) ?? 1;
  if (row % format.elements !== 0)
    throw fail(`${tensor} with the shape ${wordShape(shape)}: a row of ${format.name} is a multiple of ${format.elements}.`, row);
  const bytes = (sizeOf(shape) / format.elements) * format.bytes;
  if (start > BigInt(Number.MAX_SAFE_INTEGER)) throw fail(`${tensor} at byte ${start}, past the end of the file.`, start);
  return { name, shape, format, start: Number(start), bytes };
}

/** Every tensor has its own place, aligned and within the `dataLength` bytes that are there. */
function checkClaims(claims: readonly Claim[], alignment: number, dataLength: number, fail: Failure): void {
  const names = new Set<string>();
  for (const { name, start, bytes } of claims) {
    if (names.has(name)) throw fail(`has two tensors called ${wordJson(name)}.`, name);
    names.add(name);
    if (start % alignment !== 0)
      throw fail(`has tensor ${wordJson(name)} at byte ${start} of the data, which is not a multiple of ${alignment}.`, start);
    if (start + bytes > Math.max(0, dataLength))
      throw fail(
        `has tensor ${wordJson(name)} up to byte ${start + bytes} of its data but holds ${Math.max(0, dataLength)}: the file is cut off.`,
        start + bytes,
      );
  }
  let end = 0;
  for (const { name, start, bytes } of [...claims].sort((a, b) => a.start - b.start || a.bytes - b.bytes)) {
    if (start < end && bytes > 0) throw fail(`has tensor ${wordJson(name)} at byte ${start}, within the one before it.`, start);
    end = Math.max(end, start + bytes);
  }
}

function storedTensor(claim: Claim, source: ByteSource, dataStart: number, fail: Failure): GgufTensor {
  const { name, shape, format, start, bytes } = claim;
  const { stored = "F32", decode, elements, bytes: blockBytes } = format;
  const size = sizeOf(shape);
  const load = async (from = 0, to = size) => {
    const [first, last] = [Math.floor(from / elements), Math.ceil(to / elements)];
    const begin = dataStart + start;
    const blocks = await source.read(begin + first * blockBytes, begin + last * blockBytes);
    if (!decode) return decodeElements(blocks, stored, name, fail);
    const decodeBlock = typeof decode === "string" ? (await import("./gguf-low-bit.ts")).lowBitBlocks[decode] : decode;
    const values = new Float32Array((last - first) * elements);
    for (let block = 0; block < last - first; block++) decodeBlock(blocks, block * blockBytes, values, block * elements);
    return from % elements || to % elements ? values.slice(from - first * elements, to - first * elements) : values;
  };
  const { dtype } = storedDTypes[stored];
  return { name, type: format.name, dtype, storedDType: stored, shape, byteLength: bytes, load };
}
