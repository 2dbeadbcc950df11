/**
 * Fixes what every property test draws, in Node and in browsers, so that two runs try the same cases. A failure prints the seed.
 * LORIKEET_LAW_SEED=7 draws others.
 */
import fc from "fast-check";

export const seed = Number(process.env["LORIKEET_LAW_SEED"] ?? 1);
if (!Number.isInteger(seed)) throw new Error(`LORIKEET_LAW_SEED is ${process.env["LORIKEET_LAW_SEED"]}, no whole number.`);

/** Cases that the properties of this file have tried. */
export let triedCases = 0;

fc.configureGlobal({
  seed,
  reporter: (details) => {
    triedCases += details.numRuns;
    if (!details.failed) return;
    const again = `Draw the same again with LORIKEET_LAW_SEED=${seed}.`;
    throw new Error(`${fc.defaultReportMessage(details)}\n\n${again}`, { cause: details.errorInstance });
  },
});
