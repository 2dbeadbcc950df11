/**
 * What an adapter method is: its config, its parameters for one layer, what they do to the layer's output and, if the
 * method is a change of the weight, that change. Everything else (attaching, merging, several adapters, files) is written
 * once, over this interface. Read methods/lora.ts for an example.
 */
import { ConfigError, requireKind, wordJson } from "../errors.ts";
import { type ConfigSchema, defaultConfig } from "../formats/peft-config.ts";
import type { StoredTensor, TensorToWrite } from "../formats/safetensors.ts";
import type { TypedArray } from "../graph/dtype.ts";
import type { Tensor } from "../graph/node.ts";
import type { Draw } from "../graph/primitive.ts";
import type { Shape } from "../graph/shape.ts";
import { showAs } from "../graph/shown-as.ts";
import type { Matrix } from "../linalg/matrix.ts";
import type { Layer, Module, Parameter } from "../nn/module.ts";
import type { TorchGenerator } from "../random/torch-generator.ts";
import { checkLayers } from "./contradiction.ts";
import type { Reading } from "./invocation.ts";
import type { LayerKind } from "./layer-kind.ts";
import { type AnyConfig, checkedConfig, type MethodConfig, ownKeys, toCamel, wordConfig, wordMethod } from "./method-config.ts";
import type { AnyPromptMethod } from "./prompt/prompt-method.ts";
import type { Scale } from "./scale.ts";
import type { MethodSchedule } from "./schedule.ts";

/**
 * The layer under an adapter, as a method sees it: calling it gives the layer's output. Where several adapters are active
 * on one layer, it is the layer with the other ones already in place.
 */
export interface Base {
  (x: Tensor): Tensor;
  readonly kind: LayerKind;
  /** Path of the layer in the model, such as `model.layers.0.self_attn.q_proj`. */
  readonly path: string;
  /**
   * Sizes of the last axis that goes in (for an embedding: rows of its table) and of the one that comes out. A convolution has
   * the values that one output is made of, in / groups · places of the kernel, and the channels that come out.
   */
  readonly in: number;
  readonly out: number;
  /** What the call multiplies with: [out, in]; for an embedding the table, [in, out]; of a convolution the kernel as a matrix. */
  readonly weight: Tensor;
  /** The same without the other adapters, for methods that start from the layer's own weight. */
  readonly original: Tensor;
  readonly bias: Tensor | null;
  /** The layer's output with another weight; only of parameters, whose modules do what they like with them. */
  readonly run?: (weight: Tensor, x: Tensor) => Tensor;
  /** The layer itself, for what is not said here: an epsilon, a stride. */
  readonly layer: Layer;
  /** The layer multiplies its result with this number (Gemma's embedding), and an adapter's share has to be, too. */
  readonly outputScale: number;
  /** What the layer is given with x: for attention, the pass. */
  readonly more: readonly unknown[];
}

/** How the adapter is used in this call. */
export interface Use {
  /** A factor on the adapter's share, 1 unless `setScale` has changed it. */
  readonly scale: Scale;
  readonly training: boolean;
  /** In training, zeroes values of `x` with the given probability and scales the others up; otherwise gives `x`. */
  dropout(x: Tensor, probability: number): Tensor;
  /** Another value of a parameter that is not trained, for later calls and for the file; without a gradient. */
  keep(name: string, value: Tensor): void;
  /** Random numbers in [0, 1), others in every call and every replay: for other kinds of dropout, in training only. */
  uniform(shape: Shape): Tensor;
  /**
   * 1 for the places of x [B, T, C] from the last one on at which these tokens stand in the text, else 0: [B, T, 1]. In what is written
   * after a prompt it is as at the prompt's end. 1 everywhere in a layer that runs by itself, or in a model that reads no text.
   */
  since(tokens: readonly number[], x: Tensor): Tensor;
  /** What the method has beside the model, if it has something: see `MethodDefinition.companion`. */
  readonly companion: unknown;
  /** What the model is given in this pass and what blocks hand on; `null` in a layer that runs by itself. */
  readonly pass: {
    readonly inputs: Reading["inputs"];
    /** What the block before has handed on. */
    carried: Tensor | undefined;
    /** Adds something to the loss of this pass. */
    addLoss(loss: Tensor): void;
  } | null;
  /** [rows of the batch] int32: which task each is for; `null` where nobody says. */
  tasks(): Tensor | null;
}

