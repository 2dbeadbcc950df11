/** The cases of `peft/` with one adapter: files that PEFT wrote, and what PEFT computes with them. */
import { join } from "node:path";
import { expect } from "vitest";
import { download, realize } from "../../src/compile/program.ts";
import { compile } from "../../src/compile/trace.ts";
import { add } from "../../src/graph/elementwise.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { constant } from "../../src/graph/source.ts";
import type { Variable } from "../../src/graph/variable.ts";
import type { CausalLM } from "../../src/models/causal-lm.ts";
import { AdamW } from "../../src/optim/adam.ts";
import { gradientsOf } from "../../src/optim/optimizer.ts";
import { baseModules } from "../../src/peft/adapted-model.ts";
import { type Adapter, baseStateDict, disabled, loadAdapter, merge, unmerge } from "../../src/peft/index.ts";
import { toCamel } from "../../src/peft/method-config.ts";
import { adapterPenalty } from "../../src/peft/penalty.ts";
import {
  fileParameters,
  gradients,
  implemented,
  inputsFrom,
  loadBase,
  logitMask,
  logits,
  losses,
  type PeftCase,
  peftCases,
  statePaths,
} from "./peft-case.ts";
import { expectClose, expectValuesClose, goldenFolder, goldenSuite, goldenTensors, readGolden, toTensor } from "./suite.ts";

/** Where PEFT's derivative is none: torch.autograd.gradcheck fails. Ours is held to the law of derivatives, not to PEFT's. */
const wrongDerivatives: Readonly<Record<string, { readonly keys: RegExp; readonly why: string }>> = {
  C3A: {
    keys: /./,
    why: "BlockCircularConvolution.backward correlates the kernel with the gradient of the output, where it should convolve",
  },
  LOHA: {
    keys: /c\d\.hada_w[12]_a$/,
    why: "HadaWeightCP.backward takes the other factor's core for the gradients of both w_a",
  },
};

const readConfig = (name: string) => toCamel(readGolden<object>("peft", name, "adapter", "adapter_config.json")!);
/** 0 … T − 1 in every row. */
const countedOn = ({ shape }: Tensor): Tensor => {
  const [B, T] = shape as [number, number];
  return toTensor({ shape: [B, T], data: Int32Array.from({ length: B * T }, (_, i) => i % T) });
};

