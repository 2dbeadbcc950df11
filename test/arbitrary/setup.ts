/** Runs before every test file in Node: fixes the seed of what is drawn, and counts the cases of the laws for docs/laws.md. */
import { mkdirSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { afterAll, expect } from "vitest";
import { triedCases } from "./seed.ts";

const path = expect.getState().testPath ?? "";
// files that share a process share the count, too
const before = triedCases;

if (path.endsWith(".law.ts"))
  afterAll(() => {
    const folder = join(process.cwd(), ".cache/laws");
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, `${basename(path, ".law.ts")}.json`), `${JSON.stringify({ cases: triedCases - before })}\n`);
  });
