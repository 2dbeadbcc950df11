/**
 * The `@example` blocks of doc comments as modules that can be type-checked and run.
 *
 * Names come from the file that the comment stands in, then from the entries of the package, then from fixtures.ts. A comment behind
 * or below an expression that reads like a value is its result; other comments are prose.
 */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

export interface Example {
  /** `src/tensor/print.ts:106`. */
  readonly name: string;
  readonly file: string;
  readonly code: string;
}

/** Every example below `folder`, in the order of the files. */
export function examplesBelow(root: string, folder: string): Example[] {
  return readdirSync(join(root, folder), { recursive: true, encoding: "utf8" })
    .map((path) => join(folder, path).replaceAll("\\", "/"))
    .filter((path) => path.endsWith(".ts") && !path.endsWith(".d.ts"))
    .sort()
    .flatMap((file) => examplesOf(file, readFileSync(join(root, file), "utf8")));
}

export function examplesOf(file: string, source: string): Example[] {
  return [...source.matchAll(/\/\*\*.*?\*\//gs)].flatMap((comment) =>
    [...comment[0].matchAll(/@example[^\n]*\n(.*?)(?=\n\s*\*\s*@|\n?\s*\*\/)/gs)].map((block) => {
      const line = source.slice(0, comment.index + block.index).split("\n").length;
      const code = block[1]!.replace(/^\s*\* ?/gm, "");
      return { name: `${file}:${line}`, file, code };
    }),
  );
}

interface Statement {
  readonly code: string;
  /** The comment behind or below it, if any. */
  readonly comment: string | null;
}

/** Lines as statements: a line goes on while brackets are open. */
function statements(code: string): Statement[] {
  const list: { code: string; comment: string | null }[] = [];
  let open = "";
  for (const line of code.split("\n")) {
    const [, before, behind] = /^(.*?)(?:\s*(?<![:"'`\w])\/\/ ?(.*))?$/.exec(line) as unknown as [
      string,
      string,
      string | undefined,
    ];
    const last = list.at(-1);
    if (open === "" && before.trim() === "") {
      if (behind !== undefined && last) last.comment = last.comment === null ? behind : `${last.comment}\n${behind}`;
      continue;
    }
    open += (open && "\n") + before;
    if (balance(open) > 0) continue;
    list.push({ code: open.trim().replace(/;$/, ""), comment: behind ?? null });
    open = "";
  }
  if (open) list.push({ code: open, comment: null });
  return list;
}

const balance = (code: string): number =>
  [...code.replace(/"[^"\n]*"|'[^'\n]*'/g, "")].reduce(
    (depth, c) => depth + (/[([{]/.test(c) ? 1 : /[)\]}]/.test(c) ? -1 : 0),
    0,
  );

const isExpression = (code: string): boolean =>
  !/^(const|let|using|await using|for|if|while|function|class|import|return|throw)\b/.test(code);

/** A text, a list, a number, a tensor's dtype and shape, …; everything else is prose. */
export const looksLikeValue = (comment: string): boolean =>
  /^["'`[{]|^-?\d|^(true|false|null|undefined|nan|-?inf)\b|^(float|bfloat|int|uint|bool)\d* \[|^(Float|Int|Uint)\d+Array \[/.test(
    comment,
  );

/** The module of one file's examples: `examples` holds an async function for each, which reports what it finds to `check`. */
export function moduleOf(
  file: string,
  examples: readonly Example[],
  exportsOf: ReadonlyMap<string, readonly string[]>,
  pathTo: (file: string) => string,
): string {
  const words = new Set(examples.flatMap(({ code }) => code.match(/[A-Za-z_$][\w$]*/g) ?? []));
  const imports = new Map<string, string[]>();
  for (const word of words) {
    const from = [...exportsOf].find(([, names]) => names.includes(word))?.[0];
    if (from) imports.set(from, [...(imports.get(from) ?? []), word]);
  }
  const body = ({ code }: Example) =>
    statements(code)
      .map((statement) => {
        if (!isExpression(statement.code)) return `    ${statement.code};`;
        const result =
          statement.comment !== null && looksLikeValue(statement.comment) ? JSON.stringify(statement.comment) : "null";
        return `    await check(async () => (${statement.code}), ${result});`;
      })
      .join("\n");
  return [
    `// made from the @example blocks of ${file} by test/docs/examples.ts`,
    ...[...imports].map(([from, names]) => `import { ${names.join(", ")} } from "${pathTo(from)}";`),
    "export type Check = (value: () => Promise<unknown>, result: string | null) => Promise<void>;",
    "export const examples: Readonly<Record<string, (check: Check) => Promise<void>>> = {",
    ...examples.map((example) => `  ${JSON.stringify(example.name)}: async (check) => {\n${body(example)}\n  },`),
    "};",
    "",
  ].join("\n");
}
