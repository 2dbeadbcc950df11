/** Adapters of parameters, against PEFT (experts/make.py), and what is refused. */
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { currentDevice, upload } from "../../src/compile/program.ts";
import { compile } from "../../src/compile/trace.ts";
import { readSafetensors } from "../../src/formats/safetensors.ts";
import { matmul } from "../../src/graph/contraction.ts";
import { mul, tanh } from "../../src/graph/elementwise.ts";
import { reshape, transpose } from "../../src/graph/movement.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { Linear } from "../../src/nn/linear.ts";
import { Module, Parameter } from "../../src/nn/module.ts";
import { gradientsOf } from "../../src/optim/optimizer.ts";
import {
  adapterNames,
  attach,
  deleteAdapter,
  detach,
  disabled,
  loadAdapter,
  lora,
  merge,
  saveAdapter,
  setActive,
  unmerge,
} from "../../src/peft/index.ts";
import { softmax, sum } from "../../src/tensor/statistics.ts";
import { onEveryDevice } from "../devices.ts";
import { temporaryFolder } from "../temporary-folder.ts";
import { numbers, SmallModel } from "./small-model.ts";

type Sizes = { readonly isTransposed?: boolean };

class Experts extends Module {
  readonly gate_up_proj: Parameter;
  readonly down_proj: Parameter;
  readonly isTransposed: boolean;
  constructor({ isTransposed = false }: Sizes) {
    super();
    this.isTransposed = isTransposed;
    const zeros = (out: number, into: number) =>
      Parameter.from(new Float32Array(3 * out * into), isTransposed ? [3, into, out] : [3, out, into]);
    this.gate_up_proj = zeros(5, 6);
    this.down_proj = zeros(6, 5);
  }
  forward(x: Tensor, weights: Tensor): Tensor {
    const through = (y: Tensor, W: Tensor) => matmul(y, this.isTransposed ? W : transpose(W));
    const y = through(tanh(through(reshape(x, [1, ...x.shape]), this.gate_up_proj.value)), this.down_proj.value);
    return sum(mul(y, reshape(transpose(weights), [3, x.shape[0]!, 1])), 0);
  }
}

class Mixture extends Module {
  readonly router = new Linear(6, 3, { bias: false });
  readonly experts: Experts;
  constructor(sizes: Sizes) {
    super();
    this.experts = new Experts(sizes);
  }
  forward(x: Tensor): Tensor {
    return this.experts.forward(x, softmax(this.router.forward(x)));
  }
}

class Model extends Module {
  readonly mlp: Mixture;
  constructor(sizes: Sizes = {}) {
    super();
    this.mlp = new Mixture(sizes);
  }
  forward(x: Tensor): Tensor {
    return this.mlp.forward(x);
  }
}

const made = (name: string) => join(import.meta.dirname, "experts", name);
async function valuesOf(name: string): Promise<Map<string, Tensor>> {
  const { tensors } = await readSafetensors(join(made(name), "expected.safetensors"));
  const read = [...tensors].map(async ([key, tensor]) => {
    return [key, upload(currentDevice(), (await tensor.load()) as Float32Array, tensor.shape, "float32")] as const;
  });
  return new Map(await Promise.all(read));
}
async function base(name: string) {
  const expected = await valuesOf(name);
  const model = new Model({ isTransposed: name === "transposed" });
  const own = [...expected].flatMap(([key, value]) =>
    key.startsWith("base.") ? [[key.slice("base.".length), value] as const] : [],
  );
  model.loadStateDict(new Map(own));
  return { model, expected, x: expected.get("x")! };
}
function expectClose(what: string, got: Tensor, want: Tensor | undefined): void {
  expect(got.shape, what).toEqual(want?.shape);
  const wanted = numbers(want!);
  for (const [i, value] of numbers(got).entries())
    expect(Math.abs(value - wanted[i]!), what).toBeLessThan(1e-4 * (1 + Math.abs(wanted[i]!)));
}

