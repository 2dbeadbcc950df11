/**
 * The laws that every adapter method has to obey, for methods that are defined elsewhere. The methods of this package are tried harder,
 * on more layers and on every device, by test/laws.
 */
import { backward } from "../autograd/grad.ts";
import { downloadSync } from "../compile/program.ts";
import { ConfigError, checkOptions, under, wordJson } from "../errors.ts";
import { memoryFolder } from "../formats/writable-folder.ts";
import { mul } from "../graph/elementwise.ts";
import type { Tensor } from "../graph/node.ts";
import type { Draw } from "../graph/primitive.ts";
import { reduceSum } from "../graph/reduction.ts";
import { Conv1d, Conv2d, Conv3d } from "../nn/convolution.ts";
import { Embedding } from "../nn/embedding.ts";
import { normal } from "../nn/init.ts";
import { Linear } from "../nn/linear.ts";
import { type Layer, Module } from "../nn/module.ts";
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

class OneLayer extends Module {
  readonly layer: Layer;
  constructor(layer: Layer) {
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

const floats = (random: TorchGenerator, shape: number[]): Tensor =>
  fromTypedArray(random.randn(shape.reduce((product, size) => product * size, 1)), shape);

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
  const [layer] = [...model.children()].map(([, each]) => each);
  const bits = () => [...model.stateDict().values()].map(values);
  const [base, before] = [values(model.forward(x)), bits()];
  const adapter = attach(model, method(options), { seed: random.randint(1, 0, 1000)[0] as number });
  const of = method.layers[kind];
  if (method.startsAtZero?.(adapter.config as never))
    await law("zero start", () => {
      const far = differs(base, values(model.forward(x)));
      if (far) return far;
      const y = model.forward(x);
      backward(
        reduceSum(
          mul(y, floats(random, [...y.shape])),
          y.shape.map((_, axis) => axis),
        ),
      );
      const grads = model.trainableParameters().flatMap(({ grad }) => (grad ? [...values(grad)] : []));
      return grads.some((each) => each !== 0) ? undefined : "every gradient is zero, so training never begins";
    });
  shake(adapter, random);
  const beside = values(model.forward(x));
  // with an underlay the layer without its adapter is another one, too
  if (!of?.underlay)
    await law("disabled", () =>
      differs(
        base,
        disabled(model, () => values(model.forward(x))),
      ),
    );
  if (of?.delta) {
    await law("merge equivalence", () => {
      merge(model);
      return differs(beside, values(model.forward(x)));
    });
    await law("unmerge is inverse", () => {
      unmerge(model);
      return differs(beside, values(model.forward(x)), 0);
    });
  }
  const folder = memoryFolder();
  await saveAdapter(model, folder);
  await law("attach detach", () => {
    detach(model);
    if (model.layer !== layer) return "another layer is in the place of the first";
    const after = bits();
    if (after.length !== before.length) return `${after.length} parameters are there, not ${before.length}`;
    return before.map((each, i) => differs(each, after[i] as Float64Array, 0)).find((told) => told !== undefined);
  });
  await law("save load", async () => {
    await loadAdapter(model, folder);
    return differs(beside, values(model.forward(x)), 0);
  });
}

const values = (x: Tensor): Float64Array => Float64Array.from(downloadSync(x));

/** Every parameter that training changes, moved at random: what a fresh adapter hides is seen. */
function shake({ layers, shared, name }: Adapter, random: TorchGenerator): void {
  const own = [...layers.values()].flatMap((layer) => Object.values(layer.adapters.get(name)?.parameters ?? {}));
  for (const parameter of [...own, ...Object.values(shared)])
    if (parameter.requiresGrad) {
      const by = random.normal(parameter.size, 0, 0.3);
      const now = values(parameter.stored);
      parameter.assign(
        fromTypedArray(
          Float32Array.from(now, (value, i) => value + (by[i] as number)),
          [...parameter.shape],
        ),
      );
    }
}

/** Whether two results are further apart than roundings of float32 take them. */
function differs(a: Float64Array, b: Float64Array, share = 1e-4): string | undefined {
  const size = Math.max(1, ...a.map(Math.abs));
  const worst = Math.max(...a.map((value, i) => Math.abs(value - (b[i] as number))));
  return worst <= share * size ? undefined : `the results are ${worst} apart, of ${size}`;
}
