/** `lorikeet inspect`: what an adapter has learned, how much of its rank it uses, and how it differs from another one. */
import type { Command } from "commander";
import { LorikeetError } from "../errors.ts";
import { type AdapterFolder, openAdapter } from "../peft/inspect/adapter-file-part.ts";
import { type AdapterComparison, compared } from "../peft/inspect/compare-adapters.ts";
import { type InspectedModule, inspected, measures } from "../peft/inspect/inspect-adapter.ts";
import { type Part, partsOf } from "../peft/inspect/part.ts";
import { openModel, otherTasks, putOn } from "./model-option.ts";
import { path, someShare } from "./option.ts";
import { words } from "./quantity.ts";
import { print, progress, say } from "./terminal.ts";

interface InspectOptions {
  readonly model?: string;
  readonly energy: number;
  readonly intruders?: boolean;
  readonly json?: boolean;
}

const operation = "inspect";

/** Adds `lorikeet inspect`. */
export function addInspect(program: Command): void {
  program
    .command("inspect")
    .description("tell how much an adapter changes each layer and how much of its rank it uses, or compare it with another one")
    .argument("<adapter>", "its folder, as finetune or Hugging Face PEFT writes it", path)
    .argument("[other]", "another one, to compare with", path)
    .option("--model <folder>", "the model it is for; the one that the adapter names when absent", path)
    .option("--energy <share>", "share of Σσ² that the rank in the column % keeps", someShare, measures.energy)
    .option("--intruders", "count intruder dimensions, as PEFT does: minutes for a large model")
    .option("--json", "print all numbers as JSON")
    .action(async (adapter: string, other: string | undefined, options: InspectOptions) => {
      const names = other === undefined ? [adapter] : [adapter, other];
      const folders = await Promise.all(names.map((name) => openAdapter(operation, name)));
      const parts = (await partsOnModel(names, options.model)) ?? (await Promise.all(folders.map((folder) => folder.parts())));
      const [first, second] = parts as [readonly Part[], (readonly Part[])?];
      const summary = summaryOf(folders[0] as AdapterFolder, first);
      if (second) {
        const comparison = compared(operation, first, second);
        await printLines(
          options.json ? [json({ ...summary, ...comparison })] : [lineOf(summary), "", ...comparisonLines(comparison)],
        );
        return;
      }
      const tell = progress("inspected", first.length);
      const modules = first.map((part, i) => {
        const found = inspected(operation, part, { ...measures, energy: options.energy, intruders: options.intruders === true });
        tell(i + 1);
        return found;
      });
      modules.sort((a, b) => (b.relativeNorm ?? b.norm ?? -1) - (a.relativeNorm ?? a.norm ?? -1));
      await printLines(
        options.json ? [json({ ...summary, modules })] : [lineOf(summary), "", ...tableOf(modules, options.energy)],
      );
    });
}

const printLines = (lines: readonly string[]): Promise<boolean> => print(`${lines.join("\n")}\n`);
const json = (value: object): string => JSON.stringify(value, null, 1);

/** The parts of adapters on their model; `null` when nobody has said which and the one that they name is not at hand. */
async function partsOnModel(adapters: readonly string[], model: string | undefined): Promise<(readonly Part[])[] | null> {
  try {
    const which = { ...(model !== undefined && { model }), adapter: adapters };
    const { loaded } = await openModel(operation, which, { tasks: otherTasks });
    const names = await putOn(loaded.model, adapters);
    return names.map((name) => [...partsOf(operation, loaded.model, name)]);
  } catch (error) {
    if (model !== undefined || !(error instanceof LorikeetError)) throw error;
    say(`Note: only what needs no weights of the model. ${error.message}`);
    return null;
  }
}

/** What the config says, and the number of values. */
function summaryOf({ method, config }: AdapterFolder, parts: readonly Part[]) {
  const { r, targetModules, taskType, baseModelNameOrPath } = config;
  const parameters = parts.flatMap((part) => part.parameters).reduce((sum, { size }) => sum + size, 0);
  return {
    ...{ method, rank: r ?? null, targets: targetModules ?? null, parameters },
    ...{ task: taskType ?? null, base: baseModelNameOrPath ?? null },
  };
}

function lineOf({ method, rank, targets, parameters, task, base }: ReturnType<typeof summaryOf>): string {
  const on = Array.isArray(targets) ? [...new Set(targets.map((name: string) => name.split(".").at(-1)))].join(", ") : targets;
  return [
    `${method}${typeof rank === "number" ? ` of rank ${rank}` : ""}${on ? ` on ${on}` : ""}`,
    `${words(parameters)} parameters`,
    ...(task ? [task] : []),
    ...(base ? [`for ${base}`] : []),
  ].join("; ");
}

const pathWidth = 40;
/** A line of the table: the end of a path says more than its beginning. */
const row = (name: string, cells: readonly string[], widths: readonly number[]): string =>
  [
    (name.length > pathWidth ? `…${name.slice(1 - pathWidth)}` : name).padEnd(pathWidth),
    ...cells.map((cell, i) => cell.padStart(widths[i] as number)),
  ].join("");
const digits = (value: number | null | undefined): string =>
  value === null || value === undefined ? "-" : String(Number(value.toPrecision(3)));
const degrees = (angle: number): string => ((angle * 180) / Math.PI).toFixed(1);

function tableOf(modules: readonly InspectedModule[], energy: number): string[] {
  const kept = `${Number((100 * energy).toPrecision(6))} %`;
  const widths = [6, 11, 10, 8, 8, 7, 10];
  const [changes, others] = [modules.filter(({ norm }) => norm !== null), modules.filter(({ norm }) => norm === null)];
  const most = Math.max(0, ...changes.map(({ spectrum }) => spectrum?.energyRank ?? 0));
  const error = Math.max(0, ...changes.map(({ spectrum }) => spectrum?.energyError ?? 0));
  return [
    row("module", ["rank", "‖ΔW‖/‖W‖", "‖ΔW‖", "stable", "effect.", kept, "intruders"], widths),
    ...changes.map(({ path: name, rank, relativeNorm, norm, spectrum, intruders }) => {
      const { stableRank, effectiveRank, energyRank } = spectrum ?? {};
      return row(name, [rank, relativeNorm, norm, stableRank, effectiveRank, energyRank, intruders].map(digits), widths);
    }),
    ...others.map(
      ({ path: name, parameters, parameterNorm }) =>
        `${row(name, [], [])}  ${words(parameters)} values of norm ${digits(parameterNorm)}`,
    ),
    ...(most === 0
      ? []
      : [
          "",
          `Rank ${most} keeps ${kept} of every ΔW (relative error ${digits(error)} at most): convertToLora, energy ${energy}.`,
        ]),
  ];
}

function comparisonLines({ cosine, modules, only }: AdapterComparison): string[] {
  const widths = [10, 10, 10, 10, 10, 10];
  return [
    `cosine of both as a whole: ${digits(cosine)}; angles in degrees, 90 where spaces have nothing in common`,
    row("module", ["cosine", "‖A‖/‖B‖", "out: most", "mean", "in: most", "mean"], widths),
    ...modules.map((each) => {
      const angles = [each.columns, each.rows].flatMap(({ largest, mean }) => [degrees(largest), degrees(mean)]);
      return row(each.path, [digits(each.cosine), digits(each.normRatio), ...angles], widths);
    }),
    ...only.flatMap((paths, i) => paths.map((name) => `only the ${["first", "second"][i]}: ${name}`)),
  ];
}
