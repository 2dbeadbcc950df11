import { readdir, readFile, stat, unlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { ConfigError, FormatError } from "../../src/errors.ts";
import { encodeSafetensors, readSafetensors } from "../../src/formats/safetensors.ts";
import { openCheckpoint, openSharded, writeCheckpoint } from "../../src/formats/sharded.ts";
import { temporaryFolder } from "../temporary-folder.ts";

const golden = process.env["GOLDEN_DIR"] ?? "test/fixtures";

const root = temporaryFolder();

const vector = (...values: number[]) => ({ dtype: "float32", shape: [values.length], data: new Float32Array(values) }) as const;
const three = { "a.weight": vector(1, 2), "b.weight": vector(3, 4, 5), "c.weight": vector(6) };

describe("a checkpoint", () => {
  it("reads the same from one file and from shards", async () => {
    const single = join(root, "single");
    const sharded = join(root, "sharded");
    expect(await writeCheckpoint(single, three)).toEqual(["model.safetensors"]);
    expect(await writeCheckpoint(sharded, three, { maxShardBytes: 12 })).toEqual([
      "model-00001-of-00003.safetensors",
      "model-00002-of-00003.safetensors",
      "model-00003-of-00003.safetensors",
      "model.safetensors.index.json",
    ]);
    for (const folder of [single, sharded, join(single, "model.safetensors")]) {
      const checkpoint = await openCheckpoint(folder);
      expect(checkpoint.metadata.get("format")).toBe("pt");
      expect([...checkpoint.tensors.keys()].sort()).toEqual(Object.keys(three));
      for (const [name, { data }] of Object.entries(three)) expect(await checkpoint.get(name).load()).toEqual(data);
    }
    expect(JSON.parse(await readFile(join(sharded, "model.safetensors.index.json"), "utf8"))).toEqual({
      metadata: { total_size: 24 },
      weight_map: {
        "a.weight": "model-00001-of-00003.safetensors",
        "b.weight": "model-00002-of-00003.safetensors",
        "c.weight": "model-00003-of-00003.safetensors",
      },
    });
  });

  it("replaces an earlier one of another number of files, and keeps other files", async () => {
    const folder = join(root, "resaved");
    await writeCheckpoint(folder, three, { maxShardBytes: 1 });
    await writeFile(join(folder, "config.json"), "{}");
    await writeFile(join(folder, "model-card.safetensors"), "mine");
    await writeCheckpoint(folder, { only: vector(9) });
    expect((await readdir(folder)).sort()).toEqual(["config.json", "model-card.safetensors", "model.safetensors"]);
    await writeCheckpoint(folder, three, { maxShardBytes: 20 });
    expect((await openCheckpoint(folder)).files).toEqual([
      "model-00001-of-00002.safetensors",
      "model-00002-of-00002.safetensors",
    ]);
    expect(await readdir(folder)).not.toContain("model.safetensors");
  });

  it("can be written over itself, since nothing is renamed before all is read", async () => {
    const folder = join(root, "self");
    await writeCheckpoint(folder, three);
    await writeCheckpoint(folder, (await openCheckpoint(folder)).tensors, { maxShardBytes: 8 });
    expect(await (await openCheckpoint(folder)).get("b.weight").load()).toEqual(three["b.weight"].data);
  });

  it("names the nearest tensor for one that it has not", async () => {
    const folder = join(root, "near");
    await writeCheckpoint(folder, three);
    const checkpoint = await openCheckpoint(folder);
    expect(() => checkpoint.get("a.wieght")).toThrow(
      `openCheckpoint: ${join(folder, "model.safetensors")} has no tensor "a.wieght". The nearest is "a.weight".`,
    );
    expect(() => checkpoint.get("something.else.entirely")).toThrow(/has no tensor "something\.else\.entirely"\.$/);
  });

  it("names the shard that is missing, and the tensor that a shard does not hold", async () => {
    const folder = join(root, "broken");
    await writeCheckpoint(folder, three, { maxShardBytes: 12 });
    const path = join(folder, "model.safetensors.index.json");
    const index = JSON.parse(await readFile(path, "utf8"));
    await writeFile(
      path,
      JSON.stringify({ weight_map: { ...index.weight_map, "d.weight": "model-00001-of-00003.safetensors" } }),
    );
    await expect(openCheckpoint(folder)).rejects.toThrow(
      `${path} says that tensor "d.weight" is in model-00001-of-00003.safetensors, but it is not there.`,
    );
    await unlink(join(folder, "model-00002-of-00003.safetensors"));
    await expect(openCheckpoint(folder)).rejects.toThrow(
      `${path} names model-00002-of-00003.safetensors, which is not in the folder.`,
    );
  });

  it.each(["../model.safetensors", "/etc/passwd", "a/b.safetensors", "a\\b", "C:x", "..", ".", "", 7, null])(
    "does not follow an index to %j",
    async (file) => {
      const opened: string[] = [];
      const open = async (name: string) => {
        opened.push(name);
        return readSafetensors(encodeSafetensors({}));
      };
      const refused = openSharded(JSON.stringify({ weight_map: { a: file } }), open);
      await expect(refused).rejects.toThrow(FormatError);
      await expect(refused).rejects.toThrow(`puts tensor "a" into ${JSON.stringify(file)}, which is not a plain file name.`);
      expect(opened).toEqual([]);
    },
  );

  it.each([
    ["{", "is not JSON."],
    ["[]", "has no weight_map."],
    ['{"weight_map":[]}', "has no weight_map."],
    ["null", "has no weight_map."],
  ])("refuses the index %s", async (text, problem) => {
    await expect(openSharded(text, () => Promise.reject())).rejects.toThrow(
      `openSharded: model.safetensors.index.json ${problem}`,
    );
  });

  it("says what is in the folder instead", async () => {
    const folder = join(root, "pickled");
    await writeCheckpoint(folder, three, { name: "other" });
    await expect(openCheckpoint(folder)).rejects.toThrow(ConfigError);
    await writeFile(join(folder, "pytorch_model.bin"), "");
    await expect(openCheckpoint(folder)).rejects.toThrow(
      "holds neither model.safetensors nor model.safetensors.index.json. pytorch_model.bin is a Python pickle, which can run code and is not read; save it with safe_serialization=True.",
    );
    await expect(openCheckpoint(join(root, "nowhere"))).rejects.toThrow("it does not exist");
    expect((await openCheckpoint(folder, { name: "other" })).files).toEqual(["other.safetensors"]);
  });

  it("refuses shards of no size", async () => {
    await expect(writeCheckpoint(join(root, "x"), three, { maxShardBytes: 0 })).rejects.toThrow(
      "`maxShardBytes` (= 0) must be a number above 0, or Infinity.",
    );
  });

  it("reads shards that transformers wrote", async (context) => {
    const folder = join(golden, "models/qwen2_sharded");
    if (!(await stat(folder).catch(() => undefined))) context.skip();
    const checkpoint = await openCheckpoint(folder);
    expect(checkpoint.files.length).toBeGreaterThan(1);
    const parameters = JSON.parse(await readFile(join(folder, "case.json"), "utf8")).parameters;
    let count = 0;
    for (const tensor of checkpoint.tensors.values()) count += (await tensor.load()).length;
    expect(count).toBe(parameters);
  });
});
