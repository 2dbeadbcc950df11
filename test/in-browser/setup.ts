/** Runs before every file in the browser: fixes the seed of the laws, as test/arbitrary/setup.ts does in Node. */
import fc from "fast-check";

fc.configureGlobal({
  seed: 1,
  reporter: (details) => {
    if (details.failed) throw new Error(fc.defaultReportMessage(details), { cause: details.errorInstance });
  },
});