/** One parameter of an adapter. */
export interface ParameterSpec {
  readonly shape: Shape;
  /** Another shape that files may hold. */
  readonly orShape?: Shape;
  /** Whether training changes it; true when absent. */
  readonly trainable?: boolean;
  /** Whole numbers, such as places in the weight: integers in the file, too. Floats when absent. */
  readonly dtype?: "int32";
  /** Of what type those are in the file; as they are when absent. */
  readonly storedDType?: "I64";
  /** Not in the file: `derive` makes it again. */
  readonly derived?: boolean;
  /** Path of the layer before whose parameter it is, where layers share one; the file has it under each of them. */
  readonly of?: string;
}

/** What a pass over data has found about layers, by path: a matrix that the initialiser knows the meaning of. */
export type Calibration = ReadonlyMap<string, Matrix>;

/** First values of an adapter's parameters and, for methods that start from the weight, what is left of the weight. */
export interface Start {
  readonly values: Readonly<Record<string, TypedArray | Tensor>>;
  /** Replaces the layer's weight for as long as the adapter is attached. */
  readonly weight?: Tensor;
  /** The values that were taken out of that weight, where `values` are others. */
  readonly taken?: Start["values"];
}

/**
 * A method for one kind of layer.
 *
 * @typeParam Name     parameters that every layer has
 * @typeParam Optional parameters that the config switches on
 * @typeParam Shared   of the parameters that all layers share, those that this one reads
 */
export interface LayerMethod<Config, Name extends string, Optional extends string = never, Shared extends string = never> {
  /** Key of each parameter in adapter_model.safetensors, after the module's path; a `*` stands for the numbers of numbered ones. */
  readonly files: { readonly [K in Name | Optional as Unnumbered<K>]: string };
  /** @throws {ConfigError} when the config does not fit the layer */
  parameters(base: Base, config: Config): { readonly [K in Name]: ParameterSpec } & { readonly [K in Optional]?: ParameterSpec };
  /** What the layer's weight becomes, disabled or not, for as long as there are adapters on the model; from `base.original`. */
  underlay?(base: Base, config: Config): Tensor;
  /** Where the parameters are another layer's (`tied`): how the file has them a second time; as they are when absent. */
  readonly inFile?: "transposed" | "absent";
  /**
   * First values, maybe without those of `derive`; `config` has this layer's rank and alpha in it.
   *
   * @param shared those of what all layers share
   */
  initialise(base: Base, config: Config, random: TorchGenerator, calibration?: Calibration, shared?: Start["values"]): Start;
  /** The parameters that no file has, from the weight, from numbers of the config or from what all layers share. */
  derive?(base: Base, config: Config, shared: Start["values"]): Start["values"];
  /**
   * For an adapter from a file, which has the values only: its first values and the weight without what those took out of it.
   * `undefined` where the start leaves the weight alone, or what it took can not be told any more.
   */
  residual?(base: Base, config: Config): Start | undefined;
  /** The adapted layer's output: `base(x)`, changed. */
  forward(x: Tensor, base: Base, p: Values<Name | Shared, Optional>, config: Config, use: Use): Tensor;
  /** What of the model's inputs is looked at, for `Use.since`, `Use.tasks` or `Use.pass`. */
  readonly readsText?: "words" | "tasks" | "pass";
  /** Of several adapters of this kind the later one is nearer to the layer; PEFT's order where its forward pass turns x, one by one. */
  readonly laterIsInner?: true;
  /** W′ − W in the orientation of `base.weight`, when the method is a change of the weight. */
  delta?(base: Base, p: Values<Name | Shared, Optional>, config: Config, scale: Scale): Tensor;
  /**
   * Values that parameters are moved to whenever they are used in training, without a gradient: the nearest that are allowed.
   * `null` where the config allows all.
   */
  project?(base: Base, p: Values<Name, Optional>, config: Config): { readonly [K in Name | Optional]?: Tensor } | null;
  /** Of a parameter, the rows or columns that are in the file; all of it when absent or `null`. `config` is the adapter's. */
  savedPart?(
    name: Name | Optional,
    path: string,
    config: Config,
  ): { readonly axis: number; readonly kept: readonly boolean[] } | null;
  /** b′ − b, when the method is a change of the bias, too; called for layers that have one. `null` when it is none with this config. */
  biasDelta?(base: Base, p: Values<Name | Shared, Optional>, config: Config, scale: Scale): Tensor | null;
}

