/** VeLoRA's directions, QA-LoRA and MonteCLoRA on one layer, as PEFT's classes have them (lora-variants/make.py). */
import { describe, expect, it } from "vitest";
import "../../src/devices/choose.ts";
import { currentDevice, downloadSync, upload } from "../../src/compile/program.ts";
import { compile } from "../../src/compile/trace.ts";
import { memoryFolder } from "../../src/formats/writable-folder.ts";
import { add, mul } from "../../src/graph/elementwise.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { reduceSum } from "../../src/graph/reduction.ts";
import { Variable } from "../../src/graph/variable.ts";
import { zeros } from "../../src/nn/init.ts";
import { Linear } from "../../src/nn/linear.ts";
import type { Parameter } from "../../src/nn/module.ts";
import { gradientsOf } from "../../src/optim/optimizer.ts";
import {
  type Adapter,
  adapterPenalty,
  attach,
  beginSchedules,
  loadAdapter,
  lora,
  merge,
  monteclora,
  qalora,
  saveAdapter,
  velora,
} from "../../src/peft/index.ts";
import { divergence, sampleOf } from "../../src/peft/methods/monteclora.ts";
import { times } from "../../src/peft/weight-change.ts";
import { sum } from "../../src/tensor/statistics.ts";
import { Holder, layerAdapters } from "../arbitrary/adapter.ts";
import { fileParameters } from "../golden/peft-case.ts";
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
  it.each(Object.entries(expected.qalora).filter(([g]) => g !== "1"))(
    "computes and learns as PEFT does with groups of %s, and can be merged",
    (g, want) => {
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
    },
  );

  it.each([1, 5])(
    "is plain LoRA where the file's A has as many inputs as the layer, as PEFT writes it; groups of %i",
    async (size) => {
      const [from, model, folder] = [holder(), holder(), memoryFolder()];
      attach(from, lora({ ...options, initLoraWeights: false }));
      await saveAdapter(from, folder);
      const name = "adapter_config.json";
      const config = JSON.parse(new TextDecoder().decode(folder.contents.get(name)));
      await folder.write(new Map([[name, JSON.stringify({ ...config, use_qalora: true, qalora_group_size: size })]]));
      await loadAdapter(model, folder);
      const values = (of: typeof model) => downloadSync(of.forward(batch(0)));
      expect(values(model)).toEqual(values(from));
      const again = memoryFolder();
      await saveAdapter(model, again);
      const tensors = "adapter_model.safetensors";
      expect(again.contents.get(tensors)).toEqual(folder.contents.get(tensors));
      merge(model);
      close("y of merged weights", model.forward(batch(0)), [...values(from)]);
    },
  );

  it("wants inputs in whole groups, and plain starts", () => {
    expect(() => attach(holder(), qalora({ ...options, qaloraGroupSize: 5 }))).toThrow(
      "has 12 inputs, no multiple of `qaloraGroupSize` (= 5)",
    );
    expect(() => qalora({ ...options, initLoraWeights: "pissa" })).toThrow("`useQalora` does not go with `initLoraWeights`");
    expect(lora({ ...options, useQalora: true }).method).toBe(qalora);
    expect(() => lora({ ...options, useQalora: true, useDora: true })).toThrow("two forms of LORA");
  });
});

describe("MonteCLoRA", () => {
  const want = expected.monteclora;
  const N = want.weights.length;
  const [d, a] = [() => put(want.std, [r]), () => put(want.weights, [N])];
  const montecloraConfig = { num_samples: N, use_entropy: true, dirichlet_prior: 0.3, sample_scaler: 0.2, kl_loss_weight: 0.01 };
  const begin = () => {
    const model = holder();
    const adapter = attach(model, monteclora({ ...options, montecloraConfig }));
    const parameters = own(adapter);
    parameters["A"]!.assign(put(expected.A, [r, into]));
    parameters["B"]!.assign(put(expected.B, [out, r]));
    parameters["d"]!.assign(d());
    parameters["a"]!.assign(a());
    return { model, adapter, parameters };
  };

  it("makes PEFT's sample of the same draws, with its divergence and derivatives", () => {
    const [std, weights] = [new Variable(d()), new Variable(a())];
    const draws = {
      mvn: put(want.z_mvn, [N, into, r]),
      dirichlet: put(want.z_dirichlet, [N]),
      wishart: put(want.z, [r, r]),
    };
    const { variance, shares, noise } = sampleOf(draws, std.value, weights.value, 0.2);
    close("variance", variance, want.variance);
    close("shares", shares, want.shares);
    close("noise", noise, want.noise);
    const kl = times(divergence(std.value, weights.value, variance, 0.3), 0.01);
    close("divergence", kl, [want.kl]);
    const loss = add(add(kl, sum(mul(shares, shares))), sum(mul(noise, noise)));
    const gradients = gradientsOf(loss, [std, weights]);
    close("derivative of the deviations", gradients.get(std)!, want.dStd);
    close("derivative of the shares", gradients.get(weights)!, want.dWeights);
  });

  it.each([false, true])("draws in training, and has a penalty of what it drew (compiled: %s)", (compiled) => {
    const { model, parameters } = begin();
    const plain = downloadSync(model.forward(batch(0)));
    expect(downloadSync(model.forward(batch(0)))).toEqual(plain);
    model.train();
    const step = () => {
      const y = model.forward(batch(0));
      const penalty = adapterPenalty(model)!;
      return [y, penalty, gradientsOf(penalty, [parameters["d"]!]).get(parameters["d"]!)!] as const;
    };
    const run = compiled ? compile(step) : step;
    const [y, penalty, slope] = run().map((x) => Array.from(downloadSync(x)));
    expect(y).not.toEqual(Array.from(plain));
    // what was drawn is kept, for the file
    const kept = (name: string) => parameters[name]!.stored;
    const variance = put(
      [0, 1, 2].map((i) => downloadSync(kept("variance"))[i * (r + 1)]!),
      [r],
    );
    const shares = downloadSync(kept("shares")) as Float32Array;
    const far = downloadSync(divergence(d(), a(), variance, 0.3))[0]!;
    expect(penalty![0]).toBeCloseTo(0.01 * far + shares.reduce((total, share) => total + share * share, 0), 4);
    // r(e^2d − 1) of the Wishart distribution, and N(v − 1) of the normal one, which the sample leads back to d
    const values = downloadSync(variance);
    for (const [i, deviation] of want.std.entries())
      expect(slope![i]).toBeCloseTo(0.01 * (r * (Math.exp(2 * deviation) - 1) + N * (values[i]! - 1)), 3);
    const [other] = run().map((x) => Array.from(downloadSync(x)));
    expect(other).not.toEqual(y);
    model.eval();
    expect(downloadSync(model.forward(batch(0)))).toEqual(plain);
  });

  it("has the names and shapes of PEFT's file", () => {
    const { adapter } = begin();
    const names = [...fileParameters(adapter).keys()].sort();
    expect(names).toEqual(want.keys.map((key) => key.replace(".default", "")).sort());
    expect(own(adapter)["variance"]!.shape).toEqual([r, r]);
    expect(adapterPenalty(begin().model, { optional: false })).toBeNull();
    expect(() => monteclora({ montecloraConfig: { dirichlet_prior: 0 } })).toThrow("must be above 0");
    expect(() => monteclora({ montecloraConfig: { samples: 3 } })).toThrow("no key `samples`");
  });
});
