/** What this JavaScript engine's WebAssembly can do, found out by validating tiny modules. */
import { type FunctionBuilder, ModuleBuilder } from "./assembler.ts";

/** What this engine can do beyond WebAssembly 2.0. */
export interface Features {
  /** 128-bit vectors; without them the wasm device cannot run. */
  readonly simd: boolean;
  /** Fused multiply-add. On in Node 22 and newer, Chrome and Edge; on Node 20 it is switched on here. */
  readonly relaxedSimd: boolean;
  /** Memory that workers can share. In a browser the page must be cross-origin isolated. */
  readonly threads: boolean;
}

let found: Features | undefined;

/** The features of this engine; the first call asks, later ones remember. */
export function features(): Features {
  found ??= { simd: validates(addVectors), relaxedSimd: hasRelaxedSimd(), threads: hasThreads() };
  return found;
}

const addVectors = (f: FunctionBuilder): void => {
  f.op("f32x4.add", f.constant("f32", 1), f.constant("f32", 1)).op("drop");
};

const multiplyAddVectors = (f: FunctionBuilder): void => {
  const one = f.constant("f32", 1);
  f.op("f32x4.relaxed_madd", one, one, one).op("drop");
};

function validates(write: (f: FunctionBuilder) => void): boolean {
  const module = new ModuleBuilder({ shared: false });
  write(module.function(null, []));
  return WebAssembly.validate(module.bytes());
}

/** V8 flags hold for the whole process, so workers started later or earlier have the feature too. */
const relaxedSimdFlag = "--experimental-wasm-relaxed-simd";

function hasRelaxedSimd(): boolean {
  if (validates(multiplyAddVectors)) return true;
  // newer V8s print an error for a flag they no longer know, so it is only tried where the feature is missing
  const v8 = nodeModule<typeof import("node:v8")>("node:v8");
  if (v8 === undefined) return false;
  v8.setFlagsFromString(relaxedSimdFlag);
  return validates(multiplyAddVectors);
}

function hasThreads(): boolean {
  if (typeof SharedArrayBuffer === "undefined" || typeof Atomics === "undefined") return false;
  // browsers define SharedArrayBuffer in isolated pages only, but some keep it visible and refuse to post it
  const { crossOriginIsolated } = globalThis as { crossOriginIsolated?: boolean };
  if (crossOriginIsolated === false) return false;
  try {
    return new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true }).buffer instanceof SharedArrayBuffer;
  } catch {
    return false;
  }
}

/** A built-in module of Node, or `undefined` in a browser; not an import, so that bundlers never look for it. */
export function nodeModule<T>(name: string): T | undefined {
  const { process } = globalThis as { process?: { getBuiltinModule?: (name: string) => T | undefined } };
  return process?.getBuiltinModule?.(name);
}
