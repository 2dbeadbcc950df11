/** What KaSA adds to the loss. */
import { beforeAll, describe, expect, it } from "vitest";
import { currentDevice, downloadSync, upload, useDevice } from "../../src/compile/program.ts";
import { createReference } from "../../src/devices/reference/device.ts";
import { Linear } from "../../src/nn/linear.ts";
import { Module } from "../../src/nn/module.ts";
import { adapterPenalty, attach, kasa } from "../../src/peft/index.ts";

beforeAll(() => void useDevice(createReference()));

class Holder extends Module {
  first = new Linear(3, 4);
  second = new Linear(3, 4);
}

describe("KaSA's penalty", () => {
  const make = () => {
    const model = new Holder();
    attach(model, kasa({ r: 2, targetModules: ["first"], kasaConfig: { beta: 0.5, gamma: 0.25 } }));
    const parameters = new Map(model.namedParameters());
    const put = (name: string, values: number[]) => {
      const parameter = parameters.get(`first.lora_${name}`)!;
      parameter.assign(upload(currentDevice(), Float32Array.from(values), parameter.shape, "float32"));
    };
    put("A.default.weight", [1, 0, 0, 0, 2, 0]); // A·Aᵀ = diag(1, 4)
    put("B.default.weight", [1, 0, 0, 1, 0, 1, 0, 1]); // Bᵀ·B = diag(1, 3)
    put("diag.default", [2, -1]);
    return model;
  };
  it("is β·Σd² + γ·(‖BᵀB − I‖ + ‖AAᵀ − I‖)", () => {
    expect(downloadSync(adapterPenalty(make())!)[0]).toBeCloseTo(0.5 * 5 + 0.25 * (2 + 3), 5);
  });
  it("can be left out, as PEFT does", () => expect(adapterPenalty(make(), { optional: false })).toBeNull());
});
