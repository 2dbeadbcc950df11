/** VeLoRA's directions and QA-LoRA on one layer, as PEFT's classes have them (lora-variants/make.py). */
import { describe, expect, it } from "vitest";
import "../../src/devices/choose.ts";
import { currentDevice, downloadSync, upload } from "../../src/compile/program.ts";
import { compile } from "../../src/compile/trace.ts";
import { mul } from "../../src/graph/elementwise.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { reduceSum } from "../../src/graph/reduction.ts";
import { zeros } from "../../src/nn/init.ts";
import { Linear } from "../../src/nn/linear.ts";
import type { Parameter } from "../../src/nn/module.ts";
import { gradientsOf } from "../../src/optim/optimizer.ts";
import { type Adapter, attach, beginSchedules, lora, merge, qalora, velora } from "../../src/peft/index.ts";
import { Holder, layerAdapters } from "../arbitrary/adapter.ts";
import { expectValuesClose } from "../golden/suite.ts";
import expected from "./lora-variants/expected.json" with { type: "json" };

const [into, out, r] = [12, 7, 3];
const put = (values: readonly number[], shape: readonly number[]) =>
  upload(currentDevice(), Float32Array.from(values), shape, "float32");
const close = (what: string, got: Tensor, want: readonly number[]) =>
  expectValuesClose(what, downloadSync(got), want, { rtol: 1e-4, atol: 1e-5 });
const batch = (i: number) => put(expected.batches[i]!, [2, 3, into]);
const own = (adapter: Adapter) => layerAdapters(adapter)[0]!.parameters as Record<string, Parameter>;
const options = { r, loraAlpha: 5, targetModules: ["layer"] };

function holder(): Holder {
  const layer = new Linear(into, out, { init: zeros });
  layer.weight.assign(put(expected.weight, [out, into]));
  layer.bias!.assign(put(expected.bias, [out]));
  return new Holder(layer);
}
/** y, and the derivatives of Σy² by A and B. */
function learn(model: Holder, { A, B }: Record<string, Parameter>, x: Tensor) {
  const y = model.forward(x);
  const gradients = gradientsOf(reduceSum(mul(y, y), [0, 1, 2]), [A!, B!]);
  return { y, A: gradients.get(A!)!, B: gradients.get(B!)! };
}

describe("VeLoRA", () => {
  const begin = (init_type: string) => {
    const model = holder();
    const adapter = attach(model, velora({ ...options, veloraConfig: { num_groups: 5, scale: 1.5, init_type } }));
    own(adapter)["A"]!.assign(put(expected.A, [r, into]));
    own(adapter)["B"]!.assign(put(expected.B, [out, r]));
    model.train();
    return { model, parameters: own(adapter) };
  };

  describe.each(["batch_average", "batch_average_once"] as const)("with %s", (init) => {
    it("has PEFT's derivatives and keeps its directions, batch after batch", () => {
      const { model, parameters } = begin(init);
      for (const [i, want] of expected.velora[init].entries()) {
        const { y, A } = learn(model, parameters, batch(i));
        close("y", y, want.y);
        close("derivative of A", A, want.A);
        close("direction", parameters["direction"]!.stored, want.direction);
      }
    });

    it("does so in a compiled step", () => {
      const { model, parameters } = begin(init);
      const step = compile((x: Tensor) => learn(model, parameters, x).A);
      for (const [i, want] of expected.velora[init].entries()) close("derivative of A", step(batch(i)), want.A);
      expect(step.traces).toBe(1);
      step.dispose();
    });
  });

  it("keeps its directions in checkpoints, when they are those of the first batch", () => {
    const { model, parameters } = begin("batch_average_once");
    learn(model, parameters, batch(0)).A;
    using schedules = beginSchedules(model);
    const { tensors, data } = schedules.state();
    const resumed = begin("batch_average_once");
    using others = beginSchedules(resumed.model);
    others.restoring(tensors, data)(1);
    const [, want] = expected.velora.batch_average_once;
    close("derivative of A", learn(resumed.model, resumed.parameters, batch(1)).A, want!.A);
    expect(beginSchedules(begin("batch_average").model).state().tensors.size).toBe(0);
  });
});

describe("QA-LoRA", () => {
  it.each(Object.entries(expected.qalora))("computes and learns as PEFT does with groups of %s, and can be merged", (g, want) => {
    const model = holder();
    const adapter = attach(model, qalora({ ...options, qaloraGroupSize: Number(g) }));
    const parameters = own(adapter);
    parameters["A"]!.assign(put(want.A, [r, into / Number(g)]));
    parameters["B"]!.assign(put(expected.B, [out, r]));
    const { y, A, B } = learn(model, parameters, batch(0));
    close("y", y, want.y);
    close("derivative of A", A, want.dA);
    close("derivative of B", B, want.dB);
    merge(model);
    close("y of merged weights", model.forward(batch(0)), want.y);
  });

  it("wants inputs in whole groups, and plain starts", () => {
    expect(() => attach(holder(), qalora({ ...options, qaloraGroupSize: 5 }))).toThrow(
      "has 12 inputs, no multiple of `qaloraGroupSize` (= 5)",
    );
    expect(() => qalora({ ...options, initLoraWeights: "pissa" })).toThrow("`useQalora` does not go with `initLoraWeights`");
    expect(lora({ ...options, useQalora: true }).method).toBe(qalora);
    expect(() => lora({ ...options, useQalora: true, useDora: true })).toThrow("two forms of LORA");
  });
});
