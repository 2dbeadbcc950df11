/**
 * The laws that every adapter method has to obey, for methods that are defined elsewhere. The methods of this package are tried harder by
 * test/laws, with the same statements: on more layers and every device, with tolerances made of sizes and dtypes.
 */
import { ConfigError, checkOptions, under, wordJson } from "../errors.ts";
import { memoryFolder } from "../formats/writable-folder.ts";
import { mul } from "../graph/elementwise.ts";
import type { Tensor } from "../graph/node.ts";
import type { Draw } from "../graph/primitive.ts";
import { reduceSum } from "../graph/reduction.ts";
import { sizeOf } from "../graph/shape.ts";
import { readValues } from "../linalg/matrix.ts";
import { Conv1d, Conv2d, Conv3d } from "../nn/convolution.ts";
import { Embedding } from "../nn/embedding.ts";
import { normal } from "../nn/init.ts";
import { Linear } from "../nn/linear.ts";
import { type Layer, Module } from "../nn/module.ts";
import { gradientsOf } from "../optim/optimizer.ts";
import { TorchGenerator } from "../random/torch-generator.ts";
import { fromTypedArray } from "../tensor/create.ts";
import { type Adapter, detach, unmerge } from "./adapted-model.ts";
import { loadAdapter, saveAdapter } from "./adapter-file.ts";
import { attach } from "./attach.ts";
import { disabled } from "./disabled.ts";
import type { LayerKind } from "./layer-kind.ts";
import { merge } from "./merge.ts";
import type { AnyMethod, SampledLayer } from "./method.ts";
import { registerMethod } from "./method-registry.ts";

/** How much is tried. */
export interface CheckMethodOptions {
  /** Layers and configs of each kind of layer. */
  readonly cases?: number;
  readonly seed?: number;
}

/** A model of one layer. */
export class OneLayer<Of extends Layer = Layer> extends Module {
  layer: Of;
  constructor(layer: Of) {
    super();
    this.layer = layer;
  }
  forward(x: Tensor): Tensor {
    return this.layer.forward(x);
  }
}

interface Trial {
  readonly about: SampledLayer;
  make(): Layer;
  readonly x: Tensor;
}

type Make = (draw: Draw, random: TorchGenerator) => Trial;

const floats = (random: TorchGenerator, shape: number[]): Tensor => fromTypedArray(random.randn(sizeOf(shape)), shape);

const convolution =
  (axes: number, Of: typeof Conv1d | typeof Conv2d | typeof Conv3d): Make =>
  (draw, random) => {
    const [into, out, kernel] = [2 * draw.integer(1, 3), 2 * draw.integer(1, 3), draw.integer(1, 3)];
    const init = normal({ std: 0.5, generator: random });
    const places = kernel ** axes;
    return {
      about: { in: into * places, out, groups: 1, places, dilated: false },
      make: () => new Of(into, out, kernel, { init }),
      x: floats(random, [2, into, ...Array.from({ length: axes }, () => 4)]),
    };
  };

const kinds: Readonly<Partial<Record<LayerKind, Make>>> = {
  linear(draw, random) {
    const about = { in: 4 * draw.integer(1, 4), out: 4 * draw.integer(1, 4) };
    const init = normal({ std: 0.5, generator: random });
    return { about, make: () => new Linear(about.in, about.out, { init }), x: floats(random, [2, 3, about.in]) };
  },
  embedding(draw, random) {
    const about = { in: 4 * draw.integer(1, 4), out: 4 * draw.integer(1, 4) };
    const init = normal({ std: 0.5, generator: random });
    const x = fromTypedArray(random.randint(6, 0, about.in), [2, 3]);
    return { about, make: () => new Embedding(about.in, about.out, { init }), x };
  },
  conv1d: convolution(1, Conv1d),
  conv2d: convolution(2, Conv2d),
  conv3d: convolution(3, Conv3d),
};

const drawFrom = (random: TorchGenerator): Draw => {
  const integer = (low: number, high: number) => random.randint(1, low, high + 1)[0] as number;
  return {
    integer,
    extent: (small) => integer(1, small),
    shape: (maxRank = 3, maxExtent = 4, minRank = 0) =>
      Array.from({ length: integer(minRank, maxRank) }, () => integer(1, maxExtent)),
  };
};