async function adapterCase(item: PeftCase): Promise<void> {
  const folder = join(goldenFolder, "peft", item.name, "adapter");
  const expected = await goldenTensors("peft", item.name, "expected.safetensors");
  const own = await loadBase(item.base);
  const given = expected.has("in.input_ids") ? inputsFrom(expected, "in.") : own.inputs;
  // VeLoRA's direction and Lily's mixture are means over padding, too, whose states depend on positions; transformers counts them on behind the text
  const { veloraConfig } = readConfig(item.name);
  const inputs =
    veloraConfig || item.peft_type === "LILY" ? { ...given, positionIds: countedOn(given.inputIds as Tensor) } : given;
  const maskOf = expected.get("in.attention_mask") ?? own.mask;
  const close = async (what: string, got: Tensor, want = expected.get(what)!) =>
    expectClose(what, got, want, { ...logits, mask: logitMask(maskOf, want) });
  const { model } = own;
  const before = baseStateDict(model);
  const paths = statePaths(model);

  const adapter = await loadAdapter(model, folder, { trainable: item.trainable !== undefined });
  const loaded = baseStateDict(model);
  expect(adapter.warnings).toEqual(idleTargets(adapter, [...baseModules(model).keys()]));
  const lossOf = (loss: Tensor) => {
    const penalty = adapterPenalty(model, { optional: false });
    return penalty ? add(loss, penalty) : loss;
  };
  const output = model.forward(inputs);
  const loss = output.loss && lossOf(output.loss);
  const parameters = fileParameters(adapter);
  const found = item.trainable ? gradientsOf(loss!, [...parameters.values()]) : new Map<Variable, Tensor>();
  realize([output.logits, ...(loss ? [loss] : []), ...found.values()]);
  await close("logits", output.logits);
  if (expected.has("loss")) await expectClose("loss", loss!, expected.get("loss")!, logits);
  if (expected.has("logits_disabled")) {
    const without = disabled(model, () => model.forward(inputs));
    await close("logits_disabled", without.logits);
  }

  if (expected.has("gen.prompt")) {
    const { data, shape } = expected.get("gen.output")!;
    const continued = await greedy(model, Array.from(expected.get("gen.prompt")!.data), shape[1]!);
    expect(continued).toEqual(Array.from(data));
  }

  if (item.trainable_count !== undefined)
    expect(model.trainableParameters().reduce((sum, parameter) => sum + parameter.size, 0)).toBe(item.trainable_count);
  const cores = [...parameters.keys()].some((key) => key.includes("hada_t"));
  const wrong = item.peft_type === "LOHA" && !cores ? undefined : wrongDerivatives[item.peft_type];
  for (const [key, parameter] of parameters) {
    const want = expected.get(`grad.${key}`);
    if (want && parameter.requiresGrad && !wrong?.keys.test(key))
      await expectClose(`grad.${key}`, found.get(parameter) ?? constant(0, parameter.shape), want, gradients);
  }
  const wanted = [...expected.keys()].filter((key) => key.startsWith("grad.")).map((key) => key.slice("grad.".length));
  expect(wanted.filter((key) => !parameters.has(key))).toEqual([]);

  // PEFT means to refuse it, too, but looks for the option in the wrong place; what it merges is another model (the case's note)
  if (adapter.config["layerReplication"]) expect(() => merge(model)).toThrow("several layers share one weight");
  else if (expected.has("logits_merged")) {
    merge(model, undefined, { safe: true });
    const merged = baseStateDict(model);
    await close("logits_merged", model.forward(inputs).logits);
    for (const [key, want] of expected)
      if (key.startsWith("merged.")) await expectClose(key, merged.get(paths.get(key.slice("merged.".length))!)!, want, logits);
    const changed = [...merged].filter(([name, tensor]) => tensor.storage !== before.get(name)!.storage).map(([name]) => name);
    expect(changed.sort()).toEqual([...new Set(item.merged_changed!.map((name) => paths.get(name)!))].sort());
    unmerge(model);
    // biases that the adapter trains in place stay as they were in its file, and weights as KaSA left them
    for (const [name, tensor] of baseStateDict(model))
      expect(tensor.storage, name).toBe(
        (adapter.biases.has(name) || adapter.config["kasaConfig"] ? loaded : before).get(name)!.storage,
      );
  }

  if (item.train?.deterministic && !wrong) {
    const { lr, betas, eps, weight_decay: weightDecay, losses: want } = item.train;
    const trained = model.trainableParameters();
    const optimizer = new AdamW(trained, { lr, betas, eps, weightDecay });
    model.train();
    const step = compile(() => {
      const loss = lossOf(model.forward(inputs).loss as Tensor);
      optimizer.step(gradientsOf(loss, trained));
      return loss;
    });
    const got: number[] = [];
    while (got.length + 1 < want.length) got.push(...(await download(step())));
    got.push(...(await download(lossOf(model.eval().forward(inputs).loss as Tensor))));
    step.dispose();
    expectValuesClose("losses of five steps", got, want, losses);
    for (const [key, parameter] of parameters) {
      const trainedTo = expected.get(`trained.${key}`);
      if (trainedTo) await expectClose(`trained.${key}`, parameter.stored, trainedTo, { rtol: 1e-3, atol: 1e-4 });
    }
  }
}

/** Warnings about targets that name nothing: some cases list a layer's names in several releases of transformers. */
const idleTargets = ({ config }: Adapter, paths: readonly string[]): string[] =>
  (Array.isArray(config["targetModules"]) ? (config["targetModules"] as string[]) : [])
    .filter((item) => !paths.some((path) => path === item || path.endsWith(`.${item}`)))
    .map((item) => `attach: no module matches "${item}" of targetModules.`);

/** The most likely continuation, token by token, without a cache. */
async function greedy(model: CausalLM, prompt: number[], length: number): Promise<number[]> {
  const tokens = [...prompt];
  while (tokens.length < length) {
    const { logits } = model.forward({ inputIds: toTensor({ shape: [1, tokens.length], data: Int32Array.from(tokens) }) });
    const last = (await download(logits)).slice(-logits.shape[2]!);
    tokens.push(last.indexOf(Math.max(...last) as never));
  }
  return tokens;
}

async function halfFile(item: PeftCase): Promise<void> {
  const expected = await goldenTensors("peft", item.name, "expected.safetensors");
  const { model, inputs, mask } = await loadBase(item.base);
  const adapter = await loadAdapter(model, join(goldenFolder, "peft", item.name, "adapter"));
  for (const parameter of fileParameters(adapter).values()) expect(parameter.dtype).toBe("float32");
  const want = expected.get("logits")!;
  await expectClose("logits", model.forward(inputs).logits, want, { ...logits, mask: logitMask(mask, want) });
}

goldenSuite(
  "peft",
  peftCases(
    (item, kind, base) => {
      if (!implemented(base, item.name, "adapter")) return undefined;
      return () => (kind === "adapter" ? adapterCase(item) : halfFile(item));
    },
    "adapter",
    "half_file",
  ),
);
