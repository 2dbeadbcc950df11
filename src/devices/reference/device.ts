/** The reference device: float64, plain loops, one primitive at a time. Its only purpose is to be obviously right. */
import { checkOptions } from "../../errors.ts";
import {
  type DType,
  dtypes,
  fromBFloat16Bits,
  fromFloat16Bits,
  isFloat,
  type TypedArray,
  toBFloat16Bits,
  toFloat16Bits,
} from "../../graph/dtype.ts";
import type { CallGeometry } from "../../graph/primitive.ts";
import { sizeOf } from "../../graph/shape.ts";
import { isContiguous } from "../../graph/view.ts";
import type { Binding, Buffer, Device, Dispatch, Executable, KernelCall } from "../device.ts";
import type { Geometry, LoopProgram } from "../loop-program.ts";
import { renderLoopProgram } from "./render.ts";

interface Memory extends Buffer {
  readonly data: ArrayBuffer;
}

interface Launch extends Dispatch {
  run(): void;
}

/** A kernel, and the types of the arrays that it is given. */
interface Compiled extends Executable {
  readonly dtypes: readonly DType[];
  bind(geometry: Geometry | CallGeometry, arrays: readonly TypedArray[]): () => void;
}

/** Every float is float64 here; integers keep their width. */
const arrayOf = (dtype: DType) => (isFloat(dtype) ? Float64Array : dtypes[dtype].array);

/** The elements that lie in a buffer from an offset on. */
function view({ buffer, offset }: Binding, dtype: DType, count?: number): TypedArray {
  const { data } = buffer as Memory;
  const ArrayType = arrayOf(dtype);
  return new ArrayType(data, offset, count ?? Math.floor((data.byteLength - offset) / ArrayType.BYTES_PER_ELEMENT));
}

function compiledLoop(program: LoopProgram): Compiled {
  const kernel = renderLoopProgram(program);
  const typeOf = (buffer: number) => program.slots.find((slot) => slot.buffer === buffer)!.dtype;
  return {
    name: program.shape,
    dtypes: Array.from({ length: program.buffers }, (_, buffer) => typeOf(buffer)),
    bind: (geometry, arrays) => () => kernel(arrays, geometry as Geometry),
  };
}

function compiledCall({ name, operands: taken, results: made, host }: KernelCall): Compiled {
  if (!host) throw new Error(`reference: "${name}" has no meaning on plain arrays`);
  return {
    name,
    dtypes: [...taken, ...made],
    bind(geometry, arrays) {
      const { operands, results } = geometry as CallGeometry;
      // kernels that take no strides get exactly their elements
      const sized = arrays.map((array, i) => {
        const operand = [...operands, ...results][i]!;
        return isContiguous({ ...operand, valid: null }) ? array.subarray(0, sizeOf(operand.shape)) : array;
      });
      return () => host(sized.slice(0, operands.length), sized.slice(operands.length), geometry as CallGeometry);
    },
  };
}

/** How the `reference` device runs. */
export interface ReferenceOptions {
  /** Lets the compiler fuse, to test fusion itself in float64. */
  readonly fuse?: boolean;
}

/** @returns a device that computes every float in float64, whatever the dtype says */
export function createReference(options: ReferenceOptions = {}): Device {
  checkOptions("createReference", options, { fuse: "true or false" });
  const executables = new Map<string, Compiled>();
  const compiled = (key: string, compile: () => Compiled): Compiled => {
    const executable = executables.get(key) ?? compile();
    executables.set(key, executable);
    return executable;
  };
  let buffers = 0;
  let bytesInUse = 0;
  let peakBytes = 0;

  const device: Device = {
    name: "reference",
    about: "reference: float64 in plain JavaScript loops",
    fusion: { elementwise: options.fuse === true, rows: options.fuse === true },
    kernels: new Set<string>(),
    widens: new Set(["float16", "bfloat16"] as const),
    storageBytes: (dtype) => arrayOf(dtype).BYTES_PER_ELEMENT,
    allocate(bytes) {
      buffers++;
      bytesInUse += bytes;
      peakBytes = Math.max(peakBytes, bytesInUse);
      let freed = false;
      return {
        bytes,
        data: new ArrayBuffer(bytes),
        [Symbol.dispose]() {
          if (freed) return;
          freed = true;
          buffers--;
          bytesInUse -= bytes;
        },
      } as Memory;
    },
    upload(values, dtype, to) {
      const target = view(to, dtype, values.length);
      if (dtype === "float16") for (let i = 0; i < values.length; i++) target[i] = fromFloat16Bits(values[i]!);
      else if (dtype === "bfloat16") for (let i = 0; i < values.length; i++) target[i] = fromBFloat16Bits(values[i]!);
      else target.set(values);
    },
    downloadSync(from, dtype, count) {
      const source = view(from, dtype, count);
      if (dtype === "float16") return Uint16Array.from(source, toFloat16Bits);
      if (dtype === "bfloat16") return Uint16Array.from(source, toBFloat16Bits);
      const values = new dtypes[dtype].array(count);
      values.set(source);
      return values;
    },
    async download(from, dtype, count) {
      return device.downloadSync!(from, dtype, count);
    },
    copy(from, to, bytes) {
      new Uint8Array((to.buffer as Memory).data, to.offset, bytes).set(
        new Uint8Array((from.buffer as Memory).data, from.offset, bytes),
      );
    },
    compile: (program) => compiled(program.key, () => compiledLoop(program)),
    compileCall: (call) => compiled(`${call.name}:${call.operands}>${call.results}`, () => compiledCall(call)),
    bind(executable, geometry, bindings, label): Launch {
      const { bind, dtypes: types } = executable as Compiled;
      const arrays = bindings.map((binding, i) => view(binding, types[i]!));
      return { executable, label, run: bind(geometry, arrays) };
    },
    release() {},
    run(queue) {
      for (const dispatch of queue) (dispatch as Launch).run();
    },
    get statistics() {
      return { buffers, bytesInUse, peakBytes, kernels: executables.size };
    },
    [Symbol.dispose]() {
      executables.clear();
    },
  };
  return device;
}
