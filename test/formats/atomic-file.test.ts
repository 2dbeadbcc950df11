import { lstat, mkdir, readdir, readFile, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { ConfigError } from "../../src/errors.ts";
import { writeFileAtomically, writeFolderAtomically } from "../../src/formats/atomic-file.ts";
import { temporaryFolder } from "../temporary-folder.ts";

const folder = temporaryFolder();

describe("writing a file", () => {
  it("makes missing folders and replaces what was there", async () => {
    const path = join(folder, "a/b/c.txt");
    await writeFileAtomically(path, "one");
    await writeFileAtomically(path, new TextEncoder().encode("two"));
    expect(await readFile(path, "utf8")).toBe("two");
    expect(await readdir(join(folder, "a/b"))).toEqual(["c.txt"]);
  });

  it("takes pieces", async () => {
    const path = join(folder, "pieces");
    await writeFileAtomically(path, async (append) => {
      await append(new Uint8Array([65, 66]));
      await append(new Uint8Array(0));
      await append(new Uint8Array([67]));
    });
    expect(await readFile(path, "utf8")).toBe("ABC");
  });

  it("follows a symbolic link instead of replacing it", async () => {
    await writeFile(join(folder, "real"), "old");
    await symlink(join(folder, "real"), join(folder, "link"));
    await writeFileAtomically(join(folder, "link"), "new");
    expect(await readFile(join(folder, "real"), "utf8")).toBe("new");
    expect((await lstat(join(folder, "link"))).isSymbolicLink()).toBe(true);
  });

  it("leaves nothing behind when the content fails, and passes the failure on", async () => {
    await mkdir(join(folder, "empty"));
    const fails = writeFileAtomically(join(folder, "empty/x"), async (append) => {
      await append(new Uint8Array(9));
      throw new TypeError("no more");
    });
    await expect(fails).rejects.toThrow(TypeError);
    expect(await readdir(join(folder, "empty"))).toEqual([]);
  });

  it("says in one sentence which target was refused, why, and the way out", async () => {
    await writeFile(join(folder, "plain"), "");
    await mkdir(join(folder, "dir/inside"), { recursive: true });
    const below = join(folder, "plain/x");
    await expect(writeFileAtomically(below, "")).rejects.toThrow(
      `writeFileAtomically: cannot write ${JSON.stringify(below)}: a part of the path is a file, not a folder. Choose another place.`,
    );
    await expect(writeFileAtomically(join(folder, "dir"), "")).rejects.toThrow(/it is a folder\. Give the path of a file\.$/);
    await expect(writeFileAtomically(`${folder}\0`, "")).rejects.toThrow(
      /the path holds a character that no path may hold\. Check the path\.$/,
    );
    if (process.platform === "linux") await expect(writeFileAtomically("/proc/none/x", "")).rejects.toThrow(ConfigError);
    await expect(writeFileAtomically(join(folder, "x".repeat(300)), "")).rejects.toThrow(
      /the name is too long\. Choose a shorter one\.$/,
    );
  });
});

describe("writing a folder", () => {
  it("appears at once, and later writes keep other files", async () => {
    const target = join(folder, "set");
    await writeFolderAtomically(
      target,
      new Map([
        ["a", "1"],
        ["b", "2"],
      ]),
    );
    await writeFile(join(target, "mine"), "kept");
    await writeFolderAtomically(target, new Map([["a", "3"]]));
    const read = async (name: string) => readFile(join(target, name), "utf8");
    expect([await read("a"), await read("b"), await read("mine")]).toEqual(["3", "2", "kept"]);
    expect((await readdir(folder)).filter((name) => name.includes(".tmp"))).toEqual([]);
  });

  it("changes nothing when one of the files fails or has no place", async () => {
    const target = join(folder, "unchanged");
    await writeFolderAtomically(target, new Map([["a", "1"]]));
    await mkdir(join(target, "b"));
    await expect(
      writeFolderAtomically(
        target,
        new Map([
          ["a", "2"],
          ["b", "2"],
        ]),
      ),
    ).rejects.toThrow("it is a folder");
    const failing = async () => {
      throw new Error("lost");
    };
    await expect(
      writeFolderAtomically(
        target,
        new Map<string, string | typeof failing>([
          ["a", "2"],
          ["c", failing],
        ]),
      ),
    ).rejects.toThrow("lost");
    expect(await readFile(join(target, "a"), "utf8")).toBe("1");
    expect((await readdir(folder)).filter((name) => name.includes(".tmp"))).toEqual([]);
  });
});
