/** What draws curves in Node. */
import { ConfigError, wordImport } from "../errors.ts";
import type { Drawing } from "./report.ts";

/**
 * Plot and a document for it to draw in: not part of an installation that only computes.
 *
 * @throws {ConfigError} when the packages are not installed
 */
export async function nodeDrawing(): Promise<Drawing> {
  try {
    const [Plot, { parseHTML }] = await Promise.all([import("@observablehq/plot"), import("linkedom")]);
    return { Plot, document: parseHTML("<!doctype html><body></body>").document };
  } catch (cause) {
    throw new ConfigError(`the report cannot be drawn: ${wordImport(cause)}.`, {
      operation: "report",
      hint: "Install what draws it: npm install @observablehq/plot linkedom",
    });
  }
}
