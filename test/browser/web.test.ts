/** The web page as a person uses it, in Chromium: train, reload in the middle, go on, download, and the files in Node. */
import { cpSync, readFileSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { unzipSync } from "fflate";
import { tensor } from "lorikeet";
import { memoryFolder } from "lorikeet/formats";
import { attach, encodeGgufAdapter, loadAdapter, lora, saveAdapter } from "lorikeet/peft";
import { textDataset } from "lorikeet/text";
import { completeText, finetuning, type LoadedModel, loadModel } from "lorikeet/train";
import type { Browser, BrowserContext, Page } from "playwright-core";
import { build } from "vite";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openChromium, type ServedFolder, serveFolder } from "../../bench/chromium.ts";

const root = resolve(import.meta.dirname, "../..");
const outDir = join(root, ".cache/web");
const tiny = join(root, "models/tiny");
const axe = readFileSync(join(root, "node_modules/axe-core/axe.min.js"), "utf8");
const text = readFileSync(join(root, "CONTRIBUTING.md"), "utf8");
const textFile = { name: "notes.txt", mimeType: "text/plain", buffer: Buffer.from(text) };
const modelFiles = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];

const prompt = "The whale";
const small = { steps: 20, batch: 4, window: 32, rank: 4, alpha: 8, learningRate: 0.01, dropout: 0.1, seed: 5, prompts: prompt };

let browser: Browser;
let isolated: ServedFolder;
let plain: ServedFolder;

beforeAll(async () => {
  await build({ configFile: join(root, "web/vite.config.ts"), logLevel: "error", build: { outDir } });
  [browser, isolated, plain] = await Promise.all([openChromium(), serveFolder(outDir), serveFolder(outDir, { isolated: false })]);
});

afterAll(async () => {
  await browser?.close();
  await isolated?.[Symbol.asyncDispose]();
  await plain?.[Symbol.asyncDispose]();
});

const wait = { timeout: 120_000 };
const phase = (page: Page, note: RegExp) => page.locator("#phase", { hasText: note }).waitFor(wait);

/** Pages that wait for each other's storage, as long as a slow machine takes. */
async function openContext(): Promise<BrowserContext> {
  const context = await browser.newContext();
  context.setDefaultTimeout(wait.timeout);
  return context;
}

/** A page at the form of a new run, and whatever goes wrong in it. */
async function openPage(context: BrowserContext, url: string): Promise<{ page: Page; problems: string[] }> {
  const page = await context.newPage();
  const problems: string[] = [];
  page.on("console", (message) => void (message.type() === "error" && problems.push(message.text())));
  page.on("pageerror", (error) => void problems.push(String(error)));
  await page.goto(url);
  await page.locator("#setup").waitFor(wait);
  return { page, problems };
}

/** Fills in the form, all but the files. */
async function fill(page: Page, values: Readonly<Record<string, string | number>>): Promise<void> {
  if (!(await page.locator("[name=seed]").isVisible())) await page.locator("summary").click();
  for (const [name, value] of Object.entries(values)) await page.locator(`[name=${name}]`).fill(String(value));
}

/** Drops files or folders of this machine on an element, as a file manager does. */
async function drop(page: Page, target: string, paths: readonly string[]): Promise<void> {
  await page.locator(target).scrollIntoViewIfNeeded();
  const box = await page.locator(target).boundingBox();
  if (!box) throw new Error(`${target} is not on the page`);
  const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
  const devtools = await page.context().newCDPSession(page);
  const data = { items: [], files: [...paths], dragOperationsMask: 1 };
  for (const type of ["dragEnter", "dragOver", "drop"] as const)
    await devtools.send("Input.dispatchDragEvent", { type, x, y, data });
  await devtools.detach();
}

async function giveText(page: Page): Promise<void> {
  await page.locator("#text [value=given]").check();
  await page.locator("#text-picker").setInputFiles(textFile);
}

async function download(page: Page, button: string): Promise<Uint8Array> {
  const [file] = await Promise.all([page.waitForEvent("download", wait), page.locator(button).click()]);
  return new Uint8Array(readFileSync(await file.path()));
}

