// npm run size: lines of code (not blank, not comment) by folder, and what imports cost in a browser, against the ceilings of size-ceiling.json.
// A ceiling is raised on purpose, in a commit that says what the lines are for.
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { bundleSizes } from "./bundle-size.mjs";
import { linesOfCode } from "./lines-of-code.mjs";
import { build, filesBelow, root } from "./prepare.mjs";

const ceiling = JSON.parse(readFileSync(join(root, "scripts/size-ceiling.json"), "utf8"));
const groups = { product: ["src", "kernels"], tests: ["test"], tools: ["bench", "examples", "scripts", "web"] };

let withinCeiling = true;
const row = (name, lines, files, note = "") =>
  console.log(`${name.padEnd(24)}${String(lines).padStart(8)}${String(files).padStart(7)}  ${note}`.trimEnd());

row("folder", "lines", "files");
const large = [];
for (const [group, folders] of Object.entries(groups)) {
  const byFolder = new Map();
  for (const path of folders.flatMap((folder) => filesBelow(folder, [".ts", ".mjs", ".cjs"]))) {
    if (path.startsWith("test/fixtures/")) continue;
    const lines = linesOfCode(path, readFileSync(join(root, path), "utf8"));
    if (lines > ceiling.file) large.push([path, lines]);
    const folder = dirname(path).split("/").slice(0, 3).join("/");
    const { lines: before, files } = byFolder.get(folder) ?? { lines: 0, files: 0 };
    byFolder.set(folder, { lines: before + lines, files: files + 1 });
  }
  const total = [...byFolder.values()].reduce((sum, { lines }) => sum + lines, 0);
  const files = [...byFolder.values()].reduce((sum, entry) => sum + entry.files, 0);
  for (const [folder, entry] of [...byFolder].sort()) row(folder, entry.lines, entry.files);
  const over = total > ceiling[group];
  if (over) withinCeiling = false;
  row(`= ${group}`, total, files, `of ${ceiling[group]}${over ? "  OVER THE CEILING" : ""}`);
}
console.log("\nminified and gzipped, kB");
if (!build()) withinCeiling = false;
else
  for (const [name, bytes] of Object.entries(await bundleSizes(Object.keys(ceiling.kilobytes)))) {
    const [kilobytes, most] = [bytes / 1000, ceiling.kilobytes[name]];
    if (kilobytes > most) withinCeiling = false;
    console.log(
      `${name.padEnd(24)}${kilobytes.toFixed(1).padStart(8)}         of ${most}${kilobytes > most ? "  OVER THE CEILING" : ""}`,
    );
  }
for (const [path, lines] of large) console.log(`${path}: ${lines} lines; above ${ceiling.file}, look for the two ideas in it`);
if (!withinCeiling) console.log("size: over the ceiling. Remove something, or raise scripts/size-ceiling.json on purpose.");
process.exitCode = withinCeiling ? 0 : 1;
