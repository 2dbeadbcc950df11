/** What `console.log` and `String` write of modules, adapters and methods: a few lines that say what it is. */
import { inspect } from "node:util";
import { expect, test } from "vitest";
import { Linear, Module } from "../../src/nn/index.ts";
import { attach, lora } from "../../src/peft/index.ts";

class Stack extends Module {
  readonly layers = [new Linear(3, 3), new Linear(3, 3), new Linear(3, 3, { bias: false })];
}

test("a model is a tree of its layers, equal ones that follow each other once", () => {
  const text = "Stack(\n  (layers.0-1): 2 × Linear(weight [3, 3], bias [3])\n  (layers.2): Linear(weight [3, 3])\n)";
  for (const shown of [String(new Stack()), inspect(new Stack())]) expect(shown).toBe(text);
  expect(inspect({ of: { a: { model: new Stack() } } })).toContain("layers.0-1");
});

test("adapters say what is not usual about them, and how large they are", () => {
  const model = new Stack();
  const adapter = attach(model, lora({ r: 2, targetModules: ["layers.0", "layers.1"] }));
  expect(inspect(adapter)).toBe('Adapter "default": LORA { targetModules: ["layers.0","layers.1"], r: 2 }, 2 layers, 24 values');
  expect(String(model)).toContain("2 × AdapterLayer(\n    lora_A.default.weight [2, 3], lora_B.default.weight [3, 2]");
  expect(`${lora}, ${lora({ r: 16 })}`).toBe("LORA: W + s·B·A, LORA { r: 16 }");
});