/** What axe-core finds wrong with the page, in both colour schemes and on a phone. */
async function accessibility(page: Page): Promise<string[]> {
  const found: string[] = [];
  for (const [colorScheme, width] of [
    ["light", 1200],
    ["dark", 1200],
    ["light", 390],
  ] as const) {
    await page.emulateMedia({ colorScheme });
    await page.setViewportSize({ width, height: 900 });
    await page.evaluate(axe);
    const violations = await page.evaluate(async () => {
      type Axe = { run(): Promise<{ violations: { id: string; nodes: { html: string; failureSummary: string }[] }[] }> };
      const { violations } = await (globalThis as unknown as { axe: Axe }).axe.run();
      return violations.flatMap(({ id, nodes }) => nodes.map(({ html, failureSummary }) => `${id}: ${html} ${failureSummary}`));
    });
    const width_ = await page.evaluate(() => document.documentElement.scrollWidth);
    if (width_ > width) found.push(`${width_} wide on a screen of ${width}`);
    found.push(...violations.map((violation) => `${colorScheme}, ${width}: ${violation}`));
  }
  await page.setViewportSize({ width: 1200, height: 900 });
  return found;
}

/** The same run in Node, never stopped. */
async function inNode(steps: number) {
  const loaded = await loadModel(tiny);
  const dataset = textDataset({ text }, loaded.tokenizer, { window: small.window, seed: small.seed });
  const config = { r: small.rank, loraAlpha: small.alpha, loraDropout: small.dropout, targetModules: "all-linear" } as const;
  attach(loaded.model, lora({ ...config, taskType: "CAUSAL_LM" }), { seed: small.seed });
  using trainer = finetuning(loaded.model, dataset, {
    steps,
    batchSize: small.batch,
    learningRate: small.learningRate,
    seed: small.seed,
  });
  const { history } = await trainer.run();
  const adapter = memoryFolder();
  await saveAdapter(loaded.model, adapter, { baseModel: "models/tiny" });
  return { history, adapter: adapter.contents, gguf: await encodeGgufAdapter(loaded.model) };
}

const logitsOf = async ({ model, tokenizer }: LoadedModel): Promise<Float32Array> => {
  model.eval();
  const ids = tensor([[...tokenizer.encode("Call me Ishmael. Some years ago")]], { dtype: "int32" });
  return (await model.forward({ inputIds: ids }).logits.data()) as Float32Array;
};

