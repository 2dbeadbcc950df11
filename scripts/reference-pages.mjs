// npm run docs: docs/operations.md, docs/methods.md and docs/laws.md from the registries and from the comments of the laws.
// With --check (in npm test) it writes nothing and fails when a page is not what it would write.
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { pathToFileURL } from "node:url";
import { build, filesBelow, install, root } from "./prepare.mjs";

const compiled = (path) => import(pathToFileURL(join(root, "dist/src", path)).href);
const cell = (text) => String(text).replaceAll("|", "\\|").replace(/\s+/g, " ");
const table = (head, rows) => [head, head.map(() => "---"), ...rows].map((row) => `| ${row.map(cell).join(" | ")} |`).join("\n");
const page = (title, about, ...parts) =>
  `${[`# ${title}`, `${about} Written by \`npm run docs\`; edit what it is made from.`, ...parts].join("\n\n")}\n`;

async function operations() {
  const { primitives } = await compiled("graph/primitives.js");
  const kinds = new Map();
  for (const entry of Object.values(primitives)) kinds.set(entry.kind, [...(kinds.get(entry.kind) ?? []), entry]);
  const parts = [...kinds].map(
    ([kind, entries]) =>
      `## ${kind}\n\n${table(
        ["name", "meaning"],
        entries.map(({ name, formula }) => [`\`${name}\``, formula]),
      )}`,
  );
  return page("Primitive operations", "Everything that reaches a device; all else is composed of these (src/graph).", ...parts);
}

async function adapterMethods() {
  const { methods } = await compiled("peft/methods.js");
  const { mixtures } = await compiled("peft/router/mixtures.js");
  const rowOf = (name, { peftType, formula, papers, layers }) => [
    `\`${name}\``,
    `\`${peftType}\``,
    formula,
    Object.keys(layers).join(", "),
    papers.map((paper, i) => `[${i + 1}](${paper})`).join(" "),
  ];
  const rows = Object.entries(methods).map(([name, facts]) => rowOf(name, facts));
  const head = ["name", "PEFT's type", "changed weight", "layers", "papers"];
  const mixed = Object.entries(mixtures).map(([name, facts]) => rowOf(name, { ...facts, layers: { linear: 0 } }));
  return page(
    "Adapter methods",
    "What `attach` takes and adapter folders may hold (src/peft/methods).",
    table(head, rows),
    "## Mixtures\n\nLoRA adapters of which every token has shares of its own (src/peft/router).",
    table(head, mixed),
  );
}

/** The comment at the head of a law: its sentence, formula and sources. */
function laws() {
  const parts = filesBelow("test/laws", [".law.ts"]).map((path) => {
    const comment = /^\/\*\*\n([\s\S]*?)\n \*\//.exec(readFileSync(join(root, path), "utf8"))?.[1] ?? "";
    const text = comment.replace(/^ \* ?/gm, "").replace(/^@see /gm, "Source: ");
    return `## [${basename(path, ".law.ts").replaceAll("-", " ")}](../${path})\n\n${text}`;
  });
  const about = "Sentences that hold for everything that is registered, each tried on random cases by `npm run laws`.";
  return page("Laws", about, ...parts);
}

/** Writes the pages, or only compares. Returns whether they were up to date or are now. */
export async function referencePages({ check }) {
  const pages = { operations: await operations(), methods: await adapterMethods(), laws: laws() };
  let current = true;
  for (const [name, text] of Object.entries(pages)) {
    const path = join(root, "docs", `${name}.md`);
    if (existsSync(path) && readFileSync(path, "utf8") === text) continue;
    if (check) {
      console.log(`docs/${name}.md is not up to date: npm run docs`);
      current = false;
    } else writeFileSync(path, text);
  }
  return current;
}

if (process.argv[1] === join(root, "scripts/reference-pages.mjs")) {
  if (!install() || !build()) process.exit(1);
  await referencePages({ check: process.argv.includes("--check") });
}
