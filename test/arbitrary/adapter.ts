/** Random adapters on random layers, for the laws of adapters: every registered method, every kind of layer that it knows. */
import fc from "fast-check";
import { currentDevice, downloadSync, upload } from "../../src/compile/program.ts";
import type { DeviceName } from "../../src/devices/device.ts";
import { matmul } from "../../src/graph/contraction.ts";
import { type DType, dtypes, fromBFloat16Bits, fromFloat16Bits, toBFloat16Bits, toFloat16Bits } from "../../src/graph/dtype.ts";
import { reshape, transpose } from "../../src/graph/movement.ts";
import type { Tensor } from "../../src/graph/node.ts";
import type { Draw } from "../../src/graph/primitive.ts";
import { constant } from "../../src/graph/source.ts";
import { Conv1d, Conv2d, Conv3d, type Convolution } from "../../src/nn/convolution.ts";
import { Embedding } from "../../src/nn/embedding.ts";
import { zeros } from "../../src/nn/init.ts";
import { Linear } from "../../src/nn/linear.ts";
import { type Layer, Module, Parameter } from "../../src/nn/module.ts";
import type { LayerAdapter } from "../../src/peft/adapter-layer.ts";
import { OneLayer } from "../../src/peft/check-method.ts";
import { type Adapter, attach } from "../../src/peft/index.ts";
import type { LayerKind } from "../../src/peft/layer-kind.ts";
import { type AnyMethod, defineMethod, type SampledLayer } from "../../src/peft/method.ts";
import { methods } from "../../src/peft/method-registry.ts";
import { TorchGenerator } from "../../src/random/torch-generator.ts";
import { abs } from "../../src/tensor/math.ts";
import { sum } from "../../src/tensor/statistics.ts";

export { OneLayer as Holder };

/** What the laws need to try a kind of layer. */
interface KindSample {
  /** What a method is told of the layer. */
  about(item: AdapterCase): SampledLayer;
  make(item: AdapterCase): Layer;
  input(item: AdapterCase, random: TorchGenerator): Tensor;
  /** Σ|x| over what one output value is made of, at most; the input's share of rounding errors. */
  weightOf(x: Tensor, layer: Layer): number;
}

/** Kinds of layer that can stand alone; the others have laws of their own, on whole models (whole-model.law.ts). */
type LoneKind = Exclude<LayerKind, "attention" | "block">;

/** Experts that share their input, so that what they give is added up. */
class Experts extends Module {
  readonly weight: Parameter;
  readonly isTransposed: boolean;
  constructor(experts: number, { in: into, out }: { readonly in: number; readonly out: number }, isTransposed: boolean) {
    super();
    this.isTransposed = isTransposed;
    const shape = isTransposed ? [experts, into, out] : [experts, out, into];
    this.weight = Parameter.from(new Float32Array(experts * into * out), shape);
  }
  forward(x: Tensor): Tensor {
    const W = this.weight.value;
    const rows = reshape(x, [1, x.size / x.shape.at(-1)!, x.shape.at(-1)!]);
    const y = sum(matmul(rows, this.isTransposed ? W : transpose(W)), 0);
    return reshape(y, [...x.shape.slice(0, -1), y.shape[1]!]);
  }
}

const expertsOf = ({ options }: AdapterCase): number => 1 + (options[7]! % 3);

const kinds: Record<LoneKind, KindSample> = {
  linear: {
    about: (item) => item,
    make: (item) => new Linear(item.in, item.out, { bias: item.bias, init: zeros }),
    input: (item, random) => floats(random, [...item.rows, item.in], "float32"),
    weightOf: (x) => {
      const [values, width] = [numbers(x), x.shape.at(-1)!];
      let most = 0;
      for (let at = 0; at < values.length; at += width)
        most = Math.max(
          most,
          values.slice(at, at + width).reduce((sum, value) => sum + Math.abs(value), 0),
        );
      return most;
    },
  },
  parameter: {
    about: (item) => ({ in: item.in * expertsOf(item), out: item.out }),
    make: (item) => new Experts(expertsOf(item), item, item.bias),
    input: (item, random) => floats(random, [...item.rows, item.in], "float32"),
    weightOf: (x, layer) => (layer as Experts).weight.shape[0]! * kinds.linear.weightOf(x, layer),
  },
  embedding: {
    about: (item) => item,
    make: (item) => new Embedding(item.in, item.out, { init: zeros }),
    input: (item, random) => {
      const count = item.rows.reduce((product, size) => product * size, 1);
      return upload(currentDevice(), random.randint(count, 0, item.in), item.rows, "int32");
    },
    weightOf: () => 1,
  },
  conv1d: convolution(1, Conv1d),
  conv2d: convolution(2, Conv2d),
  conv3d: convolution(3, Conv3d),
};