/** Parameters that all layers of an adapter share. In the file they stand directly under `base_model.`. */
export interface SharedParameters<Config> {
  /** As those of a layer. */
  readonly files: Readonly<Record<string, string>>;
  /** @param bases the layers that are adapted */
  parameters(bases: readonly Base[], config: Config): Readonly<Record<string, ParameterSpec>>;
  initialise(bases: readonly Base[], config: Config, random: TorchGenerator): Start["values"];
  /** Whether they are in the file; otherwise loading computes them again. Always, when absent. */
  saved?(config: Config): boolean;
}

type Values<Name extends string, Optional extends string> = { readonly [K in Name]: Tensor } & {
  readonly [K in Optional]?: Tensor;
};

/** `encoder.*` for the names `encoder.0`, `encoder.1` …, of which the config says how many there are. */
type Unnumbered<Name extends string> = Name extends `${infer Before}.${number}` ? `${Before}.*` : Name;

/**
 * What a parameter is called in the file, after the path: the entry of its name, or that of `encoder.*` for `encoder.2`, and for
 * `encoder.norm.weight`.
 */
export function fileOf(files: Readonly<Record<string, string>>, name: string): string {
  const ways = [/^(.*\.)([^.]+)$/, /^(\w+\.)(.*)$/].map((way) => way.exec(name) ?? []);
  const [, before, rest = ""] = ways.find(([, start]) => `${start}*` in files) ?? [];
  return (files[name] ?? files[`${before}*`]?.replace("*", rest)) as string;
}

/** A layer method whose names are not known to the type system. */
export type AnyLayerMethod = LayerMethod<AnyConfig, string>;

/** Another form that a file may have. */
export interface PackedFile<Config> {
  /** The tensors that are written in place of these; the same where the config does not ask for it. */
  pack(tensors: ReadonlyMap<string, TensorToWrite>, config: Config): ReadonlyMap<string, TensorToWrite>;
  /** The way back. @throws {ConfigError} when the adapter is to be trained, and cannot be after that */
  unpack(tensors: ReadonlyMap<string, StoredTensor>, config: Config, trainable: boolean): ReadonlyMap<string, StoredTensor>;
}

/** A model of an adapter's own, beside the one that it is on. */
export interface Companion {
  /** Its parameters, by names that `shared.files` knows; they are saved, loaded and trained with those that layers share. */
  readonly parameters: Readonly<Record<string, ParameterSpec>>;
  draw(random: TorchGenerator): Start["values"];
  /** What `Use.companion` is. */
  build(parameters: Readonly<Record<string, Parameter>>): unknown;
}

