import { readdir, readFile, stat, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { FormatError, LorikeetError } from "../../src/errors.ts";
import { encodeSafetensors, readSafetensors, type TensorToWrite, writeSafetensors } from "../../src/formats/safetensors.ts";
import { temporaryFolder } from "../temporary-folder.ts";
import { metadata, tensors } from "./arbitrary-tensors.ts";

const golden = process.env["GOLDEN_DIR"] ?? "test/fixtures";

const folder = temporaryFolder();

/** A file with this header, however wrong. */
function file(header: unknown, data: Uint8Array = new Uint8Array()): Uint8Array {
  const json = new TextEncoder().encode(typeof header === "string" ? header : JSON.stringify(header));
  const bytes = new Uint8Array(8 + json.length + data.length);
  new DataView(bytes.buffer).setUint32(0, json.length, true);
  bytes.set(json, 8);
  bytes.set(data, 8 + json.length);
  return bytes;
}

const read = (source: Uint8Array) => readSafetensors(source, "file.safetensors");
const problem = (source: Uint8Array): Promise<string> =>
  read(source).then(
    () => "(accepted)",
    (error) => (error instanceof FormatError ? error.message : `(${error})`),
  );

describe("a safetensors file", () => {
  it("gives back what was encoded, for all dtypes, shapes and names", async () => {
    await fc.assert(
      fc.asyncProperty(tensors, fc.option(metadata, { nil: undefined }), async (written, notes) => {
        const bytes = encodeSafetensors(written, notes);
        const back = await read(bytes);
        expect(back.metadata).toEqual(notes ?? new Map());
        expect([...back.tensors.keys()].sort()).toEqual([...written.keys()].sort());
        for (const [name, { dtype, shape, data }] of written) {
          const tensor = back.tensors.get(name);
          expect(tensor).toMatchObject({ name, dtype, shape });
          expect(await tensor?.load()).toEqual(data);
        }
        // a tensor that was read is one that can be written, to the same bytes
        const again = new Map<string, TensorToWrite>();
        for (const [name, { dtype, shape, storedDType, load }] of back.tensors)
          again.set(name, { dtype, shape, storedDType, data: await load() });
        expect(encodeSafetensors(again, notes === undefined ? undefined : back.metadata)).toEqual(bytes);
      }),
      { numRuns: 200 },
    );
  });

  it("is refused with one sentence wherever it is cut off", async () => {
    const whole = encodeSafetensors(
      {
        a: { dtype: "float32", shape: [2], data: new Float32Array([1, 2]) },
        é: { dtype: "bool", shape: [], data: new Uint8Array([1]) },
      },
      { format: "pt" },
    );
    for (let length = 0; length < whole.length; length++) {
      const message = await problem(whole.subarray(0, length));
      expect(message).toMatch(/^readSafetensors: file\.safetensors .+\.$/);
    }
    expect(await problem(whole)).toBe("(accepted)");
  });

  it("is accepted or refused with one sentence, never worse, when its bytes are changed at random", async () => {
    await fc.assert(
      fc.asyncProperty(
        tensors,
        fc.array(fc.tuple(fc.nat(), fc.integer({ min: 0, max: 255 })), { minLength: 1, maxLength: 4 }),
        async (written, changes) => {
          const bytes = encodeSafetensors(written, { format: "pt" });
          const headerEnd = 8 + new DataView(bytes.buffer).getUint32(0, true);
          for (const [where, value] of changes) bytes[where % headerEnd] = value;
          await expectNothingWorseThanFormatError(bytes);
        },
      ),
      { numRuns: 500 },
    );
  });

  it("is accepted or refused with one sentence, never worse, when its header is any JSON", async () => {
    const offsets = fc.array(fc.oneof(fc.integer({ min: -2, max: 20 }), fc.double(), fc.jsonValue()), { maxLength: 3 });
    const entry = fc.record(
      { dtype: fc.constantFrom("F32", "U8", "BOOL", "F8_E4M3", 3), shape: offsets, data_offsets: offsets },
      { requiredKeys: [] },
    );
    const header = fc.dictionary(fc.oneof(fc.string(), fc.constant("__metadata__")), fc.oneof(entry, fc.jsonValue()), {
      maxKeys: 4,
    });
    await fc.assert(
      fc.asyncProperty(header, fc.uint8Array({ maxLength: 20 }), (json, data) =>
        expectNothingWorseThanFormatError(file(json, data)),
      ),
      { numRuns: 500 },
    );
  });

  async function expectNothingWorseThanFormatError(bytes: Uint8Array): Promise<void> {
    try {
      const { tensors: found } = await read(bytes);
      for (const tensor of found.values()) await tensor.load();
    } catch (error) {
      expect(error).toBeInstanceOf(FormatError);
      expect((error as Error).message).not.toMatch(/\n/);
    }
  }

  const one = { dtype: "F32", shape: [1], data_offsets: [0, 4] };
  const four = new Uint8Array(4);
  it.each<[what: string, bytes: Uint8Array, message: string]>([
    ["is empty", new Uint8Array(), "is 0 bytes long, too short for a safetensors file."],
    [
      "is not a safetensors file",
      new TextEncoder().encode("<!DOCTYPE html><html>"),
      "claims a header of 5789751444030890000 bytes",
    ],
    [
      "claims too long a header",
      new Uint8Array([1, 0xe1, 0xf5, 5, 0, 0, 0, 0]),
      "claims a header of 100000001 bytes, more than the 100000000 allowed",
    ],
    [
      "claims a longer header than it has",
      new Uint8Array([9, 0, 0, 0, 0, 0, 0, 0, 0x7b]),
      "claims a header of 9 bytes, but only 1 bytes follow: the file is cut off.",
    ],
    ["begins its header otherwise", file("[]"), "has a header that does not begin with {"],
    ["has a header that is not JSON", file("{a}"), "has a header that is not JSON ("],
    [
      "has a header that is not UTF-8",
      new Uint8Array([4, 0, 0, 0, 0, 0, 0, 0, 0x7b, 0x22, 0xff, 0x7d]),
      "has a header that is not JSON (",
    ],
    ["names a tensor twice", file('{"a":{},"\\u0061":{}}'), 'has the key "a" twice in its header.'],
    ["gives a size twice", file('{"a":{"shape":[],"shape" :[1]}}'), 'has the key "shape" twice in its header.'],
    ["has numbers as metadata", file({ __metadata__: { a: 1 } }), 'has __metadata__ with "a", which is not a string.'],
    ["has a list as metadata", file({ __metadata__: [] }), "has __metadata__ that is not a map of strings."],
    ["would change prototypes", file('{"__proto__":{}}'), 'has a tensor called "__proto__": no tensor may have this name.'],
    ["would change the metadata's prototype", file('{"__metadata__":{"__proto__":"x"}}'), 'has __metadata__ with "__proto__"'],
    ["has half a character in a name", file('{"\\ud800":{}}'), "that is half a character."],
    ["describes a tensor by a number", file({ a: 1 }), 'has tensor "a" described by something that is not an object.'],
    [
      "holds an unknown dtype",
      file({ a: { ...one, dtype: "F4" } }, four),
      'has tensor "a" of dtype "F4", which is not one of BOOL, U8,',
    ],
    [
      "holds a dtype that every object has",
      file({ a: { ...one, dtype: "constructor" } }, four),
      'has tensor "a" of dtype "constructor"',
    ],
    [
      "has a fractional size",
      file({ a: { ...one, shape: [0.5, 2] } }, four),
      'has tensor "a" with a shape that is not a list of sizes: [0.5,2].',
    ],
    [
      "has a negative size",
      file({ a: { ...one, shape: [-1, -1] } }, four),
      'has tensor "a" with a shape that is not a list of sizes: [-1,-1].',
    ],
    [
      "has more elements than numbers count",
      file({ a: { ...one, shape: [2 ** 40, 2 ** 40] } }, four),
      "more elements than can be counted.",
    ],
    [
      "hides such a shape behind a zero",
      file({ a: { ...one, shape: [2 ** 40, 2 ** 40, 0], data_offsets: [0, 0] } }),
      "more elements than can be counted.",
    ],
    [
      "has one offset",
      file({ a: { ...one, data_offsets: [0] } }, four),
      'has tensor "a" with data_offsets that are not [start, end]: [0].',
    ],
    [
      "has offsets in the wrong order",
      file({ a: { ...one, data_offsets: [4, 0] } }, four),
      'has tensor "a" with data_offsets that are not [start, end]: [4,0].',
    ],
    [
      "has a negative offset",
      file({ a: { ...one, data_offsets: [-4, 0] } }, four),
      'has tensor "a" with data_offsets that are not [start, end]: [-4,0].',
    ],
    [
      "sets aside too few bytes",
      file({ a: { ...one, shape: [2] } }, four),
      'has tensor "a" of [2] F32, which is 8 bytes, but 4 bytes are set aside for it.',
    ],
    [
      "has overlapping tensors",
      file({ a: one, b: one }, four),
      'has tensor "b" at byte 0, but the tensor before it ends at 4: the data overlaps.',
    ],
    [
      "has a gap",
      file({ a: { ...one, data_offsets: [4, 8] } }, new Uint8Array(8)),
      'has tensor "a" at byte 4, but the tensor before it ends at 0: the data has a gap.',
    ],
    [
      "is cut off in the data",
      file({ a: one }, new Uint8Array(3)),
      'should hold 4 bytes of data (up to tensor "a") but holds 3: the file is cut off.',
    ],
    ["has bytes left over", file({ a: one }, new Uint8Array(6)), "holds 6 bytes of data, 2 more than its tensors account for."],
  ])("is refused when it %s", async (_, bytes, message) => {
    expect(await problem(bytes)).toContain(message);
    expect(await problem(bytes)).toMatch(/^readSafetensors: file\.safetensors [^\n]+$/);
  });

  it("loads tensors from any alignment", async () => {
    const values = new Float64Array([1.5, -2.5]);
    const bytes = file(
      { a: { dtype: "BOOL", shape: [3], data_offsets: [0, 3] }, b: { dtype: "F64", shape: [2], data_offsets: [3, 19] } },
      new Uint8Array([1, 0, 1, ...new Uint8Array(values.buffer)]),
    );
    expect(await (await read(bytes)).tensors.get("b")?.load()).toEqual(values);
    const shifted = new Uint8Array(bytes.length + 3).fill(9);
    shifted.set(bytes, 3);
    expect(await (await read(shifted.subarray(3))).tensors.get("b")?.load()).toEqual(values);
  });

  it("refuses integers that do not fit int32, naming tensor and place", async () => {
    const data = new Uint8Array(new BigInt64Array([5n, 2n ** 40n]).buffer);
    const tensor = (await read(file({ ids: { dtype: "I64", shape: [2], data_offsets: [0, 16] } }, data))).tensors.get("ids");
    await expect(tensor?.load()).rejects.toThrow(
      'file.safetensors has 1099511627776 in tensor "ids" at index 1 (I64), which does not fit int32.',
    );
    const truth = (
      await read(file({ m: { dtype: "BOOL", shape: [2], data_offsets: [0, 2] } }, new Uint8Array([1, 2])))
    ).tensors.get("m");
    await expect(truth?.load()).rejects.toThrow('has 2 in tensor "m" at index 1 (BOOL), which is neither 0 nor 1.');
  });

  it("gives floats of eight bits the values of PyTorch", async () => {
    const codes = new Uint8Array([0, 1, 128, 56, 57, 254, 127, 124]);
    const load = async (dtype: string) =>
      (await read(file({ a: { dtype, shape: [8], data_offsets: [0, 8] } }, codes))).tensors.get("a")?.load();
    expect(await load("F8_E4M3")).toEqual(Float32Array.of(0, 2 ** -9, -0, 1, 1.125, -448, Number.NaN, 384));
    const infinite = Number.POSITIVE_INFINITY;
    expect(await load("F8_E5M2")).toEqual(Float32Array.of(0, 2 ** -16, -0, 0.5, 0.625, Number.NaN, Number.NaN, infinite));
  });

  it("has a repeated key only where one object has it twice", async () => {
    const bytes = file(
      '{ "a\\"b" : {"dtype":"U8","shape":[],"data_offsets":[0,1]}, "__metadata__": {"dtype": "{\\"dtype\\": 1, \\"dtype\\": 2}"} } \n',
      new Uint8Array(1),
    );
    expect([...(await read(bytes)).tensors.keys()]).toEqual(['a"b']);
    expect((await read(file('{"__metadata__":null}'))).metadata.size).toBe(0); // as the Rust library has it
  });
});

describe("writing a safetensors file", () => {
  it("orders and pads as the reference implementation: wide dtypes first, then names by code point", async () => {
    const u8 = { dtype: "uint8", shape: [1], data: new Uint8Array(1) } as const;
    const bytes = encodeSafetensors({
      "\u{1F99C}": u8,
      "\uffee": u8,
      b: { dtype: "int32", shape: [1], data: new Int32Array(1) },
      a: { dtype: "float32", shape: [], data: new Float32Array(1) },
    });
    const length = new DataView(bytes.buffer).getUint32(0, true);
    expect(length % 8).toBe(0);
    expect(new TextDecoder().decode(bytes.subarray(8, 8 + length)).trimEnd()).toBe(
      '{"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"b":{"dtype":"I32","shape":[1],"data_offsets":[4,8]},' +
        '"\uffee":{"dtype":"U8","shape":[1],"data_offsets":[8,9]},"\u{1F99C}":{"dtype":"U8","shape":[1],"data_offsets":[9,10]}}',
    );
  });

  it("reproduces files of the reference implementation byte for byte", async () => {
    const paths = [
      "models/llama/model.safetensors",
      "models/llama_bf16/model.safetensors",
      "ops/masked_fill.safetensors",
      "ops/gather.safetensors",
    ];
    for (const path of paths) {
      const source = join(golden, path);
      if (!(await stat(source).catch(() => undefined))) continue;
      const original = await readSafetensors(source);
      const copy = join(folder, "copy.safetensors");
      await writeSafetensors(copy, original.tensors, original.metadata.size === 0 ? undefined : original.metadata);
      expect((await readFile(copy)).equals(await readFile(source)), path).toBe(true);
    }
  });

  it("leaves the old file and no temporary one when a tensor fails half-way", async () => {
    const path = join(folder, "kept.safetensors");
    await writeFile(path, "old");
    const failing = { a: { dtype: "float32", shape: [2], load: () => Promise.reject(new Error("lost")) } } as const;
    await expect(writeSafetensors(path, failing)).rejects.toThrow("lost");
    expect(await readFile(path, "utf8")).toBe("old");
    expect((await readdir(folder)).filter((name) => name.includes("kept"))).toEqual(["kept.safetensors"]);
  });

  it.each<[TensorToWrite, string]>([
    [
      { dtype: "float32", shape: [2, 3], data: new Float32Array(5) },
      'tensor "x" of [2, 3] float32 needs a Float32Array of 6 elements, got a Float32Array of 5.',
    ],
    [
      { dtype: "float32", shape: [2], data: new Float64Array(2) },
      'tensor "x" of [2] float32 needs a Float32Array of 2 elements, got a Float64Array of 2.',
    ],
    [{ dtype: "float32", shape: [2] }, 'tensor "x" of [2] float32 needs a Float32Array of 2 elements, got nothing.'],
    [
      { dtype: "float32", shape: [-2], data: new Float32Array(2) },
      'tensor "x" has the shape [-2], which is not a list of sizes.',
    ],
    [
      { dtype: "float32", shape: [2], data: new Float32Array(2), storedDType: "I64" },
      'tensor "x" is float32 and cannot be stored as I64.',
    ],
    [
      { dtype: "int32", shape: [2], data: new Int32Array([1, 300]), storedDType: "I8" },
      'tensor "x" has 300 at index 1, which does not fit I8.',
    ],
    [
      { dtype: "float32", shape: [2], data: Float32Array.of(1, 1.1), storedDType: "F8_E4M3" },
      "at index 1, which does not fit F8_E4M3.",
    ],
  ])("refuses %o", (tensor, message) => {
    expect(() => encodeSafetensors({ x: tensor })).toThrow(/^encodeSafetensors: /);
    expect(() => encodeSafetensors({ x: tensor })).toThrow(message);
  });

  it("refuses names that readers refuse", () => {
    const x = { dtype: "bool", shape: [], data: new Uint8Array(1) } as const;
    for (const name of ["__proto__", "__metadata__", "\udc00"])
      expect(() => encodeSafetensors(new Map([[name, x]]))).toThrow(LorikeetError);
  });
});

describe("a safetensors file on disk", () => {
  it("is read one tensor at a time, and not after it has changed", async () => {
    const path = join(folder, "lazy.safetensors");
    await writeSafetensors(path, { a: { dtype: "float32", shape: [2], data: new Float32Array([1, 2]) } });
    const { tensors: found, source } = await readSafetensors(path);
    expect(source).toBe(path);
    expect(await found.get("a")?.load()).toEqual(new Float32Array([1, 2]));
    await utimes(path, 1, 1);
    await expect(found.get("a")?.load()).rejects.toThrow("was changed after it had been opened. Open it again.");
  });

  it("is read from a Blob as in browsers", async () => {
    const bytes = encodeSafetensors({ a: { dtype: "float32", shape: [1], data: new Float32Array([7]) } });
    const { tensors: found } = await readSafetensors(new Blob([bytes]), "upload");
    expect(await found.get("a")?.load()).toEqual(new Float32Array([7]));
  });

  it("is missed with its path and a way out", async () => {
    const path = join(folder, "none.safetensors");
    await expect(readSafetensors(path)).rejects.toThrow(
      `readSafetensors: cannot read ${JSON.stringify(path)}: it does not exist. Check the spelling`,
    );
    await expect(readSafetensors(folder)).rejects.toThrow("it is a folder. Give the path of a file.");
  });
});
