import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { ConfigError, FormatError } from "../../src/errors.ts";
import { ignoredLabel, shuffledOrder, type TextBatch, TextDataset, textDataset, textsFromJsonl } from "../../src/text/dataset.ts";
import { temporaryFolder } from "../temporary-folder.ts";

/** One token a character; 0 ends a text. */
const letters = {
  eosId: 0,
  encode: (text: string) => Int32Array.from(text, (character) => character.codePointAt(0) ?? 0),
};
const noEnd = { ...letters, eosId: undefined };
const alphabet = "abcdefghijklmnopqrstuvwxyz";
const spell = (ids: Iterable<number>) => Array.from(ids, (id) => (id > 0 ? String.fromCodePoint(id) : "|")).join("");
const rowsOf = ({ inputIds, labels, shape: [count, window] }: TextBatch) =>
  Array.from({ length: count }, (_, row) => ({
    input: spell(inputIds.subarray(row * window, (row + 1) * window)),
    labels: spell(labels.subarray(row * window, (row + 1) * window)),
  }));

describe("textDataset", () => {
  it("keeps the end of the text for evaluation and closes documents", () => {
    const dataset = textDataset(["abcdefgh", "ijklmnopq"], letters, { window: 4, heldOut: 0.25 });
    expect(spell(dataset.trainTokens)).toBe("abcdefgh|ijklm");
    expect(spell(dataset.heldOutTokens)).toBe("nopq|");
    expect(dataset.rows).toBe(3);
    expect(spell(textDataset(alphabet, noEnd, { window: 4, heldOut: 0 }).trainTokens)).toBe(alphabet);
  });

  it("takes a split made by hand, as corpora have it", () => {
    const split = { train: [{ text: alphabet }], heldOut: [{ text: "xyz" }, { text: "abc" }] };
    const dataset = textDataset(split, letters, { window: 4 });
    expect([spell(dataset.trainTokens), spell(dataset.heldOutTokens)]).toEqual([`${alphabet}|`, "xyz|abc|"]);
    expect(spell(textDataset(alphabet, letters, { window: 4, heldOut: "xyz" }).heldOutTokens)).toBe("xyz|");
    expect(spell(textDataset(split, letters, { window: 4, heldOut: 0 }).heldOutTokens)).toBe("");
  });

  it("reads text files and JSON lines", () => {
    const folder = temporaryFolder();
    const path = (name: string, content: string | Uint8Array) => {
      writeFileSync(join(folder, name), content);
      return join(folder, name);
    };
    const options = { window: 4, heldOut: 0 };
    expect(spell(textDataset(path("a.txt", `\uFEFF${alphabet}`), letters, options).trainTokens)).toBe(`${alphabet}|`);
    expect(spell(textDataset({ file: path("name without ending", alphabet) }, letters, options).trainTokens)).toBe(
      `${alphabet}|`,
    );
    const lines = path("a.jsonl", '{"text": "abc"}\r\n\n{"text": "def", "n": 1}\n');
    expect(spell(textDataset(lines, letters, options).trainTokens)).toBe("abc|def|");
    expect(() => textDataset(join(folder, "none.txt"), letters)).toThrow(
      `textDataset: cannot read "${folder}/none.txt": it does not exist. Check the spelling, or the folder that a relative path starts from.`,
    );
    expect(() => textDataset(path("b.txt", Uint8Array.of(0x61, 0xff)), letters)).toThrow(/b\.txt" is not text in UTF-8/);
    mkdirSync(join(folder, "sub"));
    expect(() => textDataset({ file: join(folder, "sub") }, letters)).toThrow(/sub": it is a folder/);
    expect(spell(textDataset({ text: "see whale.txt" }, letters, options).trainTokens)).toBe("see whale.txt|");
  });

  it("says what is wrong", () => {
    expect(() => textDataset("", letters)).toThrow("textDataset: the text is empty. Give at least one text with words in it.");
    expect(() => textDataset([], letters)).toThrow(FormatError);
    expect(() => textDataset({ train: alphabet, heldOut: [] }, letters)).toThrow("textDataset: the held-out text is empty.");
    expect(() => textDataset("abc", letters, { window: 8, heldOut: 0 })).toThrow(
      "textDataset: the training text has 4 tokens, fewer than one row: 8 tokens and the one that follows (9). " +
        "Use a smaller `window`, hold out less, or give more text.",
    );
    expect(() => textDataset(alphabet, letters, { window: 0 })).toThrow(
      "textDataset: `window` (= 0) must be a whole number from 1.",
    );
    expect(() => textDataset(alphabet, letters, { window: 4, stride: 1.5 })).toThrow("`stride` (= 1.5)");
    expect(() => textDataset(alphabet, letters, { window: 4, heldOut: 1 })).toThrow(
      "`heldOut` (= 1) must be at least 0 and less than 1.",
    );
    expect(() => textDataset(alphabet, letters, { window: 4, seed: -1 })).toThrow("`seed` (= -1)");
    const dataset = textDataset(alphabet, letters, { window: 4, heldOut: 0 });
    expect(() => dataset.batches({ batchSize: 0 })).toThrow(
      "batches: `batchSize` (= 0) must be a whole number from 1 below 2³¹.",
    );
    expect(() => [...dataset.evaluationBatches({ batchSize: 1 })]).toThrow("evaluationBatches: nothing was held out.");
  });
});

describe("batches", () => {
  it("gives every row once an epoch, with labels one token further", () => {
    const dataset = textDataset(alphabet, noEnd, { window: 5, heldOut: 0, seed: 7 });
    const rows = [...dataset.batches({ batchSize: 5, epochs: 1 })].flatMap(rowsOf);
    expect(rows.map(({ input }) => input).sort()).toEqual(["abcde", "fghij", "klmno", "pqrst", "uvwxy"]);
    for (const { input, labels } of rows) expect(labels).toBe(alphabet.substr(alphabet.indexOf(input) + 1, 5));
  });

  it("overlaps rows when the stride is less than the window", () => {
    const dataset = textDataset("abcdefg", noEnd, { window: 4, stride: 1, heldOut: 0 });
    const rows = [...dataset.batches({ batchSize: 1, epochs: 1 })].flatMap(rowsOf);
    expect(rows.map(({ input }) => input).sort()).toEqual(["abcd", "bcde", "cdef"]);
  });

  it("runs on over the end of an epoch and fills only the last batch", () => {
    const dataset = textDataset(alphabet, noEnd, { window: 5, heldOut: 0 });
    const batches = [...dataset.batches({ batchSize: 4, epochs: 2 })];
    expect(batches.map(({ shape }) => shape)).toEqual([[4, 5], [4, 5], [4, 5]]); // biome-ignore format: one list
    const labels = batches.flatMap((batch) => [...batch.labels]);
    expect(labels.filter((label) => label !== ignoredLabel)).toHaveLength(2 * 5 * 5);
    expect([...(batches[2]?.labels.subarray(2 * 5) ?? [])]).toEqual(new Array(10).fill(ignoredLabel));
  });

  it("depends on the seed and the epoch alone", () => {
    const dataset = textDataset(alphabet.repeat(8), noEnd, { window: 4, heldOut: 0 });
    const run = (seed: number) => [...dataset.batches({ batchSize: 3, seed, epochs: 2 })].flatMap(rowsOf);
    expect(run(1)).toEqual(run(1));
    expect(run(1)).not.toEqual(run(2));
    expect(run(1).slice(0, dataset.rows)).not.toEqual(run(1).slice(dataset.rows, 2 * dataset.rows));
  });

  it("goes on from a kept state as if it had not stopped, also with another batch size", () => {
    const dataset = textDataset(alphabet.repeat(3), noEnd, { window: 4, heldOut: 0, seed: 3 });
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: 30 }),
        fc.integer({ min: 1, max: 7 }),
        fc.integer({ min: 1, max: 7 }),
        (steps, a, b) => {
          const uninterrupted = dataset.batches({ batchSize: 1 });
          for (let i = 0; i < steps * a; i++) uninterrupted.next();
          const first = dataset.batches({ batchSize: a });
          for (let i = 0; i < steps; i++) first.next();
          const resumed = dataset.batches({ batchSize: b, state: JSON.parse(JSON.stringify(first.state)) });
          const rows = rowsOf(resumed.next() as TextBatch);
          expect(rows).toEqual(Array.from({ length: b }, () => rowsOf(uninterrupted.next() as TextBatch)[0]));
        },
      ),
      { numRuns: 50 },
    );
  });

  it("refuses the state of another run", () => {
    const dataset = textDataset(alphabet, noEnd, { window: 4, heldOut: 0 });
    const state = { seed: 5, rows: 99, epoch: 0, position: 1 };
    expect(() => dataset.batches({ batchSize: 1, state })).toThrow(
      "batches: the state is of a run with 99 rows and seed 5; here are 6 rows and seed 5. Go on with the same text",
    );
    expect(() => dataset.batches({ batchSize: 1, seed: 6, state: { ...state, rows: 6 } })).toThrow(ConfigError);
  });
});

