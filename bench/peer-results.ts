/** Lines that the engines printed, checked and put together: medians over rounds, ratios, tables. */
import type { Engine, Work } from "./peer-engines.ts";
import { median } from "./timing.ts";

/** A line that an engine's process printed. */
export interface Line {
  readonly case: string;
  readonly ms?: number;
  readonly bestMs?: number;
  readonly error?: number;
  readonly failed?: string;
  readonly flops?: number;
  readonly elements?: number;
  readonly tokens?: number;
  readonly peakBytes?: number;
  readonly importAndFirstStepMs?: number;
  readonly planRatio?: number;
  readonly scaledFrom?: number;
  /** Kernels that the gpu device compiled, and how many of them after the first step. */
  readonly compilations?: number;
  readonly lateCompilations?: number;
}

/** What an engine needed for one case, over all rounds. */
export interface Entry {
  readonly engine: string;
  readonly work: string;
  readonly case: string;
  /** The median of its rounds' medians, and the best single time of all rounds. */
  readonly ms: number | null;
  readonly bestMs: number | null;
  readonly rounds: number;
  /** The median of each round, where there was more than one. */
  readonly roundMs?: readonly number[];
  /** Why the times do not count, where they do not. */
  readonly problem?: string;
  readonly error?: number;
  readonly rate?: { readonly value: number; readonly unit: string };
  readonly peakBytes?: number;
  readonly importAndFirstStepMs?: number;
  readonly bestImportAndFirstStepMs?: number;
  /** Memory of a device while it trains, over what was planned for it. */
  readonly planRatio?: number;
  readonly scaledFrom?: number;
  /** Kernels that were compiled, all of them in the first step. */
  readonly compilations?: number;
}

/** How far an answer may be off: relative for an operation, of the loss for training, of tokens for generation. */
const tolerance: Readonly<Record<Work["kind"], number>> = { operation: 1e-3, training: 1e-2, generation: 0 };

/** What is wrong with a line, if anything: only right answers have times that count. */
export function problemOf(line: Line, work: Work): string | undefined {
  if (line.failed !== undefined) return line.failed;
  if (line.ms === undefined || !(line.ms > 0)) return "no time";
  if (line.lateCompilations) return `compiled ${line.lateCompilations} kernels after its first step`;
  const { error } = line;
  if (error === undefined || !(error <= tolerance[work.kind])) return `wrong by ${error?.toPrecision(2) ?? "an unknown amount"}`;
  return undefined;
}

/** The JSON lines in what a process printed. */
export const linesIn = (output: string): Line[] =>
  output
    .split("\n")
    .filter((text) => text.startsWith("{"))
    .flatMap((text) => {
      try {
        return [JSON.parse(text) as Line];
      } catch {
        return [];
      }
    });

const most = (values: readonly (number | undefined)[]): number | undefined => {
  const known = values.filter((value) => value !== undefined);
  return known.length ? Math.max(...known) : undefined;
};

/** The rounds of one engine on one case. A wrong answer in any round spoils them all. */
export function entryOf(engine: Engine, work: Work, lines: readonly Line[]): Entry {
  const [line] = lines as [Line];
  const problem = lines.map((one) => problemOf(one, work)).find((text) => text !== undefined);
  const known = (key: "ms" | "bestMs" | "importAndFirstStepMs") =>
    lines.flatMap((one) => (one[key] === undefined ? [] : [one[key]]));
  const ms = problem === undefined ? median(known("ms")) : null;
  const cold = known("importAndFirstStepMs");
  const peakBytes = most(lines.map((one) => one.peakBytes));
  const planRatio = most(lines.map((one) => one.planRatio));
  const error = most(lines.map((one) => one.error));
  return {
    engine: engine.name,
    work: work.name,
    case: line.case,
    ms,
    bestMs: problem === undefined ? Math.min(...known("bestMs")) : null,
    rounds: lines.length,
    ...(ms !== null && lines.length > 1 && { roundMs: known("ms") }),
    ...(problem !== undefined && { problem }),
    ...(error !== undefined && { error }),
    ...(ms !== null && rateOf(line, ms)),
    ...(peakBytes !== undefined && { peakBytes }),
    ...(cold.length > 0 && { importAndFirstStepMs: median(cold), bestImportAndFirstStepMs: Math.min(...cold) }),
    ...(planRatio !== undefined && { planRatio }),
    ...(line.compilations !== undefined && { compilations: line.compilations }),
    ...(line.scaledFrom !== undefined && { scaledFrom: line.scaledFrom }),
  };
}

