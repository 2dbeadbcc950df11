/**
 * What an element costs in the loop programs of a transformer, in nanoseconds, on one thread and on all.
 * Run: `npx rolldown bench/loop-kernels.ts --platform node -o /tmp/loop-kernels.mjs && node /tmp/loop-kernels.mjs [name]`
 */
import type { Device, Dispatch } from "../src/devices/device.ts";
import {
  type Geometry,
  type Instruction,
  type LoopProgram,
  loopProgramKey,
  type Register,
  type Slot,
  type SlotGeometry,
  type Store,
} from "../src/devices/loop-program.ts";
import { createWasm } from "../src/devices/wasm/device.ts";
import { type DType, dtypes } from "../src/graph/dtype.ts";
import { elementwise } from "../src/graph/elementwise.ts";
import type { Elementwise, Reduction } from "../src/graph/primitive.ts";
import { reductions } from "../src/graph/reduction.ts";

/** Writes one program over [rows, columns] float32 arrays. */
class Sketch {
  private readonly instructions: Instruction[] = [];
  private readonly slots: Slot[] = [];
  private readonly geometry: SlotGeometry[] = [];
  private readonly stores: Store[] = [];
  readonly buffers: { dtype: DType; length: number }[] = [];
  readonly rows: number;
  readonly columns: number;
  readonly form: "rows" | "columns";

  constructor(rows: number, columns: number, form: "rows" | "columns" = "rows") {
    this.rows = rows;
    this.columns = columns;
    this.form = form;
  }

  private slot(dtype: DType, length: number, row: number, inner: number): number {
    this.buffers.push({ dtype, length });
    const columns = this.form === "columns";
    this.geometry.push({
      offset: 0,
      outer: columns || this.rows === 1 ? [] : [row],
      inner,
      reduce: columns ? [row] : [],
      valid: [],
    });
    return (
      this.slots.push({
        buffer: this.buffers.length - 1,
        dtype,
        inner: inner === 1 ? "unit" : inner === 0 ? "same" : "strided",
        masked: [],
      }) - 1
    );
  }

  private push(instruction: Instruction): Register {
    return this.instructions.push(instruction) - 1;
  }

  private get level() {
    return this.form === "columns" ? ("body" as const) : ("element" as const);
  }

  x(dtype: DType = "float32"): Register {
    return this.push({
      kind: "load",
      slot: this.slot(dtype, this.rows * this.columns, this.columns, 1),
      dtype,
      level: this.level,
      stage: 0,
    });
  }

  /** The transpose of a [columns, rows] array. */
  turned(): Register {
    return this.push({
      kind: "load",
      slot: this.slot("float32", this.rows * this.columns, 1, this.rows),
      dtype: "float32",
      level: "element",
      stage: 0,
    });
  }

  /** One value a column. */
  weight(): Register {
    return this.push({
      kind: "load",
      slot: this.slot("float32", this.columns, 0, 1),
      dtype: "float32",
      level: this.level,
      stage: 0,
    });
  }

  /** One value a row. */
  perRow(dtype: DType): Register {
    return this.push({ kind: "load", slot: this.slot(dtype, this.rows, 1, 0), dtype, level: "row", stage: 0 });
  }

  position(): Register {
    this.geometry.push({ offset: 0, outer: this.rows === 1 ? [] : [0], inner: 1, reduce: [], valid: [] });
    const slot = this.slots.push({ buffer: -1, dtype: "int32", inner: "unit", masked: [] }) - 1;
    return this.push({ kind: "index", slot, dtype: "int32", level: "element", stage: 0 });
  }

  constant(value: number): Register {
    return this.push({ kind: "constant", value, dtype: "float32", level: "row", stage: 0 });
  }

  apply(op: Elementwise, ...args: Register[]): Register {
    const sources = args.map((arg) => this.instructions[arg]!);
    const dtype = op === elementwise.equal ? "bool" : sources[sources.length - 1]!.dtype;
    const level = sources.some((source) => source.level === this.level) ? this.level : sources[0]!.level;
    return this.push({ kind: "apply", op, args, dtype, level, stage: Math.max(...sources.map((source) => source.stage)) });
  }

  cast(x: Register, dtype: DType): Register {
    const { level, stage } = this.instructions[x]!;
    return this.push({ kind: "apply", op: elementwise.cast, args: [x], dtype, level, stage });
  }

  sub = (x: Register, y: Register): Register => this.apply(elementwise.add, x, this.apply(elementwise.neg, y));

  fold(op: Reduction, arg: Register): Register {
    if (this.form === "columns") return this.push({ kind: "reduce", op, arg, dtype: "float32", level: "element", stage: 0 });
    return this.push({ kind: "reduce", op, arg, dtype: "float32", level: "row", stage: this.instructions[arg]!.stage + 1 });
  }

