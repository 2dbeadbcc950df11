/**
 * What a code generator has to know of a loop program beyond its text: which values are the same along the inner axis, which
 * pass computes what, which values a pass keeps for a later one, and roughly what an element costs.
 */
import type { Elementwise } from "../../graph/primitive.ts";
import type { Geometry, Instruction, LoopProgram, Register, Store } from "../loop-program.ts";
import { blockLength } from "./folds.ts";

/**
 * Where a value is computed. `row`: once per outer index. `element`: for every inner index. `body`: for every index of the
 * reduce axes too; `uniform`: like `body`, but the same for all inner indices.
 */
type Place = "constant" | "row" | "element" | "body" | "uniform";

/** A reduction, with the register that it fills. */
export type Fold = Extract<Instruction, { kind: "reduce" }> & { readonly register: Register };

/** One walk over the inner axis. */
export interface Pass {
  readonly folds: readonly Fold[];
  readonly stores: readonly Store[];
  /** Values with a value per element that this pass computes. */
  readonly computed: ReadonlySet<Register>;
  /** Values per element that an earlier pass has left in the row scratch. */
  readonly restored: ReadonlySet<Register>;
  /** Values per element that this pass leaves in the row scratch. */
  readonly kept: readonly Register[];
  /** Values from outside the loop: they must be there before it begins. */
  readonly hoisted: readonly Register[];
  /** Cost of one element, in simple instructions. */
  readonly cost: number;
}

/** The order in which a loop program is computed. */
export interface LoopPlan {
  readonly places: readonly Place[];
  /** How many instructions, folds and stores read a register. */
  readonly uses: readonly number[];
  /** Rows form: one per stage. Columns form: the loop over the reduce axes is `passes[0]`, what follows it `passes[1]`. */
  readonly passes: readonly Pass[];
  /** Slot in the row scratch of every register that is kept. */
  readonly kept: ReadonlyMap<Register, number>;
  readonly rowStores: readonly Store[];
  /** True when the inner axis may be cut into parts. */
  readonly splittable: boolean;
}

/** A value that costs more than this is kept between passes; keeping costs a store and a load. */
const keepAbove = 5;
const heavyCost: Readonly<Record<string, number>> = { exp: 16, log: 22, tanh: 33, erf: 26, sin: 40, pow: 90, mod: 24 };
const lightCost: Readonly<Record<string, number>> = { recip: 4, sqrt: 4, shiftLeft: 2, shiftRight: 2 };

const costOf = (op: Elementwise): number => heavyCost[op.name] ?? lightCost[op.name] ?? (op.heavy ? 24 : 1);

/** Cost of computing `instruction` from its arguments. */
function ownCost(program: LoopProgram, instruction: Instruction): number {
  const narrow = instruction.dtype === "float16" ? 10 : instruction.dtype === "bfloat16" ? 5 : 0;
  if (instruction.kind === "apply") return costOf(instruction.op) + narrow;
  if (instruction.kind !== "load") return 1;
  const slot = program.slots[instruction.slot]!;
  return (slot.inner === "strided" ? 6 : 1) + (slot.masked.length ? 3 : 0) + narrow;
}

/** Above this cost of all of them, vectors do not go through a loop together: they would need more registers than there are. */
export const mostTogether = 128;

/**
 * Vectors of an inner axis so short that the loop over it costs more than what is in it, else null: heads are turned by their
 * positions in rows of 16.
 */
export function vectorsOf(program: LoopProgram, plan: LoopPlan, { inner, outer }: Geometry): number | null {
  const vectors = inner / 4;
  const isShort = program.shape === "rows" && plan.splittable && Number.isInteger(vectors) && vectors >= 1 && vectors <= 4;
  return isShort && outer.length > 0 && plan.passes.every(({ cost }) => cost * vectors <= mostTogether) ? vectors : null;
}

/** Whether a register reads what does not lie side by side, or not all of it. */
export function isIrregular({ instructions, slots }: LoopProgram, register: Register): boolean {
  const instruction = instructions[register]!;
  if (instruction.kind !== "load") return false;
  const slot = slots[instruction.slot]!;
  return slot.inner !== "unit" || slot.masked.length > 0;
}

/** Vectors of memory that a pass reads for each vector of a row. */
const readsOf = ({ instructions }: LoopProgram, { restored, computed }: Pass): number =>
  restored.size + [...computed].filter((register) => instructions[register]!.kind === "load").length;

/**
 * Neighbouring vectors that go through the loop together: a fold that waits for itself, and the long chain of an elementary function,
 * leave most of the processor idle. All of their reads come first, so that of many values only few vectors fit the registers.
 */
