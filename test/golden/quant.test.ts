/**
 * The cases of `quant/`: code books, blockwise 4-bit and 8-bit codes, int8, halves and LoftQ, as bitsandbytes, PyTorch and PEFT compute
 * them. Codes are made by the quantisers; what they stand for is computed by the device.
 */
import { expect } from "vitest";
import { currentDevice, download, upload } from "../../src/compile/program.ts";
import { matmul } from "../../src/graph/contraction.ts";
import { dequantise } from "../../src/graph/dequantise.ts";
import { type DType, fromBFloat16Bits, fromFloat16Bits, type TypedArray } from "../../src/graph/dtype.ts";
import { add, cast, sub } from "../../src/graph/elementwise.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { constant } from "../../src/graph/source.ts";
import { Linear } from "../../src/nn/linear.ts";
import { group } from "../../src/nn/module.ts";
import {
  dequantiseAffine,
  dequantiseBlockwise,
  dequantiseInt8,
  dequantiseScales,
  dynamicMap,
  fp4,
  nestedBlock,
  nf4,
  packNibbles,
  quantiseAffine,
  quantiseBlockwise,
  quantiseInt8,
  quantiseScales,
  unpackNibbles,
} from "../../src/nn/quantiser.ts";
import { attach, lora } from "../../src/peft/index.ts";
import { expectClose, expectValuesClose, type GoldenCase, goldenSuite, goldenTensors, readGolden } from "./suite.ts";

interface QuantCase {
  readonly name: string;
  readonly kind: string;
  readonly file: string;
  readonly block_size: number;
  readonly shape: readonly number[];
  readonly nested_block_size: number;
  readonly rank: number;
  readonly bits: number;
  readonly iterations: number;
}
type Stored = Map<string, { shape: readonly number[]; data: TypedArray }>;

const close = { rtol: 1e-6, atol: 1e-9 };
const floatsOf = (stored: Stored, name: string) => stored.get(name)!.data as Float32Array;
const onDevice = (values: TypedArray, dtype: DType, shape: readonly number[] = [values.length]): Tensor =>
  upload(currentDevice(), values, shape, dtype);

/** Equal codes, or, where x lies halfway between two, codes that are as near to it. */
function expectCodes(
  what: string,
  got: ArrayLike<number>,
  want: ArrayLike<number>,
  x: Float32Array,
  of: (code: number, i: number) => number,
) {
  expect(got.length, what).toBe(want.length);
  for (let i = 0; i < want.length; i++) {
    if (got[i] === want[i]) continue;
    const [mine, theirs] = [got[i]!, want[i]!].map((code) => Math.abs(of(code, i) - x[i]!)) as [number, number];
    const scale = Math.abs(of(got[i]!, i)) + Math.abs(x[i]!);
    if (Math.abs(mine - theirs) > 4e-7 * scale) expect.fail(`${what} ${i} is ${got[i]}, should be ${want[i]} (x = ${x[i]})`);
  }
}

