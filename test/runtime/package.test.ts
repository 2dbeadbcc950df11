// The package as a user gets it: what `npm pack` puts in, and every entry point imported by plain Node from the packed files.
import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { build } from "vite";
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
    // maps without their sources only make tools complain: those of the bundles lead to files of dist/src
    const bundles = files.filter((path) => /^dist\/node\/.*\.js$/.test(path));
    expect(files.filter((path) => path.endsWith(".map")).sort()).toEqual(bundles.map((path) => `${path}.map`).sort());
    // a name that reads like a keyword where a line begins stops es-module-lexer, and Vite with it
    for (const path of bundles)
      expect(readFileSync(join(root, path), "utf8"), path).not.toMatch(/[\w)\]]\.\n(?:in|new|do|case|delete|return|void)\b/);
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

  it.each([
    ["nn", `new (await import("lorikeet/nn")).Linear(2, 3).forward((await import("lorikeet")).ones([2])).shape.join()`, "3"],
    ["nn, computing", `new (await import("lorikeet/nn")).Linear(2, 3, { bias: false }).weight.value.mul(0).sum().item()`, "0"],
  ])("has a device and methods of tensors by whichever entry one comes in: %s", (_name, expression, expected) => {
    const output = execFileSync(process.execPath, ["--input-type=module", "-e", `console.log(String(${expression}))`], {
      cwd: folder,
      encoding: "utf8",
    });
    expect(output.trim()).toBe(expected);
  });

  it.each([
    ["nodenext", ["es2022", "dom"]],
    ["bundler", ["es2022", "dom"]],
    ["nodenext", ["es2023"]], // of a program for Node, which knows no browser
  ])("type-checks in a project of its own, with moduleResolution %s and lib %j", (moduleResolution, lib) => {
    const program = `
      import { compile, grad, random, tensor, type Tensor, Variable } from "lorikeet";
      ${written.map(({ name }, i) => `import * as entry${i} from "${name}";`).join("\n")}
      const x: Tensor = tensor([[1, 2], [3, 4]]).add(1).softmax(-1);
      const [g] = grad((y) => y.mul(y).sum())(x);
      const f: (y: Tensor) => Tensor = compile((y: Tensor) => y.exp());
      new Variable(x).value.sum().backward();
      // @ts-expect-error a text is no tensor
      x.matmul("a");
      export const all = [g?.shape[0], f(x).print(), random.key(0), ${written.map((_, i) => `entry${i}`)}];`;
    const project = join(folder, `${moduleResolution}-${lib.length}`);
    mkdirSync(project);
    writeFileSync(join(project, "main.ts"), program);
    const compilerOptions = {
      noEmit: true,
      strict: true,
      target: "es2022",
      lib,
      module: moduleResolution === "bundler" ? "esnext" : "nodenext",
      moduleResolution,
      types: ["node"],
      typeRoots: [join(root, "node_modules/@types")],
    };
    writeFileSync(join(project, "tsconfig.json"), JSON.stringify({ compilerOptions, files: ["main.ts"] }));
    const tsc = spawnSync(process.execPath, [join(root, "node_modules/typescript/bin/tsc"), "-p", project], { encoding: "utf8" });
    expect(tsc.stdout).toBe("");
    expect(tsc.status).toBe(0);
  });

  it("can be bundled for a browser: nothing of Node is imported, methods of tensors survive, minified code runs", async () => {
    const program = `
      import { compile, createWasm, grad, ShapeError, tensor, useDevice } from "lorikeet";
      useDevice(createWasm({ threads: 2 }));
      const [g] = grad((x) => x.matmul(x).softmax().at("0, 0"))(tensor(new Float32Array(64 * 64), { shape: [64, 64] }));
      const f = compile((x) => x.add(1));
      let message = "";
      try { tensor([1, 2, 3]).sub([1, 2]); } catch (error) { message = error instanceof ShapeError ? error.message : "?"; }
      console.log(g.shape.join(), f(tensor([1])).print(), message);`;
    const main = join(folder, "main.js");
    writeFileSync(main, program);
    const warnings: string[] = [];
    const result = await build({
      root: folder,
      configFile: false,
      logLevel: "silent",
      build: { write: false, minify: true, rolldownOptions: { input: main, onwarn: ({ message }) => warnings.push(message) } },
    });
    type Chunk = { readonly code: string; readonly imports: readonly string[]; readonly isDynamicEntry: boolean };
    const [bundle, ...others] = (result as unknown as { output: Chunk[] }).output;
    // what is loaded when it is first used, such as the gpu device, lies beside it
    expect(bundle!.imports).toEqual([]);
    expect(others.filter(({ isDynamicEntry }) => !isDynamicEntry)).toEqual([]);
    for (const { code } of others) expect(code).not.toMatch(/\bfrom\s*["']node:|import\s*\(?["']node:/);
    expect(warnings).toEqual([]);
    expect(bundle!.code).not.toMatch(/\bfrom\s*["']node:|import\s*\(?["']node:|browser-external/);
    writeFileSync(join(folder, "bundle.mjs"), bundle!.code);
    const output = execFileSync(process.execPath, ["bundle.mjs"], { cwd: folder, encoding: "utf8" });
    expect(output.trim()).toBe(
      "64,64 [2] float32 [1] sub: [3] and [2] do not broadcast (3 ≠ 2). Sizes must be equal or 1, counted from the last axis.",
    );
  });
});
