/** Reading and writing four neighbours along the inner axis, however a slot lies in memory. */
import { bytesPerElement } from "../../graph/dtype.ts";
import type { Slot } from "../loop-program.ts";
import { type Expression, type FunctionBuilder, type Local, load } from "./assembler.ts";
import type { LaneMath, Vector } from "./lanes.ts";

type V128 = Local<"v128">;
/** A local of 32 bits. */
export type I32 = Local<"i32">;

/** Where a slot stands in the loop that is being emitted. */
export interface Cursor {
  readonly slot: Slot;
  /** Address of the element in lane 0. An index slot's number there. */
  readonly pointer: I32;
  /** Bytes from there to lane 0, where rows share a pointer; only of neighbours that are adjacent. */
  readonly offset?: number;
  /** How far a vector goes, in bytes; for index slots in numbers. */
  readonly step: Expression;
  /** Bytes from lane 0 to lanes 1, 2, 3, where neighbours are not adjacent. In the last, partial vector they may be 0. */
  readonly lanes: readonly I32[] | null;
  /** For index slots: 0, 1, 2, 3 times the inner stride. */
  readonly ramp: V128 | null;
  /** All must hold for the slot to be inside at all. */
  readonly guards: readonly Expression[];
  /** Bounds of the inner index where the slot is inside, and the inner index of lane 0. */
  readonly bounds: { readonly from: I32; readonly to: I32; readonly index: I32 } | null;
}

const splatLoads = { 1: "i32.load8_u", 2: "i32.load16_u", 4: "v128.load32_splat" } as const;
const laneLoads = { 1: "v128.load8_lane", 2: "v128.load16_lane", 4: "v128.load32_lane" } as const;
const laneStores = { 1: "v128.store8_lane", 2: "v128.store16_lane", 4: "v128.store32_lane" } as const;
type Width = 1 | 2 | 4;

const widthOf = (slot: Slot): Width => bytesPerElement(slot.dtype) as Width;

/** A cursor at neighbours that are adjacent and all there. */
export const cursorAt = (slot: Slot, pointer: I32): Cursor => ({
  slot,
  pointer,
  step: 4 * bytesPerElement(slot.dtype),
  lanes: null,
  ramp: null,
  guards: [],
  bounds: null,
});

/** Loads and stores of the arrays of a program at the place where its loops stand. */
export class SlotAccess {
  private readonly f: FunctionBuilder;
  private readonly simd: LaneMath;

  constructor(f: FunctionBuilder, simd: LaneMath) {
    this.f = f;
    this.simd = simd;
  }

  /** Vector number `copy` from where the cursor stands. */
  load(cursor: Cursor, copy: number): Vector {
    const { simd } = this;
    const { dtype } = cursor.slot;
    if (cursor.ramp) return { dtype, local: simd.math.apply("i32x4.add", this.splat(this.at(cursor, copy)), cursor.ramp) };
    return simd.decode(
      dtype,
      this.guarded(cursor.guards, cursor.bounds ? () => this.bounded(cursor, copy) : () => this.plain(cursor, copy)),
    );
  }

  /** The element in lane 0, in all lanes. */
  loadSame(slot: Slot, pointer: Expression, guards: readonly Expression[], offset = 0): Vector {
    if (slot.buffer < 0) return { dtype: slot.dtype, local: this.splat(pointer) };
    const width = widthOf(slot);
    const bits = this.guarded(guards, () => {
      const value = load(splatLoads[width], pointer, offset);
      return width === 4 ? this.simd.math.keep(value) : this.splat(value);
    });
    return this.simd.decode(slot.dtype, bits);
  }

  /** Writes vector number `copy`. */
  store(cursor: Cursor, copy: number, value: Vector): void {
    const { f } = this;
    const { math } = this.simd;
    const bits = this.simd.encode(this.simd.cast(value, cursor.slot.dtype));
    const width = widthOf(cursor.slot);
    const { offset = 0 } = cursor;
    if (cursor.lanes) {
      // downwards: lanes that are not there stand at lane 0's address, which is written last
      for (let lane = 3; lane >= 0; lane--)
        f.laneAccess(laneStores[width], (lane * 4) / width, this.laneAddress(cursor, copy, lane), bits);
    } else if (width === 4) f.store("v128.store", cursor.pointer, bits, offset + 16 * copy);
    else if (width === 2) math.storeHalves(cursor.pointer, bits, offset + 8 * copy);
    else {
      const halves = math.apply("i16x8.narrow_i32x4_u", bits, bits);
      f.laneAccess("v128.store32_lane", 0, cursor.pointer, math.apply("i8x16.narrow_i16x8_u", halves, halves), offset + 4 * copy);
    }
  }