function rateOf({ flops, tokens, elements }: Line, ms: number): { rate?: NonNullable<Entry["rate"]> } {
  if (tokens !== undefined) return { rate: { value: (tokens / ms) * 1e3, unit: "tokens/s" } };
  if (flops !== undefined) return { rate: { value: flops / ms / 1e6, unit: "GFLOP/s" } };
  return elements === undefined ? {} : { rate: { value: elements / ms / 1e3, unit: "M elements/s" } };
}

/** Speed ratios of one case; above 1 means that lorikeet is faster. Absent where there is nobody to compare with. */
export interface Ratios {
  /** Lorikeet on the threads that it is fastest with, against the fastest JavaScript engine however it is set up. */
  readonly vsFastestJs?: number;
  readonly fastestJs?: string;
  /** Against PyTorch, both on the most threads that both were run with. */
  readonly vsTorch?: number;
  readonly vsTorch1Thread?: number;
  readonly vsTorch2Threads?: number;
  /** Both on one thread. */
  readonly vsFastestJs1Thread?: number;
  /** The same of the best times: what is left of the ratios when other programs disturb nobody. */
  readonly bestVsFastestJs?: number;
  readonly bestVsTorch?: number;
  readonly bestVsTorch1Thread?: number;
  readonly bestVsTorch2Threads?: number;
}

type Amount = (entry: Entry) => number | null | undefined;
type RoundsOf = (entry: Entry) => readonly number[] | undefined;

/** What an engine needs, and how long it took in each round where that is what is compared. */
interface Need {
  readonly value: number;
  readonly rounds: readonly number[];
}

/** Finds the engine that needs least of something. */
function leastOf(entries: readonly Entry[], engines: readonly Engine[], amount: Amount, roundsOf?: RoundsOf) {
  const known = entries.flatMap((entry) => {
    const engine = engines.find(({ name }) => name === entry.engine);
    const value = amount(entry);
    if (!engine || entry.ms === null || typeof value !== "number") return [];
    return [{ value, rounds: roundsOf?.(entry) ?? [value], ...engine }];
  });
  return (kind: Engine["kind"], threads?: number) =>
    known
      .filter((one) => one.kind === kind && (threads === undefined || one.threads === threads))
      .sort((a, b) => a.value - b.value)
      .at(0);
}

/** The median of the rounds' own ratios: engines that took turns in a slow minute were both slow. */
function against(ours: Need | undefined, theirs: Need | undefined): number | undefined {
  if (!ours || !theirs) return undefined;
  const isPaired = ours.rounds.length === theirs.rounds.length;
  const ratio = isPaired ? median(ours.rounds.map((own, i) => theirs.rounds[i]! / own)) : theirs.value / ours.value;
  return Number(ratio.toPrecision(4));
}

const withoutHoles = <T extends object>(record: T): { [Key in keyof T]: NonNullable<T[Key]> } =>
  Object.fromEntries(Object.entries(record).filter(([, value]) => value !== undefined)) as never;

function ratiosBy(entries: readonly Entry[], engines: readonly Engine[], amount: Amount, roundsOf?: RoundsOf) {
  const least = leastOf(entries, engines, amount, roundsOf);
  const onThreads = (threads: number | undefined) => threads && against(least("lorikeet", threads), least("pytorch", threads));
  return {
    js: against(least("lorikeet"), least("javascript")),
    js1: against(least("lorikeet", 1), least("javascript", 1)),
    fastestJs: least("javascript")?.name,
    torch: onThreads([2, 1].find(onThreads)),
    torch1: onThreads(1),
    torch2: onThreads(2),
  };
}

/** @param entries of one case */
export function ratiosOf(entries: readonly Entry[], engines: readonly Engine[]): Ratios {
  const typical = ratiosBy(
    entries,
    engines,
    ({ ms }) => ms,
    ({ roundMs }) => roundMs,
  );
  const best = ratiosBy(entries, engines, ({ bestMs }) => bestMs);
  return withoutHoles({
    vsFastestJs: typical.js,
    fastestJs: typical.fastestJs,
    vsTorch: typical.torch,
    vsTorch1Thread: typical.torch1,
    vsTorch2Threads: typical.torch2,
    vsFastestJs1Thread: typical.js1,
    bestVsFastestJs: best.js,
    bestVsTorch: best.torch,
    bestVsTorch1Thread: best.torch1,
    bestVsTorch2Threads: best.torch2,
  }) as Ratios;
}

