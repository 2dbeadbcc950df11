/**
 * Adapters of experts from before transformers 5, when each expert's matrices were layers: read as what they are to the parameters that
 * hold all experts now. An expert's low-rank change stays what it was: of two matrices that are one now, the rows of A lie behind each
 * other and those of B on the diagonal, and what the file does not change has zeros for both.
 *
 * @see peft `utils/transformers_weight_conversion.py`, `build_peft_weight_mapping`
 */
import { FormatError, wordJson } from "../errors.ts";
import { type AdapterFile, type ConfigSchema, toFileKey } from "../formats/peft-adapter.ts";
import type { StoredTensor } from "../formats/safetensors.ts";
import { toFloat32 } from "../graph/dtype.ts";
import { sizeOf } from "../graph/shape.ts";
import type { CheckpointNames } from "../models/checkpoint-name.ts";
import { Experts } from "../models/mixture.ts";
import type { Module } from "../nn/module.ts";
import { findInitialiser } from "./initialiser.ts";
import { patternValue } from "./target.ts";

const operation = "loadAdapter";
type Config = Readonly<Record<string, unknown>>;

/** A layer of before: one matrix of one expert. */
interface Part {
  readonly path: string;
  /** Where it is in the parameter: the expert, and the first of its rows. */
  readonly expert: number;
  readonly row: number;
  readonly A: StoredTensor;
  readonly B: StoredTensor;
}

/** A parameter of which the file has parts. */
interface Fused {
  readonly path: string;
  readonly shape: readonly [experts: number, out: number, into: number];
  readonly parts: readonly Part[];
  /** By the first row of each matrix, where in the rank its factors are. */
  readonly ranks: ReadonlyMap<number, number>;
  readonly rank: number;
  readonly alpha: number;
}

/**
 * The adapter as PEFT would save it today; as it is where it has nothing of single experts.
 *
 * @throws {FormatError} for what a parameter of all experts cannot hold: another method than plain LoRA, ranks or scales that differ
 *   among the experts of a layer, a start that has changed their weights, dropout where training goes on
 */
export function withTodaysExperts<Schema extends ConfigSchema, Read extends AdapterFile<Schema>>(
  model: Module,
  read: Read,
  trainable: boolean,
): Read {
  const config = read.config as Config;
  const byLayer = new Map<string, StoredTensor[]>();
  for (const tensor of read.tensors.values()) {
    const [, path] = /^base_model\.model\.(.*\.experts\.\d+\.\w+)\./.exec(tensor.name) ?? [];
    if (path !== undefined) byLayer.set(path, [...(byLayer.get(path) ?? []), tensor]);
  }
  const fused = [...model.namedModules()].flatMap(([path, module]) =>
    module instanceof Experts ? fusedIn(model, path, module, byLayer, config) : [],
  );
  if (fused.length === 0) return read;
  refuseConfig(config, trainable);
  const used = new Set(fused.flatMap(({ parts }) => parts.flatMap(({ A, B }) => [A.name, B.name])));
  const names = model as Module & Partial<CheckpointNames>;
  const others = [...read.tensors.values()].flatMap((tensor) => {
    if (used.has(tensor.name)) return [];
    // the router has lain in a block of another name
    const [, path = "", leaf] = /^base_model\.model\.(.*)(\.lora_[AB]\.weight)$/.exec(tensor.name) ?? [];
    const today = leaf && names.pathOf?.(`${path}.weight`)?.slice(0, -".weight".length);
    return [today ? { ...tensor, name: toFileKey(today + leaf) } : tensor];
  });
  const tensors = [...others, ...fused.flatMap((each) => factorsOf(each, fused))];
  return {
    ...read,
    config: { ...config, ...targetsOf(model, config, fused, others) },
    tensors: new Map(tensors.map((tensor) => [tensor.name, tensor])),
    warnings: [
      ...read.warnings,
      ...(config["lora_dropout"]
        ? [`${operation}: the dropout (${config["lora_dropout"]}) is left out; experts have none today.`]
        : []),
    ],
  };
}

