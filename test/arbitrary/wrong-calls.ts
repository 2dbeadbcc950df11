/** Calling what the package exports wrongly, in a folder and on a device of its own, and judging the error. */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { afterAll, beforeAll, vi } from "vitest";
import { realize, useDevice } from "../../src/compile/program.ts";
import type { Device } from "../../src/devices/device.ts";
import { createWasm } from "../../src/devices/wasm/device.ts";
import { LorikeetError } from "../../src/errors.ts";
import { Tensor } from "../../src/graph/node.ts";
import type * as peft from "../../src/peft/index.ts";
import { ones, tensor } from "../../src/tensor/create.ts";
import { exported } from "./right-calls.ts";

/** What nobody wants, made anew for each call. */
export const junk: Readonly<Record<string, () => unknown>> = {
  undefined: () => undefined,
  null: () => null,
  "a string": () => "junk",
  "a whole number": () => 3,
  "a fraction": () => 1.5,
  "a negative number": () => -1,
  NaN: () => Number.NaN,
  true: () => true,
  "an object": () => ({}),
  "an object of something else": () => ({ junk: 1 }),
  "an empty list": () => [],
  "a list of lists": () => [[[1]]],
  "a list of strings": () => ["junk"],
  "a tensor of many axes": () => ones([1, 2, 1, 2, 1]),
  "a tensor of whole numbers": () => tensor([7], { dtype: "int32" }),
  "a function": () => () => "junk",
  bytes: () => Uint8Array.of(1, 2, 3),
};
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
export const tensorsIn = (value: unknown): Tensor[] =>
  value instanceof Tensor ? [value] : Array.isArray(value) ? value.flatMap(tensorsIn) : [];

/** Calls it, waits for it, and computes what it gives. */
export async function use(f: unknown, args: readonly unknown[]): Promise<unknown> {
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
export class Late extends Error {
  readonly error: unknown;
  constructor(error: unknown) {
    super(String(error));
    this.error = error;
  }
}
export const isDevice = (value: unknown): value is Device =>
  typeof value === "object" && value !== null && "downloadSync" in value;

/** Names that are known better than that of what speaks: of what makes it, or of the run that it is. */
const otherNames: Readonly<Record<string, string>> = {
  "core.createWasm": "wasm",
  "core.defaultDevice": "wasm",
  "gpu.createGpu": "gpu",
  "text.BatchSampler": "batches",
  "text.Tokenizer": "loadTokenizer",
  "train.Evaluator": "evaluate",
  "train.Trainer": "train",
  "train.finetune": "train",
};
/** Functions and models that right calls hand over: they speak for themselves. */
const handedOver = new Set(["sum", "mul", "linear", "llama"]);

/** Whether an error speaks under the name that was called: a method of adapters and a model may use that of its type. */
export function isNamed(path: string, f: unknown, args: readonly unknown[], hands: boolean, error: LorikeetError): boolean {
  const { operation, problem } = error;
  const [group, name] = path.split(".") as [string, string];
  const type = operation.replace(/_text$/, "").replaceAll(/[_-]/g, "");
  const { peftType } = f as Partial<peft.AnyMethod>;
  const isOwn = operation === name || operation === otherNames[path] || operation === peftType?.toLowerCase();
  const isModel = group === "models" && name.toLowerCase().replaceAll("_", "").startsWith(type);
  const isGiven = args.includes(operation) || (hands && handedOver.has(operation));
  // memory that is used up, and tensors in the place of numbers, say so wherever they are met
  return isOwn || isModel || isGiven || operation === "allocate" || problem.startsWith("JavaScript's");
}

/** What is wrong with this error, if it is not for people. */
export function complaint(error: unknown): string | undefined {
  if (!(error instanceof LorikeetError)) return `no error of ours: ${error instanceof Error ? error.stack : error}`;
  const { operation, message } = error;
  const isSentence = operation !== "" && message.startsWith(`${operation}: `) && /[.?)]$/.test(message);
  return isSentence ? undefined : `no sentence: ${message}`;
}

/** A device and an empty folder for the calls of a file of tests. */
export function aPlaceOfItsOwn(): { readonly device: Device } {
  const home = process.cwd();
  const place = mkdtempSync(join(tmpdir(), "lorikeet-junk-"));
  const own = {} as { device: Device };
  beforeAll(() => {
    process.chdir(place);
    vi.stubEnv("HF_HUB_OFFLINE", "1");
    vi.stubEnv("HF_HOME", place);
    own.device = createWasm({ threads: 1 });
    useDevice(own.device);
  });
  afterAll(() => {
    process.chdir(home);
    vi.unstubAllEnvs();
    own.device[Symbol.dispose]();
    rmSync(place, { recursive: true, force: true });
  });
  return own;
}

/** Everything that can be called, by the group that exports it. */
export const functions = Object.entries(exported).map(([group, things]) => {
  const functions = Object.entries(things).filter(([name, f]) => typeof f === "function" && !others.has(`${group}.${name}`));
  return [group, functions] as const;
});

/** Names of the methods that only a class and its heirs call: `private` and `protected`, of which nothing is left at run time. */
export function hiddenMethods(): string[] {
  const root = resolve(import.meta.dirname, "../../src");
  const sources = readdirSync(root, { recursive: true, encoding: "utf8" }).filter((file) => file.endsWith(".ts"));
  const hidden = /^\s+(?:protected|private)(?: abstract| override| readonly| async| get)* \*?(\w+)/gm;
  return sources.flatMap((file) => [...readFileSync(join(root, file), "utf8").matchAll(hidden)].map(([, name]) => name!));
}
