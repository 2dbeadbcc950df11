/** The Hub, as a server on this machine that does everything a network can do to a download. Never the real one. */
import { execFile } from "node:child_process";
import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { download, useDevice } from "../../src/compile/program.ts";
import { createReference } from "../../src/devices/reference/device.ts";
import { ConfigError, FormatError } from "../../src/errors.ts";
import { readText } from "../../src/formats/folder.ts";
import { type HubOptions, type HubProgress, hubFolder, isHubId } from "../../src/formats/hub.ts";
import type { Module } from "../../src/nn/module.ts";
import { loadAdapter } from "../../src/peft/index.ts";
import { loadTokenizer } from "../../src/text/load-tokenizer.ts";
import { loadModel } from "../../src/train/load-model.ts";
import { integers } from "../nn/tensors.ts";
import { type answer, cut as cutAfter, etagOf, gitSha, type HubServer, serveHub, sha256, status } from "./hub-server.ts";

const id = "owner/small-model";
const config = Buffer.from('{"model_type": "llama"}');
const weights = Buffer.from(Uint8Array.from({ length: 300_000 }, (_, i) => (i * 7 + (i >> 8)) & 255));
const files = { "config.json": config, "model.safetensors": weights, "sub/notes.txt": Buffer.from("é"), empty: Buffer.alloc(0) };

let hub: HubServer;
let cache: string;
/** Bytes of the file that is being downloaded that have arrived. */
let received: number;
const cut = (bytes: number) => cutAfter(bytes, () => received);
beforeEach(async () => {
  received = 0;
  for (const key of Object.keys(process.env)) if (/^(HF_|HUGGING|TRANSFORMERS_)/.test(key)) vi.stubEnv(key, "");
  cache = mkdtempSync(join(tmpdir(), "lorikeet-hub-"));
  vi.stubEnv("HF_HOME", cache); // no token of the person who runs this
  hub = await serveHub(id, files);
});
afterEach(async () => {
  vi.unstubAllEnvs();
  await hub[Symbol.asyncDispose]();
  rmSync(cache, { recursive: true, force: true });
});

const options = (more: HubOptions = {}): HubOptions => ({
  endpoint: hub.endpoint,
  cacheDir: cache,
  retryDelay: 1,
  timeout: 2000,
  onProgress: (progress) => {
    received = progress.received;
  },
  ...more,
});
const open = (more?: HubOptions) => hubFolder(id, options(more));
const fetched = async (file: string, more?: HubOptions) => {
  const { size, read } = await (await open(more)).open(file);
  return Buffer.from(await read(0, size));
};
const repository = () => join(cache, "models--owner--small-model");
const blobs = () => readdirSync(join(repository(), "blobs")).sort();
const ranges = () => hub.requests.filter((request) => request.includes("model.safetensors"));

