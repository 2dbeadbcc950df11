import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { threefry2x32, uniformFromBits } from "../../src/random/threefry.ts";

describe("threefry2x32", () => {
  // Random123's known answers for 20 rounds (tests/kat_vectors): counter, key, result
  it.each([
    [
      [0, 0],
      [0, 0],
      [0x6b200159, 0x99ba4efe],
    ],
    [
      [0xffffffff, 0xffffffff],
      [0xffffffff, 0xffffffff],
      [0x1cb996fc, 0xbb002be7],
    ],
    [
      [0x243f6a88, 0x85a308d3],
      [0x13198a2e, 0x03707344],
      [0xc4923a9c, 0x483df7a0],
    ],
  ] as const)("of counter %j and key %j is %j", ([counter0, counter1], [key0, key1], result) => {
    expect(threefry2x32(key0, key1, counter0, counter1)).toEqual(result);
  });

  it("gives the same for signed and unsigned words", () => {
    const word = fc.integer({ min: 0, max: 0xffffffff });
    fc.assert(
      fc.property(word, word, word, word, (a, b, c, d) => {
        expect(threefry2x32(a | 0, b | 0, c | 0, d | 0)).toEqual(threefry2x32(a, b, c, d));
      }),
    );
  });
});

describe("uniformFromBits", () => {
  it("takes the upper 24 bits, so that float32 holds it exactly and one is never reached", () => {
    expect([0, 0xff, 0x100, 0x80000000, 0xffffffff, -1].map(uniformFromBits)).toEqual([
      0,
      0,
      2 ** -24,
      0.5,
      1 - 2 ** -24,
      1 - 2 ** -24,
    ]);
    expect(Math.fround(uniformFromBits(0xffffffff))).toBe(uniformFromBits(0xffffffff));
  });
});
