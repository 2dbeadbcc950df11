/** What the guides show is type-checked and run; commands, options, names and files that they speak of exist. */
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join, relative, resolve } from "node:path";
import { inspect } from "node:util";
import { Command } from "commander";
import { afterEach, describe, expect, test } from "vitest";
import { addBench } from "../../src/cli/bench.ts";
import { addCompare } from "../../src/cli/compare.ts";
import { addDoctor } from "../../src/cli/doctor.ts";
import { addEmbed } from "../../src/cli/embed.ts";
import { addEvaluate } from "../../src/cli/evaluate.ts";
import { addFinetune } from "../../src/cli/finetune.ts";
import { addGenerate } from "../../src/cli/generate.ts";
import { addGguf } from "../../src/cli/gguf.ts";
import { addInspect } from "../../src/cli/inspect.ts";
import { addMerge } from "../../src/cli/merge.ts";
import { addPretrain } from "../../src/cli/pretrain.ts";
import { restore } from "./fixtures.ts"; // makes a small model in models/tiny of a folder of its own, and goes there
import { entryFiles, guideFiles, moduleOfBlock, type Programs, readGuide, statedLines, wrongInCommand } from "./guides.ts";

const root = resolve(import.meta.dirname, "../..");
const folder = join(root, ".cache/guides");
const text = (file: string): string => readFileSync(join(root, file), "utf8");
const pathTo = (file: string): string => relative(folder, join(root, file)).replaceAll("\\", "/");

const guides = guideFiles(root).map((file) => readGuide(file, text(file)));
const blocks = guides.flatMap((guide) => guide.blocks);
const shown = blocks.filter(({ language }) => language === "ts");
const entries = entryFiles(root);
const exportsOf = new Map(
  await Promise.all(
    [...entries].map(async ([name, file]) => [name, Object.keys(await import(/* @vite-ignore */ join(root, file)))] as const),
  ),
);
const moduleFile = (name: string): string => `${name.replace(/[/:]/g, ".")}.ts`;

/** What a guide calls a value by, when it writes a call of one of its methods. */
const kinds: Readonly<Record<string, string>> = { trainer: "Trainer", x: "Tensor", device: "GpuDevice" };

/** Calls of methods in sentences as types: `trainer.memory()` is `Trainer["memory"]`. */
function membersModule(): string {
  const spans = guides.flatMap((guide) => guide.spans);
  const types = spans.flatMap(({ name, code }) => {
    const [, value = "", path = ""] = /^(?:await )?(\w+)((?:\.\w+)+)(?!\.)/.exec(code) ?? [];
    return Object.hasOwn(kinds, value) && path !== ".ts"
      ? [`${kinds[value]}${path.replace(/\.(\w+)/g, '["$1"]')}, // ${name}`]
      : [];
  });
  const imports = `import type { Tensor } from "${pathTo("src/index.ts")}";\nimport type { GpuDevice } from "${pathTo("src/devices/gpu/index.ts")}";\nimport type { Trainer } from "${pathTo("src/train/index.ts")}";`;
  return `${imports}\nexport type Members = [\n  ${types.join("\n  ")}\n];\n`;
}

function write(): void {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  for (const { name, code } of shown) writeFileSync(join(folder, moduleFile(name)), moduleOfBlock(code, entries, pathTo));
  writeFileSync(join(folder, "members.ts"), membersModule());
  // seen to fail: a name, an option and an entry that are not there
  const wrong = [
    'import { atach } from "lorikeet/peft";',
    'import { tensor } from "lorikeet/tensors";',
    'import { loadModel } from "lorikeet/train";\n// @ts-expect-error: no option\nawait loadModel("x", { dtipe: "float32" });',
  ];
  for (const [i, code] of wrong.entries())
    writeFileSync(
      join(folder, `wrong-${i}.ts`),
      moduleOfBlock(i < 2 ? `// @ts-expect-error: not there\n${code}` : code, entries, pathTo),
    );
  const settings = {
    extends: pathTo("tsconfig.json"),
    compilerOptions: { rootDir: root },
    include: ["*.ts", pathTo("src/tensor/typed-function.d.ts")],
  };
  writeFileSync(join(folder, "tsconfig.json"), JSON.stringify(settings));
}

write();
afterEach(restore);

test("blocks of the guides have the right types", () => {
  expect(shown.length).toBeGreaterThan(0);
  const tsc = spawnSync(process.execPath, [join(root, "node_modules/typescript/bin/tsc"), "-p", folder], { encoding: "utf8" });
  expect(tsc.stdout).toBe("");
});

test.each(shown.filter(({ notRun }) => notRun === null))("$name runs", async ({ name, code }) => {
  const path = join(folder, moduleFile(name));
  // long runs are cut: what is tried here is that it runs
  writeFileSync(path, readFileSync(path, "utf8").replace(/\bsteps: \d+/g, "steps: 2"));
  const lines: string[] = [];
  const log = console.log;
  console.log = (...values: unknown[]) => {
    lines.push(values.map((value) => (typeof value === "string" ? value : inspect(value))).join(" "));
  };
  try {
    await import(/* @vite-ignore */ path);
  } finally {
    console.log = log;
  }
  expect(lines).not.toEqual([]);
  expect(lines).toEqual(expect.arrayContaining(statedLines(code)));
});

const program = new Command("lorikeet");
for (const add of [
  addFinetune,
  addPretrain,
  addGenerate,
  addEvaluate,
  addMerge,
  addEmbed,
  addGguf,
  addInspect,
  addDoctor,
  addBench,
])
  add(program);
