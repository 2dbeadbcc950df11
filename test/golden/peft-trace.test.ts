/** The cases of `peft/` that follow a training run of PEFT step by step. */
import { join } from "node:path";
import { expect } from "vitest";
import { download } from "../../src/compile/program.ts";
import { compile } from "../../src/compile/trace.ts";
import { readSafetensors } from "../../src/formats/safetensors.ts";
import { add } from "../../src/graph/elementwise.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { assignAll } from "../../src/graph/variable.ts";
import type { CausalLM } from "../../src/models/causal-lm.ts";
import { AdamW } from "../../src/optim/adam.ts";
import { gradientsOf } from "../../src/optim/optimizer.ts";
import {
  adalora,
  adapterPenalty,
  attach,
  beginSchedules,
  LoraFA,
  loadAdapter,
  lora,
  loraPlusGroups,
  riemannian,
  saveAdapter,
} from "../../src/peft/index.ts";
import { type AnyConfig, toCamel } from "../../src/peft/method-config.ts";
import { budgetAt } from "../../src/peft/schedules/rank-budget.ts";
import { temporaryFolder } from "../temporary-folder.ts";
import { fileParameters, loadBase, logitMask, logits, losses, peftCases, type Tensors } from "./peft-case.ts";
import { expectClose, expectValuesClose, goldenFolder, goldenSuite, goldenTensors, readGolden, toTensor } from "./suite.ts";

interface BudgetCase {
  readonly name: string;
  readonly base: string;
  readonly config: { readonly init_r: number; readonly target_r: number };
  readonly target_modules: readonly string[];
  readonly optimizer: {
    readonly lr: number;
    readonly betas: [number, number];
    readonly eps: number;
    readonly weight_decay: number;
  };
  readonly final_loss: number;
  readonly steps: readonly {
    readonly step: number;
    readonly loss: number;
    readonly budget: number;
    readonly masked: boolean;
    readonly keep?: Readonly<Record<string, readonly boolean[]>>;
  }[];
}

async function budgetTrace(item: BudgetCase): Promise<void> {
  const expected = await goldenTensors("peft", item.name, "expected.safetensors");
  const { model, inputs, mask } = await loadBase(item.base);
  const config = toCamel({ ...item.config, target_modules: item.target_modules, task_type: "CAUSAL_LM" });
  const adapter = attach(model, adalora(config as never));
  const parameters = fileParameters(adapter);
  const inFile = (name: string) => parameters.get(`base_model.model.${name}`)!;
  assignAll(tensorsUnder(expected, "init.").map(([name, value]) => [inFile(name), toTensor(value)]));
  const { lr, betas, eps, weight_decay: weightDecay } = item.optimizer;
  const trained = model.trainableParameters();
  const optimizer = new AdamW(trained, { lr, betas, eps, weightDecay });
  using schedules = beginSchedules(model);
  model.train();
  const step = compile(() => {
    const loss = add(model.forward(inputs).loss as Tensor, adapterPenalty(model) as Tensor);
    const gradients = gradientsOf(loss, trained);
    optimizer.step(gradients);
    schedules.observe(gradients);
    return loss;
  });
  const all = item.config.init_r * adapter.layers.size;
  for (const want of item.steps) {
    const [loss] = await download(step());
    expectValuesClose(`loss of step ${want.step}`, [loss!], [want.loss], losses);
    await schedules.advance(want.step);
    const budget = budgetAt(want.step, all, item.config.target_r * adapter.layers.size, adapter.config as never);
    expect(budget !== null, `choice in step ${want.step}`).toBe(want.masked);
    if (want.masked) {
      expect(budget).toBe(want.budget);
      expect(adapter.config["rankPattern"]).toEqual(want.keep);
    }
    for (const [name, value] of tensorsUnder(expected, `step${want.step}.`)) {
      const [, kind, of] = /^(?:exp_avg_(ipt|unc)\.)?(.*)$/.exec(name)!;
      const got = kind ? statisticOf(schedules.state().tensors, of!, kind) : inFile(name).stored;
      await expectClose(`step${want.step}.${name}`, got, value, { rtol: 1e-3, atol: 1e-5 });
    }
  }
  expect(step.traces).toBe(1);
  model.eval();
  const close = async (output: Tensor) => {
    const want = expected.get("logits")!;
    await expectClose("logits", output, want, { ...logits, rtol: 1e-3, mask: logitMask(mask, want) });
  };
  await close(model.forward(inputs).logits);

  const folder = temporaryFolder();
  await saveAdapter(model, folder);
  const [ours, theirs] = await Promise.all(
    [folder, join(goldenFolder, "peft", item.name, "adapter")].map((at) =>
      readSafetensors(join(at, "adapter_model.safetensors")),
    ),
  );
  expect(shapesOf(ours!.tensors)).toEqual(shapesOf(theirs!.tensors));
  for (const at of [folder, join(goldenFolder, "peft", item.name, "adapter")]) {
    const again = await loadBase(item.base);
    await loadAdapter(again.model, at);
    await close(again.model.forward(inputs).logits);
  }
}

