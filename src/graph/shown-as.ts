/** How objects of ours read where somebody prints them: one line or a few, not everything that hangs on them. */

/**
 * What `String(x)` and, in Node, `console.log(x)` write of `target`, or of what has it as prototype. Node's symbol is looked up by its
 * registered name, as browsers have no node:util.
 */
export function showAs<T extends object>(target: T, text: (self: T) => string): T {
  const value = function (this: T): string {
    return text(this);
  };
  for (const key of ["toString", Symbol.for("nodejs.util.inspect.custom")])
    Object.defineProperty(target, key, { value, writable: true, configurable: true });
  return target;
}
