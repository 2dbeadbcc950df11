/** The page of a comparison: a table of the methods, their losses in one chart, and what they reach for how many values. */
import type { Comparison, MethodResult } from "../train/compare.ts";
import { axis, type Drawing, escapeHtml, htmlPage, type Report, table, width } from "./report.ts";

interface ComparisonReport extends Pick<Report, "title" | "facts"> {
  /** Names of the columns, and what they say of a method. */
  readonly head: readonly string[];
  cellsOf(row: MethodResult): readonly string[];
  readonly comparison: Comparison;
}

/** The whole page. */
export function renderComparison({ title, facts, head, cellsOf, comparison }: ComparisonReport, drawing: Drawing): string {
  const { before, rows } = comparison;
  const results = rows.filter((row): row is MethodResult => row.refused === null);
  // Plot takes a variable for a colour, and what depends on the scheme for the name of a field
  const colours = rows.map((_, i) => `var(--method-${i})`);
  const hues = rows.map((_, i) => Math.round((360 * i) / rows.length));
  const scheme = hues.map((hue, i) => `--method-${i}: light-dark(hsl(${hue} 75% 38%), hsl(${hue} 75% 66%));`).join(" ");
  const curves = results.map((row) => ({ row, colour: colours[rows.indexOf(row)] as string }));
  const line = (row: Comparison["rows"][number], i: number): string => {
    const name = `<th scope="row"><i style="background:${colours[i]}"></i>${escapeHtml(row.name)}</th>`;
    if (row.refused !== null) return `${name}<td class="refused" colspan="${head.length - 1}">${escapeHtml(row.refused)}</td>`;
    const [, ...cells] = cellsOf(row);
    return name + cells.map((cell) => `<td>${escapeHtml(cell)}</td>`).join("");
  };
  const charts = `<h2>Loss</h2>
<figure>${lossChart(curves, drawing)}
<figcaption>Cross-entropy per token of the training batches, the same for all methods: running means.</figcaption></figure>
<h2>Perplexity by size</h2>
<figure>${sizeChart(curves, before.perplexity, drawing)}
<figcaption>Perplexity of held-out text after training, and how many values the method trains. Dashed: without an adapter.</figcaption></figure>`;
  return htmlPage(
    title,
    `<style>:root { ${scheme} }</style>
<p>Held-out perplexity without an adapter: ${before.perplexity.toFixed(2)}, on ${before.tokens.toLocaleString("en-US")} tokens.</p>
<section class="results" aria-label="Results"><table class="methods"><thead><tr>${head.map((name) => `<th scope="col">${escapeHtml(name)}</th>`).join("")}</tr></thead>
<tbody>${rows.map((row, i) => `<tr>${line(row, i)}</tr>`).join("\n")}</tbody></table></section>
<p>Loss is of training: the first step's, and the mean of the last tenth. Milliseconds are the median of the steps, memory is that of a step as planned. Merge
error is the largest share of a layer's change that rounding takes from it.</p>
${results.length > 0 ? charts : ""}
<h2>Settings</h2>
${table(facts)}`,
  );
}

type Curves = readonly { readonly row: MethodResult; readonly colour: string }[];

/** Letters of a label are this high, in pixels. */
const letter = 13;

function lossChart(curves: Curves, { Plot, document }: Drawing): string {
  const tall = Math.max(340, 60 + letter * curves.length);
  const lines = curves.map(({ row, colour }) => ({ row, colour, points: runningMean(row.history.loss) }));
  const all = lines.flatMap(({ points }) => points);
  const [low, high] = [Math.min(...all), Math.max(...all)];
  const ends = lines.map(({ row, colour, points }) => ({ name: row.name, colour, at: points.at(-1) as number }));
  return Plot.plot({
    document,
    width,
    height: tall,
    marginRight: 115,
    ariaLabel: "Training loss of each method by step",
    x: { ...axis, label: "step" },
    y: { ...axis, label: "loss", domain: [low, high] },
    marks: [
      ...lines.map(({ colour, points }) => Plot.lineY(points, { x: (_, i) => i + 1, stroke: colour, strokeWidth: 1.5 })),
      ...spread(ends, (letter * (high - low)) / (tall - 50), high).map(({ name, colour, at }) =>
        Plot.text([name], { x: () => all.length / lines.length, y: () => at, dx: 6, textAnchor: "start", fill: colour }),
      ),
    ],
  }).outerHTML;
}

