/** What numpy says of adapters' changes, and how many intruder dimensions PEFT finds in them. */
import { join } from "node:path";
import { expect } from "vitest";
import { onHost } from "../../src/devices/host.ts";
import { compareAdapters, inspectAdapter, loadAdapter } from "../../src/peft/index.ts";
import { loadBase } from "./peft-case.ts";
import { goldenFolder, goldenSuite, readGolden } from "./suite.ts";

interface Layer {
  readonly singular_values: readonly number[];
  readonly norm: number;
  readonly relative_norm: number;
  readonly stable_rank: number;
  readonly effective_rank: number;
  readonly energy_rank: number;
  readonly energy_error: number;
  readonly intruders?: number;
}
interface Angles {
  readonly largest: number;
  readonly mean: number;
}
interface Pair {
  readonly cosine: number;
  readonly norm_ratio: number;
  readonly columns: Angles;
  readonly rows: Angles;
}
type Layers<T> = Readonly<Record<string, T>>;
const golden = readGolden<{
  readonly top_k: number;
  readonly threshold_epsilon: number;
  readonly cases: readonly { readonly name: string; readonly base: string; readonly layers: Layers<Layer> }[];
  readonly compared: { readonly base: string; readonly a: string; readonly b: string; readonly layers: Layers<Pair> };
}>("inspect.json");

/** Each number near the one of the same name. */
function expectNear(found: Readonly<Record<string, number>>, wanted: Readonly<Record<string, number>>, where: string): void {
  for (const [key, value] of Object.entries(wanted))
    expect(Math.abs(found[key]! - value), `${where}: ${key} ${found[key]} ≠ ${value}`).toBeLessThan(
      2e-5 * Math.max(1, Math.abs(value)),
    );
}

const folderOf = (name: string) => join(goldenFolder, "peft", name, "adapter");

async function inspectCase({ name, base, layers }: NonNullable<typeof golden>["cases"][number]): Promise<void> {
  const { model } = await loadBase(base);
  await loadAdapter(model, folderOf(name));
  const { modules } = await onHost(() =>
    inspectAdapter(model, { intruders: true, topK: golden!.top_k, thresholdEpsilon: golden!.threshold_epsilon }),
  );
  expect(modules.map(({ path }) => path).sort()).toEqual(Object.keys(layers).sort());
  for (const { path, norm, relativeNorm, spectrum, intruders } of modules) {
    const { singular_values, intruders: wanted, ...numbers } = layers[path]!;
    const { stableRank, effectiveRank, energyRank, energyError } = spectrum!;
    expectNear(
      {
        ...{ norm: norm!, relative_norm: relativeNorm!, stable_rank: stableRank, effective_rank: effectiveRank },
        ...{ energy_rank: energyRank, energy_error: energyError },
      },
      numbers,
      path,
    );
    // of a product there are as many as its rank; the others are rounding
    const values = singular_values.map((_, i) => spectrum!.singularValues[i] ?? 0);
    expectNear(Object.fromEntries(values.entries()), Object.fromEntries(singular_values.entries()), path);
    if (wanted !== undefined) expect(intruders, path).toBe(wanted);
  }
}

async function comparePair({ base, a, b, layers }: NonNullable<typeof golden>["compared"]): Promise<void> {
  const { model } = await loadBase(base);
  for (const name of [a, b]) await loadAdapter(model, folderOf(name), { name });
  const { modules } = await onHost(() => compareAdapters(model, a, b));
  expect(modules.map(({ path }) => path).sort()).toEqual(Object.keys(layers).sort());
  for (const { path, cosine, normRatio, columns, rows } of modules) {
    const want = layers[path]!;
    expectNear({ cosine, norm_ratio: normRatio }, { cosine: want.cosine, norm_ratio: want.norm_ratio }, path);
    for (const [space, angles] of [[columns, want.columns] as const, [rows, want.rows] as const])
      expectNear({ ...space }, { ...angles }, path);
  }
}

goldenSuite("inspect", [
  ...(golden?.cases ?? []).map((item) => ({ name: item.name, run: () => inspectCase(item) })),
  ...(golden ? [{ name: "compared", run: () => comparePair(golden.compared) }] : []),
]);
