import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { downloadSync } from "../../src/compile/program.ts";
import "../../src/devices/choose.ts";
import { handleFolder, memoryFolder } from "../../src/formats/writable-folder.ts";
import { loadAdapter, saveAdapter } from "../../src/peft/adapter-file.ts";
import { attach } from "../../src/peft/attach.ts";
import { lora } from "../../src/peft/methods/lora.ts";
import { saveTokenizer } from "../../src/text/bpe-trainer.ts";
import { loadModel, saveModel } from "../../src/train/load-model.ts";
import { temporaryFolder } from "../temporary-folder.ts";
import { smallModel } from "../train/small-run.ts";

const folder = temporaryFolder();

const onDisk = (path: string) =>
  new Map(
    readdirSync(path, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => {
        const file = join(entry.parentPath, entry.name);
        return [file.slice(path.length + 1), new Uint8Array(readFileSync(file))] as const;
      }),
  );
const sorted = (files: ReadonlyMap<string, Uint8Array>) =>
  [...files].sort(([a], [b]) => (a < b ? -1 : 1)).map(([name, bytes]) => [name, Buffer.from(bytes)] as const);

const adapted = () => {
  const model = smallModel();
  attach(model, lora({ r: 2, targetModules: "all-linear", initLoraWeights: false }));
  return model;
};

describe("memoryFolder", () => {
  it.each(["default", "poetry"])("holds what is written to disk: an adapter called %s", async (name) => {
    const model = smallModel();
    attach(model, lora({ r: 2, targetModules: "all-linear", initLoraWeights: false }), { name });
    const [path, memory] = [join(folder, name), memoryFolder()];
    await saveAdapter(model, path, { name, baseModel: "tiny" });
    expect(await saveAdapter(model, memory, { name, baseModel: "tiny" })).toBe(name === "default" ? "" : name);
    expect(sorted(memory.contents)).toEqual(sorted(onDisk(path)));
  });

  it("is read by those who read folders", async () => {
    const [model, memory, copy] = [adapted(), memoryFolder(), smallModel()];
    await saveAdapter(model, memory);
    await loadAdapter(copy, memory);
    const values = (of: typeof model) => [...of.namedParameters()].map(([name, { stored }]) => [name, downloadSync(stored)]);
    expect(values(copy)).toEqual(values(model));
  });

  it("holds a model of one file or of shards, and no shard of another", async () => {
    const memory = memoryFolder();
    const { model, config, tokenizer } = await loadModel("models/tiny");
    await saveModel(memory, model, config, { maxShardBytes: 3e6 });
    expect([...memory.files].filter((file) => file.endsWith(".safetensors")).length).toBeGreaterThan(1);
    await saveModel(memory, model, config);
    await saveTokenizer(memory, tokenizer);
    expect([...memory.files].sort()).toEqual(["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]);
    const again = await loadModel(memory);
    expect(downloadSync(again.model.parameters()[0]!.stored)).toEqual(downloadSync(model.parameters()[0]!.stored));
    expect([...again.tokenizer.encode("The whale")]).toEqual([...tokenizer.encode("The whale")]);
  });

  it("leaves everything as it was when a file fails half-way", async () => {
    const memory = memoryFolder();
    await memory.write(new Map([["a", "old"]]));
    const broken = async (append: (piece: Uint8Array) => Promise<void>) => {
      await append(new Uint8Array(3));
      throw new Error("no more");
    };
    await expect(
      memory.write(
        new Map<string, string | typeof broken>([
          ["a", "new"],
          ["b", broken],
        ]),
      ),
    ).rejects.toThrow("no more");
    expect([...memory.contents].map(([name, bytes]) => [name, new TextDecoder().decode(bytes)])).toEqual([["a", "old"]]);
    await memory.remove("missing");
    await memory.remove("a");
    expect(memory.files.size).toBe(0);
    await expect(memory.open("a")).rejects.toThrow("a is not there.");
  });
});

/** The part of a browser's folder handle that is used, in memory. */
function fakeHandle(fail?: string): { handle: FileSystemDirectoryHandle; files: Map<string, string> } {
  const files = new Map<string, string>();
  const directory = (prefix: string): unknown => ({
    name: "run",
    async *entries() {
      for (const name of files.keys()) if (!name.slice(prefix.length).includes("/")) yield [name, { kind: "file" }];
    },
    getDirectoryHandle: async (name: string) => directory(`${prefix}${name}/`),
    getFileHandle: async (name: string) => ({
      getFile: async () => new Blob([files.get(prefix + name) ?? ""]),
      async createWritable() {
        let text = "";
        return {
          write: async (piece: Uint8Array) => {
            if (name === fail) throw new DOMException("full", "QuotaExceededError");
            text += new TextDecoder().decode(piece);
          },
          close: async () => void files.set(prefix + name, text),
          abort: async () => {},
        };
      },
    }),
    removeEntry: async (name: string) => void files.delete(prefix + name),
  });
  return { handle: directory("") as FileSystemDirectoryHandle, files };
}

describe("handleFolder", () => {
  it("writes, lists, reads and removes", async () => {
    const { handle, files } = fakeHandle();
    const run = await handleFolder(handle);
    await run.write(
      new Map([
        ["a.txt", "one"],
        ["deep/b.txt", "two"],
      ]),
    );
    expect([...files]).toEqual([
      ["a.txt", "one"],
      ["deep/b.txt", "two"],
    ]);
    expect([...(await handleFolder(handle)).files]).toEqual(["a.txt"]);
    const file = await run.open("deep/b.txt");
    expect(new TextDecoder().decode(await file.read(0, file.size))).toBe("two");
    await run.remove("a.txt");
    expect([...run.files]).toEqual(["deep/b.txt"]);
  });

  it("replaces nothing when the storage is full, and says so", async () => {
    const { handle, files } = fakeHandle("b.txt");
    const run = await handleFolder(handle);
    const both = new Map([
      ["a.txt", "one"],
      ["b.txt", "two"],
    ]);
    await expect(run.write(both)).rejects.toThrow('"run" cannot be written: the browser gives this page no more storage.');
    expect(files.size).toBe(0);
  });
});
