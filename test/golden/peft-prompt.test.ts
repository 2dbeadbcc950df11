/** The cases of `peft/` with virtual tokens: files that PEFT wrote, and the live modules that made them. */
import { join } from "node:path";
import { expect } from "vitest";
import { download, realize } from "../../src/compile/program.ts";
import { compile } from "../../src/compile/trace.ts";
import { readSafetensors } from "../../src/formats/safetensors.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { constant } from "../../src/graph/source.ts";
import { assignAll } from "../../src/graph/variable.ts";
import type { CausalLM, CausalLMInputs } from "../../src/models/causal-lm.ts";
import { AdamW } from "../../src/optim/adam.ts";
import { gradientsOf } from "../../src/optim/optimizer.ts";
import { attach, baseStateDict, detach, disabled, loadAdapter, merge, saveAdapter } from "../../src/peft/index.ts";
import type { AnyMethod } from "../../src/peft/method.ts";
import { toCamel } from "../../src/peft/method-config.ts";
import { methods } from "../../src/peft/method-registry.ts";
import { temporaryFolder } from "../temporary-folder.ts";
import {
  type Golden,
  gradients,
  implemented,
  inputsFrom,
  loadBase,
  logitMask,
  logits,
  losses,
  type PeftCase,
  peftCases,
} from "./peft-case.ts";
import { expectClose, expectValuesClose, goldenFolder, goldenSuite, goldenTensors, readGolden, toTensor } from "./suite.ts";

async function promptCase(item: PeftCase): Promise<void> {
  const folder = join(goldenFolder, "peft", item.name, "adapter");
  const expected = await goldenTensors("peft", item.name, "expected.safetensors");
  const base = await loadBase(item.base);
  const taskIds = expected.get("in.task_ids");
  const given = expected.has("in.input_ids") ? inputsFrom(expected, "in.") : base.inputs;
  const inputs = { ...given, ...(taskIds && { taskIds: toTensor(taskIds) }) };
  const mask = expected.get("in.attention_mask") ?? base.mask;
  const close = async (what: string, got: Tensor) => {
    const want = expected.get(what)!;
    await expectClose(what, got, want, { ...logits, mask: logitMask(withTokens(mask, want.shape[1]!), want) });
  };

  // the file, which holds what the virtual tokens come to
  const { model } = base;
  const before = [...baseStateDict(model).keys()];
  const adapter = await loadAdapter(model, folder);
  expect(adapter.warnings).toEqual([]);
  expect([...baseStateDict(model).keys()]).toEqual(before);
  await close("logits", model.forward(inputs).logits);
  if (expected.has("logits_disabled")) await close("logits_disabled", disabled(model, () => model.forward(inputs)).logits);
  expect(() => merge(model)).toThrow("is not a change of the weight");
  expect(model.trainableParameters()).toEqual([]);

  // the module that is trained. What is kept of it are its values after the five steps, and where a network makes the virtual tokens, no others
  const live = await loadBase(item.base);
  const { peft_type: _, ...config } = readGolden<Record<string, unknown>>("peft", item.name, "adapter", "adapter_config.json")!;
  const method = (Object.values(methods) as AnyMethod[]).find(({ peftType }) => peftType === item.peft_type)!;
  const { config: filled } = attach(live.model, method({ ...toCamel(config), peftVersion: null, inferenceMode: false }) as never);
  const parameters = new Map(live.model.namedParameters());
  const named = (prefix: string) =>
    [...expected].flatMap(([key, value]) =>
      key.startsWith(prefix)
        ? [[parameters.get(key.slice(prefix.length).replace(/^base_model\./, ""))!, key, value] as const]
        : [],
    );
  const trained = live.model.trainableParameters();
  expect(trained.reduce((sum, { size }) => sum + size, 0)).toBe(item.trainable_count);
  expect(new Set(named("encoder.").map(([parameter]) => parameter))).toEqual(new Set(trained));
  const wanted = item.train!.losses;
  if (method.prompt!.encoder?.(filled) && !method.prompt!.decode) {
    assignAll(named("encoder.").map(([parameter, , value]) => [parameter, toTensor(value)]));
    await expectClose(
      "loss of the network",
      live.model.forward(inputs).loss!,
      { shape: [1], data: Float32Array.of(wanted.at(-1)!) },
      losses,
    );
  } else {
    detach(live.model);
    await loadAdapter(live.model, folder, { trainable: true });
    for (const [path, parameter] of live.model.namedParameters()) parameters.set(path, parameter);
    const own = live.model.trainableParameters();
    const { loss } = live.model.forward(inputs);
    const found = gradientsOf(loss!, own);
    realize([loss!, ...found.values()]);
    await expectClose("loss", loss!, expected.get("loss")!, logits);
    for (const [parameter, key, want] of named("grad."))
      await expectClose(key, found.get(parameter) ?? constant(0, parameter.shape), want, closeness(item, want));
    const compared = async () => {
      for (const [parameter, key, want] of named("encoder."))
        await expectClose(key, parameter.stored, want, { rtol: 1e-3, atol: 1e-4 });
    };
    // PEFT's CPT gives its parameter another tensor in every pass, so that the one that was noted is still as it began
    if (item.peft_type === "CPT") await compared();
    expectValuesClose("losses of five steps", await fiveSteps(live.model, inputs, item), wanted, losses);
    if (item.peft_type !== "CPT") await compared();
  }

  const own = temporaryFolder();
  const now = await download(live.model.forward(inputs).logits);
  await saveAdapter(live.model, own);
  const names = async (at: string) => [...(await readSafetensors(join(at, "adapter_model.safetensors"))).tensors.keys()].sort();
  expect(await names(own)).toEqual(await names(folder));
  detach(live.model);
  expect([...live.model.namedParameters()].map(([path]) => path)).toEqual(before);
  await loadAdapter(live.model, own);
  expectValuesClose("logits after saving and loading", await download(live.model.forward(inputs).logits), now, logits);
}

