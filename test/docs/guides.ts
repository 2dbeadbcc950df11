/**
 * The guides (README.md, CONTRIBUTING.md, docs/*.md and the page of the tiny model, without those that `npm run docs` writes) as code that can be checked.
 *
 * A block marked `ts` is a module of its own, which is type-checked and run. Where what it needs is not on every machine, the words after `ts` say so,
 * as in ` ```ts not run: needs a graphics card `, and it is type-checked only.
 */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";

export interface Block {
  /** `docs/gpu.md:12`, where its code begins. */
  readonly name: string;
  /** `ts`, `sh`, or nothing. */
  readonly language: string;
  /** Why it is not run, or `null`. */
  readonly notRun: string | null;
  readonly code: string;
}

export interface Guide {
  readonly file: string;
  readonly blocks: readonly Block[];
  /** Code within sentences, with its line: `npm run web`. */
  readonly spans: readonly { readonly name: string; readonly code: string }[];
  /** Where links to files of the repository lead, relative to its root. */
  readonly links: readonly string[];
}

export function guideFiles(root: string): string[] {
  const docs = readdirSync(join(root, "docs")).filter((file) => file.endsWith(".md"));
  return ["README.md", "CONTRIBUTING.md", "models/tiny/README.md", ...docs.map((file) => `docs/${file}`)].filter(
    (file) => !/Written by `npm run docs`/.test(readFileSync(join(root, file), "utf8")),
  );
}

