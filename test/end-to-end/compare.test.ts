/** Comparing methods as a person does: the table as it grows, the page, JSON, Ctrl-C, and what is said when something is wrong. */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { lastLine, lorikeet, type Outcome } from "./command.ts";
import { smallRun } from "./small-run.ts";

const { at, args } = smallRun();
const compare = ["compare", ...args.slice(0, args.indexOf("--prompt")), "--rank", "4"];

describe("a comparison", () => {
  const out = at("compared");
  let outcome: Outcome;
  beforeAll(async () => {
    outcome = await lorikeet([...compare, "--methods", "lora,ia3,cpt", "prefixTuning", "--steps", "6", "--out", out]);
  });

  it("prints a table of 100 columns, a refused method with its reason", () => {
    expect([outcome.code, outcome.stderr]).toEqual([0, expect.stringContaining("The other 3 will take about")]);
    const lines = outcome.stdout.trimEnd().split("\n");
    expect(lines[0]).toMatch(/^method +values +share +memory +ms\/step +loss +perplexity +merge error +file$/);
    for (const line of lines.slice(0, 3)) expect(line.length, line).toBe(100);
    expect(lines[1]).toMatch(/^lora +[\d,]+ +[\d.]+ % +[\d.]+ MB +\d+ +[\d.]+ → [\d.]+ +[\d.]+ +\d\.\de-\d+ +[\d.]+ MB$/);
    expect(lines[2]).toMatch(/^ia3 /);
    expect(lines[3]).toMatch(/^cpt +refused: cpt: /);
    expect(lines.find((line) => line.startsWith("prefixTuning"))).toMatch(/ none +[\d.]+ MB$/);
    for (const line of lines) expect(line.length, line).toBeLessThanOrEqual(100);
    expect(outcome.stdout).toMatch(/Without an adapter the held-out perplexity is [\d.]+ \(on [\d,]+ tokens\)/);
  });

  it("writes a page that needs nothing from elsewhere, and the numbers with their curves", () => {
    expect(readdirSync(out).sort()).toEqual(["comparison.json", "report.html"]);
    const page = readFileSync(join(out, "report.html"), "utf8");
    expect(page.match(/<svg/g)?.length).toBe(2);
    // a curve, its label, a dot, its label and the line between, and the row of the table for each method that was trained
    for (const i of [0, 1, 3]) expect(page.match(new RegExp(`"[^"]*var\\(--method-${i}\\)"`, "g"))?.length, `${i}`).toBe(6);
    for (const word of ["lora", "ia3", "cpt", "prefixTuning", "4 methods on book.txt"]) expect(page).toContain(word);
    expect(page).not.toMatch(/<script|<link|src=|url\(http|@import|NaN|undefined/);
    const { settings, before, rows, finished } = JSON.parse(readFileSync(join(out, "comparison.json"), "utf8"));
    expect(settings).toMatchObject({ rank: 4, steps: 6, seed: 0 });
    expect([before.perplexity > 1, finished]).toEqual([true, true]);
    expect(rows[0].history.loss.length).toBe(6);
    expect(rows[0].history.loss[0]).toBeCloseTo(rows[1].history.loss[0], 4);
    expect(Object.keys(rows[2])).toEqual(["name", "refused"]);
  });
});

it("with --json puts one line on standard output, and writes no files without --out", async () => {
  const { code, stdout, stderr } = await lorikeet([...compare, "--methods", "lora", "--steps", "2", "--json"]);
  expect([code, stdout.trim().split("\n").length]).toEqual([0, 1]);
  expect(stderr).toMatch(/^lora +[\d,]+/m);
  expect(lastLine(stdout)).toMatchObject({ finished: true, rows: [{ name: "lora", refused: null }] });
  expect(existsSync(at("out"))).toBe(false);
});

it("Ctrl-C keeps what is there", async () => {
  const out = at("stopped");
  const methods = ["--methods", "lora,ia3,oft", "--steps", "300", "--out", out];
  const { code, stdout, stderr } = await lorikeet([...compare, ...methods], { interruptAt: /The other 2 will take/ });
  expect([code, stderr]).toEqual([130, expect.stringContaining("Stopped after 1 of 3 methods.")]);
  expect(stdout).toMatch(/^lora /m);
  expect(JSON.parse(readFileSync(join(out, "comparison.json"), "utf8"))).toMatchObject({
    finished: false,
    rows: [{ name: "lora" }],
  });
});

it.each([
  ["a method that there is not", ["--methods", "lora,dorra"], /--methods.*no method dorra.*dora/],
  ["a text that is not there", ["--data", at("none.txt")], /none\.txt/],
])("%s is told in one line", async (_, more, message) => {
  const { code, stdout, stderr } = await lorikeet([...compare, ...more]);
  expect([code, stdout, stderr.trim().split("\n").at(-1)]).toEqual([1, "", expect.stringMatching(message)]);
});