  store(register: Register): this {
    const { level, stage, dtype } = this.instructions[register]!;
    if (this.form === "columns") this.stores.push({ register, slot: this.slot(dtype, this.columns, 0, 1), stage: 0 });
    else if (level === "row") this.stores.push({ register, slot: this.slot(dtype, this.rows, 1, 0), stage });
    else this.stores.push({ register, slot: this.slot(dtype, this.rows * this.columns, this.columns, 1), stage });
    return this;
  }

  finish(): { program: LoopProgram; geometry: Geometry } {
    const { instructions, slots, stores, form } = this;
    const rows = form === "rows";
    const draft = {
      shape: form,
      outer: rows && this.rows > 1 ? 1 : 0,
      reduce: rows ? 0 : 1,
      stages: Math.max(
        1,
        ...instructions.map((i) => (i.kind === "reduce" && rows ? i.stage : i.level === "element" ? i.stage + 1 : 1)),
      ),
      instructions,
      slots,
      stores,
      buffers: this.buffers.length,
    };
    return {
      program: { ...draft, key: loopProgramKey(draft) },
      geometry: {
        outer: draft.outer ? [this.rows] : [],
        inner: this.columns,
        reduce: rows ? [] : [this.rows],
        slots: this.geometry,
      },
    };
  }
}

const { add, mul, exp, recip, sqrt, tanh, erf, equal, where, neg } = elementwise;
const { sum, maxReduce } = reductions;
const sigmoid = (s: Sketch, x: Register) => s.apply(recip, s.apply(add, s.constant(1), s.apply(exp, s.apply(neg, x))));

function swiglu(s: Sketch): Sketch {
  const x = s.x();
  return s.store(s.apply(mul, s.apply(mul, x, sigmoid(s, x)), s.x()));
}

function softmax(s: Sketch): Sketch {
  const x = s.x();
  const e = s.apply(exp, s.sub(x, s.fold(maxReduce, x)));
  return s.store(s.apply(mul, e, s.apply(recip, s.fold(sum, e))));
}

function rmsNorm(s: Sketch): Sketch {
  const x = s.x();
  const mean = s.apply(mul, s.fold(sum, s.apply(mul, x, x)), s.constant(1 / s.columns));
  const scale = s.apply(recip, s.apply(sqrt, s.apply(add, mean, s.constant(1e-5))));
  return s.store(s.apply(mul, s.apply(mul, x, scale), s.weight()));
}

function layerNorm(s: Sketch): Sketch {
  const x = s.x();
  const centred = s.sub(x, s.apply(mul, s.fold(sum, x), s.constant(1 / s.columns)));
  const variance = s.apply(mul, s.fold(sum, s.apply(mul, centred, centred)), s.constant(1 / s.columns));
  const scale = s.apply(recip, s.apply(sqrt, s.apply(add, variance, s.constant(1e-5))));
  return s.store(s.apply(add, s.apply(mul, s.apply(mul, centred, scale), s.weight()), s.weight()));
}

function crossEntropy(s: Sketch): Sketch {
  const x = s.x();
  const shifted = s.sub(x, s.fold(maxReduce, x));
  const total = s.fold(sum, s.apply(exp, shifted));
  const hit = s.apply(equal, s.position(), s.perRow("int32"));
  const picked = s.fold(sum, s.apply(where, hit, shifted, s.constant(0)));
  return s.store(s.sub(s.apply(elementwise.log, total), picked));
}

function adamW(s: Sketch): Sketch {
  const [p, g, m, v] = [s.x(), s.x(), s.x(), s.x()];
  const m2 = s.apply(add, s.apply(mul, m, s.constant(0.9)), s.apply(mul, g, s.constant(0.1)));
  const v2 = s.apply(add, s.apply(mul, v, s.constant(0.999)), s.apply(mul, s.apply(mul, g, g), s.constant(0.001)));
  const step = s.apply(
    mul,
    s.apply(mul, m2, s.constant(1e-3)),
    s.apply(recip, s.apply(add, s.apply(sqrt, v2), s.constant(1e-8))),
  );
  return s
    .store(m2)
    .store(v2)
    .store(s.sub(s.apply(mul, p, s.constant(0.99)), step));
}

