/** The passes of the compiler in a row: from the tensors that somebody wants to a list of launches and a memory plan. */
import type { Device, KernelCall } from "../devices/device.ts";
import type { Geometry, LoopProgram } from "../devices/loop-program.ts";
import { copy } from "../graph/elementwise.ts";
import { isItem, itemOp, resultTypes } from "../graph/fused.ts";
import { Tensor } from "../graph/node.ts";
import type { CallGeometry, Fused, KernelOperation, Operand } from "../graph/primitive.ts";
import { contiguousStrides, sizeOf } from "../graph/shape.ts";
import { contiguousView, isContiguous } from "../graph/view.ts";
import type { Unit } from "./cluster.ts";
import { type Fusion, fuse } from "./fuse.ts";
import { isGenerated } from "./inline.ts";
import { lower } from "./lower.ts";
import { aligned, type Lifetime, planMemory } from "./memory-plan.ts";
import { accessOf, follow, isLeaf, prepare } from "./prepare.ts";

/** One launch, before it has addresses. */
export interface Step {
  readonly label: string;
  readonly code: LoopProgram | KernelCall;
  readonly geometry: Geometry | CallGeometry;
  /** The values behind the launch's bindings, in their order. */
  readonly values: readonly Tensor[];
  readonly outputs: readonly Tensor[];
  readonly reusable: ReadonlyMap<Tensor, readonly Tensor[]>;
  /** Floating-point operations, counted as additions and multiplications. */
  readonly flops: number;
}

/** Where a value lies: in the arena, or in memory that somebody else owns. */
type Place = { readonly kind: "arena"; readonly offset: number } | { readonly kind: "outside"; readonly value: Tensor };

/** What a device has to do for some tensors: launches in order, and where every value lies. */
export interface Schedule {
  readonly device: Device;
  readonly steps: readonly Step[];
  /** The value that each wished-for tensor turned into, in their order. */
  readonly roots: readonly Tensor[];
  readonly places: ReadonlyMap<Tensor, Place>;
  /** By step the numbers of those of its values in the arena that no later step uses. */
  readonly lastUsed: readonly (readonly number[])[];
  /** Bytes of the arena. */
  readonly arenaBytes: number;
  /** Roots whose memory is that of a leaf which they replace. */
  readonly donated: ReadonlyMap<Tensor, Tensor>;
}

/** What is known of the leaves besides their values. */
export interface ScheduleOptions {
  /** Leaves whose memory a root may take over, by root index: the old value of the cell that the root becomes. */
  readonly donors?: ReadonlyMap<number, Tensor>;
}

/** Prepares, fuses and lowers the graph behind `wanted`, in this order, and plans the memory of everything in between. */
export function schedule(wanted: readonly Tensor[], device: Device, options: ScheduleOptions = {}): Schedule {
  const { roots: prepared, age } = prepare(wanted, device);
  const claimed = new Set<Tensor>();
  const roots = prepared.map((node) => {
    const { base, moves } = accessOf(node);
    const view = follow(contiguousView(base.shape), moves);
    const own = !isLeaf(base) && !isGenerated(base) && view !== null && isContiguous(view) && sizeOf(view.shape) === base.size;
    if (own && !claimed.has(base)) {
      claimed.add(base);
      return base;
    }
    return copy(node);
  });
  const fusion = fuse(roots, device.fusion);
  const items = itemsOf(fusion);
  const steps = inOrder(fusion, age).map((unit) =>
    unit.kind === "call" ? callStep(unit.node, items.get(unit.node) ?? []) : clusterStep(unit, fusion),
  );
  return { device, steps, roots, ...placeValues(steps, roots, device, options.donors ?? new Map()) };
}

