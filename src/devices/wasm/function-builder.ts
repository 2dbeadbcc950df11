/** The body of one WebAssembly function, instruction by instruction; see assembler.ts for how code is written. */
import { ByteBuffer } from "./byte-buffer.ts";
import {
  type AtomicOp,
  atomics,
  type LaneAccessOp,
  type LaneOp,
  type LoadOp,
  laneAccesses,
  lanes,
  loads,
  type SimpleOp,
  type StoreOp,
  simple,
  stores,
} from "./opcodes.ts";

/** Types of values and their numbers. */
export const valueTypes = { i32: 0x7f, i64: 0x7e, f32: 0x7d, f64: 0x7c, v128: 0x7b } as const;
/** The type of a value. */
export type ValueType = keyof typeof valueTypes;

/** A parameter or local variable of one function. */
export interface Local<T extends ValueType = ValueType> {
  readonly index: number;
  readonly type: T;
}

/** A read of memory as an expression; made by `load`. */
export interface Load {
  readonly load: LoadOp;
  readonly address: Expression;
  readonly offset: number;
}

/** What leaves one value on the stack. A number is an i32 constant; a function emits its own instructions. */
export type Expression = Local | number | Load | readonly [SimpleOp, ...Expression[]] | (() => void);

/** The value at `address + offset`, as an expression. */
export const load = (op: LoadOp, address: Expression, offset = 0): Load => ({ load: op, address, offset });

/** Where `br` goes: past the end of a block or `if`, or back to the start of a loop. */
export interface Label {
  readonly depth: number;
}

/** Something that `call` can call. */
export interface Callable {
  readonly index: number;
}

/** The operand is on the stack already. */
const stacked: Expression = () => {};

const isInstruction = (value: object): value is readonly [SimpleOp, ...Expression[]] => Array.isArray(value);

const scratch = new DataView(new ArrayBuffer(16));
const scratchBytes = new Uint8Array(scratch.buffer);

/** One function under construction. Made by `ModuleBuilder.function`; the closing `end` is added by the module. */
export class FunctionBuilder<P extends readonly ValueType[] = readonly ValueType[]> implements Callable {
  readonly index: number;
  readonly params: { readonly [I in keyof P]: Local<P[I]> };
  private readonly locals: ValueType[] = [];
  private readonly constants = new Map<string, Local<"v128">>();
  private readonly prologue = new ByteBuffer();
  private readonly code = new ByteBuffer();
  /** Nesting of blocks; the function's own body is depth 0. */
  private depth = 0;

  constructor(index: number, params: P) {
    this.index = index;
    this.params = params.map((type, i) => ({ index: i, type })) as readonly Local<ValueType>[] as typeof this.params;
  }

  // --- values

  /** A new local variable, zero at first, or set to `value` here. */
  local<T extends ValueType>(type: T, value?: Expression): Local<T> {
    this.locals.push(type);
    const local = { index: this.params.length + this.locals.length - 1, type };
    if (value !== undefined) this.set(local, value);
    return local;
  }

  /** Emits the instructions that leave `value` on the stack. */
  push(value: Expression): this {
    if (typeof value === "number") return this.i32(value);
    if (typeof value === "function") value();
    else if (isInstruction(value)) {
      for (let i = 1; i < value.length; i++) this.push(value[i] as Expression);
      this.code.opcode(simple[value[0]]);
    } else if ("load" in value) {
      this.push(value.address);
      this.access(loads[value.load], value.offset);
    } else this.get(value);
    return this;
  }

  get(local: Local): this {
    this.code.byte(0x20);
    this.code.unsigned(local.index);
    return this;
  }

  /** Sets `local` to `value`, or to what is on the stack. */
  set(local: Local, value?: Expression): this {
    if (value !== undefined) this.push(value);
    this.code.byte(0x21);
    this.code.unsigned(local.index);
    return this;
  }

  /** Like `set`, and leaves the value on the stack. */
  tee(local: Local, value?: Expression): this {
    if (value !== undefined) this.push(value);
    this.code.byte(0x22);
    this.code.unsigned(local.index);
    return this;
  }

