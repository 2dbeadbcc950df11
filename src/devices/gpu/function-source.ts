/** The text of the functions in kernels/gpu, which GPU.js translates. */

/**
 * The text of a function as it was written: in a bundle the function itself may have been minified into what GPU.js does not
 * understand, so the build has put its text beside it (scripts/kernel-text.mjs).
 *
 * @param name for functions that are called by it, which a minifier may have taken from them
 */
export function functionSource(source: ((...args: never[]) => unknown) & { readonly text?: string }, name?: string): string {
  const text = source.text ?? String(source);
  return name === undefined ? text : text.replace(/^function\s*[\w$]*/, `function ${name}`);
}