/** Units after everything they depend on, otherwise in the order in which their youngest node was made. */
function inOrder(fusion: Fusion, age: (node: Tensor) => number): Unit[] {
  const ages = new Map(
    fusion.units.map((unit) => [unit, unit.kind === "call" ? age(unit.node) : Math.max(...unit.members.map(age))]),
  );
  const waiting = new Map(fusion.units.map((unit) => [unit, unit.dependencies.size]));
  const readers = new Map<Unit, Unit[]>();
  for (const unit of fusion.units)
    for (const need of unit.dependencies) {
      const list = readers.get(need);
      if (list) list.push(unit);
      else readers.set(need, [unit]);
    }
  // a list kept sorted, oldest last
  const ready: Unit[] = [];
  const add = (unit: Unit): void => {
    const own = ages.get(unit)!;
    let [from, to] = [0, ready.length];
    while (from < to) {
      const middle = (from + to) >> 1;
      if (ages.get(ready[middle]!)! < own) to = middle;
      else from = middle + 1;
    }
    ready.splice(from, 0, unit);
  };
  for (const unit of fusion.units) if (unit.dependencies.size === 0) add(unit);
  const order: Unit[] = [];
  for (let unit = ready.pop(); unit; unit = ready.pop()) {
    order.push(unit);
    for (const reader of readers.get(unit) ?? []) {
      const left = waiting.get(reader)! - 1;
      waiting.set(reader, left);
      if (left === 0) add(reader);
    }
  }
  if (order.length !== fusion.units.length) throw new Error("compile: launches depend on each other in a circle");
  return order;
}

function clusterStep(unit: Unit & { kind: "cluster" }, fusion: Fusion): Step {
  const { program, geometry, values, outputs, reusable } = lower(unit, fusion);
  const elements = unit.form === "columns" ? unit.members[0]!.sources[0]!.size : unit.size;
  const names = unit.members.map((member) => member.op.name);
  const work = program.instructions.filter((i) => i.kind === "apply" || i.kind === "reduce").length;
  const label =
    names.length <= 4 ? names.join("·") : `${names.slice(0, 2).join("·")}·…·${names[names.length - 1]} (${names.length})`;
  return { label, code: program, geometry, values, outputs, reusable, flops: work * elements };
}

function operandOf(source: Tensor): { value: Tensor; operand: Operand } {
  const { base, moves } = accessOf(source);
  const view = follow(contiguousView(base.shape), moves)!;
  return { value: base, operand: { shape: view.shape, strides: view.strides, offset: view.offset } };
}

/** The results of fused operations that somebody reads, by operation. */
function itemsOf(fusion: Fusion): Map<Tensor, Tensor[]> {
  const items = new Map<Tensor, Tensor[]>();
  for (const item of fusion.unitOf.keys()) {
    if (!isItem(item)) continue;
    const fused = item.sources[0]!;
    const list = items.get(fused);
    if (list) list.push(item);
    else items.set(fused, [item]);
  }
  return items;
}

function callStep(node: Tensor, items: readonly Tensor[]): Step {
  const op = node.op as KernelOperation | Fused;
  const operands = node.sources.map(operandOf);
  const whole = (shape: readonly number[]): Operand => ({ shape, strides: contiguousStrides(shape), offset: 0 });
  const types = op.kind === "fused" ? resultTypes(node) : [node];
  // a result that nobody reads still needs somewhere to go
  const outputs =
    op.kind === "fused"
      ? types.map(
          (_, index) =>
            items.find((item) => item.attributes["index"] === index) ??
            new Tensor(itemOp, [node], types[index]!.shape, types[index]!.dtype, { index }),
        )
      : [node];
  const attributes = op.kind === "fused" ? op.numbers(node.attributes) : (node.attributes as Record<string, number>);
  const overwritten = operands[op.overwrites?.(operands.length) ?? -1];
  const reusable = new Map<Tensor, Tensor[]>();
  const readOnce = overwritten && operands.filter(({ value }) => value === overwritten.value).length === 1;
  if (readOnce && isContiguous({ ...overwritten.operand, valid: null }) && overwritten.value.size === outputs[0]!.size)
    reusable.set(outputs[0]!, [overwritten.value]);
  const pairs = operands.flatMap(({ operand }, i) => (i % 2 === 1 ? [[operands[i - 1]!.operand, operand] as const] : []));
  const flops =
    op.kind === "fused"
      ? (op.flops?.(node.sources) ?? 0)
      : op.name === "matmul"
        ? 2 * node.size * pairs.reduce((sum, [a]) => sum + a.shape[a.shape.length - 1]!, 0)
        : 0;
  return {
    label:
      op.name === "matmul"
        ? `matmul ${pairs.map(([a, b]) => `[${a.shape}]·[${b.shape}]`).join(" + ")}${operands.length % 2 ? " + start" : ""}`
        : `${op.name} [${types[0]!.shape}]`,
    code: {
      name: op.name,
      operands: operands.map(({ value }) => value.dtype),
      results: types.map(({ dtype }) => dtype),
      ...(op.kind === "kernel" ? { host: op.host } : {}),
    },
    geometry: { operands: operands.map(({ operand }) => operand), results: types.map(({ shape }) => whole(shape)), attributes },
    values: [...operands.map(({ value }) => value), ...outputs],
    outputs,
    reusable,
    flops,
  };
}