/**
 * Tries the laws of adapters on a method, with the configs that its `samples` gives: on layers of each kind that it names, a fresh
 * adapter that claims so changes nothing and can be trained; disabled it is not there; merged it computes what it did beside the weight, and
 * unmerging and detaching restore every bit; and what was saved is loaded, to the bit. Attention, whole blocks and parameters of any
 * module are left to tests of the models that have them.
 *
 * @returns how often each law was tried, by `law on kind`; what a method has nothing to do with is not there
 * @throws {ConfigError} for the first law that does not hold, with the config and the seed; for a method that names none of these kinds of
 *   layers; and what `registerMethod` throws
 * @example
 * (await checkMethod(lora, { cases: 2 }))["merge equivalence on linear"]; // 2
 */
export async function checkMethod(
  method: AnyMethod,
  options: CheckMethodOptions = {},
): Promise<Readonly<Record<string, number>>> {
  const { cases = 10, seed = 0 } = checkOptions("checkMethod", options, {
    cases: "a whole number from 1",
    seed: "a whole number",
  });
  const tried: Record<string, number> = {};
  const forget = under("checkMethod", () => registerMethod(method));
  try {
    for (const kind of Object.keys(method.layers) as LayerKind[])
      for (let i = 0; i < cases; i++) {
        const make = kinds[kind];
        if (!make) continue;
        const random = new TorchGenerator(seed * 1000 + i);
        const trial = make(drawFrom(random), random);
        const config = method.samples(drawFrom(random), trial.about);
        if (!config) continue;
        const law = async (name: string, holds: () => unknown): Promise<void> => {
          const told = await holds();
          if (typeof told === "string")
            throw new ConfigError(`"${name}" does not hold on ${kind}: ${told}.`, {
              operation: "checkMethod",
              got: config,
              hint: `The config was ${wordJson(config)}, the layer ${wordJson(trial.about)}, the seed ${seed} in case ${i}.`,
            });
          tried[`${name} on ${kind}`] = (tried[`${name} on ${kind}`] ?? 0) + 1;
        };
        await tryOne(method, kind, { ...config, targetModules: ["layer"] }, trial, random, law);
      }
    if (Object.keys(tried).length === 0)
      throw new ConfigError("there is no kind of layer on which this method could be tried.", {
        operation: "checkMethod",
        got: Object.keys(method.layers),
        hint: `Its \`layers\` name one of ${Object.keys(kinds).join(", ")}, and \`samples\` gives a config for some size.`,
      });
    return tried;
  } finally {
    forget();
  }
}

type Law = (name: string, holds: () => unknown) => Promise<void>;

async function tryOne(
  method: AnyMethod,
  kind: LayerKind,
  options: object,
  { make, x }: Trial,
  random: TorchGenerator,
  law: Law,
): Promise<void> {
  const model = new OneLayer(make()).eval();
  const run = () => readValues(model.forward(x));
  const [plain, before] = [run(), snapshot(model)];
  const adapter = attach(model, method(options), { seed: random.randint(1, 0, 1000)[0] as number });
  const of = method.layers[kind];
  if (method.startsAtZero?.(adapter.config as never))
    await law("zero start", () => {
      const adapted = model.forward(x);
      return zeroStart(model, plain, adapted, floats(random, [...adapted.shape]), roundings(plain));
    });
  shake(adapter, random);
  const beside = run();
  // with an underlay the layer without its adapter is another one, too
  if (!of?.underlay) await law("disabled", () => differs(plain, disabled(model, run), roundings(plain)));
  if (of?.delta) {
    await law("merge equivalence", () => mergeEquivalence(model, run, beside, roundings(beside)));
    await law("unmerge is inverse", () => {
      const unmerged = snapshot(model);
      merge(model);
      unmerge(model);
      return traceLeft(unmerged, model);
    });
  }
  const folder = memoryFolder();
  await saveAdapter(model, folder);
  await law("attach detach", () => {
    detach(model);
    return traceLeft(before, model);
  });
  await law("save load", async () => {
    await loadAdapter(model, folder);
    return differs(beside, run(), 0);
  });
}

