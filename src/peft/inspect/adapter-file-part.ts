/** An adapter's folder without its model: what its tensors say alone. */
import { currentDevice, upload } from "../../compile/program.ts";
import { ConfigError, under } from "../../errors.ts";
import type { ModelSource } from "../../formats/model-source.ts";
import { type ConfigSchema, readAdapter } from "../../formats/peft-adapter.ts";
import type { StoredTensor } from "../../formats/safetensors.ts";
import { matmul } from "../../graph/contraction.ts";
import { toFloat32 } from "../../graph/dtype.ts";
import { reshape } from "../../graph/movement.ts";
import type { Tensor } from "../../graph/node.ts";
import { withoutIgnored } from "../contradiction.ts";
import { findInitialiser } from "../initialiser.ts";
import type { AnyConfig } from "../method-config.ts";
import { toCamel } from "../method-config.ts";
import { knownMethods } from "../method-registry.ts";
import { type LoraConfig, lora, scaling } from "../methods/lora.ts";
import { patternValue } from "../target.ts";
import { times } from "../weight-change.ts";
import type { Part } from "./part.ts";

/** An adapter as its folder has it. */
export interface AdapterFolder {
  /** PEFT's name of the method. */
  readonly method: string;
  readonly config: AnyConfig;
  /** Reads the tensors. Only plain LoRA's changes follow from them; those that begin at the weights are not known without these. */
  parts(): Promise<readonly Part[]>;
}

/** Opens an adapter's folder; the tensors are not read yet. Errors are those of `loadAdapter` for what is no adapter. */
export async function openAdapter(operation: string, source: ModelSource): Promise<AdapterFolder> {
  const known = knownMethods();
  const schemas = [...new Set(known.map(({ schema }) => schema))];
  const file = await under(operation, () => readAdapter<ConfigSchema>(source, schemas));
  const of = known.find(({ schema, variantOf }) => schema === file.schema && !variantOf);
  if (!of) throw new ConfigError(`no method handles this ${file.schema.peftType} config.`, { operation, got: file.config });
  const given = toCamel(file.config);
  const { method, config } = of({ ...withoutIgnored(given, of.ignored?.(given)).config, peftVersion: null });
  const c = config as LoraConfig;
  const isProduct = method === lora && !findInitialiser(c.initLoraWeights).residual && !c.targetParameters?.length;
  const { peftType } = method;
  return {
    method: peftType,
    config,
    async parts() {
      const parts: Part[] = [];
      for (const [key, tensor] of file.tensors) {
        const other = isProduct ? file.tensors.get(key.replace(/\.lora_(embedding_)?A(?=\.weight$|$)/, ".lora_$1B")) : undefined;
        if (other && other !== tensor) parts.push(productPart(pathOf(key), peftType, c, await read(tensor), await read(other)));
        else if (!isProduct || !/\.lora_(embedding_)?B(\.weight)?$/.test(key))
          parts.push({
            ...{ path: pathOf(key), method: peftType, rank: null, scale: null },
            ...{ parameters: [await read(tensor)], change: null, weight: null },
          });
      }
      return parts;
    },
  };
}

const pathOf = (key: string): string =>
  key.replace(/^base_model\.(model\.)?/, "").replace(/\.lora_(embedding_)?A(\.weight)?$/, "");

const read = async (tensor: StoredTensor): Promise<Tensor> =>
  upload(currentDevice(), toFloat32(await tensor.load(), tensor.dtype), tensor.shape, "float32");

/** A layer of LoRA. @param A and B as the file has them */
function productPart(path: string, method: string, config: LoraConfig, A: Tensor, B: Tensor): Part {
  const r = A.shape[0] as number;
  const alpha = patternValue(config.alphaPattern, path, "alphaPattern")?.value ?? config.loraAlpha;
  const scale = scaling({ ...config, r, loraAlpha: alpha as number });
  const [out, inner] = [B.shape[0] as number, B.shape[1] as number];
  // in a convolution with groups B has fewer columns, and there is no such matrix
  const change = inner === r ? times(matmul(reshape(B, [out, r]), reshape(A, [r, -1])), scale) : null;
  return { path, method, rank: r, scale, parameters: [A, B], change, weight: null };
}
