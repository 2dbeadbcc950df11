/** Adapters whose files leave out what can be made again, or whose layers share parameters: on a model of several layers, from a file. */
import { join } from "node:path";
import { expect, it } from "vitest";
import "../../src/devices/choose.ts";
import { currentDevice, upload } from "../../src/compile/program.ts";
import {
  type Adapter,
  type AdapterConfig,
  attach,
  hotSwap,
  loadAdapter,
  merge,
  methods,
  saveAdapter,
} from "../../src/peft/index.ts";
import { TorchGenerator } from "../../src/random/torch-generator.ts";
import { temporaryFolder } from "../temporary-folder.ts";
import { difference, ids, SmallModel } from "./small-model.ts";

const folder = temporaryFolder();

const targetModules = ["q_proj", "v_proj", "o_proj"];
const { tinylora, unilora, osf, lily, frod, adamss, psoft, supertuning } = methods;
const configs: Readonly<Record<string, AdapterConfig<never>>> = {
  "tinylora without projections": tinylora({ r: 2, u: 3, weightTying: 0.5, saveProjection: false, targetModules }),
  unilora: unilora({ r: 2, thetaDLength: 7, targetModules }),
  "unilora with places": unilora({ r: 2, thetaDLength: 7, saveIndices: true, targetModules }),
  lily: lily({ r: 2, strideA: 2, targetModules: [...targetModules, "lm_head"] }),
  adamss: adamss({ r: 4, numSubspaces: 3, subspaceRank: 2, targetModules }),
  psoft: psoft({ r: 3, psoftAlpha: 6, targetModules }),
  frod: frod({ sparseRate: 0.1, targetModules }),
  "supertuning without places": supertuning({ sparsity: 0.8, savePrecomputedIndices: false, targetModules }),
  osf: osf({ effectiveRank: 3, rankPattern: { "1.*v_proj": 0.4 }, targetModules }),
} as never;

/** Every trained number a little off, as training would have it. */
function train(model: SmallModel, seed: number): void {
  const random = new TorchGenerator(seed);
  for (const parameter of model.trainableParameters())
    parameter.assign(
      parameter.value.add(upload(currentDevice(), random.normal(parameter.size, 0, 0.2), parameter.shape, "float32")),
    );
}

const x = () => ids(1, 5, 2, 7);
const fresh = (): SmallModel => new SmallModel().eval();

it.each(Object.entries(configs))("%s is the same from its file, merged, and swapped in", async (name, config) => {
  const made: SmallModel[] = [];
  for (const seed of [1, 2]) {
    const model = fresh();
    attach(model, config, { seed });
    train(model, seed);
    await saveAdapter(model, join(folder, `${name} ${seed}`));
    made.push(model);
  }
  const [first, second] = made as [SmallModel, SmallModel];
  const [want, other] = [first.forward(x()), second.forward(x())];
  expect(difference(want, fresh().forward(x()))).toBeGreaterThan(1e-3);
  expect(difference(want, other)).toBeGreaterThan(1e-3);

  const loaded = fresh();
  const adapter: Adapter = await loadAdapter(loaded, join(folder, `${name} 1`));
  expect(difference(loaded.forward(x()), want)).toBe(0);
  await hotSwap(loaded, join(folder, `${name} 2`));
  expect(difference(loaded.forward(x()), other)).toBe(0);
  if ([...adapter.layers.values()].every((layer) => layer.adapters.get("default")!.method.delta)) {
    merge(loaded);
    expect(difference(loaded.forward(x()), other)).toBeLessThan(1e-4);
  }
});
