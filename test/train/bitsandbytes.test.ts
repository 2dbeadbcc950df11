/**
 * Checkpoints of bitsandbytes: what transformers has saved is read and gives its logits, our quantisers give its codes to the bit, and
 * what we write is what it wrote. The folders are made by bitsandbytes/make.py; LORIKEET_BITSANDBYTES names others.
 */
import { existsSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { currentDevice, downloadSync, upload } from "../../src/compile/program.ts";
import { compile } from "../../src/compile/trace.ts";
import { readSafetensors, type StoredTensor, type TensorToWrite, writeSafetensors } from "../../src/formats/safetensors.ts";
import type { Tensor } from "../../src/graph/node.ts";
import type { CausalLM } from "../../src/models/causal-lm.ts";
import { attach, lora, merge, quantise } from "../../src/peft/index.ts";
import { loadModel, saveModel } from "../../src/train/index.ts";
import { onEveryDevice } from "../devices.ts";
import { temporaryFolder } from "../temporary-folder.ts";

const root = process.env["LORIKEET_BITSANDBYTES"] ?? join(import.meta.dirname, "bitsandbytes");
const cases = readdirSync(root)
  .filter((model) => existsSync(join(root, model, "base")))
  .flatMap((model) => readdirSync(join(root, model)).flatMap((kind) => (kind === "base" ? [] : [{ model, kind }])));
const options = {
  "llama/nf4": { type: "nf4" },
  "llama/fp4": { type: "fp4", doubleQuantise: false },
  "llama/int8": { type: "int8" },
  "gpt2/nf4": { type: "nf4", doubleQuantise: false },
  "gpt2/int8": { type: "int8" },
} as const;
const scratch = temporaryFolder();

interface Expected {
  readonly ids: readonly (readonly number[])[];
  readonly logits: readonly number[];
  readonly dequantised: readonly number[];
}

const expectedOf = (folder: string): Expected => JSON.parse(readFileSync(join(folder, "expected.json"), "utf8"));
const logitsOf = (model: CausalLM, ids: Expected["ids"]): number[] => {
  const inputIds = upload(currentDevice(), Int32Array.from(ids.flat()), [ids.length, ids[0]!.length], "int32");
  return [...downloadSync(compile((inputIds: Tensor) => model.forward({ inputIds }).logits)(inputIds))];
};
const farthest = (a: readonly number[], b: readonly number[]): number => {
  expect(a.length).toBe(b.length);
  return a.reduce((most, value, i) => Math.max(most, Math.abs(value - b[i]!)), 0);
};
const stateOf = (model: CausalLM) =>
  new Map(
    [...model.namedParameters()].map(([path, { stored }]) => [path, { dtype: stored.dtype, values: [...downloadSync(stored)] }]),
  );

/** Every tensor of a file; the JSON of a quant_state is parsed. */
async function contents(folder: string): Promise<Map<string, unknown>> {
  const { tensors } = await readSafetensors(join(folder, "model.safetensors"));
  const one = async (tensor: StoredTensor) => {
    const values = [...(await tensor.load())];
    return tensor.name.includes("quant_state")
      ? JSON.parse(String.fromCharCode(...values))
      : { type: tensor.storedDType, shape: tensor.shape, values };
  };
  const entries = await Promise.all([...tensors].map(async ([name, tensor]) => [name, await one(tensor)] as const));
  return new Map(entries.sort(([a], [b]) => (a < b ? -1 : 1)));
}

onEveryDevice((device) => {
  describe.each(cases)("$model, $kind", ({ model: name, kind }) => {
    const folder = join(root, name, kind);
    const how = options[`${name}/${kind}` as keyof typeof options];

    test("gives the logits that transformers gives", async () => {
      const { model } = await loadModel(folder);
      const { ids, logits, dequantised } = expectedOf(folder);
      const got = logitsOf(model, ids);
      expect(farthest(got, dequantised)).toBeLessThan(2e-5);
      // bitsandbytes multiplies int8 by int8, rounding activations, too
      const size = Math.max(...logits.map(Math.abs));
      expect(farthest(got, logits)).toBeLessThan(kind === "int8" ? 0.1 * size : 2e-5);
    });

    test("our quantisers give its codes, to the bit, also while loading", async () => {
      const { model: theirs } = await loadModel(folder);
      const { model: ours } = await loadModel(join(root, name, "base"));
      quantise(ours, how);
      const { model: loaded } = await loadModel(join(root, name, "base"), { quantise: how });
      const wanted = stateOf(theirs);
      for (const model of [ours, loaded]) {
        const got = stateOf(model);
        expect([...got.keys()]).toEqual([...wanted.keys()]);
        for (const [path, { dtype, values }] of wanted) {
          expect(got.get(path)!.dtype, path).toBe(dtype);
          // a sum that is rounded in another order
          if (path.endsWith("nested_offset")) expect(got.get(path)!.values[0]).toBeCloseTo(values[0]!, 6);
          else if (path.endsWith("nested_absmax")) expect(farthest(got.get(path)!.values, values)).toBeLessThan(1e-6);
          else expect(got.get(path)!.values, path).toEqual(values);
        }
      }
    });

    test.runIf(device === "wasm")("what we write is what transformers wrote", async () => {
      const { model, config } = await loadModel(folder);
      const out = join(scratch, `${name}-${kind}`);
      await saveModel(out, model, config);
      expect(await contents(out)).toEqual(await contents(folder));
      const written = JSON.parse(readFileSync(join(out, "config.json"), "utf8")).quantization_config;
      const theirs = JSON.parse(readFileSync(join(folder, "config.json"), "utf8")).quantization_config;
      expect({ ...written, bnb_4bit_quant_type: theirs.bnb_4bit_quant_type }).toEqual({
        ...theirs,
        llm_int8_skip_modules: ["lm_head"],
      });
      expect(stateOf((await loadModel(out)).model)).toEqual(stateOf(model));
    });
  });
});

describe("wrong checkpoints", () => {
  const folder = join(root, "llama", "nf4");
  const layer = "model.layers.0.mlp.up_proj";
  let count = 0;
  /** The checkpoint with some tensors changed, or (null) left out. */
  async function tampered(
    change: (tensors: ReadonlyMap<string, StoredTensor>) => Promise<Record<string, TensorToWrite | null>>,
    config = {},
  ) {
    const { tensors } = await readSafetensors(join(folder, "model.safetensors"));
    const next = new Map<string, TensorToWrite>(tensors);
    for (const [name, tensor] of Object.entries(await change(tensors))) {
      if (tensor === null) next.delete(name);
      else next.set(name, tensor);
    }
    const out = mkdtempSync(join(scratch, `wrong-${count++}-`));
    await writeSafetensors(join(out, "model.safetensors"), next);
    const json = JSON.parse(readFileSync(join(folder, "config.json"), "utf8"));
    writeFileSync(join(out, "config.json"), JSON.stringify({ ...json, ...config }));
    return out;
  }
  const bytes = (values: readonly number[]): TensorToWrite => ({
    dtype: "uint8",
    shape: [values.length],
    data: Uint8Array.from(values),
  });
  const state = `${layer}.weight.quant_state.bitsandbytes__nf4`;
  const withState = (patch: object) => async (tensors: ReadonlyMap<string, StoredTensor>) => {
    const json = JSON.parse(String.fromCharCode(...(await tensors.get(state)!.load())));
    return { [state]: bytes([...new TextEncoder().encode(JSON.stringify({ ...json, ...patch }))]) };
  };

  test.each([
    ["scales that are not there", async () => ({ [`${layer}.weight.absmax`]: null }), /has no "weight.absmax"/],
    ["too few codes", async () => ({ [`${layer}.weight`]: bytes([1, 2, 3]) }), /"weight" of 3 U8 values/],
    ["another shape", withState({ shape: [16, 27] }), /\[16, 27\]|U8 values/],
    ["no shape", withState({ shape: null }), /its shape is null/],
    ["strange blocks", withState({ blocksize: 48 }), /blocks have 48/],
    ["another block of scales", withState({ nested_blocksize: 64 }), /blocks of 64/],
    ["no offset", withState({ nested_offset: "0" }), /nested_offset/],
    ["another type", withState({ quant_type: "fp4" }), /type is "fp4"/],
    ["no JSON", async () => ({ [state]: bytes([123, 34]) }), /no JSON/],
    [
      "another map",
      async () => ({ [`${layer}.weight.nested_quant_map`]: { dtype: "float32", shape: [256], data: new Float32Array(256) } }),
      /dynamic/,
    ],
    [
      "codes of a norm",
      async (tensors: ReadonlyMap<string, StoredTensor>) => ({
        [state.replace("mlp.up_proj", "input_layernorm")]: tensors.get(state)!,
      }),
      /not a linear layer/,
    ],
  ] as const)("%s", async (_, change, message) => {
    await expect(loadModel(await tampered(change as never))).rejects.toThrow(message);
  });

  test("a model that is quantised in another way, and options that do not exist", async () => {
    const hqq = await tampered(async () => ({}), { quantization_config: { quant_method: "hqq" } });
    await expect(loadModel(hqq)).rejects.toThrow(/quantised as "hqq" are not read/);
    await expect(loadModel(folder, { dtype: "int4" as never })).rejects.toThrow(/must be float32, float16, bfloat16 or auto/);
    await expect(loadModel(folder, { quantize: {} } as never)).rejects.toThrow(/quantize/);
  });
});

test("halves stay halves in memory, and are written as they are", async () => {
  const folder = join(root, "llama", "base");
  const { model, config } = await loadModel(folder, { dtype: "bfloat16" });
  const { model: full } = await loadModel(folder);
  const dtypes = new Map([...model.namedParameters()].map(([path, { dtype }]) => [path, dtype]));
  for (const [path, dtype] of dtypes) expect(dtype, path).toBe(path.includes("norm") ? "float32" : "bfloat16");
  const ids = [[1, 2, 3, 4]];
  expect(farthest(logitsOf(model, ids), logitsOf(full, ids))).toBeLessThan(0.1);
  const out = join(scratch, "halves");
  await saveModel(out, model, config, { dtype: "bfloat16" });
  const { model: again } = await loadModel(out, { dtype: "auto" });
  expect(logitsOf(again, ids)).toEqual(logitsOf(model, ids));
  attach(again, lora({ r: 2, targetModules: ["q_proj"], initLoraWeights: false }));
  const before = logitsOf(again, ids);
  merge(again);
  expect(farthest(logitsOf(again, ids), before)).toBeLessThan(0.1);
});
