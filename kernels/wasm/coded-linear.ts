/**
 * A few rows times a weight of codes, y[m][n] = Σₖ x[m][k] · W[n][k], with every code read once, in place. Of a block the products with
 * what its codes stand for are summed first, and the sum is scaled. Of two codes in a byte the upper ones are even k and the lower ones
 * odd k; x is put into that order beforehand, which is less work than to put the codes into theirs. Sums are taken in an order that
 * depends on K, the block and the number of rows alone.
 */
import { type Expression, type FunctionBuilder, load, ModuleBuilder } from "../../src/devices/wasm/assembler.ts";
import { beginKernel, type Integer, numbered, smaller } from "./argument-block.ts";
import { floatsOf, planesOf } from "./dequantise.ts";
import { SimdBasics, type V128 } from "./simd-basics.ts";

/** Everything the code depends on. */
export interface CodedVariant {
  /** Of x, at most `codedRows`. */
  readonly rows: number;
  /** Four come with a table. */
  readonly bits: 4 | 8;
}

/** Rows of x that one launch takes at most. */
export const codedRows = 4;

/**
 * The argument block. A task does `columnBlock` columns. With a table a scale is for 2^`scaleShift` rounds of
 * 32 codes; without one it is for a row, and the float `unit` for all.
 */
export const argument = numbered(
  ...([
    "x",
    "codes",
    "scales",
    "table",
    "out",
    "K",
    "N",
    "scaleShift",
    "unit",
    "columnBlock",
    "scratch",
    "scratchStride",
  ] as const),
);

/** Values of k a round. */
export const codedRound = 32;
/** Parts of a task's columns that take turns: a processor fetches ahead in each of their pages of memory. */
const parts = 4;

/** Bytes of scratch that a thread needs: x in the order of 4-bit codes. */
export const codedScratchBytes = ({ rows, bits }: CodedVariant, K: number): number => (bits === 4 ? 4 * rows * K : 0) + 64;

/** Sums of one row of the weight with each row of x; the codes and scales of that row, and x as it is read. */
type Dot = (code: Integer, scale: Integer, xRows: readonly Integer[], totals: readonly V128[]) => void;

/** A module with one kernel, `codedLinear`. */
export function codedLinearModule(
  { rows, bits }: CodedVariant,
  options: { readonly shared: boolean; readonly fused: boolean },
): Uint8Array<ArrayBuffer> {
  const module = new ModuleBuilder({ shared: options.shared });
  const f = module.function("codedLinear", ["i32", "i32", "i32"]);
  const { task, args, thread, integer, word } = beginKernel(f);
  const simd = new SimdBasics(f, options.fused);
  const [K, columnBlock] = [integer(word(argument.K)), integer(word(argument.columnBlock))];
  const first = integer(["i32.mul", task, columnBlock]);
  const columns = integer(smaller(columnBlock, integer(["i32.sub", word(argument.N), first])));
  const x = integer(word(argument.x));
  const rounds = integer(["i32.div_u", K, codedRound]);
  if (bits === 4) {
    const turned = integer(["i32.add", word(argument.scratch), ["i32.mul", thread, word(argument.scratchStride)]]);
    emitEvensFirst(f, simd, x, turned, ["i32.mul", rounds, rows]);
    f.set(x, turned);
  }
  const xRows = Array.from({ length: rows }, (_, m) => integer(["i32.add", x, ["i32.mul", ["i32.mul", K, 4], m]]));
  const codeBytes = integer(["i32.shr_u", ["i32.mul", K, bits], 3]);
  const scaleShift = integer(word(argument.scaleShift));
  const scaleBytes = integer(bits === 4 ? ["i32.shl", ["i32.shr_u", rounds, scaleShift], 2] : 4);
  const dot =
    bits === 4
      ? dotOfTable(f, simd, rounds, scaleShift, planesOf(f, simd, integer(word(argument.table))), options.fused)
      : dotOfNumbers(f, simd, rounds, simd.keep(load("v128.load32_splat", args, 4 * argument.unit)));

  const part = integer(["i32.div_u", ["i32.add", columns, parts - 1], parts]);
  const [column, turn, at, code, scale] = [integer(), integer(), integer(), integer(), integer()];
  const xNow = xRows.map(() => integer());
  const totals = xRows.map(() => f.local("v128"));
  f.for(column, 0, part, 1, () =>
    f.for(turn, 0, parts, 1, () => {
      f.set(at, ["i32.add", column, ["i32.mul", part, turn]]);
      f.if(["i32.lt_s", at, columns], () => {
        f.increment(at, first);
        f.set(code, ["i32.add", word(argument.codes), ["i32.mul", at, codeBytes]]);
        f.set(scale, ["i32.add", word(argument.scales), ["i32.mul", at, scaleBytes]]);
        xNow.forEach((row, m) => f.set(row, xRows[m] as Integer));
        for (const total of totals) f.set(total, simd.f32(0));
        dot(code, scale, xNow, totals);
        totals.forEach((total, m) => {
          const sum = simd.sumAcross(total);
          const to: Expression = ["i32.add", ["i32.mul", word(argument.N), m], at];
          f.store("f32.store", ["i32.add", word(argument.out), ["i32.mul", to, 4]], () => f.lane("f32x4.extract_lane", 0, sum));
        });
      });
    }),
  );
  return module.bytes();
}