describe("a page with threads", () => {
  it("asks for examples where a method starts from them, says which line is wrong, and trains with them, by keyboard alone", async () => {
    const context = await openContext();
    const { page, problems } = await openPage(context, isolated.url);
    const examples = page.getByRole("textbox", { name: "Examples" });
    await giveText(page);
    await fill(page, { steps: 2, batch: 2, window: 16, prompts: prompt });
    expect(await examples.isVisible()).toBe(false);
    await page.locator("[name=method]").selectOption("cpt");
    expect(await examples.isVisible()).toBe(true);
    expect(await page.locator("[name=rank]").isDisabled()).toBe(true);
    expect(await accessibility(page)).toEqual([]);

    // from the method the next stop is the field; what is wrong in it keeps the form, and has the focus
    await page.locator("[name=method]").press("Tab");
    expect(await page.evaluate(() => document.activeElement?.getAttribute("name"))).toBe("examples");
    await examples.fill("the sea => is wide\nthe ship");
    await page.locator("[name=steps]").press("Enter");
    expect(await examples.evaluate((found) => (found as HTMLTextAreaElement).validationMessage)).toMatch(/^Line 2 has no =>/);
    expect(await page.evaluate(() => document.activeElement?.getAttribute("name"))).toBe("examples");
    expect(await page.locator("#setup").isVisible()).toBe(true);

    await examples.fill("the sea => is wide\nthe ship => sails");
    await page.locator("[name=steps]").press("Enter");
    await phase(page, /Finished/);
    const adapter = unzipSync(await download(page, "#get-adapter"));
    const config = JSON.parse(new TextDecoder().decode(adapter["adapter_config.json"]));
    const { tokenizer } = await loadModel(tiny);
    expect(config.peft_type).toBe("CPT");
    expect(tokenizer.decode(config.cpt_token_ids)).toBe("the sea is wide\nthe ship sails");
    expect(problems).toEqual([]);

    // back at the form, another method does not ask
    page.on("dialog", (dialog) => void dialog.accept());
    await page.locator("#discard").click();
    await page.locator("[name=method]").selectOption("lora");
    expect(await examples.isVisible()).toBe(false);
    await context.close();
  });

  it("trains, is reloaded in the middle, goes on, and gives files that are in Node what they are in the page", async () => {
    const context = await openContext();
    const { page, problems } = await openPage(context, isolated.url);
    expect(await accessibility(page)).toEqual([]);
    page.on("dialog", (dialog) => void dialog.accept());
    let { steps } = small;
    let paused: string | null;
    // by keyboard alone from here on; on a busy machine a run may be over before the key is pressed, and is begun anew, with more steps
    for (; ; steps *= 2) {
      await giveText(page);
      await fill(page, { ...small, steps });
      await page.evaluate(() => ["step", "phase"].forEach((id) => document.getElementById(id)?.replaceChildren()));
      await page.locator("[name=steps]").press("Enter");
      await page.waitForFunction(() => /^([3-9]|\d\d)/.test(document.getElementById("step")?.textContent ?? ""), null, wait);
      await page.locator("#pause").press("Space");
      await phase(page, /^(Paused after step|Finished)/);
      paused = await page.locator("#phase").textContent();
      if (!["Finished", `Paused after step ${steps} of ${steps}`].includes(paused ?? "")) break;
      await page.locator("#discard").press("Enter");
      await page.locator("#setup").waitFor(wait);
    }
    expect(await page.locator("#threads").textContent()).toContain("shared memory");
    expect(await accessibility(page)).toEqual([]);

    await page.reload();
    await phase(page, /Paused after/);
    expect(await page.locator("#phase").textContent()).toBe(paused);
    // the curve is drawn when the page has time for it, a little after the words
    const drawn = () => page.locator("#curve").getAttribute("aria-label");
    await expect.poll(drawn, wait).toMatch(new RegExp(`from \\d\\.\\d+ to \\d\\.\\d+ after \\d+ of ${steps} steps`));
    const before = await page.locator(".base p").textContent();
    expect(before?.length).toBeGreaterThan(prompt.length + 20);

    // a pause is for what still waits for its turn, too: the adapter is packed when the run would have gone on
    await page.evaluate(() => ["get-merged", "continue", "pause"].forEach((id) => document.getElementById(id)?.click()));
    await page.waitForEvent("download", wait);
    await download(page, "#get-adapter");
    expect(await page.locator("#phase").textContent()).toBe(paused);

    await page.locator("#continue").press("Enter");
    await phase(page, /Finished/);
    const [perplexityBefore, perplexityAfter] = ((await page.locator("#perplexity").textContent()) ?? "").split("→").map(Number);
    expect(perplexityAfter).toBeLessThan(perplexityBefore as number);
    const after = await page.locator(".adapted p").textContent();

    // the slider: at 0 the model is what it was, without touching a weight
    await page.locator("#scale").fill("0");
    await page.waitForFunction((text) => document.querySelector(".adapted p")?.textContent === text, before, wait);
    await page.locator("#scale").fill("1");
    await page.waitForFunction((text) => document.querySelector(".adapted p")?.textContent === text, after, wait);

    const adapter = unzipSync(await download(page, "#get-adapter"));
    const gguf = await download(page, "#get-gguf");
    const merged = unzipSync(await download(page, "#get-merged"));
    await phase(page, /Finished/);
    const report = new TextDecoder().decode(await download(page, "#get-report"));
    expect(report).toContain("lora on notes.txt");
    expect(report).toContain("held-out perplexity");
    expect(report).toContain("<svg");

    // the run that was never stopped gives the same adapter to the last bit
    const expected = await inNode(steps);
    expect(Object.keys(adapter).sort()).toEqual([...expected.adapter.keys()].sort());
    for (const [name, bytes] of expected.adapter) expect(Buffer.from(adapter[name]!).equals(bytes), name).toBe(true);
    expect(Buffer.from(gguf).equals(expected.gguf)).toBe(true);

    const withAdapter = await loadModel(tiny);
    await loadAdapter(withAdapter.model, { files: adapter });
    const sampling = { temperature: 0.8, topP: 0.95, maxNewTokens: 48, seed: small.seed };
    const stopTokens = [withAdapter.tokenizer.eosId as number];
    const { model, tokenizer } = withAdapter; // without the settings of generation_config.json
    const written = await completeText({ model, tokenizer }, prompt, { ...sampling, stopTokens });
    expect(after).toBe(`${prompt}${written.replace(/\s+/g, " ")}`);
    const [beside, within] = [await logitsOf(withAdapter), await logitsOf(await loadModel({ files: merged }))];
    const difference = beside.reduce((largest, value, i) => Math.max(largest, Math.abs(value - within[i]!)), 0);
    expect(difference).toBeLessThan(1e-3);
    expect(difference).toBeGreaterThan(0);
    const base = await logitsOf(await loadModel(tiny));
    expect(beside.some((value, i) => Math.abs(value - base[i]!) > 0.1)).toBe(true);

    // what was downloaded is still there, and can be forgotten
    await page.locator("#discard").click();
    await page.locator("#setup").waitFor(wait);
    await page.reload();
    await page.locator("#setup").waitFor(wait);
    expect(problems).toEqual([]);
    await context.close();
  });
});