export function unrollOf(program: LoopProgram, pass: Pass): number {
  if ([...pass.computed].some((register) => isIrregular(program, register))) return 1;
  const { cost, folds } = pass;
  const reads = readsOf(program, pass);
  // as many sums for one exponential as for two: of one row the program may be another than of many, and has the same bits
  if (folds.length > 0) return cost <= 8 && reads + folds.length <= 4 ? 4 : 2;
  if (cost > 8 && 4 * cost <= mostTogether && reads <= 2) return 4;
  return 2 * cost <= mostTogether ? 2 : 1;
}

/** How whole rows go: code without anything for what is left over. */
export interface WholeRows {
  /** Vectors that a round of a light loop takes at most. */
  readonly step: number;
  /**
   * `ahead`: one loop does the last pass of a row and the first pass of the next one. `twos`: two rows go through each pass one after the
   * other, and folds are finished after both. `alone`: one row after the other.
   */
  readonly order: "ahead" | "twos" | "alone";
}

/** What a round costs beside its vectors is spread over so many. */
const longestStep = 8;
/** Rows go by twos whose longest pass takes at most this, in simple instructions: of a longer one the end does not matter. */
const longestPaired = 8192;
/** Nor do rows of which two would take up half of the first-level cache, where they are read once more. */
const mostPairedBytes = 16384;
/** Passes that cost more for an element need all registers for themselves. */
const mostAhead = 12;
/** Of shorter rows the ends of folds, which nothing hides there, take too large a part. */
const shortestAhead = 256;

/** Passes that have something to do. */
export const busyPasses = ({ passes }: LoopPlan): readonly Pass[] =>
  passes.filter(({ folds, stores }) => folds.length + stores.length > 0);

/**
 * Whether a round may have more vectors of a pass than those that go together. V8 moves folds to the end of a round, so that what they
 * take in waits in registers: few enough are there for sums over one value that is read; a maximum has two registers a chain.
 */
function mayGrow(program: LoopProgram, pass: Pass): boolean {
  const { folds, stores, kept } = pass;
  if (folds.length === 0) return true;
  return readsOf(program, pass) <= 1 && stores.length + kept.length === 0 && folds.every(({ op }) => op.name === "sum");
}

/** Vectors that a round of one loop over whole rows takes of each of these passes, at most `step` where they are light. */
export function roundOf(program: LoopProgram, passes: readonly Pass[], step: number): number {
  const fewest = Math.max(...passes.map((pass) => unrollOf(program, pass)));
  const cost = passes.reduce((sum, pass) => sum + pass.cost, 0);
  let round = passes.every((pass) => mayGrow(program, pass)) ? step : fewest;
  while (round > fewest && cost * round > mostTogether) round /= 2;
  return round;
}

/**
 * The way of rows where the inner axis is walked to its end in whole steps of every pass, and no sum is so long that it goes by blocks,
 * else null. There is no code then for what is left over, in which a row spends as much time as in its loops; so it is with the rows of
 * most models.
 */
export function wholeRowsOf(program: LoopProgram, plan: LoopPlan, { inner }: Geometry): WholeRows | null {
  const passes = busyPasses(plan);
  const isWhole =
    program.shape === "rows" &&
    program.outer > 0 &&
    !plan.splittable &&
    inner > 0 &&
    program.slots.every((slot) => slot.inner !== "strided" && slot.masked.length === 0) &&
    passes.every((pass) => {
      const step = 4 * unrollOf(program, pass);
      return inner % step === 0 && inner <= step * blockLength;
    });
  if (!isWhole) return null;
  let step = longestStep;
  while (inner % (4 * step) !== 0) step /= 2;
  const most = Math.max(...passes.map(({ cost }) => cost));
  const [first, last] = [passes[0]!, passes.at(-1)!];
  const isAhead =
    inner >= shortestAhead && passes.length > 1 && last.folds.length === 0 && mayGrow(program, first) && most <= mostAhead;
  const isPaired = inner * most <= longestPaired && (passes.length === 1 || 8 * inner * program.slots.length <= mostPairedBytes);
  return { step, order: isAhead ? "ahead" : isPaired ? "twos" : "alone" };
}

/** The plan of a program, in the form that its shape asks for. */
export function planLoop(program: LoopProgram): LoopPlan {
  return program.shape === "rows" ? planRows(program) : planColumns(program);
}

/** True when the slot's value does not change along the inner axis. */
const sameAlongInner = (program: LoopProgram, slot: number): boolean =>
  program.slots[slot]!.inner === "same" && !program.slots[slot]!.masked.includes(program.outer);

function countUses(program: LoopProgram): number[] {
  const uses = program.instructions.map(() => 0);
  for (const instruction of program.instructions) {
    if (instruction.kind === "apply") for (const arg of instruction.args) uses[arg]!++;
    if (instruction.kind === "reduce") uses[instruction.arg]!++;
  }
  for (const store of program.stores) uses[store.register]!++;
  return uses;
}

