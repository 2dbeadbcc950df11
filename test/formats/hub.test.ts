/** The Hub, as a server on this machine that does everything a network can do to a download. Never the real one. */
import { execFile } from "node:child_process";
import { existsSync, lstatSync, mkdirSync, readdirSync, readFileSync, readlinkSync, rmSync, writeFileSync } from "node:fs";
import { utimes } from "node:fs/promises";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { beforeEach, describe, expect, test, vi } from "vitest";
import { ConfigError, FormatError } from "../../src/errors.ts";
import { readText } from "../../src/formats/folder.ts";
import { type HubProgress, hubFolder, isHubId } from "../../src/formats/hub.ts";
import { loadModel } from "../../src/train/load-model.ts";
import {
  blobs,
  cache,
  config,
  cut,
  fetched,
  files,
  hub,
  id,
  open,
  options,
  ranges,
  received,
  repository,
  weights,
} from "./hub-per-test.ts";
import { type answer, etagOf, gitSha, serveHub, sha256, status } from "./hub-server.ts";

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
      await expect(open()).rejects.toThrow("which is not a name inside a folder.");
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
    await expect(open()).rejects.toThrow("is not a list of the files of owner/small-model.");
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
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    const whole = fetched("model.safetensors");
    while (received < 10) await new Promise(setImmediate);
    vi.advanceTimersByTime(options().timeout!);
    vi.useRealTimers();
    expect((await whole).equals(weights)).toBe(true);
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
    expect((await fetched("model.safetensors")).equals(weights)).toBe(true);
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
      `model.safetensors of ${id} has changed since the Hub listed it (etag f00d, not ${sha256(weights)}). Open the repository again.`,
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
    const left = join(repository(), "blobs", `${sha256(weights)}.lorikeet.lock`, "killed");
    mkdirSync(dirname(left), { recursive: true });
    writeFileSync(left, "");
    await utimes(left, 1, 1);
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
  await expect(hubFolder(id)).rejects.toThrow('the endpoint of the Hub (= "huggingface.co") is not an http address.');
});

test("which texts may be names of repositories", () => {
  for (const name of ["gpt2", "owner/name", "HuggingFaceTB/SmolLM2-135M.v1"]) expect(isHubId(name), name).toBe(true);
  for (const name of ["a/b/c", "./a", "../a", "/a/b", "a\\b", "", "a b", "a/..", "~/x", "C:/x", "a--b/c"])
    expect(isHubId(name), name).toBe(false);
});
