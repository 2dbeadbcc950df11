/** Third pass of the compiler: a cluster becomes a loop program, its geometry, and the list of values it reads and writes. */
import {
  type Geometry,
  type Instruction,
  instructionKey,
  type Level,
  type LoopProgram,
  loopProgramKey,
  type Register,
  type Slot,
  type SlotGeometry,
  type Store,
} from "../devices/loop-program.ts";
import type { DType } from "../graph/dtype.ts";
import { elementwise } from "../graph/elementwise.ts";
import type { Tensor } from "../graph/node.ts";
import type { Elementwise, Reduction } from "../graph/primitive.ts";
import { sizeOf } from "../graph/shape.ts";
import { contiguousView, isNothing, reshapeView, type View } from "../graph/view.ts";
import { axesOf, type Cluster, isRowLevel } from "./cluster.ts";
import type { Fusion } from "./fuse.ts";
import { foldsLastAxis, isGenerated } from "./inline.ts";
import { accessOf, follow } from "./prepare.ts";

/** A cluster as the loop program that a device compiles, and the values that it runs on. */
export interface LoweredCluster {
  readonly program: LoopProgram;
  readonly geometry: Geometry;
  /** The value behind each of the program's buffers. */
  readonly values: readonly Tensor[];
  readonly outputs: readonly Tensor[];
  /** Inputs whose memory an output may take over: every read of it walks exactly as that output's store does. */
  readonly reusable: ReadonlyMap<Tensor, readonly Tensor[]>;
}

/** A walk over the full list of axes (outer, inner, reduce), before axes are merged. */
interface Walk {
  readonly offset: number;
  readonly strides: number[];
  readonly valid: [number, number][] | null;
}

interface SlotDraft {
  readonly value: Tensor | null;
  readonly dtype: DType;
  readonly walk: Walk;
  readonly rowLevel: boolean;
}

/** The loop program of a cluster. */
export function lower(cluster: Cluster, fusion: Fusion): LoweredCluster {
  return cluster.form === "columns" ? lowerColumns(cluster, fusion) : lowerRows(cluster, fusion);
}

/** Collects instructions and slots while the members are visited. */
class Builder {
  readonly instructions: Instruction[] = [];
  /** Of the instructions, in their order. */
  readonly keys: string[] = [];
  readonly slots: SlotDraft[] = [];
  readonly stores: { register: Register; slot: number; stage: number }[] = [];
  readonly #known = new Map<string, Register>();

  push(instruction: Instruction): Register {
    const key = instructionKey(instruction);
    const known = this.#known.get(key);
    if (known !== undefined) return known;
    this.#known.set(key, this.instructions.length);
    this.keys.push(key);
    return this.instructions.push(instruction) - 1;
  }

  slot(draft: SlotDraft): number {
    const same = this.slots.findIndex(
      (slot) =>
        slot.value === draft.value &&
        slot.rowLevel === draft.rowLevel &&
        slot.walk.offset === draft.walk.offset &&
        String(slot.walk.strides) === String(draft.walk.strides) &&
        String(slot.walk.valid) === String(draft.walk.valid),
    );
    return same >= 0 ? same : this.slots.push(draft) - 1;
  }

  /**
   * What no member makes: a constant, an index, or a value in memory.
   *
   * @param fixed level of constants
   * @param walkOf how a view is walked, and its level
   */
  source(base: Tensor, path: readonly Tensor[], fixed: Level, walkOf: (view: View) => { walk: Walk; level: Level }): Register {
    const constant = (value: number) => this.push({ kind: "constant", value, dtype: base.dtype, level: fixed, stage: 0 });
    if (isGenerated(base) && base.op.name === "constant") return constant(base.attributes["value"] as number);
    const view = follow(contiguousView(base.shape), path)!;
    if (isNothing(view)) return constant(0);
    const { walk, level } = walkOf(view);
    const [kind, value, dtype] = isGenerated(base) ? (["index", null, "int32"] as const) : (["load", base, base.dtype] as const);
    return this.push({ kind, slot: this.slot({ value, dtype, walk, rowLevel: level === "row" }), dtype, level, stage: 0 });
  }

  apply(op: Elementwise, args: readonly Register[], dtype: DType, level: Level): Register {
    const stage = Math.max(0, ...args.map((register) => this.instructions[register]!.stage));
    return this.push({ kind: "apply", op, args, dtype, level, stage });
  }

  /** Folds rows. What is the same along the row is read as elements, and what was folded is not folded again. */
  fold(op: Reduction, arg: Register, dtype: DType): Register {
    const from = this.instructions[arg]!;
    const elements =
      from.level !== "row"
        ? arg
        : from.kind === "reduce"
          ? this.apply(elementwise.copy, [arg], from.dtype, "element")
          : this.push({ ...from, level: "element" });
    const stage = this.instructions[elements]!.stage + 1;
    return this.push({ kind: "reduce", op, arg: elements, dtype, level: "row", stage });
  }

  store(register: Register, draft: SlotDraft): void {
    this.stores.push({ register, slot: this.slot(draft), stage: this.instructions[register]!.stage });
  }
}

