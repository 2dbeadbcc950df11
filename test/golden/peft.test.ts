/** The cases of `peft/`: adapters that PEFT wrote, and what PEFT computes with them. */
import { join } from "node:path";
import { expect } from "vitest";
import { download } from "../../src/compile/program.ts";
import { compile } from "../../src/compile/trace.ts";
import { toFileKey } from "../../src/formats/peft-adapter.ts";
import { openCheckpoint } from "../../src/formats/sharded.ts";
import { add } from "../../src/graph/elementwise.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { constant } from "../../src/graph/source.ts";
import type { CausalLM, CausalLMInputs } from "../../src/models/causal-lm.ts";
import { createModel, models } from "../../src/models/registry.ts";
import { taskOf } from "../../src/models/task.ts";
import type { Module, Parameter } from "../../src/nn/module.ts";
import { AdamW } from "../../src/optim/adam.ts";
import { gradientsOf } from "../../src/optim/optimizer.ts";
import { wholeFile } from "../../src/peft/adapter-file.ts";
import { liveName } from "../../src/peft/adapter-layer.ts";
import {
  type Adapter,
  activeAdapters,
  baseStateDict,
  deleteAdapter,
  disabled,
  loadAdapter,
  merge,
  mergeAndUnload,
  methods,
  setActive,
  setScale,
  unmerge,
} from "../../src/peft/index.ts";
import { type AnyMethod, camel, toCamel } from "../../src/peft/method.ts";
import { adapterPenalty } from "../../src/peft/penalty.ts";
import { loadCheckpoint } from "../../src/train/load-model.ts";
import {
  expectClose,
  expectValuesClose,
  type GoldenCase,
  goldenFolder,
  goldenSuite,
  goldenTensors,
  readGolden,
  toTensor,
} from "./suite.ts";

type Tensors = Awaited<ReturnType<typeof goldenTensors>>;
type Golden = Tensors extends Map<string, infer T> ? T : never;
type Case = {
  readonly name: string;
  readonly kind: string;
  readonly base: string;
  readonly peft_type: string;
  readonly merge: boolean;
  readonly note?: string;
  readonly adapters?: Readonly<Record<string, string>>;
  readonly active_after_delete_a?: readonly string[];
  readonly merge_equivalent?: boolean;
  readonly merged_changed?: readonly string[];
  readonly trainable?: readonly string[];
  readonly trainable_count?: number;
  readonly train?: {
    readonly lr: number;
    readonly betas: [number, number];
    readonly eps: number;
    readonly weight_decay: number;
    readonly losses: readonly number[];
    readonly deterministic: boolean;
  };
};

const logits = { rtol: 1e-4, atol: 1e-4 };
const gradients = { rtol: 1e-3, atol: 1e-5 };
const losses = { rtol: 1e-3, atol: 0 };

/** Methods whose derivative in PEFT is none: torch.autograd.gradcheck fails. Ours is held to the law of derivatives, not to PEFT's. */
const wrongDerivative: Readonly<Record<string, string>> = {
  C3A: "BlockCircularConvolution.backward correlates the kernel with the gradient of the output, where it should convolve",
};

async function loadBase(base: string): Promise<{ model: CausalLM; inputs: CausalLMInputs; mask: Golden | undefined }> {
  const config = readGolden<Record<string, unknown> & { readonly architectures: readonly string[] }>(
    "peft",
    base,
    "config.json",
  )!;
  const made: Module = createModel(config, { task: taskOf(config.architectures[0]!)! }).eval();
  await loadCheckpoint(made, await openCheckpoint(join(goldenFolder, "peft", base)));
  const stored = await goldenTensors("peft", base, "inputs.safetensors");
  // what models of other kinds take and give has the same names, as far as it is looked at here
  return { model: made as CausalLM, inputs: inputsFrom(stored), mask: stored.get("attention_mask") };
}

function inputsFrom(stored: Tensors, prefix = ""): CausalLMInputs {
  const names = ["input_ids", "attention_mask", "token_type_ids", "pixel_values", "labels"];
  const found = names.flatMap((name) => {
    const tensor = stored.get(prefix + name);
    return tensor ? [[camel(name), toTensor(tensor)]] : [];
  });
  return Object.fromEntries(found);
}

