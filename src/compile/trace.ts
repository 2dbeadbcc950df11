/**
 * Trace and replay: `compile(fn)` runs a function of tensors once per kind of arguments, keeps the program that it
 * stands for, and replays that without building a graph. Variables that the function reads or assigns become inputs
 * and outputs of the program; assigned ones are updated in place where nobody needs the old value any more.
 */
import type { Buffer, Device } from "../devices/device.ts";
import { ConfigError, checkOptions, wordArgument, wordShape, wordType } from "../errors.ts";
import { checkAlive, disposeStorage, type Storage, Tensor } from "../graph/node.ts";
import { buffer, input } from "../graph/source.ts";
import { isSubstituting, observing, type Setting, structure, Variable, type VariableObserver } from "../graph/variable.ts";
import { explainSchedule } from "./explain.ts";
import { currentDevice, locateLeaf, Program, realize } from "./program.ts";
import { type Schedule, schedule } from "./schedule.ts";
import { handOver, newStorage, programStorage } from "./storage.ts";

/** Tensors in lists and objects: what a compiled function may take and give. */
export type TensorTree = Tensor | readonly TensorTree[] | { readonly [key: string]: TensorTree };

/** A function that is traced once for each signature of its arguments and replayed from then on; see `compile`. */
export interface CompiledFunction<Args extends readonly TensorTree[], Result extends TensorTree> {
  (...args: Args): Result;
  /** Kernels, sizes, work and memory of the program for such arguments (or of the one traced last), as text. */
  explain(...args: Args | []): string;
  /** Bytes that intermediate values take at the peak, and bytes of inputs and outputs, for the program traced last. */
  memory(): { readonly arenaBytes: number; readonly outsideBytes: number };
  /** Launches and memory plan of the program traced last, if any. */
  schedule(): Schedule | null;
  /** Milliseconds of every kernel of the program traced last, run once more. */
  profile(...args: Args): { readonly label: string; readonly milliseconds: number; readonly flops: number }[];
  /** Programs that it has, at most `mostPrograms`. */
  readonly traces: number;
  /** Gives the programs' memory back. */
  dispose(): void;
}

/** How many programs a compiled function keeps. */
export interface CompileOptions {
  /**
   * Programs that are kept, of those used last: one for each kind of arguments and settings. One more takes the place of the one
   * that was not used for the longest time, which is traced anew when it is needed again. 64 by default.
   */
  readonly mostPrograms?: number;
}

interface Traced {
  readonly program: Program;
  readonly device: Device;
  /** What the graph was built from besides the arguments, and the values it had. */
  readonly settings: ReadonlyMap<Setting<unknown>, unknown>;
  readonly inputs: Map<Tensor, Storage>;
  readonly placeholders: readonly Tensor[];
  /** Who has each of the program's outside values: a variable, the program itself, or a tensor that the function closes over. */
  readonly owners: readonly (Variable | Storage | Tensor)[];
  readonly assigned: readonly { readonly variable: Variable; readonly root: Tensor; readonly donated: boolean }[];
  /** What each result was computed as, and its shape: a reshape at the end is free. */
  readonly outputs: readonly { readonly root: Tensor; readonly shape: readonly number[] }[];
  readonly fixed: ReadonlyMap<Tensor, Storage>;
  readonly rebuild: (leaves: readonly Tensor[]) => TensorTree;
}

/**
 * @param fn builds a graph from its arguments; it must be the same graph for arguments of the same shapes and dtypes, as long
 *   as the settings that it looks at (training or not, adapters) are the same: other settings have programs of their own.
 *   Plain JavaScript in it runs while tracing only, and `.grad` left by `backward()` stays inside: return gradients, or use them
 *   up in the function as an optimiser does.
 * @throws {ConfigError} when `mostPrograms` is no whole number from 1, or `Infinity`; when a traced function asks for values instead of building a graph
 * @example
 * const count = new Variable(tensor(0));
 * const step = compile((x: Tensor) => {
 *   count.assign(count.value.add(1));
 *   return x.mul(count.value).sum();
 * });
 * step(tensor([1, 2]))                // 3 float32 []
 * step(tensor([1, 2]))                // 6 float32 []
 * step.traces                         // 1
 * step.explain().includes("kernels")  // true
 */
