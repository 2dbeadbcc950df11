/**
 * Running golden cases: values that PyTorch, transformers and PEFT computed. A suite names its cases; those with a `run` are
 * tried on every device, and the names of all are noted in .cache/golden/<kind>.json, from which `npm run golden` makes its line.
 */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { currentDevice, download, upload, useDevice } from "../../src/compile/program.ts";
import type { Device, DeviceName } from "../../src/devices/device.ts";
import { readSafetensors } from "../../src/formats/safetensors.ts";
import type { TypedArray } from "../../src/graph/dtype.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { type TestDevice, devices as testDevices } from "../devices.ts";

/** Where the cases lie: GOLDEN_DIR, else test/fixtures. */
export const goldenFolder = resolve(process.env["GOLDEN_DIR"] || join(import.meta.dirname, "../fixtures"));
// a folder without cases would pass
if (!existsSync(goldenFolder)) throw new Error(`GOLDEN_DIR: there is no folder "${goldenFolder}".`);

/** Parsed JSON of a file in the golden folder; `null` when it is not there. */
export function readGolden<T>(...path: string[]): T | null {
  const file = join(goldenFolder, ...path);
  // written last: cases without it come from a generator that was cut off, and none of them would run
  if (path.at(-1) === "index.json" && !existsSync(file) && existsSync(dirname(file)))
    throw new Error(`GOLDEN_DIR: "${dirname(file)}" has no index.json; generate it again.`);
  return existsSync(file) ? (JSON.parse(readFileSync(file, "utf8")) as T) : null;
}

export interface GoldenCase {
  readonly name: string;
  /** Absent where what it tries is not implemented. */
  readonly run?: ((device: DeviceName) => void | Promise<void>) | undefined;
}

/** One test per case and device, under the name of `kind`, or `kind/part` where several files have cases of one kind. */
export function goldenSuite(kind: string, cases: readonly GoldenCase[], devices: readonly TestDevice[] = testDevices): void {
  const failed = new Set<string>();
  const ran = new Map<string, number>();
  describe(`golden ${kind}`, () => {
    test("names its cases once", () => expect(new Set(cases.map(({ name }) => name)).size).toBe(cases.length));
    // a folder from elsewhere need not have cases of every kind, and a device without a test is an error
    for (const { name: deviceName, open } of cases.some(({ run }) => run) ? devices : [])
      describe(deviceName, () => {
        let device: Device;
        beforeAll(async () => {
          device = await open();
          useDevice(device);
        });
        afterAll(() => device[Symbol.dispose]());
        for (const { name, run } of cases) {
          if (!run) continue;
          test(name, async () => {
            failed.add(name); // until it has passed
            await run(deviceName);
            failed.delete(name);
            ran.set(name, (ran.get(name) ?? 0) + 1);
          });
        }
      });
    afterAll(() => {
      // a case passes when it did on every device; one that a filter left out is not noted
      const passed = [...ran].filter(([name, times]) => times === devices.length && !failed.has(name)).map(([name]) => name);
      const notImplemented = cases.filter(({ run }) => !run).map(({ name }) => name);
      const prefixed = (names: Iterable<string>) => [...names].map((name) => `${kind.split("/")[0]}/${name}`);
      mkdirSync(".cache/golden", { recursive: true });
      writeFileSync(
        `.cache/golden/${kind.replace("/", "-")}.json`,
        JSON.stringify({ passed: prefixed(passed), failed: prefixed(failed), notImplemented: prefixed(notImplemented) }, null, 1),
      );
    });
  });
}

/** The tensors of a safetensors file in the golden folder. */
export async function goldenTensors(...path: string[]): Promise<Map<string, { shape: readonly number[]; data: TypedArray }>> {
  const file = await readSafetensors(join(goldenFolder, ...path));
  const entries = [...file.tensors].map(
    async ([name, tensor]) => [name, { shape: tensor.shape, data: await tensor.load() }] as const,
  );
  return new Map(await Promise.all(entries));
}

/** On the current device; Float32Array becomes float32, Int32Array int32. */
export function toTensor({ shape, data }: { readonly shape: readonly number[]; readonly data: TypedArray }): Tensor {
  return upload(currentDevice(), data, shape, data instanceof Float32Array ? "float32" : "int32");
}

export interface Closeness {
  readonly rtol: number;
  readonly atol: number;
  /** 1 where the values count. */
  readonly mask?: TypedArray;
}

/** |got − want| ≤ atol + rtol·|want| everywhere; NaN and infinities only where they are wanted. */
export async function expectClose(
  what: string,
  got: Tensor,
  want: { readonly shape: readonly number[]; readonly data: TypedArray },
  { rtol, atol, mask }: Closeness,
): Promise<void> {
  const scalar = (shape: readonly number[]) => shape.every((extent) => extent === 1) && shape.length <= 1;
  if (!(scalar(got.shape) && scalar(want.shape))) expect(got.shape, `shape of ${what}`).toEqual([...want.shape]);
  expectValuesClose(what, await download(got), want.data, { rtol, atol, ...(mask && { mask }) });
}

export function expectValuesClose(
  what: string,
  got: ArrayLike<number>,
  want: ArrayLike<number>,
  { rtol, atol, mask }: Closeness,
): void {
  let worst = -1;
  let excess = 0;
  for (let i = 0; i < want.length; i++) {
    if (mask && !mask[i]) continue;
    const [a, b] = [got[i]!, want[i]!];
    if (Object.is(a, b) || a === b) continue;
    const over = Math.abs(a - b) - (atol + rtol * Math.abs(b));
    if (over <= excess) continue;
    excess = Number.isNaN(over) ? Number.POSITIVE_INFINITY : over;
    worst = i;
  }
  if (worst >= 0)
    expect.fail(`${what}: element ${worst} is ${got[worst]}, should be ${want[worst]} (rtol ${rtol}, atol ${atol})`);
}