/** One member of the adapter family. */
export interface MethodDefinition<Schema extends ConfigSchema, Config = MethodConfig<Schema>> {
  /** The keys of `adapter_config.json`, with PEFT's name of the method and the defaults. */
  readonly schema: Schema;
  readonly papers: readonly [`https://${string}`, ...`https://${string}`[]];
  /** What becomes of the weight W, or of the output y. */
  readonly formula: string;
  /** The method's own keys (in camelCase) that do something here, all when absent. Others are refused unless they have their default. */
  readonly keys?: readonly (keyof Config & string)[];
  /** Maps from patterns of module paths to values, and the key whose value they replace: `rankPattern: "r"`. */
  readonly patterns?: Readonly<Partial<Record<keyof Config & string, keyof Config & string>>>;
  /** The method with the same PEFT name that this is another form of; its function gives this one, too, for a config that means it. */
  readonly variantOf?: Method<Schema>;
  /** What tells it from that one; defaults that cannot be changed: `{ useDora: true }`. */
  readonly variant?: Partial<Config>;
  /** Whether a config means this variant; whether it has the variant's values, when absent. */
  isMeant?(config: Config): boolean;
  /** @throws {ConfigError} for values that contradict each other */
  check?(config: Config): void;
  /** Default targets by model type, where they differ from the common table; or chosen from the modules. */
  readonly targets?: TargetTable | ((modules: ReadonlyMap<string, Module>) => readonly string[] | string);
  /** Paths of the targets among those of all modules, where the rules are not the common ones. @throws {ConfigError} when there are too few */
  choose?(paths: readonly string[], config: Config): readonly string[];
  /** The config with what depends on the model's type filled in, as it is saved. */
  complete?(config: Config, modelType: string | undefined): Config;
  /** PEFT saves `fan_in_fan_out` as the caller said, right or wrong. */
  readonly leavesOrientation?: true;
  /** Keys of a file's config that PEFT has ignored, although they are not at their defaults. */
  ignored?(config: Config): readonly (keyof Config & string)[];
  /** What is odd about such an adapter when it comes from a file; a warning. */
  whenLoaded?(config: Config): string | undefined;
  /** A fresh adapter with this config changes nothing. Absent where none does. */
  startsAtZero?(config: Config): boolean;
  /** PEFT leaves it to the caller to add the penalty. */
  readonly penaltyIsOptional?: true;
  /** What is added to the loss. @param layers the values of each adapted layer */
  penalty?(layers: readonly Readonly<Record<string, Tensor>>[], config: Config): Tensor;
  readonly shared?: SharedParameters<Config>;
  /** A model of its own that runs beside the model. @throws {ConfigError} for a model that can have none */
  companion?(model: Module, config: Config): Companion;
  /** What comes out for one row of a batch depends on the others, so that rows cannot have adapters of their own. */
  readonly mixesRows?: true;
  /**
   * What the config of each layer has besides or in place of the adapter's, where that depends on the other layers or on the weight; as
   * `warning` what is odd about the layer. @param kept what `keptInFile` has found, when the adapter comes from a file
   */
  perLayer?(bases: readonly Base[], config: Config, kept?: KeptInFile): readonly AnyConfig[];
  /** What a file's tensors say of the layers that neither config nor weight does. */
  keptInFile?(tensors: ReadonlyMap<string, StoredTensor>, config: Config): KeptInFile | Promise<KeptInFile>;
  readonly packed?: PackedFile<Config>;
  /** What changes it during training besides the optimiser. */
  readonly schedule?: MethodSchedule;
  /** The targets, of any class, are trained as a whole; in the file this stands before their parameters' names. `layers` is empty then. */
  readonly whole?: string;
  readonly layers: { readonly [Kind in LayerKind]?: AnyLayerMethod };
  /** Virtual tokens in front of every text, in place of a change of layers; `layers` is empty then. */
  readonly prompt?: AnyPromptMethod;
  /** How layers follow that share the weight of the input embedding, when that is a target: with its parameters. */
  readonly tied?: { readonly layers: { readonly [Kind in LayerKind]?: AnyLayerMethod } };
  /** Options for the laws to try on a layer of these sizes, or of multiples of them; targets are theirs. `null` where none fit. */
  samples(draw: Draw, layer: SampledLayer): Partial<Config> | null;
}

/** A layer for which the laws want options; sizes are as in `Base`. */
export interface SampledLayer {
  readonly in: number;
  readonly out: number;
  /** Of a convolution. */
  readonly groups?: number;
  /** Of its kernel. */
  readonly places?: number;
  readonly dilated?: boolean;
}

/** What goes into the config of each layer besides the adapter's, by path. */
export type KeptInFile = ReadonlyMap<string, AnyConfig>;

