// npm run docs: docs/operations.md, docs/methods.md, docs/laws.md and docs/decisions/README.md, from the registries, from the comments of the
// laws and from the titles of the decisions.
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
  return page("Primitive operations", "All that a device computes; everything else is composed of these (src/graph).", ...parts);
}

async function adapterMethods() {
  const { methods } = await compiled("peft/method-registry.js");
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
    "The methods that `attach` and adapter folders know (src/peft/methods). For a method of your own see [extending.md](extending.md).",
    table(head, rows),
    "## Mixtures\n\nLoRA adapters that are mixed with different weights for every token (src/peft/router).",
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
  const about = "Statements that hold for everything that is registered; `npm run laws` checks each on random cases.";
  return page("Laws", about, ...parts);
}

/** A line a decision. */
function decisions() {
  const titles = new Map();
  for (const path of filesBelow("docs/decisions", [".md"])) {
    const name = basename(path);
    if (name !== "README.md") titles.set(name, /^# (.*)/.exec(readFileSync(join(root, path), "utf8"))?.[1]);
  }
  const numbers = [...titles.keys()].map((name) => Number.parseInt(name, 10));
  const missing = Array.from({ length: Math.max(...numbers) }, (_, i) => i + 1).filter((number) => !numbers.includes(number));
  const lines = [...titles].sort().map(([name, title]) => `- ${name.slice(0, 4)} [${title}](${name})`);
  const never = missing.map((number) => `${String(number).padStart(4, "0")} was never given.`);
  return page("Decisions", "What was tried, what was measured, and why it is as it is.", lines.join("\n"), ...never);
}

/** Writes the pages, or only compares. Returns whether they were up to date or are now. */
export async function referencePages({ check }) {
  const pages = {
    operations: await operations(),
    methods: await adapterMethods(),
    laws: laws(),
    "decisions/README": decisions(),
  };
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