const manifest = JSON.parse(text("package.json"));
addCompare(program);
const programs: Programs = {
  scripts: manifest.scripts,
  commands: new Map(program.commands.map((command) => [command.name(), command.options.map(({ long }) => long!)])),
  defaultCommand: "finetune",
  packages: { ...manifest.dependencies, ...manifest.devDependencies, ...manifest.peerDependencies },
  read: text,
};
const isCommand = /^(?:[A-Z_]+=\S+ )?(?:npm|npx|node|lorikeet [a-z]|\.ci\/)/;

test("commands exist, with their options", () => {
  const lines = blocks.flatMap(({ name, language, code }) =>
    language === "sh"
      ? code
          .trim()
          .split("\n")
          .map((line) => ({ name, code: line }))
      : [],
  );
  const spans = guides.flatMap((guide) => guide.spans).filter(({ code }) => isCommand.test(code));
  expect(spans.length).toBeGreaterThan(10);
  expect(
    [...lines, ...spans]
      .map(({ name, code }) => [name, code, wrongInCommand(code, programs, root)])
      .filter(([, , wrong]) => wrong),
  ).toEqual([]);
});

test("options in sentences belong to a program", () => {
  const options = new Set([...programs.commands.values()].flat());
  const scripts = ["scripts/web.mjs", "scripts/conformance.mjs", "scripts/reference-pages.mjs"].map(text).join("");
  const unknown = guides
    .flatMap((guide) => guide.spans)
    .filter(({ code }) => /^--[a-z-]+( \S+)?$/.test(code))
    .filter(({ code }) => !options.has(code.split(" ")[0]!) && !scripts.includes(`"${code.split(" ")[0]}"`));
  expect(unknown).toEqual([]);
});

test("functions that sentences call are exported", () => {
  const exported = new Set([...exportsOf.values()].flat());
  const calls = guides
    .flatMap((guide) => guide.spans)
    .flatMap(({ name, code }) => {
      const [, called] = /^(?:await )?([a-z]\w*)\(/.exec(code) ?? [];
      return called === undefined ? [] : [{ name, called }];
    });
  expect(calls.length).toBeGreaterThan(5);
  expect(calls.filter(({ called }) => !exported.has(called))).toEqual([]);
});

test("the table of entries names what they export", () => {
  const rows = [...text("README.md").matchAll(/^\| `(lorikeet[^` ]*)` \| (.*) \|$/gm)];
  expect(rows.map(([, name]) => name).sort()).toEqual([...entries.keys()].filter((name) => name !== "lorikeet/gpu").sort());
  for (const [, name, about] of rows)
    for (const [, word] of about!.matchAll(/`([A-Za-z]\w*)`/g)) expect(exportsOf.get(name!), `${name}: ${word}`).toContain(word);
});

test("files that guides link to or name exist", () => {
  for (const { file, links, spans } of guides) {
    for (const link of links) expect(existsSync(join(root, link)), `${file}: ${link}`).toBe(true);
    const named = spans
      .map(({ code }) => code)
      .filter((code) => /^(src|test|scripts|kernels|bench|web|examples|models|docs)\/[\w./-]*$/.test(code));
    for (const path of named) expect(existsSync(join(root, path)), `${file}: ${path}`).toBe(true);
  }
});

describe("the reading of guides", () => {
  const guide = readGuide(
    "docs/a.md",
    "# A\n\n```ts not run: needs a card\nawait createGpu();\n```\n\nSee [b](b.md) and `npm run\nweb`.\n\n```sh\nnpm test\n```\n",
  );
  test("blocks, spans and links are told apart", () => {
    expect(guide.blocks).toEqual([
      { name: "docs/a.md:4", language: "ts", notRun: "needs a card", code: "await createGpu();\n" },
      { name: "docs/a.md:11", language: "sh", notRun: null, code: "npm test\n" },
    ]);
    expect(guide.spans).toEqual([{ name: "docs/a.md:7", code: "npm run web" }]);
    expect(guide.links).toEqual(["docs/b.md"]);
    expect(() => readGuide("a.md", "```ts skip\n```\n")).toThrow('a.md:1: "skip" is no note that is known');
  });

  test.each([
    ["npm run wep", 'package.json has no script "wep"'],
    ["npm start --json", 'npm takes "--json" for itself: write -- before it'],
    ["npm start -- --jason", "lorikeet finetune has no option --jason"],
    ["npm start -- --json", null],
    ["npm run pretrain -- --stepps 3", "lorikeet pretrain has no option --stepps"],
    ["npx lorikeet docter   # what runs here", 'lorikeet has no command "docter"'],
    ["npm run web -- --def", "web has no option --def"],
    ["npm run web -- --dev && npm test", null],
    ["npm run bench -- peerz", 'npm run bench has no question "peerz"'],
    ["npm run bench -- lora-step", null],
    ["npm run bench -- gpu --node", null],
    ["npm run bench -- gpu --nod", "bench has no option --nod"],
    ["npm install gpu.js@2.0.0", "package.json wants gpu.js@2.24.1"],
    ["npm install gpu", "package.json does not know the package gpu"],
    ["node scripts/boot.mjs", "there is no scripts/boot.mjs"],
    ["CASE=1 node_modules/.bin/nothing run", "there is no node_modules/.bin/nothing"],
  ])("%s", (line, wrong) => expect(wrongInCommand(line, programs, root)).toBe(wrong));
});