describe("hubFolder", () => {
  test("lists files and downloads what is opened, into the layout of Python's cache", async () => {
    const folder = await open();
    expect([...folder.files].sort()).toEqual(["config.json", "empty", "model.safetensors", "sub/notes.txt"]);
    expect(hub.requests).toEqual([`GET /api/models/${id}/revision/main`, `GET /api/models/${id}/tree/${hub.sha}`]);
    for (const [file, content] of Object.entries(files)) expect((await fetched(file)).equals(content), file).toBe(true);
    expect(readFileSync(join(repository(), "refs/main"), "utf8")).toBe(hub.sha);
    expect(blobs()).toEqual(Object.values(files).map(etagOf).sort());
    const snapshot = join(repository(), "snapshots", hub.sha);
    expect(lstatSync(join(snapshot, "sub/notes.txt")).isSymbolicLink()).toBe(true);
    expect(readlinkSync(join(snapshot, "sub/notes.txt"))).toBe(`../../../blobs/${gitSha(files["sub/notes.txt"])}`);
    expect(readlinkSync(join(snapshot, "model.safetensors"))).toBe(`../../blobs/${sha256(weights)}`);
  });

  test("downloads nothing twice, and tells how far it is", async () => {
    const told: HubProgress[] = [];
    await fetched("model.safetensors", { onProgress: (progress) => told.push(progress) });
    expect(told[0]).toEqual({ file: "model.safetensors", received: 0, total: weights.length });
    expect(told.at(-1)).toEqual({ file: "model.safetensors", received: weights.length, total: weights.length });
    expect(told.every(({ received }, i) => received >= (told[i - 1]?.received ?? 0))).toBe(true);
    const before = ranges().length;
    expect((await fetched("model.safetensors")).equals(weights)).toBe(true);
    rmSync(join(repository(), "snapshots"), { recursive: true });
    expect((await fetched("model.safetensors")).equals(weights)).toBe(true); // the blob is still there
    expect(ranges().length).toBe(before);
  });

  test("asks for headers where the listing does not know sizes", async () => {
    hub.tamper = ({ sha, files }) => ({ sha, files: files.map(({ type, path }) => ({ type, path })) });
    expect((await fetched("model.safetensors")).equals(weights)).toBe(true);
    expect(ranges().length).toBe(2);
    expect(ranges()[0]).toContain("bytes=0-0");
    expect(blobs()).toEqual([sha256(weights)]);
  });

  test("reads a listing of several pages, and begins it anew where one is cut", async () => {
    hub.pageSize = 2;
    hub.listingFaults.push(undefined, undefined, (response) => {
      response.writeHead(200, { "content-type": "application/json", "content-length": 1000 }).write('[{"type": "file",');
      setTimeout(() => response.destroy(), 20);
    });
    expect([...(await open()).files].sort()).toEqual(Object.keys(files).sort());
    expect(hub.requests.filter((request) => request.includes("/tree/")).length).toBe(2 + 3);
    hub.next = (url) => {
      url.searchParams.set("cursor", "2");
      return url.href;
    };
    await expect(open()).rejects.toThrow("the list of the files of owner/small-model leads back to a page that was read.");
  });

  test("gives the token to nobody but the Hub", async () => {
    await using secret = await serveHub(id, files, "secret");
    secret.pageSize = 2;
    secret.next = (url) => Object.assign(new URL(url), { host: hub.endpoint.slice(7) }).href;
    hub.pageSize = 2;
    const folder = await open({ endpoint: secret.endpoint, token: "secret" });
    expect(folder.files.size).toBe(Object.keys(files).length);
    expect(hub.requests).toEqual([`GET /api/models/${id}/tree/${hub.sha}`, `GET /api/models/${id}/tree/${hub.sha}`]);
    expect(hub.tokens).toEqual([undefined, undefined]);
    expect(new Set(secret.tokens)).toEqual(new Set(["Bearer secret"]));
  });

  test("reads parts of files by requests where there is no file system", async () => {
    const { getBuiltinModule } = process;
    process.getBuiltinModule = (() => undefined) as typeof getBuiltinModule;
    try {
      const { size, read } = await (await open()).open("model.safetensors");
      expect(size).toBe(weights.length);
      expect(Buffer.from(await read(1000, 70_000)).equals(weights.subarray(1000, 70_000))).toBe(true);
      expect(Buffer.from(await read(0, size)).equals(weights)).toBe(true);
      expect(await read(5, 5)).toEqual(new Uint8Array());
      expect(ranges().map((request) => request.split(" ")[2])).toEqual(["bytes=1000-69999", undefined]);
      // no part of what comes is taken for another
      const whole: Parameters<typeof status> = [200, { "content-length": String(weights.length) }];
      hub.faults.push((_, response, content) => {
        response.writeHead(...whole).end(content);
        return true;
      });
      expect(Buffer.from(await read(1000, 70_000)).equals(weights.subarray(1000, 70_000))).toBe(true);
      hub.faults.push((_, response, content) => {
        response.writeHead(206).end(content.subarray(0, 10));
        return true;
      });
      await expect(read(1000, 2000)).rejects.toThrow("gave 10 bytes where 1000 were asked for.");
      hub.faults.push(status(500), (_, response, content) => {
        response.writeHead(206, { "content-length": 1000 }).write(content.subarray(0, 10));
        setTimeout(() => response.destroy(), 20);
        return true;
      });
      expect(Buffer.from(await read(1000, 2000)).equals(weights.subarray(1000, 2000))).toBe(true);
    } finally {
      process.getBuiltinModule = getBuiltinModule;
    }
  });

  test.each([
    ["HF_TOKEN", () => vi.stubEnv("HF_TOKEN", "secret")],
    ["the token file", () => writeFileSync(join(cache, "token"), "secret\n")],
    ["an option", () => {}],
  ])("opens private repositories with the token of %s", async (how, set) => {
    await using secret = await serveHub(id, files, "secret");
    const more = { endpoint: secret.endpoint };
    await expect(open(more)).rejects.toThrow(
      "the Hub has no owner/small-model that can be read here (401: Invalid username or password). Check the spelling. If it is private, set HF_TOKEN",
    );
    await expect(open({ ...more, token: "wrong" })).rejects.toThrow("Check that the token may read it.");
    set();
    expect((await open({ ...more, ...(how === "an option" && { token: "secret" }) })).files.has("config.json")).toBe(true);
  });

  test("says what is not there", async () => {
    await expect(open({ revision: "v9" })).rejects.toThrow("hub: owner/small-model has no revision v9.");
    await expect(hubFolder("owner/other", options())).rejects.toThrow("the Hub has no owner/other that can be read here (404");
    await expect(fetched("none.txt")).rejects.toThrow('owner/small-model has no file "none.txt".');
    hub.listingFaults.push((response) => {
      response.writeHead(403, { "x-error-code": "GatedRepo", "x-error-message": "Access is restricted" }).end();
    });
    await expect(open()).rejects.toThrow(
      "owner/small-model is gated: its terms must be accepted on its page first. Accept them, and set",
    );
    expect(existsSync(join(repository(), "blobs"))).toBe(false);
  });

  test.each(["../evil", "/etc/passwd", "a/../../b", "a\\b", "", "a//b", "C:evil", 7, null])(
    "refuses a listing with %j",
    async (path) => {
      hub.tamper = ({ sha, files }) => ({ sha, files: [...files, { type: "file", path, size: 1, oid: "0".repeat(40) }] });
      await expect(open()).rejects.toThrow("which is no name within a folder.");
    },
  );

  const commit = "0".repeat(40);
  test.each([
    {},
    [],
    null,
    { sha: "main", files: [] },
    { sha: commit },
    { sha: commit, files: 7 },
    { sha: commit, files: [null] },
  ])("refuses %j as a listing", async (json) => {
    hub.tamper = () => json;
    await expect(open()).rejects.toThrow("is no list of the files of owner/small-model.");
  });

  test("waits and tries again when the Hub is busy or unwell, as long as it asks for", async () => {
    hub.listingFaults.push((response) => void response.writeHead(503).end());
    hub.faults.push(status(429, { "retry-after": "0.05" }), status(500), status(502));
    const begin = performance.now();
    expect((await fetched("model.safetensors")).equals(weights)).toBe(true);
    expect(performance.now() - begin).toBeGreaterThan(50);
    hub.faults.push(...new Array(3).fill(status(503)));
    await expect(fetched("config.json", { attempts: 3 })).rejects.toThrow(
      "downloading config.json failed 3 times: the Hub answers 503 (it is not well). What has arrived is kept; run it again to go on.",
    );
  });
});

