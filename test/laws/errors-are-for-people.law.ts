/**
 * Whatever is called wrongly says so: everything that the package exports, called with arguments that are missing or junk, works or
 * throws an error of ours that names it, and not what it is made of, and says what is wrong. Nothing of it stays: a right call works
 * afterwards, and the device holds what it held before.
 *
 *   f(junk) = a value, or an error `f: …`
 *
 * @see CONTRIBUTING.md; src/errors.ts for the sentence
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import fc from "fast-check";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { realize, releaseArena, useDevice } from "../../src/compile/program.ts";
import type { Device } from "../../src/devices/device.ts";
import { createWasm } from "../../src/devices/wasm/device.ts";
import { LorikeetError } from "../../src/errors.ts";
import { Tensor } from "../../src/graph/node.ts";
import { Module } from "../../src/nn/module.ts";
import type * as peft from "../../src/peft/index.ts";
import { ones, tensor } from "../../src/tensor/create.ts";
import { cases } from "../arbitrary/cases.ts";
import { exported, rightCall } from "../arbitrary/right-calls.ts";

setFlagsFromString("--expose-gc");
const collectGarbage = runInNewContext("gc") as () => void;

/** What nobody wants, made anew for each call. */
const junk: Readonly<Record<string, () => unknown>> = {
  undefined: () => undefined,
  null: () => null,
  "a text": () => "junk",
  "a whole number": () => 3,
  "a fraction": () => 1.5,
  "a negative number": () => -1,
  NaN: () => Number.NaN,
  true: () => true,
  "an object": () => ({}),
  "an object of something else": () => ({ junk: 1 }),
  "an empty list": () => [],
  "a list of lists": () => [[[1]]],
  "a list of texts": () => ["junk"],
  "a tensor of many axes": () => ones([1, 2, 1, 2, 1]),
  "a tensor of whole numbers": () => tensor([7], { dtype: "int32" }),
  "a function": () => () => "junk",
  bytes: () => Uint8Array.of(1, 2, 3),
};
const junkNames = Object.keys(junk);

/** Made by their functions alone; slow, as every device is opened and tried; or of the network. */
const others = new Set([
  "formats.hubFolder",
  "core.Tensor",
  "core.chooseDevice",
  "core.probeDevices",
  "nn.Convolution",
  "nn.Module",
  "optim.Optimizer",
]);

/** Tensors in a value. */
const tensorsIn = (value: unknown): Tensor[] =>
  value instanceof Tensor ? [value] : Array.isArray(value) ? value.flatMap(tensorsIn) : [];

/** Calls it, waits for it, and computes what it gives. */
async function use(f: unknown, args: readonly unknown[]): Promise<unknown> {
  const isClass = /^class\b/.test(Function.prototype.toString.call(f));
  const called = isClass ? Reflect.construct(f as new () => unknown, args) : Reflect.apply(f as () => unknown, undefined, args);
  const value = await called;
  if (typeof value === "object" && value !== null && Symbol.asyncIterator in value) {
    const iterator = (value as AsyncIterable<unknown>)[Symbol.asyncIterator]();
    await iterator.next();
    await iterator.return?.();
  }
  // what is found out when values are computed is said by what computes them
  try {
    realize(tensorsIn(value).filter((x) => x.size < 1e6));
  } catch (error) {
    throw new Late(error);
  }
  if (isDevice(value)) value[Symbol.dispose]();
  return value;
}
/** An error of the computation, after the call. */
class Late extends Error {
  readonly error: unknown;
  constructor(error: unknown) {
    super(String(error));
    this.error = error;
  }
}
const isDevice = (value: unknown): value is Device => typeof value === "object" && value !== null && "downloadSync" in value;

/** Names that are known better than that of what speaks: of what makes it, or of the run that it is. */
const otherNames: Readonly<Record<string, string>> = {
  "core.createWasm": "wasm",
  "core.defaultDevice": "wasm",
  "gpu.createGpu": "gpu",
  "text.BatchSampler": "batches",
  "text.Tokenizer": "loadTokenizer",
  "train.Evaluator": "evaluate",
  "train.Trainer": "train",
};
/** Functions and models that right calls hand over: they speak for themselves. */
const handedOver = new Set(["sum", "mul", "linear", "llama"]);

/** Whether an error speaks under the name that was called: a method of adapters and a model may use that of its type. */
function isNamed(path: string, f: unknown, args: readonly unknown[], hands: boolean, error: LorikeetError): boolean {
  const { operation, problem } = error;
  const [group, name] = path.split(".") as [string, string];
  const type = operation.replace(/_text$/, "").replaceAll(/[_-]/g, "");
  const { peftType } = f as Partial<peft.AnyMethod>;
  const isOwn = operation === name || operation === otherNames[path] || operation === peftType?.toLowerCase();
  const isModel = group === "models" && name.toLowerCase().startsWith(type);
  const isGiven = args.includes(operation) || (hands && handedOver.has(operation));
  // memory that is used up, and tensors in the place of numbers, say so wherever they are met
  return isOwn || isModel || isGiven || operation === "allocate" || problem.startsWith("JavaScript's");
}

/** What is wrong with this error, if it is not for people. */
function complaint(error: unknown): string | undefined {
  if (!(error instanceof LorikeetError)) return `no error of ours: ${error instanceof Error ? error.stack : error}`;
  const { operation, message } = error;
  const isSentence = operation !== "" && message.startsWith(`${operation}: `) && /[.?)]$/.test(message);
  return isSentence ? undefined : `no sentence: ${message}`;
}

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

let device: Device;
const home = process.cwd();
const place = mkdtempSync(join(tmpdir(), "lorikeet-junk-"));
beforeAll(() => {
  process.chdir(place);
  vi.stubEnv("HF_HUB_OFFLINE", "1");
  vi.stubEnv("HF_HOME", place);
  device = createWasm({ threads: 1 });
  useDevice(device);
});
afterAll(() => {
  process.chdir(home);
  vi.unstubAllEnvs();
  device[Symbol.dispose]();
  rmSync(place, { recursive: true, force: true });
});

/** What is in use once the collector finds nothing more to give back. */
async function inUse(): Promise<number> {
  for (let turn = 0; turn < 5; turn++) {
    collectGarbage();
    await new Promise((resume) => setTimeout(resume, 1));
  }
  releaseArena(device);
  return device.statistics.buffers;
}

/** Right calls that take long: a config that says nothing is that of the whole model as it was published; the default is ten cases of each law. */
const isCostly = (path: string, what: string): boolean =>
  (path.startsWith("models.") && !path.endsWith("Config") && /^an? (object|tensor).* at 0$/.test(what)) ||
  (path === "peft.checkMethod" && /^(only 1|(undefined|an object|a tensor.*|bytes|an empty list) at 1)/.test(what));

const groups = Object.entries(exported).map(([group, things]) => {
  const functions = Object.entries(things).filter(([name, f]) => typeof f === "function" && !others.has(`${group}.${name}`));
  return [group, functions] as const;
});

test.each(groups)(
  "%s",
  async (group, functions) => {
    const complaints: string[] = [];
    const calls = await Promise.all(
      functions.map(async ([name, f]) => [`${group}.${name}`, f, await rightCall(group, name, (args) => use(f, args))] as const),
    );
    const callAll = async () => {
      for (const [path, f, call] of calls)
        await use(f, await call()).catch((error) => complaints.push(`${path}, called rightly: ${error.stack}`));
      useDevice(device);
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
        useDevice(device);
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