/** Convolutions of any kernel, stride, padding, dilation and groups: a case's sizes are wrapped around a few channels. */
function convolution(axes: number, of: typeof Conv1d | typeof Conv2d | typeof Conv3d): KindSample {
  const shapeOf = ({ in: into, out, options, bias }: AdapterCase) => {
    const draw = drawFrom(options.toReversed());
    const each = (low: number, high: number) => Array.from({ length: axes }, () => draw.integer(low, high));
    const groups = draw.integer(0, 3) === 0 ? 2 : 1;
    const point = draw.integer(0, 2) === 0;
    const flat = draw.integer(0, 2); // small kernels, small cost: at most two axes of three
    const kernel = each(1, axes === 1 ? 3 : 2).map((size, axis) => (point || (axes === 3 && axis === flat) ? 1 : size));
    const stride = each(1, 2);
    const same = draw.integer(0, 3) === 0 && stride.every((step) => step === 1);
    const dilation = each(1, draw.integer(0, 3) === 0 ? 2 : 1);
    const moves = { stride, padding: same ? ("same" as const) : each(0, 1), dilation, groups, bias };
    return { channels: groups * (1 + (into % 6)), outputs: groups * (1 + (out % 8)), kernel, moves };
  };
  return {
    about(item) {
      const { channels, outputs, kernel, moves } = shapeOf(item);
      const places = kernel.reduce((product, size) => product * size, 1);
      const { groups, dilation } = moves;
      return { in: (channels / groups) * places, out: outputs, groups, places, dilated: dilation.some((step) => step > 1) };
    },
    make(item) {
      const { channels, outputs, kernel, moves } = shapeOf(item);
      return new of(channels, outputs, kernel, { ...moves, init: zeros });
    },
    input(item, random) {
      const { channels, kernel, moves } = shapeOf(item);
      const [batch, more] = [1 + (item.rows[0]! % 2), item.rows.at(-1)! % 3];
      const extents = kernel.map((size, axis) => moves.dilation[axis]! * (size - 1) + 1 + more);
      return floats(random, [batch, channels, ...extents], "float32");
    },
    weightOf: (x, layer) => {
      const { weight } = layer as Convolution;
      return largest(numbers((layer as Convolution).convolve(abs(x), constant(1, weight.shape))));
    },
  };
}

/** Values that the dtype holds exactly, about as large as in a trained model. */
function floats(random: TorchGenerator, shape: readonly number[], dtype: DType): Tensor {
  const drawn = random.normal(
    Math.max(
      16,
      shape.reduce((product, size) => product * size, 1),
    ),
    0,
    0.5,
  );
  const count = shape.reduce((product, size) => product * size, 1);
  const bits = dtype === "float16" ? toFloat16Bits : dtype === "bfloat16" ? toBFloat16Bits : (value: number) => value;
  return upload(
    currentDevice(),
    dtypes[dtype].array === Float32Array ? drawn.slice(0, count) : Uint16Array.from(drawn.slice(0, count), bits),
    shape,
    dtype,
  );
}

/** Values as numbers, whatever the dtype. */
export function numbers(x: Tensor): number[] {
  const widen = x.dtype === "float16" ? fromFloat16Bits : x.dtype === "bfloat16" ? fromBFloat16Bits : (value: number) => value;
  return Array.from(downloadSync(x) as ArrayLike<number>, widen);
}

export const largest = (values: readonly number[]): number => values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
export const largestDifference = (a: Tensor, b: Tensor): number => {
  const [x, y] = [numbers(a), numbers(b)];
  return x.length === y.length ? largest(x.map((value, i) => value - y[i]!)) : Number.POSITIVE_INFINITY;
};

/** Plain numbers that say everything about a case, so that fast-check can shrink it. */
export interface AdapterCase {
  readonly in: number;
  readonly out: number;
  readonly rows: readonly number[];
  readonly bias: boolean;
  readonly dtype: "float32" | "float16" | "bfloat16";
  /** Adapters on the layer. */
  readonly adapters: number;
  readonly options: readonly number[];
  readonly seed: number;
}

export const adapterCases = ({
  maxAdapters = 2,
  dtypes: among = ["float32", "float16", "bfloat16"] as readonly AdapterCase["dtype"][],
} = {}): fc.Arbitrary<AdapterCase> =>
  fc.record({
    in: fc.integer({ min: 1, max: 40 }),
    out: fc.integer({ min: 1, max: 40 }),
    rows: fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 2 }),
    bias: fc.boolean(),
    dtype: fc.constantFrom(...among),
    adapters: fc.integer({ min: 1, max: maxAdapters }),
    options: fc.array(fc.nat(0xffff), { minLength: 8, maxLength: 8 }),
    seed: fc.nat(0xffff),
  });

/** Draws from a list of numbers, over and over. */
export function drawFrom(list: readonly number[]): Draw {
  let at = 0;
  const next = () => list[at++ % list.length]!;
  const integer = (low: number, high: number) => low + (next() % (high - low + 1));
  return {
    integer,
    extent: (small) => integer(1, small),
    shape: (maxRank = 3, maxExtent = 5, minRank = 0) =>
      Array.from({ length: integer(minRank, maxRank) }, () => integer(1, maxExtent)),
  };
}

