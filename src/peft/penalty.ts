/** What adapters add to the loss: AdaLoRA's and KaSA's factors are held near to orthonormal. */
import { checkOptions } from "../errors.ts";
import { add } from "../graph/elementwise.ts";
import type { Tensor } from "../graph/node.ts";
import type { Module } from "../nn/module.ts";
import { adaptersOf } from "./adapted-model.ts";
import { type LayerAdapter, valuesOf } from "./adapter-layer.ts";

/**
 * The sum of what the active adapters of a model add to its loss; `null` when they add nothing. Training (`Trainer`, `finetune`) adds it.
 *
 * @param options.optional with what PEFT leaves to the caller (KaSA's); true when absent
 */
export function adapterPenalty(model: Module, options: { readonly optional?: boolean } = {}): Tensor | null {
  const { optional = true } = checkOptions("adapterPenalty", options, { optional: "true or false" });
  const adapted = adaptersOf(model);
  if (!adapted || adapted.off.value) return null;
  const terms = adapted.active.flatMap((name) => {
    const adapter = adapted.adapters.get(name);
    if (!adapter?.method.penalty || (adapter.method.penaltyIsOptional && !optional)) return [];
    const own = Object.values(adapter.method.layers);
    const layers = [...adapter.layers.values()].flatMap((layer) => {
      const { method, parameters } = layer.adapters.get(name) as LayerAdapter;
      return own.includes(method) ? [valuesOf({ shared: {}, parameters })] : [];
    });
    return [adapter.method.penalty(layers, adapter.config)];
  });
  return terms.length === 0 ? null : terms.reduce(add);
}
