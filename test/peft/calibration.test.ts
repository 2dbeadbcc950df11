/** What a pass over data finds out for initialisers, against PEFT (eva.json, made by eva.py) and against exact arithmetic. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { currentDevice, downloadSync, upload, useDevice } from "../../src/compile/program.ts";
import { createReference } from "../../src/devices/reference/device.ts";
import { readSafetensors } from "../../src/formats/safetensors.ts";
import { openCheckpoint } from "../../src/formats/sharded.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { svdMatrix } from "../../src/linalg/svd.ts";
import { type CausalLM, createModel } from "../../src/models/index.ts";
import { IncrementalPca } from "../../src/peft/calibration/incremental-pca.ts";
import { attach, calibrateCorda, calibrateEva, calibrateLoraGa, lora, setActive } from "../../src/peft/index.ts";
import { scalingOf } from "../../src/peft/methods/lora.ts";
import { flip } from "../../src/tensor/arrange.ts";
import { loadWeights } from "../../src/train/load-weights.ts";
import { filled, noise } from "../linalg/matrices.ts";
import reference from "./eva.json" with { type: "json" };
import { SmallModel } from "./small-model.ts";

useDevice(createReference());

const ids = (values: readonly number[], shape: readonly number[]) =>
  upload(currentDevice(), Int32Array.from(values), shape, "int32");

describe("EVA shares ranks out as PEFT does", () => {
  const base = join(import.meta.dirname, "../fixtures/peft/base/llama");
  let model: CausalLM;
  let inputs: { inputIds: Tensor; attentionMask: Tensor; labels: Tensor };
  beforeAll(async () => {
    const file = await readSafetensors(join(base, "inputs.safetensors"));
    const read = async (name: string) => {
      const stored = file.tensors.get(name)!;
      return ids([...(await stored.load())] as number[], stored.shape);
    };
    inputs = { inputIds: await read("input_ids"), attentionMask: await read("attention_mask"), labels: await read("labels") };
  });

  test.each(reference.map((item, i) => [i, item] as const))(
    "case %i",
    async (_, { options, layers, rank_pattern, alpha_pattern, targets }) => {
      model = createModel(JSON.parse(readFileSync(join(base, "config.json"), "utf8"))) as CausalLM;
      await loadWeights(model, await openCheckpoint(base));
      const turned = Object.fromEntries(Object.entries(inputs).map(([key, value]) => [key, flip(value, 1)])) as typeof inputs;
      const { r, targets: targetModules, eva: evaConfig } = options;
      const rankPattern = (options as { pattern?: Record<string, number> }).pattern ?? {};
      const asked = lora({ r, loraAlpha: 6, targetModules, rankPattern, initLoraWeights: "eva", evaConfig });
      const config = calibrateEva(model, asked, [inputs, turned]);
      const adapter = attach(model, config);
      expect([...(adapter.config["targetModules"] as string[])].sort()).toEqual(targets);
      expect(adapter.config["rankPattern"]).toEqual(rank_pattern);
      expect(adapter.config["alphaPattern"]).toEqual(alpha_pattern);
      expect([...adapter.layers.keys()].sort()).toEqual(Object.keys(layers).sort());
      for (const [path, want] of Object.entries(layers)) {
        const own = adapter.layers.get(path)!.adapters.get("default")!;
        expect(own.config["r"]).toBe(want.rank);
        expect(scalingOf(own)).toBeCloseTo(want.scaling, 6);
        const A = downloadSync(own.parameters["A"]!.stored);
        for (const [at, value] of want.A.entries()) expect(Math.abs(A[at]!)).toBeCloseTo(value, 2);
        expect(downloadSync(own.parameters["B"]!.stored).every((value) => value === 0)).toBe(true);
      }
    },
  );
});

test("incremental principal components of rows of low rank are the exact ones, whatever the batches", () => {
  const next = noise(4);
  const [left, right] = [filled(24, 3, next), filled(3, 7, (i, j) => (3 - i) * next() + Number(i === j))];
  const rows = filled(24, 7, (i, j) => {
    let sum = 0.5 * j;
    for (let k = 0; k < 3; k++) sum += left.values[i * 3 + k]! * right.values[k * 7 + j]!;
    return sum;
  });
  const mean = Array.from({ length: 7 }, (_, j) => {
    let sum = 0;
    for (let i = 0; i < 24; i++) sum += rows.values[i * 7 + j]! / 24;
    return sum;
  });
  const exact = svdMatrix({ ...rows, values: rows.values.map((value, at) => value - mean[at % 7]!) });
  const total = exact.S.reduce((sum, value) => sum + value * value, 0);
  for (const sizes of [[24], [8, 16], [6, 6, 12]]) {
    const pca = new IncrementalPca(3);
    let start = 0;
    for (const size of sizes) {
      pca.fit({ rows: size, columns: 7, values: rows.values.subarray(start * 7, (start + size) * 7) });
      start += size;
    }
    for (let i = 0; i < 3; i++) {
      expect(pca.singularValues[i]!).toBeCloseTo(exact.S[i]!, 9);
      expect(pca.explainedVarianceRatio[i]!).toBeCloseTo(exact.S[i]! ** 2 / total, 9);
      const cosine = Array.from({ length: 7 }, (_, j) => pca.components!.values[i * 7 + j]! * exact.Vt.values[i * 7 + j]!);
      expect(Math.abs(cosine.reduce((a, b) => a + b))).toBeCloseTo(1, 9);
    }
  }
});

const batch = { inputIds: ids([1, 2, 3, 4, 5, 6, 7, 8], [2, 4]) };
const small = () => {
  const model = new SmallModel();
  const take = (x: { inputIds: Tensor } | Tensor) => SmallModel.prototype.forward.call(model, "inputIds" in x ? x.inputIds : x);
  return Object.assign(model, { forward: take }) as unknown as SmallModel & { forward(x: typeof batch): Tensor };
};

test("a pass leaves the model as it was, with its modules and modes", () => {
  const model = small();
  model.train();
  const before = [...model.namedModules()].map(([path, module]) => [path, module, module.training]);
  calibrateCorda(model, lora({ r: 1, targetModules: ["q_proj"], initLoraWeights: "corda" }), [batch]);
  expect([...model.namedModules()].map(([path, module]) => [path, module, module.training])).toEqual(before);
  expect(() =>
    calibrateCorda(model, lora({ r: 1, targetModules: ["q_proj"], initLoraWeights: "corda" }), [
      {
        inputIds: ids([1], [1]),
        get attentionMask(): never {
          throw new Error("stop");
        },
      } as never,
      null as never,
    ]),
  ).toThrow();
  expect([...model.namedModules()].map(([path, module]) => [path, module, module.training])).toEqual(before);
});

test("covariances are of the layer without the adapters that are on it", () => {
  const model = small();
  const asked = lora({ r: 1, targetModules: ["layers.1.self_attn.q_proj"], initLoraWeights: "corda" });
  const plain = calibrateCorda(model, asked, [batch]).calibration!;
  attach(model, lora({ r: 2, targetModules: ["layers.0.self_attn.o_proj"], initLoraWeights: false }), { name: "other" });
  const adapted = calibrateCorda(model, asked, [batch]).calibration!;
  expect(adapted).toEqual(plain);
  setActive(model, "other");
  const path = "model.layers.1.self_attn.q_proj";
  const { rows, values } = plain.get(path)!;
  for (let i = 0; i < rows; i++) for (let j = 0; j < i; j++) expect(values[i * rows + j]!).toBeCloseTo(values[j * rows + i]!, 12);
});

test("say what is missing", () => {
  const model = small();
  const q = { r: 1, targetModules: ["q_proj"] };
  expect(() => calibrateCorda(model, lora(q), [batch])).toThrow('calibrateCorda: is for `initLoraWeights` "corda", not true.');
  expect(() => calibrateCorda(model, lora({ ...q, initLoraWeights: "corda" }), [])).toThrow("no data reached");
  expect(() => calibrateEva(model, lora({ ...q, initLoraWeights: "eva" }), [])).toThrow("calibrateEva: got no batches.");
  expect(() => calibrateEva(model, lora({ ...q, r: 6, initLoraWeights: "eva", evaConfig: { rho: 2 } }), [batch])).toThrow(
    "no batch has the 12 positions",
  );
  expect(() => calibrateLoraGa(model, lora({ ...q, initLoraWeights: "lora_ga" }), [])).toThrow(
    "calibrateLoraGa: got no batches.",
  );
  expect(() => calibrateLoraGa(model, lora({ ...q, initLoraWeights: "lora_ga" }), [batch])).toThrow("the model gives no loss");
  expect(() => attach(model, lora({ ...q, initLoraWeights: "corda" }))).toThrow(
    'attach: `initLoraWeights` "corda" depends on data, of which none was given. Use attach(model, calibrateCorda(model, lora({ … }), batches)).',
  );
  expect(() => lora({ initLoraWeights: "eva", evaConfig: { roh: 2 } })).toThrow(
    "lora: `evaConfig` has no key `roh`. Did you mean `rho`?",
  );
  expect(() => lora({ initLoraWeights: "eva", evaConfig: { rho: 0.5 } })).toThrow("evaConfig.rho");
  expect(() => lora({ initLoraWeights: "corda", cordaConfig: { corda_method: "kpn" } })).toThrow('one of "ipm", "kpm"');
});
