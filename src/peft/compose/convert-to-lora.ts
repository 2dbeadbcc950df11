/** Adapters of any method that changes the weight, as LoRA: what serves, mixes and loads everywhere. */
import { ConfigError, checkOptions } from "../../errors.ts";
import type { Tensor } from "../../graph/node.ts";
import { constant } from "../../graph/source.ts";
import type { MatrixSvd } from "../../linalg/svd.ts";
import type { Module } from "../../nn/module.ts";
import { type Adapter, getAdapter } from "../adapted-model.ts";
import {
  biasChangeOf,
  changeOf,
  installFactors,
  loraMethod,
  type NewAdapter,
  planFor,
  refuseOtherThanMatrices,
} from "./lora-adapter.ts";
import { asTensors, rankOfEnergy, svdOfChange, truncated } from "./low-rank.ts";

const operation = "convertToLora";

/** Which adapter becomes a LoRA, and how near. Either a rank or a share of the energy is given. */
export interface ConvertOptions extends NewAdapter {
  readonly adapter: string;
  /** Of every layer; less where a layer is smaller. */
  readonly rank?: number;
  /** In every layer the least rank whose singular values hold this share of Σσ², 0 to 1. */
  readonly energy?: number;
}

/**
 * Makes a LoRA adapter, beside the other one, whose changes are the nearest ones of low rank: B·A ≈ ΔW by singular values, with
 * scaling 1. The other one may be a LoRA, too, whose rank is cut; `inspectAdapter` tells what is lost. A change of the bias goes over as a whole, in `loraBias`. It is the change on this base model, where it depends on that.
 *
 * @returns the new adapter, not active yet
 * @throws {ConfigError} for a method that is no change of the weight; the model is unchanged then
 * @see https://huggingface.co/docs/peft/developer_guides/lora, "Converting to LoRA"
 * @example
 * attach(model, loha({ r: 2, initWeights: false, targetModules: ["q_proj"] }));
 * convertToLora(model, { adapter: "default", energy: 0.99, name: "as-lora" })
 */
export function convertToLora(model: Module, options: ConvertOptions): Adapter {
  checkOptions(operation, options, {
    adapter: "a string",
    rank: "a whole number from 1",
    energy: "a number above 0 up to 1",
    name: "a string",
    trainable: "true or false",
  });
  const { adapter: source, name, rank, energy } = options;
  const adapter = getAdapter(model, source, operation);
  const { config, layers, method, saved, residual, biases } = adapter;
  if ((rank === undefined) === (energy === undefined))
    throw new ConfigError("give either `rank` or `energy`.", { operation, got: { rank, energy } });
  if (saved.size > 0 || biases.size > 0 || residual || layers.size === 0)
    throw new ConfigError(
      `the adapter "${source}" (${method.peftType}) is more than changes of layers, which is all that LoRA is.`,
      {
        operation,
        got: source,
        hint: "Modules or biases that are trained as they are, and starts that take a part of the weights, cannot be converted.",
      },
    );
  refuseOtherThanMatrices(operation, adapter);
  const found = [...layers].map(([path, layer]) => {
    const change = changeOf(operation, layer, source);
    const [values] = svdOfChange(operation, change) as [MatrixSvd];
    const r = rank === undefined ? rankOfEnergy(values.S, energy as number) : Math.min(rank, ...change.shape);
    const factors = truncated(asTensors(values, layer.weight.stored), r);
    return { path, layer, factors, r, bias: biasChangeOf(layer, source) };
  });
  const r = rank ?? Math.max(...found.map((each) => each.r));
  const others = Object.fromEntries(found.filter((each) => each.r !== r).map((each) => [each.path, each.r]));
  const loraBias = found.some(({ bias }) => bias !== null);
  const { targetModules, layersToTransform, layersPattern, baseModelNameOrPath, revision, taskType } = config;
  const chosen = { targetModules, layersToTransform, layersPattern, baseModelNameOrPath, revision, taskType };
  const given = Object.fromEntries(Object.entries(chosen).filter(([, value]) => value !== undefined));
  const converted = loraMethod({ ...given, r, loraAlpha: r, rankPattern: others, alphaPattern: others, loraBias });
  const plan = planFor(model, converted, [...layers.keys()], name);
  const byPath = new Map(found.map((each) => [each.path, each]));
  return installFactors(model, plan, options, (path) => {
    const { factors, layer, bias } = byPath.get(path) as (typeof found)[number];
    return loraBias ? { ...factors, bias: bias ?? noBias(layer.base().out, factors.A) } : factors;
  });
}

const noBias = (out: number, { dtype }: Tensor): Tensor => constant(0, [out], dtype);
