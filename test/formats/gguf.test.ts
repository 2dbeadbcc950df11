import { createHash } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { FormatError } from "../../src/errors.ts";
import { openGguf, readGguf } from "../../src/formats/gguf.ts";
import { blockFormats } from "../../src/formats/gguf-block.ts";
import { encodeGguf, type GgufEntry, writeGguf } from "../../src/formats/gguf-writer.ts";
import { readSafetensors } from "../../src/formats/safetensors.ts";
import { toFloat32 } from "../../src/graph/dtype.ts";
import { cases } from "../arbitrary/cases.ts";

const folder = process.env["GGUF_FIXTURES"] ?? join(import.meta.dirname, "../fixtures/gguf");
const path = join(folder, "blocks.gguf");
const bytes = new Uint8Array(readFileSync(path));

/** Builds a GGUF file by hand, so that each claim can be a lie. */
class Writer {
  readonly #parts: number[] = [];
  u8(...values: number[]): this {
    for (const value of values) this.#parts.push(value & 255);
    return this;
  }
  u32(value: number): this {
    return this.u8(value, value >>> 8, value >>> 16, value >>> 24);
  }
  u64(value: number | bigint): this {
    for (let i = 0n; i < 8n; i++) this.u8(Number((BigInt(value) >> (8n * i)) & 255n));
    return this;
  }
  text(value: string): this {
    const encoded = new TextEncoder().encode(value);
    return this.u64(encoded.length).u8(...encoded);
  }
  header(tensors: number | bigint, keys: number | bigint, version = 3): this {
    return this.u8(...new TextEncoder().encode("GGUF"))
      .u32(version)
      .u64(tensors)
      .u64(keys);
  }
  tensor(name: string, sizes: readonly (number | bigint)[], type: number, offset: number | bigint): this {
    this.text(name).u32(sizes.length);
    for (const size of sizes) this.u64(size);
    return this.u32(type).u64(offset);
  }
  /** Zeros up to a multiple of 32, then `count` more. */
  data(count: number): Uint8Array {
    while (this.#parts.length % 32) this.#parts.push(0);
    return Uint8Array.from([...this.#parts, ...new Array<number>(count).fill(0)]);
  }
}

describe("readGguf", () => {
  it("reads metadata of every type of value", async () => {
    const { metadata, version } = await readGguf(path);
    expect(version).toBe(3);
    const value = (key: string) => metadata.get(`value.${key}`);
    expect([value("uint8"), value("int8"), value("uint16"), value("int16")]).toEqual([250, -7, 65000, -300]);
    expect([value("uint32"), value("int32"), value("int64")]).toEqual([4_000_000_000, -70000, -(2 ** 40)]);
    expect(value("uint64")).toBe(2n ** 63n + 1n);
    expect([value("float32"), value("float64")]).toEqual([Math.fround(0.1), 0.1]);
    expect([value("bool"), value("string")]).toEqual([true, "wal 🐋"]);
    expect(metadata.get("list.string")).toEqual(["a", "", "é"]);
    expect(metadata.get("list.float32")).toEqual([1.5, -2.25]);
    expect(metadata.get("list.bool")).toEqual([true, false]);
    expect(metadata.get("list.list")).toEqual([[1, 2], [3]]);
  });

  it("gives the values of the usual types of tensor to the bit, and of any part of them", async () => {
    const { tensors } = await readGguf(path);
    const expected = (await readSafetensors(join(folder, "blocks.safetensors"))).tensors;
    for (const [name, tensor] of tensors) {
      const want = (await expected.get(name)?.load()) as Float32Array;
      expect(tensor.shape).toEqual(expected.get(name)?.shape);
      expect(toFloat32(await tensor.load(), tensor.dtype), name).toEqual(want);
      expect(tensor.type).toBe(name);
      for (const [from, to] of [[3, 70], [0, 32], [250, 256], [9, 9]] as const) // biome-ignore format: a table
        expect(toFloat32(await tensor.load(from, to), tensor.dtype), `${name} ${from}`).toEqual(want.slice(from, to));
    }
  });

  it("reads bytes, Blobs and version 2 the same", async () => {
    const second = bytes.slice();
    second[4] = 2;
    const whole = await readGguf(path);
    for (const source of [bytes, new Blob([bytes]), second]) {
      const file = await readGguf(source, "memory.gguf");
      expect(file.source).toBe("memory.gguf");
      expect(file.metadata).toEqual(whole.metadata);
      expect(await file.tensors.get("Q5_K")?.load()).toEqual(await whole.tensors.get("Q5_K")?.load());
    }
  });

  const one = () => new Writer().header(1, 0);
  it.each([
    ["nothing", new Uint8Array(), "is 0 bytes long, too short"],
    ["another format", new Uint8Array(100), "does not begin with GGUF"],
    ["version 1", new Writer().header(0, 0, 1).data(0), "is of version 1; versions 2 and 3 are read."],
    ["big-endian files", new Writer().header(0, 0, 3 << 24).data(0), "is of big-endian byte order"],
    ["more tensors than fit", new Writer().header(2n ** 60n, 0).data(0), "claims 1152921504606846976 tensors, more than the"],
    ["more keys than fit", new Writer().header(0, 2n ** 63n).data(0), "metadata keys, more than the"],
    [
      "a key longer than the file",
      new Writer()
        .header(0, 1)
        .u64(2n ** 40n)
        .data(64),
      "claims 1099511627776 bytes for a key",
    ],
    ["a key that is not UTF-8", new Writer().header(0, 1).u64(1).u8(255).data(64), "has a key that is not UTF-8."],
    ["an unknown type of value", new Writer().header(0, 1).text("k").u32(13).data(64), 'has key "k" of the unknown type 13.'],
    [
      "a list longer than the file",
      new Writer()
        .header(0, 1)
        .text("k")
        .u32(9)
        .u32(6)
        .u64(2n ** 50n)
        .data(64),
      'entries of key "k"',
    ],
    [
      "lists without end",
      [...new Array(20)].reduce((w: Writer) => w.u32(9).u64(1), new Writer().header(0, 1).text("k").u32(9)).data(900),
      "lists in lists deeper than 8.",
    ],
    ["a key twice", new Writer().header(0, 2).text("k").u32(7).u8(1).text("k").u32(7).u8(1).data(64), 'has the key "k" twice.'],
    [
      "an alignment that is none",
      new Writer().header(0, 1).text("general.alignment").u32(4).u32(24).data(0),
      "has general.alignment 24, which is not a power of two.",
    ],
    ["five axes", one().tensor("w", [1, 1, 1, 1, 1], 0, 0).data(32), 'has tensor "w" of 5 axes'],
    ["an unknown type of tensor", one().tensor("w", [32], 99, 0).data(32), 'has tensor "w" of the unknown type 99.'],
    ["a row of half a block", one().tensor("w", [48, 2], 2, 0).data(99), "a row of Q4_0 is a multiple of 32."],
    [
      "uncountable sizes",
      one()
        .tensor("w", [2n ** 40n, 2n ** 40n], 0, 0)
        .data(32),
      "more elements than can be counted",
    ],
    [
      "sizes hidden by a zero",
      one()
        .tensor("w", [2n ** 63n, 0], 0, 0)
        .data(32),
      "more elements than can be counted",
    ],
    ["a place that is not aligned", one().tensor("w", [1], 0, 4).data(64), "which is not a multiple of 32."],
    ["a place past the end", one().tensor("w", [16], 0, 32).data(64), 'has tensor "w" up to byte 96 of its data but holds 64'],
    [
      "a place no number holds",
      one()
        .tensor("w", [1], 0, 2n ** 60n)
        .data(64),
      "past the end of the file.",
    ],
    ["a name twice", new Writer().header(2, 0).tensor("w", [1], 0, 0).tensor("w", [1], 0, 32).data(64), "has two tensors called"],
    [
      "tensors on top of each other",
      new Writer().header(2, 0).tensor("v", [16], 0, 0).tensor("w", [1], 0, 32).data(64),
      'has tensor "w" at byte 32, within the one before it.',
    ],
  ])("refuses %s", async (_, file, problem) => {
    const error = await readGguf(file, "x.gguf").catch((error: unknown) => error);
    expect(error).toBeInstanceOf(FormatError);
    expect(String(error)).toContain("readGguf: x.gguf ");
    expect(String(error)).toContain(problem);
  });

  it("accepts what is at its limits", async () => {
    const file = new Writer().header(3, 0).tensor("a", [0, 5], 0, 0).tensor("b", [], 0, 0).tensor("c", [8, 2], 0, 32).data(96);
    const { tensors } = await readGguf(file);
    expect([...tensors.values()].map(({ shape }) => shape)).toEqual([[5, 0], [], [2, 8]]);
    expect(await tensors.get("a")?.load()).toEqual(new Float32Array());
  });

  it("gives what gguf-py gives for any bytes, in every type of blocks", async () => {
    const sums: Record<string, { type: number; clear: number[]; sum: string }> = JSON.parse(
      readFileSync(join(folder, "sums.json"), "utf8"),
    );
    expect(Object.keys(sums).sort()).toEqual([...blockFormats.values()].flatMap((each) => (each.decode ? each.name : [])).sort());
    let state = 0;
    const stream = Uint8Array.from({ length: 2 ** 18 }, () => {
      state = (Math.imul(1664525, state) + 1013904223) >>> 0;
      return state >>> 24;
    });
    for (const [name, { type, clear, sum }] of Object.entries(sums)) {
      const { elements, bytes: size } = blockFormats.get(type)!;
      const blocks = stream.slice(0, 1024 * size);
      for (const at of clear) for (let i = at; i < blocks.length; i += size) blocks[i]! &= 0xbf;
      const header = one().tensor("w", [elements, 1024], type, 0).data(0);
      const { tensors } = await readGguf(Buffer.concat([header, blocks]));
      const values = (await tensors.get("w")!.load()) as Float32Array;
      expect(createHash("sha256").update(new Uint8Array(values.buffer)).digest("hex"), name).toBe(sum);
      expect(await tensors.get("w")!.load(elements * 2 - 5, elements * 3 + 1), name).toEqual(
        values.slice(elements * 2 - 5, elements * 3 + 1),
      );
    }
  });

  it("gives integers and float64 as safetensors files do, and knows no types of activations", async () => {
    const data = one().tensor("w", [2], 27, 0).data(16);
    data.set([255, 255, 255, 255, 255, 255, 255, 255, 7], data.length - 16);
    const w = (await readGguf(data)).tensors.get("w")!;
    expect([w.storedDType, w.dtype, await w.load()]).toEqual(["I64", "int32", Int32Array.of(-1, 7)]);
    await expect(readGguf(one().tensor("w", [256], 15, 0).data(292))).rejects.toThrow('has tensor "w" of the unknown type 15.');
  });

  it("refuses a file cut anywhere, and never asks for more bytes than there are", async () => {
    const { tensors } = await readGguf(bytes);
    const needed = Math.max(...[...tensors.values()].map(({ byteLength }) => byteLength));
    await fc.assert(
      fc.asyncProperty(fc.nat(bytes.length - needed), async (length) => {
        let asked = 0;
        const read = async (start: number, end: number) => {
          asked = Math.max(asked, end);
          return bytes.slice(start, Math.min(end, length));
        };
        await expect(readGguf({ name: "cut.gguf", size: length, read })).rejects.toThrow(FormatError);
        expect(asked).toBeLessThanOrEqual(length);
      }),
      cases(60),
    );
  });

  it("uses or refuses any change of a byte of the header with one line", async () => {
    const header =
      bytes.length - [...(await readGguf(bytes)).tensors.values()].reduce((sum, { byteLength }) => sum + byteLength, 0);
    await fc.assert(
      fc.asyncProperty(fc.nat(header), fc.nat(255), async (at, value) => {
        const changed = bytes.slice();
        changed[at] = value;
        const error = await readGguf(changed).catch((error: unknown) => error);
        if (error instanceof Error) expect(error).toBeInstanceOf(FormatError);
      }),
      cases(300),
    );
  });
});

describe("openGguf", () => {
  const part = (tensor: string, more = 0) => {
    const writer = new Writer().header(1, 1).text("split.count").u32(2).u8(2, 0);
    return writer.tensor(tensor, [8], 0, 0).data(32 + more);
  };
  const folderOf = (files: Record<string, Uint8Array>) => ({
    name: "m",
    files: new Set(Object.keys(files)),
    open: async (file: string) => {
      const data = files[file] as Uint8Array;
      return { name: file, size: data.length, read: async (from: number, to: number) => data.slice(from, to) };
    },
  });
  const first = "x-00001-of-00002.gguf";
  const second = "x-00002-of-00002.gguf";

  it("puts the tensors of several files together", async () => {
    const { tensors } = await openGguf(folderOf({ [first]: part("a"), [second]: part("b") }), first);
    expect([...tensors.keys()]).toEqual(["a", "b"]);
    // any of them may be named, or dropped first on a page
    expect([...(await openGguf(folderOf({ [first]: part("a"), [second]: part("b") }), second)).tensors.keys()]).toEqual([
      "a",
      "b",
    ]);
  });

  it("says which part is missing, or has a tensor again", async () => {
    await expect(openGguf(folderOf({ [first]: part("a") }), first)).rejects.toThrow(`and ${second} is not there.`);
    await expect(openGguf(folderOf({ [second]: part("b") }), second)).rejects.toThrow(`and ${first} is not there.`);
    await expect(openGguf(folderOf({ y: part("a") }), "y")).rejects.toThrow("y is one of 2 files, and the others are not there.");
    await expect(openGguf(folderOf({ [first]: part("a"), [second]: part("a") }), first)).rejects.toThrow(
      `${second} has tensor "a", which an earlier file has too.`,
    );
  });
});

describe("encodeGguf", () => {
  const uint32 = fc.integer({ min: 0, max: 2 ** 32 - 1 });
  const float32 = fc.float({ noNaN: true, noDefaultInfinity: true });
  const entry: fc.Arbitrary<GgufEntry> = fc.oneof(
    fc.string({ unit: "grapheme" }),
    fc.boolean(),
    fc.oneof(uint32, fc.array(uint32)).map((value) => ({ uint32: value })),
    fc.oneof(float32, fc.array(float32)).map((value) => ({ float32: value })),
  );
  const tensor = fc
    .tuple(fc.array(fc.integer({ min: 0, max: 5 }), { maxLength: 4 }), fc.boolean(), uint32)
    .map(([shape, half, seed]) => {
      const size = shape.reduce((product, extent) => product * extent, 1);
      const values = Array.from({ length: size }, (_, i) => ((seed + i) * 7919) % 30000);
      return half
        ? ({ dtype: "float16", shape, data: Uint16Array.from(values) } as const)
        : ({ dtype: "float32", shape, data: Float32Array.from(values) } as const);
    });
  const read = (entry: GgufEntry) => (typeof entry === "object" ? Object.values(entry)[0] : entry);

  it("writes what readGguf reads", () =>
    fc.assert(
      fc.asyncProperty(
        fc.dictionary(fc.string(), entry, { noNullPrototype: true }),
        fc.dictionary(fc.string(), tensor, { noNullPrototype: true }),
        async (entries, tensors) => {
          const content = { metadata: new Map(Object.entries(entries)), tensors: new Map(Object.entries(tensors)) };
          content.metadata.delete("general.alignment");
          const file = await readGguf(encodeGguf(content));
          expect(new Map(file.metadata)).toEqual(new Map([...content.metadata].map(([key, each]) => [key, read(each)])));
          expect([...file.tensors.keys()]).toEqual([...content.tensors.keys()]);
          for (const [name, { shape, dtype, data }] of content.tensors) {
            const found = file.tensors.get(name)!;
            expect([found.shape, found.dtype, await found.load()]).toEqual([shape, dtype, data]);
          }
        },
      ),
      cases(100),
    ));

  const one = { dtype: "float32", shape: [2], data: Float32Array.of(1, 2) } as const;
  it.each<[string, Parameters<typeof encodeGguf>[0], string]>([
    [
      "a tensor of another size",
      { metadata: new Map(), tensors: new Map([["x", { ...one, shape: [3] }]]) },
      '"x" of [3] float32',
    ],
    [
      "a number that does not fit",
      { metadata: new Map([["n", { uint32: -1 }]]), tensors: new Map() },
      '"n" (= -1) does not fit uint32',
    ],
    ["no number of a type", { metadata: new Map([["n", 3 as never]]), tensors: new Map() }, '"n" is a string, true or false'],
  ])("refuses %s, and writes nothing then", async (_, content, problem) => {
    expect(() => encodeGguf(content)).toThrow(problem);
    const path = join(import.meta.dirname, "never-written.gguf");
    await expect(writeGguf(path, content)).rejects.toThrow(problem);
    expect(existsSync(path)).toBe(false);
  });
});
