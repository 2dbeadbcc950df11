/** Layers and losses have PyTorch's values, derivatives, parameters and running statistics; test/fixtures/layers/make.py draws them. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { useDevice } from "../../src/compile/program.ts";
import { createReference } from "../../src/devices/reference/device.ts";
import { createWasm } from "../../src/devices/wasm/device.ts";
import * as core from "../../src/index.ts";
import { compile, type Tensor, Variable } from "../../src/index.ts";
import * as nn from "../../src/nn/index.ts";
import { gradientsOf } from "../../src/optim/index.ts";
import { expectClose, goldenFolder, goldenTensors, toTensor } from "./suite.ts";

type Values = Awaited<ReturnType<typeof goldenTensors>>;
type Run = (...inputs: Tensor[]) => readonly Tensor[];
type Case = () => { readonly module?: nn.Module; readonly run: Run };

const layer = (make: () => nn.Layer): Case => {
  return () => {
    const module = make();
    return { module, run: (x) => [module.forward(x!)] };
  };
};
const f = (apply: (x: Tensor, y: Tensor, z: Tensor) => Tensor): Case => {
  return () => ({ run: (x, y, z) => [apply(x!, y!, z!)] });
};
const withHidden = (make: () => nn.RNN | nn.GRU): Case => {
  return () => {
    const module = make();
    const run: Run = (x, h) => {
      const { output, hidden } = module.forward(x!, h);
      return [output, hidden];
    };
    return { module, run };
  };
};
const lstm = (options: nn.RecurrentOptions): Case => {
  return () => {
    const module = new nn.LSTM(3, 4, options);
    const run: Run = (x, h, c) => {
      const { output, hidden, cell } = module.forward(x!, h && c ? { hidden: h, cell: c } : {});
      return [output, hidden, cell];
    };
    return { module, run };
  };
};
const resized = (options: { mode: "nearest" | "linear"; alignCorners?: boolean }): Case => {
  const sizes = [{ size: [7, 3] }, { scaleFactor: 1.7 }, { size: [1, 12] }];
  return () => ({ run: (x) => sizes.map((size) => core.interpolate(x!, { ...size, ...options })) });
};
const scattered = (includeSelf: boolean): Case => {
  const folds = ["sum", "mean", "prod", "amax", "amin"] as const;
  return () => ({ run: (x, y, index) => folds.map((fold) => core.scatterReduce(x!, index!, y!, 0, fold, includeSelf)) });
};

const cases: Readonly<Record<string, Case>> = {
  batch_norm_1d: layer(() => new nn.BatchNorm(3)),
  batch_norm_2d: layer(() => new nn.BatchNorm(3, { eps: 1e-3, momentum: 0.3 })),
  batch_norm_mean: layer(() => new nn.BatchNorm(2, { momentum: null, affine: false })),
  batch_norm_untracked: layer(() => new nn.BatchNorm(2, { trackRunningStats: false })),
  group_norm: layer(() => new nn.GroupNorm(2, 4)),
  instance_norm: layer(() => new nn.InstanceNorm(3, { affine: true })),
  prelu: layer(() => new nn.PReLU()),
  prelu_channels: layer(() => new nn.PReLU(3)),
  sequential: layer(() => new nn.Sequential(new nn.Linear(3, 4), (x) => x.tanh(), new nn.Linear(4, 2))),
  conv_transpose_1d: layer(() => new nn.ConvTranspose1d(4, 2, 3, { stride: 2, padding: 1, outputPadding: 1, groups: 2 })),
  conv_transpose_2d: layer(() => new nn.ConvTranspose2d(2, 3, [3, 2], { stride: [2, 3], dilation: [1, 2], padding: [1, 0] })),
  conv_transpose_patch: layer(() => new nn.ConvTranspose2d(2, 3, 2, { stride: 2, bias: false })),
  rnn: withHidden(() => new nn.RNN(3, 4)),
  rnn_relu: withHidden(() => new nn.RNN(3, 4, { nonlinearity: "relu", bias: false, batchFirst: true })),
  gru: withHidden(() => new nn.GRU(3, 4)),
  gru_both_ways: withHidden(() => new nn.GRU(3, 4, { numLayers: 2, bidirectional: true })),
  lstm: lstm({}),
  lstm_both_ways: lstm({ numLayers: 2, bidirectional: true, batchFirst: true }),
  cumprod: f((x) => core.cumprod(x, 1)),
  log_cum_sum_exp: f((x) => core.logCumSumExp(x, 0)),
  cummin: f((x) => core.cummin(x, 1).values),
  diff: f((x) => core.diff(x, 0)),
  quantile: () => ({ run: (x) => [core.quantile(x!, 0.3, 1, true), core.quantile(x!, 0.75)] }),
  median: () => ({ run: (x) => [core.median(x!, 1).values, core.median(x!)] }),
  search_sorted: () => ({
    run: (x) => {
      const places = [core.searchSorted(x!.sort().values, x!), core.searchSorted(x!.at(0).sort().values, x!, { right: true })];
      return places.map((y) => y.add(x!.mul(0)));
    },
  }),
  places_of_extremes: () => ({
    run: (x) => {
      const places = [core.cummax(x!, 1), core.cummin(x!, 1), core.median(x!, 0, true)].map(({ indices }) => indices);
      return places.map((y) => y.add(x!.mul(0)));
    },
  }),
  unfold: f((x) => core.unfold(x, { kernelSize: [2, 3], stride: [1, 2], padding: 1, dilation: [2, 1] })),
  fold: f((x) => core.fold(x, { outputSize: [4, 5], kernelSize: [2, 3], stride: [1, 2], padding: 1, dilation: [2, 1] })),
  adaptive_average: () => ({ run: (x) => [core.adaptiveAvgPool2d(x!, [3, 2]), core.adaptiveAvgPool1d(x!.at(0), 7)] }),
  adaptive_largest: () => ({ run: (x) => [core.adaptiveMaxPool2d(x!, [3, 2]), core.adaptiveMaxPool1d(x!.at(0), 3)] }),
  interpolate_nearest: resized({ mode: "nearest" }),
  interpolate_linear: resized({ mode: "linear" }),
  interpolate_corners: resized({ mode: "linear", alignCorners: true }),
  pixel_shuffle: () => ({ run: (x) => [core.pixelShuffle(x!, 2), core.pixelUnshuffle(x!, 2)] }),
  cdist: () => ({ run: (x, y) => [core.cdist(x!, y!), core.cdist(x!, y!, 1)] }),
  trapezoid: () => ({ run: (y, x) => [core.trapezoid(y!, { x: x! }), core.trapezoid(y!, { dx: 0.5, axis: 0 })] }),
  histc: f((x) => core.histc(x, { bins: 7, range: [-1.5, 1.5] }).add(x.sum().mul(0))),
  scatter_reduce: scattered(true),
  scatter_reduce_others: scattered(false),
  selu: f(nn.selu),
  log_sigmoid: f(nn.logSigmoid),
  glu: f((x) => nn.glu(x, 1)),
  binary_cross_entropy: f((x, y) => nn.binaryCrossEntropy(x, y)),
  cosine_embedding: f((x, y, t) => nn.cosineEmbeddingLoss(x, y, t, { margin: -0.5 })),
  margin_ranking: f((x, y, t) => nn.marginRankingLoss(x, y, t, { margin: 0.5 })),
  triplet: f((a, p, n) => nn.tripletMarginLoss(a, p, n)),
  triplet_swapped: f((a, p, n) => nn.tripletMarginLoss(a, p, n, { margin: 2, p: 3, swap: true, reduction: "sum" })),
};

// a folder from elsewhere need not have cases of every kind
const lacks = !existsSync(join(goldenFolder, "layers"));
let golden: Values;
beforeAll(async () => void (golden = lacks ? new Map() : await goldenTensors("layers", "layers.safetensors")));

test.skipIf(lacks)("every case of the file is tried", () => {
  expect([...new Set([...golden.keys()].map((key) => key.split(".")[0]))].sort()).toEqual(Object.keys(cases).sort());
});

describe.skipIf(lacks).each([
  ["reference", createReference],
  ["wasm", () => createWasm({ threads: 1 })],
] as const)("%s", (_device, create) => {
  beforeAll(() => void useDevice(create()));
  const close = { rtol: 1e-5, atol: 1e-5 };

  test.each(Object.keys(cases))("%s", async (name) => {
    const part = (kind: string) =>
      new Map(
        [...golden].flatMap(([key, value]) =>
          key.startsWith(`${name}.${kind}.`) ? [[key.slice(name.length + kind.length + 2), value]] : [],
        ),
      );
    const { module, run } = cases[name]!();
    if (module) module.train().loadStateDict(new Map([...part("before")].map(([key, value]) => [key, toTensor(value)])));
    const inOrder = (kind: string) =>
      [...part(kind)].sort(([a], [b]) => Number(a) - Number(b)).map(([, value]) => toTensor(value));
    const inputs = inOrder("in").map((x) => new Variable(x));
    const weights = inOrder("weight");
    const named = new Map<string, Variable>([
      ...inputs.map((input, i) => [`${i}`, input] as const),
      ...(module ? [...module.namedParameters()].filter(([, { requiresGrad }]) => requiresGrad) : []),
    ]);
    const compare = async (kind: string, got: ReadonlyMap<string, Tensor>) => {
      for (const [key, want] of part(kind)) await expectClose(`${name}.${kind}.${key}`, got.get(key)!, want, close);
    };
    const numbered = (list: readonly Tensor[]) => new Map(list.map((y, i) => [`${i}`, y]));
    const compiled = compile(() => {
      const out = run(...inputs.map(({ value }) => value));
      const loss = out.map((y, i) => y.mul(weights[i]!).sum()).reduce((a, b) => a.add(b));
      const gradients = gradientsOf(loss, [...named.values()]);
      return {
        out: [...out],
        gradients: Object.fromEntries([...named].flatMap(([key, v]) => (gradients.has(v) ? [[key, gradients.get(v)!]] : []))),
      };
    });
    const { out, gradients } = compiled();
    await compare("out", numbered(out));
    await compare("grad", new Map(Object.entries(gradients)));
    if (!module) return;
    await compare("after", module.stateDict());
    module.eval();
    await compare("eval", numbered(run(...inputs.map(({ value }) => value))));
  });
});
