/** The cases of `peft/` about how adapters start, and how what was taken out of the weights is put back when they are saved. */
import { join } from "node:path";
import { expect } from "vitest";
import { downloadSync } from "../../src/compile/program.ts";
import { readSafetensors } from "../../src/formats/safetensors.ts";
import { matmul } from "../../src/graph/contraction.ts";
import { mul } from "../../src/graph/elementwise.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { AdamW } from "../../src/optim/index.ts";
import { gradientsOf } from "../../src/optim/optimizer.ts";
import {
  type AdapterConfig,
  attach,
  baseStateDict,
  calibrateCorda,
  calibrateEva,
  calibrateLoraGa,
  dora,
  kasa,
  loadAdapter,
  lora,
  saveAdapter,
} from "../../src/peft/index.ts";
import { initialisers } from "../../src/peft/initialiser.ts";
import type { AnyConfig } from "../../src/peft/method-config.ts";
import { scalingOf } from "../../src/peft/methods/lora.ts";
import { at } from "../../src/tensor/index-expression.ts";
import { scalarLike } from "../../src/tensor/math.ts";
import { temporaryFolder } from "../temporary-folder.ts";
import { gradients, loadBase, logitMask, logits, losses, type PeftCase, peftCases } from "./peft-case.ts";
import { expectClose, expectValuesClose, goldenFolder, goldenSuite, goldenTensors } from "./suite.ts";

type InitCase = PeftCase & {
  readonly r: number;
  readonly lora_alpha: number;
  readonly target_modules: readonly string[];
  readonly init_lora_weights: string;
  readonly ranks: Readonly<Record<string, number>>;
  readonly scaling: Readonly<Record<string, number>>;
};

/** Names of cases whose initialiser is the option `initLoraWeights`, and what else their config has. */
const about = ({
  name,
}: PeftCase): {
  readonly init: string | true;
  readonly options: AnyConfig;
  readonly method?: typeof dora | typeof kasa;
} | null => {
  const tag = name.replace(/^init_/, "");
  if (tag === "dora_magnitude") return { init: true, options: {}, method: dora };
  if (tag === "kasa") return { init: true, options: { kasaConfig: {} }, method: kasa };
  const [, corda] = /^corda_(.pm)$/.exec(tag) ?? [];
  if (corda) return { init: "corda", options: { cordaConfig: { corda_method: corda } } };
  if (tag === "eva") return { init: tag, options: { evaConfig: { rho: 1, use_label_mask: false } } };
  return Object.hasOwn(initialisers, tag) ? { init: tag, options: {} } : null;
};

/** s·B·A with the sign of each of its r terms, which are orthogonal to each other, as in `want`. */
function termsLike(want: ArrayLike<number>, A: ArrayLike<number>, B: ArrayLike<number>, r: number, s: number): Float64Array {
  const [rows, columns] = [B.length / r, A.length / r];
  const sum = new Float64Array(rows * columns);
  for (let i = 0; i < r; i++) {
    const term = sum.map((_, at) => s * B[Math.floor(at / columns) * r + i]! * A[i * columns + (at % columns)]!);
    const sign = term.reduce((dot, value, at) => dot + value * want[at]!, 0) < 0 ? -1 : 1;
    term.forEach((value, at) => {
      sum[at] = sum[at]! + sign * value;
    });
  }
  return sum;
}

