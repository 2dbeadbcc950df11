/** For methods that keep something in training which is not trained: it goes into checkpoints, so that a run goes on with it. */
import type { Variable } from "../../graph/variable.ts";
import type { LayerAdapter } from "../adapter-layer.ts";
import type { AnyConfig } from "../method-config.ts";
import type { MethodSchedule } from "../schedule.ts";

/** @param namesOf names of such parameters of a layer, by the adapter's config */
export const keptState = (namesOf: (config: AnyConfig) => readonly string[]): MethodSchedule => ({
  begin(adapter) {
    const names = namesOf(adapter.config);
    if (names.length === 0) return null;
    const found = [...adapter.layers].flatMap(([path, layer]) => {
      const { parameters } = layer.adapters.get(adapter.name) as LayerAdapter;
      return names.map((name) => [`${path}.${name}`, parameters[name] as Variable] as const);
    });
    return {
      observe: () => undefined,
      advance: () => Promise.resolve(),
      variables: Object.fromEntries(found),
      data: null,
      resume: () => undefined,
      [Symbol.dispose]: () => undefined,
    };
  },
});
