/**
 * Dequantised values are as near as the table allows: |x − table[code]·absmax| ≤ absmax · gap / 2, with the widest gap between
 * neighbours; for int8, absmax / 254. If the table reaches from −1 to 1, quantising again changes nothing. Unpacking packed codes gives
 * them back.
 *
 * If the scales are quantised too, the same bound holds for them, relative to their largest distance from the mean.
 *
 * @see https://arxiv.org/abs/2305.14314, §3
 */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  dequantiseAffine,
  dequantiseBlockwise,
  dequantiseInt8,
  dequantiseScales,
  dynamicMap,
  fp4,
  nf4,
  packNibbles,
  type Quantised,
  quantiseAffine,
  quantiseBlockwise,
  quantiseInt8,
  quantiseScales,
  unpackNibbles,
} from "../../src/nn/quantiser.ts";

const tables = { nf4, fp4, dynamic: dynamicMap() };
const values = fc
  .array(fc.float({ noNaN: true, noDefaultInfinity: true, min: Math.fround(-1e4), max: Math.fround(1e4) }), {
    maxLength: 200,
    size: "max",
  })
  .map((list) => Float32Array.from(list, (x) => (Math.abs(x) < 1e-30 ? 0 : x)));
const blocks = fc.constantFrom(32, 64, 128);
const rounding = 2 ** -21;

const gapOf = (table: Float32Array): number => {
  const sorted = table.toSorted();
  const inner = sorted.reduce((most, value, i) => (i === 0 ? most : Math.max(most, value - sorted[i - 1]!)), 0);
  // the dynamic map ends before −1
  return Math.max(inner, 2 * (1 + sorted[0]!));
};

function checkBlockwise(quantiser: typeof quantiseBlockwise, table: Float32Array, x: Float32Array, block: number): void {
  const quantised: Quantised = quantiser(x, table, block);
  const back = dequantiseBlockwise(quantised, table, block);
  const bound = gapOf(table) / 2 + rounding;
  for (const [i, value] of x.entries()) {
    const scale = quantised.absmax[Math.floor(i / block)]!;
    expect(Math.abs(value - back[i]!)).toBeLessThanOrEqual(scale * bound);
  }
  if (!table.includes(-1)) return;
  const again = dequantiseBlockwise(quantiser(back, table, block), table, block);
  expect(Array.from(again, (value) => value + 0)).toEqual(Array.from(back, (value) => value + 0)); // FP4 has two zeros
}

describe.each(Object.entries(tables))("%s", (_, table) => {
  test("values come back as near as the table allows, and stay", () => {
    fc.assert(fc.property(values, blocks, (x, block) => checkBlockwise(quantiseBlockwise, table, x, block)));
  });
});

test("int8 and affine codes", () => {
  fc.assert(
    fc.property(values, fc.integer({ min: 1, max: 40 }), (x, row) => {
      const int8 = quantiseInt8(x, row);
      const affine = quantiseAffine(x, row);
      const [a, b] = [dequantiseInt8(int8, row), dequantiseAffine(affine, row)];
      for (const [i, value] of x.entries()) {
        const r = Math.floor(i / row);
        expect(Math.abs(value - a[i]!)).toBeLessThanOrEqual((int8.absmax[r]! / 127) * (0.5 + 127 * rounding));
        // both the value and the code of 0 are rounded; far from 0 their distance is lost in the size of both
        const reach = Math.abs(value) + 255 * affine.scale[r]!;
        expect(Math.abs(value - b[i]!)).toBeLessThanOrEqual(affine.scale[r]! * 1.01 + reach * 2 ** -20);
      }
    }),
  );
});

test("double quantisation is off by half a gap of the dynamic map", () => {
  fc.assert(
    fc.property(fc.array(fc.float({ noNaN: true, min: 0, max: 8 }), { minLength: 1, maxLength: 600 }), (list) => {
      const absmax = Float32Array.from(list);
      const scales = quantiseScales(absmax);
      const back = dequantiseScales(scales);
      const bound = gapOf(tables.dynamic) / 2 + rounding;
      for (const [i, value] of absmax.entries())
        expect(Math.abs(value - back[i]!)).toBeLessThanOrEqual(scales.absmax[Math.floor(i / 256)]! * bound + 8 * 2 ** -22);
    }),
  );
});

const checkPacking = (pack: typeof packNibbles, codes: Uint8Array): void => {
  expect([...unpackNibbles(pack(codes, 7), codes.length)]).toEqual([...codes]);
};
const nibbles = fc.array(fc.nat(15), { maxLength: 99 }).map((list) => Uint8Array.from(list));

test("packing any number of codes", () => {
  fc.assert(fc.property(nibbles, (codes) => checkPacking(packNibbles, codes)));
});

describe("mutants are caught", () => {
  const caught = (property: fc.IProperty<never>) =>
    expect(() => fc.assert(property as never, { endOnFailure: true, numRuns: 50 })).toThrow();
  test("a quantiser that forgets the last short block's scale", () => {
    const forgetful: typeof quantiseBlockwise = (x, table, block) => {
      const { codes, absmax } = quantiseBlockwise(x, table, block);
      return { codes, absmax: absmax.map((value, b) => ((b + 1) * block > x.length ? absmax[0]! : value)) };
    };
    caught(fc.property(values, blocks, (x, block) => checkBlockwise(forgetful, nf4, x, block)) as never);
  });
  test("a quantiser that takes the lower of two codes always", () => {
    const low: typeof quantiseBlockwise = (x, table, block) => {
      const shifted = table.map((value, i) => (i + 1 < table.length ? (value + table[i + 1]!) / 2 : value));
      return quantiseBlockwise(x, shifted, block);
    };
    caught(fc.property(values, blocks, (x, block) => checkBlockwise(low, nf4, x, block)) as never);
  });
  test("the first code in the lower half", () => {
    const turned: typeof packNibbles = (codes, padding) => packNibbles(codes, padding).map((byte) => (byte >> 4) | (byte << 4));
    caught(fc.property(nibbles, (codes) => checkPacking(turned, codes)) as never);
  });
});