  /** local += step, for i32. */
  increment(local: Local<"i32">, step: Expression): this {
    return this.set(local, ["i32.add", local, step]);
  }

  i32(value: number): this {
    this.code.byte(0x41);
    this.code.signed(value);
    return this;
  }

  f32(value: number): this {
    scratch.setFloat32(0, value, true);
    this.code.byte(0x43);
    this.code.append(scratchBytes.subarray(0, 4));
    return this;
  }

  f64(value: number): this {
    scratch.setFloat64(0, value, true);
    this.code.byte(0x44);
    this.code.append(scratchBytes.subarray(0, 8));
    return this;
  }

  /**
   * A vector constant in a local that is set once, when the function is entered: written in place inside a loop a constant
   * costs as much as the arithmetic around it. The same constant is kept once a function.
   *
   * @param lane "f32": four lanes of the float `value`; "i32": four lanes of the integer; "f64", "i64": two lanes
   */
  constant(lane: "f32" | "i32" | "f64" | "i64", value: number | bigint): Local<"v128"> {
    for (let i = 0; i < 16; i += lane.endsWith("64") ? 8 : 4) {
      if (lane === "f32") scratch.setFloat32(i, Number(value), true);
      else if (lane === "i32") scratch.setInt32(i, Number(value), true);
      else if (lane === "f64") scratch.setFloat64(i, Number(value), true);
      else scratch.setBigInt64(i, BigInt(value), true);
    }
    return this.vectorConstant(scratchBytes);
  }

  /** Like `constant`, from sixteen bytes. */
  vectorConstant(bytes: ArrayLike<number>): Local<"v128"> {
    const key = Array.prototype.join.call(bytes, ",");
    let local = this.constants.get(key);
    if (local === undefined) {
      local = this.local("v128");
      this.constants.set(key, local);
      this.prologue.opcode(0xfd00c);
      this.prologue.append(bytes);
      this.prologue.byte(0x21);
      this.prologue.unsigned(local.index);
    }
    return local;
  }

  // --- instructions

  /** Any instruction without immediates; operands are on the stack or given. */
  op(op: SimpleOp, ...operands: Expression[]): this {
    for (const operand of operands) this.push(operand);
    this.code.opcode(simple[op]);
    return this;
  }

  load(op: LoadOp, address: Expression, offset = 0): this {
    this.push(address);
    return this.access(loads[op], offset);
  }

  store(op: StoreOp, address: Expression, value: Expression, offset = 0): this {
    this.push(address).push(value);
    return this.access(stores[op], offset);
  }

  /** Atomic read-change-write: leaves the old value. For `wait32` the operands are the expected value and the nanoseconds (i64). */
  atomic(op: AtomicOp, address: Expression, operands: readonly Expression[], offset = 0): this {
    this.push(address);
    for (const operand of operands) this.push(operand);
    return this.access(atomics[op], offset);
  }

  /** `extract_lane` of the vector, or `replace_lane` of the vector by `value`. */
  lane(op: LaneOp, lane: number, vector: Expression, value?: Expression): this {
    this.push(vector);
    if (value !== undefined) this.push(value);
    this.code.opcode(lanes[op]);
    this.code.byte(lane);
    return this;
  }

  /** Loads one lane of `vector` (leaves the vector) or stores it. */
  laneAccess(op: LaneAccessOp, lane: number, address: Expression, vector: Expression, offset = 0): this {
    this.push(address).push(vector);
    this.access(laneAccesses[op], offset);
    this.code.byte(lane);
    return this;
  }

  /** Bytes of `a` (0–15) and `b` (16–31) in the order given. */
  shuffleBytes(order: readonly number[], a: Expression, b: Expression): this {
    this.push(a).push(b);
    this.code.opcode(0xfd00d);
    this.code.append(order);
    return this;
  }

