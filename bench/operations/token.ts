/** What does a token's product cost, by how the weight is stored: in 32, 16, 8 or 4 bits? */
import { currentDevice, upload } from "../../src/compile/program.ts";
import { type DType, toBFloat16Bits, toFloat16Bits } from "../../src/graph/dtype.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { linear } from "../../src/nn/linear.ts";
import { QuantisedLinear } from "../../src/nn/quantised-linear.ts";
import { quantiseWeight } from "../../src/nn/quantiser.ts";
import type { Case } from "./case.ts";

const [out, into] = [1536, 576];
const values = () => Float32Array.from({ length: out * into }, (_, i) => ((i * 7919) % 1000) / 1000 - 0.5);

/** The weight is made with the first product: it is none of what is measured. */
const token = (stored: string, weight: () => (x: Tensor) => Tensor): Case => {
  let product: ((x: Tensor) => Tensor) | undefined;
  return {
    name: `one token, ${stored} [1, ${into}]`,
    shapes: [[1, into]],
    run: (x) => {
      product ??= weight();
      return product(x!);
    },
  };
};
const floats = (dtype: DType, bits: (value: number) => number) =>
  token(dtype, () => {
    const stored = dtype === "float32" ? values() : Uint16Array.from(values(), bits);
    const weight = upload(currentDevice(), stored, [out, into], dtype);
    return (x) => linear(x, weight);
  });
const codes = (type: "int8" | "nf4") =>
  token(type, () => {
    const options = { type, blockSize: type === "int8" ? into : 64, doubleQuantise: false };
    const layer = new QuantisedLinear(quantiseWeight(values(), [out, into], options));
    return (x) => layer.forward(x);
  });

export const cases: readonly Case[] = [
  floats("float32", (value) => value),
  floats("bfloat16", toBFloat16Bits),
  floats("float16", toFloat16Bits),
  codes("int8"),
  codes("nf4"),
];