/** What a file has of the parameters of one module. */
function fusedIn(
  model: Module,
  at: string,
  experts: Experts,
  byLayer: ReadonlyMap<string, readonly StoredTensor[]>,
  config: Config,
): Fused[] {
  const names = model as Module & Partial<CheckpointNames>;
  return experts.matrices().flatMap(([name, matrix]) => {
    const shape = matrix.shape as Fused["shape"];
    const paths = names.partsOf?.(`${at}.${name}`, shape)?.map((part) => part.slice(0, -".weight".length)) ?? [];
    const perExpert = paths.length / shape[0];
    const parts = paths.flatMap((path, i): Part[] => {
      const [begin, found] = [toFileKey(`${path}.`), byLayer.get(path)];
      if (!found) return [];
      const factor = (leaf: string) => found.find((tensor) => tensor.name === `${begin}${leaf}.weight`);
      const [A, B] = [factor("lora_A"), factor("lora_B")];
      if (!A || !B || found.length > 2)
        throw refused(`${path} has ${found.map((tensor) => tensor.name.slice(begin.length)).join(", ")}`, path);
      return [{ path, expert: Math.floor(i / perExpert), row: ((i % perExpert) * shape[1]) / perExpert, A, B }];
    });
    return parts.length === 0 ? [] : [fuse(`${at}.${name}`, shape, parts, shape[1] / perExpert, config)];
  });
}

const refused = (what: string, got: unknown, hint?: string): FormatError =>
  new FormatError(`${what}; experts are one parameter today, which has A and B of one rank and scale for all.`, {
    operation,
    got,
    ...(hint ? { hint } : {}),
  });

/** Checks that parts of a parameter go together, and puts their ranks one behind the other. */
function fuse(path: string, shape: Fused["shape"], parts: readonly Part[], rows: number, config: Config): Fused {
  const value = (option: string, key: string, at: string) =>
    (patternValue((config[option] ?? {}) as Config, at, option)?.value ?? config[key]) as number;
  const [first] = parts as [Part];
  const [r, alpha] = [value("rank_pattern", "r", first.path), value("alpha_pattern", "lora_alpha", first.path)];
  for (const { path: at, A, B } of parts) {
    const [rank, scale] = [value("rank_pattern", "r", at), value("alpha_pattern", "lora_alpha", at)];
    if (rank !== r || scale !== alpha)
      throw refused(`${at} has r = ${rank} and lora_alpha = ${scale}, ${first.path} ${r} and ${alpha}`, at);
    if (`${A.shape}/${B.shape}` !== `${[r, shape[2]]}/${[rows, r]}`)
      throw refused(`${at} has A [${A.shape}] and B [${B.shape}], not [${r}, ${shape[2]}] and [${rows}, ${r}]`, at);
  }
  const halves = [...new Set(parts.map(({ row }) => row))].sort((a, b) => a - b);
  // s = α/r or α/√r stays what it was
  const count = halves.length;
  return {
    path,
    shape,
    parts,
    ranks: new Map(halves.map((row, i) => [row, i * r])),
    rank: count * r,
    alpha: alpha * (config["use_rslora"] ? Math.sqrt(count) : count),
  };
}

function refuseConfig(config: Config, trainable: boolean): void {
  const init = config["init_lora_weights"] as Parameters<typeof findInitialiser>[0];
  if (config["peft_type"] !== undefined && config["peft_type"] !== "LORA")
    throw refused(`the adapter is ${wordJson(config["peft_type"])} of single experts`, config["peft_type"]);
  for (const option of ["use_dora", "lora_bias", "fan_in_fan_out"])
    if (config[option]) throw refused(`the adapter of single experts has ${option}`, config[option]);
  if (init !== undefined && findInitialiser(init).residual !== undefined)
    throw refused(`the start ${wordJson(init)} has changed each expert's weights`, init);
  if (trainable && config["lora_dropout"])
    throw refused(
      `the adapter of single experts is trained with lora_dropout (= ${config["lora_dropout"]})`,
      config["lora_dropout"],
      "Load it without `trainable`, or set lora_dropout in adapter_config.json to 0.",
    );
}

