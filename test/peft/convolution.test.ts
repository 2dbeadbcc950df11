/** Adapters on convolutions: against PEFT where the golden cases have none (gen_convolution.py), and what is refused. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { currentDevice, upload, useDevice } from "../../src/compile/program.ts";
import { createReference } from "../../src/devices/reference/device.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { Conv1d, Conv2d, Conv3d, type ConvolutionLayerOptions } from "../../src/nn/convolution.ts";
import { zeros } from "../../src/nn/init.ts";
import { attach, boft, dora, hira, hra, lora, merge, methods, oft } from "../../src/peft/index.ts";
import { type AnyMethod, fileOf } from "../../src/peft/method.ts";
import { toCamel } from "../../src/peft/method-config.ts";
import { Holder } from "../arbitrary/adapter.ts";
import { numbers } from "./small-model.ts";

beforeAll(() => void useDevice(createReference()));

type Values = { readonly shape: readonly number[]; readonly data: readonly number[] };
const given = ({ shape, data }: Values): Tensor => upload(currentDevice(), Float32Array.from(data), shape, "float32");
const expectClose = (got: Tensor, want: Values) => {
  expect(got.shape).toEqual(want.shape);
  for (const [i, value] of numbers(got).entries()) expect(value).toBeCloseTo(want.data[i]!, 4);
};

interface Reference {
  readonly layer: "Conv1d" | "Conv2d" | "Conv3d";
  readonly arguments: Readonly<Record<string, never>>;
  readonly base: Readonly<Record<string, Values>>;
  readonly class: string;
  readonly config: Readonly<Record<string, unknown>>;
  readonly tensors: Readonly<Record<string, Values>>;
  readonly x: Values;
  readonly y: Values;
  /** Of the layer's weight; or why PEFT does not merge. */
  readonly merged: Values | string;
}
const references: Readonly<Record<string, Reference>> = JSON.parse(
  readFileSync(join(import.meta.dirname, "../fixtures/convolution/adapters.json"), "utf8"),
);

describe("computes what PEFT does", () => {
  it.each(Object.entries(references))("%s", (_, item) => {
    const options = toCamel(item.arguments) as Record<string, never>;
    const { inChannels, outChannels, kernelSize, ...rest } = options;
    const layer = new { Conv1d, Conv2d, Conv3d }[item.layer](inChannels!, outChannels!, kernelSize!, rest);
    for (const [name, parameter] of layer.ownParameters()) parameter.assign(given(item.base[name]!));
    const model = new Holder(layer);
    const name = item.class.replace("Config", "").toLowerCase();
    const method: AnyMethod = item.config["use_dora"] ? dora : methods[name as keyof typeof methods];
    const adapter = attach(model, method({ ...toCamel(item.config), targetModules: ["layer"] } as never));
    const [own] = [...adapter.layers.values()].map((each) => each.adapters.get("default")!);
    const left = new Set(Object.keys(item.tensors));
    for (const [key, parameter] of Object.entries(own!.parameters)) {
      const file = fileOf(own!.method.files, key);
      expect(left.delete(file), file).toBe(true);
      expect(parameter.shape).toEqual(item.tensors[file]!.shape);
      parameter.assign(given(item.tensors[file]!));
    }
    expect([...left]).toEqual([]);
    expectClose(model.forward(given(item.x)), item.y);
    if (typeof item.merged === "string") {
      const before = numbers(layer.weight.stored);
      expect(() => merge(model)).toThrow(/groups/);
      expect(numbers(layer.weight.stored)).toEqual(before);
    } else {
      merge(model);
      expectClose(layer.weight.stored, item.merged);
    }
  });
});

const on = (options: ConvolutionLayerOptions) => new Holder(new Conv2d(4, 6, 2, { ...options, init: zeros }));

describe("refuses", () => {
  const target = { targetModules: ["layer"] };
  it.each([
    [{ groups: 2 }, lora({ r: 3, ...target }), "layer is a convolution in 2 groups, which `r` (= 3) is not a multiple of"],
    [{ groups: 2 }, dora({ r: 2, ...target }), "layer is a convolution in 2 groups, which DoRA cannot adapt"],
    [{ groups: 2 }, hira({ r: 2, ...target }), "layer is a convolution in 2 groups, which HiRA cannot adapt"],
    [{ groups: 2 }, hra({ r: 2, ...target }), "layer is a convolution in 2 groups, which HRA cannot adapt"],
    [{ groups: 2 }, boft({ boftBlockSize: 2, ...target }), "layer is a convolution in 2 groups, which BOFT cannot adapt"],
    [{ dilation: [1, 2] }, lora({ r: 2, ...target }), "layer is a dilated convolution, which LoRA cannot adapt"],
    [{ dilation: 2 }, oft({ oftBlockSize: 2, ...target }), "layer is a dilated convolution, which OFT cannot adapt"],
    [{ dilation: 2 }, hra({ r: 2, ...target }), "layer is a dilated convolution, which HRA cannot adapt"],
  ])("%j", (options, adapter, message) => {
    const model = on(options);
    expect(() => attach(model, adapter as never)).toThrow(`attach: ${message}`);
    expect(model.layer).toBeInstanceOf(Conv2d);
  });

  it("methods for convolutions over other axes", () => {
    const model = new Holder(new Conv3d(2, 2, 1));
    expect(() => attach(model, hra({ r: 2, ...target }))).toThrow(
      "attach: layer is a Conv3d, which this method cannot adapt; it adapts: linear, conv2d.",
    );
  });

  it("kernels and groups that do not fit", () => {
    expect(() => new Conv2d(4, 6, [2])).toThrow("Conv2d: `kernelSize` (= [2]) must be a number, or 2 of them.");
    expect(() => new Conv1d(4, 6, 2, { groups: 4 })).toThrow(
      "Conv1d: `groups` (= 4) must divide the channels, 4 that go in and 6 that come out.",
    );
  });
});
