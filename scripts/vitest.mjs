// vitest in a process of its own, and what it counted.
import { spawn } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { root } from "./prepare.mjs";

/** Runs vitest with these arguments; counts tests, and files that could not even be loaded as failed ones. */
export const vitest = (...args) => run(args, "inherit");

/** The same beside another run: what it writes is shown when it is over. */
export const vitestBeside = (...args) => run(args, "pipe");

let runs = 0;

async function run(args, output) {
  mkdirSync(join(root, ".cache"), { recursive: true });
  // one for every run: of those beside each other, here or in another process, none finds what another found
  const reportFile = `.cache/vitest-${process.pid}-${runs++}.json`;
  const reporters = ["--reporter=default", "--reporter=json", `--outputFile.json=${reportFile}`];
  const child = spawn(process.execPath, [join(root, "node_modules/vitest/vitest.mjs"), "run", ...reporters, ...args], {
    cwd: root,
    stdio: ["ignore", output, output],
  });
  const written = [];
  for (const stream of [child.stdout, child.stderr]) stream?.on("data", (piece) => written.push(piece));
  const status = await new Promise((done) => child.on("error", done).on("close", done));
  for (const piece of written) process.stdout.write(piece);
  try {
    return counts(reportFile, status);
  } finally {
    rmSync(join(root, reportFile), { force: true });
  }
}

function counts(reportFile, status) {
  if (!existsSync(join(root, reportFile))) return { passed: 0, failed: 1, skipped: 0 };
  const report = JSON.parse(readFileSync(join(root, reportFile), "utf8"));
  const unloaded = report.testResults.filter(
    (file) => file.status === "failed" && !file.assertionResults.some((test) => test.status === "failed"),
  ).length;
  const failed = report.numFailedTests + unloaded;
  return {
    passed: report.numPassedTests,
    failed: status === 0 ? failed : Math.max(failed, 1),
    skipped: report.numPendingTests + report.numTodoTests,
  };
}
