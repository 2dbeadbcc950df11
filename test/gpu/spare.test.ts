// What of the card's memory is kept for others when nobody holds it any more.
import { expect, test } from "vitest";
import { Spare } from "../../src/devices/gpu/spare.ts";

interface Thing {
  readonly name: string;
}

/** Things by their names. */
function watched(bytes: number, things: number) {
  const dropped: string[] = [];
  const spare = new Spare<Thing>({ bytes, things }, ({ name }) => void dropped.push(name));
  const named = new Map<string, Thing>();
  return {
    dropped,
    spare: {
      give(kind: string | number, name: string, bytes: number): void {
        if (!named.has(name)) named.set(name, { name });
        spare.give(kind, named.get(name)!, bytes);
      },
      take: (kind: string | number): string | undefined => spare.take(kind)?.name,
      clear: () => spare.clear(),
    },
  };
}

test("the one that came here first is taken, in whatever order they come back", () => {
  const { spare } = watched(1000, 100);
  for (const name of ["a", "b", "c", "d"]) spare.give(8, name, 8);
  for (const order of ["dcba", "bdac", "abcd"]) {
    const taken = [0, 1, 2, 3].map(() => spare.take(8));
    expect(taken).toEqual(["a", "b", "c", "d"]);
    for (const name of order) spare.give(8, name, 8);
  }
});

test("what is of the kind that is asked for is given again, once", () => {
  const { dropped, spare } = watched(100, 10);
  spare.give(8, "a", 8);
  spare.give(8, "b", 8);
  spare.give("8,1", "c", 8);
  expect([spare.take(8), spare.take(8)].sort()).toEqual(["a", "b"]);
  expect(spare.take(8)).toBeUndefined();
  expect(spare.take("8,1")).toBe("c");
  expect(dropped).toEqual([]);
});

test("kinds that were asked for longest ago go first, by bytes and by number", () => {
  const { dropped, spare } = watched(100, 3);
  spare.give(30, "old", 30);
  spare.give(40, "middle", 40);
  spare.give(30, "older still", 30);
  // asked for: the last to go
  spare.give(30, spare.take(30)!, 30);
  spare.give(1, "one too many", 1);
  expect(dropped).toEqual(["middle"]);
  spare.give(90, "large", 90);
  expect(dropped).toEqual(["middle", "old", "older still"]);
  expect(spare.take(90)).toBe("large");
});

test("what is larger than all that may be kept is not", () => {
  const { dropped, spare } = watched(100, 3);
  spare.give(101, "huge", 101);
  expect(dropped).toEqual(["huge"]);
  expect(spare.take(101)).toBeUndefined();
});

test("nothing is kept of many things of many kinds but the most of all", () => {
  const { dropped, spare } = watched(1000, 7);
  for (let i = 0; i < 500; i++) spare.give(i, `${i}`, 4);
  expect(dropped).toHaveLength(493);
  spare.clear();
  expect(new Set(dropped).size).toBe(500);
});
