/** Cartridges that begin as a text's keys and values, and are put together, as in PEFT (cartridges/make.py). */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import "../../src/devices/choose.ts";
import { downloadSync } from "../../src/compile/program.ts";
import type { Tensor } from "../../src/graph/node.ts";
import {
  attach,
  cartridge,
  composeCartridges,
  initializeKvPrefixFromText,
  initializeKvPrefixFromTokens,
  loadAdapter,
  lora,
  prefixTuning,
  promptTuning,
  readSourceTasks,
  type SourceTasks,
  saveAdapter,
} from "../../src/peft/index.ts";
import { loadModel } from "../../src/train/load-model.ts";
import { expectValuesClose } from "../golden/suite.ts";
import { temporaryFolder } from "../temporary-folder.ts";
import { ids } from "./small-model.ts";

const folder = temporaryFolder();
const base = async (name: string) => (await loadModel(join(import.meta.dirname, "../fixtures/peft/base", name))).model.eval();
const numbers = (x: Tensor): number[] => Array.from(downloadSync(x));
const taskType = "CAUSAL_LM";
const exactly = { rtol: 1e-4, atol: 1e-5 };

let expected: SourceTasks; // a reader of tables of any file
const data = (name: string): Float32Array => expected[name]!.data;
const tokens = (name: string): number[] => Array.from(data(`tokens.${name}`));
beforeAll(async () => {
  expected = await readSourceTasks(join(import.meta.dirname, "cartridges/expected.safetensors"));
});

describe.each(["llama", "gpt2"])("%s", (name) => {
  it.each([
    ["cartridge", () => cartridge({ numVirtualTokens: 4, numFrozenTokens: 2, taskType })],
    ["prefix", () => prefixTuning({ numVirtualTokens: 4, taskType })],
  ] as const)("begins a %s as PEFT does, over what it was and beside other adapters", async (kind, config) => {
    const model = await base(name);
    attach(model, config() as ReturnType<typeof cartridge>);
    attach(model, lora({ r: 1, targetModules: name === "llama" ? ["q_proj"] : ["c_attn"], initLoraWeights: false }), {
      name: "other",
    });
    for (const text of ["one", "two"]) {
      initializeKvPrefixFromTokens(model, tokens(text));
      await saveAdapter(model, join(folder, kind));
      const { prompt_embeddings: table } = await readSourceTasks(join(folder, kind));
      const want = expected[`${name}.${kind}.${text}`]!;
      expect(table!.shape).toEqual(want.shape);
      expectValuesClose(text, table!.data, want.data, exactly);
    }
  });

  it("goes on as if it had read the text, when there is a token for each of its own", async () => {
    const model = await base(name);
    const [text, rest] = [tokens("one"), Array.from(data("rest"))];
    const whole = numbers(model.forward({ inputIds: ids(...text, ...rest) }).logits);
    attach(model, cartridge({ numVirtualTokens: text.length }));
    model.train();
    initializeKvPrefixFromTokens(model, text);
    expect(model.training).toBe(true);
    model.eval();
    const after = numbers(model.forward({ inputIds: ids(...rest) }).logits);
    expectValuesClose("logits", after, whole.slice(-after.length), { rtol: 1e-4, atol: 1e-4 });
  });

  it("puts two together as PEFT does", async () => {
    for (const text of ["one", "two"]) {
      const model = await base(name);
      attach(model, cartridge({ numVirtualTokens: 4, numFrozenTokens: text === "one" ? 2 : 1, taskType }));
      initializeKvPrefixFromTokens(model, tokens(text));
      await saveAdapter(model, join(folder, name, text));
    }
    const both = join(folder, name, "both");
    expect(await composeCartridges([join(folder, name, "one"), join(folder, name, "two")], both)).toBe(both);
    const config = JSON.parse(readFileSync(join(both, "adapter_config.json"), "utf8"));
    expect(config).toMatchObject({ num_virtual_tokens: 8, num_frozen_tokens: 2, peft_type: "CARTRIDGE" });
    expectValuesClose("table", (await readSourceTasks(both))["prompt_embeddings"]!.data, data(`${name}.both`), exactly);
    const model = await base(name);
    await loadAdapter(model, both, { trainable: true });
    expect(model.trainableParameters().map(({ shape }) => shape[0])).toEqual([6]);
    const got = numbers(model.forward({ inputIds: ids(...Array.from(data("rest"))) }).logits);
    expectValuesClose("logits", got, data(`${name}.both.logits`), { rtol: 1e-4, atol: 1e-4 });
  });
});

it("reads a text as what the system says, unless told otherwise", async () => {
  const seen: [string, object?][] = [];
  const tokenizer = {
    encode(text: string, options?: object) {
      seen.push(options ? [text, options] : [text]);
      return Int32Array.from([...text], (letter) => letter.charCodeAt(0) % 40);
    },
    chatTemplate: "any",
    applyChatTemplate: ([message]: readonly { role: string; content: string }[]) => `<${message!.role}>${message!.content}`,
  };
  const model = await base("llama");
  attach(model, cartridge({ numVirtualTokens: 2 }));
  initializeKvPrefixFromText(model, tokenizer, "birds");
  initializeKvPrefixFromText(model, tokenizer, "birds", { useChatTemplate: false });
  initializeKvPrefixFromText(model, { encode: tokenizer.encode }, "plain");
  expect(seen).toEqual([["<system>birds", { addSpecialTokens: false }], ["birds"], ["plain"]]);
});

it.each([
  [() => promptTuning({ numVirtualTokens: 2 }), [1, 2, 3], "(prompt_tuning) is not a table of keys and values"],
  [() => lora({ r: 1, targetModules: ["q_proj"] }), [1, 2, 3], "(lora) is not a table"],
  [() => prefixTuning({ numVirtualTokens: 2, prefixProjection: true }), [1, 2, 3], "is not a table"],
  [() => cartridge({ numVirtualTokens: 4 }), [1, 2, 3], "the text has 3 tokens, the adapter 4 virtual ones"],
  [() => cartridge({ numVirtualTokens: 2 }), [1, 999, 3], "the model has no token 999"],
  [() => cartridge({ numVirtualTokens: 2, numTransformerSubmodules: 2 }), [1, 2, 3], "not in the order of the layers"],
])("refuses what cannot begin so, and changes nothing: %#", async (config, text, message) => {
  const model = await base("llama");
  attach(model, config() as ReturnType<typeof cartridge>);
  const values = () => [...model.namedParameters()].map(([, { stored }]) => numbers(stored));
  const before = values();
  expect(() => initializeKvPrefixFromTokens(model, text)).toThrow(message);
  expect(values()).toEqual(before);
});

it("puts nothing together that is not for one model", async () => {
  const save = async (name: string, config: Parameters<typeof attach>[1], of = "llama") => {
    const model = await base(of);
    attach(model, config);
    return saveAdapter(model, join(folder, "odd", name));
  };
  const one = await save("one", cartridge({ numVirtualTokens: 2 }));
  const other = await save("other", cartridge({ numVirtualTokens: 2 }), "gpt2");
  const prefix = await save("prefix", prefixTuning({ numVirtualTokens: 2 }));
  await expect(composeCartridges([one], join(folder, "none"))).rejects.toThrow("two cartridges or more");
  await expect(composeCartridges([one, other], join(folder, "none"))).rejects.toThrow("cartridge 2 has `token_dim`");
  await expect(composeCartridges([one, prefix], join(folder, "none"))).rejects.toThrow("PREFIX_TUNING");
  expect(() => readFileSync(join(folder, "none/adapter_config.json"))).toThrow("ENOENT");
});
