/** What doc comments show is type-checked and run, and the results that they state are compared. */
import { spawnSync } from "node:child_process";
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join, relative, resolve } from "node:path";
import { inspect, isDeepStrictEqual } from "node:util";
import { afterEach, describe, expect, test } from "vitest";
import { Tensor } from "../../src/index.ts";
import { type Example, examplesBelow, examplesOf, looksLikeValue, moduleOf } from "./examples.ts";
import { restore } from "./fixtures.ts";

const root = resolve(import.meta.dirname, "../..");
const folder = join(root, ".cache/examples");
const entries = [
  "src/index.ts",
  ...["nn", "optim", "models", "formats", "text", "peft", "train"].map((name) => `src/${name}/index.ts`),
];
const pathTo = (file: string): string => relative(folder, join(root, file)).replaceAll("\\", "/");
const load = (file: string): Promise<Record<string, unknown>> => import(/* @vite-ignore */ join(root, file));

/** Writes the examples of every file as a module. */
async function write(): Promise<Map<string, string>> {
  const fixtures = "test/docs/fixtures.ts";
  const shared = await Promise.all([...entries, fixtures].map(async (file) => [file, Object.keys(await load(file))] as const));
  const byFile = new Map<string, Example[]>();
  for (const example of examplesBelow(root, "src")) byFile.set(example.file, [...(byFile.get(example.file) ?? []), example]);
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  const modules = new Map<string, string>();
  for (const [file, examples] of byFile) {
    const exportsOf = new Map([[file, Object.keys(await load(file))], ...shared]);
    const path = join(folder, `${file.replaceAll("/", ".").replace(/\.ts$/, "")}.ts`);
    writeFileSync(path, moduleOf(file, examples, exportsOf, pathTo));
    modules.set(file, path);
  }
  const settings = {
    extends: pathTo("tsconfig.json"),
    compilerOptions: { rootDir: root },
    include: ["*.ts", pathTo("src/tensor/typed-function.d.ts")],
  };
  writeFileSync(join(folder, "tsconfig.json"), JSON.stringify(settings));
  return modules;
}

/** As many digits as a reader needs. */
function near(got: unknown, stated: unknown): boolean {
  if (typeof got === "number" && typeof stated === "number")
    return Object.is(got, stated) || Math.abs(got - stated) <= 5e-5 * Math.max(1, Math.abs(stated));
  if (Array.isArray(got) && Array.isArray(stated))
    return got.length === stated.length && got.every((item, i) => near(item, stated[i]));
  return isDeepStrictEqual(got, stated);
}

/** @returns what was found instead, or `null` where it is as stated */
function differs(got: unknown, stated: string): string | null {
  if (got === stated) return null; // as `print` gives it
  if (got instanceof Tensor) {
    const type = `${got.dtype} [${got.shape.join(", ")}]`;
    if (stated === type) return null;
    const printed = got.print();
    if (stated.endsWith("]") && /[a-z]\d* \[[^\]]*\]$/.test(stated)) return printed === stated ? null : printed;
  }
  const plain = got instanceof Tensor ? got.toArray() : ArrayBuffer.isView(got) ? Array.from(got as Float32Array) : got;
  const literal: unknown = new Function(`return (${stated.replace(/^\w+Array /, "")})`)();
  return near(plain, literal) ? null : inspect(plain);
}

afterEach(restore);

const modules = await write();
const all = await Promise.all([...modules.values()].map(async (path) => (await load(relative(root, path)))["examples"]));
const examples = Object.assign({}, ...all) as Record<
  string,
  (check: (value: () => Promise<unknown>, result: string | null) => Promise<void>) => Promise<void>
>;

test("examples have the right types", () => {
  const tsc = spawnSync(process.execPath, [join(root, "node_modules/typescript/bin/tsc"), "-p", folder], {
    encoding: "utf8",
    cwd: folder,
  });
  expect(tsc.stdout).toBe("");
});

test.each(Object.entries(examples))("%s", async (_name, run) => {
  await run(async (value, stated) => {
    const got = await value();
    if (stated !== null) expect(differs(got, stated) ?? stated).toBe(stated);
  });
});

describe("the reading of examples", () => {
  const source = `
/**
 * Adds.
 *
 * @example
 * const z = add(1,
 *   2);   // prose
 * z               // 3 float32 []
 * print(z)
 * // "3"
 * // float32
 * add(z, z)       // twice as much
 * @see elsewhere
 */`;
  test("statements, results and prose are told apart", () => {
    const [example] = examplesOf("src/a.ts", source);
    expect(example!.name).toBe("src/a.ts:5");
    expect(moduleOf("src/a.ts", [example!], new Map([["src/a.ts", ["add"]]]), (file) => `../${file}`)).toContain(
      `import { add } from "../src/a.ts";
export type Check = (value: () => Promise<unknown>, result: string | null) => Promise<void>;
export const examples: Readonly<Record<string, (check: Check) => Promise<void>>> = {
  "src/a.ts:5": async (check) => {
    const z = add(1,
  2);
    await check(async () => (z), "3 float32 []");
    await check(async () => (print(z)), "\\"3\\"\\nfloat32");
    await check(async () => (add(z, z)), null);
  },`,
    );
  });

  test("a wrong result is found", () => {
    expect(differs([1, 2.00001], "[1, 2]")).toBeNull();
    expect(differs([1, 2.1], "[1, 2]")).toBe("[ 1, 2.1 ]");
    expect(
      differs(
        new Tensor({ kind: "source", name: "constant", formula: "", vjp: () => [] }, [], [], "float32", { value: 2 }),
        "3 float32 []",
      ),
    ).toBe("2 float32 []");
    expect(differs("a", '"b"')).toBe("'a'");
    expect(["first row", "split heads", "float32 [2]", "-1", "nan", "[1]"].map(looksLikeValue)).toEqual([
      false,
      false,
      true,
      true,
      true,
      true,
    ]);
  });
});
