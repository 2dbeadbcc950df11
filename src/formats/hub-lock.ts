/**
 * A lock among processes, for what they share on a disk: a folder that holds one file, whose name is its holder's and was never used
 * before. A folder can be moved to the lock's place only where there is none, or an empty one; and of a lock that was left behind, only
 * one process can rename the file. So there are never two holders, whoever is killed, stopped or woken, and whenever.
 */
import { wordSystemError } from "./atomic-file.ts";
import { nodeModule } from "./node-module.ts";

/** Milliseconds after which a lock that nobody touches is taken to be left behind. */
const staleLock = 20_000;

const fs = () => nodeModule("fs/promises", "hub");
const join = (folder: string, name: string): string => nodeModule("path", "hub").join(folder, name);

const succeeds = (step: Promise<unknown>): Promise<boolean> =>
  step.then(
    () => true,
    () => false,
  );

/**
 * Takes the lock, which is touched while it is held. Waits while another process holds it.
 *
 * @param done whether what it is for has been done by another; then there is no lock and nothing to release
 * @returns gives it back; does nothing where another has taken it from a process that did not run for long
 * @throws {ConfigError} when the system lets nobody write there
 */
export async function takeLock(path: string, done: () => Promise<boolean>): Promise<(() => Promise<void>) | undefined> {
  const name = nodeModule("crypto", "hub").randomUUID();
  const own = join(path, name);
  while (!(await done())) {
    const [holder] = await fs()
      .readdir(path)
      .catch(() => []);
    if (holder === undefined ? await place(path, name) : await takeOver(join(path, holder), own)) {
      const alive = setInterval(() => void touch(own), staleLock / 4);
      alive.unref?.();
      return async () => {
        clearInterval(alive);
        await fs().rm(own, { force: true });
        await succeeds(fs().rmdir(path)); // unless another has it
      };
    }
    await new Promise((resume) => setTimeout(resume, 50));
  }
  return undefined;
}

const touch = (path: string): Promise<boolean> => {
  const now = new Date();
  return succeeds(fs().utimes(path, now, now));
};

/** What systems say to a move to where there is a folder that is not empty. */
const another: readonly string[] = ["ENOTEMPTY", "EEXIST", "EPERM", "EACCES"];

/** Moves a folder with the file `name` to where no lock is. */
async function place(path: string, name: string): Promise<boolean> {
  const folder = `${path}.${name}`;
  try {
    await fs().mkdir(folder);
    await (await fs().open(join(folder, name), "wx")).close();
    // Windows moves nothing over an empty folder, which one that was killed while it gave the lock back may have left
    await succeeds(fs().rmdir(path));
    await fs().rename(folder, path);
    return true;
  } catch (error) {
    const { syscall, code } = error as NodeJS.ErrnoException;
    if (syscall === "rename" && another.includes(code ?? "")) return false;
    throw wordSystemError(error, "hub", path, "write");
  } finally {
    await fs().rm(folder, { recursive: true, force: true });
  }
}

/** Makes the lock of one that is no more one's own; touched first, so that it never looks left behind again. */
async function takeOver(holder: string, own: string): Promise<boolean> {
  const stat = await fs()
    .stat(holder)
    .catch(() => undefined);
  if (stat === undefined || Date.now() - stat.mtimeMs <= staleLock) return false;
  return (await touch(holder)) && (await succeeds(fs().rename(holder, own)));
}