/** The path under which a state dict has the parameter at each path: a shared one is there once. */
function statePaths(model: CausalLM): Map<string, string> {
  const first = new Map([...model.namedParameters()].map(([path, parameter]) => [parameter, path]));
  return new Map(
    [...model.namedModules()].flatMap(([path, module]) =>
      [...module.ownParameters()].map(([name, parameter]) => [`${path}.${name}`, first.get(parameter)!] as const),
    ),
  );
}

/** 1 for every logit of a token that is not padding; for all where there is not one row of them for each token. */
function logitMask(mask: Golden | undefined, want: { readonly shape: readonly number[]; readonly data: ArrayLike<number> }) {
  const V = want.shape.at(-1)!;
  if (mask?.shape.join() !== want.shape.slice(0, -1).join()) return new Uint8Array(want.data.length).fill(1);
  return Uint8Array.from({ length: want.data.length }, (_, i) => mask.data[Math.floor(i / V)]!);
}

/** Parameters of an adapter by their names in its file. */
function fileParameters(adapter: Adapter): Map<string, Parameter> {
  const { name, method: whole, layers, shared, saved, biases } = adapter;
  const found = new Map<string, Parameter>();
  for (const [key, parameter] of Object.entries(shared)) found.set(`base_model.${whole.shared?.files[key]}`, parameter);
  for (const [path, layer] of layers) {
    const { method, parameters } = layer.adapters.get(name)!;
    for (const [key, parameter] of Object.entries(parameters))
      found.set(toFileKey(`${path}.${liveName(method.files[key]!, name)}`, name), parameter);
  }
  for (const [path, { copies }] of saved)
    for (const [key, parameter] of copies.get(name)!)
      found.set(toFileKey(`${path}.${wholeFile(adapter, path, key)}`, ""), parameter);
  for (const [path, parameter] of biases)
    found.set(
      toFileKey(layers.has(path.slice(0, -".bias".length)) ? path.replace(/bias$/, "base_layer.bias") : path, ""),
      parameter,
    );
  return found;
}

/** Whether the adapter's config asks only for what is implemented. */
function implemented(base: string, ...adapter: string[]): boolean {
  const config = readGolden<Record<string, unknown>>("peft", ...adapter, "adapter_config.json");
  const model = readGolden<{ readonly model_type: string }>("peft", base, "config.json");
  if (!config || !model || !Object.hasOwn(models, model.model_type)) return false;
  return (Object.values(methods) as AnyMethod[]).some((method) => {
    if (method.peftType !== config["peft_type"]) return false;
    if (model.model_type === "vit" && !("conv" in method.layers)) return false; // the patches are a convolution's
    try {
      method({ ...toCamel(config), peftVersion: null });
      return true;
    } catch {
      return false;
    }
  });
}