describe("a download", () => {
  test("goes on where the connection was cut, any number of times while bytes arrive", async () => {
    hub.faults.push(cut(50_000), cut(1000), cut(70_000), cut(1000), cut(1000), cut(1000));
    expect((await fetched("model.safetensors", { attempts: 2 })).equals(weights)).toBe(true);
    const starts = ranges().map((range) => Number(/bytes=(\d+)-299999$/.exec(range)?.[1] ?? 0));
    expect(starts).toEqual([0, 50_000, 51_000, 121_000, 122_000, 123_000, 124_000]);
    expect(blobs()).toEqual([sha256(weights)]);
  });

  test("gives up when nothing more comes, and goes on from there the next time", async () => {
    hub.faults.push(cut(120_000), cut(0), cut(0), cut(0));
    await expect(fetched("model.safetensors", { attempts: 3 })).rejects.toThrow(/downloading model\.safetensors failed 3 times/);
    const part = join(repository(), "blobs", `${sha256(weights)}.lorikeet.incomplete`);
    const kept = readFileSync(part);
    expect(kept.equals(weights.subarray(0, 120_000))).toBe(true);
    hub.faults.length = 0;
    expect((await fetched("model.safetensors")).equals(weights)).toBe(true);
    expect(ranges().at(-1)).toContain("bytes=120000-299999");
    expect(blobs()).toEqual([sha256(weights)]);
  });

  test("gives up a connection on which nothing comes", async () => {
    hub.faults.push((_request, response, content) => {
      response.writeHead(200, { "content-length": content.length }).write(content.subarray(0, 10));
      return true;
    });
    expect((await fetched("model.safetensors", { timeout: 150 })).equals(weights)).toBe(true);
    expect(ranges().length).toBe(2);
  });

  test("begins anew where a server does not know ranges, or knows another end", async () => {
    const whole = (_: unknown, response: Parameters<typeof answer>[1], content: Buffer, etag: string) => {
      response.writeHead(200, { etag, "content-length": content.length }).end(content);
      return true;
    };
    hub.faults.push(cut(50_000), whole);
    expect((await fetched("model.safetensors")).equals(weights)).toBe(true);
    rmSync(repository(), { recursive: true });
    hub.faults.push(cut(50_000), status(416));
    expect((await fetched("model.safetensors")).equals(weights)).toBe(true);
  });

  test("tries again where an answer has no content at all", async () => {
    hub.faults.push(status(204));
    expect((await fetched("model.safetensors", { timeout: 1000 })).equals(weights)).toBe(true);
    expect(ranges().length).toBe(2);
  });

  test("refuses another content in the middle, another size, and more than was listed", async () => {
    const other =
      (etag: string | undefined, length: number, extra = 0) =>
      (_: unknown, response: Parameters<typeof answer>[1], content: Buffer) => {
        response.writeHead(200, { ...(etag && { etag }), ...(length >= 0 && { "content-length": length }) });
        response.end(Buffer.concat([content, Buffer.alloc(extra)]).subarray(0, length >= 0 ? length : undefined));
        return true;
      };
    hub.faults.push(cut(50_000), other('"f00d"', weights.length));
    await expect(fetched("model.safetensors")).rejects.toThrow(
      `model.safetensors of ${id} is another file now than the Hub lists (etag f00d, not ${sha256(weights)}). Open the repository again.`,
    );
    hub.faults.push(other(undefined, 1000));
    await expect(fetched("model.safetensors")).rejects.toThrow("has 300000 bytes by the Hub's list, and the answer says 1000");
    hub.faults.push(other(undefined, -1, 10));
    await expect(fetched("model.safetensors")).rejects.toThrow("is longer than the 300000 bytes that the Hub lists.");
    expect((await fetched("model.safetensors")).equals(weights)).toBe(true);
    expect(blobs()).toEqual([sha256(weights)]);
  });

  const damaged = (_: unknown, response: Parameters<typeof answer>[1], content: Buffer, etag: string) => {
    const wrong = Buffer.from(content);
    wrong[wrong.length - 1] = 255 - (wrong.at(-1) as number);
    response.writeHead(200, { etag, "content-length": wrong.length }).end(wrong);
    return true;
  };

  test.each(["model.safetensors", "config.json"] as const)(
    "of %s with a wrong checksum is tried once more, and never kept",
    async (file) => {
      hub.faults.push(damaged);
      expect((await fetched(file)).equals(files[file])).toBe(true);
      rmSync(repository(), { recursive: true });
      hub.faults.push(damaged, damaged);
      const refused = fetched(file);
      await expect(refused).rejects.toThrow(FormatError);
      await expect(refused).rejects.toThrow(`arrives with another checksum than the Hub lists (${etagOf(files[file])}).`);
      expect(blobs()).toEqual([]);
    },
  );

  test("mends a damaged part of an earlier run", async () => {
    mkdirSync(join(repository(), "blobs"), { recursive: true });
    writeFileSync(join(repository(), "blobs", `${sha256(weights)}.lorikeet.incomplete`), Buffer.alloc(1000, 1));
    expect((await fetched("model.safetensors")).equals(weights)).toBe(true);
    writeFileSync(join(repository(), "snapshots", hub.sha, "config.json"), "cut off");
    expect(await fetched("config.json")).toEqual(config);
  });

  test("says that the disk is full before it begins, and where it may not write", async () => {
    hub.tamper = ({ sha, files }) => ({ sha, files: files.map((each) => ({ ...each, size: 2 ** 52 })) });
    await expect(fetched("model.safetensors")).rejects.toThrow(
      /has no room for model\.safetensors, 4503599627370496 more bytes\. Free some/,
    );
    hub.tamper = (listing) => listing;
    writeFileSync(join(cache, "file"), "");
    await expect(fetched("config.json", { cacheDir: join(cache, "file") })).rejects.toThrow(ConfigError);
  });

  test("of one file by many at once is one download", async () => {
    const all = await Promise.all(Array.from({ length: 8 }, () => fetched("model.safetensors")));
    for (const content of all) expect(content.equals(weights)).toBe(true);
    expect(ranges().length).toBe(1);
  });

  test("of one file by several processes is one download; a lock that was left behind is taken", async () => {
    mkdirSync(join(repository(), "blobs"), { recursive: true });
    const script = `
      const { hubFolder } = await import(${JSON.stringify(new URL("../../dist/src/formats/index.js", import.meta.url).href)});
      const folder = await hubFolder("${id}", ${JSON.stringify(options())});
      console.log((await folder.open("model.safetensors")).size);`;
    const child = () => promisify(execFile)("node", ["--input-type=module", "-e", script]);
    const results = await Promise.all([child(), child(), child()]);
    expect(results.map(({ stdout }) => stdout.trim())).toEqual(new Array(3).fill(String(weights.length)));
    expect(ranges().length).toBe(1);
    expect(readFileSync(join(repository(), "blobs", sha256(weights))).equals(weights)).toBe(true);
    expect(blobs()).toEqual([sha256(weights)]);
  });
});

