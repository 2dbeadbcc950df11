/** What we use of typed-function, which ships no declarations. */
declare module "typed-function" {
  interface Conversion {
    readonly from: string;
    readonly to: string;
    // biome-ignore lint/suspicious/noExplicitAny: typed-function calls it with what passed the test of `from`
    convert(value: any): unknown;
  }
  interface Mismatch extends TypeError {
    readonly data?: {
      readonly category: "wrongType" | "tooFewArgs" | "tooManyArgs" | "mismatch";
      readonly index?: number;
      readonly expected?: readonly string[];
      readonly expectedLength?: number;
    };
  }
  // biome-ignore lint/suspicious/noExplicitAny: an implementation per signature
  type Implementation = (...args: any[]) => unknown;
  interface Typed {
    (name: string, signatures: Readonly<Record<string, Implementation>>): Implementation;
    create(): Typed;
    addTypes(types: readonly { readonly name: string; test(value: unknown): boolean }[], before?: string | false): void;
    addConversions(conversions: readonly Conversion[]): void;
    createError(name: string, args: unknown, signatures: unknown): Mismatch;
    onMismatch(name: string, args: ArrayLike<unknown>, signatures: unknown): unknown;
  }
  const typed: Typed;
  export default typed;
}
