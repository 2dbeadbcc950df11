/** Methods whose layers are made of something that they share: which layer has which part of it. */
import { describe, expect, it } from "vitest";
import "../../src/devices/choose.ts";
import { downloadSync } from "../../src/compile/program.ts";
import { attach, tinylora, unilora } from "../../src/peft/index.ts";
import { layerAdapters } from "../arbitrary/adapter.ts";
import { SmallModel } from "./small-model.ts";

const linears = ["layers.0.self_attn.q_proj", "layers.1.self_attn.q_proj", "v_proj"];
const targetModules = [...linears, "embed_tokens"];

describe("TinyLoRA", () => {
  // five layers: Python rounds 2.5 to 2, and the last group has what is left over
  it.each([
    [0, [0, 1, 2, 3, 4]],
    [0.5, [0, 0, 1, 1, 1]],
    [1, [0, 0, 0, 0, 0]],
  ])("shares vectors with `weightTying` %d as PEFT does", (weightTying, groups) => {
    const model = new SmallModel();
    const adapter = attach(model, tinylora({ u: 3, weightTying, targetModules }));
    expect(layerAdapters(adapter).map(({ config }) => config["group"])).toEqual(groups);
    expect(Object.keys(adapter.shared)).toEqual([...new Set(groups)].map((group) => `v.${group}`));
    expect(model.trainableParameters()).toHaveLength(new Set(groups).size);
  });

  it("takes the rank that the layer has", () => {
    const adapter = attach(new SmallModel(), tinylora({ r: 100, u: 3, targetModules }));
    expect(layerAdapters(adapter).every(({ parameters }) => parameters["A"]!.shape[0] === 6)).toBe(true);
  });
});

describe("Uni-LoRA", () => {
  it("uses every number of the vector equally often, or once more", () => {
    const model = new SmallModel();
    const adapter = attach(model, unilora({ r: 2, thetaDLength: 7, targetModules: linears }));
    const places = layerAdapters(adapter).flatMap(({ parameters }) =>
      ["placesOfA", "placesOfB"].flatMap((key) => Array.from(downloadSync(parameters[key]!.stored) as Int32Array)),
    );
    const uses = Array.from({ length: 7 }, (_, i) => places.filter((place) => place === i).length);
    expect(Math.max(...uses) - Math.min(...uses)).toBeLessThanOrEqual(1);
    expect(model.trainableParameters()).toHaveLength(1);
  });
});