const flat = [1, 131072] as const;
const square = [128, 1024] as const;
/** Programs with what the same thing cost when written by hand, in nanoseconds per element on one thread. */
const cases: Record<string, { sketch: Sketch; handwritten?: number }> = {
  add: { sketch: ((s) => s.store(s.apply(add, s.x(), s.x())))(new Sketch(...flat)), handwritten: 0.27 },
  "add, 8k": { sketch: ((s) => s.store(s.apply(add, s.x(), s.x())))(new Sketch(1, 8192)) },
  exp: { sketch: ((s) => s.store(s.apply(exp, s.x())))(new Sketch(...flat)), handwritten: 0.7 },
  tanh: { sketch: ((s) => s.store(s.apply(tanh, s.x())))(new Sketch(...flat)), handwritten: 1.74 },
  erf: { sketch: ((s) => s.store(s.apply(erf, s.x())))(new Sketch(...flat)) },
  swiglu: { sketch: swiglu(new Sketch(...flat)), handwritten: 1.1 },
  adamw: { sketch: adamW(new Sketch(...flat)) },
  "bf16 to f32": { sketch: ((s) => s.store(s.cast(s.x("bfloat16"), "float32")))(new Sketch(...flat)) },
  "f32 to bf16": { sketch: ((s) => s.store(s.cast(s.x(), "bfloat16")))(new Sketch(...flat)) },
  softmax: { sketch: softmax(new Sketch(...square)), handwritten: 1.3 },
  "softmax, rows of 64": { sketch: softmax(new Sketch(1024, 64)) },
  "softmax, rows of 65": { sketch: softmax(new Sketch(1024, 65)) },
  "rms norm": { sketch: rmsNorm(new Sketch(128, 1024)), handwritten: 0.45 },
  "layer norm": { sketch: layerNorm(new Sketch(128, 1024)), handwritten: 0.82 },
  "cross entropy": { sketch: crossEntropy(new Sketch(...square)) },
  "row sum": { sketch: ((s) => s.store(s.fold(sum, s.x())))(new Sketch(128, 1024)), handwritten: 0.07 },
  "row max": { sketch: ((s) => s.store(s.fold(maxReduce, s.x())))(new Sketch(128, 1024)) },
  "row dot": { sketch: ((s) => s.store(s.fold(sum, s.apply(mul, s.x(), s.x()))))(new Sketch(128, 1024)) },
  "column sum": { sketch: ((s) => s.store(s.fold(sum, s.x())))(new Sketch(128, 1024, "columns")) },
  "column sum, 4 MB": { sketch: ((s) => s.store(s.fold(sum, s.x())))(new Sketch(1024, 1024, "columns")) },
  "column sum of 2 factors": {
    sketch: ((s) => s.store(s.fold(sum, s.apply(mul, s.x(), s.x()))))(new Sketch(512, 256, "columns")),
  },
  "add, rows of 16": { sketch: ((s) => s.store(s.apply(add, s.x(), s.weight())))(new Sketch(8192, 16)) },
  "add, rows of 3": { sketch: ((s) => s.store(s.apply(add, s.x(), s.weight())))(new Sketch(16384, 3)) },
  "row sum, rows of 8": { sketch: ((s) => s.store(s.fold(sum, s.x())))(new Sketch(8192, 8)) },
  "softmax, rows of 8": { sketch: softmax(new Sketch(8192, 8)) },
  "column sum, 4 columns": { sketch: ((s) => s.store(s.fold(sum, s.x())))(new Sketch(8192, 4, "columns")) },
  transpose: { sketch: ((s) => s.store(s.apply(elementwise.copy, s.turned())))(new Sketch(512, 256)) },
};

function prepare(device: Device, sketch: Sketch): Dispatch {
  const { program, geometry } = sketch.finish();
  const bindings = sketch.buffers.map(({ dtype, length }) => {
    const buffer = device.allocate(device.storageBytes(dtype) * length);
    const values = new dtypes[dtype].array(length);
    for (let i = 0; i < length; i++) values[i] = dtype === "float32" ? Math.sin(i) : i % 64;
    device.upload(values, dtype, { buffer, offset: 0 });
    return { buffer, offset: 0 };
  });
  return device.bind(device.compile(program), geometry, bindings, "bench");
}

/** Milliseconds of the best of many short windows: on a shared machine one of them is often undisturbed. */
function best(run: () => void, milliseconds = 200): number {
  const start = performance.now();
  do run();
  while (performance.now() - start < 60);
  let fastest = Number.POSITIVE_INFINITY;
  const end = performance.now() + milliseconds;
  do {
    const from = performance.now();
    run();
    fastest = Math.min(fastest, performance.now() - from);
  } while (performance.now() < end);
  return fastest;
}

const one = createWasm({ threads: 1 });
const all = createWasm();
console.log(`${all.about}; nanoseconds per element`);
console.log(
  ["", "1 thread", "all", "by hand", "compile ms"].map((head, i) => (i ? head.padStart(11) : head.padEnd(26))).join(""),
);
const wanted = process.argv[2];
for (const [name, { sketch, handwritten }] of Object.entries(cases)) {
  if (wanted && !name.includes(wanted)) continue;
  const elements = sketch.rows * sketch.columns;
  const from = performance.now();
  const single = prepare(one, sketch);
  const compiled = performance.now() - from;
  const shared = prepare(all, sketch);
  const repeat = Math.max(1, Math.round(100_000 / elements));
  const queue = (dispatch: Dispatch) => Array.from({ length: repeat }, () => dispatch);
  const cost = (device: Device, dispatch: Dispatch) => (best(() => device.run(queue(dispatch))) * 1e6) / elements / repeat;
  const columns = [
    cost(one, single).toFixed(3),
    cost(all, shared).toFixed(3),
    handwritten ? String(handwritten) : "",
    compiled.toFixed(1),
  ];
  console.log(name.padEnd(26) + columns.map((column) => column.padStart(11)).join(""));
}
for (const device of [one, all]) device[Symbol.dispose]();
