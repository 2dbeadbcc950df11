/** What goes to the device before a step and comes back after it. */
import { currentDevice, download, upload } from "../compile/program.ts";
import type { Tensor } from "../graph/node.ts";
import type { TextBatch } from "../text/dataset.ts";
import { type Batch, textInputs } from "./training-data.ts";

/** Inputs on the current device, by name; given back at once when disposed, so that a long run does not wait for the collector. */
export interface UploadedInputs extends Disposable {
  readonly inputs: Readonly<Record<string, Tensor>>;
}

/** A batch on the current device. */
export function uploadInputs({ inputs }: Batch): UploadedInputs {
  const device = currentDevice();
  const tensors = Object.entries(inputs).map(
    ([name, { values, shape }]) =>
      [name, upload(device, values, shape, values instanceof Float32Array ? "float32" : "int32")] as const,
  );
  return {
    inputs: Object.fromEntries(tensors),
    [Symbol.dispose]() {
      for (const [, tensor] of tensors) tensor.dispose();
    },
  };
}

interface UploadedBatch extends Disposable {
  /** [B, T] int32 */
  readonly inputIds: Tensor;
  /** [B, T] int32: the token after each; −100 is not judged. */
  readonly targets: Tensor;
}

/** A batch of text on the current device. */
export function uploadBatch(batch: TextBatch): UploadedBatch {
  const { inputs, ...disposable } = uploadInputs(textInputs(batch));
  return { ...disposable, inputIds: inputs["inputIds"] as Tensor, targets: inputs["targets"] as Tensor };
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