describe("a page that may not share memory", () => {
  it("says what is wrong with files, trains a model that was given, and keeps its run from a second tab", async () => {
    const context = await openContext();
    const { page, problems } = await openPage(context, plain.url);
    expect(await page.locator("#threads").textContent()).toContain("one thread");
    await giveText(page);
    await fill(page, { ...small, steps: 2 });
    const give = async (files: readonly string[]) => {
      await page.locator("#model [value=given]").check();
      await page.locator("#model-picker").setInputFiles(files.map((name) => join(tiny, name)));
      await page.locator("button[type=submit]").first().click();
    };
    await page.locator("#model [value=given]").check();
    await page.locator("button[type=submit]").first().click();
    expect(await page.locator("#start-hint").textContent()).toBe("Choose the model's files first.");
    await give(["README.md"]);
    await page.locator("#problem", { hasText: "these files are no model: README.md" }).waitFor(wait);
    await page.locator("#setup").waitFor(wait);
    await give(modelFiles);
    await phase(page, /Finished/);
    expect(await page.locator("#about").textContent()).toContain("model.safetensors and 4 more");
    expect(await page.locator("#threads").textContent()).toContain("1 thread");
    await page.locator("#prompt").fill("In the beginning");
    await page.locator("#try button").click();
    await page.locator(".sample").nth(1).locator(".adapted p[aria-busy=false]").waitFor(wait);
    expect((await page.locator(".sample").nth(1).locator(".base p").textContent())?.startsWith("In the beginning")).toBe(true);

    const second = await context.newPage();
    await second.goto(plain.url);
    // the first answers: its engine is not waited for
    await second.locator("#kept-note", { hasText: "another tab has it open" }).waitFor({ timeout: 9_000 });
    await second.close();
    await page.reload();
    await phase(page, /Finished/);
    expect(problems).toEqual([]);
    await context.close();
  });
});

describe("a page that was reloaded in the middle of a long step", () => {
  it("waits for the engine of the page before, and says so", async () => {
    const context = await openContext();
    const before = await context.newPage();
    await before.goto(`${plain.url}tiny/config.json`);
    await before.evaluate(
      () =>
        new Promise<void>((held) => {
          navigator.locks.request("lorikeet", () => {
            held();
            return new Promise((over) => setTimeout(over, 4000));
          });
        }),
    );
    const page = await context.newPage();
    await page.goto(plain.url);
    expect(await page.locator("#starting").isVisible()).toBe(true);
    await page.locator("#kept-note", { hasText: "The run is kept" }).waitFor(wait);
    expect(await page.locator("#starting").isVisible()).toBe(false);
    await context.close();
  });
});

