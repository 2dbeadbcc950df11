/** A LoRA adapter made of values that were computed, on exactly the layers that they were computed for. */
import { ConfigError } from "../../errors.ts";
import { reshape, transpose } from "../../graph/movement.ts";
import type { Tensor } from "../../graph/node.ts";
import type { Module } from "../../nn/module.ts";
import type { Adapter } from "../adapted-model.ts";
import { type AdapterLayer, type LayerAdapter, valuesOf } from "../adapter-layer.ts";
import { install, type Starts } from "../attach.ts";
import { type AnyAdapterConfig, type AttachPlan, planAttach } from "../attach-plan.ts";
import type { AnyMethod } from "../method.ts";
import type { AnyConfig } from "../method-config.ts";
import { lora } from "../methods/lora.ts";
import { filled } from "../weight-change.ts";
import type { Factors } from "./low-rank.ts";

/** The method, as the machinery takes it. */
export const loraMethod: AnyMethod = lora;

/** What the new adapter is called, and whether training may change it. */
export interface NewAdapter {
  readonly name: string;
  /** False when absent, as in PEFT. */
  readonly trainable?: boolean;
}

/** @throws {ConfigError} for adapters whose layers are not matrices of their own weight plus a change, as in PEFT */
export function refuseOtherThanMatrices(operation: string, { name, method, layers }: Adapter): void {
  for (const [path, layer] of layers) {
    const own = layer.adapters.get(name) as LayerAdapter;
    const problem =
      layer.base().kind === "parameter"
        ? `is on ${path}, which \`targetParameters\` has chosen`
        : own.method.underlay
          ? `(${method.peftType}) has taken a part of the weight of ${path} away`
          : null;
    if (problem !== null)
      throw new ConfigError(`the adapter "${name}" ${problem}; a LoRA beside the weight cannot say that.`, {
        operation,
        got: path,
      });
  }
}

/**
 * The change that one adapter makes of a layer's weight, [out, in] whatever the layer is.
 *
 * @throws {ConfigError} when the method is no change of the weight
 */
export function changeOf(operation: string, layer: AdapterLayer, name: string): Tensor {
  const own = layer.adapters.get(name) as LayerAdapter;
  const base = layer.base();
  if (!own.method.delta)
    throw new ConfigError(`the adapter "${name}" is not a change of the weight of ${layer.path}.`, { operation, got: name });
  const change = own.method.delta(base, valuesOf(own), own.config, own.scale.stored);
  return base.kind === "embedding" ? transpose(change) : change;
}

/** The change of the bias, if the adapter makes one. */
export function biasChangeOf(layer: AdapterLayer, name: string): Tensor | null {
  const own = layer.adapters.get(name) as LayerAdapter;
  const base = layer.base();
  return (base.bias && own.method.biasDelta?.(base, valuesOf(own), own.config, own.scale.stored)) ?? null;
}

/** Plans an adapter for these layers: with the config's own targets where they mean just those, else with their full paths. */
export function planFor(model: Module, adapter: AnyAdapterConfig, paths: readonly string[], name: string): AttachPlan {
  const meant = (config: AnyConfig) => planAttach(model, { ...adapter, config }, name);
  const wanted = [...paths].sort().join();
  const exactly = { targetModules: [...paths], excludeModules: null, layersToTransform: null, layersPattern: null };
  let plan: AttachPlan | undefined;
  try {
    plan = meant(adapter.config);
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error; // the full paths tell whether there is more that is wrong
  }
  const found = plan?.layers.map(({ path }) => path).sort();
  return plan && found?.join() === wanted ? plan : meant({ ...adapter.config, ...exactly });
}

/** Puts a planned LoRA adapter on the model. @param factorsOf those of each layer, of its rank or less */
export function installFactors(
  model: Module,
  plan: AttachPlan,
  { name, trainable = false }: NewAdapter,
  factorsOf: (path: string) => Factors & { readonly bias?: Tensor },
  whole: NonNullable<Starts["whole"]> = () => undefined,
): Adapter {
  return install(
    model,
    plan,
    { name, trainable },
    {
      shared: () => ({}),
      layer({ path, specs, config }) {
        const { A, B, bias } = factorsOf(path);
        const r = config["r"] as number;
        const shaped = {
          A: reshape(filled(A, 0, r), specs["A"]?.shape ?? []),
          B: reshape(filled(B, 1, r), specs["B"]?.shape ?? []),
        };
        return { values: bias ? { ...shaped, bias } : shaped };
      },
      whole,
    },
  );
}

/** LoRA's factors in one layer, as they are kept. */
export const factorsIn = (own: LayerAdapter): Factors => valuesOf(own) as Record<keyof Factors, Tensor>;

/** The same as matrices, whatever the layer is. */
export const asMatrices = ({ A, B }: Factors): Factors => ({
  A: reshape(A, [A.shape[0] as number, -1]),
  B: reshape(B, [B.shape[0] as number, -1]),
});
