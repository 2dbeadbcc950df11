/** A folder that one process writes into at a time. */
import { readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { ConfigError, under } from "../errors.ts";
import { writeFileAtomically } from "../formats/atomic-file.ts";

/**
 * Keeps a folder for this process until it is disposed of: two that write into it would leave files of either.
 *
 * @throws {ConfigError} when another process that still runs has it, or it cannot be written
 */
export async function lockFolder(folder: string, operation: string): Promise<Disposable> {
  const file = join(folder, ".running");
  const owner = ownerOf(file);
  if (owner !== process.pid && isRunning(owner))
    throw new ConfigError(`another run (process ${owner}) is writing into "${folder}".`, {
      operation,
      hint: `Wait for it, or give another --out; if there is none, delete "${file}".`,
    });
  await under(operation, () => writeFileAtomically(file, String(process.pid)));
  const unlock = () => rmSync(file, { force: true });
  process.on("exit", unlock);
  return {
    [Symbol.dispose]() {
      process.off("exit", unlock);
      unlock();
    },
  };
}

/** The process that a lock names; NaN where there is none. */
function ownerOf(file: string): number {
  try {
    return Number(readFileSync(file, "utf8"));
  } catch {
    return Number.NaN;
  }
}

function isRunning(pid: number): boolean {
  if (!(pid > 0)) return false;
  try {
    return process.kill(pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM"; // somebody else's
  }
}