describe("a page whose storage is full", () => {
  it("says so, trains on, and packs the merged model in memory", async () => {
    const context = await openContext();
    const { page, problems } = await openPage(context, isolated.url);
    const devtools = await context.newCDPSession(page);
    await devtools.send("Storage.overrideQuotaForOrigin", { origin: new URL(isolated.url).origin, quotaSize: 300_000 });
    await giveText(page);
    await fill(page, { ...small, rank: 16, steps: 2 });
    await page.locator("[name=steps]").press("Enter");
    await phase(page, /Finished/);
    expect(await page.locator("#problem").textContent()).toContain("the browser gives this page no more storage");
    expect(await page.locator("#kept-note").textContent()).toContain("a reload loses what is new");
    const merged = unzipSync(await download(page, "#get-merged"));
    expect(Object.keys(merged).sort()).toEqual(expect.arrayContaining(["config.json", "model.safetensors", "tokenizer.json"]));
    await phase(page, /Finished/);
    expect(problems).toEqual([]);
    await context.close();
  });
});

describe("files that are dropped", () => {
  it("trains a GGUF file on JSON lines with another method, then a folder on conversations", async () => {
    const context = await openContext();
    const { page, problems } = await openPage(context, isolated.url);
    const lines = join(root, ".cache/notes.jsonl");
    writeFileSync(
      lines,
      text
        .split("\n\n")
        .map((part) => JSON.stringify({ text: part }))
        .join("\n"),
    );
    await drop(page, "#model", [join(root, "test/fixtures/gguf/llama.gguf")]);
    await page.locator("#model-files", { hasText: "llama.gguf, 0.1 MB" }).waitFor(wait);
    await drop(page, "#text", [lines]);
    await page.locator("#text-file", { hasText: "notes.jsonl" }).waitFor(wait);
    for (const name of ["model", "text"]) expect(await page.locator(`#${name} [value=given]`).isChecked()).toBe(true);

    // a method has the fields that it has
    const method = page.locator("[name=method]");
    await method.selectOption("ia3");
    expect(await page.locator("[name=rank]").isDisabled()).toBe(true);
    await method.selectOption("loha");
    expect(await page.locator("[name=rank]").isDisabled()).toBe(false);
    const { dropout: _, ...fields } = small;
    expect(await page.locator("[name=dropout]").isDisabled()).toBe(true);
    await fill(page, { ...fields, steps: 3, window: 16, rank: 2 });
    await page.locator("button[type=submit]").first().click();
    await phase(page, /Finished/);
    expect(await page.locator("#about").textContent()).toMatch(
      /^llama\.gguf, 134,400 values · notes\.jsonl · loha, rank 2, alpha 8: [\d,]+ values to train$/,
    );
    const [inUse, planned] = ((await page.locator("#memory").textContent()) ?? "")
      .split(" MB")
      .map((part) => Number(part.replace("/", "")));
    expect(inUse).toBeGreaterThan(0.5); // the weights alone
    expect(Math.abs((inUse as number) / (planned as number) - 1)).toBeLessThan(0.25);
    const { "adapter_config.json": config } = unzipSync(await download(page, "#get-adapter"));
    expect(JSON.parse(new TextDecoder().decode(config))).toMatchObject({ peft_type: "LOHA", r: 2, alpha: 8 });
    // llama.cpp has no place for this one
    expect(await page.locator("#get-gguf").isDisabled()).toBe(true);
    expect(await page.locator("#keep-hint").textContent()).not.toContain("llama.cpp");

    page.on("dialog", (dialog) => void dialog.accept());
    await page.locator("#discard").click();
    await page.locator("#setup").waitFor(wait);
    const talker = join(root, ".cache/talker");
    cpSync(tiny, talker, { recursive: true });
    writeFileSync(
      join(talker, "chat_template.jinja"),
      "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    );
    const chats = join(root, ".cache/chats.jsonl");
    const messages = [
      { role: "user", content: "Who was white?" },
      { role: "assistant", content: "It was the whale, and the whale was white." },
    ];
    writeFileSync(chats, `${JSON.stringify({ messages })}\n`.repeat(40));
    await drop(page, "#model", [talker]);
    await page.locator("#model-files", { hasText: "talker" }).waitFor(wait);
    await drop(page, "#text", [chats]);
    await page.locator("#text-file", { hasText: "chats.jsonl" }).waitFor(wait);
    await fill(page, { steps: 2 });
    await page.locator("button[type=submit]").first().click();
    await phase(page, /Finished/);
    expect(await page.locator("#about").textContent()).toMatch(/^talker, 2,[\d,]+ values · chats\.jsonl · loha/);
    expect(problems).toEqual([]);
    await context.close();
  });
});
