/**
 * The gpu device: loop programs and kernels through GPU.js.
 *
 * A GPU.js kernel makes a new array each time it runs, so a buffer here is no memory but a list of what lies where in it.
 * What is written at an offset takes the place of all that overlapped it; nothing is moved, and a copy is one more reference.
 * The compiler reads every value as a whole and as it was written, with its strides in the kernel, so that is enough.
 */
import { DTypeError } from "../../errors.ts";
import { type DType, dtypes, type TypedArray, toBFloat16Bits, toFloat16Bits, toFloat32 } from "../../graph/dtype.ts";
import type { CallGeometry } from "../../graph/primitive.ts";
import type { Binding, Buffer, Device, DeviceStatistics, Dispatch, Executable, KernelCall } from "../device.ts";
import type { Geometry, LoopProgram } from "../loop-program.ts";
import { type Backend, forgetFirst, type GpuMode, type Handle, type Site } from "./backend.ts";
import { callPlans } from "./calls.ts";
import { callReach, checkHeld, checkLimits, loopReach } from "./limits.ts";
import { loopPlan } from "./loop-passes.ts";
import { countsOf, floatsPerElement, type Pass, type Plan } from "./plan.ts";

interface GpuBuffer extends Buffer {
  readonly held: Map<number, { readonly handle: Handle; readonly end: number }>;
  disposed: boolean;
}

interface GpuExecutable extends Executable {
  /** @param inPlace bindings that are written, each with one that is read and lies at the same place */
  plan(geometry: Geometry | CallGeometry, inPlace: ReadonlyMap<number, number>): Plan;
  /** Floats of each binding that it reads or writes. */
  reach(geometry: Geometry | CallGeometry): readonly number[];
  /** Plans for sizes that there were lately, by their text: writing shaders takes longer than running small ones. */
  readonly plans: Map<string, Plan>;
}

/** Sizes for which an executable's plans are kept. */
const plansKept = 16;

interface Launch extends Dispatch {
  readonly plan: Plan;
  readonly bindings: readonly Binding[];
  /** By pass: values that it reads last. */
  readonly done: readonly (readonly number[])[];
  /** Places that are written and not read: what was there goes first, so that its memory can be taken again. */
  readonly renewed: readonly Binding[];
  /** Places of which nothing is wanted afterwards. */
  readonly dead: readonly Binding[];
  readonly sites: readonly Site[];
}

const bytesPerFloat = 4;

/** The same text for equal geometries, and only for them. */
const sizesOf = (geometry: Geometry | CallGeometry): string =>
  // attributes need not be finite
  JSON.stringify(geometry) + ("attributes" in geometry ? Object.values(geometry.attributes).join() : "");

/** For each pass the values of earlier ones that nobody reads after it. */
function lastReads({ passes, results }: Plan): number[][] {
  const kept = new Set(results.map(({ pass }) => pass));
  const last = new Map<number, number>();
  passes.forEach(({ args }, i) => {
    for (const arg of args) if (arg.kind === "pass" && !kept.has(arg.index)) last.set(arg.index, i);
  });
  return passes.map((_, i) => [...last].flatMap(([pass, at]) => (at === i ? [pass] : [])));
}

const isSamePlace = (a: Binding, b: Binding): boolean => a.buffer === b.buffer && a.offset === b.offset;

/** Pairs of bindings at one place, by the number of the later one: what is written there may be written over what is read. */
function sharedPlaces(bindings: readonly Binding[]): Map<number, number> {
  const shared = new Map<number, number>();
  bindings.forEach((place, i) => {
    const there = bindings.flatMap((other, j) => (isSamePlace(other, place) ? [j] : []));
    if (there.length === 2 && there[1] === i) shared.set(i, there[0]!);
  });
  return shared;
}

/** Counts of what is on a `gpu` device. */
export interface GpuStatistics extends DeviceStatistics {
  /** Kernels compiled so far; stays as it is once a training run has done its first step. */
  readonly compilations: number;
  /** Arrays on the device. */
  readonly handles: number;
}

/** The device that runs programs through GPU.js; `createGpu` opens it. */
export class GpuDevice implements Device {
  readonly name = "gpu";
  readonly fusion = { elementwise: true, rows: true };
  readonly kernels: ReadonlySet<string>;
  readonly widens: ReadonlySet<DType> = new Set(["float16", "bfloat16"] as const);
  readonly about: string;
  readonly downloadSync?: (from: Binding, dtype: DType, count: number) => TypedArray;
  private readonly backend: Backend;
  private readonly executables = new Map<string, GpuExecutable>();
  private buffers = 0;
  private bytesInUse = 0;
  private peakBytes = 0;
  /** Stands for arrays of no elements, which GPU.js does not have. */
  private nothing: Handle | null = null;

