/** A method that is defined outside of the package, with what the package exports, and what its laws catch. */
import { expect, it } from "vitest";
import { memoryFolder } from "../../src/formats/index.ts";
import { type Tensor, tensor } from "../../src/index.ts";
import { Linear, Module } from "../../src/nn/index.ts";
import {
  attach,
  checkMethod,
  configSchema,
  defineMethod,
  key,
  kind,
  type LayerMethod,
  linearChange,
  loadAdapter,
  lora,
  methods,
  registerMethod,
  saveAdapter,
  targetKeys,
  times,
  type WeightChange,
} from "../../src/peft/index.ts";

const schema = configSchema("ROW_SCALE", "row_scale_", { ...targetKeys, init_scale: key(0, kind.float()) });
type Config = ReturnType<ReturnType<typeof method>>["config"];

/** W + g ⊙ W, with a number g for each output. */
const change: WeightChange<{ readonly initScale: number }, "g"> = {
  files: { g: "row_scale_g" },
  parameters: (base) => ({ g: { shape: [base.out, 1] } }),
  initialise: (base, { initScale }) => ({ values: { g: new Float32Array(base.out).fill(initScale) } }),
  delta: (base, { g }, _, scale) => times(base.weight.mul(g), scale),
};

const method = (linear: LayerMethod<{ readonly initScale: number }, "g"> = linearChange(change)) =>
  defineMethod({
    schema,
    papers: ["https://arxiv.org/abs/2205.05638"],
    formula: "W + g ⊙ W",
    startsAtZero: ({ initScale }) => initScale === 0,
    layers: { linear },
    samples: (draw) => ({ initScale: draw.integer(0, 1) }),
  });

class Net extends Module {
  readonly layer = new Linear(3, 2);
  forward(x: Tensor): Tensor {
    return this.layer.forward(x);
  }
}

it("obeys the laws, which are counted", async () => {
  const tried = await checkMethod(method(), { cases: 6 });
  expect(Object.keys(tried).sort()).toEqual(
    ["attach detach", "disabled", "merge equivalence", "save load", "unmerge is inverse", "zero start"].map(
      (law) => `${law} on linear`,
    ),
  );
  expect(tried["save load on linear"]).toBe(6);
});

/** Methods that are no change of single layers of these kinds. */
const elsewhere = Object.values(methods).filter(
  ({ layers }) => !Object.keys(layers).some((each) => /linear|embedding|conv/.test(each)),
);

it.each(Object.entries(methods))("holds for %s", async (_, known) => {
  const trying = checkMethod(known, { cases: 1 });
  if (elsewhere.includes(known))
    await expect(trying).rejects.toThrow("there is no kind of layer on which this method could be tried");
  else expect((await trying)["save load on linear"]).toBe(1);
});

it.each<[string, Partial<LayerMethod<Config, "g">>, string]>([
  [
    "a change without its scale of two",
    { delta: (base, { g }) => base.weight.mul(g).mul(2) },
    '"merge equivalence" does not hold on linear',
  ],
  [
    "a start that is not zero",
    { initialise: (base) => ({ values: { g: new Float32Array(base.out).fill(0.1) } }) },
    '"zero start" does not hold on linear',
  ],
  [
    "a parameter without a gradient",
    { forward: (x, base, { g }) => base(x).add(x.matmul(base.weight.mul(g.detach()).transpose())) },
    "every gradient is zero",
  ],
  [
    "a file without what was trained",
    {
      parameters: (base) => ({ g: { shape: [base.out, 1], derived: true } }),
      derive: (base) => ({ g: new Float32Array(base.out) }),
    },
    '"save load" does not hold on linear',
  ],
])("catches %s", async (_, wrong, told) => {
  const broken = method({ ...linearChange(change), ...wrong } as never);
  await expect(checkMethod(broken, { cases: 6 })).rejects.toThrow(told);
});

it("refuses to try nothing", async () => {
  await expect(checkMethod(method(), { cases: 0 })).rejects.toThrow("`cases` (= 0) must be a whole number from 1");
});

it("is loaded from its files where it is registered, and a type is one method's", async () => {
  const rowScale = method();
  const [net, folder] = [new Net(), memoryFolder()];
  const x = tensor([[1, 2, 3]]);
  attach(net, rowScale({ initScale: 0.5, targetModules: ["layer"] }));
  await saveAdapter(net, folder);
  const copy = new Net();
  copy.loadStateDict(
    new Map([
      ["layer.weight", net.layer.stateDict().get("base_layer.weight") ?? net.stateDict().get("layer.base_layer.weight")!],
      ["layer.bias", net.stateDict().get("layer.base_layer.bias")!],
    ]),
  );
  await expect(loadAdapter(copy, folder)).rejects.toThrow("unknown `peft_type`");
  const forget = registerMethod(rowScale);
  await checkMethod(rowScale, { cases: 1 }); // which registers it, too, for as long as it tries
  registerMethod(rowScale)();
  await loadAdapter(copy, folder);
  expect(copy.forward(x).toArray()).toEqual(net.forward(x).toArray());
  expect(() => registerMethod(defineMethod({ ...rowScale, schema: configSchema("ROW_SCALE", "other_", {}) } as never))).toThrow(
    "another method already reads files of the type ROW_SCALE",
  );
  expect(() => registerMethod(defineMethod({ ...rowScale } as never))).toThrow(
    "another method already reads files of the type ROW_SCALE",
  );
  expect(() => registerMethod(defineMethod({ ...lora } as never))).toThrow("already reads files of the type");
  expect(() => registerMethod(rowScale({}) as never)).toThrow("not one of defineMethod");
  forget();
  forget();
  await expect(loadAdapter(new Net(), folder)).rejects.toThrow("unknown `peft_type`");
});
