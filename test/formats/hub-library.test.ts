/** What goes through @huggingface/hub beyond the plain case: pages, tokens, parts of files, answers without content, and its absence. */
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { describe, expect, test } from "vitest";
import { fetched, files, hub, id, open, options, ranges, weights } from "./hub-per-test.ts";
import { serveHub, status } from "./hub-server.ts";

describe("the Hub by way of @huggingface/hub", () => {
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
    "ConfigError: hub: the package @huggingface/hub cannot be imported: Cannot find package '@huggingface/hub'. Install it with: npm install @huggingface/hub",
  ]);
  expect(hub.requests).toEqual([]);
});