  constructor(backend: Backend, about: string) {
    this.backend = backend;
    this.about = about;
    // composed of products, which are tuned there, attention takes half the time of its own passes or of shaders on a processor
    const composed = backend.mode === "webgl2" || backend.software ? ["attention", "attentionBackward"] : [];
    this.kernels = new Set(Object.keys(callPlans).filter((name) => !composed.includes(name)));
    const { readSync } = backend;
    if (readSync)
      this.downloadSync = (from, dtype, count) =>
        count === 0 ? new dtypes[dtype].array(0) : fromFloats(readSync(this.at(from)), dtype, count);
  }

  get mode(): GpuMode {
    return this.backend.mode;
  }

  storageBytes(dtype: DType): number {
    if (dtype === "float64")
      throw new DTypeError("float64 computes on the reference device only.", {
        operation: "gpu",
        got: dtype,
        hint: 'Use x.cast("float32"), or the reference device.',
      });
    return floatsPerElement(dtype) * bytesPerFloat;
  }

  allocate(bytes: number): GpuBuffer {
    this.buffers++;
    this.bytesInUse += bytes;
    this.peakBytes = Math.max(this.peakBytes, this.bytesInUse);
    const device = this;
    return {
      bytes,
      held: new Map(),
      disposed: false,
      [Symbol.dispose]() {
        if (this.disposed) return;
        this.disposed = true;
        device.buffers--;
        device.bytesInUse -= bytes;
        for (const { handle } of this.held.values()) device.drop(handle);
        this.held.clear();
      },
    };
  }

  upload(values: TypedArray, dtype: DType, to: Binding): void {
    checkHeld((values.length * this.storageBytes(dtype)) / bytesPerFloat, this.backend, "upload");
    this.place(to, values.length ? this.backend.upload(toFloats(values, dtype)) : null);
  }

  async download(from: Binding, dtype: DType, count: number): Promise<TypedArray> {
    if (count === 0) return new dtypes[dtype].array(0);
    return fromFloats(await this.backend.read(this.at(from)), dtype, count);
  }

  copy(from: Binding, to: Binding, bytes: number): void {
    if (bytes === 0) return;
    const handle = this.at(from);
    handle.references++;
    this.place(to, handle);
  }

  compile(program: LoopProgram): Executable {
    const { mode, software, visible, inputs, results = 1 } = this.backend;
    const language = mode === "webgpu" ? "wgsl" : mode === "webgl2" ? "glsl" : null;
    const shaders = language ? ({ language, adapter: software ? "software" : "card", results } as const) : undefined;
    return this.executable(program.key, program.shape, {
      plan: (geometry, inPlace) => loopPlan(program, geometry as Geometry, inputs, shaders, visible, inPlace),
      reach: (geometry) => loopReach(program, geometry as Geometry),
    });
  }

  compileCall(call: KernelCall): Executable {
    const plan = callPlans[call.name];
    if (!plan || call.operands.includes("float64"))
      throw new DTypeError(`has no kernel for ${call.operands.join(", ")} on the gpu device.`, {
        operation: call.name,
        got: call.operands,
      });
    return this.executable(`${call.name}:${call.operands}>${call.results}`, call.name, {
      plan: (geometry) => plan(call, geometry as CallGeometry, this.backend),
      reach: (geometry) => callReach(call, geometry as CallGeometry),
    });
  }

  private executable(key: string, name: string, code: Pick<GpuExecutable, "plan" | "reach">): GpuExecutable {
    let executable = this.executables.get(key);
    if (!executable) this.executables.set(key, (executable = { name, ...code, plans: new Map() }));
    return executable;
  }

  bind(
    executable: Executable,
    geometry: Geometry | CallGeometry,
    bindings: readonly Binding[],
    label: string,
    lastUsed: readonly number[] = [],
  ): Launch {
    const code = executable as GpuExecutable;
    const inPlace = this.backend.writesInPlace ? sharedPlaces(bindings) : new Map<number, number>();
    const sizes = sizesOf(geometry) + [...inPlace].join(";");
    let plan = code.plans.get(sizes);
    if (!plan) {
      plan = code.plan(geometry, inPlace);
      checkLimits(plan, code.reach(geometry), this.backend, label);
      forgetFirst(code.plans, plansKept - 1);
      code.plans.set(sizes, plan);
    }
    /** The places of these bindings at which no other one is. */
    const placesOf = (numbers: readonly number[]): Binding[] =>
      numbers
        .map((i) => bindings[i]!)
        .filter((place) => bindings.every((other, i) => numbers.includes(i) || !isSamePlace(other, place)));
    const renewed = placesOf(plan.results.map(({ binding }) => binding));
    const sites = plan.passes.map(() => ({}));
    return { executable, label, plan, bindings, done: lastReads(plan), renewed, dead: placesOf(lastUsed), sites };
  }

