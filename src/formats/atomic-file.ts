/** Writing files so that a reader finds either the old content or the new, never half of it, and wording what the system refuses. */
import { ConfigError, requireKind } from "../errors.ts";
import { nodeModule } from "./node-module.ts";

/** Appends one piece to the file being written. */
type Append = (chunk: Uint8Array) => Promise<void>;

/** What a file shall hold: text (UTF-8), bytes, or a function that writes it piece by piece when it is too large for memory. */
export type FileContent = string | Uint8Array | ((append: Append) => Promise<void>);

/**
 * Writes `path` by way of a temporary file in the same folder that is flushed to disk and then renamed.
 * Missing folders are made; a symbolic link is followed, not replaced. On failure the temporary file is removed.
 *
 * @throws {ConfigError} when the system refuses the target; the sentence names the path and the way out
 */
export async function writeFileAtomically(path: string, content: FileContent): Promise<void> {
  const operation = "writeFileAtomically";
  checkFile(operation, path, [content]);
  const fs = nodeModule("fs/promises", operation);
  const { dirname } = nodeModule("path", operation);
  let temporary: string | undefined;
  try {
    const target = await fs.realpath(path).catch(() => path);
    await makeFolder(dirname(target));
    temporary = temporaryName(target);
    await writeAndFlush(temporary, content);
    await fs.rename(temporary, target);
    await flushFolder(dirname(target));
  } catch (error) {
    if (temporary !== undefined) await fs.rm(temporary, { force: true }).catch(() => {});
    throw wordSystemError(error, operation, path, "write");
  }
}

/**
 * Writes several files that belong together. All are written and flushed in a temporary folder beside `folder` before the first
 * becomes visible. A folder that did not exist then appears at once; in one that did, the files are renamed into place one by
 * one in the order given, and other files stay.
 *
 * @param files by name, without folders
 * @throws {ConfigError} when the system refuses the target; nothing has changed then, unless a rename itself failed
 */
export async function writeFolderAtomically(folder: string, files: ReadonlyMap<string, FileContent>): Promise<void> {
  const operation = "writeFolderAtomically";
  requireKind(operation, "a Map", { files });
  checkFile(operation, folder, files.values());
  const fs = nodeModule("fs/promises", operation);
  const { dirname, join } = nodeModule("path", operation);
  let temporary: string | undefined;
  try {
    const target = await fs.realpath(folder).catch(() => nodeModule("path", operation).resolve(folder));
    await makeFolder(dirname(target));
    temporary = temporaryName(target);
    await fs.mkdir(temporary);
    for (const [name, content] of files) await writeAndFlush(join(temporary, name), content);
    await flushFolder(temporary);
    const existing = await fs.stat(target).catch(() => undefined);
    if (existing === undefined) {
      await fs.rename(temporary, target);
    } else {
      // a folder where a file should go would stop the renames half-way: find out before the first
      for (const name of files.keys()) {
        const obstacle = await fs.stat(join(target, name)).catch(() => undefined);
        if (obstacle?.isDirectory()) throw Object.assign(new Error(), { code: "EISDIR", path: join(folder, name) });
      }
      for (const name of files.keys()) await fs.rename(join(temporary, name), join(target, name));
      await fs.rm(temporary, { recursive: true, force: true });
      await flushFolder(target);
    }
    await flushFolder(dirname(target));
  } catch (error) {
    if (temporary !== undefined) await fs.rm(temporary, { recursive: true, force: true }).catch(() => {});
    throw wordSystemError(error, operation, folder, "write");
  }
}

/** Hidden and unmistakable, so that what a power cut leaves behind is easily found and never taken for the real file. */
function temporaryName(target: string): string {
  const { dirname, basename, join } = nodeModule("path", "writeFile");
  return join(dirname(target), `.${basename(target)}.${process.pid}-${Math.random().toString(36).slice(2, 10)}.tmp`);
}

/** mkdir -p. Node's own never returns on file systems that answer ENOENT to every attempt, such as /proc. */
async function makeFolder(path: string): Promise<void> {
  const fs = nodeModule("fs/promises", "writeFile");
  const { dirname } = nodeModule("path", "writeFile");
  if ((await fs.stat(path).catch(() => undefined))?.isDirectory()) return;
  if (dirname(path) !== path) await makeFolder(dirname(path));
  await fs.mkdir(path).catch((error) => {
    if (error.code !== "EEXIST") throw error; // made by someone else meanwhile, or a file, which the next step reports
  });
}

/** @throws {ConfigError} for what is no path, and no content of a file */
function checkFile(operation: string, path: unknown, contents: Iterable<unknown>): void {
  requireKind(operation, "a string", { path });
  for (const content of contents)
    if (typeof content !== "string" && typeof content !== "function") requireKind(operation, "a Uint8Array", { content });
}

async function writeAndFlush(path: string, content: FileContent): Promise<void> {
  const file = await nodeModule("fs/promises", "writeFile").open(path, "wx");
  try {
    const append: Append = async (chunk) => {
      for (let done = 0; done < chunk.byteLength; ) {
        // one system call writes less than 2 GiB
        const { bytesWritten } = await file.write(chunk, done, Math.min(chunk.byteLength - done, 2 ** 30));
        done += bytesWritten;
      }
    };
    if (typeof content === "function") await content(append);
    else await append(typeof content === "string" ? new TextEncoder().encode(content) : content);
    await file.sync();
  } finally {
    await file.close();
  }
}

/** Makes a rename itself survive a power cut; systems that cannot flush folders lose only that. */
async function flushFolder(path: string): Promise<void> {
  try {
    const folder = await nodeModule("fs/promises", "writeFile").open(path, "r");
    await folder.sync().finally(() => folder.close());
  } catch {}
}

/** The way out for what operating systems answer most. */
const systemErrors: Readonly<Record<string, readonly [problem: string, hint: string]>> = {
  ENOENT: ["it does not exist", "Check the spelling, or the folder that a relative path starts from."],
  EACCES: ["permission denied", "Choose a place that this user may use."],
  EPERM: ["permission denied", "Choose a place that this user may use."],
  EROFS: ["the file system is read-only", "Choose another place."],
  ENOSPC: ["the disk is full", "Free some space or choose another place."],
  EDQUOT: ["the disk quota is used up", "Free some space or choose another place."],
  EISDIR: ["it is a folder", "Give the path of a file."],
  ENOTDIR: ["a part of the path is a file, not a folder", "Choose another place."],
  EEXIST: ["a part of the path is a file, not a folder", "Choose another place."],
  EMFILE: ["too many files are open", "Close some, or raise the limit (ulimit -n)."],
  ENAMETOOLONG: ["the name is too long", "Choose a shorter one."],
  ERR_INVALID_ARG_VALUE: ["the path holds a character that no path may hold", "Check the path."],
};

/** An error of the operating system as a sentence with the path and the way out; any other error is passed through. */
export function wordSystemError(error: unknown, operation: string, path: string, verb: "read" | "write"): unknown {
  const code = error instanceof Error && "code" in error ? String(error.code) : undefined;
  if (code === undefined || error instanceof ConfigError) return error;
  const [problem, hint] = systemErrors[code] ?? [code, undefined];
  // of a rename, `path` is the temporary file
  const { path: at, dest = at } = error as { readonly path?: string; readonly dest?: string };
  const shown = JSON.stringify(code === "EISDIR" ? (dest ?? path) : path);
  return new ConfigError(`cannot ${verb} ${shown}: ${problem}.`, {
    operation,
    got: path,
    ...(hint === undefined ? {} : { hint }),
  });
}