  /** 32-bit lanes of `a` (0–3) and `b` (4–7) in the order given. */
  shuffle(order: readonly [number, number, number, number], a: Expression, b: Expression = a): this {
    return this.shuffleBytes(
      order.flatMap((lane) => [4 * lane, 4 * lane + 1, 4 * lane + 2, 4 * lane + 3]),
      a,
      b,
    );
  }

  call(target: Callable, ...operands: Expression[]): this {
    for (const operand of operands) this.push(operand);
    this.code.byte(0x10);
    this.code.unsigned(target.index);
    return this;
  }

  /** Copies `bytes` bytes (areas may overlap). */
  memoryCopy(to: Expression, from: Expression, bytes: Expression): this {
    this.push(to).push(from).push(bytes);
    this.code.opcode(0xfc00a);
    this.code.append([0, 0]);
    return this;
  }

  memoryFill(to: Expression, byte: Expression, bytes: Expression): this {
    this.push(to).push(byte).push(bytes);
    this.code.opcode(0xfc00b);
    this.code.byte(0);
    return this;
  }

  // --- control flow

  /** `br(label)` inside leaves the block. */
  block(body: (label: Label) => void): this {
    return this.nest(0x02, body);
  }

  /** `br(label)` inside starts the body again; falling off the end leaves the loop. */
  loop(body: (label: Label) => void): this {
    return this.nest(0x03, body);
  }

  if(condition: Expression, then: (label: Label) => void, otherwise?: (label: Label) => void): this {
    this.push(condition);
    return this.nest(0x04, (label) => {
      then(label);
      if (otherwise === undefined) return;
      this.code.byte(0x05);
      otherwise(label);
    });
  }

  br(label: Label): this {
    this.code.byte(0x0c);
    this.code.unsigned(this.depth - label.depth);
    return this;
  }

  brIf(label: Label, condition: Expression): this {
    this.push(condition);
    this.code.byte(0x0d);
    this.code.unsigned(this.depth - label.depth);
    return this;
  }

  /** Runs `body` `count` times (an i32; not at all when it is 0). `count` is read once. */
  repeat(count: Expression, body: () => void): this {
    const left = this.local("i32");
    return this.block((done) => {
      this.tee(left, count);
      this.op("i32.eqz").brIf(done, stacked);
      this.loop((again) => {
        body();
        this.tee(left, ["i32.sub", left, 1]).brIf(again, stacked);
      });
    });
  }

  /** for (i = start; i < end; i += step) body(), signed. `end` and `step` are read in every round. */
  for(i: Local<"i32">, start: Expression, end: Expression, step: Expression, body: () => void): this {
    this.set(i, start);
    return this.while(["i32.lt_s", i, end], () => {
      body();
      this.increment(i, step);
    });
  }

  /** while (condition) body(), with the test at the bottom as compilers place it. */
  while(condition: Expression, body: () => void): this {
    return this.if(condition, () => {
      this.loop((again) => {
        body();
        this.brIf(again, condition);
      });
    });
  }

  /** The function's entry in the code section. @internal */
  body(): Uint8Array {
    const out = new ByteBuffer();
    // runs of equal types share one declaration
    const runs: { type: ValueType; count: number }[] = [];
    for (const type of this.locals) {
      const last = runs.at(-1);
      if (last?.type === type) last.count++;
      else runs.push({ type, count: 1 });
    }
    out.unsigned(runs.length);
    for (const { type, count } of runs) {
      out.unsigned(count);
      out.byte(valueTypes[type]);
    }
    out.append(this.prologue.view());
    out.append(this.code.view());
    out.byte(0x0b);
    return out.view();
  }

  private nest(opcode: number, body: (label: Label) => void): this {
    this.code.byte(opcode);
    this.code.byte(0x40);
    this.depth++;
    body({ depth: this.depth });
    this.depth--;
    this.code.byte(0x0b);
    return this;
  }

  private access([opcode, alignment]: readonly [number, number], offset: number): this {
    this.code.opcode(opcode);
    this.code.unsigned(alignment);
    this.code.unsigned(offset);
    return this;
  }
}
