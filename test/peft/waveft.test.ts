/** WaveFT with other wavelets than the golden cases have, against PEFT (waveft.py). */
import { expect, it } from "vitest";
import "../../src/devices/choose.ts";
import { currentDevice, downloadSync, upload } from "../../src/compile/program.ts";
import { zeros } from "../../src/nn/init.ts";
import { Linear } from "../../src/nn/linear.ts";
import { attach, waveft } from "../../src/peft/index.ts";
import { Holder, layerAdapters } from "../arbitrary/adapter.ts";
import cases from "./waveft.json" with { type: "json" };

it.each(cases)("makes the patches of $family on a weight [$out, $in]", ({ family, in: into, out, spectrum, delta }) => {
  const model = new Holder(new Linear(into, out, { bias: false, init: zeros }));
  const options = { nFrequency: 6, scaling: 3, waveletFamily: family as "db1", randomLocSeed: out, targetModules: ["layer"] };
  const adapter = attach(model, waveft(options));
  layerAdapters(adapter)[0]!.parameters["spectrum"]!.assign(upload(currentDevice(), Float32Array.from(spectrum), [6], "float32"));
  const x = upload(
    currentDevice(),
    Float32Array.from({ length: into * into }, (_, i) => (i % (into + 1) === 0 ? 1 : 0)),
    [into, into],
    "float32",
  );
  const turned = downloadSync(model.forward(x));
  for (const [i, value] of delta.entries())
    expect(turned[(i % into) * out + Math.floor(i / into)] as number).toBeCloseTo(value, 4);
});

it("gives layers values by their sizes with `proportionalParameters`", () => {
  class Two extends Holder {
    readonly other = new Linear(2, 3, { init: zeros });
  }
  const model = new Two(new Linear(9, 8, { init: zeros }));
  const adapter = attach(model, waveft({ nFrequency: 4, proportionalParameters: true, targetModules: ["layer", "other"] }));
  // 8 values for sizes of 72 and 6: 7.38 and 0.62
  expect(layerAdapters(adapter).map(({ parameters }) => parameters["spectrum"]!.size)).toEqual([7, 1]);
});
