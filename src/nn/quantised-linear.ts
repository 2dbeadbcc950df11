/**
 * An affine layer whose weight lies in memory as codes of 4 or 8 bits. A step widens it into memory that the next layer uses again,
 * once on the way forward and once on the way back, so all that is ever there is the codes and one layer's float32. A few rows, as in
 * generating, are multiplied with the codes as they lie.
 *
 * @see https://arxiv.org/abs/2305.14314
 */
import { checkpoint } from "../autograd/custom.ts";
import { currentDevice, downloadSync, upload } from "../compile/program.ts";
import type { Device } from "../devices/device.ts";
import { requireKind, ShapeError } from "../errors.ts";
import { type CodedWeight, codedLinear, isCodable, weightOfCodes } from "../graph/coded-linear.ts";
import { dequantise } from "../graph/dequantise.ts";
import type { DType, TypedArray } from "../graph/dtype.ts";
import { add, cast } from "../graph/elementwise.ts";
import { take } from "../graph/indexing.ts";
import { reshape, stopGradient } from "../graph/movement.ts";
import { requireTensors, type Tensor } from "../graph/node.ts";
import { linear } from "./linear.ts";
import { Module, Parameter } from "./module.ts";
import {
  dynamicMap,
  fp4,
  nestedBlock,
  nf4,
  type QuantisedScales,
  type QuantisedWeight,
  type QuantiserOptions,
  quantiseWeight,
} from "./quantiser.ts";

/** A frozen value that stands for `represents` values of the model. */
class Packed extends Parameter {
  readonly #represents: number;

  constructor(value: Tensor, represents = 0) {
    super(value, { requiresGrad: false });
    this.#represents = represents;
  }

  override get represents(): number {
    return this.#represents;
  }
}

/** Tables that all layers of a device share. */
const tables = new WeakMap<Device, Map<Float32Array, Tensor>>();
const dynamic = dynamicMap();

/** A table on the current device; one that is none of ours is uploaded for this layer alone. */
function tableOf(values: Float32Array): Tensor {
  const device = currentDevice();
  const known = [nf4, fp4, dynamic].find((table) => table.length === values.length && table.every((x, i) => x === values[i]));
  const shared = tables.get(device) ?? new Map<Float32Array, Tensor>();
  tables.set(device, shared);
  const found = known && shared.get(known);
  if (found) return found;
  const table = upload(device, values, [values.length], "float32");
  if (known) shared.set(known, table);
  return table;
}

/** int8 codes lie in memory as bytes, 128 above. */
const bias8 = 128;
/** Rows up to which reading the codes for each product takes less than widening them once. */
const fewRows = 4;

/** What a weight of codes is made of: names as bitsandbytes' files have them, and what is there. */
interface Stored {
  readonly [name: string]: { readonly values: TypedArray; readonly dtype: DType; readonly shape: readonly number[] };
}

function storedOf(weight: QuantisedWeight): Stored {
  const floats = (values: Float32Array) => ({ values, dtype: "float32" as const, shape: [values.length] });
  const bytes = (values: Uint8Array, shape: readonly number[]) => ({ values, dtype: "uint8" as const, shape });
  if (weight.type === "int8") {
    const codes = Uint8Array.from(weight.codes, (code) => code + bias8);
    return { weight: bytes(codes, weight.shape), SCB: floats(weight.absmax) };
  }
  const { codes, absmax } = weight;
  const packed = bytes(codes, [codes.length, 1]);
  if (absmax instanceof Float32Array) return { weight: packed, "weight.absmax": floats(absmax) };
  return {
    weight: packed,
    "weight.absmax": bytes(absmax.codes, [absmax.codes.length]),
    "weight.nested_absmax": floats(absmax.absmax),
    "weight.nested_offset": { values: Float32Array.of(absmax.offset), dtype: "float32", shape: [] },
  };
}

/**
 * y = x·Wᵀ + b with W [out, in] as codes. Training reaches x and b only.
 *
 * @example
 * const codes = quantiseWeight(new Float32Array(32 * 64), [32, 64], { type: "nf4", blockSize: 64, doubleQuantise: true });
 * new QuantisedLinear(codes).forward(ones([2, 64])).shape   // [ 2, 32 ]
 */
export class QuantisedLinear extends Module {
  readonly bias: Parameter | null;
  readonly inFeatures: number;
  readonly outFeatures: number;
  /** How the codes were made, and are again when a change is merged into them. */
  readonly quantiser: Required<QuantiserOptions>;
  readonly #parts: Readonly<Record<string, Parameter>>;
  /** What codes of four bits stand for, here and on the device. */
  readonly #meaning: Float32Array | undefined;
  readonly #table: Tensor | null;
  readonly #nestedTable: Tensor | null;