test("without @huggingface/hub the cache is read, and the Hub is not asked but said to need it", async () => {
  await fetched("config.json");
  const hook = `export const resolve = (specifier, context, next) => {
    if (specifier !== "@huggingface/hub") return next(specifier, context);
    throw Object.assign(new Error("Cannot find package '@huggingface/hub'"), { code: "ERR_MODULE_NOT_FOUND" });
  }`;
  const script = `
    import { register } from "node:module";
    register("data:text/javascript," + ${JSON.stringify(encodeURIComponent(hook))});
    const { hubFolder } = await import(${JSON.stringify(new URL("../../dist/src/formats/index.js", import.meta.url).href)});
    const options = ${JSON.stringify(options())};
    console.log([...(await hubFolder("${id}", { ...options, offline: true })).files].join());
    await hubFolder("${id}", options).catch(({ name, message }) => console.log(name + ": " + message));`;
  hub.requests.length = 0;
  const { stdout } = await promisify(execFile)("node", ["--input-type=module", "-e", script]);
  expect(stdout.trim().split("\n")).toEqual([
    "config.json",
    "ConfigError: hub: what the Hub is asked with, @huggingface/hub, cannot be imported: Cannot find package '@huggingface/hub'. Install it with: npm install @huggingface/hub",
  ]);
  expect(hub.requests).toEqual([]);
});