/** Lifetimes, donation of old values' memory to new ones, and the arena. */
function placeValues(
  steps: readonly Step[],
  roots: readonly Tensor[],
  device: Device,
  donors: ReadonlyMap<number, Tensor>,
): Pick<Schedule, "places" | "lastUsed" | "arenaBytes" | "donated"> {
  const written = new Map<Tensor, number>();
  const lastRead = new Map<Tensor, number>();
  steps.forEach((step, i) => {
    for (const value of step.values) if (!step.outputs.includes(value)) lastRead.set(value, i);
    for (const output of step.outputs) if (!written.has(output)) written.set(output, i);
  });
  const places = new Map<Tensor, Place>();
  const donated = new Map<Tensor, Tensor>();
  roots.forEach((root, index) => {
    places.set(root, { kind: "outside", value: root });
    const donor = donors.get(index);
    if (donor === undefined || donor.dtype !== root.dtype) return;
    const at = written.get(root)!;
    const last = lastRead.get(donor) ?? -1;
    if (last < at || (last === at && steps[at]!.reusable.get(root)?.includes(donor))) donated.set(root, donor);
  });
  const bytesOf = (value: Tensor) => value.size * device.storageBytes(value.dtype);

  // values that share memory because one takes over from the other are placed as one
  const owner = new Map<Tensor, Tensor>();
  const lives = new Map<Tensor, Lifetime>();
  for (const [value, from] of written) {
    if (places.has(value)) continue;
    const to = Math.max(from, lastRead.get(value) ?? from);
    const step = steps[from]!;
    const giver = step.reusable
      .get(value)
      ?.find(
        (input) =>
          lives.has(owner.get(input) ?? input) &&
          lastRead.get(input) === from &&
          lives.get(owner.get(input) ?? input)!.to === from &&
          bytesOf(input) === bytesOf(value),
      );
    if (giver) {
      const root = owner.get(giver) ?? giver;
      const life = lives.get(root)!;
      owner.set(value, root);
      lives.set(root, { ...life, to });
    } else lives.set(value, { bytes: bytesOf(value), from, to });
  }
  const placed = [...lives.keys()];
  const plan = planMemory(placed.map((value) => lives.get(value)!));
  placed.forEach((value, i) => places.set(value, { kind: "arena", offset: plan.offsets[i]! }));
  for (const [value, root] of owner) places.set(value, places.get(root)!);
  for (const step of steps)
    for (const value of step.values) if (!places.has(value)) places.set(value, { kind: "outside", value });
  const last = (value: Tensor): number => Math.max(written.get(value) ?? -1, lastRead.get(value) ?? -1);
  const lastUsed = steps.map(({ values }, i) =>
    values.flatMap((value, j) => (places.get(value)!.kind === "arena" && last(value) === i ? [j] : [])),
  );
  return { places, lastUsed, arenaBytes: aligned(plan.bytes), donated };
}