async function fourBits({ kind, file, block_size: block, nested_block_size }: QuantCase): Promise<void> {
  expect(nested_block_size).toBe(nestedBlock);
  const table = kind === "nf4" ? nf4 : fp4;
  const stored = await goldenTensors("quant", file);
  const { data, shape } = stored.get("x")!;
  const x = data as Float32Array;
  const wanted = Uint8Array.from(stored.get("codes")!.data as Int32Array);
  const { codes, absmax } = quantiseBlockwise(x, table, block);
  expectValuesClose("absmax", absmax, floatsOf(stored, "absmax"), { rtol: 0, atol: 0 });
  expectCodes("code", codes, wanted, x, (code, i) => table[code]! * absmax[Math.floor(i / block)]!);
  const packed = packNibbles(codes, kind === "nf4" ? 7 : 0);
  const packedWanted = stored.get("packed")!.data;
  expect(packed.length).toBe(packedWanted.length);
  expect([...unpackNibbles(packed, x.length)]).toEqual([...codes]);
  if (codes.every((code, i) => code === wanted[i])) expect([...packed]).toEqual([...packedWanted]);

  const on = (scales: Tensor) =>
    dequantise(onDevice(packed, "uint8", [packed.length, 1]), onDevice(table, "float32"), scales, shape, block);
  await expectClose("dequantised", on(onDevice(absmax, "float32")), stored.get("dequantised")!, close);

  const scales = quantiseScales(absmax);
  expectValuesClose("nested_offset", [scales.offset], floatsOf(stored, "nested_offset"), close);
  expectValuesClose("nested_absmax", scales.absmax, floatsOf(stored, "nested_absmax"), { rtol: 1e-5, atol: 1e-9 });
  const dynamic = dynamicMap();
  const rest = absmax.map((value) => value - scales.offset);
  const nestedWanted = stored.get("nested_codes")!.data;
  expectCodes("nested code", scales.codes, nestedWanted, rest, (code, i) => dynamic[code]! * scales.absmax[Math.floor(i / 256)]!);
  expectValuesClose("absmax_restored", dequantiseScales(scales), floatsOf(stored, "absmax_restored"), { rtol: 1e-5, atol: 1e-9 });
  const nested = dequantise(
    onDevice(scales.codes, "uint8"),
    onDevice(dynamic, "float32"),
    onDevice(scales.absmax, "float32"),
    [scales.codes.length],
    nestedBlock,
  );
  const restored = add(nested, constant(scales.offset));
  await expectClose("dequantised_double", on(restored), stored.get("dequantised_double")!, { rtol: 1e-5, atol: 1e-9 });
}

async function int8({ file }: QuantCase): Promise<void> {
  const stored = await goldenTensors("quant", file);
  const x = floatsOf(stored, "x");
  const columns = stored.get("x")!.shape[1]!;
  for (const [name, row] of [
    ["tensor", x.length],
    ["row", columns],
    ["block64", 64],
  ] as const) {
    const quantised = quantiseInt8(x, row);
    const wanted = stored.get(`${name}.codes`)!.data;
    expectValuesClose(`${name}.absmax`, quantised.absmax, floatsOf(stored, `${name}.absmax`), { rtol: 0, atol: 0 });
    expectCodes(name, quantised.codes, wanted, x, (code, i) => (code * quantised.absmax[Math.floor(i / row)]!) / 127);
    const theirs = { ...quantised, codes: Int8Array.from(wanted) };
    expectValuesClose(`${name}.dequantised`, dequantiseInt8(theirs, row), floatsOf(stored, `${name}.dequantised`), close);
  }
  const affine = quantiseAffine(x, columns);
  expectValuesClose("affine.scale", affine.scale, floatsOf(stored, "affine.scale"), close);
  expectValuesClose("affine.zero_point", affine.zeroPoint, floatsOf(stored, "affine.zero_point"), close);
  const affineCodes = stored.get("affine.codes")!.data as Uint8Array;
  const row = (i: number) => Math.floor(i / columns);
  expectCodes("affine", affine.codes, affineCodes, x, (code, i) => (code - affine.zeroPoint[row(i)]!) * affine.scale[row(i)]!);
  const back = dequantiseAffine({ ...affine, codes: affineCodes }, columns);
  expectValuesClose("affine.dequantised", back, floatsOf(stored, "affine.dequantised"), close);

  const dynamic = dynamicMap();
  const { codes, absmax } = quantiseBlockwise(x, dynamic, 256);
  expectValuesClose("dynamic.absmax", absmax, floatsOf(stored, "dynamic.absmax"), { rtol: 0, atol: 0 });
  const wanted = Uint8Array.from(stored.get("dynamic.codes")!.data as Int32Array);
  expectCodes("dynamic", codes, wanted, x, (code, i) => dynamic[code]! * absmax[Math.floor(i / 256)]!);
  const values = dequantise(
    onDevice(wanted, "uint8"),
    onDevice(dynamic, "float32"),
    onDevice(absmax, "float32"),
    stored.get("x")!.shape,
    256,
  );
  await expectClose("dynamic.dequantised", values, stored.get("dynamic.dequantised")!, close);
  expectValuesClose(
    "dynamic, on arrays",
    dequantiseBlockwise({ codes: wanted, absmax }, dynamic, 256),
    await download(values),
    close,
  );
}

