// The checks that guard the source tree are seen to catch what they are for.
import { describe, expect, it } from "vitest";
// @ts-expect-error: the build scripts are plain JavaScript
import { circles, complaint, importsOf } from "../../scripts/imports.mjs";
// @ts-expect-error: the build scripts are plain JavaScript
import { linesOfCode } from "../../scripts/lines-of-code.mjs";

describe("the import order", () => {
  it.each([
    ["src/nn/linear.ts", "src/tensor/tensor.ts"],
    ["src/peft/methods/lora.ts", "src/nn/linear.ts"],
    ["src/compile/trace.ts", "src/devices/device.ts"],
    ["src/devices/wasm/device.ts", "kernels/wasm/matmul.ts"],
    ["kernels/wasm/matmul.ts", "src/devices/wasm/assembler.ts"],
    ["src/graph/view.ts", "src/errors.ts"],
    ["src/index.ts", "src/peft/attach.ts"],
    ["test/tiny.test.ts", "src/graph/view.ts"],
  ])("lets %s import %s", (from, to) => {
    expect(complaint(from, to, false)).toBeNull();
  });

  it.each([
    ["src/graph/node.ts", "src/tensor/tensor.ts", "graph is above tensor"],
    ["src/tensor/tensor.ts", "src/nn/linear.ts", "tensor is above nn"],
    ["src/compile/trace.ts", "src/devices/wasm/pool.ts", "compile is above devices"],
    ["src/nn/linear.ts", "kernels/wasm/matmul.ts", "devices and linalg only"],
    ["kernels/wasm/matmul.ts", "src/tensor/tensor.ts", "a kernel knows only"],
    ["src/random/threefry.ts", "src/graph/node.ts", "nothing of the layers"],
    ["src/formats/safetensors.ts", "src/nn/module.ts", "only types"],
    ["src/train/loop.ts", "src/nn/index.ts", "entry point"],
    ["src/train/loop.ts", "test/tiny.test.ts", "nothing outside"],
    ["src/other/thing.ts", "src/graph/node.ts", "in no layer"],
  ])("stops %s from importing %s", (from, to, sentence) => {
    expect(complaint(from, to, false)).toContain(sentence);
  });

  it("sees every form of import, and which are types only", () => {
    const text = `import type { A } from "./a.ts"; import { type B, b } from "./b.ts"; import "./c.ts"; export * from "./d.ts";
      export { e } from "./e.ts"; export type F = import("./f.ts").F; export const g = () => import("./g.ts");
      // import "./not.ts"
      using h = b as A; const s = 'import "./not.ts"';`;
    const found = importsOf("x.ts", text).map(
      (i: { specifier: string; typeOnly: boolean }) => i.specifier + (i.typeOnly ? " type" : ""),
    );
    expect(found.sort()).toEqual(["./a.ts type", "./b.ts", "./c.ts", "./d.ts", "./e.ts", "./f.ts type", "./g.ts"]);
  });

  it("finds a circle, and none where there is none", () => {
    const edges = (pairs: [string, string[]][]) => new Map(pairs);
    expect(circles(edges([["a", ["b"]], ["b", ["c"]], ["c", ["a"]]]))).toEqual([["a", "b", "c", "a"]]); // biome-ignore format: one graph
    expect(circles(edges([["a", ["b", "c"]], ["b", ["c"]], ["c", []]]))).toEqual([]); // biome-ignore format: one graph
  });
});

describe("the line count", () => {
  it("counts neither blank lines nor comments, and is not fooled by comment signs in strings", () => {
    expect(linesOfCode("x.ts", '/** a\n * b */\n\nconst a = "//"; // c\nconst b = `\n/* text */\n`;\n')).toBe(4);
  });
});