describe("evaluationBatches", () => {
  it("holds out any number of tokens of which some are not to be learnt", () => {
    const heldOutTokens = new Int32Array(300_000).fill(7);
    const parts = { window: 100_000, stride: 1, seed: 0, trainTokens: new Int32Array(100_001), heldOutTokens };
    const heldOutMask = new Uint8Array(300_000).fill(1, 150_000);
    const batches = [...new TextDataset({ ...parts, heldOutMask }).evaluationBatches({ batchSize: 1 })];
    expect(batches.map(({ labels }) => labels.filter((label) => label === 7).length)).toEqual([0, 50_000, 100_000]);
  });

  it("predicts each held-out token exactly once, in order, for any sizes", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 9 }),
        fc.integer({ min: 1, max: 4 }),
        fc.integer({ min: 1, max: 40 }),
        (window, batchSize, size) => {
          const heldOut = alphabet.repeat(2).slice(0, size);
          const dataset = textDataset({ train: alphabet, heldOut }, noEnd, { window });
          const batches = [...dataset.evaluationBatches({ batchSize })];
          const labels = batches.flatMap((batch) => [...batch.labels]).filter((label) => label !== ignoredLabel);
          expect(spell(labels)).toBe(heldOut);
          const inputs = batches.flatMap((batch) => [...batch.inputIds]).slice(0, size);
          expect(spell(inputs)).toBe(`z${heldOut}`.slice(0, size));
          expect(batches.length).toBe(Math.ceil(size / (window * batchSize)));
        },
      ),
    );
  });
});

