/**
 * How GGUF stores elements: in blocks of a few bytes that share a scale. One entry per type, named and laid out as in ggml.
 *
 * In the formulas d and m are float16 numbers of the block, q a stored integer, s and t the integer scale and minimum of one part
 * of a block of 256.
 *
 * @see https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h (block_q4_0, …), ggml-quants.c (dequantize_row_q4_0, …)
 */
import { fromFloat16Bits } from "../graph/dtype.ts";
import type { lowBitBlocks } from "./gguf-low-bit.ts";
import type { StoredDType } from "./stored-dtype.ts";

/** Writes the elements of the block that begins at byte `at` to `out`, from index `to` on. */
export type DecodeBlock = (bytes: Uint8Array, at: number, out: Float32Array, to: number) => void;

/** A type of elements: the size of its blocks, and how one is read. */
export interface BlockFormat {
  /** What ggml calls the type. */
  readonly name: string;
  /** Elements of a block; a row of a tensor is a whole number of blocks. */
  readonly elements: number;
  /** Bytes of a block. */
  readonly bytes: number;
  /** For single elements: what safetensors files call the type. */
  readonly stored?: StoredDType;
  /** For blocks, which become float32; a function, or the name of one in a module that is loaded when it is needed. */
  readonly decode?: DecodeBlock | keyof typeof lowBitBlocks;
}

/** A float16 number. */
export const half = (bytes: Uint8Array, at: number): number =>
  fromFloat16Bits((bytes[at] as number) | ((bytes[at + 1] as number) << 8));
const signed = (byte: number): number => (byte << 24) >> 24;

/** Added to any number leaves it as it is; 0 would make 0 of −0. */
const nothing = -0;

/** Elements i and i + 16 share a byte: the lower four bits are of the first. y = d·(q − shift) + m */
const pairs =
  (shift: number, minimum: boolean): DecodeBlock =>
  (bytes, at, out, to) => {
    const d = half(bytes, at);
    const m = minimum ? half(bytes, at + 2) : nothing;
    const codes = at + (minimum ? 4 : 2);
    for (let i = 0; i < 16; i++) {
      const byte = bytes[codes + i]!;
      out[to + i] = d * ((byte & 15) - shift) + m;
      out[to + i + 16] = d * ((byte >> 4) - shift) + m;
    }
  };

/** The same with a fifth bit for each element, in 32 bits of their own. */
const pairsAndBit =
  (shift: number, minimum: boolean): DecodeBlock =>
  (bytes, at, out, to) => {
    const d = half(bytes, at);
    const m = minimum ? half(bytes, at + 2) : nothing;
    const high = at + (minimum ? 4 : 2);
    for (let i = 0; i < 16; i++) {
      const byte = bytes[high + 4 + i]!;
      const first = (byte & 15) | (((bytes[high + (i >> 3)]! >> (i & 7)) & 1) << 4);
      const second = (byte >> 4) | (((bytes[high + 2 + (i >> 3)]! >> (i & 7)) & 1) << 4);
      out[to + i] = d * (first - shift) + m;
      out[to + i + 16] = d * (second - shift) + m;
    }
  };

/** y = d·q */
const eightBits: DecodeBlock = (bytes, at, out, to) => {
  const d = half(bytes, at);
  for (let i = 0; i < 32; i++) out[to + i] = d * signed(bytes[at + 2 + i]!);
};

/** 16 parts of 16: y = d·s·q − m·t, q of 2 bits */
const twoBits: DecodeBlock = (bytes, at, out, to) => {
  const d = half(bytes, at + 80);
  const m = half(bytes, at + 82);
  for (let i = 0; i < 256; i++) {
    const scales = bytes[at + (i >> 4)]!;
    const q = (bytes[at + 16 + (i >> 7) * 32 + (i & 31)]! >> (((i >> 5) & 3) * 2)) & 3;
    out[to + i] = d * (scales & 15) * q - m * (scales >> 4);
  }
};

/** 16 parts of 16: y = d·(s − 32)·(q − 4), q of 3 bits whose highest lie apart */
const threeBits: DecodeBlock = (bytes, at, out, to) => {
  const d = half(bytes, at + 108);
  for (let i = 0; i < 256; i++) {
    const part = i >> 4;
    const low = part < 8 ? bytes[at + 96 + part]! & 15 : bytes[at + 88 + part]! >> 4;
    const scale = (low | (((bytes[at + 104 + (part & 3)]! >> ((part >> 2) * 2)) & 3) << 4)) - 32;
    const q = (bytes[at + 32 + (i >> 7) * 32 + (i & 31)]! >> (((i >> 5) & 3) * 2)) & 3;
    const high = (bytes[at + (i & 31)]! >> (i >> 5)) & 1;
    out[to + i] = d * scale * (q - (high ? 0 : 4));
  }
};