/** How far roundings of float32 take a result like this one. */
const roundings = (y: Float64Array): number => 1e-4 * y.reduce((most, value) => Math.max(most, Math.abs(value)), 1);

/** That two results are further apart than allowed, if they are. */
function differs(a: Float64Array, b: Float64Array, allowed: number): string | undefined {
  const far = a.reduce((most, value, i) => Math.max(most, Math.abs(value - (b[i] as number))), 0);
  return far <= allowed ? undefined : `the results are ${far} apart, allowed ${allowed}`;
}

/**
 * f(x; adapter at its first values) = f(x), and training can begin: some gradient is not zero.
 *
 * @param weights like the output, of which they make one number
 * @returns what does not hold
 */
export function zeroStart(
  model: Module,
  plain: Float64Array,
  adapted: Tensor,
  weights: Tensor,
  allowed: number,
): string | undefined {
  const far = differs(plain, readValues(adapted), allowed);
  if (far) return far;
  const axes = adapted.shape.map((_, axis) => axis);
  const parameters = model.trainableParameters();
  const gradients = [...gradientsOf(reduceSum(mul(adapted, weights), axes), parameters).values()];
  // a method may be told to train nothing but the bias, of a layer that has none
  if (parameters.length === 0 || gradients.some((gradient) => readValues(gradient).some((value) => value !== 0)))
    return undefined;
  return "every gradient is zero, so training never begins";
}

/**
 * f(x; W, adapter) = f(x; W + ΔW), and while disabled the adapter is not there, merged or not. The model is left unmerged.
 *
 * @param run what the model makes of x
 * @param beside the same, before
 * @returns what does not hold
 */
export function mergeEquivalence(
  model: Module,
  run: () => Float64Array,
  beside: Float64Array,
  allowed: number,
): string | undefined {
  merge(model);
  const far = differs(beside, run(), allowed);
  const without = disabled(model, run);
  unmerge(model);
  return far ?? differs(without, disabled(model, run), 0);
}

/** What taking an adapter off, or out of the weights, restores. */
export const snapshot = (model: Module) => ({
  modules: [...model.namedModules()],
  parameters: [...model.namedParameters()],
  flags: model.parameters().map(({ requiresGrad }) => requiresGrad),
  values: model.parameters().map(({ stored }) => readValues(stored)),
});

/** detach(attach(M)) = M and unmerge(merge(M)) = M: what is not as it was, if anything. */
export function traceLeft(before: ReturnType<typeof snapshot>, model: Module): string | undefined {
  const after = snapshot(model);
  for (const what of ["modules", "parameters"] as const) {
    const [was, is] = [before[what], after[what]];
    if (is.length !== was.length) return `${is.length} ${what} are there, not ${was.length}`;
    const other = is.find(([path, each], i) => path !== was[i]?.[0] || each !== was[i][1]);
    if (other) return `another of the ${what} is at "${other[0]}"`;
  }
  if (String(after.flags) !== String(before.flags)) return "other parameters are trained";
  const changed = after.values.findIndex((own, i) => !own.every((value, at) => Object.is(value, before.values[i]?.[at])));
  return changed < 0 ? undefined : `"${after.parameters[changed]?.[0]}" has other values`;
}

/** Every parameter that training changes, moved at random: what a fresh adapter hides is seen. */
function shake({ layers, shared, name }: Adapter, random: TorchGenerator): void {
  const own = [...layers.values()].flatMap((layer) => Object.values(layer.adapters.get(name)?.parameters ?? {}));
  for (const parameter of [...own, ...Object.values(shared)])
    if (parameter.requiresGrad) {
      const by = random.normal(parameter.size, 0, 0.3);
      const now = readValues(parameter.stored);
      parameter.assign(
        fromTypedArray(
          Float32Array.from(now, (value, i) => value + (by[i] as number)),
          [...parameter.shape],
        ),
      );
    }
}
