/** LoftQ for a model that holds codes already: PEFT's `replace_lora_weights_loftq`. */
import { upload } from "../../compile/program.ts";
import type { Device } from "../../devices/device.ts";
import { ConfigError, checkOptions, FormatError, under, wordShape } from "../../errors.ts";
import { defaultAdapterName } from "../../formats/peft-adapter.ts";
import { openCheckpoint } from "../../formats/sharded.ts";
import { toFloat32 } from "../../graph/dtype.ts";
import { sub } from "../../graph/elementwise.ts";
import { assignAll } from "../../graph/variable.ts";
import type { CheckpointNames } from "../../models/checkpoint-name.ts";
import type { Module, Parameter } from "../../nn/module.ts";
import { QuantisedLinear } from "../../nn/quantised-linear.ts";
import { getAdapter } from "../adapted-model.ts";
import { lowRankFactors } from "../init/loftq.ts";

/** Which adapter, and what is kept of it. */
export interface ReplaceLoftqOptions {
  /** The adapter whose A and B are replaced. */
  readonly name?: string;
  /** Asked after each layer whether its new factors stay, as when a loss has fallen; they do when absent. */
  keep?(path: string): boolean | Promise<boolean>;
}

/**
 * Gives the LoRA factors of layers that hold codes the best low-rank share of what quantising has taken away: B·A ≈ W − dequantise(codes),
 * one step of LoftQ, with W read from the model's own checkpoint. As there, choose α = r.
 *
 * @param folder of the model before it was quantised
 * @returns the paths of the layers whose factors were replaced
 * @throws {ConfigError} when no layer of the adapter holds codes; @throws {FormatError} when the checkpoint lacks a weight
 */
export async function replaceLoraWeightsLoftq(
  model: Module,
  folder: string,
  options: ReplaceLoftqOptions = {},
): Promise<string[]> {
  const { name = defaultAdapterName, keep } = checkOptions("replaceLoraWeightsLoftq", options, {
    name: "a string",
    keep: "a function",
  });
  const operation = "replaceLoraWeightsLoftq";
  const layers = [...getAdapter(model, name, operation).layers].flatMap(([path, layer]) => {
    const { parameters } = layer.adapters.get(name)!;
    const { A, B } = parameters as { readonly A?: Parameter; readonly B?: Parameter };
    return layer.base_layer instanceof QuantisedLinear && A && B ? [{ path, base: layer.base_layer, A, B }] : [];
  });
  if (layers.length === 0)
    throw new ConfigError(`no layer of the adapter "${name}" is LoRA on a weight that is kept as codes.`, {
      operation,
      got: name,
    });
  const checkpoint = await under(operation, () => openCheckpoint(folder));
  const names: Partial<CheckpointNames> = model as Module & Partial<CheckpointNames>;
  const replaced: string[] = [];
  for (const { path, base, A, B } of layers) {
    const stored = under(operation, () => checkpoint.get(names.nameOf?.(`${path}.weight`) ?? `${path}.weight`));
    const shape = [base.outFeatures, base.inFeatures];
    if (wordShape(stored.shape) !== wordShape(shape))
      throw new FormatError(
        `"${path}" is ${wordShape(stored.shape)} in ${checkpoint.source}, ${wordShape(shape)} in the model.`,
        {
          operation,
          expected: shape,
          got: stored.shape,
        },
      );
    const device = base.weight.stored.storage?.device as Device;
    const W = upload(device, toFloat32(await stored.load(), stored.dtype), shape, "float32");
    const before = [A.stored, B.stored] as const;
    const next = lowRankFactors(sub(W, base.matrix()), A.shape[0] as number);
    assignAll([
      [A, next.A],
      [B, next.B],
    ]);
    if (keep && !(await keep(path))) {
      A.replace(before[0]);
      B.replace(before[1]);
    } else replaced.push(path);
  }
  return replaced;
}
