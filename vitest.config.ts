import { defineConfig } from "vitest/config";
import { kernelTexts } from "./scripts/kernel-text.mjs";

/** Folders of tests that take long; `npm run test:<folder>` runs one of them, and nothing else (scripts/suite.mjs); those in-browser run inside of one (vitest.browser.config.ts). */
const slow = ["browser", "in-browser", "end-to-end", "slow"];
const suite = process.env["LORIKEET_SUITE"];

export default defineConfig({
  plugins: [kernelTexts()],
  test: {
    include: suite ? [`test/${suite}/**/*.test.ts`] : ["test/**/*.test.ts", "test/laws/*.law.ts"],
    exclude: ["test/fixtures/**", ...slow.filter((folder) => folder !== suite).map((folder) => `test/${folder}/**`)],
    // fixes the seed of all that is drawn, and counts the cases of the laws
    setupFiles: ["test/arbitrary/setup.ts"],
    // for what hangs: on a machine with much else to do a test takes twenty times as long as on an idle one
    testTimeout: 300_000,
    hookTimeout: 300_000,
    // A process for each file: engines set process-wide V8 flags and start worker threads of their own.
    pool: "forks",
    maxWorkers: 2,
    reporters: ["default"],
    coverage: { provider: "v8", include: ["src/**"], exclude: ["kernels/gpu/**"] },
  },
});
