// node scripts/browser.mjs [FILTERS...]: bundles and pages that Node drives a Chromium to (test/browser), then the laws and tests
// that run inside of it (vitest.browser.config.ts), which keep one core busy and half of another, beside each other. Ends with "N passed, N failed".
import { build, install } from "./prepare.mjs";
import { vitest, vitestBeside } from "./vitest.mjs";

const filters = process.argv.slice(2);
process.env.LORIKEET_SUITE = "browser";
const counts =
  install() && build()
    ? await Promise.all([vitestBeside(...filters), vitest("--config", "vitest.browser.config.ts", ...filters)])
    : [{ passed: 0, failed: 1 }];
const sum = (key) => counts.reduce((total, count) => total + count[key], 0);
console.log(`${sum("passed")} passed, ${sum("failed")} failed`);
process.exitCode = sum("failed") > 0 ? 1 : 0;