describe("without a network", () => {
  let nowhere: { endpoint: string };
  beforeEach(async () => {
    await using closed = await serveHub(id, {});
    nowhere = { endpoint: closed.endpoint };
  });

  test("the cache is used, of a branch or a commit", async () => {
    await fetched("config.json");
    await fetched("sub/notes.txt");
    for (const more of [nowhere, { offline: true }, { ...nowhere, revision: hub.sha }]) {
      const folder = await open(more);
      expect([...folder.files].sort()).toEqual(["config.json", "sub/notes.txt"]);
      expect(await readText(folder, "config.json", "test")).toBe(config.toString());
    }
    vi.stubEnv("HF_HUB_OFFLINE", "1");
    hub.requests.length = 0;
    expect((await open()).files.has("config.json")).toBe(true);
    expect(hub.requests).toEqual([]);
  });

  test("what is not in the cache is said so, with the reason", async () => {
    await expect(open(nowhere)).rejects.toThrow(
      `${nowhere.endpoint.slice(7)} cannot be reached (ECONNREFUSED). And the cache has no owner/small-model at main. Load it once with a network.`,
    );
    await expect(open({ offline: true })).rejects.toThrow(
      "the cache has no owner/small-model at main. Load it once without `offline`",
    );
    await expect(loadModel("models/none", options(nowhere))).rejects.toThrow(
      'there is no folder "models/none" here, and 127.0.0.1:',
    );
  });
});