const tensorsUnder = (all: Tensors, prefix: string) =>
  [...all].filter(([name]) => name.startsWith(prefix)).map(([name, value]) => [name.slice(prefix.length), value] as const);

const statisticOf = (kept: ReadonlyMap<string, Tensor>, name: string, kind: string): Tensor =>
  kept.get(`default.${name}.${kind === "ipt" ? "sensitivity" : "uncertainty"}`)!;

const shapesOf = (tensors: ReadonlyMap<string, { readonly shape: readonly number[] }>): AnyConfig =>
  Object.fromEntries([...tensors].map(([name, { shape }]) => [name, shape]).sort());

interface OptimizerCase {
  readonly name: string;
  readonly base: string;
  readonly r: number;
  readonly lora_alpha: number;
  readonly target_modules: readonly string[];
  readonly settings: {
    readonly lr: number;
    readonly betas: [number, number];
    readonly eps: number;
    readonly weight_decay?: number;
    readonly reg?: number;
    readonly loraplus_lr_ratio?: number;
    readonly loraplus_weight_decay?: number;
    readonly loraplus_lr_embedding?: number;
  };
  readonly groups: readonly { readonly lr: number; readonly weight_decay: number; readonly count: number }[];
  readonly losses: readonly number[];
}

/** One step from gradients, as the case's optimiser does it. */
function stepOf({ name, settings, groups }: OptimizerCase, model: CausalLM): (loss: Tensor) => void {
  const { lr, betas, eps, weight_decay: weightDecay = 0, reg } = settings;
  const { loraplus_lr_ratio: ratio, loraplus_weight_decay: decay, loraplus_lr_embedding: embeddingLr } = settings;
  if (ratio !== undefined) {
    const own = loraPlusGroups(model, { lr, ratio, weightDecay: decay!, embeddingLr: embeddingLr! });
    const counted = own.map((group) => ({ lr: group.lr, weight_decay: group.weightDecay, count: group.parameters.length }));
    const wanted = groups.filter(({ count }) => count > 0);
    expect(counted).toEqual(wanted.map((group) => ({ lr: group.lr, weight_decay: group.weight_decay, count: group.count })));
    const optimizer = new AdamW(own, { betas, eps });
    return (loss) => optimizer.step(gradientsOf(loss, model.trainableParameters()));
  }
  if (name.includes("lorafa")) {
    const optimizer = new LoraFA(model, { lr, betas, eps, weightDecay });
    return (loss) => optimizer.step(gradientsOf(loss, model.trainableParameters()));
  }
  const trained = model.trainableParameters();
  const optimizer = new AdamW(trained, { lr, betas, eps, weightDecay });
  return (loss) => optimizer.step(riemannian(model, gradientsOf(loss, trained), { reg: reg! }));
}

async function optimizerTrace(item: OptimizerCase): Promise<void> {
  const expected = await goldenTensors("peft", item.name, "expected.safetensors");
  const { model, inputs } = await loadBase(item.base);
  const config = { r: item.r, loraAlpha: item.lora_alpha, targetModules: item.target_modules, taskType: "CAUSAL_LM" } as const;
  const parameters = fileParameters(attach(model, lora(config)));
  assignAll(tensorsUnder(expected, "init.").map(([name, value]) => [parameters.get(name)!, toTensor(value)]));
  const update = stepOf(item, model);
  model.train();
  const step = compile(() => {
    const loss = model.forward(inputs).loss as Tensor;
    update(loss);
    return loss;
  });
  const got: number[] = [];
  while (got.length + 1 < item.losses.length) got.push(...(await download(step())));
  got.push(...(await download(model.eval().forward(inputs).loss as Tensor)));
  expect(step.traces).toBe(1);
  step.dispose();
  expectValuesClose("losses of five steps", got, item.losses, losses);
  for (const [name, value] of tensorsUnder(expected, "final."))
    await expectClose(name, parameters.get(name)!.stored, value, { rtol: 1e-3, atol: 1e-5 });
}

goldenSuite(
  "peft/trace",
  peftCases(
    ({ name, kind }) => {
      if (kind === "adalora_trace") return () => budgetTrace(readGolden<BudgetCase>("peft", name, "case.json")!);
      return () => optimizerTrace(readGolden<OptimizerCase>("peft", name, "case.json")!);
    },
    "adalora_trace",
    "optimizer_trace",
  ),
);
