// node scripts/suite.mjs FOLDER [FILTERS...]: the tests of one folder that `npm test` leaves out, because they take long.
// Ends with "N passed, N failed".
import { build, install } from "./prepare.mjs";
import { vitest } from "./vitest.mjs";

const [folder, ...filters] = process.argv.slice(2);
process.env.LORIKEET_SUITE = folder;
const { passed, failed } = install() && build() ? await vitest(...filters) : { passed: 0, failed: 1 };
console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed > 0 ? 1 : 0;
