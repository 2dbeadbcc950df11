/** Accumulators of reductions: how a fold starts, takes in four values, and ends. */
import { isFloat } from "../../graph/dtype.ts";
import type { FunctionBuilder, Local, SimpleOp } from "./assembler.ts";
import { type LaneMath, lowestInt32, type Vector } from "./lanes.ts";
import { smaller } from "./loop-frame.ts";
import type { Fold } from "./loop-plan.ts";
import type { LoopValues } from "./loop-values.ts";

/** A long sum is added up in blocks of this many terms, so that its error grows with the number of blocks only. */
export const blockLength = 256;

/** Emits `body` for every block of `count` terms, with how many there are in it; uses `count` up. */
export function forEachBlock(f: FunctionBuilder, count: Local<"i32">, body: (length: Local<"i32">) => void): void {
  const length = f.local("i32");
  f.while(count, () => {
    f.set(length, smaller(count, blockLength));
    f.set(count, ["i32.sub", count, length]);
    body(length);
  });
}

type V128 = Local<"v128">;

/** One running fold. The maximum of floats also notes where it has met a NaN: cheaper than an instruction that keeps NaN. */
export interface Accumulator {
  readonly fold: Fold;
  readonly value: V128;
  readonly nan: V128 | null;
  /** For sums of floats: the sum of all blocks that have ended. */
  readonly blocks: V128 | null;
}

const instructions: Readonly<Record<string, { readonly float: SimpleOp; readonly integer: SimpleOp; readonly bool: SimpleOp }>> =
  {
    sum: { float: "f32x4.add", integer: "i32x4.add", bool: "v128.or" },
    product: { float: "f32x4.mul", integer: "i32x4.mul", bool: "v128.and" },
    maxReduce: { float: "f32x4.pmax", integer: "i32x4.max_s", bool: "v128.or" },
  };

/** Emits the folds of a program: accumulators, their steps and their ends. */
export class Folds {
  private readonly simd: LaneMath;

  constructor(simd: LaneMath) {
    this.simd = simd;
  }

  /** A new accumulator that holds the identity. @param long whether a sum may be long, and goes by blocks */
  begin(fold: Fold, long = true): Accumulator {
    const { simd } = this;
    const { dtype, op } = fold;
    const identity =
      op.identity === Number.NEGATIVE_INFINITY && !isFloat(dtype) ? (dtype === "bool" ? 0 : lowestInt32) : op.identity;
    const f = simd.math.f;
    return {
      fold,
      value: f.local("v128", simd.constant(identity, isFloat(dtype) ? "float32" : dtype).local),
      nan: op.name === "maxReduce" && isFloat(dtype) ? f.local("v128", simd.math.i32(0)) : null,
      blocks: long && op.name === "sum" && isFloat(dtype) ? f.local("v128", simd.math.f32(0)) : null,
    };
  }

  /** Runs `body` `count` times; sums among `parts` end a block now and then. May use `count` up. */
  inBlocks(count: Local<"i32">, parts: readonly Accumulator[], body: () => void): void {
    const { f } = this.simd.math;
    const sums = parts.filter(({ blocks }) => blocks);
    if (sums.length === 0) {
      f.repeat(count, body);
      return;
    }
    forEachBlock(f, count, (length) => {
      f.repeat(length, body);
      for (const sum of sums) this.flush(sum);
    });
  }

  /** Ends a block of a sum. */
  flush({ value, blocks }: Accumulator): void {
    if (!blocks) return;
    const { math } = this.simd;
    math.f.set(blocks, math.add(blocks, value));
    math.f.set(value, math.f32(0));
  }

  /** Takes in four values of the fold's argument, or the lanes of them that `valid` marks; a product that only it reads is not rounded. */
  takeFrom(values: LoopValues, to: Accumulator, valid: V128 | null): void {
    const { fold } = to;
    const product = fold.op.name === "sum" ? values.factors(fold.arg, fold.register) : null;
    if (product) this.takeProduct(to, values.get(product[0]).local, values.get(product[1]).local, valid);
    else this.take(to, values.get(fold.arg).local, valid);
  }

  private take(to: Accumulator, x: V128, valid: V128 | null): void {
    const { math } = this.simd;
    this.set(to, math.apply(this.instruction(to.fold), to.value, x), valid);
    if (to.nan) {
      const found = math.apply("f32x4.ne", x, x);
      math.f.set(to.nan, math.or(to.nan, valid ? math.and(found, valid) : found));
    }
  }

  /** Takes in x · y, rounded once. */
  private takeProduct(to: Accumulator, x: V128, y: V128, valid: V128 | null): void {
    this.set(to, this.simd.math.madd(x, y, to.value), valid);
  }

  /** Folds the four lanes of all parts into one value in all lanes. */
  finishAcross(parts: readonly Accumulator[]): Vector {
    const { math } = this.simd;
    const op = this.instruction(parts[0]!.fold);
    const join = (name: SimpleOp, values: readonly V128[]): V128 => {
      let left = [...values];
      // neighbours first: the order depends on the number of parts only
      while (left.length > 1)
        left = left.flatMap((x, i) => (i % 2 ? [] : [i + 1 < left.length ? math.apply(name, x, left[i + 1]!) : x]));
      return math.across(left[0]!, (x, y) => math.apply(name, x, y));
    };
    const value = join(op, parts.map(total));
    return this.result(
      parts[0]!.fold,
      value,
      parts[0]!.nan &&
        join(
          "v128.or",
          parts.map((part) => part.nan!),
        ),
    );
  }

  /** Four results side by side. */
  finish(part: Accumulator): Vector {
    return this.result(part.fold, total(part), part.nan);
  }

  private result(fold: Fold, value: V128, nan: V128 | null): Vector {
    const { simd } = this;
    const { dtype } = fold;
    // all ones is a NaN
    const kept = nan ? simd.math.or(value, nan) : value;
    if (isFloat(dtype)) return simd.float(dtype, kept);
    return { dtype, local: dtype === "uint8" ? simd.math.and(kept, simd.math.i32(255)) : kept };
  }

  private set(to: Accumulator, next: V128, valid: V128 | null): void {
    const { math } = this.simd;
    math.f.set(to.value, valid ? math.select(valid, next, to.value) : next);
  }

  private instruction(fold: Fold): SimpleOp {
    const ops = instructions[fold.op.name]!;
    return isFloat(fold.dtype) ? ops.float : fold.dtype === "bool" ? ops.bool : ops.integer;
  }
}

/** All blocks have ended when a loop has. */
const total = ({ value, blocks }: Accumulator): V128 => blocks ?? value;
