/**
 * Arrow in folders, as PEFT's `save_pretrained` writes it: `task_0`, `task_1` … and `gks_0` … with the adapters, and `arrow_router`, a LoRA whose
 * values never act and whose config has the `arrow_config`. The adapters are written as they were read, with nothing taken out.
 *
 * PEFT 0.21.2 cannot load `arrow_router` itself, for it forgets the names of the adapters; it makes the mixture again from the others:
 * `create_arrow_model(base, ["mixture/task_0", …], ArrowConfig(top_k=…, use_gks=…, rng_seed=…), ["mixture/gks_0", …])`.
 */
import { ConfigError, checkOptions, under } from "../../errors.ts";
import type { ModelSource } from "../../formats/model-source.ts";
import { type ConfigSchema, readAdapter, writeAdapter } from "../../formats/peft-adapter.ts";
import { boolean, float, integer, key, texts } from "../../formats/peft-config.ts";
import type { TensorToWrite } from "../../formats/safetensors.ts";
import type { FolderTarget } from "../../formats/writable-folder.ts";
import type { Module } from "../../nn/module.ts";
import { adaptedModel } from "../adapted-model.ts";
import { fileKeyOf } from "../adapter-tensor.ts";
import { type AnyConfig, toFileConfig } from "../method-config.ts";
import { lora } from "../methods/lora.ts";
import { subConfig } from "../sub-config.ts";
import { type ArrowConfig, type ArrowExpert, ArrowMixture, type Factors } from "./arrow-mixture.ts";
import type { ExpertSource } from "./expert.ts";

const router = "arrow_router";
const { schema } = lora;
const arrowKeys = {
  top_k: key(3, integer(1)),
  router_temperature: key(1, float(0)),
  use_gks: key(false, boolean),
  rng_seed: key(null, integer()),
  task_adapter_names: key(null, texts),
  gks_adapter_names: key(null, texts),
};

/** What a mixture is made of, and how its tokens choose. */
export interface ArrowSources {
  readonly tasks: readonly ExpertSource[];
  readonly general: readonly ExpertSource[];
  readonly options: Partial<ArrowConfig>;
}

/**
 * What a folder says about its mixture.
 *
 * @param general in place of the folder's own
 * @throws {ConfigError} when it holds none
 */
export async function arrowSources(source: ModelSource, general?: readonly ExpertSource[]): Promise<ArrowSources> {
  const operation = "loadArrow";
  const { config } = await under(operation, () => readAdapter<ConfigSchema>(source, [schema], { subfolder: router }));
  const given = (config as AnyConfig)["arrow_config"];
  if (!given)
    throw new ConfigError(`the config in ${router} has no \`arrow_config\`.`, {
      operation,
      got: source,
      hint: "Give a list of the adapters' folders.",
    });
  const arrow = subConfig("arrowConfig", given, arrowKeys);
  const inside = (names: readonly string[] | null) => (names ?? []).map((name) => ({ source, subfolder: name, name }));
  return {
    tasks: inside(arrow.task_adapter_names),
    general: general ?? inside(arrow.gks_adapter_names),
    options: {
      topK: arrow.top_k,
      routerTemperature: arrow.router_temperature,
      useGks: arrow.use_gks,
      seed: arrow.rng_seed ?? 0,
    },
  };
}

/**
 * Writes the mixture on a model into folders within `folder`, from which `loadArrow` makes it again.
 *
 * @throws {ConfigError} when the model has no Arrow, or the folder cannot be written
 * @example
 * await loadArrow(model, ["adapters/sums", "adapters/poems"], { topK: 1 });
 * await saveArrow(model, "mixture");
 */
export async function saveArrow(
  model: Module,
  folder: FolderTarget,
  options: { readonly baseModel?: string } = {},
): Promise<void> {
  const { baseModel } = checkOptions("saveArrow", options, { baseModel: "a string" });
  const operation = "saveArrow";
  const { router: mixture } = adaptedModel(model, operation);
  if (!(mixture instanceof ArrowMixture))
    throw new ConfigError("the adapters of this model are not mixed by Arrow.", { operation });
  const { options: settings, tasks, general } = mixture;
  const base = baseModel === undefined ? {} : { baseModelNameOrPath: baseModel };
  const write = ({ name, config, layers }: ArrowExpert) =>
    writeAdapter(folder, {
      schema,
      config: toFileConfig(schema, { ...config, ...base }),
      tensors: tensorsOf(layers),
      name,
    });
  for (const expert of [...tasks, ...general]) await under(operation, () => write(expert));
  const [first] = tasks as [ArrowExpert];
  const names = (experts: readonly ArrowExpert[]) => experts.map(({ name }) => name);
  const { config } = lora({
    r: first.config["r"] as number,
    targetModules: [...new Set([...first.layers.keys()].map((path) => path.slice(path.lastIndexOf(".") + 1)))].sort(),
    baseModelNameOrPath: first.config["baseModelNameOrPath"] as string | null,
  });
  const arrowConfig = {
    top_k: settings.topK,
    router_temperature: settings.routerTemperature,
    use_gks: settings.useGks,
    rng_seed: settings.seed,
    task_adapter_names: names(tasks),
    gks_adapter_names: names(general),
  };
  const silent = [...first.layers].map(([path, { r, A, B }]) => {
    return [path, { r, A: new Float32Array(A.length), B: new Float32Array(B.length) }] as const;
  });
  await write({ name: router, config: { ...config, arrowConfig } as AnyConfig, layers: new Map(silent) });
}

function tensorsOf(layers: ReadonlyMap<string, Factors>): Map<string, TensorToWrite> {
  const tensors = [...layers].flatMap(([path, { r, A, B }]) => [
    [fileKeyOf(path, "lora_A.weight"), { dtype: "float32", shape: [r, A.length / r], data: A }] as const,
    [fileKeyOf(path, "lora_B.weight"), { dtype: "float32", shape: [B.length / r, r], data: B }] as const,
  ]);
  return new Map(tensors);
}
