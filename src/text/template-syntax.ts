/** What Jinja's syntax has and `@huggingface/jinja` does not read, written in what it reads. */
import { parse, tokenize } from "@huggingface/jinja";

type Token = ReturnType<typeof tokenize>[number];

/** A text as an expression that writes it. */
const literal = (text: string): string => `{{ ${JSON.stringify(text)} }}`;

/** `{% raw %}`, and the plus that keeps white space before or behind a tag. */
const withoutRaw = (source: string): string =>
  source
    .replace(
      /\{%([-+]?)\s*raw\s*(-?)%\}(.*?)([ \t]*)\{%([-+]?)\s*endraw\s*([-+]?)%\}/gs,
      (_, before: string, trims: string, text: string, indent: string, end: string, after: string) => {
        const begins = trims ? text.trimStart() : text; // unlike behind other tags, the line's end is text
        const isOwnLine = begins.endsWith("\n") && end !== "+";
        const whole = end === "-" ? begins.trimEnd() : isOwnLine ? begins : begins + indent;
        return `{%${before} if true %}${whole === "" ? "" : literal(whole)}{% endif ${after}%}`;
      },
    )
    .replace(/^([ \t]*)\{%\+/gm, (_, indent: string) => (indent ? `${literal(indent)}{%` : "{%"))
    .replace(/\{%\+/g, "{%")
    .replace(/\+%\}(\n?)/g, (_, line: string) => `%}${line && literal(line)}`);

const isIdentifier = (token: Token | undefined, ...names: readonly string[]): boolean =>
  token?.type === "Identifier" && names.includes(token.value);

/** Where the bracket that opens at `at` is closed. */
function closing(tokens: readonly Token[], at: number): number {
  let depth = 0;
  for (let i = at; i < tokens.length; i++) {
    const { type } = tokens[i]!;
    if (/^Open(Paren|SquareBracket|CurlyBracket)$/.test(type)) depth++;
    if (/^Close(Paren|SquareBracket|CurlyBracket)$/.test(type) && --depth === 0) return i;
  }
  return tokens.length - 1;
}

/** The end of what a test without brackets is given: a literal or name, with what is taken from it. */
function argumentEnd(tokens: readonly Token[], at: number): number {
  let end = /^Open(Paren|SquareBracket|CurlyBracket)$/.test(tokens[at]!.type) ? closing(tokens, at) : at;
  for (;;) {
    const next = tokens[end + 1]?.type;
    if (next === "Dot") end += 2;
    else if (next === "OpenSquareBracket" || next === "OpenParen") end = closing(tokens, end + 1);
    else return end;
  }
}

const made = (type: string, value: string): Token => ({ type, value }) as Token;
const begins = new Set(["StringLiteral", "NumericLiteral", "Identifier", "OpenSquareBracket", "OpenCurlyBracket"]);

/** A test with arguments, `x is divisibleby(3)` or `x is in [1, 2]`, becomes the filter "is divisibleby" or "is in". */
function withTestsAsFilters(tokens: readonly Token[]): Token[] {
  const out: Token[] = [];
  for (let i = 0; i < tokens.length; i++) {
    const token = tokens[i]!;
    const negated = isIdentifier(tokens[i + 1], "not");
    const at = i + (negated ? 3 : 2);
    const [test, next] = [tokens[at - 1], tokens[at]];
    const hasArgument =
      isIdentifier(token, "is") &&
      test?.type === "Identifier" &&
      next !== undefined &&
      (next.type === "OpenParen" || (begins.has(next.type) && !isIdentifier(next, "and", "or", "else", "is", "if", "in", "not")));
    if (!hasArgument) {
      out.push(token);
      continue;
    }
    const end = next.type === "OpenParen" ? closing(tokens, at) : argumentEnd(tokens, at);
    const inner = withTestsAsFilters(next.type === "OpenParen" ? tokens.slice(at + 1, end) : tokens.slice(at, end + 1));
    out.push(made("Pipe", "|"), made("Identifier", `is ${negated ? "not " : ""}${test.value}`));
    out.push(made("OpenParen", "("), ...inner, made("CloseParen", ")"));
    i = end;
  }
  return out;
}

/** `1e-7` and `1_000`, which the library takes for a number and a name. */
function withWholeNumbers(tokens: readonly Token[]): Token[] {
  const out: Token[] = [];
  for (let i = 0; i < tokens.length; i++) {
    const [token, next] = [tokens[i]!, tokens[i + 1]];
    const [, parts, exponent, digits] = (next?.type === "Identifier" && /^((?:_\d+)*)(e?)(\d*)$/i.exec(next.value)) || [];
    if (token.type !== "NumericLiteral" || parts === undefined || (parts === "" && exponent === "")) {
      out.push(token);
      continue;
    }
    const whole = token.value + parts.replaceAll("_", "");
    i++;
    if (exponent === "") out.push(made("NumericLiteral", whole));
    else {
      const sign = digits === "" ? tokens[++i]?.value : "";
      const power = digits === "" && /^[-+]$/.test(sign ?? "") ? tokens[++i]?.value : digits;
      // one with a point is a float
      out.push(made("NumericLiteral", `${whole.includes(".") ? whole : `${whole}.0`}e${sign}${power}`));
    }
  }
  return out;
}

/**
 * The tree of a template.
 *
 * @throws {Error} saying what is wrong with it
 */
export function parseTemplate(source: string): ReturnType<typeof parse> {
  const tokens = tokenize(withoutRaw(source), { lstrip_blocks: true, trim_blocks: true });
  return parse(withTestsAsFilters(withWholeNumbers(tokens)));
}
