/** The report of a run, the same file that the command line writes. */
import * as Plot from "@observablehq/plot";
import { clock, megabytes, words } from "../src/cli/quantity.ts";
import { renderReport, type Sample, sampling } from "../src/cli/report.ts";
import { type RunView, titleOf } from "./run-view.ts";
import { sampleText } from "./samples.ts";

/** HTML that needs nothing else. */
export function reportOf({ settings, facts, history, outcome }: RunView): string {
  const results: [string, string][] = outcome
    ? [
        ["held-out perplexity", `${outcome.perplexityBefore.toFixed(2)} → ${outcome.perplexityAfter.toFixed(2)}`],
        [
          "merge law",
          outcome.mergeDifference === null
            ? "none: this adapter is not a change of the weights"
            : `logits beside and in the weights differ by at most ${outcome.mergeDifference.toExponential(1)}`,
        ],
        ["training", `${clock(outcome.seconds)}, ${words(outcome.tokensPerSecond)} tokens/s`],
        ["memory", `${megabytes(outcome.peakBytes)} at the peak, ${megabytes(facts?.plan.planned ?? 0)} planned for a step`],
      ]
    : [["unfinished", `${history.loss.length} of ${settings.steps} steps`]];
  const sample = (side: "base" | "adapted", index: number): Sample => ({
    prompt: settings.prompts[index] ?? "",
    text: sampleText(side, index),
  });
  return renderReport(
    {
      title: titleOf(settings),
      facts: [
        ...Object.entries(settings).map(([name, value]) => [name, value === null ? "the page's own" : String(value)] as const),
        ["computed on", facts?.device ?? ""],
        ["browser", navigator.userAgent],
      ],
      results,
      history,
      samples: settings.prompts.map((_, i) => ({ before: sample("base", i), after: sample("adapted", i) })),
      drawn: `Drawn with temperature ${sampling.temperature}, top-p ${sampling.topP} and seed ${settings.seed}, before and after.`,
    },
    { Plot, document },
  );
}