function lowerRows(cluster: Cluster, fusion: Fusion): LoweredCluster {
  const inner = cluster.inner ?? 0;
  const hasRows = cluster.inner !== null;
  const { rows, all: axes } = axesOf(cluster);
  const builder = new Builder();
  const registers = new Map<Tensor, Register>();
  const members = new Set(cluster.members);

  const walkOf = (view: View): { walk: Walk; rowLevel: boolean } => {
    const rowLevel = hasRows && sizeOf(view.shape) !== cluster.size;
    const full = reshapeView(view, rowLevel ? rows : axes);
    if (full === null) throw new Error(`compile: a view of [${view.shape}] cannot be walked as [${axes}]`);
    return {
      walk: {
        offset: full.offset,
        strides: rowLevel ? [...full.strides, 0] : [...full.strides],
        valid: full.valid && [
          ...full.valid.map(([from, to]): [number, number] => [from, to]),
          ...(rowLevel ? [[0, inner] as [number, number]] : []),
        ],
      },
      rowLevel,
    };
  };

  const read = (source: Tensor, outer: readonly Tensor[]): Register => {
    const { base, moves } = accessOf(source);
    const path = [...moves, ...outer];
    if (members.has(base)) return registers.get(base)!;
    if (fusion.inlined.has(base))
      return applied(
        base,
        base.sources.map((each) => read(each, path)),
        null,
      );
    return builder.source(base, path, "row", (view) => {
      const { walk, rowLevel } = walkOf(view);
      // the same value along the whole row is read once per row
      const last = axes.length - 1;
      const uniform = rowLevel || (walk.strides[last] === 0 && axes[last]! > 1 && isWhole(walk, last, axes));
      return { walk, level: uniform ? "row" : "element" };
    });
  };
  const applied = (node: Tensor, args: readonly Register[], forced: Level | null): Register => {
    const level = forced ?? (args.every((register) => builder.instructions[register]!.level === "row") ? "row" : "element");
    return builder.apply(node.op as Elementwise, args, node.dtype, level);
  };

  const outputs: Tensor[] = [];
  for (const node of cluster.members) {
    const args = node.sources.map((source) => read(source, []));
    const isOutput = fusion.stored.has(node);
    const register =
      node.op.kind === "reduction"
        ? builder.fold(node.op, args[0]!, node.dtype)
        : applied(node, args, isOutput && !isRowLevel(node, cluster) ? "element" : null);
    registers.set(node, register);
    if (!isOutput) continue;
    outputs.push(node);
    builder.store(register, { value: node, dtype: node.dtype, ...walkOf(contiguousView(node.shape)) });
  }
  return finish(builder, axes, 0, "rows", hasRows, outputs);
}

function lowerColumns(cluster: Cluster, fusion: Fusion): LoweredCluster {
  const node = cluster.members[0]!;
  if (cluster.members.length !== 1 || node.op.kind !== "reduction" || foldsLastAxis(node))
    throw new Error("compile: a column program folds exactly once");
  const source = node.sources[0]!;
  const folded = new Set(node.attributes["axes"] as readonly number[]);
  const rank = source.shape.length;
  const kept = Array.from({ length: rank }, (_, axis) => axis).filter((axis) => !folded.has(axis));
  const order = [...kept, ...folded];
  const axes = order.map((axis) => source.shape[axis]!);
  const builder = new Builder();

  const walkOf = (view: View): Walk => ({
    offset: view.offset,
    strides: order.map((axis) => view.strides[axis]!),
    valid: view.valid && order.map((axis): [number, number] => [...view.valid![axis]!] as [number, number]),
  });
  const read = (from: Tensor, outer: readonly Tensor[]): Register => {
    const { base, moves } = accessOf(from);
    const path = [...moves, ...outer];
    if (fusion.inlined.has(base))
      return builder.apply(
        base.op as Elementwise,
        base.sources.map((each) => read(each, path)),
        base.dtype,
        "body",
      );
    return builder.source(base, path, "body", (view) => ({ walk: walkOf(view), level: "body" }));
  };
  const arg = read(source, []);
  const register = builder.push({ kind: "reduce", op: node.op, arg, dtype: node.dtype, level: "element", stage: 0 });
  const out = walkOf(contiguousView(node.shape));
  for (let i = kept.length; i < order.length; i++) out.strides[i] = 0;
  builder.store(register, { value: node, dtype: node.dtype, walk: out, rowLevel: false });
  return finish(builder, axes, folded.size, "columns", true, [node]);
}

/** Whether a walk takes all of an axis. */
const isWhole = ({ valid }: Walk, axis: number, sizes: readonly number[]): boolean =>
  valid === null || (valid[axis]![0] <= 0 && valid[axis]![1] >= sizes[axis]!);

/**
 * Merges, in place, neighbouring axes that all walks take as one: reduce axes among themselves, then outer axes, and the inner axis with
 * its neighbour where rows mean nothing.
 *
 * @param sizes of the outer axes, the inner one and those that are folded
 * @returns how many are left before the inner axis and after it
 */
