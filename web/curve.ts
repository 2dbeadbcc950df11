/** The loss by step, drawn anew while it grows. */
import * as Plot from "@observablehq/plot";
import type { History } from "../src/train/index.ts";
import { element } from "./element.ts";

const place = element("curve");
/** Points of a line that are worth drawing. */
const drawnPoints = 600;

let waiting: History | undefined;

/** Draws when the page has time for it, the newest history only. */
export function drawCurve(history: History, steps: number): void {
  const first = waiting === undefined;
  waiting = history;
  if (!first) return;
  setTimeout(
    () =>
      requestAnimationFrame(() => {
        if (waiting) draw(waiting, steps);
        waiting = undefined;
      }),
    100,
  );
}

function draw({ loss, evaluations }: History, steps: number): void {
  const every = Math.max(1, Math.ceil(loss.length / drawnPoints));
  const points = loss
    .map((value, i) => ({ step: i + 1, loss: value }))
    .filter((_, i) => i % every === 0 || i === loss.length - 1);
  const heldOut = evaluations.map(({ step, loss: value }) => ({ step, loss: value }));
  const window = { k: Math.max(1, Math.round(points.length / 30)), anchor: "middle" } as const;
  const width = Math.max(320, place.clientWidth);
  const axis = { grid: true, labelAnchor: "center", labelArrow: "none" } as const;
  const chart = Plot.plot({
    width,
    height: Math.max(240, Math.min(360, width * 0.42)),
    marginLeft: 54,
    marginBottom: 36,
    x: { ...axis, label: "step", domain: [0, steps] },
    y: { ...axis, label: "loss", nice: true, zero: false },
    marks: [
      Plot.lineY(points, { x: "step", y: "loss", stroke: "var(--train)", strokeOpacity: 0.35, strokeWidth: 1 }),
      Plot.lineY(points, { ...Plot.windowY(window, { x: "step", y: "loss" }), stroke: "var(--train)", strokeWidth: 2 }),
      Plot.lineY(heldOut, { x: "step", y: "loss", stroke: "var(--held-out)", strokeWidth: 2 }),
      Plot.dot(heldOut, { x: "step", y: "loss", fill: "var(--held-out)", r: 4 }),
    ],
  });
  // the figure's name says what there is to know; the drawing's parts say nothing of their own
  chart.setAttribute("aria-hidden", "true");
  place.replaceChildren(chart);
  const last = heldOut.at(-1);
  place.setAttribute(
    "aria-label",
    `Loss by step: ${loss.length > 0 ? `from ${loss[0]?.toFixed(2)} to ${loss.at(-1)?.toFixed(2)} after ${loss.length} of ${steps} steps` : "no step yet"}${last ? `; held-out text ${last.loss.toFixed(2)} after step ${last.step}` : ""}.`,
  );
}
