import { mkdirSync, mkdtempSync, readdirSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { ConfigError } from "../../src/errors.ts";
import { takeLock } from "../../src/formats/hub-lock.ts";

let folder: string;
let lock: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "lorikeet-lock-"));
  lock = join(folder, "lock");
  vi.useFakeTimers({ toFake: ["setInterval", "clearInterval"] }); // nobody touches a lock while a test runs
});
afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
  rmSync(folder, { recursive: true });
});

const notYet = async () => false;
/** Time in which the others look at the lock, who do not wait between two looks. */
async function moment(): Promise<void> {
  for (let turn = 0; turn < 30; turn++) await new Promise(setImmediate);
}
/** As if nobody had touched the lock for long. */
const forget = () => {
  for (const name of readdirSync(lock)) utimesSync(join(lock, name), 1, 1);
};

test("one at a time has it, whoever leaves it behind or comes back later", async () => {
  vi.stubGlobal("setTimeout", setImmediate);
  let [inside, finished, left] = [0, 0, 0];
  const late: (() => Promise<void>)[] = [];
  const contender = async (which: number) => {
    for (let turn = 0; turn < 6; turn++) {
      const release = await takeLock(lock, notYet);
      expect(++inside).toBe(1);
      await moment();
      inside--;
      // every third is killed, as it seems: some of those come back when another has the lock and give it "back"
      if ((which + turn) % 3 === 0) {
        left++;
        forget();
        late.push(release!);
      } else await release!();
      if (turn % 4 === which % 4) await late.shift()?.();
      finished++;
    }
  };
  await Promise.all(Array.from({ length: 5 }, (_, which) => contender(which)));
  expect([finished, left]).toEqual([30, 10]);
  for (const release of late) await release();
  expect(readdirSync(folder)).toEqual([]);
});

test("it is left as it is while its holder touches it, and needs none when it is done", async () => {
  vi.useRealTimers();
  vi.useFakeTimers({ toFake: ["setInterval", "clearInterval", "Date"] });
  const release = await takeLock(lock, notYet);
  const [holder] = readdirSync(lock);
  let asked = 0;
  const other = takeLock(lock, async () => ++asked > 3);
  vi.advanceTimersByTime(60_000);
  expect(await other).toBeUndefined();
  expect(readdirSync(lock)).toEqual([holder]);
  await release!();
  expect(readdirSync(folder)).toEqual([]);
});

test("an empty folder is no lock; a file in its place, or no place for it, is said", async () => {
  mkdirSync(lock);
  await (await takeLock(lock, notYet))!();
  writeFileSync(lock, "");
  await expect(takeLock(lock, notYet)).rejects.toThrow(ConfigError);
  await expect(takeLock(join(folder, "none/lock"), notYet)).rejects.toThrow("it does not exist");
  expect(readdirSync(folder)).toEqual(["lock"]);
});
