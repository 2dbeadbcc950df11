import { defineConfig } from "vitest/config";
import { settings } from "../../vitest.config.ts";

/** Files that need a Python with peft, which `npm test` leaves out; one after the other in one process, which starts one Python. */
export default defineConfig({
  test: { ...settings, include: ["test/conformance/*.conformance.ts"], isolate: false, maxWorkers: 1, hookTimeout: 600_000 },
});
