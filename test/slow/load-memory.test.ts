/**
 * Loading a model takes the memory of its weights once, and of one part of one tensor. Each checkpoint is loaded by a process of
 * its own, whose largest resident size is compared with that of one that loads next to nothing.
 */
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { writeFileAtomically } from "../../src/formats/atomic-file.ts";
import type { TensorToWrite } from "../../src/formats/safetensors.ts";
import { writeCheckpoint } from "../../src/formats/sharded.ts";

const dist = pathToFileURL(join(import.meta.dirname, "../../dist/src/train/index.js")).href;
const mega = 2 ** 20;

/** Megabytes that a process took at most while it loaded what is at `path`. */
function peak(path: string): number {
  const program = `
    const { loadModel } = await import(${JSON.stringify(dist)});
    const { model } = await loadModel(${JSON.stringify(path)});
    console.log(JSON.stringify([process.resourceUsage().maxRSS / 1024, model.numParameters()]));`;
  const env = { ...process.env, LORIKEET_THREADS: "1" };
  const [megabytes] = JSON.parse(execFileSync("node", ["--input-type=module", "-e", program], { env, encoding: "utf8" }));
  return megabytes;
}

const shapeOf = (hidden: number, vocab: number) => ({
  model_type: "llama",
  vocab_size: vocab,
  hidden_size: hidden,
  intermediate_size: 2 * hidden,
  num_hidden_layers: 6,
  num_attention_heads: 8,
  tie_word_embeddings: true,
});
type Shape = ReturnType<typeof shapeOf>;

function tensorsOf({ hidden_size: C, vocab_size: V, intermediate_size: F, num_hidden_layers }: Shape): Map<string, number[]> {
  const layer = { "mlp.gate_proj": [F, C], "mlp.up_proj": [F, C], "mlp.down_proj": [C, F], input_layernorm: [C] };
  const attention = Object.fromEntries(["q", "k", "v", "o"].map((name) => [`self_attn.${name}_proj`, [C, C]]));
  const layers = Array.from({ length: num_hidden_layers }, (_, i) =>
    Object.entries({ ...layer, ...attention, post_attention_layernorm: [C] }).map(
      ([name, shape]) => [`model.layers.${i}.${name}.weight`, shape] as [string, number[]],
    ),
  );
  return new Map([["model.embed_tokens.weight", [V, C]], ...layers.flat(), ["model.norm.weight", [C]]]);
}

const sizeOf = (shape: readonly number[]) => shape.reduce((product, size) => product * size, 1);

async function write(folder: string, shape: Shape, dtype: "float32" | "float16", maxShardBytes: number): Promise<void> {
  const tensors = [...tensorsOf(shape)].map(([name, shape]): [string, TensorToWrite] => {
    const load = () =>
      dtype === "float32" ? new Float32Array(sizeOf(shape)).fill(0.5) : new Uint16Array(sizeOf(shape)).fill(0x3800);
    return [name, { dtype, shape, load }];
  });
  await writeCheckpoint(folder, new Map(tensors), { maxShardBytes });
  writeFileSync(join(folder, "config.json"), JSON.stringify(shape));
}

/** The same weights in blocks of Q8_0, all of them 0.5. */
async function writeGguf(path: string, shape: Shape): Promise<void> {
  const names: Record<string, string> = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", input_layernorm: "attn_norm", post_attention_layernorm: "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
  }; // biome-ignore format: a table
  const header: Buffer[] = [];
  const u32 = (value: number) => header.push(Buffer.from(Uint32Array.of(value).buffer));
  const u64 = (value: number) => header.push(Buffer.from(BigUint64Array.of(BigInt(value)).buffer));
  const text = (value: string) => {
    u64(Buffer.byteLength(value));
    header.push(Buffer.from(value));
  };
  const tensors = [...tensorsOf(shape)];
  const keys = {
    "llama.embedding_length": shape.hidden_size,
    "llama.feed_forward_length": shape.intermediate_size,
    "llama.block_count": shape.num_hidden_layers,
    "llama.attention.head_count": shape.num_attention_heads,
    "llama.context_length": 64,
  };
  header.push(Buffer.from("GGUF"));
  u32(3);
  u64(tensors.length);
  u64(Object.keys(keys).length + 2);
  for (const [key, value] of Object.entries(keys)) {
    text(key);
    u32(4);
    u32(value);
  }
  text("general.architecture");
  u32(8);
  text("llama");
  text("llama.attention.layer_norm_rms_epsilon");
  u32(6);
  header.push(Buffer.from(Float32Array.of(1e-5).buffer));
  const bytesOf = (shape: readonly number[]) => (sizeOf(shape) / 32) * 34;
  let offset = 0;
  for (const [name, shape] of tensors) {
    const [, layer, kind] = /^(?:model\.layers\.(\d+)\.)?(.*)\.weight$/.exec(name) as unknown as [
      string,
      string | undefined,
      string,
    ];
    text(`${layer === undefined ? "" : `blk.${layer}.`}${names[kind]}.weight`);
    u32(shape.length);
    for (const size of [...shape].reverse()) u64(size);
    u32(8);
    u64(offset);
    offset = Math.ceil((offset + bytesOf(shape)) / 32) * 32;
  }
  const block = Buffer.alloc(34, 1);
  block.writeUInt16LE(0x3800);
  await writeFileAtomically(path, async (append) => {
    const head = Buffer.concat(header);
    await append(Buffer.concat([head, Buffer.alloc((32 - (head.length % 32)) % 32)]));
    for (const [, shape] of tensors) {
      const data = Buffer.alloc(Math.ceil(bytesOf(shape) / 32) * 32, block);
      await append(data);
    }
  });
}

describe("the memory that loading takes", () => {
  const large = shapeOf(768, 32_000);
  const weights = ([...tensorsOf(large).values()].reduce((sum, shape) => sum + sizeOf(shape), 0) * 4) / mega;
  let root: string;
  let base: number;
  beforeAll(async () => {
    root = mkdtempSync(join(tmpdir(), "lorikeet-memory-"));
    await write(join(root, "small"), shapeOf(32, 10), "float32", 1e9);
    base = peak(join(root, "small"));
  });
  afterAll(() => rmSync(root, { recursive: true }));

  /** A part is 16 MB as float32; reading and widening it takes two to three copies, which wait for the collector. */
  const besides = 96;

  test.each(["float32", "float16", "shards", "gguf"] as const)("%s: the weights once", async (kind) => {
    const folder = join(root, kind);
    if (kind === "gguf") await writeGguf(`${folder}.gguf`, large);
    else await write(folder, large, kind === "float16" ? "float16" : "float32", kind === "shards" ? 50e6 : 1e9);
    const taken = peak(kind === "gguf" ? `${folder}.gguf` : folder) - base;
    console.log(`${kind}: ${taken.toFixed(0)} MB for ${weights.toFixed(0)} MB of weights`);
    expect(weights).toBeGreaterThan(2 * besides);
    expect(taken).toBeGreaterThan(0.9 * weights);
    expect(taken).toBeLessThan(weights + besides);
    rmSync(kind === "gguf" ? `${folder}.gguf` : folder, { recursive: true });
  });
});
