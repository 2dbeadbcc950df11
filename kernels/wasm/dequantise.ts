/**
 * Weights from codes of 4 or 8 bits: table[code] · scale of the block. A table of 16 floats is four vectors of bytes, first bytes to
 * last bytes, so that one swizzle each looks up 16 codes; what comes out is put together to floats. 8-bit codes are looked up one by one:
 * they are the scales of scales, one for many values.
 */
import { type Expression, type FunctionBuilder, load, ModuleBuilder } from "../../src/devices/wasm/assembler.ts";
import { beginKernel, type Integer, numbered, smaller } from "./argument-block.ts";
import { SimdBasics, type V128 } from "./simd-basics.ts";

/** The argument block. A task does `chunk` values, a multiple of the block. */
export const argument = numbered("codes", "table", "scales", "out", "count", "block", "chunk");

/** Values that are looked up at once: 16 bytes of two codes. */
const stride = 32;

/** A module with one kernel, `dequantise`. */
export function dequantiseModule(bits: 4 | 8, options: { readonly shared: boolean }): Uint8Array<ArrayBuffer> {
  const module = new ModuleBuilder(options);
  const f = module.function("dequantise", ["i32", "i32", "i32"]);
  const { task, integer, word } = beginKernel(f);
  const simd = new SimdBasics(f, false);
  const table = integer(word(argument.table));
  const planes = bits === 4 ? planesOf(f, simd, table) : [];
  const first = integer(["i32.mul", task, word(argument.chunk)]);
  const block = integer(word(argument.block));
  const scale = integer(["i32.add", word(argument.scales), ["i32.mul", ["i32.div_u", first, block], 4]]);
  const code = integer(["i32.add", word(argument.codes), bits === 4 ? ["i32.shr_u", first, 1] : first]);
  const out = integer(["i32.add", word(argument.out), ["i32.mul", first, 4]]);
  const left = integer(["i32.sub", word(argument.count), first]);
  const chunk = integer(word(argument.chunk));
  f.set(left, smaller(left, chunk));
  const inBlock = integer();
  const one = f.local("f32");
  /** One value, its code given. */
  const single = (value: Expression) => {
    f.store("f32.store", out, ["f32.mul", load("f32.load", ["i32.add", table, ["i32.shl", value, 2]]), one]);
    f.increment(out, 4).increment(inBlock, -1);
  };
  f.while(["i32.gt_s", left, 0], () => {
    f.set(inBlock, smaller(block, left));
    f.set(left, ["i32.sub", left, inBlock]);
    f.set(one, load("f32.load", scale));
    if (bits === 4) {
      const four = simd.keep(["f32x4.splat", one]);
      f.while(["i32.ge_s", inBlock, stride], () => {
        const bytes = simd.load(code);
        const high = simd.keep(["i8x16.shr_u", bytes, 4]);
        const low = simd.keep(["v128.and", bytes, f.vectorConstant(new Array<number>(16).fill(15))]);
        for (const half of [0, 1]) {
          const codes = interleave(f, simd, 1, high, low)[half] as V128;
          floatsOf(f, simd, planes, codes).forEach((values, i) => simd.store(out, simd.mul(values, four), 64 * half + 16 * i));
        }
        f.increment(code, stride / 2)
          .increment(out, 4 * stride)
          .increment(inBlock, -stride);
      });
      // the rest of the last block
      f.while(["i32.gt_s", inBlock, 0], () => {
        const byte = integer(load("i32.load8_u", code));
        single(["i32.shr_u", byte, 4]);
        f.if(["i32.gt_s", inBlock, 0], () => single(["i32.and", byte, 15]));
        f.increment(code, 1);
      });
    } else
      f.while(["i32.gt_s", inBlock, 0], () => {
        single(load("i32.load8_u", code));
        f.increment(code, 1);
      });
    f.increment(scale, 4);
  });
  return module.bytes();
}

/** Elements of `width` bytes of two vectors by turns: the first eight (of one byte) pairs, then the others. */
function interleave(f: FunctionBuilder, simd: SimdBasics, width: number, x: V128, y: V128): readonly [V128, V128] {
  const from = (start: number) =>
    Array.from({ length: 16 }, (_, i) => {
      const element = Math.floor(i / (2 * width));
      return start + element * width + (i % width) + (i % (2 * width) >= width ? 16 : 0);
    });
  const half = (start: number) => simd.keep(() => f.shuffleBytes(from(start), x, y));
  return [half(0), half(8)];
}

/** Byte b of the 16 floats of a table in vector b. */
export function planesOf(f: FunctionBuilder, simd: SimdBasics, table: Integer): V128[] {
  const rows = [0, 1, 2, 3].map((i) => simd.load(table, 16 * i)) as [V128, V128, V128, V128];
  return [0, 1, 2, 3].map((byte) => {
    const bytesOf = (x: V128, y: V128) =>
      simd.keep(() =>
        f.shuffleBytes(
          Array.from({ length: 16 }, (_, i) => 4 * (i % 8) + byte),
          x,
          y,
        ),
      );
    const [low, high] = [bytesOf(rows[0], rows[1]), bytesOf(rows[2], rows[3])];
    return simd.keep(() => f.shuffleBytes([0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23], low, high));
  });
}

/** The floats of 16 codes, four to a vector. @param relaxed whether the engine has the lookup that leaves indices above 15 open */
export function floatsOf(f: FunctionBuilder, simd: SimdBasics, planes: readonly V128[], codes: V128, relaxed = false): V128[] {
  const swizzle = relaxed ? "i8x16.relaxed_swizzle" : "i8x16.swizzle";
  const [b0, b1, b2, b3] = planes.map((plane) => simd.keep([swizzle, plane, codes])) as [V128, V128, V128, V128];
  const lower = interleave(f, simd, 1, b0, b1);
  const upper = interleave(f, simd, 1, b2, b3);
  return [0, 1].flatMap((half) => interleave(f, simd, 2, lower[half] as V128, upper[half] as V128));
}