  /** Writes lane 0 as one element. */
  storeSame(slot: Slot, pointer: Expression, value: Vector): void {
    this.f.laneAccess(laneStores[widthOf(slot)], 0, pointer, this.simd.encode(this.simd.cast(value, slot.dtype)));
  }

  /** Copies `count` (1, 2 or 3) elements of `slot`. */
  copyFew(slot: Slot, to: I32, from: Expression, count: I32): void {
    const { f } = this;
    const width = widthOf(slot);
    const one = (offset: number) => {
      if (width === 4) f.store("i32.store", to, load("i32.load", from, offset), offset);
      else if (width === 2) f.store("i32.store16", to, load("i32.load16_u", from, offset), offset);
      else f.store("i32.store8", to, load("i32.load8_u", from, offset), offset);
    };
    const two = () => {
      if (width === 4) f.store("i64.store", to, load("i64.load", from));
      else if (width === 2) f.store("i32.store", to, load("i32.load", from));
      else f.store("i32.store16", to, load("i32.load16_u", from));
    };
    f.if(
      ["i32.and", count, 2],
      () => {
        two();
        f.if(["i32.and", count, 1], () => one(2 * width));
      },
      () => one(0),
    );
  }

  private splat(value: Expression): V128 {
    return this.simd.math.keep(["i32x4.splat", value]);
  }

  /** Zero unless all guards hold. */
  private guarded(guards: readonly Expression[], read: () => V128): V128 {
    const [first, ...rest] = guards;
    if (first === undefined) return read();
    const value = this.f.local("v128", this.simd.math.i32(0));
    this.f.if(
      rest.reduce<Expression>((all, guard) => ["i32.and", all, guard], first),
      () => {
        this.f.set(value, read());
      },
    );
    return value;
  }

  private at(cursor: Cursor, copy: number): Expression {
    if (copy === 0) return cursor.pointer;
    return ["i32.add", cursor.pointer, typeof cursor.step === "number" ? copy * cursor.step : ["i32.mul", cursor.step, copy]];
  }

  private laneAddress(cursor: Cursor, copy: number, lane: number): Expression {
    const start = this.at(cursor, copy);
    return lane === 0 ? start : ["i32.add", start, cursor.lanes![lane - 1]!];
  }

  private plain(cursor: Cursor, copy: number): V128 {
    const { f } = this;
    const { math } = this.simd;
    const width = widthOf(cursor.slot);
    const { offset = 0 } = cursor;
    if (!cursor.lanes) {
      if (width === 4) return math.load(cursor.pointer, offset + 16 * copy);
      if (width === 2) return math.keep(load("v128.load16x4_u", cursor.pointer, offset + 8 * copy));
      const bytes = math.keep(load("v128.load32_zero", cursor.pointer, offset + 4 * copy));
      return math.apply("i32x4.extend_low_i16x8_u", math.apply("i16x8.extend_low_i8x16_u", bytes));
    }
    const value = f.local("v128", width === 4 ? load("v128.load32_zero", this.at(cursor, copy)) : math.i32(0));
    for (let lane = width === 4 ? 1 : 0; lane < 4; lane++) this.lane(cursor, copy, lane, value);
    return value;
  }

  private lane(cursor: Cursor, copy: number, lane: number, value: V128): void {
    const width = widthOf(cursor.slot);
    const [address, offset] = cursor.lanes
      ? [this.laneAddress(cursor, copy, lane), 0]
      : [cursor.pointer, width * (4 * copy + lane)];
    this.f.laneAccess(laneLoads[width], (lane * 4) / width, address, value, offset).set(value);
  }

  /** Only the lanes whose inner index lies within the bounds; no address outside of them is formed. */
  private bounded(cursor: Cursor, copy: number): V128 {
    const { f } = this;
    const { from, to, index } = cursor.bounds!;
    const value = f.local("v128", this.simd.math.i32(0));
    const first = copy === 0 ? index : f.local("i32", ["i32.add", index, 4 * copy]);
    f.if(
      ["i32.and", ["i32.ge_s", first, from], ["i32.le_s", ["i32.add", first, 4], to]],
      () => {
        f.set(value, this.plain(cursor, copy));
      },
      () => {
        for (let lane = 0; lane < 4; lane++)
          f.if(["i32.and", ["i32.ge_s", ["i32.add", first, lane], from], ["i32.lt_s", ["i32.add", first, lane], to]], () =>
            this.lane(cursor, copy, lane, value),
          );
      },
    );
    return value;
  }
}
