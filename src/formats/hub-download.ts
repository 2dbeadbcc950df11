/**
 * One file of the Hub into the cache: what was received before is kept and gone on from, its size and checksum are verified, and
 * it appears under its name only when it is whole. Several processes may want the same file at once; one of them gets it.
 */
import { ConfigError, FormatError } from "../errors.ts";
import { wordSystemError } from "./atomic-file.ts";
import { type HubFile, type HubPlace, pieces, plainEtag } from "./hub-library.ts";
import { takeLock } from "./hub-lock.ts";
import { attempted, Interrupted, refusal } from "./hub-request.ts";
import type { HubSettings } from "./hub-settings.ts";
import { nodeModule } from "./node-module.ts";

/** Where it goes and comes from. */
export interface Transfer {
  readonly place: HubPlace;
  /** Path of the whole content in the cache, named by its etag. */
  readonly blob: string;
  readonly file: HubFile;
  readonly settings: HubSettings;
}

const fs = () => nodeModule("fs/promises", "hub");

/**
 * Makes sure that the blob is there.
 *
 * @throws {ConfigError} when the Hub refuses, cannot be reached, or the disk is full
 * @throws {FormatError} when what arrives is not what the Hub lists
 */
export async function download(transfer: Transfer): Promise<void> {
  const { blob, file } = transfer;
  const release = await takeLock(`${blob}.lorikeet.lock`, async () => (await sizeOf(blob)) === file.size);
  if (!release) return; // another process has got it meanwhile
  try {
    if ((await sizeOf(blob)) === file.size) return;
    await checkSpace(transfer);
    await receive(transfer);
  } catch (error) {
    // one that took this process for dead, since it did not run for long, has moved the part to its place
    if ((await sizeOf(blob)) !== file.size) throw wordSystemError(error, "hub", blob, "write");
  } finally {
    await release();
  }
}

async function sizeOf(path: string): Promise<number | undefined> {
  return (
    await fs()
      .stat(path)
      .catch(() => undefined)
  )?.size;
}

/** @throws {ConfigError} when the disk has less room than the rest of the file needs */
async function checkSpace({ blob, file }: Transfer): Promise<void> {
  const needed = file.size - ((await sizeOf(partOf(blob))) ?? 0);
  const disk = await fs()
    .statfs(nodeModule("path", "hub").dirname(blob))
    .catch(() => undefined);
  if (disk && disk.bavail * disk.bsize < needed)
    throw new ConfigError(`the disk of ${JSON.stringify(blob)} has no room for ${file.path}, ${needed} more bytes.`, {
      operation: "hub",
      got: disk.bavail * disk.bsize,
      hint: "Free some space, or set HF_HUB_CACHE to another place.",
    });
}

/** Not Python's name for it, so that the two never write to one file. */
const partOf = (blob: string): string => `${blob}.lorikeet.incomplete`;

async function receive(transfer: Transfer): Promise<void> {
  const { blob, file, settings } = transfer;
  const part = partOf(blob);
  for (let round = 0; ; round++) {
    await attempted(`downloading ${file.path}`, settings, (progress) => receiveRest(transfer, part, progress));
    if ((await checksum(part, file)) === file.etag || !checksumOf(file.etag)) break;
    await fs().rm(part, { force: true });
    // a part of an earlier run may have been damaged; what came now in one piece is what the Hub has
    if (round > 0)
      throw new FormatError(
        `${file.path} of ${transfer.place.id} arrives with another checksum than the Hub lists (${file.etag}).`,
        {
          operation: "hub",
          expected: file.etag,
          hint: "Try again later, or look at what is between here and the Hub.",
        },
      );
  }
  await fs().rename(part, blob);
}

