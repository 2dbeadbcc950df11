// What of the card's memory is kept for others when nobody holds it any more.
import { expect, test } from "vitest";
import { Spare } from "../../src/devices/gpu/spare.ts";

function watched(bytes: number, things: number) {
  const dropped: string[] = [];
  return { dropped, spare: new Spare<string>({ bytes, things }, (thing) => void dropped.push(thing)) };
}

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
  expect(dropped).toEqual(["middle", "older still", "old"]);
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