/** Losses before each of five steps, and after the last. */
async function fiveSteps(model: CausalLM, inputs: CausalLMInputs, item: PeftCase): Promise<number[]> {
  const { lr, betas, eps, weight_decay: weightDecay, losses: want } = item.train!;
  const trained = model.trainableParameters();
  const optimizer = new AdamW(trained, { lr, betas, eps, weightDecay });
  model.train();
  const step = compile(() => {
    const { loss } = model.forward(inputs);
    optimizer.step(gradientsOf(loss!, trained));
    return loss!;
  });
  const got: number[] = [];
  while (got.length + 1 < want.length) got.push(...(await download(step())));
  got.push(...(await download(model.eval().forward(inputs).loss!)));
  step.dispose();
  return got;
}

/**
 * How close a gradient has to be. T5's attention is not scaled, so that float32 determines small values among larger ones no better than
 * to a thousandth of those: PyTorch's own differ by as much from what it gives in float64.
 */
function closeness({ base }: PeftCase, want: Golden): typeof gradients {
  const largest = Math.max(...Array.from(want.data as ArrayLike<number>, Math.abs));
  return base.endsWith("/t5") ? { ...gradients, atol: Math.max(gradients.atol, gradients.rtol * largest) } : gradients;
}

/** A mask with ones in front, as long as the logits. */
function withTokens(mask: Awaited<ReturnType<typeof loadBase>>["mask"], length: number): typeof mask {
  if (!mask || mask.shape[1]! >= length) return mask;
  const [B, T] = mask.shape as [number, number];
  const data = Int32Array.from({ length: B * length }, (_, i) => {
    const t = (i % length) - (length - T);
    return t < 0 ? 1 : mask.data[Math.floor(i / length) * T + t]!;
  });
  return { shape: [B, length], data };
}

goldenSuite(
  "peft/prompt",
  peftCases((item, _, base) => (implemented(base, item.name, "adapter") ? () => promptCase(item) : undefined), "prompt"),
);
