// The package as a user gets it: what `npm pack` puts in, and every entry point imported by plain Node from the packed files.
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";

const root = resolve(import.meta.dirname, "../..");
const manifest = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as {
  exports: Record<string, string | { types: string; default: string }>;
};
const entryPoints = Object.entries(manifest.exports).flatMap(([name, target]) =>
  typeof target === "string" ? [] : [{ name: name.replace(/^\./, "lorikeet"), ...target }],
);
/** Entry points whose source exists; the others belong to later steps. */
const written = entryPoints.filter(({ default: path }) =>
  existsSync(join(root, path.replace("./dist/", "").replace(/\.js$/, ".ts"))),
);

describe("the packed package", () => {
  let folder: string;
  let files: string[];

  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), "lorikeet-pack-"));
    const npm = ["pack", "--ignore-scripts", "--json", "--loglevel=silent", "--pack-destination", folder];
    const [packed] = JSON.parse(execFileSync("npm", npm, { cwd: root, encoding: "utf8", shell: process.platform === "win32" }));
    files = packed.files.map((file: { path: string }) => file.path);
    mkdirSync(join(folder, "node_modules"));
    execFileSync("tar", ["-xzf", packed.filename], { cwd: folder });
    // What `npm install` would do, without the network: the dependencies are those of this checkout.
    symlinkSync(join(folder, "package"), join(folder, "node_modules/lorikeet"), "dir");
    symlinkSync(join(root, "node_modules"), join(folder, "package/node_modules"), "dir");
  });

  afterAll(() => {
    if (folder) rmSync(folder, { recursive: true, force: true });
  });

  it("holds the compiled library, the licence and the read-me, and neither sources nor tests", () => {
    for (const path of ["package.json", "LICENSE", "dist/src/errors.js", "dist/src/errors.d.ts"]) expect(files).toContain(path);
    for (const path of ["README.md", "models/tiny/config.json"]) if (existsSync(join(root, path))) expect(files).toContain(path);
    if (existsSync(join(root, "kernels/wasm")) && readdirSync(join(root, "kernels/wasm")).length > 0) {
      expect(files.some((path) => path.startsWith("dist/kernels/"))).toBe(true);
    }
    expect(files.filter((path) => /(^|\/)(test|bench|scripts|src(?<!dist\/src))\//.test(path))).toEqual([]);
    expect(files.filter((path) => path.endsWith(".ts") && !path.endsWith(".d.ts"))).toEqual([]);
  });

  it("has a declaration file beside every entry point", () => {
    for (const { types, default: code } of written) {
      expect(files).toContain(types.slice(2));
      expect(files).toContain(code.slice(2));
    }
  });

  it.skipIf(written.length === 0)("imports by each of its names in plain Node", () => {
    const program = `
      for (const name of ${JSON.stringify(written.map(({ name }) => name))}) {
        const found = Object.keys(await import(name));
        if (found.length === 0) throw new Error(name + " exports nothing");
      }
      console.log("imported");`;
    const output = execFileSync(process.execPath, ["--input-type=module", "-e", program], {
      cwd: folder,
      encoding: "utf8",
    });
    expect(output.trim()).toBe("imported");
  });
});