onEveryDevice(() => {
  describe.each(["plain", "transposed"])("experts, %s", (name) => {
    it("have PEFT's adapters, with its gradients, disabled, merged and taken off", async () => {
      const { model, expected, x } = await base(name);
      const { layers, warnings } = await loadAdapter(model, made(name), { trainable: true });
      expect(warnings).toEqual([]);
      expect([...layers.keys()]).toEqual(["mlp.experts.base_layer", "mlp.experts"]);
      const y = model.forward(x);
      expectClose("y", y, expected.get("y"));
      expectClose("compiled", compile(() => model.forward(x))(), expected.get("y"));
      expectClose(
        "disabled",
        disabled(model, () => model.forward(x)),
        expected.get("y.disabled"),
      );
      const parameters = new Map(
        [...model.namedParameters()].map(([path, parameter]) => [path.replace(".default", ""), parameter]),
      );
      const trained = [...parameters].filter(([, { requiresGrad }]) => requiresGrad);
      expect(trained.length).toBe(4);
      const gradients = gradientsOf(
        sum(mul(y, y)),
        trained.map(([, parameter]) => parameter),
      );
      for (const [path, parameter] of trained)
        expectClose(path, gradients.get(parameter)!, expected.get(`grad.base_model.model.${path}`));
      const { experts } = { experts: model.mlp.experts } as never as { experts: { base_layer: { base_layer: Experts } } };
      const raw = experts.base_layer.base_layer;
      const before = [raw.gate_up_proj.stored, raw.down_proj.stored];
      merge(model);
      expectClose("merged", model.forward(x), expected.get("y.merged"));
      expectClose("gate_up_proj", raw.gate_up_proj.stored, expected.get("merged.mlp.experts.gate_up_proj"));
      expectClose("down_proj", raw.down_proj.stored, expected.get("merged.mlp.experts.down_proj"));
      unmerge(model);
      detach(model);
      expect(model.mlp.experts).toBe(raw);
      expect([raw.gate_up_proj.stored.storage, raw.down_proj.stored.storage]).toEqual(before.map(({ storage }) => storage));
    });

    it("write PEFT's files, and have several adapters at once", async () => {
      const { model, expected, x } = await base(name);
      await loadAdapter(model, made(name), { trainable: true });
      await loadAdapter(model, made(name), { name: "twin" });
      const folder = temporaryFolder();
      await saveAdapter(model, folder);
      const shapes = async (at: string) => {
        const { tensors } = await readSafetensors(join(at, "adapter_model.safetensors"));
        return Object.fromEntries([...tensors].sort(([a], [b]) => (a < b ? -1 : 1)).map(([key, { shape }]) => [key, shape]));
      };
      expect(await shapes(folder)).toEqual(await shapes(made(name)));
      setActive(model, ["default", "twin"]);
      const both = numbers(model.forward(x));
      merge(model);
      for (const [i, value] of numbers(model.forward(x)).entries()) expect(value).toBeCloseTo(both[i]!, 4);
      unmerge(model);
      deleteAdapter(model, "default");
      setActive(model, "twin");
      expectClose("twin", model.forward(x), expected.get("y"));
      deleteAdapter(model, "twin");
      expect(model.mlp.experts).toBeInstanceOf(Experts);
    });
  });

  describe("targetParameters", () => {
    const options = { r: 2, targetModules: [] };
    const small = (own: object, model: Module = new SmallModel()) => attach(model, lora({ ...options, ...own }));

    it("go along with targets, and find their defaults", () => {
      const { layers } = small({ targetModules: null, targetParameters: ["o_proj.weight"] });
      expect([...layers.keys()].map((path) => path.replace(/^.*\.(\d)/, "$1"))).toEqual([
        ...["0.self_attn.q_proj", "0.self_attn.v_proj", "1.self_attn.q_proj", "1.self_attn.v_proj"],
        ...["0.self_attn.o_proj", "1.self_attn.o_proj"],
      ]);
    });

    it.each([
      [
        { targetParameters: ["q_proj.wieght"] },
        'no parameter is called "q_proj.wieght" of targetParameters. Did you mean "q_proj.weight"?',
      ],
      [{ targetParameters: ["v_proj.bias"] }, "v_proj.bias is [7]; `targetParameters` adapts matrices"],
      [{ targetParameters: ["q_proj.weight"], targetModules: ["q_proj"] }, "q_proj is a target itself"],
      [{ targetParameters: ["q_proj.weight"], modulesToSave: ["q_proj"] }, "is trained as a whole already"],
      [{ targetParameters: ["q_proj.weight"], loraDropout: 0.1 }, "`targetParameters` does not go with `loraDropout`"],
      [{ targetParameters: ["q_proj.weight"], loraBias: true }, "`targetParameters` does not go with `loraBias`"],
      [{ targetParameters: [] }, "no module matches"],
      [{ targetParameters: "q_proj.weight" }, "must be a list of strings"],
    ])("are refused with %j", (own, problem) => {
      expect(() => small(own)).toThrow(problem);
    });

    it("must be the same in all adapters of a model, and no other adapter's targets", () => {
      const model = new SmallModel();
      small({ targetParameters: ["q_proj.weight"] }, model);
      const second = (own: object) => () => attach(model, lora({ ...options, ...own }), { name: "second" });
      expect(second({ targetParameters: ["v_proj.weight"] })).toThrow(
        'the adapter "default" adapts other parameters: q_proj.weight.',
      );
      expect(second({ targetModules: ["q_proj"] })).toThrow("q_proj is a target itself");
      second({ targetModules: ["v_proj"] })();
      expect(adapterNames(model)).toEqual(["default", "second"]);
    });

    it("cannot be a parameter of the model itself", () => {
      const model = Object.assign(new SmallModel(), { table: Parameter.from(new Float32Array(4), [2, 2]) });
      expect(() => small({ targetParameters: ["table"] }, model)).toThrow("table is a parameter of the model itself");
    });
  });
});