/** Appends what is missing to the part; over several attempts, since each begins where the last one ended. */
async function receiveRest({ place, file, settings }: Transfer, part: string, progress: () => void): Promise<void> {
  const { id } = place;
  let have = (await sizeOf(part)) ?? 0;
  if (have > file.size) [have] = [0, await fs().rm(part)];
  settings.onProgress?.({ file: file.path, received: have, total: file.size });
  if (have === file.size && have > 0) return;
  const rest = pieces(place, file, [have, file.size], settings, async (response) => {
    if (response.status === 416) {
      await fs().rm(part, { force: true });
      throw new Interrupted("the Hub does not know this part of the file");
    }
    if (!response.ok) throw refusal(response, id, file.path, settings);
    checkEtag(response, id, file);
    if (response.status !== 206) have = 0; // the whole file comes, or comes again
    checkLength(response, have, id, file);
  });
  try {
    let next = await rest.next(); // after it, `have` is where the answer begins
    const out = await fs().open(part, have > 0 ? "r+" : "w");
    try {
      for (; !next.done; next = await rest.next()) {
        const chunk = next.value;
        if (have + chunk.length > file.size)
          throw new FormatError(`${file.path} of ${id} is longer than the ${file.size} bytes that the Hub lists.`, {
            operation: "hub",
            expected: file.size,
          });
        await out.write(chunk, 0, chunk.length, have);
        have += chunk.length;
        progress();
        settings.onProgress?.({ file: file.path, received: have, total: file.size });
      }
      await out.sync();
    } finally {
      await out.close();
    }
  } catch (error) {
    if (error instanceof FormatError) await fs().rm(part, { force: true });
    throw error;
  } finally {
    await rest.return(undefined);
  }
  if (have < file.size) throw new Interrupted(`the connection ended after ${have} of ${file.size} bytes`);
}

/** Another content under the name is not appended to what is there. Where a store answers in the Hub's place, its etag says nothing. */
function checkEtag(response: Response, id: string, file: HubFile): void {
  const etag = plainEtag(response.headers.get("x-linked-etag") ?? (response.redirected ? null : response.headers.get("etag")));
  if (etag !== undefined && etag !== file.etag)
    throw new FormatError(`${file.path} of ${id} has changed since the Hub listed it (etag ${etag}, not ${file.etag}).`, {
      operation: "hub",
      expected: file.etag,
      got: etag,
      hint: "Open the repository again.",
    });
}

/** What the answer says of sizes is what the Hub lists. */
function checkLength(response: Response, have: number, id: string, file: HubFile): void {
  const range = /^bytes (\d+)-\d+\/(\d+)$/.exec(response.headers.get("content-range") ?? "");
  // compressed answers have another length
  const length = response.headers.get("content-encoding") ? null : response.headers.get("content-length");
  const total = response.status === 206 ? Number(range?.[2]) : length === null ? file.size : Number(length);
  const from = response.status === 206 ? Number(range?.[1]) : 0;
  if (total === file.size && from === have) return;
  throw new FormatError(
    `${file.path} of ${id} has ${file.size} bytes by the Hub's list, and the answer says ${total}, from ${from} instead of ${have} on.`,
    { operation: "hub", expected: file.size, got: total },
  );
}

const checksumOf = (etag: string): "sha256" | "sha1" | undefined =>
  /^[0-9a-f]{64}$/.test(etag) ? "sha256" : /^[0-9a-f]{40}$/.test(etag) ? "sha1" : undefined;

/** The etag that a content should have; git's is of the content behind its kind and length. */
async function checksum(path: string, { etag, size }: HubFile): Promise<string | undefined> {
  const kind = checksumOf(etag);
  if (!kind) return undefined;
  const hash = nodeModule("crypto", "hub").createHash(kind);
  if (kind === "sha1") hash.update(`blob ${size}\0`);
  const file = await fs().open(path, "r");
  try {
    const buffer = new Uint8Array(2 ** 20);
    for (;;) {
      const { bytesRead } = await file.read(buffer, 0, buffer.length);
      if (bytesRead === 0) return hash.digest("hex");
      hash.update(buffer.subarray(0, bytesRead));
    }
  } finally {
    await file.close();
  }
}