/** Two lookups a round, of the upper codes of 16 bytes and of the lower ones. */
function dotOfTable(
  f: FunctionBuilder,
  simd: SimdBasics,
  rounds: Integer,
  scaleShift: Integer,
  planes: readonly V128[],
  relaxed: boolean,
): Dot {
  const low = f.vectorConstant(new Array<number>(16).fill(15));
  const index = f.local("i32");
  return (code, scale, xRows, totals) => {
    const chains = xRows.length <= 2 ? 2 : 1;
    const sums = xRows.map(() => Array.from({ length: chains }, () => f.local("v128")));
    f.for(index, 0, rounds, 1, () => {
      const bytes = simd.load(code);
      for (const half of [0, 1]) {
        const codes = simd.keep(["v128.and", half === 0 ? ["i16x8.shr_u", bytes, 4] : bytes, low]);
        floatsOf(f, simd, planes, codes, relaxed).forEach((value, i) => {
          xRows.forEach((row, m) => {
            const sum = sums[m]?.[i % chains] as V128;
            const x = simd.load(row, 64 * half + 16 * i);
            f.set(sum, half === 0 && i < chains ? simd.mul(value, x) : simd.madd(value, x, sum));
          });
        });
      }
      const factor = simd.keep(load("v128.load32_splat", ["i32.add", scale, ["i32.shl", ["i32.shr_u", index, scaleShift], 2]]));
      sums.forEach((parts, m) => {
        const sum = parts.reduce((a, b) => simd.add(a, b));
        f.set(totals[m] as V128, simd.madd(sum, factor, totals[m] as V128));
      });
      f.increment(code, codedRound / 2);
      for (const row of xRows) f.increment(row, 4 * codedRound);
    });
  };
}

/** Codes that are numbers, 128 above; a row has one scale. */
function dotOfNumbers(f: FunctionBuilder, simd: SimdBasics, rounds: Integer, unit: V128): Dot {
  const sign = f.vectorConstant(new Array<number>(16).fill(128));
  return (code, scale, xRows, totals) => {
    // enough chains of multiply-adds that none waits for itself
    const chains = [4, 2, 1, 1][xRows.length - 1] as number;
    const sums = totals.map((total) => [total, ...Array.from({ length: chains - 1 }, () => f.local("v128", simd.f32(0)))]);
    f.repeat(rounds, () => {
      for (const offset of [0, 16]) {
        const bytes = simd.keep(["v128.xor", load("v128.load", code, offset), sign]);
        (["low", "high"] as const).forEach((half, h) => {
          const words = simd.keep([`i16x8.extend_${half}_i8x16_s`, bytes]);
          (["low", "high"] as const).forEach((quarter, q) => {
            const value = simd.keep(["f32x4.convert_i32x4_s", [`i32x4.extend_${quarter}_i16x8_s`, words]]);
            const i = 2 * h + q;
            xRows.forEach((row, m) => {
              const sum = sums[m]?.[i % chains] as V128;
              f.set(sum, simd.madd(value, simd.load(row, 4 * offset + 16 * i), sum));
            });
          });
        });
      }
      f.increment(code, codedRound);
      for (const row of xRows) f.increment(row, 4 * codedRound);
    });
    const factor = simd.mul(simd.keep(load("v128.load32_splat", scale)), unit);
    sums.forEach((parts, m) => {
      const sum = parts.reduce((a, b) => simd.add(a, b));
      f.set(totals[m] as V128, simd.mul(sum, factor));
    });
  };
}

/** Of each 32 floats those of even numbers, then the others. */
function emitEvensFirst(f: FunctionBuilder, simd: SimdBasics, from: Integer, to: Integer, rounds: Expression): void {
  const [source, target] = [f.local("i32", from), f.local("i32", to)];
  f.repeat(rounds, () => {
    for (let i = 0; i < codedRound / 8; i++) {
      const [x, y] = [simd.load(source, 32 * i), simd.load(source, 32 * i + 16)];
      simd.store(
        target,
        simd.keep(() => f.shuffle([0, 2, 4, 6], x, y)),
        16 * i,
      );
      simd.store(
        target,
        simd.keep(() => f.shuffle([1, 3, 5, 7], x, y)),
        2 * codedRound + 16 * i,
      );
    }
    f.increment(source, 4 * codedRound).increment(target, 4 * codedRound);
  });
}