async function half({ file }: QuantCase): Promise<void> {
  const stored = await goldenTensors("quant", file);
  const x = onDevice(floatsOf(stored, "x"), "float32");
  for (const [name, dtype, widen] of [
    ["bf16", "bfloat16", fromBFloat16Bits],
    ["f16", "float16", fromFloat16Bits],
  ] as const) {
    const narrow = cast(x, dtype);
    expect([...(await download(narrow))], name).toEqual([...stored.get(name)!.data]);
    const wanted = floatsOf(stored, `${name}_as_f32`);
    expectValuesClose(`${name}, widened`, Float32Array.from(stored.get(name)!.data, widen), wanted, { rtol: 0, atol: 0 });
    const wide = cast(onDevice(stored.get(name)!.data, dtype), "float32");
    await expectClose(`${name} as float32`, wide, stored.get(`${name}_as_f32`)!, { rtol: 0, atol: 0 });
  }
}

async function startOf({ file, bits, iterations, rank }: QuantCase): Promise<void> {
  const stored = await goldenTensors("quant", file);
  const { data, shape } = stored.get("weight")!;
  const [out, into] = shape as [number, number];
  const layer = new Linear(into, out, { bias: false, init: () => data as Float32Array });
  const model = group({ layer });
  const loftqConfig = { loftq_bits: bits, loftq_iter: iterations };
  attach(model, lora({ r: rank, loraAlpha: rank, initLoraWeights: "loftq", loftqConfig, targetModules: ["layer"] }));
  const [A, B] = model.trainableParameters().map((parameter) => parameter.stored) as [Tensor, Tensor];
  await expectClose("dequantised", layer.weight.stored, stored.get("dequantised")!, { rtol: 1e-6, atol: 1e-8 });
  await expectClose("delta", matmul(B, A), stored.get("delta")!, { rtol: 1e-3, atol: 1e-6 });
  const error = sub(sub(onDevice(data, "float32", shape), layer.weight.stored), matmul(B, A));
  const norm = Math.hypot(...(await download(error)));
  expectValuesClose("error_fro", [norm], floatsOf(stored, "error_fro"), { rtol: 1e-4, atol: 0 });
}

const kinds: Readonly<Record<string, (item: QuantCase) => Promise<void>>> = {
  nf4: fourBits,
  fp4: fourBits,
  int8,
  half,
  loftq: startOf,
};

const index = readGolden<{ readonly cases: readonly QuantCase[]; readonly codebooks: string }>("quant", "index.json");
const codebooks: GoldenCase = {
  name: "codebooks",
  async run() {
    const stored = await goldenTensors("quant", index!.codebooks);
    const exact = { rtol: 0, atol: 0 };
    expectValuesClose("nf4", nf4, floatsOf(stored, "nf4"), exact);
    expectValuesClose("fp4", fp4, floatsOf(stored, "fp4"), close);
    expectValuesClose("signed", dynamicMap(), floatsOf(stored, "dynamic_signed_8bit"), exact);
    expectValuesClose("unsigned", dynamicMap({ signed: false }), floatsOf(stored, "dynamic_unsigned_8bit"), exact);
  },
};
goldenSuite("quant", [
  ...(index ? [codebooks] : []),
  ...(index?.cases ?? []).map((item) => ({ name: item.name, run: kinds[item.kind] && (() => kinds[item.kind]!(item)) })),
]);