function mergeAxes(
  sizes: number[],
  walks: readonly Walk[],
  reduce: number,
  keepInner: boolean,
): { outer: number; reduce: number } {
  let outer = sizes.length - reduce - 1;
  const mergeable = (axis: number) =>
    walks.every(
      (walk) =>
        walk.strides[axis] === walk.strides[axis + 1]! * sizes[axis + 1]! &&
        isWhole(walk, axis, sizes) &&
        isWhole(walk, axis + 1, sizes),
    );
  const merge = (axis: number) => {
    for (const walk of walks) {
      walk.strides.splice(axis, 1);
      if (walk.valid) {
        walk.valid.splice(axis, 1);
        walk.valid[axis] = [0, sizes[axis]! * sizes[axis + 1]!];
      }
    }
    sizes[axis + 1]! *= sizes[axis]!;
    sizes.splice(axis, 1);
  };
  let folded = reduce;
  for (let axis = sizes.length - 2; axis > outer; axis--)
    if (folded > 1 && mergeable(axis)) {
      merge(axis);
      folded--;
    }
  for (let axis = (keepInner ? outer - 1 : outer) - 1; axis >= 0; axis--)
    if (mergeable(axis)) {
      merge(axis);
      outer--;
    }
  return { outer, reduce: folded };
}

/** Writes program and geometry down. @param folds axes that are folded, the last ones */
function finish(
  builder: Builder,
  axes: readonly number[],
  folds: number,
  shape: "rows" | "columns",
  keepInner: boolean,
  outputs: readonly Tensor[],
): LoweredCluster {
  const sizes = [...axes];
  const walks = builder.slots.map(
    ({ walk: { offset, strides, valid } }): Walk => ({
      offset,
      strides: [...strides],
      valid: valid && valid.map(([from, to]) => [from, to]),
    }),
  );
  const { outer, reduce } = mergeAxes(sizes, walks, folds, keepInner);

  const values: Tensor[] = [];
  const bufferOf = (value: Tensor | null): number => {
    if (value === null) return -1;
    const at = values.indexOf(value);
    return at >= 0 ? at : values.push(value) - 1;
  };
  // outputs last, so that inputs keep their places when an output is added
  for (const slot of builder.slots) if (slot.value && !outputs.includes(slot.value)) bufferOf(slot.value);
  const slots: Slot[] = [];
  const slotGeometry: SlotGeometry[] = [];
  builder.slots.forEach((draft, index) => {
    const walk = walks[index]!;
    const innerStride = walk.strides[outer]!;
    const masked = sizes.flatMap((_, axis) => (isWhole(walk, axis, sizes) ? [] : [axis]));
    slots.push({
      buffer: bufferOf(draft.value),
      dtype: draft.dtype,
      inner: draft.rowLevel || innerStride === 0 ? "same" : innerStride === 1 ? "unit" : "strided",
      masked,
    });
    slotGeometry.push({
      offset: walk.offset,
      outer: walk.strides.slice(0, outer),
      inner: innerStride,
      reduce: walk.strides.slice(outer + 1),
      valid: masked.map((axis) => walk.valid![axis]!),
    });
  });
  const stages = Math.max(
    1,
    ...builder.instructions.map((i) =>
      i.kind === "reduce" && shape === "rows" ? i.stage : i.level === "element" ? i.stage + 1 : 1,
    ),
  );
  const stores: Store[] = builder.stores;
  const draft = { shape, outer, reduce, stages, instructions: builder.instructions, slots, stores, buffers: values.length };
  const program: LoopProgram = { ...draft, key: loopProgramKey(draft, builder.keys) };

  return {
    program,
    geometry: { outer: sizes.slice(0, outer), inner: sizes[outer] ?? 1, reduce: sizes.slice(outer + 1), slots: slotGeometry },
    values,
    outputs,
    reusable: shape === "rows" ? reusableInputs(builder, program, slotGeometry, values, outputs) : new Map(),
  };
}

/** An output may take an input's memory when all reads of that input walk like the store, and none comes after it. */
function reusableInputs(
  builder: Builder,
  { slots, stores, stages }: LoopProgram,
  geometry: readonly SlotGeometry[],
  values: readonly Tensor[],
  outputs: readonly Tensor[],
): Map<Tensor, readonly Tensor[]> {
  const reusable = new Map<Tensor, readonly Tensor[]>();
  // equal where two slots walk alike
  const walkKeys = geometry.map(({ offset, outer, inner, reduce, valid }, i) =>
    [offset, outer, inner, reduce, slots[i]!.masked, valid, slots[i]!.inner].join("|"),
  );
  for (const store of stores) {
    const output = builder.slots[store.slot]!.value!;
    if (store.stage !== stages - 1 || builder.slots[store.slot]!.rowLevel) continue;
    const inputs = values.filter(
      (value) =>
        !outputs.includes(value) &&
        value.dtype === output.dtype &&
        builder.slots.every((slot, i) => slot.value !== value || walkKeys[i] === walkKeys[store.slot]),
    );
    reusable.set(output, inputs);
  }
  return reusable;
}