async function adapterCase(item: Case): Promise<void> {
  const folder = join(goldenFolder, "peft", item.name, "adapter");
  const expected = await goldenTensors("peft", item.name, "expected.safetensors");
  const own = await loadBase(item.base);
  const inputs = expected.has("in.input_ids") ? inputsFrom(expected, "in.") : own.inputs;
  const maskOf = expected.get("in.attention_mask") ?? own.mask;
  const close = async (what: string, got: Tensor, want = expected.get(what)!) =>
    expectClose(what, got, want, { ...logits, mask: logitMask(maskOf, want) });
  const { model } = own;
  const before = baseStateDict(model);
  const paths = statePaths(model);

  const adapter = await loadAdapter(model, folder, { trainable: true });
  const loaded = baseStateDict(model);
  expect(adapter.warnings).toEqual([]);
  const output = model.forward(inputs);
  await close("logits", output.logits);
  const lossOf = (loss: Tensor) => {
    const penalty = adapterPenalty(model);
    return penalty ? add(loss, penalty) : loss;
  };
  if (expected.has("loss")) await expectClose("loss", lossOf(output.loss!), expected.get("loss")!, logits);
  if (expected.has("logits_disabled")) {
    const without = disabled(model, () => model.forward(inputs));
    await close("logits_disabled", without.logits);
  }

  if (expected.has("gen.prompt")) {
    const { data, shape } = expected.get("gen.output")!;
    const continued = await greedy(model, Array.from(expected.get("gen.prompt")!.data), shape[1]!);
    expect(continued).toEqual(Array.from(data));
  }

  const parameters = fileParameters(adapter);
  if (item.trainable_count !== undefined)
    expect(model.trainableParameters().reduce((sum, parameter) => sum + parameter.size, 0)).toBe(item.trainable_count);
  const sameDerivative = !(item.peft_type in wrongDerivative);
  const found = gradientsOf(lossOf(output.loss!), [...parameters.values()]);
  for (const [key, parameter] of parameters) {
    const want = expected.get(`grad.${key}`);
    if (want && sameDerivative)
      await expectClose(`grad.${key}`, found.get(parameter) ?? constant(0, parameter.shape), want, gradients);
  }
  const wanted = [...expected.keys()].filter((key) => key.startsWith("grad.")).map((key) => key.slice("grad.".length));
  expect(wanted.filter((key) => !parameters.has(key))).toEqual([]);

  if (expected.has("logits_merged")) {
    merge(model, undefined, { safe: true });
    const merged = baseStateDict(model);
    await close("logits_merged", model.forward(inputs).logits);
    for (const [key, want] of expected)
      if (key.startsWith("merged.")) await expectClose(key, merged.get(paths.get(key.slice("merged.".length))!)!, want, logits);
    const changed = [...merged].filter(([name, tensor]) => tensor.storage !== before.get(name)!.storage).map(([name]) => name);
    expect(changed.sort()).toEqual([...new Set(item.merged_changed!.map((name) => paths.get(name)!))].sort());
    unmerge(model);
    // biases that the adapter trains in place stay as they were in its file
    for (const [name, tensor] of baseStateDict(model))
      expect(tensor.storage, name).toBe((adapter.biases.has(name) ? loaded : before).get(name)!.storage);
  }

  if (item.train?.deterministic && sameDerivative) {
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

async function multiActive(item: Case): Promise<void> {
  const expected = await goldenTensors("peft", item.name, "expected.safetensors");
  const load = async (...names: string[]) => {
    const own = await loadBase(item.base);
    for (const name of names) await loadAdapter(own.model, join(goldenFolder, "peft", item.adapters![name]!), { name });
    const close = async (what: string) => {
      const want = expected.get(`logits.${what}`)!;
      await expectClose(what, own.model.forward(own.inputs).logits, want, { ...logits, mask: logitMask(own.mask, want) });
    };
    return { ...own, close };
  };
  const all = Object.keys(item.adapters!);
  const { model, close } = await load(...all);
  for (const name of all) {
    setActive(model, name);
    await close(`only_${name}`);
  }
  setActive(model, ["a", "c"]);
  await close("a_and_c");
  setScale(model, 0.5);
  await close("a_and_c_rescaled_0.5");

  const merged = await load(...all);
  mergeAndUnload(merged.model, ["a", "c"]);
  await merged.close("merged_a_and_c");

  const fewer = await load(...all);
  deleteAdapter(fewer.model, "a");
  await fewer.close("after_delete_a");
  expect(activeAdapters(fewer.model)).toEqual(item.active_after_delete_a);

  const one = await load("a");
  merge(one.model);
  await one.close("a_merge_adapter");
  unmerge(one.model);
  await one.close("a_unmerged");
}

async function halfFile(item: Case): Promise<void> {
  const expected = await goldenTensors("peft", item.name, "expected.safetensors");
  const { model, inputs, mask } = await loadBase(item.base);
  const adapter = await loadAdapter(model, join(goldenFolder, "peft", item.name, "adapter"));
  for (const parameter of fileParameters(adapter).values()) expect(parameter.dtype).toBe("float32");
  const want = expected.get("logits")!;
  await expectClose("logits", model.forward(inputs).logits, want, { ...logits, mask: logitMask(mask, want) });
}

function golden({ name, kind, base }: { readonly name: string; readonly kind: string; readonly base: string }): GoldenCase {
  const item = readGolden<Case>("peft", name, "case.json");
  if (!item) return { name };
  if (kind === "adapter" && implemented(base, name, "adapter")) return { name, run: () => adapterCase(item) };
  if (kind === "half_file" && implemented(base, name, "adapter")) return { name, run: () => halfFile(item) };
  if (kind === "multi_active" && Object.values(item.adapters!).every((folder) => implemented(base, folder)))
    return { name, run: () => multiActive(item) };
  return { name };
}

const index = readGolden<{ readonly cases: readonly { readonly name: string; readonly kind: string; readonly base: string }[] }>(
  "peft",
  "index.json",
);
goldenSuite("peft", index?.cases.map(golden) ?? []);
