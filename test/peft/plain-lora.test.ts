import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { beforeEach, expect, test } from "vitest";
import { currentDevice, downloadSync, upload, useDevice } from "../../src/compile/program.ts";
import { createReference } from "../../src/devices/reference/device.ts";
import { matrix } from "../../src/linalg/matrix.ts";
import { type AdapterConfig, attach, dora, ia3, loadAdapter, lora, saveAdapter } from "../../src/peft/index.ts";
import type { LoraConfig } from "../../src/peft/methods/lora.ts";
import { temporaryFolder } from "../temporary-folder.ts";
import { SmallModel } from "./small-model.ts";

useDevice(createReference());
const ids = upload(currentDevice(), Int32Array.from([1, 2, 3]), [1, 3], "int32");

let folder: string;
beforeEach(() => void (folder = temporaryFolder()));

test("ranks and alphas of single layers are doubled, too, with rsLoRA so that the scale stays", async () => {
  const model = new SmallModel();
  const options = { r: 2, loraAlpha: 3, rankPattern: { q_proj: 1 }, alphaPattern: { v_proj: 5 }, useRslora: true };
  const adapter = attach(model, lora({ ...options, initLoraWeights: "pissa", targetModules: ["q_proj", "v_proj"] }));
  for (const layer of adapter.layers.values())
    for (const parameter of Object.values(layer.adapters.get("default")!.parameters))
      parameter.replace(
        upload(
          currentDevice(),
          (downloadSync(parameter.stored) as Float32Array).map((value, i) => value + Math.sin(i)),
          parameter.shape,
          "float32",
        ),
      );
  await saveAdapter(model, folder, { plainLora: true });
  const fresh = new SmallModel();
  const { config } = await loadAdapter(fresh, folder);
  const { r, loraAlpha, rankPattern, alphaPattern, initLoraWeights } = config as LoraConfig;
  expect([r, rankPattern, initLoraWeights]).toEqual([4, { q_proj: 2 }, true]);
  expect(loraAlpha).toBeCloseTo(3 * Math.SQRT2, 12);
  expect(alphaPattern["v_proj"]).toBeCloseTo(5 * Math.SQRT2, 12);
  const [live, loaded] = [downloadSync(model.forward(ids)), downloadSync(fresh.forward(ids))];
  live.forEach((value, i) => {
    expect(loaded[i]!).toBeCloseTo(value, 4);
  });
});

test("LoRA that took nothing is plain already; DoRA and other methods are refused", async () => {
  const save = (config: AdapterConfig) => {
    const model = new SmallModel();
    attach(model, config);
    return saveAdapter(model, folder, { plainLora: true });
  };
  await save(lora({ r: 2, initLoraWeights: "orthogonal", targetModules: ["q_proj"] }) as AdapterConfig);
  const written = JSON.parse(await readFile(join(folder, "adapter_config.json"), "utf8"));
  expect([written.r, written.init_lora_weights]).toEqual([2, true]);
  const refused = 'saveAdapter: the adapter "default" is not LoRA, which `plainLora` makes plain.';
  await expect(save(dora({ r: 2, targetModules: ["q_proj"] }) as AdapterConfig)).rejects.toThrow(refused);
  await expect(save(ia3({ targetModules: ["q_proj"], feedforwardModules: [] }) as AdapterConfig)).rejects.toThrow(refused);
});

test("a file whose start depended on data says that the base must be the one that was left", async () => {
  const model = new SmallModel();
  const config = lora({ r: 2, initLoraWeights: "corda", targetModules: ["layers.0.self_attn.o_proj"] });
  const C = matrix(7, 7);
  for (let i = 0; i < 7; i++) C.values[i * 8] = i + 1;
  attach(model, { ...config, calibration: new Map([["model.layers.0.self_attn.o_proj", C]]) });
  await saveAdapter(model, folder);
  const written = JSON.parse(await readFile(join(folder, "adapter_config.json"), "utf8"));
  expect(written.corda_config).toEqual({
    cache_file: null,
    corda_method: "ipm",
    covariance_file: null,
    prune_temporary_fields: true,
    use_float16_for_covariance: false,
    verbose: false,
  });
  const { warnings } = await loadAdapter(new SmallModel(), folder);
  expect(warnings.join()).toContain('the start "corda" has changed the base model\'s weights');
});

test("starts say which layers they are nothing for", () => {
  const start =
    (initLoraWeights: string, options: Partial<LoraConfig> = {}) =>
    () =>
      attach(new SmallModel(), lora({ r: 2, targetModules: ["q_proj"], ...options, initLoraWeights }));
  expect(start("pissa", { r: 7 })).toThrow(
    'attach: `r` (= 7) is too much for model.layers.0.self_attn.q_proj: "pissa" needs 7 directions of [7, 6]. Use at most 6',
  );
  expect(start("olora", { targetModules: ["embed_tokens"] })).toThrow(
    '`initLoraWeights` (= "olora") is nothing for model.embed_tokens',
  );
  expect(start("orthogonal", { r: 3 })).toThrow('attach: `r` (= 3) must be even for `initLoraWeights` "orthogonal".');
  expect(start("pissa", { loraAlpha: 0 })).toThrow('`loraAlpha` must be positive for `initLoraWeights` "pissa"');
  expect(start("pissa_niter_x")).toThrow("is not one of");
});

test("MiCA fixes B, and starts embeddings, too", () => {
  const model = new SmallModel();
  const adapter = attach(model, lora({ r: 2, targetModules: ["q_proj", "embed_tokens"], initLoraWeights: "mica" }));
  for (const layer of adapter.layers.values()) {
    const { parameters } = layer.adapters.get("default")!;
    expect(["A", "B"].map((key) => parameters[key]!.requiresGrad)).toEqual([true, false]);
  }
});