export function readGuide(file: string, text: string): Guide {
  const blocks: Block[] = [];
  const lineAt = (index: number): number => text.slice(0, index).split("\n").length;
  // blocks become empty lines, so that what is left keeps its line numbers
  const prose = text.replace(
    /^```(\S*)(.*)\n([\s\S]*?)^```$/gm,
    (all, language: string, note: string, code: string, at: number) => {
      const reason = /^ not run: (.+)$/.exec(note);
      if (note.trim() !== "" && reason === null)
        throw new Error(`${file}:${lineAt(at)}: "${note.trim()}" is no note that is known`);
      blocks.push({ name: `${file}:${lineAt(at) + 1}`, language, notRun: reason?.[1] ?? null, code });
      return all.replace(/[^\n]/g, "");
    },
  );
  const spans = [...prose.matchAll(/`([^`]+)`/g)].map(({ 1: code, index }) => ({
    name: `${file}:${prose.slice(0, index).split("\n").length}`,
    code: code!.replace(/\s+/g, " "),
  }));
  const links = [...prose.matchAll(/\]\((?!https?:)([^)#]+)[^)]*\)/g)].map((match) => join(dirname(file), match[1]!));
  return { file, blocks, spans, links };
}

/** `"lorikeet/peft"` → `src/peft/index.ts`, for every entry of package.json. */
export function entryFiles(root: string): Map<string, string> {
  const { exports } = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as {
    readonly exports: Record<string, string | { readonly default: string }>;
  };
  return new Map(
    Object.entries(exports).flatMap(([name, target]) =>
      typeof target === "string"
        ? []
        : [[`lorikeet${name.slice(1)}`, target.default.replace("./dist/", "").replace(/\.js$/, ".ts")] as const],
    ),
  );
}

/** The block with its imports of the package turned to the sources, so that what is checked is what stands there now. */
export function moduleOfBlock(code: string, entries: ReadonlyMap<string, string>, pathTo: (file: string) => string): string {
  const turned = code.replace(/(from|import\() ?"(lorikeet[^"]*)"/g, (all, word: string, name: string) => {
    const entry = entries.get(name);
    return entry === undefined ? all : `${word} "${pathTo(entry)}"`;
  });
  return `${turned}\nexport {};\n`;
}

/** What `console.log` is said to print, line by line: the comments behind it. */
export const statedLines = (code: string): string[] =>
  [...code.matchAll(/^console\.log\(.*\); \/\/ (.*)$/gm)].map(([, text]) => text!);

/** Programs that a command line may name, and the options they have. */
export interface Programs {
  readonly scripts: Readonly<Record<string, string>>;
  /** Options of `lorikeet`'s commands, by command. */
  readonly commands: ReadonlyMap<string, readonly string[]>;
  readonly defaultCommand: string;
  /** Packages that package.json names, with their range. */
  readonly packages: Readonly<Record<string, string>>;
  /** The text of a script, for the options that it looks for. */
  read(file: string): string;
}

/** @returns what is wrong with a line of shell, or `null` */
export function wrongInCommand(line: string, programs: Programs, root: string): string | null {
  const words = line
    .replace(/\s#.*$/, "")
    .split(/\s*&&\s*|\s*;\s*/)
    .map((command) => command.split(/\s+/).filter((word) => word !== "" && !/^[A-Z_]+=/.test(word)));
  for (const command of words) {
    const wrong = wrongInWords(command, programs, root);
    if (wrong !== null) return wrong;
  }
  return null;
}

function wrongInWords([program = "", ...args]: readonly string[], programs: Programs, root: string): string | null {
  if (program === "npx" || program === "lorikeet") {
    const rest = program === "npx" ? args.slice(1) : args;
    return program === "npx" && args[0] !== "lorikeet" ? `npx ${args[0]} is not ours` : wrongForLorikeet(rest, programs);
  }
  if (program.includes("/")) return existsSync(join(root, program)) ? null : `there is no ${program}`;
  if (program === "node") {
    const file = args[0] ?? "";
    if (file.startsWith("dist/")) return existsSync(join(root, sourceOf(file))) ? null : `there is no ${file}`;
    if (file.endsWith("js") && !existsSync(join(root, file))) return `there is no ${file}`;
    return args[1]?.startsWith("dist/") ? wrongInWords(["node", ...args.slice(1)], programs, root) : null;
  }
  if (program !== "npm") return null;
  const [verb = "", ...rest] = args;
  if (verb === "install") return rest.map((word) => wrongPackage(word, programs)).find((wrong) => wrong !== null) ?? null;
  if (verb === "ci" || verb === "pkg") return null; // of npm itself
  const script = verb === "run" ? (rest.shift() ?? "") : verb;
  const text = programs.scripts[script];
  if (text === undefined) return `package.json has no script "${script}"`;
  const own = rest[0] === "--" ? rest.slice(1) : rest;
  if (own.length > 0 && rest[0] !== "--") return `npm takes "${own.join(" ")}" for itself: write -- before it`;
  if (text.includes("cli/main.js")) return wrongForLorikeet([...text.split("main.js")[1]!.trim().split(" "), ...own], programs);
  const bench = text.includes("bench/main.js");
  let source = programs.read(bench ? "bench/main.ts" : (/scripts\/[\w-]+\.mjs/.exec(text)?.[0] ?? "package.json"));
  if (bench && own[0] !== undefined && !own[0].startsWith("-")) {
    // a question has its options in a file of its own
    const file = new RegExp(`^  "?${own[0]}"?: \\{.*?import\\("\\./([\\w./-]+)"\\)`, "ms").exec(source)?.[1];
    if (file === undefined) return `npm run bench has no question "${own[0]}"`;
    source += programs.read(`bench/${file}`);
  }
  const option = own.find((word) => word.startsWith("--") && !source.includes(`"${word.split("=")[0]}"`));
  return option === undefined ? null : `${script} has no option ${option}`;
}

const sourceOf = (file: string): string => file.replace(/^dist\//, "").replace(/\.js$/, ".ts");

function wrongForLorikeet(args: readonly string[], { commands, defaultCommand }: Programs): string | null {
  const words = args.filter((word) => word !== "");
  const named = words[0] !== undefined && !words[0].startsWith("-");
  const name = named ? words[0]! : defaultCommand;
  const options = commands.get(name);
  if (options === undefined) return `lorikeet has no command "${name}"`;
  const option = words.find((word) => word.startsWith("--") && !["--help", ...options].includes(word.split("=")[0]!));
  return option === undefined ? null : `lorikeet ${name} has no option ${option}`;
}

function wrongPackage(word: string, { packages }: Programs): string | null {
  if (word.startsWith("-") || word === "lorikeet") return null;
  const [, name, version] = /^(@?[^@]+)(?:@(.+))?$/.exec(word)!;
  const range = packages[name!];
  // `webgpu` is the reader's own; what package.json pins is not to be installed in another version
  if (range === undefined) return version === undefined ? `package.json does not know the package ${name}` : null;
  return version === undefined || range === version ? null : `package.json wants ${name}@${range}`;
}