export function compile<Args extends readonly TensorTree[], Result extends TensorTree>(
  fn: (...args: Args) => Result,
  options: CompileOptions = {},
): CompiledFunction<Args, Result> {
  const { mostPrograms = 64 } = checkOptions("compile", options, { mostPrograms: "a whole number from 1, or Infinity" });
  const programs = new Programs(fn, mostPrograms);
  let last: Traced | null = null;
  const get = (args: Args): { traced: Traced; leaves: Tensor[] } => {
    const leaves = leavesOf(args);
    last = programs.get(args);
    return { traced: last, leaves };
  };

  const compiled = (...args: Args): Result => {
    if (isSubstituting()) return fn(...args);
    const { traced, leaves } = get(args);
    return replay(traced, leaves) as Result;
  };
  const methods = {
    explain(...args: Args | []) {
      const traced = args.length ? get(args as Args).traced : last;
      if (!traced)
        throw new ConfigError("nothing was traced yet.", {
          operation: "explain",
          hint: "Call the function once, or pass arguments.",
        });
      return explainSchedule(traced.program.schedule);
    },
    memory() {
      const bytes = (values: Iterable<Storage>) =>
        [...values].reduce((sum, storage) => sum + (storage.buffer as Buffer).bytes, 0);
      return {
        arenaBytes: last?.program.schedule.arenaBytes ?? 0,
        outsideBytes: last ? bytes(last.inputs.values()) + bytes(last.fixed.values()) : 0,
      };
    },
    schedule: () => last?.program.schedule ?? null,
    profile(...args: Args) {
      const { traced, leaves } = get(args);
      const report: { label: string; milliseconds: number; flops: number }[] = [];
      replay(traced, leaves, (step, milliseconds) => {
        const { label, flops } = traced.program.schedule.steps[step]!;
        report.push({ label, milliseconds, flops });
      });
      return report;
    },
    get traces() {
      return programs.size;
    },
    dispose() {
      programs.clear();
      last = null;
    },
  };
  // not Object.assign, which would copy what the getter gives now
  return Object.defineProperties(compiled, Object.getOwnPropertyDescriptors(methods)) as typeof compiled & typeof methods;
}

/** The programs of one function. */
class Programs<Args extends readonly TensorTree[]> {
  readonly #fn: (...args: Args) => TensorTree;
  readonly #most: number;
  /** By kind of arguments. */
  readonly #byKind = new Map<string, Traced[]>();
  /** The kind of each, in the order of their last use. */
  readonly #used = new Map<Traced, string>();

  /** @param most that are kept: the one used longest ago makes room */
  constructor(fn: (...args: Args) => TensorTree, most: number) {
    this.#fn = fn;
    this.#most = most;
  }

  get size(): number {
    return this.#used.size;
  }