function foldsOf(program: LoopProgram, stage: number | null): Fold[] {
  return program.instructions.flatMap((instruction, register) =>
    instruction.kind === "reduce" && (stage === null || instruction.stage === stage + 1) ? [{ ...instruction, register }] : [],
  );
}

function planRows(program: LoopProgram): LoopPlan {
  const { instructions } = program;
  const places: Place[] = [];
  const costs: number[] = [];
  for (const instruction of instructions) {
    const { kind } = instruction;
    if (kind === "constant") places.push("constant");
    else if (kind === "reduce" || instruction.level === "row") places.push("row");
    else if (kind === "apply") places.push(instruction.args.every((arg) => places[arg] !== "element") ? "row" : "element");
    else places.push(sameAlongInner(program, instruction.slot) ? "row" : "element");
    const args = kind === "apply" ? instruction.args.reduce((sum, arg) => sum + costs[arg]!, 0) : 0;
    costs.push(places.at(-1) === "element" ? ownCost(program, instruction) + args : 0);
  }

  const firstPass = new Map<Register, number>();
  const kept = new Map<Register, number>();
  const isElement = (store: Store) => instructions[store.register]!.level === "element";
  const drafts = Array.from({ length: program.stages }, (_, stage) => {
    const folds = foldsOf(program, stage);
    const stores = program.stores.filter((store) => store.stage === stage && isElement(store));
    const computed = new Set<Register>();
    const restored = new Set<Register>();
    const hoisted = new Set<Register>();
    let cost = folds.length + stores.length;
    const visit = (register: Register): void => {
      if (computed.has(register) || restored.has(register)) return;
      if (places[register] !== "element") {
        if (places[register] === "row") hoisted.add(register);
        return;
      }
      if (costs[register]! > keepAbove && firstPass.has(register)) {
        restored.add(register);
        if (!kept.has(register)) kept.set(register, kept.size);
        cost += 2;
        return;
      }
      const instruction = instructions[register]!;
      if (instruction.kind === "apply") instruction.args.forEach(visit);
      computed.add(register);
      cost += ownCost(program, instruction);
    };
    for (const fold of folds) visit(fold.arg);
    for (const store of stores) visit(store.register);
    for (const register of computed) if (!firstPass.has(register)) firstPass.set(register, stage);
    return { folds, stores, computed, restored, hoisted: [...hoisted], cost };
  });
  return {
    places,
    uses: countUses(program),
    passes: drafts.map((draft, stage) => ({
      ...draft,
      kept: [...kept.keys()].filter((register) => firstPass.get(register) === stage),
    })),
    kept,
    rowStores: program.stores.filter((store) => !isElement(store)),
    splittable: instructions.every(({ kind }) => kind !== "reduce"),
  };
}

function planColumns(program: LoopProgram): LoopPlan {
  const { instructions } = program;
  const places: Place[] = [];
  for (const instruction of instructions) {
    const { kind, level } = instruction;
    if (kind === "constant") places.push("constant");
    else if (level !== "body") places.push("element");
    else if (kind === "apply")
      places.push(instruction.args.every((arg) => places[arg] === "uniform" || places[arg] === "constant") ? "uniform" : "body");
    else if (kind === "reduce") places.push("element");
    else places.push(sameAlongInner(program, instruction.slot) ? "uniform" : "body");
  }
  const folds = foldsOf(program, null);
  const body = new Set<Register>();
  const hoisted = new Set<Register>();
  const visitBody = (register: Register): void => {
    if (places[register] === "element") hoisted.add(register);
    if (places[register] === "element" || places[register] === "constant" || body.has(register)) return;
    const instruction = instructions[register]!;
    if (instruction.kind === "apply") instruction.args.forEach(visitBody);
    body.add(register);
  };
  for (const fold of folds) visitBody(fold.arg);
  const after = new Set<Register>();
  const visitAfter = (register: Register): void => {
    const instruction = instructions[register]!;
    if (after.has(register) || instruction.kind === "reduce" || instruction.kind === "constant") return;
    if (instruction.kind === "apply") instruction.args.forEach(visitAfter);
    after.add(register);
  };
  for (const store of program.stores) visitAfter(store.register);
  for (const register of hoisted) visitAfter(register);
  const cost = (registers: Iterable<Register>) =>
    [...registers].reduce(
      (sum, register) => sum + (places[register] === "uniform" ? 0 : ownCost(program, instructions[register]!)),
      0,
    );
  const none = { restored: new Set<Register>(), kept: [] };
  return {
    places,
    uses: countUses(program),
    passes: [
      { ...none, folds, stores: [], computed: body, hoisted: [...hoisted], cost: cost(body) + folds.length },
      { ...none, folds: [], stores: program.stores, computed: after, hoisted: [], cost: cost(after) + program.stores.length },
    ],
    kept: new Map(),
    rowStores: [],
    splittable: true,
  };
}