  constructor(weight: QuantisedWeight, bias: Parameter | null = null) {
    super();
    requireKind("QuantisedLinear", "an object", { weight });
    requireKind("QuantisedLinear", "a list of numbers", { shape: weight.shape, codes: weight.codes });
    const [out, into] = weight.shape;
    this.outFeatures = out;
    this.inFeatures = into;
    this.bias = bias;
    const fourBits = weight.type !== "int8";
    const nested = fourBits && !(weight.absmax instanceof Float32Array);
    this.quantiser = { type: weight.type, blockSize: fourBits ? weight.blockSize : into, doubleQuantise: nested };
    this.#meaning = fourBits ? weight.table : undefined;
    this.#table = fourBits ? tableOf(weight.table) : null;
    this.#nestedTable = nested ? tableOf(dynamic) : null;
    this.#parts = Object.fromEntries(
      Object.entries(storedOf(weight)).map(([name, { values, dtype, shape }]) => [
        name,
        new Packed(upload(currentDevice(), values, shape, dtype), name === "weight" ? out * into : 0),
      ]),
    );
  }

  /** The codes: [⌈out·in / 2⌉, 1] uint8, two to a byte, or [out, in] uint8, 128 above int8. */
  get weight(): Parameter {
    return this.#parts["weight"] as Parameter;
  }

  override *ownParameters(): Generator<[name: string, parameter: Parameter]> {
    yield* Object.entries(this.#parts);
    if (this.bias) yield ["bias", this.bias];
  }

  /** Codes, scales and table on the device. */
  get #coded(): CodedWeight {
    const part = (name: string): Tensor => (this.#parts[name] as Parameter).value;
    const [codes, block] = [part("weight"), this.quantiser.blockSize];
    if (!this.#table) return { codes, scales: part("SCB"), block };
    const absmax = part("weight.absmax");
    const scales = this.#nestedTable
      ? add(
          dequantise(absmax, this.#nestedTable, part("weight.nested_absmax"), absmax.shape, nestedBlock),
          part("weight.nested_offset"),
        )
      : absmax;
    return { codes, scales, table: this.#table, block };
  }

  /** What the codes stand for: [out, in] float32. No derivative goes through it. */
  matrix(): Tensor {
    return stopGradient(weightOfCodes(this.#coded, [this.outFeatures, this.inFeatures]));
  }

  /**
   * The rows in `count` equal parts, such as those of experts.
   *
   * @param chosen [n] int32: which; all when absent
   * @throws {ShapeError} when they are no equal parts
   * @returns [n, out / count, in] float32, widened from the codes of these alone where each has blocks of its own
   */
  parts(count: number, chosen?: Tensor): Tensor {
    requireKind("parts", "a whole number from 1", { count });
    if (chosen !== undefined) requireTensors("parts", { chosen });
    if (this.outFeatures % count !== 0)
      throw new ShapeError(`${this.outFeatures} rows are not ${count} equal parts.`, { operation: "parts", got: count });
    const { codes, scales, table, block } = this.#coded;
    const rows = this.outFeatures / count;
    const whole = () => reshape(this.matrix(), [count, rows, this.inFeatures]);
    if (!chosen) return whole();
    if ((rows * this.inFeatures) % block !== 0) return take(whole(), chosen);
    const some = (x: Tensor) => take(reshape(x, [count, x.size / count]), chosen);
    const few = { codes: some(codes), scales: some(scales), table, block };
    const matrices = weightOfCodes(few, [chosen.size * rows, this.inFeatures]);
    return stopGradient(reshape(matrices, [chosen.size, rows, this.inFeatures]));
  }

  /**
   * The values that this layer's parameters take to stand for another matrix, as nearly as codes can.
   *
   * @param matrix [out, in]
   * @throws {ConfigError} when it holds values that are not finite
   */
  encoded(matrix: Tensor): Map<Parameter, Tensor> {
    requireTensors("encoded", { matrix });
    const values = downloadSync(cast(matrix, "float32")) as Float32Array;
    const device = this.weight.stored.storage!.device as Device;
    const stored = storedOf(quantiseWeight(values, [this.outFeatures, this.inFeatures], this.quantiser, this.#meaning));
    return new Map(
      Object.entries(stored).map(([name, part]) => [
        this.#parts[name] as Parameter,
        upload(device, part.values, part.shape, part.dtype),
      ]),
    );
  }

  /** The codes as they are, on the JavaScript side, for files. */
  weightData(): QuantisedWeight {
    const read = (name: string) => downloadSync((this.#parts[name] as Parameter).stored);
    const shape = [this.outFeatures, this.inFeatures] as const;
    const { type, blockSize, doubleQuantise } = this.quantiser;
    if (type === "int8")
      return { type, shape, codes: Int8Array.from(read("weight"), (code) => code - bias8), absmax: read("SCB") as Float32Array };
    const scales = (): QuantisedScales => ({
      codes: read("weight.absmax") as Uint8Array,
      absmax: read("weight.nested_absmax") as Float32Array,
      offset: read("weight.nested_offset")[0] as number,
    });
    const table = this.#meaning as Float32Array;
    const absmax = doubleQuantise ? scales() : (read("weight.absmax") as Float32Array);
    return { type, shape, blockSize, codes: read("weight") as Uint8Array, table, absmax };
  }

  /** @throws {ShapeError} when the last axis of `x` is not `in` */
  forward(x: Tensor): Tensor {
    requireTensors("QuantisedLinear", { x });
    const { inFeatures: into, outFeatures: out, bias } = this;
    const coded = this.#coded;
    const rows = x.size / into;
    if (x.shape.at(-1) === into && rows <= fewRows && x.dtype === "float32" && isCodable(into, coded)) {
      const y = codedLinear(reshape(x, [rows, into]), { ...coded, scales: stopGradient(coded.scales) }, out);
      return reshape(bias ? add(y, bias.value) : y, [...x.shape.slice(0, -1), out]);
    }
    // widened again for the derivative, instead of kept from the way forward
    const run = checkpoint((input) => linear(input as Tensor, this.matrix(), bias ? bias.value : null));
    return run(x);
  }
}