async function start(item: InitCase): Promise<void> {
  const { init, options, method: of = lora } = about(item)!;
  const expected = await goldenTensors("peft", item.name, "expected.safetensors");
  const { model, inputs, mask } = await loadBase(item.base);
  const { r, lora_alpha: loraAlpha, target_modules: targetModules } = item;
  let config = of({ ...options, r, loraAlpha, targetModules, initLoraWeights: init }) as AdapterConfig;
  const before = new Map([...baseStateDict(model)].map(([path, value]) => [path, downloadSync(value)]));
  const wanted = (path: string, what: string) => expected.get(`${path}.${what}`)!;
  const same = (what: string, closeness: typeof gradients) => {
    for (const path of Object.keys(item.ranks))
      expectValuesClose(`${what} of ${path}`, config.calibration!.get(path)!.values, wanted(path, what).data, closeness);
  };
  if (init === "corda") {
    const row = (x: Tensor) => at(x, { start: 0, stop: 1 });
    const { attentionMask } = inputs;
    config = calibrateCorda(model, config, [
      { inputIds: row(inputs.inputIds!), ...(attentionMask && { attentionMask: row(attentionMask) }) },
    ]);
    same("covariance", { rtol: 1e-4, atol: 1e-5 });
  } else if (init === "eva") config = calibrateEva(model, config, new Array(6).fill(inputs));
  else if (init === "lora_ga") {
    config = calibrateLoraGa(model, config, [inputs]);
    same("gradient", gradients);
  }
  const adapter = attach(model, config);
  const state = baseStateDict(model);
  for (const [path, rank] of Object.entries(item.ranks)) {
    const own = adapter.layers.get(path)!.adapters.get("default")!;
    const { A, B } = own.parameters as Record<string, { stored: Parameters<typeof downloadSync>[0] }>;
    expect(A!.stored.shape[0], `rank of ${path}`).toBe(rank);
    expect(scalingOf(own)).toBeCloseTo(item.scaling[path]!, 5);
    // CorDA inverts a covariance of condition 1e3 in float32: PEFT's own delta is 1e-4 away from the one of float64
    const close = { rtol: 1e-3, atol: init === "corda" ? 3e-4 : 1e-5 };
    const BA = matmul(B!.stored, A!.stored);
    const delta = downloadSync(mul(BA, scalarLike(BA, item.scaling[path]!)));
    const weight = downloadSync(state.get(`${path}.weight`)!);
    const original = before.get(`${path}.weight`)!;
    if (of !== kasa)
      expectValuesClose(
        `whole ${path}`,
        weight.map((value, at) => value + delta[at]!),
        original,
        close,
      );
    if (init === "lora_ga") {
      // A and B hold different singular vectors, each of which the reference may have with another sign: so may each term of B·A be
      const found = termsLike(
        wanted(path, "delta").data,
        downloadSync(A!.stored),
        downloadSync(B!.stored),
        rank,
        item.scaling[path]!,
      );
      expectValuesClose(`change of ${path}`, found, wanted(path, "delta").data, close);
      const left = original.map((value, at) => value - found[at]!);
      expectValuesClose(`weight of ${path}`, left, wanted(path, "base_weight").data, close);
    } else {
      expectValuesClose(`change of ${path}`, delta, wanted(path, "delta").data, close);
      expectValuesClose(`weight of ${path}`, weight, wanted(path, "base_weight").data, close);
    }
    if (of === dora)
      await expectClose(`magnitude of ${path}`, own.parameters["magnitude"]!.stored, wanted(path, "magnitude"), close);
    if (init === "eva" || init === "mica") {
      // one factor is zero: the other spans what the reference's does, up to signs
      const [factor, key] = init === "eva" ? [A!, "lora_A"] : [B!, "lora_B"];
      const reference = wanted(path, key);
      const signless = (values: ArrayLike<number>) => Float32Array.from(values, Math.abs);
      expectValuesClose(`${key} of ${path}`, signless(downloadSync(factor.stored)), signless(reference.data), {
        rtol: 1e-2,
        atol: 1e-3,
      });
    }
    if (init === "orthogonal") {
      const A0 = downloadSync(A!.stored);
      expect(A0.some((value) => Math.abs(value) > 1e-3)).toBe(true);
    }
  }
  for (const [path, value] of before)
    if (!Object.keys(item.ranks).some((layer) => path === `${layer}.weight`))
      expect(downloadSync(state.get(path)!)).toEqual(value);
  const want = expected.get("logits")!;
  await expectClose("logits", model.forward(inputs).logits, want, { ...logits, mask: logitMask(mask, want) });
}

async function convert(item: PeftCase): Promise<void> {
  const expected = await goldenTensors("peft", item.name, "expected.safetensors");
  const folder = (part: string) => join(goldenFolder, "peft", item.name, part);
  const { model, inputs, mask } = await loadBase(item.base);
  const {
    lr,
    betas,
    eps,
    weight_decay: weightDecay,
    losses: wantedLosses,
    steps,
  } = item.train! as PeftCase["train"] & { steps: number };
  attach(
    model,
    lora({ r: 4, loraAlpha: 4, targetModules: ["q_proj", "v_proj"], initLoraWeights: "pissa", taskType: "CAUSAL_LM" }),
  );
  const parameters = model.trainableParameters();
  const optimizer = new AdamW(parameters, { lr, betas, eps, weightDecay });
  const found: number[] = [];
  for (let step = 0; step <= steps; step++) {
    const loss = model.forward(inputs).loss!;
    found.push(downloadSync(loss)[0]!);
    if (step < steps) optimizer.step(gradientsOf(loss, parameters));
  }
  expectValuesClose("losses", found, wantedLosses, losses);
  const want = expected.get("logits")!;
  const close = { ...logits, mask: logitMask(mask, want) };
  // weights move by up to the learning rate in a step of Adam, wherever a gradient is not certain
  await expectClose("logits", model.forward(inputs).logits, want, { ...close, atol: 1e-3, rtol: 1e-3 });

  const out = temporaryFolder();
  await saveAdapter(model, out, { plainLora: true });
  const [ours, theirs] = await Promise.all(
    [out, folder("adapter")].map((path) => readSafetensors(join(path, "adapter_model.safetensors"))),
  );
  expect([...ours!.tensors.keys()].sort()).toEqual([...theirs!.tensors.keys()].sort());
  for (const [name, tensor] of theirs!.tensors) expect(ours!.tensors.get(name)!.shape).toEqual(tensor.shape);
  const plain = await loadBase(item.base);
  await loadAdapter(plain.model, out);
  await expectClose("logits of ours, converted", plain.model.forward(inputs).logits, want, {
    ...close,
    atol: 1e-3,
    rtol: 1e-3,
  });
  const reference = await loadBase(item.base);
  const adapter = await loadAdapter(reference.model, folder("adapter"));
  await expectClose("logits of theirs", reference.model.forward(inputs).logits, expected.get("logits_converted")!, close);
  expect(adapter.config["r"]).toBe(8);
}

goldenSuite(
  "peft/initial",
  peftCases(
    (item, kind) => {
      if (kind === "init_convert") return () => convert(item);
      return about(item) ? () => start(item as InitCase) : undefined;
    },
    "init",
    "init_convert",
  ),
);