test("settings come from the variables that Python reads", async () => {
  vi.stubEnv("HF_ENDPOINT", `${hub.endpoint}/`);
  vi.stubEnv("HF_HUB_CACHE", join(cache, "there"));
  await (await hubFolder(id)).open("config.json");
  expect(readdirSync(join(cache, "there"))).toEqual(["models--owner--small-model"]);
  vi.stubEnv("HF_HUB_CACHE", "");
  await (await hubFolder(id)).open("config.json");
  expect(readdirSync(join(cache, "hub"))).toEqual(["models--owner--small-model"]);
  vi.stubEnv("HF_ENDPOINT", "huggingface.co");
  await expect(hubFolder(id)).rejects.toThrow('the endpoint of the Hub (= "huggingface.co") is no http address.');
});

test("models and tokenizers are loaded by name, with only the files that they need", async () => {
  const folder = join(import.meta.dirname, "../fixtures/models/llama");
  const tokenizer = readFileSync(join(import.meta.dirname, "../fixtures/tokenizers/bpe_gpt2/tokenizer.json"));
  const content = (file: string) => readFileSync(join(folder, file));
  await using models = await serveHub(id, {
    "config.json": content("config.json"),
    "model.safetensors": content("model.safetensors"),
    "pytorch_model.bin": Buffer.from("a pickle"),
    "tokenizer.json": tokenizer,
    "README.md": Buffer.from("# model"),
  });
  const settings = { ...options(), endpoint: models.endpoint };
  using device = createReference();
  useDevice(device);
  const { model, tokenizer: own } = await loadModel(id, settings);
  const { model: here } = await loadModel(folder);
  expect(model.numParameters()).toBe(here.numParameters());
  expect(own.decode(own.encode("the whale"))).toBe("the whale");
  expect((await loadTokenizer(id, settings)).vocabularySize).toBe(own.vocabularySize);
  const asked = models.requests.map((request) => request.split("/").at(-1));
  expect(asked).not.toContain("pytorch_model.bin");
  expect(asked).not.toContain("README.md");
  expect(asked.filter((file) => file === "model.safetensors").length).toBe(1);
});

test("adapters are loaded from the Hub, from a folder within it, and from files", async () => {
  using device = createReference();
  useDevice(device);
  const base = join(import.meta.dirname, "../fixtures/peft/base/llama");
  const folder = join(import.meta.dirname, "../fixtures/peft/shared/a");
  const content = (file: string) => readFileSync(join(folder, file));
  const adapter = {
    "adapter_config.json": content("adapter_config.json"),
    "adapter_model.safetensors": content("adapter_model.safetensors"),
  };
  await using adapters = await serveHub(id, {
    ...adapter,
    ...Object.fromEntries(Object.entries(adapter).map(([file, bytes]) => [`poetry/${file}`, bytes])),
  });
  const settings = { ...options(), endpoint: adapters.endpoint };
  const logits = async (load: (model: Module) => Promise<unknown>) => {
    const { model } = await loadModel(base);
    await load(model);
    return [...(await download(model.forward({ inputIds: integers([1, 2, 3, 4], [1, 4]) }).logits))];
  };
  const expected = await logits((model) => loadAdapter(model, folder));
  expect(await logits(async () => {})).not.toEqual(expected);
  expect(await logits((model) => loadAdapter(model, id, settings))).toEqual(expected);
  expect(await logits((model) => loadAdapter(model, id, { ...settings, subfolder: "poetry" }))).toEqual(expected);
  const given = Object.entries(adapter).map(([file, bytes]) => new File([bytes], file));
  expect(await logits((model) => loadAdapter(model, { files: given }))).toEqual(expected);
  const { model } = await loadModel(base);
  await expect(loadAdapter(model, id, { ...settings, subfolder: "prose" })).rejects.toThrow('has no folder "prose".');
  await using within = await serveHub(id, { "poetry/adapter_config.json": content("adapter_config.json") });
  await expect(loadAdapter(model, id, { ...settings, endpoint: within.endpoint })).rejects.toThrow(
    `readAdapter: "${id}" has no adapter_config.json. Adapters are in: ${id}/poetry.`,
  );
});

test("which texts may be names of repositories", () => {
  for (const name of ["gpt2", "owner/name", "HuggingFaceTB/SmolLM2-135M.v1"]) expect(isHubId(name), name).toBe(true);
  for (const name of ["a/b/c", "./a", "../a", "/a/b", "a\\b", "", "a b", "a/..", "~/x", "C:/x", "a--b/c"])
    expect(isHubId(name), name).toBe(false);
});
