/** What goes to the device before a step and comes back after it. */
import { currentDevice, download, upload } from "../compile/program.ts";
import type { Tensor } from "../graph/node.ts";
import type { TextBatch } from "../text/dataset.ts";

interface UploadedBatch extends Disposable {
  /** [B, T] int32 */
  readonly inputIds: Tensor;
  /** [B, T] int32: the token after each; −100 is not judged. */
  readonly targets: Tensor;
}

/** A batch on the current device; given back at once when disposed, so that a long run does not wait for the collector. */
export function uploadBatch({ inputIds, labels, shape }: TextBatch): UploadedBatch {
  const device = currentDevice();
  const tensors = [inputIds, labels].map((values) => upload(device, values, shape, "int32"));
  const [ids, targets] = tensors as [Tensor, Tensor];
  return {
    inputIds: ids,
    targets,
    [Symbol.dispose]() {
      for (const tensor of tensors) tensor.dispose();
    },
  };
}

/** Values of scalars, which are given back. */
export async function readNumbers(scalars: readonly Tensor[]): Promise<number[]> {
  const values: number[] = [];
  for (const scalar of scalars) {
    values.push((await download(scalar))[0] as number);
    scalar.dispose();
  }
  return values;
}

/** Lets timers, signals and the page have their turn: devices may compute without ever giving it up. */
export const yieldToOthers = (): Promise<void> =>
  new Promise((resume) => {
    if (typeof setImmediate === "function") setImmediate(resume);
    else setTimeout(resume, 0);
  });