  /** The program for arguments of this kind with the settings of now; traced if there is none. */
  get(args: Args): Traced {
    const device = currentDevice();
    const kind = `${device.name}|${structureOf(args)}`;
    let traced = this.#byKind.get(kind)?.find((one) => one.device === device && holds(one));
    if (!traced) {
      this.#forgetOutdated();
      traced = trace(this.#fn, args, device);
      this.#byKind.set(kind, [...(this.#byKind.get(kind) ?? []), traced]);
    }
    this.#used.delete(traced);
    this.#used.set(traced, kind);
    for (const oldest of this.#used.keys()) {
      if (this.#used.size <= this.#most) break;
      this.#forget(oldest);
    }
    return traced;
  }

  clear(): void {
    for (const traced of [...this.#used.keys()]) this.#forget(traced);
  }

  #forget(traced: Traced): void {
    const kind = this.#used.get(traced)!;
    this.#used.delete(traced);
    const others = this.#byKind.get(kind)!.filter((other) => other !== traced);
    if (others.length) this.#byKind.set(kind, others);
    else this.#byKind.delete(kind);
    release(traced);
  }

  /** Programs of a model whose modules have been replaced are never run again. */
  #forgetOutdated(): void {
    for (const traced of [...this.#used.keys()]) if (traced.settings.get(structure) !== structure.stored) this.#forget(traced);
  }
}

function release({ program, inputs, fixed }: Traced): void {
  program.release();
  for (const storage of [...inputs.values(), ...fixed.values()]) disposeStorage(storage);
}

/** Whether the graph would be the same now. */
function holds({ settings }: Traced): boolean {
  for (const [setting, value] of settings) if (!sameSetting(setting.stored, value)) return false;
  return true;
}

/** Lists are the same when their items are. */
const sameSetting = (a: unknown, b: unknown): boolean =>
  Object.is(a, b) ||
  (Array.isArray(a) && Array.isArray(b) && a.length === b.length && a.every((item, i) => Object.is(item, b[i])));

function trace<Args extends readonly TensorTree[]>(fn: (...args: Args) => TensorTree, args: Args, device: Device): Traced {
  const placeholders: Tensor[] = [];
  const stand = mapTree(args, (x) => {
    const placeholder = input(x.shape, x.dtype);
    placeholders.push(placeholder);
    return placeholder;
  }) as Args;

  const readers = new Map<Variable, Tensor>();
  const pending = new Map<Variable, Tensor>();
  const gradients = new Map<Variable, Tensor | null>();
  const settings = new Map<Setting<unknown>, unknown>([[structure, structure.stored]]);
  const placeholderOf = (variable: Variable): Tensor => {
    let placeholder = readers.get(variable);
    if (!placeholder) {
      placeholder = input(variable.shape, variable.dtype);
      placeholder.variable = variable;
      readers.set(variable, placeholder);
      gradients.set(variable, variable.grad);
    }
    return placeholder;
  };
  const observer: VariableObserver = {
    read: (variable) => pending.get(variable) ?? placeholderOf(variable),
    write: (variable, next) => {
      placeholderOf(variable);
      pending.set(variable, next);
    },
    consult: (setting) => void settings.set(setting, setting.stored),
  };
  let result: TensorTree;
  try {
    result = observing(observer, () => fn(...stand));
  } finally {
    // gradients left by backward() belong to the traced graph
    for (const [variable, before] of gradients) variable.grad = before;
  }
  const outputs = leavesOf(result);
  const targets = [...pending.keys()];
  const wanted = [...outputs, ...targets.map((variable) => pending.get(variable)!)];
  const donors = new Map(targets.map((variable, i) => [outputs.length + i, readers.get(variable)!]));
  const plan = schedule(wanted, device, { donors });
  const program = new Program(plan);
  const inputs = new Map(
    placeholders.map((placeholder) => [placeholder, programStorage(device, placeholder.dtype, placeholder.size)]),
  );
  const fixed = new Map<Tensor, Storage>();
  for (const root of plan.roots) if (!plan.donated.has(root)) fixed.set(root, programStorage(device, root.dtype, root.size));
  const variables = new Map([...readers].map(([variable, placeholder]) => [placeholder, variable]));
  return {
    program,
    device,
    settings,
    inputs,
    placeholders,
    owners: program.outside.map(
      (value) => variables.get(plan.donated.get(value) ?? value) ?? inputs.get(value) ?? fixed.get(value) ?? value,
    ),
    assigned: targets.map((variable, i) => {
      const root = plan.roots[outputs.length + i]!;
      return { variable, root, donated: plan.donated.has(root) };
    }),
    outputs: outputs.map(({ shape }, i) => ({ root: plan.roots[i]!, shape })),
    fixed,
    rebuild: rebuilder(result),
  };
}

function replay(traced: Traced, leaves: readonly Tensor[], profile?: (step: number, milliseconds: number) => void): TensorTree {
  const { program, device, inputs, placeholders, owners, assigned, fixed } = traced;
  realize(leaves);
  placeholders.forEach((placeholder, i) => {
    const leaf = leaves[i]!;
    checkAlive("run", leaf);
    const bytes = placeholder.size * device.storageBytes(placeholder.dtype);
    const from = { buffer: locateLeaf(device, leaf), offset: 0 };
    device.copy(from, { buffer: inputs.get(placeholder)!.buffer as Buffer, offset: 0 }, bytes);
  });
  const locate = (_: Tensor, index: number) => {
    const owner = owners[index]!;
    if (owner instanceof Variable) return locateLeaf(device, owner.stored);
    return owner instanceof Tensor ? locateLeaf(device, owner) : (owner.buffer as Buffer);
  };
  if (profile) program.profile(locate, profile);
  else program.run(locate);
  const results = traced.outputs.map(({ root, shape }) => {
    const storage = newStorage(device, root.dtype, root.size);
    device.copy(
      { buffer: fixed.get(root)!.buffer as Buffer, offset: 0 },
      { buffer: storage.buffer as Buffer, offset: 0 },
      root.size * device.storageBytes(root.dtype),
    );
    return buffer(shape, root.dtype, storage);
  });
  for (const { variable, root, donated: inPlace } of assigned) {
    const storage = variable.stored.storage!;
    if (!inPlace)
      device.copy(
        { buffer: fixed.get(root)!.buffer as Buffer, offset: 0 },
        { buffer: storage.buffer as Buffer, offset: 0 },
        root.size * device.storageBytes(root.dtype),
      );
    renewContent(variable, storage);
  }
  return traced.rebuild(results);
}

/** The cell's memory has new values: handles of the old tensor go dead, a new one takes the memory over. */
function renewContent(variable: Variable, storage: Storage): void {
  variable.replace(buffer(variable.shape, variable.dtype, handOver(storage)));
}

function leavesOf(tree: TensorTree): Tensor[] {
  if (tree instanceof Tensor) return [tree];
  if (tree === null || typeof tree !== "object")
    throw new ConfigError(`a compiled function takes and gives tensors, lists and objects of them, got ${wordArgument(tree)}.`, {
      operation: "compile",
      got: tree,
      ...(typeof tree === "number" && { hint: "Numbers are part of the program: close over them, or pass tensor(…)." }),
    });
  if (ArrayBuffer.isView(tree) || tree instanceof Variable)
    throw new ConfigError(`a compiled function takes and gives tensors, got ${wordType(tree)}.`, {
      operation: "compile",
      got: tree,
      hint:
        tree instanceof Variable ? "Variables that a function reads are found by themselves: close over them." : "Use tensor(…).",
    });
  return (Array.isArray(tree) ? tree : Object.values(tree)).flatMap((item) => leavesOf(item as TensorTree));
}

function mapTree(tree: TensorTree, f: (x: Tensor) => Tensor): TensorTree {
  if (tree instanceof Tensor) return f(tree);
  if (Array.isArray(tree)) return tree.map((item) => mapTree(item as TensorTree, f));
  return Object.fromEntries(Object.entries(tree).map(([key, item]) => [key, mapTree(item as TensorTree, f)]));
}

function structureOf(tree: TensorTree): string {
  if (tree instanceof Tensor) return `${tree.dtype}${wordShape(tree.shape)}`;
  if (Array.isArray(tree)) return `[${tree.map((item) => structureOf(item as TensorTree)).join(";")}]`;
  return `{${Object.entries(tree)
    .map(([key, item]) => `${key}:${structureOf(item as TensorTree)}`)
    .join(";")}}`;
}

/** Puts leaves back into the structure of `tree`; keeps none of its tensors. */
function rebuilder(tree: TensorTree): (leaves: readonly Tensor[]) => TensorTree {
  let next = 0;
  const make = (node: TensorTree): ((leaves: readonly Tensor[]) => TensorTree) => {
    if (node instanceof Tensor) {
      const index = next++;
      return (leaves) => leaves[index]!;
    }
    if (Array.isArray(node)) {
      const parts = node.map((item) => make(item as TensorTree));
      return (leaves) => parts.map((part) => part(leaves));
    }
    const parts = Object.entries(node).map(([key, item]) => [key, make(item as TensorTree)] as const);
    return (leaves) => Object.fromEntries(parts.map(([key, part]) => [key, part(leaves)]));
  };
  return make(tree);
}
