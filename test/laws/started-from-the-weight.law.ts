/**
 * An initialiser may move a part of the weight into the factors, but not change what the layer computes: (W − s·B₀·A₀) + s·B₀·A₀ = W.
 * After training, [B, −B₀]·[A; A₀] on the original weight equals B·A on the remaining weight: a file saved as plain LoRA gives, on the
 * unmodified model, what the live model gives. So does a file with B and A alone, if the start can be derived from the weight.
 *
 *   ‖f(x; W′, A₀, B₀) − f(x; W)‖ ≤ ε·‖x‖·(‖W‖ + s·‖B₀‖·‖A₀‖)·√terms
 *
 * @see https://arxiv.org/abs/2404.02948, §C: "W + ΔW = W_res + AB, ΔW = AB − A₀B₀ = [A, A₀]·[B; −B₀]"
 */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { currentDevice, downloadSync, realize, upload } from "../../src/compile/program.ts";
import { memoryFolder } from "../../src/formats/writable-folder.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { matrix } from "../../src/linalg/matrix.ts";
import { zeros } from "../../src/nn/init.ts";
import { Linear } from "../../src/nn/linear.ts";
import { type AdapterConfig, attach, loadAdapter, lora, saveAdapter } from "../../src/peft/index.ts";
import { findInitialiser, initialisers } from "../../src/peft/initialiser.ts";
import { TorchGenerator } from "../../src/random/torch-generator.ts";
import { Holder } from "../arbitrary/adapter.ts";
import { onEveryDevice } from "../devices.ts";

interface Item {
  readonly name: string;
  readonly in: number;
  readonly out: number;
  readonly r: number;
  readonly alpha: number;
  readonly rslora: boolean;
  readonly seed: number;
}

const names = [
  ...Object.entries(initialisers).flatMap(([name, { startsAtZero }]) => (startsAtZero ? [name] : [])),
  "pissa_niter_2",
];

const items = (name: string) =>
  fc
    .record({
      name: fc.constant(name),
      in: fc.integer({ min: 4, max: 12 }),
      out: fc.integer({ min: 4, max: 12 }),
      half: fc.integer({ min: 1, max: 2 }),
      alpha: fc.integer({ min: 1, max: 32 }).map((value) => value / 2),
      rslora: fc.boolean(),
      seed: fc.integer({ min: 0, max: 1e6 }),
    })
    // an even rank, twice of which the smallest layer has
    .map(
      ({ half, ...rest }): Item => ({
        ...rest,
        r: half * (Math.min(rest.in, rest.out) >= 8 ? 2 : 1) * (name === "orthogonal" && half === 1 ? 2 : 1),
      }),
    )
    .filter(({ r }) => name !== "orthogonal" || r % 2 === 0);

const norm = (x: ArrayLike<number>): number => Math.hypot(...Array.from(x));

function build(item: Item): { readonly model: Holder; readonly x: Tensor; readonly random: TorchGenerator } {
  const random = new TorchGenerator(item.seed);
  const layer = new Linear(item.in, item.out, { bias: false, init: zeros });
  const drawn = (shape: readonly [number, number], std: number) =>
    upload(
      currentDevice(),
      random.normal(Math.max(16, shape[0] * shape[1]), 0, std).slice(0, shape[0] * shape[1]),
      shape,
      "float32",
    );
  layer.weight.replace(drawn([item.out, item.in], 0.3));
  return { model: new Holder(layer), x: drawn([3, item.in], 1), random };
}

/** The config, with what a pass over data might have found. */
function configOf(item: Item, random: TorchGenerator): AdapterConfig {
  const { name, r, alpha: loraAlpha, rslora: useRslora } = item;
  const initLoraWeights = name === "true" ? true : name;
  const config = lora({ r, loraAlpha, useRslora, initLoraWeights, targetModules: ["layer"] }) as unknown as AdapterConfig;
  const drawn = (rows: number, columns: number) =>
    matrix(rows, columns, Float64Array.from(random.randn(Math.max(16, rows * columns)).slice(0, rows * columns)));
  if (name === "eva") return { ...config, calibration: new Map([["layer", drawn(r, item.in)]]) };
  if (name === "lora_ga") return { ...config, calibration: new Map([["layer", drawn(item.out, item.in)]]) };
  if (name !== "corda") return config;
  const X = drawn(2 * item.in, item.in);
  const C = matrix(item.in, item.in);
  for (let i = 0; i < item.in; i++)
    for (let j = 0; j < item.in; j++)
      for (let k = 0; k < X.rows; k++)
        C.values[i * item.in + j] =
          C.values[i * item.in + j]! + (X.values[k * item.in + i]! * X.values[k * item.in + j]!) / X.rows;
  return { ...config, calibration: new Map([["layer", C]]) };
}

