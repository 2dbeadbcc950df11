// npm run golden: the cases of GOLDEN_DIR (default test/fixtures) against the engine, and one line of totals.
// Each file in test/golden runs the cases of one kind with vitest and notes them in .cache/golden/<kind>.json:
// { "passed": [names], "failed": [names], "notImplemented": [names] }.
import { spawnSync } from "node:child_process";
import { readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { build, filesBelow, install, root } from "./prepare.mjs";

export const forgetGolden = () => rmSync(join(root, ".cache/golden"), { recursive: true, force: true });

/** Prints what the last run noted; the totals, or null when no golden suite ran. */
export function printGolden() {
  const notes = filesBelow(".cache/golden", [".json"]).map((path) => JSON.parse(readFileSync(join(root, path), "utf8")));
  if (notes.length === 0) return null;
  const [passed, failed, missing] = ["passed", "failed", "notImplemented"].map((key) =>
    notes.flatMap((note) => note[key]).sort(),
  );
  if (missing.length > 0) console.log(`not implemented: ${missing.join(", ")}`);
  if (failed.length > 0) console.log(`failed: ${failed.join(", ")}`);
  console.log(`golden: ${passed.length} passed, ${failed.length} failed, ${missing.length} not implemented`);
  return { passed: passed.length, failed: failed.length };
}

if (process.argv[1] === join(root, "scripts/golden.mjs")) {
  if (!install() || !build()) process.exit(1);
  forgetGolden();
  const vitest = [join(root, "node_modules/vitest/vitest.mjs"), "run", "test/golden", ...process.argv.slice(2)];
  const { status } = spawnSync(process.execPath, vitest, { cwd: root, stdio: "inherit" });
  const totals = printGolden();
  if (!totals) console.log("golden: 0 passed, 0 failed, 0 not implemented (no suite ran)");
  process.exitCode = status !== 0 || !totals || totals.failed > 0 ? 1 : 0;
}
