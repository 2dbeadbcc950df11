/**
 * Wrong calls are reported to the caller: everything that the package exports, called with missing or junk arguments, either works or
 * throws one of our errors, which names the function that was called, not one inside it, and says what is wrong. A failed call leaves
 * nothing behind: a right call works afterwards, and the device holds what it held before.
 *
 *   f(junk) = a value, or an error `f: …`
 *
 * @see CONTRIBUTING.md; src/errors.ts for the sentence
 */
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import fc from "fast-check";
import { expect, test } from "vitest";
import { releaseArena, useDevice } from "../../src/compile/program.ts";
import { LorikeetError } from "../../src/errors.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { Module } from "../../src/nn/module.ts";
import { cases } from "../arbitrary/cases.ts";
import { rightCall } from "../arbitrary/right-calls.ts";
import { aPlaceOfItsOwn, complaint, functions, isNamed, junk, Late, use } from "../arbitrary/wrong-calls.ts";

setFlagsFromString("--expose-gc");
const collectGarbage = runInNewContext("gc") as () => void;

const junkNames = Object.keys(junk);

type Spoiling = (args: readonly unknown[]) => unknown[];
/** All ways in which a call is spoilt: arguments that are left out, and junk in place of one. */
function spoilt(args: readonly unknown[]): [what: string, spoil: Spoiling][] {
  const left = args.map((_, n): [string, Spoiling] => [`only ${n} arguments`, (right) => right.slice(0, n)]);
  const places = [...args.keys()].flatMap((at) =>
    junkNames.map((name): [string, Spoiling] => [`${name} at ${at}`, (right) => right.with(at, junk[name]!())]),
  );
  return [...left, ...places];
}

const planned = (right: readonly unknown[]) => ({
  ways: spoilt(right),
  hands: right.some((x) => typeof x === "function" || x instanceof Module),
});

const own = aPlaceOfItsOwn();

/** What is in use once the collector finds nothing more to give back. */
async function inUse(): Promise<number> {
  for (let turn = 0; turn < 5; turn++) {
    collectGarbage();
    await new Promise((resume) => setTimeout(resume, 1));
  }
  releaseArena(own.device);
  return own.device.statistics.buffers;
}

/** Right calls that take long: a config that says nothing is that of the whole model as it was published; the default is ten cases of each law. */
const isCostly = (path: string, what: string): boolean =>
  (path.startsWith("models.") && !path.endsWith("Config") && /^(an? (object|tensor).*|bytes) at 0$/.test(what)) ||
  (path === "peft.checkMethod" && /^(only 1|(undefined|an object|a tensor.*|bytes|an empty list) at 1)/.test(what));

test.each(functions)(
  "%s",
  async (group, all) => {
    const complaints: string[] = [];
    const calls = await Promise.all(
      all.map(async ([name, f]) => [`${group}.${name}`, f, await rightCall(group, name, (args) => use(f, args))] as const),
    );
    const callAll = async () => {
      for (const [path, f, call] of calls)
        await use(f, await call()).catch((error) => complaints.push(`${path}, called rightly: ${error.stack}`));
      useDevice(own.device);
    };
    await callAll();
    const before = await inUse();
    for (const [path, f, call] of calls) {
      // not the arguments themselves, which would be held
      const { ways, hands } = planned(await call());
      const attempt = async (what: string, args: readonly unknown[]) => {
        const error = await use(f, args).then(
          () => undefined,
          (thrown) => {
            if (thrown instanceof Late) return complaint(thrown.error);
            const isUnnamed = thrown instanceof LorikeetError && !isNamed(path, f, args, hands, thrown);
            return isUnnamed ? `another name: ${thrown.message}` : complaint(thrown);
          },
        );
        useDevice(own.device);
        if (error) complaints.push(`${path} with ${what}: ${error}`);
      };
      for (const [what, spoil] of ways) if (!isCostly(path, what)) await attempt(what, spoil(await call()));
      const lists = fc.sample(fc.array(fc.constantFrom(...junkNames), { maxLength: 5 }), cases(10).numRuns);
      for (const names of lists)
        if (!isCostly(path, `${names[0]} at 0`))
          await attempt(
            names.join(", "),
            names.map((name) => junk[name]!()),
          );
    }
    await callAll();
    expect(complaints).toEqual([]);
    expect(await inUse()).toBeLessThanOrEqual(before);
  },
  300_000,
);

test("the law catches what the engine's inside throws, and an error that is no sentence", async () => {
  const inside = await use((x: Tensor) => x.shape, []).catch((error) => error);
  expect(complaint(inside)).toMatch(/^no error of ours: TypeError/);
  expect(complaint(new LorikeetError("oops", { operation: "f" }))).toBe("no sentence: f: oops");
  const borrowed = new LorikeetError("is wrong.", { operation: "bernoulli" });
  expect(isNamed("random.dropout", () => {}, [], false, borrowed)).toBe(false);
});
