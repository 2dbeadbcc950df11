/**
 * Cartridges one behind the other: the model sees the tokens of all of them, as if the texts that they stand for stood one after the other. No
 * training is needed for it (the paper, §5.3); each was made at the first positions, though. PEFT's `compose_cartridge_adapters`.
 *
 * @see https://arxiv.org/abs/2506.06266
 */
import { ConfigError, requireKind, under } from "../../errors.ts";
import type { ModelSource } from "../../formats/model-source.ts";
import { type ConfigSchema, readAdapter, writeAdapter } from "../../formats/peft-adapter.ts";
import type { FolderTarget } from "../../formats/writable-folder.ts";
import { toFloat32 } from "../../graph/dtype.ts";
import { cartridge } from "../methods/cartridge.ts";

/** What cartridges of one model have in common. */
const common = ["task_type", "token_dim", "num_layers", "num_attention_heads", "num_transformer_submodules"] as const;

/**
 * Writes the cartridges of several folders into one, in this order. Of the whole only those tokens stay frozen that the first one froze.
 *
 * @param sources two folders or more, repositories, or `{ files }`
 * @returns the folder's path or name
 * @throws {ConfigError} when one is no cartridge, or they are not for one model; nothing is written then
 * @example
 * await composeCartridges(["cartridges/laws", "cartridges/letters"], "cartridges/both");
 */
export async function composeCartridges(sources: readonly ModelSource[], folder: FolderTarget): Promise<string> {
  const operation = "composeCartridges";
  requireKind(operation, "a list", { sources });
  if (sources.length < 2) throw new ConfigError("needs two cartridges or more.", { operation, got: sources.length });
  const read = [];
  for (const source of sources) read.push(await under(operation, () => readAdapter<ConfigSchema>(source, [cartridge.schema])));
  const configs = read.map(({ config }) => config as Readonly<Record<string, unknown>>);
  const [first] = configs as [(typeof configs)[number]];
  for (const [i, config] of configs.entries())
    for (const key of common)
      if (config[key] !== first[key])
        throw new ConfigError(`cartridge ${i + 1} has \`${key}\` ${config[key]}, the first one ${first[key]}.`, {
          operation,
          expected: first[key],
          got: config[key],
          hint: "Cartridges can be put together when they are for the same model.",
        });
  const tables = [];
  for (const [i, { tensors }] of read.entries()) {
    const table = tensors.get("prompt_embeddings");
    if (table?.shape.length !== 2 || (table.shape[1] !== tables[0]?.shape[1] && i > 0))
      throw new ConfigError(`the file of cartridge ${i + 1} holds no table of the first one's width.`, {
        operation,
        got: table?.shape,
      });
    tables.push({ shape: table.shape as readonly [number, number], data: toFloat32(await table.load(), table.dtype) });
  }
  const rows = tables.reduce((sum, { shape }) => sum + shape[0], 0);
  const data = new Float32Array(tables.reduce((sum, each) => sum + each.data.length, 0));
  let at = 0;
  for (const table of tables) {
    data.set(table.data, at);
    at += table.data.length;
  }
  const width = tables[0]?.shape[1] as number;
  const written = {
    schema: cartridge.schema as ConfigSchema,
    config: { ...first, num_virtual_tokens: rows },
    tensors: new Map([["prompt_embeddings", { dtype: "float32" as const, shape: [rows, width], data }]]),
  };
  return under(operation, () => writeAdapter(folder, written));
}
