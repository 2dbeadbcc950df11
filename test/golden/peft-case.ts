/** What the suites of `peft/` share: the base models, the tolerances, the names of an adapter's parameters. */
import { join } from "node:path";
import { toFileKey } from "../../src/formats/peft-adapter.ts";
import { openCheckpoint } from "../../src/formats/sharded.ts";
import type { CausalLM, CausalLMInputs } from "../../src/models/causal-lm.ts";
import { createModel } from "../../src/models/create-model.ts";
import { models } from "../../src/models/registry.ts";
import { taskOf } from "../../src/models/task.ts";
import type { Module, Parameter } from "../../src/nn/module.ts";
import { wholeFile } from "../../src/peft/adapter-tensor.ts";
import { type Adapter, methods } from "../../src/peft/index.ts";
import { type AnyMethod, fileOf } from "../../src/peft/method.ts";
import { camel, toCamel } from "../../src/peft/method-config.ts";
import { loadWeights } from "../../src/train/load-weights.ts";
import { ConvNetwork, type ConvNetworkJson } from "./conv-network.ts";
import { type GoldenCase, goldenFolder, goldenTensors, readGolden, toTensor } from "./suite.ts";

export type Tensors = Awaited<ReturnType<typeof goldenTensors>>;
export type Golden = Tensors extends Map<string, infer T> ? T : never;
export type PeftCase = {
  readonly name: string;
  readonly kind: string;
  readonly base: string;
  readonly peft_type: string;
  readonly merge: boolean;
  readonly note?: string;
  /** Folders, or configs, by name; of the kinds that combine, folders only. */
  readonly adapters?: Readonly<Record<string, string | object>>;
  readonly adapter_names?: readonly string[];
  readonly weights?: readonly number[];
  readonly combination_type?: string;
  readonly options?: Readonly<Record<string, unknown>>;
  readonly rank?: number;
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

export const logits = { rtol: 1e-4, atol: 1e-4 };
export const gradients = { rtol: 1e-3, atol: 1e-5 };
export const losses = { rtol: 1e-3, atol: 0 };

export async function loadBase(base: string): Promise<{ model: CausalLM; inputs: CausalLMInputs; mask: Golden | undefined }> {
  const config = readGolden<BaseJson>("peft", base, "config.json")!;
  const made = makeBase(config).eval();
  await loadWeights(made, await openCheckpoint(join(goldenFolder, "peft", base)));
  const stored = await goldenTensors("peft", base, "inputs.safetensors");
  // what models of other kinds take and give has the same names, as far as it is looked at here
  return { model: made as CausalLM, inputs: inputsFrom(stored), mask: stored.get("attention_mask") };
}

type BaseJson = Record<string, unknown> & { readonly architectures?: readonly string[]; readonly model_type: string };

/** A model as the config describes it, which may be the convolutional network of the tests. */
const makeBase = (config: BaseJson): Module =>
  config.model_type === convolutional
    ? new ConvNetwork(config as unknown as ConvNetworkJson)
    : createModel(config, { task: taskOf(config.architectures![0]!)! });

const convolutional = "convnet";

export function inputsFrom(stored: Tensors, prefix = ""): CausalLMInputs {
  const names = ["input_ids", "attention_mask", "token_type_ids", "pixel_values", "x", "labels", "input_type_mask", "task_ids"];
  const found = names.flatMap((name) => {
    const tensor = stored.get(prefix + name);
    return tensor ? [[camel(name), toTensor(tensor)]] : [];
  });
  return Object.fromEntries(found);
}

/** The path under which a state dict has the parameter at each path: a shared one is there once. */
export function statePaths(model: CausalLM): Map<string, string> {
  const first = new Map([...model.namedParameters()].map(([path, parameter]) => [parameter, path]));
  return new Map(
    [...model.namedModules()].flatMap(([path, module]) =>
      [...module.ownParameters()].map(([name, parameter]) => [`${path}.${name}`, first.get(parameter)!] as const),
    ),
  );
}

/** 1 for every logit of a token that is not padding; for all where there is not one row of them for each token. */
export function logitMask(
  mask: Golden | undefined,
  want: { readonly shape: readonly number[]; readonly data: ArrayLike<number> },
) {
  const V = want.shape.at(-1)!;
  if (mask?.shape.join() !== want.shape.slice(0, -1).join()) return new Uint8Array(want.data.length).fill(1);
  return Uint8Array.from({ length: want.data.length }, (_, i) => mask.data[Math.floor(i / V)]!);
}

/** Parameters of an adapter by their names in its file. */
export function fileParameters(adapter: Adapter): Map<string, Parameter> {
  const { name, method: whole, layers, shared, saved, biases } = adapter;
  const found = new Map<string, Parameter>();
  for (const [key, parameter] of Object.entries(shared)) found.set(`base_model.${fileOf(whole.shared!.files, key)}`, parameter);
  for (const [path, layer] of layers) {
    const { method, config, parameters } = layer.adapters.get(name)!;
    if (method.inFile === "absent") continue;
    const specs = method.parameters(layer.base(), config);
    for (const [key, parameter] of Object.entries(parameters).filter(([key]) => !specs[key]?.derived))
      found.set(toFileKey(`${path}.${fileOf(method.files, key)}`), parameter);
  }
  for (const [path, { copies }] of saved)
    for (const [key, parameter] of copies.get(name)!) found.set(toFileKey(`${path}.${wholeFile(adapter, path, key)}`), parameter);
  for (const [path, parameter] of biases)
    found.set(toFileKey(layers.has(path.slice(0, -".bias".length)) ? path.replace(/bias$/, "base_layer.bias") : path), parameter);
  return found;
}

/** Whether the adapter's config asks only for what is implemented. */
export function implemented(base: string, ...adapter: string[]): boolean {
  const config = readGolden<Record<string, unknown>>("peft", ...adapter, "adapter_config.json");
  const type = readGolden<BaseJson>("peft", base, "config.json")?.model_type;
  if (!config || type === undefined || !(type === convolutional || Object.hasOwn(models, type))) return false;
  return (Object.values(methods) as AnyMethod[]).some((method) => {
    if (method.peftType !== config["peft_type"]) return false;
    if ((type === "vit" || type === convolutional) && !("conv2d" in method.layers)) return false;
    try {
      method({ ...toCamel(config), peftVersion: null });
      return true;
    } catch {
      return false;
    }
  });
}

/** Methods that put virtual tokens in front of texts: their expected values are named in another way, so they are a kind of their own. */
const promptTypes = ["PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING", "MULTITASK_PROMPT_TUNING", "CPT", "CARTRIDGE"];

/** The cases of these kinds, with what runs them; a kind's suite names only its own. */
export function peftCases(
  run: (item: PeftCase, kind: string, base: string) => GoldenCase["run"],
  ...kinds: readonly string[]
): GoldenCase[] {
  const index = readGolden<{
    readonly cases: readonly {
      readonly name: string;
      readonly kind: string;
      readonly base: string;
      readonly peft_type: string;
    }[];
  }>("peft", "index.json");
  const all = index?.cases.map((item) => (promptTypes.includes(item.peft_type) ? { ...item, kind: "prompt" } : item));
  const own = all?.filter(({ kind }) => kinds.includes(kind)) ?? [];
  return own.map(({ name, kind, base }) => {
    const item = readGolden<PeftCase>("peft", name, "case.json");
    return { name, run: item ? run(item, kind, base) : undefined };
  });
}
