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

export { type Expression, FunctionBuilder, type Local, load, type ValueType } from "./function-builder.ts";
export type { SimpleOp } from "./opcodes.ts";

/** What a module says about its memory. */
export interface ModuleOptions {
  /** Must say the same as the memory that the module will be given. */
  readonly shared: boolean;
  /** Largest size of the memory, in pages of 64 KiB. */
  readonly maximumPages?: number;
}

/** A function of a module: the name that it is exported by, its type as text, its entry in the code section. */
interface Written {
  readonly name: string | null;
  readonly type: string;
  body(): Uint8Array;
}

const typeKey = (params: readonly ValueType[], results: readonly ValueType[]): string =>
  `${params.join(",")}>${results.join(",")}`;

/** What `ModuleBuilder.shared` was given, by key. */
const parts = new Map<string, { readonly functions: readonly Written[]; readonly result: unknown }>();

/** A module under construction. It imports its memory as `env.memory`; every named function is exported. */
export class ModuleBuilder {
  private readonly options: ModuleOptions;
  private readonly types: string[] = [];
  private readonly imports: { module: string; name: string; type: number }[] = [];
  private readonly functions: Written[] = [];

  constructor(options: ModuleOptions) {
    this.options = options;
  }

  /** Declares an imported function. All imports come before the first `function`, which is what their numbering asks for. */
  importFunction(module: string, name: string, params: readonly ValueType[], results: readonly ValueType[]): Callable {
    if (this.functions.length > 0) throw new Error("importFunction: imports must be declared before the first function.");
    this.imports.push({ module, name, type: this.typeOf(typeKey(params, results)) });
    return { index: this.imports.length - 1 };
  }

  /** Begins a function; `name` exports it, `null` keeps it inside. At most one result. */
  function<const P extends readonly ValueType[]>(
    name: string | null,
    params: P,
    results: readonly ValueType[] = [],
  ): FunctionBuilder<P> {
    const builder = new FunctionBuilder(this.nextIndex, params);
    this.functions.push({ name, type: typeKey(params, results), body: () => builder.body() });
    return builder;
  }

  /**
   * What `write` gives, with the functions that it adds to a module: it is called for the first module, and others get copies.
   *
   * @param key all that the code depends on, but for where in a module it begins; one of few, since it is kept for good
   */
  shared<T>(key: string, write: () => T): T {
    const at = `${key} from ${this.nextIndex}`;
    const known = parts.get(at);
    if (known) {
      this.functions.push(...known.functions);
      return known.result as T;
    }
    const before = this.functions.length;
    const result = write();
    const functions = this.functions.splice(before).map(({ name, type, body }): Written => {
      const code = body();
      return { name, type, body: () => code };
    });
    this.functions.push(...functions);
    parts.set(at, { functions, result });
    return result;
  }

  /** The finished module. */
  bytes(): Uint8Array<ArrayBuffer> {
    const out = new ByteBuffer();
    const functions = this.functions.map(({ name, type, body }) => ({ name, type: this.typeOf(type), body }));
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
    section(out, 3, functions.length, (body) => {
      for (const { type } of functions) body.unsigned(type);
    });
    section(out, 7, functions.filter(({ name }) => name !== null).length, (body) => {
      functions.forEach(({ name }, i) => {
        if (name === null) return;
        body.text(name);
        body.byte(0);
        body.unsigned(this.imports.length + i);
      });
    });
    section(out, 10, functions.length, (body) => {
      for (const { body: codeOf } of functions) {
        const code = codeOf();
        body.unsigned(code.length);
        body.append(code);
      }
    });
    return out.bytes.slice(0, out.length);
  }

  private get nextIndex(): number {
    return this.imports.length + this.functions.length;
  }

  private typeOf(key: string): number {
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
