/** A plan is what its description says: largest first, each at the lowest place that is free for the whole of its life. */
import fc from "fast-check";
import { expect, test } from "vitest";
import { aligned, type Lifetime, planMemory } from "../../src/compile/memory-plan.ts";
import "../arbitrary/seed.ts";

/** The description, word for word: candidates for the lowest place are 0 and the ends of what lives at the same time. */
function planned(lives: readonly Lifetime[]): number[] {
  const order = lives.map((life, i) => ({ ...life, i })).sort((a, b) => b.bytes - a.bytes || a.from - b.from);
  const offsets: number[] = [];
  order.forEach((life, n) => {
    const beside = order.slice(0, n).filter((other) => other.from <= life.to && life.from <= other.to);
    const ranges = beside.map(({ i, bytes }) => [offsets[i]!, offsets[i]! + aligned(bytes)] as const);
    const fits = (at: number) => ranges.every(([start, end]) => end <= at || at + aligned(life.bytes) <= start);
    offsets[life.i] = [0, ...ranges.map(([, end]) => end)].sort((a, b) => a - b).find(fits)!;
  });
  return offsets;
}

test("values of any sizes and lives lie where the description says", () => {
  const life = fc.record({ bytes: fc.nat(700), from: fc.nat(60), length: fc.oneof(fc.nat(3), fc.nat(60)) });
  fc.assert(
    fc.property(fc.array(life, { maxLength: 60 }), fc.constantFrom(1, 64, 300), (drawn, unit) => {
      const lives = drawn.map(({ bytes, from, length }) => ({ bytes: bytes * unit, from, to: from + length }));
      const { offsets, bytes } = planMemory(lives);
      expect(offsets).toEqual(planned(lives));
      expect(bytes).toBe(Math.max(0, ...lives.map((each, i) => offsets[i]! + aligned(each.bytes))));
    }),
    { numRuns: 300 },
  );
});