/** A and B of all experts; B has them along its fastest axis. */
function factorsOf({ path, shape, parts, ranks, rank }: Fused, all: readonly Fused[]): StoredTensor[] {
  const [E, out, into] = shape;
  const at = path.slice(0, path.lastIndexOf("."));
  // layers of parameters lie in each other, the first innermost
  const later = all.slice(all.findIndex((each) => each.path === path) + 1).filter((each) => each.path.startsWith(`${at}.`));
  const tensor = (
    leaf: "A" | "B",
    size: readonly number[],
    put: (values: Float32Array, part: Part, from: Float32Array) => void,
  ) => {
    const load = async (from?: number, to?: number) => {
      const values = new Float32Array(sizeOf(size));
      for (const part of parts) put(values, part, toFloat32(await part[leaf].load(), part[leaf].dtype));
      return values.subarray(from, to);
    };
    const name = toFileKey(`${at}${".base_layer".repeat(later.length)}.lora_${leaf}.weight`);
    return { name, dtype: "float32", storedDType: "F32", shape: size, byteLength: 4 * sizeOf(size), load } as const;
  };
  const first = ({ row }: Part) => ranks.get(row) as number;
  return [
    tensor("A", [E * rank, into], (values, part, from) => values.set(from, (part.expert * rank + first(part)) * into)),
    tensor("B", [out, rank * E], (values, part, from) => {
      const r = part.B.shape[1] as number;
      from.forEach((value, i) => {
        const [row, column] = [part.row + Math.floor(i / r), first(part) + (i % r)];
        values[(row * rank + column) * E + part.expert] = value;
      });
    }),
  ];
}

/** What the config says of targets, ranks and scales. */
function targetsOf(model: Module, config: Config, fused: readonly Fused[], others: readonly StoredTensor[]): Config {
  const leafOf = (path: string) => path.slice(path.lastIndexOf(".") + 1);
  const leaves = new Set(fused.flatMap(({ parts }) => parts.map(({ path }) => leafOf(path))));
  const layers = others.flatMap(({ name }) => /^base_model\.model\.(.*)\.lora_A\.weight$/.exec(name)?.[1] ?? []);
  const given = config["target_modules"];
  const isOld = (target: string) => leaves.has(leafOf(target));
  const kept = Array.isArray(given) ? (given as string[]).filter((target) => !isOld(target)) : [];
  const modules = Array.isArray(given) ? layers.filter(isOld) : layers;
  const all = [...model.namedParameters()].map(([path]) => path);
  // short names where they mean the same
  const short = (name: string) =>
    all.filter((path) => path.endsWith(`.${name}`)).every((path) => fused.some((each) => each.path === path));
  const parameters = fused.map(({ path }) => (short(leafOf(path)) ? leafOf(path) : path));
  const patterns = (key: "rank" | "alpha", usual: unknown) => {
    const same = (name: string) => new Set(fused.filter(({ path }) => leafOf(path) === name).map((each) => each[key])).size === 1;
    const escaped = (path: string) => path.replaceAll(".", "\\.");
    return fused.flatMap((each) => {
      const name = leafOf(each.path);
      const isShort = short(name) && same(name);
      return each[key] === usual ? [] : [[isShort ? `.*\\.${name}` : escaped(each.path), each[key]]];
    });
  };
  return {
    target_modules: [...kept, ...modules],
    target_parameters: [...new Set([...((config["target_parameters"] ?? []) as string[]), ...parameters])],
    // the first pattern that fits counts
    rank_pattern: { ...Object.fromEntries(patterns("rank", config["r"])), ...(config["rank_pattern"] as object) },
    alpha_pattern: { ...Object.fromEntries(patterns("alpha", config["lora_alpha"])), ...(config["alpha_pattern"] as object) },
    lora_dropout: 0,
  };
}
