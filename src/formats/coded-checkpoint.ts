/** Which of a checkpoint's weights are codes beside scales, and how they become weights. */
import { widenScaled } from "./scaled-weight.ts";
import type { Checkpoint } from "./sharded.ts";

/** What `config.json` says of codes, where the different tools have it. */
export const quantisationOf = (config: Readonly<Record<string, unknown>>): unknown =>
  config["quantization_config"] ?? config["compression_config"] ?? config["quantization"];

/**
 * The checkpoint with weights in the place of codes and scales. Those of bitsandbytes and of gpt-oss' experts stay what they are.
 *
 * @throws {FormatError} when parts are missing or do not fit
 */
export async function widenCodes(from: Checkpoint, config: Readonly<Record<string, unknown>>): Promise<Checkpoint> {
  const quantization = quantisationOf(config);
  const isPacked = [...from.tensors.keys()].some((name) => /\.(qweight|weight_packed|weight_scale_2|scales)$/.test(name));
  const unpacked = isPacked ? await (await import("./packed-weight.ts")).widenPacked(from, quantization) : from;
  return widenScaled(unpacked, quantization);
}
