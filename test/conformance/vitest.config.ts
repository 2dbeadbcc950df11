import { defineConfig } from "vitest/config";
import base from "../../vitest.config.ts";

/** Files that need a Python with peft, which `npm test` leaves out. */
export default defineConfig({ test: { ...base.test, include: ["test/conformance/*.conformance.ts"], hookTimeout: 600_000 } });
