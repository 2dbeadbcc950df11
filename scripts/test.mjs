// npm test: install and build what is missing, then every check; each runs even when one before it failed.
// `npm test -- FILTER...` runs only the tests that vitest finds for the filter.
// Ends with "N passed, N failed": the tests and the check stages.
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { build, install, root } from "./prepare.mjs";
import { vitest } from "./vitest.mjs";

const tool = (path) => join(root, "node_modules", path);
const node = (...args) => spawnSync(process.execPath, args, { cwd: root, stdio: ["ignore", "inherit", "inherit"] }).status === 0;

const filters = process.argv.slice(2);
if (!install()) {
  console.log("0 passed, 1 failed");
  process.exit(1);
}
const { forgetGolden, printGolden } = await import("./golden.mjs");
forgetGolden();

const stages = {
  build,
  types: () => node(tool("typescript/bin/tsc"), "-p", "tsconfig.json"),
  "lint and format": () => node(tool("@biomejs/biome/bin/biome"), "check", "--max-diagnostics=40", "."),
  "import order": () => node("scripts/imports.mjs"),
  "reference pages": async () => (await import("./reference-pages.mjs")).referencePages({ check: true }),
  tests: () => vitest(...filters),
  golden: () => (existsSync(join(root, "test/golden")) ? printGolden()?.failed === 0 : true),
  size: () => node("scripts/size.mjs"),
};
const chosen = filters.length > 0 ? ["build", "tests"] : Object.keys(stages);

const results = [];
for (const name of chosen) {
  console.log(`\n── ${name}`);
  const start = performance.now();
  const result = await stages[name]();
  const counts = typeof result === "boolean" ? { passed: Number(result), failed: Number(!result) } : result;
  results.push({ name, ...counts, seconds: (performance.now() - start) / 1000 });
}

console.log("");
let [passed, failed] = [0, 0];
for (const result of results) {
  passed += result.passed;
  failed += result.failed;
  const counts = result.name === "tests" ? `   ${result.passed} passed, ${result.failed} failed, ${result.skipped} skipped` : "";
  console.log(`${result.failed > 0 ? "✗" : "✓"} ${result.name.padEnd(16)}${result.seconds.toFixed(1).padStart(7)} s${counts}`);
}
console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed > 0 ? 1 : 0;
