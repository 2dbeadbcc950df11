import { describe, expect, it } from "vitest";
import { fullMatch } from "../../src/peft/python-regex.ts";

const matches = (pattern: string, text: string) => fullMatch(pattern, "attach", "targetModules")(text);

describe("a pattern in Python's spelling", () => {
  // expected values from python3: bool(re.fullmatch(pattern, text))
  it.each([
    [String.raw`.*layers\.1\..*(q_proj|up_proj)$`, "model.layers.1.self_attn.q_proj", true],
    [String.raw`.*layers\.1\..*(q_proj|up_proj)$`, "model.layers.10.self_attn.q_proj", false],
    ["q_proj", "model.q_proj", false],
    ["a|ab", "ab", true],
    [String.raw`\Amodel\..*\Z`, "model.x", true],
    [String.raw`(?P<part>[a-z]+)\.(?P=part)`, "mlp.mlp", true],
    [String.raw`(?P<part>[a-z]+)\.(?P=part)`, "mlp.mlq", false],
    ["(?i)MODEL.*", "model.x", true],
    ["a{,2}b", "aab", true],
    ["a{,2}b", "aaab", false],
    ["a{2,}b", "aaab", true],
    ["[]a]+", "a]", true],
    ["[^]a]+", "bc", true],
    ["[^]a]+", "b]", false],
    [String.raw`[\w.]{,3}`, "a.b", true],
    ["x(?#a comment)y", "xy", true],
    ["(?=model)m.*", "model", true],
    ["(?<!x)y", "y", true],
    [String.raw`layers\.\d+\.mlp`, "layers.12.mlp", true],
    ["a\\.b", "axb", false],
  ])("%s on %s: %s", (pattern, text, expected) => {
    expect(matches(pattern, text)).toBe(expected);
  });

  it.each([
    ["(?>a)b", "has an atomic group (?>…), which JavaScript does not know."],
    ["a*+b", "has a possessive repetition, which JavaScript does not know."],
    ["(a)?(?(1)b|c)", "has a condition (?(…)…), which JavaScript does not know."],
    ["a(?i:b)", "has flags inside, which JavaScript only knows for the whole."],
    ["(?x) a b", 'has the flag "x", which JavaScript does not know.'],
    ["(?<name>a)", "names a group in JavaScript's way; Python writes (?P<name>…)."],
    ["\\N{BULLET}", "has an escape that is not translated."],
    ["(a", "is not a regular expression."],
  ])("%s is refused", (pattern, why) => {
    expect(() => matches(pattern, "a")).toThrow(`attach: \`targetModules\` (= ${JSON.stringify(pattern)}) ${why}`);
  });
});