/** Milliseconds from the start of importing to the end of the first step, and how many times as long others need. */
export interface ColdStart {
  readonly ms?: number;
  readonly bestMs?: number;
  readonly vsTorch?: number;
  readonly bestVsTorch?: number;
  readonly vsFastestJs?: number;
}

/** @param entries of the step */
export function coldStartOf(entries: readonly Entry[], engines: readonly Engine[]): ColdStart {
  const typical: Amount = ({ importAndFirstStepMs }) => importAndFirstStepMs;
  const best: Amount = ({ bestImportAndFirstStepMs }) => bestImportAndFirstStepMs;
  const { js, torch } = ratiosBy(entries, engines, typical);
  return withoutHoles({
    ms: leastOf(entries, engines, typical)("lorikeet")?.value,
    bestMs: leastOf(entries, engines, best)("lorikeet")?.value,
    vsTorch: torch,
    bestVsTorch: ratiosBy(entries, engines, best).torch,
    vsFastestJs: js,
  }) as ColdStart;
}

/** How many times as many bytes others need at their peak. */
export interface MemoryNeed {
  readonly vsTorch?: number;
  readonly vsFastestJs?: number;
  /** Memory of our device over the plan of it; see `Entry`. */
  readonly planRatio?: number;
}

/** @param entries of the step */
export function memoryOf(entries: readonly Entry[], engines: readonly Engine[]): MemoryNeed {
  const { js, torch } = ratiosBy(entries, engines, ({ peakBytes }) => peakBytes);
  return withoutHoles({
    vsTorch: torch,
    vsFastestJs: js,
    planRatio: most(entries.map(({ planRatio }) => planRatio)),
  }) as MemoryNeed;
}

/** Entries by work and case, in the order in which they came. */
export function cases(entries: readonly Entry[]): Map<string, Entry[]> {
  const groups = new Map<string, Entry[]>();
  for (const entry of entries) {
    const key = `${entry.work}: ${entry.case}`;
    groups.set(key, [...(groups.get(key) ?? []), entry]);
  }
  return groups;
}

export const megabytes = (bytes: number): string => `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;
export const milliseconds = (ms: number): string => (ms >= 100 ? ms.toFixed(0) : ms.toPrecision(3));

/** One case as lines of text, the fastest first, each with its time as a multiple of lorikeet's fastest. */
export function tableOf(title: string, entries: readonly Entry[], engines: readonly Engine[]): string {
  const kinds = new Map(engines.map(({ name, kind }) => [name, kind]));
  const own = Math.min(
    ...entries.filter(({ engine, ms }) => kinds.get(engine) === "lorikeet" && ms !== null).map(({ ms }) => ms!),
  );
  const sorted = [...entries].sort((a, b) => (a.ms ?? Number.POSITIVE_INFINITY) - (b.ms ?? Number.POSITIVE_INFINITY));
  const lines = sorted.map((entry) => {
    const name = `  ${entry.engine.padEnd(38)}`;
    if (entry.ms === null) return `${name}${entry.problem?.split("\n")[0]}`;
    const { rate, peakBytes, importAndFirstStepMs, scaledFrom } = entry;
    return [
      name,
      `${milliseconds(entry.ms)} ms`.padStart(11),
      `best ${milliseconds(entry.bestMs!)}`.padStart(13),
      Number.isFinite(own) ? `${(entry.ms / own).toFixed(2)} ×`.padStart(10) : "",
      rate ? `${rate.value.toPrecision(3)} ${rate.unit}`.padStart(20) : "",
      importAndFirstStepMs === undefined ? "" : `  import + first step ${(importAndFirstStepMs / 1e3).toFixed(2)} s`,
      peakBytes === undefined ? "" : `, ${megabytes(peakBytes)} at the peak`,
      scaledFrom === undefined ? "" : `, scaled from ${scaledFrom} tokens`,
    ].join("");
  });
  return [title, ...lines].join("\n");
}
