import { beforeAll, describe, expect, it } from "vitest";
import { useDevice } from "../../src/compile/program.ts";
import { createReference } from "../../src/devices/reference/device.ts";
import { Linear } from "../../src/nn/linear.ts";
import { attach, detach, lora } from "../../src/peft/index.ts";
import { SmallModel } from "./small-model.ts";

beforeAll(() => void useDevice(createReference()));

type Options = NonNullable<Parameters<typeof lora>[0]>;

/** The layers that a config adapts in two blocks, without the common parts of their paths. */
function adapted(options: Options, layers = 2): string[] {
  const model = new SmallModel({ layers });
  const adapter = attach(model, lora(options));
  const paths = [...adapter.layers.keys()].map((path) =>
    path.replace(/^model\.(layers\.)?|self_attn\.|_proj$/g, "").replace("self_attn.", ""),
  );
  detach(model);
  return paths;
}

describe("targets", () => {
  it.each<[string, Options, string[]]>([
    ["a list of endings", { targetModules: ["q_proj", "embed_tokens"] }, ["embed_tokens", "0.q", "1.q"]],
    ["a longer ending", { targetModules: ["0.self_attn.q_proj"] }, ["0.q"]],
    ["an ending that starts inside of a name", { targetModules: ["q_proj", "proj"] }, ["0.q", "1.q"]],
    ["the default of the model's type", {}, ["0.q", "0.v", "1.q", "1.v"]],
    ["all linear layers but the output", { targetModules: "all-linear" }, ["0.q", "0.v", "0.o", "1.q", "1.v", "1.o"]],
    [
      "all linear layers, whatever the case",
      { targetModules: "All-Linear", excludeModules: ["o_proj", "v_proj"] },
      ["0.q", "1.q"],
    ],
    ["a pattern that matches whole paths", { targetModules: String.raw`.*\.1\..*_proj` }, ["1.q", "1.v", "1.o"]],
    ["an excluding pattern", { targetModules: ["q_proj", "v_proj"], excludeModules: String.raw`.*layers\.0.*` }, ["1.q", "1.v"]],
    ["an excluding list", { targetModules: ["q_proj"], excludeModules: ["1.self_attn.q_proj"] }, ["0.q"]],
    ["one layer", { targetModules: ["q_proj"], layersToTransform: 1 }, ["1.q"]],
    [
      "layers by number, with the name of their list",
      { targetModules: ["q_proj"], layersToTransform: [0, 7], layersPattern: "layers" },
      ["0.q"],
    ],
    ["no layers, which is no filter", { targetModules: ["q_proj"], layersToTransform: [] }, ["0.q", "1.q"]],
    ["a full path, whatever the layers", { targetModules: ["lm_head", "q_proj"], layersToTransform: [0] }, ["0.q", "lm_head"]],
  ])("are %s", (_, options, expected) => {
    expect(adapted(options)).toEqual(expected);
  });

  it("gives each layer the rank and alpha of the first pattern that names it", () => {
    const model = new SmallModel();
    const adapter = attach(
      model,
      lora({
        r: 2,
        loraAlpha: 4,
        targetModules: ["q_proj", "v_proj"],
        rankPattern: { "^model.layers.0.self_attn.q_proj": 1, q_proj: 3, proj: 9 },
        alphaPattern: { "layers.1.self_attn.v_proj": 5 },
      }),
    );
    const settings = [...adapter.layers.values()].map((layer) => {
      const { config, parameters } = layer.adapters.get("default")!;
      return [config["r"], config["loraAlpha"], parameters["A"]!.shape[0]];
    });
    expect(settings).toEqual([
      [1, 4, 1],
      [2, 4, 2],
      [3, 4, 3],
      [2, 5, 2],
    ]);
    expect(adapter.warnings).toEqual(['attach: no adapted module matches "proj" of rankPattern.']);
  });

  it("are saved by the shortest endings when there are many", () => {
    const model = new SmallModel({ layers: 8 });
    expect(attach(model, lora({ targetModules: "all-linear" })).config["targetModules"]).toEqual(["o_proj", "q_proj", "v_proj"]);
    const few = new SmallModel({ layers: 2 });
    expect(attach(few, lora({ targetModules: "all-linear" })).config["targetModules"]).toHaveLength(6);
  });

  it("says which items of a list match nothing", () => {
    const adapter = attach(new SmallModel(), lora({ targetModules: ["q_proj", "gate_proj"] }));
    expect(adapter.warnings).toEqual(['attach: no module matches "gate_proj" of targetModules.']);
  });

  it.each<[Options, string]>([
    [
      { targetModules: ["q_prj"] },
      'attach: no module matches targetModules ["q_prj"]; this model has: model.embed_tokens, self_attn.q_proj, self_attn.v_proj, self_attn.o_proj, lm_head. Did you mean "q_proj"?',
    ],
    [
      { targetModules: ["q_proj"], excludeModules: ["q_proj"] },
      'attach: every module that matches targetModules ["q_proj"] is taken out by `excludeModules`, `modulesToSave` or `layersToTransform`.',
    ],
    [
      { targetModules: ["q_proj"], layersToTransform: [5] },
      'attach: every module that matches targetModules ["q_proj"] is taken out by `excludeModules`, `modulesToSave` or `layersToTransform`.',
    ],
    [
      { targetModules: ["self_attn"] },
      "attach: model.layers.0.self_attn is a Attention, which this method cannot adapt; it adapts: linear, embedding, conv1d, conv2d, conv3d. Take it out with `excludeModules`.",
    ],
    [
      { targetModules: ["q_proj"], layersPattern: "layers" },
      'lora: `layersPattern` (= "layers") needs `layersToTransform`, the layers\' numbers.',
    ],
    [
      { targetModules: ".*q_proj", layersToTransform: [1] },
      "lora: `layersToTransform` goes with a list of targetModules, not with a string. Put the layers into the pattern.",
    ],
  ])("%j is refused", (options, message) => {
    expect(() => attach(new SmallModel(), lora(options))).toThrow(message);
  });

  it("are named modules: a single layer is refused with the way out", () => {
    expect(() => attach(new Linear(2, 2), lora({ targetModules: "all-linear" }))).toThrow(
      "attach: the model is a single layer, which has no name to be chosen by. Make it a property of a Module, and attach to that.",
    );
  });

  it("must be given for a model of unknown type, and the model is left as it was", () => {
    const model = Object.assign(new SmallModel(), { config: { modelType: "novel" } });
    const flags = model.parameters().map((parameter) => parameter.requiresGrad);
    expect(() => attach(model, lora())).toThrow(
      'attach: `targetModules` must be given: there is no default for model type "novel".',
    );
    expect(model.parameters().map((parameter) => parameter.requiresGrad)).toEqual(flags);
  });
});
