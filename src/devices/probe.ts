/**
 * Whether a device computes what it should, and how fast: a small forward and gradient pass against the reference device. A GPU
 * driver that is wrong mostly gives wrong numbers, not errors.
 */
import { pullback } from "../autograd/grad.ts";
import { download, realize, upload } from "../compile/program.ts";
import { DeviceError, LorikeetError } from "../errors.ts";
import { matmul } from "../graph/contraction.ts";
import { add, cast, div, erf, exp, log, mul, neg, sub, tanh } from "../graph/elementwise.ts";
import { take } from "../graph/indexing.ts";
import { expand, transpose } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { reduceMax, reduceSum } from "../graph/reduction.ts";
import { constant } from "../graph/source.ts";
import type { Device, DeviceName } from "./device.ts";
import { createReference } from "./reference/device.ts";

/** One way of computing: a device, for the gpu device in one of its modes. */
export interface Candidate {
  readonly name: DeviceName;
  readonly mode?: string;
  open(): Device | Promise<Device>;
}

/** What came of trying a candidate. */
export interface Probe {
  readonly name: DeviceName;
  readonly mode?: string;
  /** Its values and gradients are those of the reference device. */
  readonly works: boolean;
  /** Why not. */
  readonly reason?: string;
  /** The device's own line about itself. */
  readonly about?: string;
  /** Milliseconds that a chain of four products of 256×256 matrices takes, reading the result included; the best of up to three. */
  readonly milliseconds?: number;
}

/** Multiples of 1/16 in −1…1, the same everywhere. */
const values = (count: number, seed: number): Float32Array =>
  Float32Array.from({ length: count }, (_, i) => ((((i + 1) * 7919 + seed * 104729) % 33) - 16) / 16);

/** Loss and gradients of a small network with a table, a nonlinearity, a row-wise softmax and a residual. */
function network(device: Device): Tensor[] {
  const table = upload(device, values(11 * 6, 1), [11, 6], "float32");
  const weight = upload(device, values(6 * 6, 2), [6, 6], "float32");
  const bias = upload(device, values(6, 3), [6], "float32");
  const index = upload(device, Int32Array.of(3, 0, 10, 3, 7), [5], "int32");
  const x = take(table, index);
  const h = add(tanh(add(matmul(x, transpose(weight)), bias)), erf(x));
  const shifted = sub(h, expand(reduceMax(h, [1]), h.shape));
  const total = reduceSum(exp(shifted), [1]);
  const p = div(exp(shifted), expand(total, h.shape));
  const entropy = neg(reduceSum(mul(p, sub(shifted, expand(log(total), h.shape))), [0, 1]));
  const gradients = pullback([entropy], [constant(1, entropy.shape)], [table, weight, bias]);
  return [entropy, p, ...gradients.map((gradient) => gradient!)];
}

/** @throws {DeviceError} for the first value that is not what the reference device says */
async function check(device: Device): Promise<void> {
  const reference = createReference();
  const [expected, got] = [network(reference), network(device)];
  for (const tensors of [expected, got]) realize(tensors);
  for (const [i, tensor] of got.entries()) {
    const [a, b] = [await download(tensor), await download(expected[i]!)];
    for (let j = 0; j < b.length; j++)
      if (!(Math.abs(a[j]! - b[j]!) <= 1e-5 * (1 + Math.abs(b[j]!))))
        throw new DeviceError(`computes ${a[j]} where ${b[j]} is right`, { operation: device.name, expected: b[j], got: a[j] });
  }
  for (const tensor of [...expected, ...got]) tensor.dispose();
}

/** Milliseconds from which another run would tell nothing new. */
const slow = 500;

async function speed(device: Device): Promise<number> {
  const n = 256;
  const a = upload(device, values(n * n, 4), [n, n], "float32");
  const scale = constant(1 / 16);
  let best = Number.POSITIVE_INFINITY;
  // the first run compiles
  for (let run = 0; run < 4; run++) {
    const start = performance.now();
    let x = a;
    for (let i = 0; i < 4; i++) x = mul(matmul(x, a), scale);
    const result = reduceSum(cast(x, "float32"), [0, 1]);
    await download(result);
    const milliseconds = performance.now() - start;
    if (run > 0) best = Math.min(best, milliseconds);
    result.dispose();
    if (run > 0 && milliseconds > slow) break;
  }
  a.dispose();
  return best;
}

/** A promise that gives up: a driver that hangs must not hang the caller. */
async function within<T>(milliseconds: number, work: Promise<T>): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no answer in ${milliseconds / 1000} seconds`)), milliseconds);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}

/**
 * Tries one candidate.
 *
 * @param patience milliseconds after which it counts as failed
 * @returns its report and, when it works, the open device
 */
export async function probe(candidate: Candidate, patience = 30_000): Promise<{ report: Probe; device: Device | null }> {
  const { name, mode } = candidate;
  const which = { name, ...(mode !== undefined && { mode }) };
  let device: Device | null = null;
  try {
    const attempt = async (): Promise<Probe> => {
      device = await candidate.open();
      await check(device);
      return { ...which, works: true, about: device.about, milliseconds: await speed(device) };
    };
    return { report: await within(patience, attempt()), device };
  } catch (error) {
    (device as Device | null)?.[Symbol.dispose]();
    const reason =
      error instanceof LorikeetError
        ? [error.problem, error.hint].filter(Boolean).join(" ")
        : error instanceof Error
          ? error.message
          : String(error);
    return { report: { ...which, works: false, reason }, device: null };
  }
}