/** 8 parts of 32: y = d·s·q − m·t, q of 4 bits, or of 5 whose highest lie apart; s and t have 6 bits, in 12 bytes */
const parts =
  (fifth: boolean): DecodeBlock =>
  (bytes, at, out, to) => {
    const d = half(bytes, at);
    const m = half(bytes, at + 2);
    const packed = at + 4;
    const high = at + 16;
    const codes = fifth ? at + 48 : at + 16;
    for (let part = 0; part < 8; part++) {
      const [scale, minimum] = scaleAndMinimum(bytes, packed, part);
      const shift = (part & 1) * 4;
      const row = codes + (part >> 1) * 32;
      const [step, offset] = [d * scale, Math.fround(m * minimum)];
      for (let i = 0; i < 32; i++) {
        const q = ((bytes[row + i]! >> shift) & 15) | (fifth ? ((bytes[high + i]! >> part) & 1) << 4 : 0);
        out[to + part * 32 + i] = Math.fround(step * q) - offset;
      }
    }
  };

/** Parts 0–3 have six bits of a byte each; parts 4–7 four bits of a third row, and the two bits that the first four leave. */
function scaleAndMinimum(bytes: Uint8Array, at: number, part: number): [number, number] {
  if (part < 4) return [bytes[at + part]! & 63, bytes[at + 4 + part]! & 63];
  const both = bytes[at + 4 + part]!;
  return [(both & 15) | ((bytes[at + part - 4]! >> 6) << 4), (both >> 4) | ((bytes[at + part]! >> 6) << 4)];
}

/** 16 parts of 16: y = d·s·(q − 32), q of 6 bits whose two highest lie apart */
const sixBits: DecodeBlock = (bytes, at, out, to) => {
  const d = half(bytes, at + 208);
  for (let i = 0; i < 256; i++) {
    const low = (bytes[at + (i >> 7) * 64 + (i & 63)]! >> (((i >> 6) & 1) * 4)) & 15;
    const high = (bytes[at + 128 + (i >> 7) * 32 + (i & 31)]! >> (((i >> 5) & 3) * 2)) & 3;
    out[to + i] = d * signed(bytes[at + 192 + (i >> 4)]!) * ((low | (high << 4)) - 32);
  }
};

const plain = (name: StoredDType, bytes: number): BlockFormat => ({ name, elements: 1, bytes, stored: name });
const blocks = (name: string, elements: number, bytes: number, decode: DecodeBlock): BlockFormat => ({
  name,
  elements,
  bytes,
  decode,
});
const rare = (name: keyof typeof lowBitBlocks, elements: number, bytes: number): BlockFormat => ({
  name,
  elements,
  bytes,
  decode: name,
});

/** By the number that stands in the file (`ggml_type`). Q8_1 and Q8_K, which ggml has for activations only, are left out. */
export const blockFormats: ReadonlyMap<number, BlockFormat> = new Map([
  [0, plain("F32", 4)],
  [1, plain("F16", 2)],
  [2, blocks("Q4_0", 32, 18, pairs(8, false))],
  [3, blocks("Q4_1", 32, 20, pairs(0, true))],
  [6, blocks("Q5_0", 32, 22, pairsAndBit(16, false))],
  [7, blocks("Q5_1", 32, 24, pairsAndBit(0, true))],
  [8, blocks("Q8_0", 32, 34, eightBits)],
  [10, blocks("Q2_K", 256, 84, twoBits)],
  [11, blocks("Q3_K", 256, 110, threeBits)],
  [12, blocks("Q4_K", 256, 144, parts(false))],
  [13, blocks("Q5_K", 256, 176, parts(true))],
  [14, blocks("Q6_K", 256, 210, sixBits)],
  [16, rare("IQ2_XXS", 256, 66)],
  [17, rare("IQ2_XS", 256, 74)],
  [18, rare("IQ3_XXS", 256, 98)],
  [19, rare("IQ1_S", 256, 50)],
  [20, rare("IQ4_NL", 32, 18)],
  [21, rare("IQ3_S", 256, 110)],
  [22, rare("IQ2_S", 256, 82)],
  [23, rare("IQ4_XS", 256, 136)],
  [24, plain("I8", 1)],
  [25, plain("I16", 2)],
  [26, plain("I32", 4)],
  [27, plain("I64", 8)],
  [28, plain("F64", 8)],
  [29, rare("IQ1_M", 256, 56)],
  [30, plain("BF16", 2)],
  [34, rare("TQ1_0", 256, 54)],
  [35, rare("TQ2_0", 256, 66)],
  [39, rare("MXFP4", 32, 17)],
  [40, rare("NVFP4", 64, 36)],
  [41, rare("Q1_0", 128, 18)],
  [42, rare("Q2_0", 64, 18)],
]);
