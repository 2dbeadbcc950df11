/** Serving many adapters at once: every row of a batch has its own. */
import { ConfigError, requireKind } from "../errors.ts";
import type { Module } from "../nn/module.ts";
import { adaptedModel, getAdapter } from "./adapted-model.ts";
import { afterwards } from "./disabled.ts";
import { baseRow } from "./row-groups.ts";

const operation = "withAdapters";

/**
 * Runs `body` with an adapter for each row of the batch, whichever are active, and puts everything back. The adapters may be of
 * any methods, ranks and targets. What the base layers compute is computed once for the whole batch, except where a method
 * changes what goes into a layer. A compiled function keeps one program for each order of names: rows with the same name side
 * by side are cheapest.
 *
 * @param names one for each row; `"__base__"` for the model without adapters
 * @param body runs the model in evaluation mode; may be asynchronous
 * @returns what `body` gives
 * @throws {ConfigError} for a name that no adapter has, in training mode, while adapters are merged, and for `"__base__"` where
 *   an adapter's start has taken a part of the weights; @throws {ShapeError} when the batch has another number of rows
 * @see https://arxiv.org/abs/2311.03285, https://arxiv.org/abs/2312.05677
 * @example
 * for (const name of ["french", "legal"]) attach(model, lora({ r: 4 }), { name });
 * const rows = tensor([[1, 2], [3, 4], [5, 6]], { dtype: "int32" });
 * const { logits } = withAdapters(model.eval(), ["french", "__base__", "legal"], () => model.forward({ inputIds: rows }));
 */
export function withAdapters<T>(model: Module, names: readonly string[], body: () => T): T {
  const { rows, layers, saved, adapters, router } = adaptedModel(model, operation);
  if (router)
    throw new ConfigError(`${router.word} mixes the adapters of this model, for every row.`, {
      operation,
      hint: "Call setActive first, which ends the mixture.",
    });
  requireKind(operation, "a list", { names });
  if (names.length === 0) throw new ConfigError("got no names.", { operation, hint: "Give one for each row of the batch." });
  for (const name of names) {
    const own = name === baseRow ? undefined : getAdapter(model, name, operation);
    const does = own?.isPrompt ? "puts virtual tokens in front" : own?.method.mixesRows ? "looks at the whole batch" : undefined;
    if (does)
      throw new ConfigError(`the adapter "${name}" ${does}, which single rows of a batch cannot have.`, { operation, got: name });
  }
  const places = [...layers.values(), ...saved.values()];
  if (places.some(({ training }) => training))
    throw new ConfigError("different adapters per row work in evaluation mode only.", { operation, hint: "Call model.eval()." });
  if (places.some(({ merged }) => merged !== null && merged.length > 0))
    throw new ConfigError("adapters are merged into this model's weights.", { operation, hint: "Call unmerge first." });
  const taken = [...adapters.values()].find(({ residual }) => residual);
  if (taken && names.includes(baseRow))
    throw new ConfigError(`the start of adapter "${taken.name}" has taken a part of the weights, so no row has the base model.`, {
      operation,
      got: names,
      hint: `Give every row an adapter, or take "${taken.name}" off.`,
    });
  const before = rows.stored;
  rows.value = [...names];
  return afterwards(operation, body, () => {
    rows.value = before;
  });
}
