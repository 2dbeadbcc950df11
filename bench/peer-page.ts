/** The page of `npm run bench -- peers` and `-- gpu`: one HTML file with charts, drawn by Observable Plot as the report of a run is. */
import { nodeDrawing } from "../src/cli/drawing.ts";
import { type Drawing, escapeHtml, htmlPage } from "../src/cli/report.ts";
import type { PackageSize } from "./package-sizes.ts";
import { cases, type Entry, megabytes, milliseconds, type Ratios } from "./peer-results.ts";

interface Bar {
  readonly name: string;
  readonly value: number;
  readonly text: string;
}

/** What the page tells of. */
export interface Compared {
  readonly date: string;
  readonly machine: string;
  readonly load: number;
  readonly versions: Readonly<Record<string, string>>;
  readonly options: { readonly rounds: number; readonly seconds: number };
  /** How long all of it took. */
  readonly minutes?: number;
  readonly entries: readonly Entry[];
  readonly sizes?: readonly PackageSize[];
}

/** By the beginning of its name: packages and engines. */
const isOwn = (name: string): boolean => name.startsWith("lorikeet");

/** Bars from the smallest value, on a logarithmic scale, since engines differ by thousands. */
function bars({ Plot, document }: Drawing, rows: readonly Bar[], label: string): string {
  const sorted = [...rows].sort((a, b) => a.value - b.value);
  const least = Math.min(...rows.map(({ value }) => value)) / 2;
  const chart = Plot.plot({
    document,
    width: 720,
    height: 46 + 24 * rows.length,
    marginLeft: 250,
    marginRight: 90,
    ariaLabel: `${label}: ${sorted.map(({ name, text }) => `${name} ${text}`).join(", ")}`,
    x: { type: "log", label, grid: true, labelAnchor: "center", labelArrow: "none", tickFormat: "~s" },
    y: { label: null, domain: sorted.map(({ name }) => name) },
    marks: [
      Plot.barX(sorted, {
        x1: () => least,
        x2: "value",
        y: "name",
        fill: ({ name }: Bar) => (isOwn(name) ? "var(--held-out)" : "var(--train)"),
        insetTop: 2,
        insetBottom: 2,
      }),
      Plot.text(sorted, { x: "value", y: "name", text: "text", dx: 6, textAnchor: "start" }),
    ],
  });
  return chart.outerHTML;
}

/** How the time of a step grows with the work in it, one line for each engine. */
function growthChart({ Plot, document }: Drawing, entries: readonly Entry[]): string {
  const names = ["lora-step", "lora-step-2x-depth", "lora-step-4x-tokens", "lora-step-4x-width"];
  const rows = entries.flatMap(({ engine, work, ms }) => (names.includes(work) && ms !== null ? [{ engine, work, ms }] : []));
  if (new Set(rows.map(({ work }) => work)).size < 2) return "";
  const grown = rows.filter(({ engine }) => rows.filter((row) => row.engine === engine).length > 1);
  const chart = Plot.plot({
    document,
    width: 720,
    height: 380,
    marginLeft: 60,
    marginRight: 230,
    ariaLabel: "Time of a step as the model and the batch grow",
    x: { type: "point", domain: names, label: null },
    y: { type: "log", grid: true, label: "milliseconds", labelAnchor: "center", labelArrow: "none", tickFormat: "~s" },
    marks: [
      Plot.line(grown, {
        x: "work",
        y: "ms",
        z: "engine",
        stroke: ({ engine }: Entry) => (isOwn(engine) ? "var(--held-out)" : "var(--train)"),
        sort: ({ work }: Entry) => names.indexOf(work),
      }),
      Plot.text(grown, Plot.selectMaxX({ x: "work", y: "ms", z: "engine", text: "engine", dx: 8, textAnchor: "start" })),
    ],
  });
  return `<h2>How the cost grows</h2><figure>${chart.outerHTML}</figure>`;
}

/** A table for those who do not see the charts, with what did not work. */
function table(entries: readonly Entry[]): string {
  const rows = entries.map(({ engine, ms, bestMs, problem, error }) => {
    const cells =
      ms === null
        ? [`<td colspan="3">${escapeHtml(problem ?? "")}</td>`]
        : [ms, bestMs!].map((x) => `<td>${milliseconds(x)} ms</td>`);
    if (ms !== null) cells.push(`<td>${error?.toExponential(1) ?? ""}</td>`);
    return `<tr><th scope="row">${escapeHtml(engine)}</th>${cells.join("")}</tr>`;
  });
  return `<details><summary>Numbers</summary><table><thead><tr><th scope="col">Engine</th><th scope="col">Median</th><th scope="col">Best</th><th scope="col">Error</th></tr></thead><tbody>${rows.join("")}</tbody></table></details>`;
}

