/**
 * No option accepts nonsense. Every function with options, called rightly except for junk in one of them, either works or throws one of our
 * errors under its own name, saying which option is wrong. No option accepts NaN, none accepts values of three kinds, and no result
 * holds NaN. Functions with options are found by misspelling an option, so a new one is covered as soon as its right call is listed.
 *
 *   f(…, { option: junk }) = a value, or an error `f: … option …`
 *
 * @see `Rules` in src/errors.ts, by which TypeScript asks what an option may be; test/project/options.test.ts for keys that are none
 */
import { expect, test } from "vitest";
import { download, useDevice } from "../../src/compile/program.ts";
import { checkOptions, isRecord, LorikeetError, wordArgument } from "../../src/errors.ts";
import { ones, tensor } from "../../src/tensor/create.ts";
import { rightCall } from "../arbitrary/right-calls.ts";
import type { RightCall } from "../arbitrary/right-calls-of-models.ts";
import { aPlaceOfItsOwn, complaint, functions, isNamed, Late, tensorsIn, use } from "../arbitrary/wrong-calls.ts";

const own = aPlaceOfItsOwn();

/** Values by their kind. */
const kinds: Readonly<Record<string, readonly (() => unknown)[]>> = {
  null: [() => null],
  text: [() => "8"],
  boolean: [() => true],
  number: [() => 1.5, () => -1, () => Number.POSITIVE_INFINITY, () => 1e12],
  object: [() => ({ junk: 1 })],
  list: [() => ["junk"]],
  function: [() => () => "junk"],
  tensor: [() => ones([1, 2, 1, 2, 1])],
  NaN: [() => Number.NaN],
};
const values = Object.entries(kinds).flatMap(([kind, makers]) => makers.map((make) => ({ kind, make })));

/** What is asked for is much work, which is no mistake. */
const muchWork = new Set(["niter", "cases", "steps", "numLayers"]);
/** Looked at by a function that speaks for itself, or by nobody since something else is given. */
const elsewhere = new Set(["devices.gpu.mode", "gpu.createGpu.mode"]);

type Arguments = readonly unknown[];
/** The arguments with these options in the place of `at`, besides those that are there. */
const withOptions = (args: Arguments, at: number, options: object): unknown[] => {
  const all = Array.from({ length: Math.max(args.length, at + 1) }, (_, i) => args[i]);
  return all.with(at, { ...(isRecord(all[at]) && all[at]), ...options });
};

/** Whether it computes NaN. */
async function givesNaN(value: unknown): Promise<boolean> {
  const small = tensorsIn(value).filter((x) => x.size < 1e6 && x.dtype.startsWith("float"));
  const values = await Promise.all(small.map((x) => download(x)));
  return values.some((array) => Array.prototype.some.call(array, Number.isNaN));
}

/** The answer to a call: what is wrong with its error, if it is one. */
async function answer(path: string, f: unknown, args: Arguments) {
  const result = await use(f, args).then(
    async (value) => ((await givesNaN(value)) ? { wrong: "gives NaN." } : {}),
    (error: unknown) => {
      if (error instanceof Late) return { error: error.error, wrong: complaint(error.error) };
      const isOther = error instanceof LorikeetError && !isNamed(path, f, args, true, error);
      return { error, wrong: isOther ? `another name: ${error.message}` : complaint(error) };
    },
  );
  useDevice(own.device);
  return result as { readonly error?: unknown; readonly wrong?: string };
}

/** Where among its arguments a function has options, and their names. */
async function optionsOf(
  path: string,
  f: unknown,
  args: Arguments,
): Promise<readonly [at: number, names: readonly string[]] | null> {
  for (let at = 0; at <= Math.max(args.length, 2); at++) {
    const { error } = await answer(path, f, withOptions(args, at, { misspelt: 1 }));
    if (error instanceof LorikeetError && error.got === "misspelt" && Array.isArray(error.expected)) return [at, error.expected];
  }
  return null;
}

/** What is wrong with how a function takes an option. */
async function complaintsOf(path: string, f: unknown, call: RightCall, at: number, option: string): Promise<string[]> {
  const complaints: string[] = [];
  const accepted = new Set<string>();
  let right = await call();
  for (const { kind, make } of values) {
    const value = make();
    if (value === 1e12 && muchWork.has(option)) continue;
    const { error, wrong } = await answer(path, f, withOptions(right, at, { [option]: value }));
    if (wrong) complaints.push(`${path} with ${option} = ${wordArgument(value)}: ${wrong}`);
    if (error !== undefined) continue;
    accepted.add(kind);
    right = await call();
  }
  const tooMany = accepted.has("NaN") || accepted.size > 2;
  return tooMany ? [...complaints, `${path} takes for ${option} ${[...accepted].join(", ")}.`] : complaints;
}

test.each(functions)(
  "%s",
  async (group, all) => {
    const complaints: string[] = [];
    for (const [name, f] of all) {
      const path = `${group}.${name}`;
      const call = await rightCall(group, name, (args) => use(f, args));
      const [at, names] = (await optionsOf(path, f, await call())) ?? [0, []];
      for (const option of names)
        if (!elsewhere.has(`${path}.${option}`)) complaints.push(...(await complaintsOf(path, f, call, at, option)));
    }
    expect(complaints).toEqual([]);
  },
  300_000,
);

test("the law catches an option that takes anything, NaN that comes out, and an error of the inside", async () => {
  const half = (options: { readonly p?: number }) =>
    tensor(checkOptions("half", options, { p: "a number" }).p ?? 1).mul(Number.NaN);
  expect(await complaintsOf("core.half", half, () => [{}], 0, "p")).toContain("core.half with p = 1.5: gives NaN.");
  const any = ({ p }: { readonly p?: unknown }) => void p;
  expect(await complaintsOf("core.any", any, () => [{}], 0, "p")).toHaveLength(1);
  const inside = ({ p }: { readonly p?: string }) => p?.trim();
  expect((await complaintsOf("core.inside", inside, () => [{}], 0, "p")).join()).toContain("no error of ours: TypeError");
});
