/** What llama.cpp's converter does to tensors, undone. */
import { FormatError, wordJson } from "../errors.ts";
import type { TypedArray } from "../graph/dtype.ts";
import type { GgufTensor } from "./gguf.ts";
import type { StoredTensor } from "./safetensors.ts";

/** What undoes a change of the converter. */
export type Change = (tensor: GgufTensor) => Pick<StoredTensor, "shape" | "load">;

/** The converter puts the two halves of each head that rotary embedding pairs next to each other: row 2i + s was row s·D/2 + i. */
export const pairedRows =
  (heads: number): Change =>
  (tensor) => {
    const [rows = 0, width = 1] = tensor.shape;
    const head = rows / heads;
    if (!Number.isInteger(head / 2))
      throw new FormatError(`${wordJson(tensor.name)} has ${rows} rows, which are not ${heads} heads of pairs.`, {
        operation: "readGguf",
        got: tensor.shape,
      });
    const block = head * width; // rows move within a head, so a head is what is loaded at once
    const load = async (from = 0, to = rows * width) => {
      const first = Math.floor(from / block) * block;
      const stored = await tensor.load(first, Math.ceil(to / block) * block);
      const values = stored.slice();
      for (let start = 0; start < stored.length; start += block)
        for (let i = 0; i < head / 2; i++)
          for (let s = 0; s < 2; s++) {
            const row = start + (2 * i + s) * width;
            values.set(stored.subarray(row, row + width), start + ((s * head) / 2 + i) * width);
          }
      return values.subarray(from - first, to - first);
    };
    return { shape: tensor.shape, load };
  };

/** Norms of Gemma multiply by 1 + w; the converter writes 1 + w. */
export const lessOne: Change = (tensor) => ({
  shape: tensor.shape,
  load: async (from, to) => (await tensor.load(from, to)).map((value: number) => value - 1) as TypedArray,
});

/** A single row, which the converter writes as a list. */
export const asRow: Change = (tensor) => ({ shape: [1, tensor.shape.at(-1) as number], load: tensor.load });

/** [out, in] in the file, [in, out] in the checkpoint. */
export const transposed: Change = (tensor) => {
  const [rows = 1, columns = 1] = tensor.shape;
  const load = async (from = 0, to = rows * columns) => {
    const stored = await tensor.load();
    const values = stored.slice();
    for (let row = 0; row < rows; row++)
      for (let column = 0; column < columns; column++) values[column * rows + row] = stored[row * columns + column]!;
    return values.subarray(from, to);
  };
  return { shape: [columns, rows], load };
};