function sizeChart(curves: Curves, before: number, { Plot, document }: Drawing): string {
  const place = { x: ({ row }: Curves[number]) => row.trainable, y: ({ row }: Curves[number]) => row.perplexity };
  const draw = (labels: readonly (Placed & { readonly to: readonly [number, number] })[]) =>
    Plot.plot({
      document,
      width,
      height,
      marginLeft: margin,
      marginRight: 80,
      inset: 10,
      ariaLabel: "Held-out perplexity by number of trained values",
      x: { ...axis, label: "values that are trained", type: "log", tickFormat: "~s" },
      y: { ...axis, label: "held-out perplexity" },
      marks: [
        Plot.ruleY([before], { stroke: "currentColor", strokeDasharray: "4 4" }),
        ...curves.map((each) => Plot.dot([each], { ...place, fill: each.colour, r: 4 })),
        ...labels.map(({ of, to: [left, top] }) =>
          Plot.link([of], { x1: place.x, y1: place.y, x2: () => left, y2: () => top, stroke: of.colour, strokeOpacity: 0.35 }),
        ),
        ...labels.map(({ of, dx, dy }) =>
          Plot.text([of], { ...place, text: () => of.row.name, dx, dy, textAnchor: dx < 0 ? "end" : "start", fill: of.colour }),
        ),
      ],
    });
  const bare = draw([]);
  const [x, y] = ["x", "y"].map((name) => bare.scale(name as "x") as Scale) as [Scale, Scale];
  const at = (each: Curves[number]): [number, number] => [x.apply(place.x(each)), y.apply(place.y(each))];
  const labels = apart(curves, at).map((label) => {
    const [left, top] = at(label.of);
    return { ...label, to: [x.invert?.(left + label.dx), y.invert?.(top + label.dy)] as [number, number] };
  });
  return draw(labels).outerHTML;
}

type Scale = NonNullable<ReturnType<ReturnType<Drawing["Plot"]["plot"]>["scale"]>>;

/** Of the chart of sizes, in pixels. */
const [height, margin] = [400, 55];

/** A label beside a dot, by so many pixels. */
interface Placed {
  readonly of: Curves[number];
  readonly dx: number;
  readonly dy: number;
}

/** Labels as near to their dots as can be without lying over another or over a dot. @param at where a dot is, in pixels */
function apart(curves: Curves, at: (each: Curves[number]) => [number, number]): Placed[] {
  const boxes = curves.map((each) => boxAt(...at(each), 0));
  const placed: Placed[] = [];
  // lines above and below by turns, on the right before the left
  const tries = Array.from({ length: 96 }, (_, i) => ({
    dx: i % 2 === 0 ? 7 : -7,
    line: (i & 2 ? 1 : -1) * Math.ceil((i >> 1) / 2),
  }));
  for (const of of curves) {
    const [left, top] = at(of);
    const choices = tries.map(({ dx, line }) => {
      const length = of.row.name.length * 0.5 * letter;
      return { of, dx, dy: line * letter, box: boxAt(dx < 0 ? left + dx - length : left + dx, top + line * letter, length) };
    });
    const free = choices.find(({ box }) => isWithin(box) && !boxes.some((other) => overlap(box, other)));
    const { box, ...label } = free ?? (choices[0] as (typeof choices)[number]);
    boxes.push(box);
    placed.push(label);
  }
  return placed;
}

const boxAt = (left: number, middle: number, length: number) => ({
  left,
  right: left + length,
  top: middle - letter / 2,
  bottom: middle + letter / 2,
});

/** Inside of the axes. */
const isWithin = ({ left, right, top, bottom }: ReturnType<typeof boxAt>): boolean =>
  left > margin && right < width && top > 20 && bottom < height - 30;

const overlap = (a: ReturnType<typeof boxAt>, b: ReturnType<typeof boxAt>): boolean =>
  a.left < b.right + 4 && b.left < a.right + 4 && a.top < b.bottom && b.top < a.bottom;

/** Each value with its neighbours. */
function runningMean(values: readonly number[]): number[] {
  const reach = Math.round(values.length / 20);
  return values.map((_, i) => {
    const near = values.slice(Math.max(0, i - reach), i + reach + 1);
    return near.reduce((sum, value) => sum + value, 0) / near.length;
  });
}

/** Labels in their order, each at least `gap` above the one before and none above `top`. */
function spread<Label extends { readonly at: number }>(labels: readonly Label[], gap: number, top: number): Label[] {
  const placed: Label[] = [];
  for (const label of labels.toSorted((a, b) => a.at - b.at))
    placed.push({ ...label, at: Math.max(label.at, (placed.at(-1)?.at ?? Number.NEGATIVE_INFINITY) + gap) });
  return placed.map((label, i) => ({ ...label, at: Math.min(label.at, top - gap * (placed.length - 1 - i)) }));
}