export interface Built {
  readonly model: OneLayer;
  readonly layer: Layer;
  readonly x: Tensor;
  readonly adapters: readonly Adapter[];
  /** Σ|x| over what one output value is made of. */
  readonly inputWeight: number;
  /** How many values that is. */
  readonly terms: number;
}

/** The layer without adapters, its weights filled. */
export function buildLayer(kind: LayerKind, item: AdapterCase): Built {
  const random = new TorchGenerator(item.seed);
  const sample = kinds[kind as LoneKind];
  const layer = sample.make(item);
  for (const [name, parameter] of layer.ownParameters())
    Object.assign(layer, { [name]: new Parameter(floats(random, parameter.shape, item.dtype)) });
  const x = sample.input(item, random);
  const { in: terms } = sample.about(item);
  return { model: new OneLayer(layer), layer, x, adapters: [], inputWeight: sample.weightOf(x, layer), terms };
}

/** Options of one adapter of a case; `null` for a layer for which the method has none. */
export const sampleOptions = (method: AnyMethod, kind: LayerKind, item: AdapterCase, index = 0) =>
  method.samples(drawFrom(item.options.slice(index)), kinds[kind as LoneKind].about(item));

/** The same with targets. A layer for which the method has none is no case. */
export function optionsOf(method: AnyMethod, kind: LayerKind, item: AdapterCase, index = 0) {
  const options = sampleOptions(method, kind, item, index);
  fc.pre(options !== null);
  return kind === "parameter"
    ? { ...options, targetModules: [], targetParameters: ["layer.weight"] }
    : { ...options, targetModules: ["layer"] };
}

/**
 * How often a law is tried on one method: seldom enough that all methods together take little longer than a few of them. All devices are given
 * the same cases, from the same seed; the reference device the first half of them.
 */
export const runsOf = (runs: number, device: DeviceName): number =>
  Math.ceil(Math.max(8, (runs * 4) / Math.max(4, adaptations.length)) / (device === "reference" ? 2 : 1));

export const nameOf = (index: number): string => `adapter${index}`;

/** The layer with its adapters, fresh. */
export function buildAdapted(method: AnyMethod, kind: LayerKind, item: AdapterCase): Built {
  const built = buildLayer(kind, item);
  const adapters = Array.from({ length: item.adapters }, (_, i) =>
    attach(built.model, method(optionsOf(method, kind, item, i)), { name: nameOf(i), seed: item.seed + i }),
  );
  return { ...built, adapters };
}

/** Fills every trainable parameter at random: an adapter as after training. */
export function shake({ adapters }: Built, seed: number): void {
  const random = new TorchGenerator(seed + 1);
  const fill = (parameter: Parameter) => parameter.assign(floats(random, parameter.shape, "float32"));
  for (const adapter of adapters) {
    for (const layer of adapter.layers.values()) {
      const { method, config, parameters } = layer.adapters.get(adapter.name)!;
      const specs = method.parameters(layer.base(), config);
      for (const [key, parameter] of Object.entries(parameters))
        if (parameter.dtype !== "int32" && !specs[key]?.derived) fill(parameter);
    }
    for (const [key, parameter] of Object.entries(adapter.shared))
      if (adapter.sharedSpecs[key]?.trainable !== false && parameter.dtype !== "int32") fill(parameter);
  }
}

export const layerAdapters = ({ name, layers }: Adapter): LayerAdapter[] =>
  [...layers.values()].map((layer) => layer.adapters.get(name)!);

/** Every registered method with every kind of layer that it knows and that can stand alone. */
export const adaptations: readonly { readonly name: string; readonly method: AnyMethod; readonly kind: LayerKind }[] = (
  Object.entries(methods) as [string, AnyMethod][]
).flatMap(([name, method]) =>
  Object.keys(method.layers)
    .filter((kind) => kind in kinds)
    .map((kind) => ({ name, method, kind: kind as LayerKind })),
);

/** Whether the method is a change of the weight, so that it can be merged. */
export const changesWeight = ({ method, kind }: (typeof adaptations)[number]): boolean =>
  method.layers[kind]?.delta !== undefined;

/** The same method with something wrong in it, for one kind of layer. */
export function mutant(method: AnyMethod, kind: LayerKind, change: object, whole: object = {}): AnyMethod {
  return defineMethod({
    ...method,
    ...whole,
    layers: { ...method.layers, [kind]: { ...method.layers[kind], ...change } },
  } as never) as AnyMethod;
}

/** Half a unit in the last place of 1: what one rounding changes at most, relatively. */
export function roundingOf(dtype: DType, device: string): number {
  if (dtype === "bfloat16") return 2 ** -8;
  if (dtype === "float16") return 2 ** -11;
  return device === "reference" ? 2 ** -53 : 2 ** -24;
}
