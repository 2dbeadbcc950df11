/** Statements in GLSL: conditions on four neighbours are functions, arrays have readers, numbers without a literal are bits. */
import { describe, expect, test } from "vitest";
import { GlslCode } from "../../src/devices/gpu/glsl-code.ts";

const written = (write: (code: GlslCode) => void, wide: readonly string[] = [], own = "place", ownIsFour = true): GlslCode => {
  const code = new GlslCode(new Set(wide), own, ownIsFour);
  write(code);
  return code;
};

describe("four neighbours at once", () => {
  const chosen = (condition: string): string =>
    written((code) =>
      code.each(4, () => {
        code.accumulator("0");
        code.choose(condition.replaceAll("x", "v0"), "v0", "0");
      }),
    ).lines[1]!;

  test.each([
    ["x > 1", "greaterThan(v0, vec4(1.0))"],
    ["x === -0.5", "equal(v0, -vec4(0.5))"],
    ["!(x <= 0 || x > 0)", "not(either(lessThanEqual(v0, vec4(0.0)), greaterThan(v0, vec4(0.0))))"],
    [
      "x > 2 || !(x <= 0 || x > 0)",
      "either(greaterThan(v0, vec4(2.0)), not(either(lessThanEqual(v0, vec4(0.0)), greaterThan(v0, vec4(0.0)))))",
    ],
    [
      "x < 3 && x !== 0 && x >= 1",
      "both(both(lessThan(v0, vec4(3.0)), notEqual(v0, vec4(0.0))), greaterThanEqual(v0, vec4(1.0)))",
    ],
  ])("%s", (condition, text) => {
    expect(chosen(condition)).toBe(`vec4 v1 = mix(vec4(0.0), v0, ${text});`);
  });

  test("a condition that is no comparison has no form", () => {
    const code = written((code) =>
      code.each(4, () => {
        const x = code.accumulator("0");
        code.choose(`${x} + 1 > 2`, x, "0");
      }),
    );
    expect(code.isForeign).toBe(true);
  });

  test("an update asks for all conditions", () => {
    const code = written((code) =>
      code.each(4, () => {
        const x = code.accumulator("0");
        code.update(x, [`!(${x} <= 1)`, `${x} <= 0 || ${x} > 0`], "1");
      }),
    );
    expect(code.lines[1]).toBe(
      "v0 = mix(v0, vec4(1.0), both(not(lessThanEqual(v0, vec4(1.0))), either(lessThanEqual(v0, vec4(0.0)), greaterThan(v0, vec4(0.0)))));",
    );
    expect(code.isForeign).toBe(false);
  });

  test("what is written has readers of its own, of floats or of fours", () => {
    const read = (code: GlslCode) => {
      code.isFour("number", "place");
      code.each(4, () => {
        code.read("b0", "number", [], 1);
        code.read("b1", "number", [], 1);
        code.read("b1", "row", [], 0);
      });
    };
    expect(written(read, ["b0"]).lines).toEqual([
      "vec4 v0 = own_four_b0();",
      "vec4 v1 = vec4(at_b1(number), at_b1(number + 1), at_b1(number + 2), at_b1(number + 3));",
      "float v2 = at_b1(row);",
    ]);
    expect(written((code) => code.read("b0", "number", [], 1), [], "number", false).lines).toEqual(["float v0 = own_b0();"]);
  });

  test("bounds of the inner axis are those of each of the four", () => {
    const bounds = [{ index: "k", from: 4, to: 8, isInner: true }];
    expect(written((code) => code.each(4, () => code.read("b0", "k", bounds, 1)), ["b0"]).lines).toEqual([
      "vec4 v0 = mix(vec4(0.0), four_b0((k) >> 2u), both(greaterThanEqual((ivec4(k) + ivec4(0, 1, 2, 3)), ivec4(4)), lessThan((ivec4(k) + ivec4(0, 1, 2, 3)), ivec4(8))));",
    ]);
  });
});

test("infinities and NaN are made of their bits, other numbers are literals", () => {
  const code = written((code) => {
    code.let(code.literal(Number.NEGATIVE_INFINITY));
    code.let(code.literal(1.5));
  });
  expect(code.lines).toEqual(["float v0 = uintBitsToFloat(4286578688u);", "float v1 = v0;", "float v2 = 1.5;"]);
  expect(code.numbers.size).toBe(0);
});