/** A config together with its method: what `attach` takes. */
export interface AdapterConfig<Schema extends ConfigSchema = ConfigSchema> {
  readonly method: Method<Schema>;
  readonly config: MethodConfig<Schema>;
  /** For initialisers that depend on data; see `calibrateEva` and its kin. */
  readonly calibration?: Calibration;
}

/** A definition that is called with options, `lora({ r: 16 })`, to give a checked config. */
export interface Method<Schema extends ConfigSchema = ConfigSchema, Config = MethodConfig<Schema>>
  extends MethodDefinition<Schema, Config> {
  /** @throws {ConfigError} for unknown keys, wrong values, and keys that do nothing here yet */
  (options?: Partial<Config>): AdapterConfig<Schema>;
  /** PEFT's name. */
  readonly peftType: Schema["peftType"];
  readonly keys: readonly (keyof Config & string)[];
  /** Other forms of it, as far as they are loaded. */
  readonly variants: readonly AnyMethod[];
}

/** Default targets by model type. */
type TargetTable = Readonly<Record<string, readonly string[] | string>>;

/** A method of which only the interface is known. */
// biome-ignore lint/suspicious/noExplicitAny: the config's type is the method's own business
export type AnyMethod = Method<any, any>;

/**
 * Makes a definition callable: `lora({ r: 16 })` gives a checked config, and the definition's parts are properties of the
 * function. See methods/lora.ts.
 */
export function defineMethod<Schema extends ConfigSchema>(definition: MethodDefinition<Schema>): Method<Schema> {
  requireKind("defineMethod", "an object", { definition, schema: (definition as Partial<typeof definition> | null)?.schema });
  const { schema, variantOf } = definition;
  requireKind("defineMethod", "an object", { "schema.keys": schema.keys, layers: definition.layers });
  const variants: AnyMethod[] = [];
  const method = (options: AnyConfig = {}): ReturnType<AnyMethod> => {
    requireKind(wordMethod(schema), "an object", { options });
    const meant = meantVariant(made, options);
    if (meant !== made) return meant(options);
    const config = checkedConfig(made, options);
    checkLayers(wordMethod(schema), config);
    definition.check?.(config as MethodConfig<Schema>);
    const adapter = { method: made, config: config as MethodConfig<Schema> };
    return showAs(adapter, () => wordConfig(schema, config));
  };
  const made: AnyMethod = Object.assign(method, { keys: ownKeys(schema), ...definition, peftType: schema.peftType, variants });
  showAs(made, () => `${schema.peftType}: ${definition.formula}`);
  if (variantOf) (variantOf.variants as AnyMethod[]).push(made);
  return made;
}

/**
 * The method itself, or the one of its variants that the options ask for.
 * @throws {ConfigError} where they ask for two, or for another than a variant that was called by name
 */
function meantVariant(method: AnyMethod, options: AnyConfig): AnyMethod {
  const { variantOf, schema } = method;
  const family: readonly AnyMethod[] = (variantOf ?? method).variants;
  if (family.length === 0) return method;
  const given = Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
  const config: AnyConfig = { ...toCamel(defaultConfig(schema)), ...method.variant, ...given };
  const means = ({ variant, isMeant }: AnyMethod): boolean =>
    isMeant?.(config) ?? Object.entries(variant ?? {}).every(([key, value]) => config[key] === value);
  const keyOf = ({ variant }: AnyMethod) => Object.keys(variant ?? {})[0] as string;
  const meant = family.filter(means);
  const [first, second] = meant;
  const operation = wordMethod(schema);
  if (first && second)
    throw new ConfigError(
      `\`${keyOf(first)}\` and \`${keyOf(second)}\` are two forms of ${schema.peftType}, of which an adapter has one.`,
      { operation, got: options, hint: "Leave one of them out." },
    );
  if (variantOf && first !== method)
    throw new ConfigError(`\`${keyOf(method)}\` (= ${wordJson(config[keyOf(method)])}) is not what this method is.`, {
      operation,
      got: options,
      hint: `Leave it out, or call ${operation}.`,
    });
  return first ?? method;
}
