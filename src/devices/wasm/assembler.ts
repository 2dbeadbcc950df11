/**
 * A WebAssembly assembler: builds the bytes of a module from TypeScript, with the instruction names of the specification.
 *
 * Code is written as in folded WAT text. An `Expression` is a local, a number (an i32 constant) or an instruction with its
 * operands, so `f.set(p, ["i32.add", p, ["i32.mul", i, 4]])` means p += 4 * i. Whatever does not fit that form can be emitted
 * instruction by instruction: `f.get(p).i32(4).op("i32.add").set(p)`.
 *
 * @example
 * const module = new ModuleBuilder({ shared: false });
 * const f = module.function("scale", ["i32", "i32", "f32"], []);          // (address, count, factor)
 * const [p, count, factor] = f.params;
 * f.repeat(count, () => {
 *   f.store("f32.store", p, ["f32.mul", load("f32.load", p), factor]);
 *   f.increment(p, 4);
 * });
 * const { scale } = new WebAssembly.Instance(new WebAssembly.Module(module.bytes()), { env: { memory } }).exports;
 */
import { ByteBuffer } from "./byte-buffer.ts";
import { type Callable, FunctionBuilder, type ValueType, valueTypes } from "./function-builder.ts";

export { type Expression, FunctionBuilder, type Local, load, stacked, type ValueType } from "./function-builder.ts";
export type { SimpleOp } from "./opcodes.ts";

/** What a module says about its memory. */
export interface ModuleOptions {
  /** Must say the same as the memory that the module will be given. */
  readonly shared: boolean;
  /** Largest size of the memory, in pages of 64 KiB. */
  readonly maximumPages?: number;
}

/** A module under construction. It imports its memory as `env.memory`; every named function is exported. */
export class ModuleBuilder {
  private readonly options: ModuleOptions;
  private readonly types: string[] = [];
  private readonly imports: { module: string; name: string; type: number }[] = [];
  private readonly functions: { name: string | null; type: number; builder: FunctionBuilder }[] = [];

  constructor(options: ModuleOptions) {
    this.options = options;
  }

  /** Declares an imported function. All imports come before the first `function`, which is what their numbering asks for. */
  importFunction(module: string, name: string, params: readonly ValueType[], results: readonly ValueType[]): Callable {
    if (this.functions.length > 0) throw new Error("importFunction: imports must be declared before the first function.");
    this.imports.push({ module, name, type: this.typeOf(params, results) });
    return { index: this.imports.length - 1 };
  }

  /** Begins a function; `name` exports it, `null` keeps it inside. At most one result. */
  function<const P extends readonly ValueType[]>(
    name: string | null,
    params: P,
    results: readonly ValueType[] = [],
  ): FunctionBuilder<P> {
    const builder = new FunctionBuilder(this.imports.length + this.functions.length, params);
    this.functions.push({ name, type: this.typeOf(params, results), builder });
    return builder;
  }

  /** The finished module. */
  bytes(): Uint8Array<ArrayBuffer> {
    const out = new ByteBuffer();
    out.append([0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0]);
    section(out, 1, this.types.length, (body) => {
      for (const type of this.types) {
        const [params = "", results = ""] = type.split(">");
        body.byte(0x60);
        for (const list of [params, results]) {
          const names = list === "" ? [] : list.split(",");
          body.unsigned(names.length);
          for (const name of names) body.byte(valueTypes[name as ValueType]);
        }
      }
    });
    section(out, 2, this.imports.length + 1, (body) => {
      for (const { module, name, type } of this.imports) {
        body.text(module);
        body.text(name);
        body.byte(0);
        body.unsigned(type);
      }
      body.text("env");
      body.text("memory");
      body.byte(2);
      body.byte(this.options.shared ? 3 : 1);
      body.unsigned(1);
      body.unsigned(this.options.maximumPages ?? 65536);
    });
    section(out, 3, this.functions.length, (body) => {
      for (const { type } of this.functions) body.unsigned(type);
    });
    const exported = this.functions.filter(({ name }) => name !== null);
    section(out, 7, exported.length, (body) => {
      for (const { name, builder } of exported) {
        body.text(name ?? "");
        body.byte(0);
        body.unsigned(builder.index);
      }
    });
    section(out, 10, this.functions.length, (body) => {
      for (const { builder } of this.functions) {
        const code = builder.body();
        body.unsigned(code.length);
        body.append(code);
      }
    });
    return out.bytes.slice(0, out.length);
  }

  private typeOf(params: readonly ValueType[], results: readonly ValueType[]): number {
    const key = `${params.join(",")}>${results.join(",")}`;
    const known = this.types.indexOf(key);
    return known >= 0 ? known : this.types.push(key) - 1;
  }
}

function section(out: ByteBuffer, id: number, count: number, write: (body: ByteBuffer) => void): void {
  const body = new ByteBuffer();
  body.unsigned(count);
  write(body);
  out.byte(id);
  out.unsigned(body.length);
  out.append(body.view());
}
