/** Statements in WGSL: what is one variable for four neighbours, what is spread, and what has no form. */
import { describe, expect, test } from "vitest";
import { WgslCode } from "../../src/devices/gpu/wgsl-code.ts";

const statements = (write: (code: WgslCode) => void, wide: readonly string[] = []): string[] => {
  const code = new WgslCode(new Set(wide));
  write(code);
  return code.lines;
};

describe("four neighbours at once", () => {
  test("what is read along the row is a vec4, and so is what is made of it; the rest is spread", () => {
    const lines = statements(
      (code) => {
        const scale = code.let("2.5");
        code.each(4, () => {
          const x = code.read("b0", code.index("number * 8 + k"), [], 1);
          code.let(`Math.exp(${x} * ${scale}) + 1`);
          code.choose(`${x} > ${scale} && ${x} !== 0`, x, "0");
        });
      },
      ["b0"],
    );
    expect(lines).toEqual([
      "var v0 : f32 = 2.5;",
      "let a1 : i32 = number * 8 + k;",
      "var v2 : vec4<f32> = b0[(a1) >> 2u];",
      "var v3 : vec4<f32> = exp(v2 * vec4<f32>(v0)) + vec4<f32>(1.0);",
      "var v4 : vec4<f32> = select(vec4<f32>(0.0), v2, ((v2 > vec4<f32>(v0)) & (v2 != vec4<f32>(0.0))));",
    ]);
  });

  test("what is the same for all four stays a float", () => {
    const lines = statements((code) =>
      code.each(4, () => {
        const x = code.read("b0", "number", [], 0);
        code.let(`1 / ${x}`);
      }),
    );
    expect(lines).toEqual(["var v0 : f32 = b0[number];", "var v1 : f32 = 1.0 / v0;"]);
  });

  test("neighbours that do not lie side by side are gathered", () => {
    const lines = statements((code) => code.each(4, () => code.read("b0", "a", [], -3)));
    expect(lines).toEqual(["var v0 : vec4<f32> = vec4<f32>(b0[a], b0[a + -3], b0[a + -6], b0[a + -9]);"]);
  });

  test("bounds of the inner axis are those of each of the four", () => {
    const bounds = [
      { index: "r", from: 0, to: 3, isInner: false },
      { index: "k", from: 4, to: 8, isInner: true },
    ];
    const [line] = statements((code) => code.each(4, () => code.read("b0", "k", bounds, 1)), ["b0"]);
    expect(line).toBe(
      "var v0 : vec4<f32> = select(vec4<f32>(0.0), select(vec4<f32>(0.0), b0[(k) >> 2u], r >= 0 && r < 3), " +
        "((vec4<i32>(k) + vec4<i32>(0, 1, 2, 3)) >= vec4<i32>(4)) & ((vec4<i32>(k) + vec4<i32>(0, 1, 2, 3)) < vec4<i32>(8)));",
    );
  });

  test("a fold keeps four, which are joined two by two", () => {
    const lines = statements((code) => {
      let sum = "";
      code.each(4, () => {
        sum = code.accumulator("0");
        code.assign(sum, `${sum} + 1`);
      });
      expect(code.folded(sum, (mine, other) => `${mine} + ${other}`)).toBe("v7");
    });
    expect(lines).toEqual([
      "var v0 : vec4<f32> = vec4<f32>(0.0);",
      "v0 = v0 + vec4<f32>(1.0);",
      ...["x", "y", "z", "w"].map((part, i) => `var v${i + 1} : f32 = v0.${part};`),
      "var v5 : f32 = v1 + v2;",
      "var v6 : f32 = v3 + v4;",
      "var v7 : f32 = v5 + v6;",
    ]);
  });

  test("results are written as one vec4, or one by one where rows do not begin at fours", () => {
    const lines = statements(
      (code) => {
        code.each(4, () => code.read("b0", "k", [], 1));
        code.store("k", "v0", 4, true);
        code.store("k", "v0", 4, false);
      },
      ["b0"],
    );
    expect(lines.slice(1)).toEqual([
      "result[(k) >> 2u] = v0;",
      ...["x", "y", "z", "w"].map((part, i) => `result[k + ${i}] = v0.${part};`),
    ]);
  });
});

test("branches on four neighbours, bits and calls of functions have no form", () => {
  const isForeign = (write: (code: WgslCode) => void): boolean => {
    const code = new WgslCode(new Set());
    write(code);
    return code.isForeign;
  };
  expect(isForeign((code) => code.line("if (v0 > 1) { v0 = 1; }"))).toBe(false);
  expect(
    isForeign((code) =>
      code.each(4, () => {
        const x = code.accumulator("0");
        code.line(`if (${x} > 1) { ${x} = 1; }`);
      }),
    ),
  ).toBe(true);
  expect(isForeign((code) => code.let("v0 & v1"))).toBe(true);
  expect(isForeign((code) => code.call("sine", "v0"))).toBe(true);
});
