/** The report of a run: one HTML file that needs nothing else, with curves drawn by Observable Plot. */
import type { History } from "../train/progress.ts";

/** How samples are drawn; stated wherever they are shown. */
export const sampling = { temperature: 0.8, topP: 0.95, maxNewTokens: 48 } as const;

/** How often a run looks at held-out text for its curve, and at how much of it. */
export const evaluationsOf = (steps: number) => ({ evaluateEvery: Math.max(1, Math.ceil(steps / 10)), evaluationTokens: 8192 });

/** What a model wrote on from a prompt. */
export type Sample = {
  readonly prompt: string;
  readonly text: string;
};

/** What the page of a run shows. */
export interface Report {
  readonly title: string;
  /** What was done, as names and values. */
  readonly facts: readonly (readonly [name: string, value: string])[];
  /** What came out. */
  readonly results: readonly (readonly [name: string, value: string])[];
  readonly history: History;
  readonly samples: readonly { readonly before: Sample; readonly after: Sample }[];
  /** How the samples were drawn. */
  readonly drawn: string;
}

type PlotLibrary = typeof import("@observablehq/plot");

/** What draws the curves, and a document for it to draw in. */
export interface Drawing {
  readonly Plot: PlotLibrary;
  readonly document: Document;
}

/** The whole page. */
export function renderReport(report: Report, { Plot, document }: Drawing): string {
  const { title, facts, results, samples, drawn, history } = report;
  const sample = ({ prompt, text }: Sample): string =>
    `<td><b>${escapeHtml(prompt)}</b>${escapeHtml(text.replace(/\s+/g, " "))}</td>`;
  return htmlPage(
    title,
    `<section class="results" aria-label="Results">${table(results)}</section>
<h2>Loss</h2>
<figure>${lossCurve(Plot, document, history)}
<figcaption>Cross-entropy per token. Thin: each training batch. Line: its running mean. Dots: held-out text.</figcaption></figure>
<h2>Learning rate</h2>
<figure>${rateCurve(Plot, document, history)}</figure>
<h2>Samples</h2>
<p>${escapeHtml(drawn)}</p>
<table class="samples"><thead><tr><th scope="col">Before</th><th scope="col">After</th></tr></thead><tbody>
${samples.map(({ before, after }) => `<tr>${sample(before)}${sample(after)}</tr>`).join("\n")}
</tbody></table>
<h2>Settings</h2>
${table(facts)}`,
  );
}

/** Names and values. */
export const table = (rows: Report["facts"]): string =>
  `<table>${rows.map(([name, value]) => `<tr><th scope="row">${escapeHtml(name)}</th><td>${escapeHtml(value)}</td></tr>`).join("")}</table>`;

/** A page that needs nothing else. */
export const htmlPage = (title: string, body: string): string => `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escapeHtml(title)}</title>
<style>${style}</style>
<main>
<h1>${escapeHtml(title)}</h1>
${body}
</main>
</html>
`;

/** Of a chart. */
export const width = 720;
/** What axes have in common. */
export const axis = { grid: true, labelAnchor: "center", labelArrow: "none" } as const;

function lossCurve(Plot: PlotLibrary, document: Document, { loss, evaluations }: History): string {
  const steps = loss.map((value, i) => ({ step: i + 1, loss: value }));
  const heldOut = evaluations.map(({ step, loss: value }) => ({ step, loss: value }));
  const smooth = Plot.windowY({ k: Math.max(1, Math.round(steps.length / 30)), anchor: "middle" }, { x: "step", y: "loss" });
  const chart = Plot.plot({
    document,
    width,
    height: 340,
    ariaLabel: "Training and held-out loss by step",
    x: { ...axis, label: "step" },
    y: { ...axis, label: "loss", labelArrow: "none" },
    marks: [
      Plot.lineY(steps, { x: "step", y: "loss", stroke: "var(--train)", strokeOpacity: 0.3, strokeWidth: 1 }),
      Plot.lineY(steps, { ...smooth, stroke: "var(--train)", strokeWidth: 2 }),
      Plot.lineY(heldOut, { x: "step", y: "loss", stroke: "var(--held-out)", strokeWidth: 2 }),
      Plot.dot(heldOut, { x: "step", y: "loss", fill: "var(--held-out)", r: 4 }),
      Plot.text(heldOut.slice(-1), {
        x: "step",
        y: "loss",
        text: () => "held-out",
        dy: -14,
        textAnchor: "end",
        fill: "var(--held-out)",
      }),
    ],
  });
  return chart.outerHTML;
}

function rateCurve(Plot: PlotLibrary, document: Document, { learningRate }: History): string {
  const rates = learningRate.map((rate, i) => ({ step: i + 1, rate }));
  const chart = Plot.plot({
    document,
    width,
    height: 160,
    marginLeft: 60,
    ariaLabel: "Learning rate by step",
    x: { ...axis, label: "step" },
    y: { ...axis, label: "learning rate", tickFormat: ".0e" },
    marks: [Plot.lineY(rates, { x: "step", y: "rate", stroke: "currentColor" })],
  });
  return chart.outerHTML;
}

/** Text as it may stand in HTML, within double quotes too. */
export const escapeHtml = (text: string): string =>
  text.replace(/[&<>"]/g, (letter) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[letter] as string);

const style = `
:root { color-scheme: light dark; --train: #2166ac; --held-out: #c2410c; --line: #ddd; --soft: #f4f4f2; --plot-background: transparent; }
@media (prefers-color-scheme: dark) { :root { --train: #74b0e8; --held-out: #f59e6c; --line: #444; --soft: #24262a; } }
body { margin: 0; font: 16px/1.5 system-ui, sans-serif; background: light-dark(#fff, #17181b); color: light-dark(#1c1c1c, #e6e6e6); }
main { max-width: 46rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
figure { margin: 0; } figure svg { max-width: 100%; height: auto; --plot-background: transparent; }
figcaption, p { color: light-dark(#555, #aaa); font-size: .9rem; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; vertical-align: top; padding: .35rem .6rem; border-bottom: 1px solid var(--line); }
th { font-weight: 600; } td { overflow-wrap: anywhere; }
.results { background: var(--soft); border-radius: .5rem; padding: .5rem; } .results tr:last-child > * { border-bottom: 0; } .results td { font-variant-numeric: tabular-nums; }
.results:has(.methods) { overflow-x: auto; } .methods { font-size: .8rem; } .methods th, .methods td { padding: .25rem .35rem; text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.methods th:first-child, .methods .refused { text-align: left; } .methods .refused { white-space: normal; } .methods i { display: inline-block; width: .65em; height: .65em; margin-right: .4em; border-radius: 50%; }
.samples { table-layout: fixed; font-family: Georgia, serif; }
@media (max-width: 34rem) { .samples thead { display: none; } .samples tr, .samples td { display: block; } .samples td:first-child { border-bottom: 0; opacity: .75; } }
`;