const wordRatio = (name: string, ratio: number | undefined, against: string, best?: number): [string, string][] => {
  const ofBest = best === undefined ? "" : ` (${best.toFixed(2)} by the best times)`;
  return ratio === undefined ? [] : [[name, `${ratio.toFixed(2)} times as fast as ${against}${ofBest}`]];
};

function wordRatios(title: string, ratios: Ratios): [string, string][] {
  const { vsFastestJs, fastestJs = "", vsTorch1Thread, vsTorch2Threads, bestVsTorch1Thread, bestVsTorch2Threads } = ratios;
  return [
    ...wordRatio(`${title}, JavaScript`, vsFastestJs, fastestJs),
    ...wordRatio(`${title}, one thread`, vsTorch1Thread, "PyTorch", bestVsTorch1Thread),
    ...wordRatio(`${title}, two threads`, vsTorch2Threads, "PyTorch", bestVsTorch2Threads),
  ];
}

const facts = (rows: readonly (readonly [string, string])[]): string =>
  `<table>${rows.map(([name, value]) => `<tr><th scope="row">${escapeHtml(name)}</th><td>${escapeHtml(value)}</td></tr>`).join("")}</table>`;

const sizeRows = (sizes: readonly PackageSize[], key: "installedBytes" | "bundleBytes"): Bar[] =>
  sizes.flatMap(({ name, ...size }) => {
    const bytes = size[key];
    return bytes === undefined ? [] : [{ name, value: bytes, text: megabytes(bytes) }];
  });

/** Ratios of the training step and of generation, in words. */
export const wordedRatios = (ratios: Readonly<Record<string, Ratios>>): [string, string][] =>
  Object.entries(ratios).flatMap(([title, ratio]) =>
    /^(lora-step|generate):/.test(title) ? wordRatios(title.split(":")[0]!, ratio) : [],
  );

/** The whole page. @param headline what it says first, as rows of two */
export async function comparisonPage(
  { entries, sizes = [], machine, load, versions, date, options, minutes }: Compared,
  headline: readonly (readonly [string, string])[],
): Promise<string> {
  const drawing = await nodeDrawing();
  const sections = [...cases(entries)].map(([title, group]) => {
    const timed = group.flatMap(({ engine, ms }) =>
      ms === null ? [] : [{ name: engine, value: ms, text: `${milliseconds(ms)} ms` }],
    );
    return `<h2>${escapeHtml(title)}</h2>${timed.length ? `<figure>${bars(drawing, timed, "milliseconds")}</figure>` : ""}${table(group)}`;
  });
  const steps = entries.filter(({ work, ms }) => work === "lora-step" && ms !== null);
  const memory = steps.flatMap(({ engine, peakBytes }) =>
    peakBytes ? [{ name: engine, value: peakBytes, text: megabytes(peakBytes) }] : [],
  );
  const cold = steps.flatMap(({ engine, importAndFirstStepMs: ms }) =>
    ms ? [{ name: engine, value: ms, text: `${(ms / 1e3).toFixed(2)} s` }] : [],
  );
  const chart = (title: string, rows: readonly Bar[], label: string) =>
    rows.length ? `<h2>${title}</h2><figure>${bars(drawing, rows, label)}</figure>` : "";
  return htmlPage(
    "lorikeet beside its peers",
    `<section class="results" aria-label="Results">${facts(headline)}</section>
<p>Shorter is faster; scales are logarithmic. Only right answers count: operations within 1e-3, losses within 1e-2 of PyTorch's.</p>
${sections.join("\n")}
${growthChart(drawing, entries)}
${chart("Memory of a process that trains, at its peak", memory, "bytes")}
${chart("Import and first step", cold, "milliseconds")}
${chart("Installed", sizeRows(sizes, "installedBytes"), "bytes")}
${chart("Bundled", sizeRows(sizes, "bundleBytes"), "bytes")}
<h2>Settings</h2>
${facts([["Machine", machine], ["Load when it began", load.toFixed(1)], ["Date", date], ["Rounds", `${options.rounds}, ${options.seconds} s of measuring each`], ...(minutes === undefined ? [] : [["Took", `${minutes} minutes`] as const]), ...Object.entries(versions)])}`,
  );
}
