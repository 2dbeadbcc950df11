/**
 * Experts in four bits, as gpt-oss' checkpoints have them: beside `<parameter>_blocks`, two values to a byte, lie `<parameter>_scales`, an
 * exponent of two for each 32 values along what goes in. The codes stay what they are.
 *
 * @see https://arxiv.org/abs/2310.10537, MXFP4; transformers `integrations/mxfp4.py`, `convert_moe_packed_tensors`
 */
import { FormatError, wordJson, wordShape } from "../errors.ts";
import { sameShape } from "../graph/shape.ts";
import type { QuantisedWeight } from "../nn/quantiser.ts";
import type { StoredTensor } from "./safetensors.ts";

const size = 32;
/** By bit pattern: a sign, two bits of exponent and one of mantissa. */
export const fourBitFloats = Float32Array.of(
  ...[1, -1].flatMap((sign) => [0, 0.5, 1, 1.5, 2, 3, 4, 6].map((value) => sign * value)),
);
const key = /^(.*)_(?:blocks|scales)$/;

/** Paths of the parameters that a checkpoint holds so, from the names of its tensors. */
export const mxfp4Paths = (names: Iterable<string>): string[] => [
  ...new Set([...names].flatMap((name) => key.exec(name)?.[1] ?? [])),
];

/**
 * Takes the matrices of all experts out of `stored`, as one [experts · out, in].
 *
 * @param stored by path in the model
 * @param shape  [experts, out, in] by config.json
 * @throws {FormatError} when a part is missing or of another shape
 */
export async function takeMxfp4(
  stored: Map<string, StoredTensor>,
  path: string,
  [experts, out, into]: readonly [number, number, number],
  source: string,
): Promise<QuantisedWeight> {
  const take = async (part: string, expected: readonly number[]): Promise<Uint8Array> => {
    const name = `${path}_${part}`;
    const found = stored.get(name);
    const got = found && (found.storedDType === "U8" ? wordShape(found.shape) : found.storedDType);
    if (!found || found.storedDType !== "U8" || !sameShape(found.shape, expected))
      throw new FormatError(`${wordJson(name)} of ${source} is ${got ?? "missing"}, ${wordShape(expected)} bytes belong there.`, {
        operation: "loadModel",
        expected,
        got: found?.shape,
      });
    stored.delete(name);
    return (await found.load()) as Uint8Array;
  };
  const blocks = into / size;
  const bytes = await take("blocks", [experts, out, blocks, size / 2]);
  const exponents = await take("scales", [experts, out, blocks]);
  return {
    type: "fp4",
    shape: [experts * out, into],
    blockSize: size,
    // the first of two values is in the lower bits here, in the higher ones elsewhere
    codes: bytes.map((byte) => (byte >> 4) | (byte << 4)),
    table: fourBitFloats,
    absmax: Float32Array.from(exponents, (exponent) => 2 ** (exponent - 127)),
  };
}