describe("shuffledOrder", () => {
  it("is a permutation, and each place is equally likely", () => {
    const firsts = new Array(4).fill(0);
    for (let epoch = 0; epoch < 4000; epoch++) {
      const order = shuffledOrder(4, 1, epoch);
      expect([...order].sort()).toEqual([0, 1, 2, 3]);
      firsts[order[0] as number]++;
    }
    for (const count of firsts) expect(Math.abs(count - 1000)).toBeLessThan(5 * Math.sqrt(4000 * 0.25 * 0.75)); // five sigma
  });
});

describe("textsFromJsonl", () => {
  it("names the line that is wrong", () => {
    expect(textsFromJsonl('{"body": "abc"}\n', { key: "body" })).toEqual(["abc"]);
    expect(() => textsFromJsonl('{"text": "a"}\n{oops\n', { name: "x.jsonl" })).toThrow(
      /^textsFromJsonl: line 2 of x\.jsonl is not JSON: /,
    );
    expect(() => textsFromJsonl('{"content": "a", "id": 1}')).toThrow(
      'textsFromJsonl: line 1 of the JSON lines has no text under "text"; it has: content, id. Lines are {"text": "…"}; textsFromJsonl takes another `key`.',
    );
    expect(() => textsFromJsonl('"a"')).toThrow("it is a string.");
  });
});