  release(): void {}

  run(queue: readonly Dispatch[]): void {
    for (const dispatch of queue) this.launch(dispatch as Launch);
  }

  private launch({ plan, bindings, done, renewed, dead, sites }: Launch): void {
    const { backend } = this;
    if (backend.visible) plan.check?.((binding) => this.at(bindings[binding]!).raw as Float32Array);
    for (const place of renewed) this.clear(place);
    const made: (Handle | null)[] = [];
    plan.passes.forEach((pass, i) => {
      const args = pass.args.map((arg) =>
        arg.kind === "number"
          ? arg.value
          : arg.kind === "pass"
            ? this.orNothing(made[arg.index]!)
            : this.at(bindings[arg.index]!),
      );
      made.push(...(pass.count === 0 ? countsOf(pass).map(() => null) : this.results(pass, args, sites[i]!)));
      for (const index of done[i]!) this.drop(made[index]!);
    });
    const given = new Set<number>();
    for (const { binding, pass } of plan.results) {
      const handle = made[pass]!;
      if (given.has(pass) && handle) handle.references++;
      given.add(pass);
      this.place(bindings[binding]!, handle);
    }
    for (const place of dead) this.clear(place);
  }

  /** Runs a pass, or finds what it gave before: a value changes only where nobody else refers to it. */
  private results(pass: Pass, args: readonly (Handle | number)[], site: Site): readonly Handle[] {
    const { kept } = pass;
    if (kept === undefined) return this.backend.run(pass, args, site);
    const of = args[0] as Handle;
    of.kept ??= new Map();
    const known = of.kept.get(kept);
    const handle = known ?? this.backend.run(pass, args, site)[0]!;
    if (known === undefined) of.kept.set(kept, null);
    else {
      handle.references++;
      of.kept.set(kept, handle);
    }
    return [handle];
  }

  get statistics(): GpuStatistics {
    const { kernels, compilations, handles } = this.backend.statistics;
    const { buffers, bytesInUse, peakBytes } = this;
    return { buffers, bytesInUse, peakBytes, kernels, compilations, handles };
  }

  [Symbol.dispose](): void {
    this.executables.clear();
    void this.backend.destroy();
  }

  /** What lies at a binding. */
  private at({ buffer, offset }: Binding): Handle {
    return this.orNothing((buffer as GpuBuffer).held.get(offset)?.handle ?? null);
  }

  private orNothing(handle: Handle | null): Handle {
    return handle ?? (this.nothing ??= this.backend.upload(Float32Array.of(0)));
  }

  /** Takes away what begins at a binding. */
  private clear({ buffer, offset }: Binding): void {
    const { held } = buffer as GpuBuffer;
    const old = held.get(offset);
    if (old && held.delete(offset)) this.drop(old.handle);
  }

  /** Puts a value at a binding, in place of all that overlaps it. */
  private place({ buffer, offset }: Binding, handle: Handle | null): void {
    if (!handle) return;
    const { held } = buffer as GpuBuffer;
    const end = offset + handle.count * bytesPerFloat;
    for (const [start, old] of held)
      if (start < end && offset < old.end) {
        held.delete(start);
        this.drop(old.handle);
      }
    held.set(offset, { handle, end });
  }

  private drop(handle: Handle | null): void {
    if (!handle || --handle.references > 0) return;
    for (const kept of handle.kept?.values() ?? []) this.drop(kept);
    this.backend.free(handle);
  }
}

function toFloats(values: TypedArray, dtype: DType): Float32Array {
  if (dtype !== "int32") return toFloat32(values, dtype);
  const floats = new Float32Array(2 * values.length);
  for (let i = 0; i < values.length; i++) {
    floats[2 * i] = values[i]! & 0xffff;
    floats[2 * i + 1] = values[i]! >>> 16;
  }
  return floats;
}

function fromFloats(floats: Float32Array, dtype: DType, count: number): TypedArray {
  const values = new dtypes[dtype].array(count);
  if (dtype === "int32") for (let i = 0; i < count; i++) values[i] = (floats[2 * i + 1]! << 16) | floats[2 * i]!;
  else if (dtype === "float16") for (let i = 0; i < count; i++) values[i] = toFloat16Bits(floats[i]!);
  else if (dtype === "bfloat16") for (let i = 0; i < count; i++) values[i] = toBFloat16Bits(floats[i]!);
  else values.set(floats.subarray(0, count));
  return values;
}
