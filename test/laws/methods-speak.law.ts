/**
 * What a right call returns can be called wrongly too: the returned function, and every method of a returned object, called with nothing
 * or with junk, either works or throws one of our errors, which names the object wherever that is possible.
 *
 *   f(right).m(junk) = a value, or an error `…: …`
 *
 * An inherited method is tried on the first class that has it. Not tried are methods that users do not call: those of devices and of the
 * compiler, the translation of checkpoint names, and the weight changes inside adapter methods.
 *
 * @see errors-are-for-people.law.ts for the calls themselves
 */
import { expect, test } from "vitest";
import { useDevice } from "../../src/compile/program.ts";
import { rightCall } from "../arbitrary/right-calls.ts";
import { aPlaceOfItsOwn, complaint, functions, hiddenMethods, isDevice, junk, Late, use } from "../arbitrary/wrong-calls.ts";

const own = aPlaceOfItsOwn();
const internal = new Set([...hiddenMethods(), "constructor", "pathOf", "nameOf", "partsOf", "replace"]);

const notForPeople = new Set(["peft.linearChange"]);

type Method = (...args: unknown[]) => unknown;
const prototypeOf = (value: object): object => Object.getPrototypeOf(Object.getPrototypeOf(value));
const generator = prototypeOf((function* () {})());
const asyncGenerator = prototypeOf((async function* () {})());
const builtIns: readonly (object | null)[] = [
  null,
  Object.prototype,
  Array.prototype,
  Map.prototype,
  Set.prototype,
  generator,
  asyncGenerator,
];
const tried = new Set<unknown>();

/** Names of the methods of a value that no value before it had; `""` for a function. */
function methodsOf(value: unknown): string[] {
  if (typeof value === "function") return [""];
  if (typeof value !== "object" || isDevice(value) || ArrayBuffer.isView(value)) return [];
  const names: string[] = [];
  for (let at: object | null = value; !builtIns.includes(at); at = Object.getPrototypeOf(at))
    for (const [name, { value: method }] of Object.entries(Object.getOwnPropertyDescriptors(at))) {
      if (typeof method !== "function" || internal.has(name) || tried.has(method)) continue;
      tried.add(method);
      names.push(name);
    }
  return names;
}

test.each(functions)(
  "%s",
  async (group, all) => {
    const complaints: string[] = [];
    for (const [name, f] of all) {
      const path = `${group}.${name}`;
      if (notForPeople.has(path)) continue;
      const call = await rightCall(group, name, (args) => use(f, args));
      const isClass = /^class\b/.test(Function.prototype.toString.call(f));
      const make = async (): Promise<unknown> =>
        isClass ? Reflect.construct(f as never, await call()) : await Reflect.apply(f as never, undefined, await call());
      const value = await make();
      useDevice(own.device);
      for (const method of methodsOf(value)) {
        const made = await make();
        const g = (method === "" ? made : (made as Record<string, unknown>)[method]) as Method;
        for (const args of [[], ...Object.values(junk).map((each) => [each(), each()])]) {
          const error = await use((...given: unknown[]) => Reflect.apply(g, made, given), args).then(
            () => undefined,
            (thrown) => (thrown instanceof Late ? thrown.error : thrown),
          );
          useDevice(own.device);
          if (error === undefined) continue;
          const wrong = complaint(error);
          if (wrong) complaints.push(`${path}(…).${method}(${typeof args[0]}): ${wrong.split("\n").slice(0, 3).join(" ")}`);
        }
      }
    }
    expect(complaints).toEqual([]);
  },
  300_000,
);
