/**
 * Runs before every law: fixes the seed, so that two runs try the same cases, and counts the cases for docs/laws.md.
 * LORIKEET_LAW_SEED=7 tries others; LORIKEET_LAW_SCALE=20 tries twenty times as many.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import type { RunDetails } from "fast-check";
import { afterAll, expect } from "vitest";

const path = expect.getState().testPath ?? "";

if (path.endsWith(".law.ts")) {
  const { default: fc } = await import("fast-check");
  let cases = 0;
  const report = (details: RunDetails<unknown>): void => {
    cases += details.numRuns;
    if (details.failed) throw new Error(fc.defaultReportMessage(details), { cause: details.errorInstance });
  };
  fc.configureGlobal({
    seed: Number(process.env["LORIKEET_LAW_SEED"] ?? 1),
    reporter: report,
  });
  afterAll(() => {
    const folder = join(process.cwd(), ".cache/laws");
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, `${basename(path, ".law.ts")}.json`), `${JSON.stringify({ cases })}\n`);
  });
}
