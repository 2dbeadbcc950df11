// node scripts/bootstrap.mjs [PROGRAM ARGS...]: install and build what is missing, then run a compiled program in this process,
// so that its exit code, its terminal and Ctrl-C are its own.
import { existsSync } from "node:fs";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { build, install, root, say } from "./prepare.mjs";

/** npm sends on the SIGINT that the terminal has sent already; two within a blink are one Ctrl-C, not an impatient second. */
function joinDoubledInterrupts(milliseconds = 250) {
  const emit = process.emit;
  let last = Number.NEGATIVE_INFINITY;
  process.emit = function (event, ...rest) {
    if (event === "SIGINT") {
      const now = performance.now();
      const doubled = now - last < milliseconds;
      last = now;
      if (doubled) return true;
    }
    return emit.call(this, event, ...rest);
  };
}

const [program, ...args] = process.argv.slice(2);
if (!install() || !build()) process.exit(1);
if (program) {
  const path = resolve(root, program);
  if (!existsSync(path)) {
    say(`lorikeet: ${program} is not built: its source is missing.`);
    process.exit(1);
  }
  process.argv = [process.argv[0], path, ...args];
  joinDoubledInterrupts();
  await import(pathToFileURL(path).href);
}