/** How far outputs may be apart, for these factors. */
function allowed(item: Item, x: Tensor, weight: ArrayLike<number>, factors: readonly ArrayLike<number>[]): number {
  const s = item.alpha / (item.rslora ? Math.sqrt(item.r) : item.r);
  const taken = factors.reduce((product, each) => product * norm(each), s);
  return 2 ** -22 * norm(downloadSync(x)) * (norm(weight) + taken) * Math.sqrt(item.in + item.r + 2);
}

const difference = (a: Tensor, b: Tensor): number => {
  const other = downloadSync(b);
  return norm(Float64Array.from(downloadSync(a) as ArrayLike<number>, (value, at) => value - other[at]!));
};

export function checkStart(item: Item, spoil: (model: Holder) => void = () => {}): void {
  const { model, x, random } = build(item);
  const weight = downloadSync((model.layer as Linear).weight.stored);
  const plain = model.forward(x);
  realize([plain]);
  const adapter = attach(model, configOf(item, random), { seed: item.seed });
  spoil(model);
  const factors = Object.values(adapter.layers.get("layer")!.adapters.get("default")!.parameters).map(({ stored }) =>
    downloadSync(stored),
  );
  const found = difference(model.forward(x), plain);
  const most = allowed(item, x, weight, factors);
  if (!(found <= most)) throw new Error(`${item.name} changes the output by ${found}, allowed ${most}`);
}

async function checkFile(item: Item, plainLora: boolean): Promise<void> {
  const { model, x, random } = build(item);
  const adapter = attach(model, configOf(item, random), { seed: item.seed });
  const { parameters } = adapter.layers.get("layer")!.adapters.get("default")!;
  const first = Object.values(parameters).map(({ stored }) => downloadSync(stored).slice());
  for (const parameter of Object.values(parameters)) {
    const step = random.normal(Math.max(16, parameter.size), 0, 0.1);
    parameter.replace(
      upload(
        currentDevice(),
        Float32Array.from(downloadSync(parameter.stored) as Float32Array, (value, at) => value + step[at]!),
        parameter.shape,
        "float32",
      ),
    );
  }
  const trained = Object.values(parameters).map(({ stored }) => downloadSync(stored));
  const live = model.forward(x);
  const folder = memoryFolder();
  await saveAdapter(model, folder, { plainLora });
  const fresh = build(item);
  const loaded = await loadAdapter(fresh.model, folder);
  if (plainLora) expect(loaded.residual).toBe(false);
  const weight = downloadSync((model.layer as Linear).weight.stored);
  const found = difference(fresh.model.forward(x), live);
  expect(found).toBeLessThanOrEqual(4 * (allowed(item, x, weight, first) + allowed(item, x, weight, trained)));
}

onEveryDevice(() => {
  describe.each(names)("%s", (name) => {
    test("does not change what the layer computes", () => {
      fc.assert(
        fc.property(items(name), (item) => checkStart(item)),
        { numRuns: 15 },
      );
    });
    test("a file of plain LoRA gives on the unmodified model what the trained one gives", async () => {
      await fc.assert(
        fc.asyncProperty(items(name), (item) => checkFile(item, true)),
        { numRuns: 6 },
      );
    });
    if (findInitialiser(name).residual !== "from data")
      test("so does the file as it is", async () => {
        await fc.assert(
          fc.asyncProperty(items(name), (item) => checkFile(item, false)),
          { numRuns: 6 },
        );
      });
  });

  test("the law catches a weight from which too little was taken", () => {
    const spoil = ({ layer }: Holder) => {
      const { weight } = (layer as unknown as { base_layer: Linear }).base_layer;
      const values = downloadSync(weight.stored) as Float32Array;
      weight.replace(
        upload(
          currentDevice(),
          values.map((value) => value * 1.001),
          weight.shape,
          "float32",
        ),
      );
    };
    expect(() =>
      fc.assert(
        fc.property(items("pissa"), (item) => checkStart(item, spoil)),
        { numRuns: 15, endOnFailure: true },
      ),
    ).toThrow();
  });
});
